"""Make, list and revoke API keys. A key is shown once; the file holds its SHA-256 alone.

example: hocket keys new --config hocket.yaml --tenant team-a --expires 90d
         hocket keys new --config hocket.yaml --role observe --name prometheus
         hocket keys list --config hocket.yaml
         hocket keys revoke --config hocket.yaml team-a-1
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from hocket.errors import InputError

if TYPE_CHECKING:
    from hocket.settings import Settings
    from hocket.settings.keys import Key

ROLES = ("call", "observe", "admin")
PREFIX = "hk-"
"by which a key is known in a log, a file or a search for leaked secrets"
BYTES = 32
"of randomness"
RELOAD = "a gateway that runs knows of it once it has read its settings again: SIGHUP, or POST /admin/reload"


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="new|list|revoke")
    new = actions.add_parser("new", help="make a key, and print it, once")
    _of_file(new)
    new.add_argument("--tenant", metavar="NAME", help="whose calls those are that come with it; for role call")
    new.add_argument("--role", choices=ROLES, default="call", help="what it opens (%(default)s)")
    new.add_argument("--name", help="by which it is listed and revoked; else made of its tenant or role and a number")
    new.add_argument("--expires", metavar="WHEN", help="30d, 12h, or a date like 2027-01-31; else never")
    new.add_argument("--json", action="store_true", help="print the key and what is kept of it as JSON")
    shown = actions.add_parser("list", help="list keys: names, roles, tenants, ends")
    _of_file(shown)
    shown.add_argument("--json", action="store_true", help="as JSON")
    revoke = actions.add_parser("revoke", help="make keys worthless")
    revoke.add_argument("names", nargs="+", metavar="NAME", help="as `list` shows it")
    _of_file(revoke)


def _of_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", help="the settings whose `keys` are meant")
    parser.add_argument("--file", metavar="FILE", help="the file of keys itself (the settings' one)")


def run(args: argparse.Namespace) -> int:
    from hocket.settings import load_settings

    settings = None if args.config is None else load_settings(args.config)
    path = args.file or (settings.keys if settings is not None else None)
    if path is None:
        where = "say which with --config or --file" if settings is None else f"add `keys: keys.yaml` to {args.config}"
        raise InputError(f"no file of keys is named; {where}")
    return {"new": _new, "list": _list, "revoke": _revoke}[args.action](args, str(path), settings)


# ---------------------------------------------------------------- new


def _new(args: argparse.Namespace, path: str, settings: Settings | None) -> int:
    import secrets

    from hocket.settings.keys import Key, change_keys, digest_of, now

    _check_tenant(args, settings)
    expires = None if args.expires is None else end_of(args.expires, now())
    key = PREFIX + secrets.token_urlsafe(BYTES)
    made: list[Key] = []

    def added(keys: list[Key]) -> list[Key]:
        names = {known.name for known in keys}
        if args.name in names:
            raise InputError(f"{path}: there is a key '{args.name}' already; choose another --name")
        name = args.name or _free(args.tenant or args.role, names)
        try:
            made.append(Key(name, digest_of(key), args.role, args.tenant, now(), expires))
        except ValueError as error:
            raise InputError(str(error).replace("`", "--", 1).replace("`", "", 1)) from None
        return [*keys, *made]

    change_keys(path, added)
    (known,) = made
    if args.json:
        print(json.dumps({"key": key, **_row(known)}))
        return 0
    print(key)
    until = f", until {known.expires:%Y-%m-%d %H:%M} UTC" if known.expires else ""
    print(f"key '{known.name}' ({_whose(known)}{until}) is in {path}, which cannot show it again", file=sys.stderr)
    if settings is not None and _differs(settings, path):
        print(f"the settings do not name this file: add `keys: {path}` to {args.config}", file=sys.stderr)
    print(RELOAD, file=sys.stderr)
    return 0


def _check_tenant(args: argparse.Namespace, settings: Settings | None) -> None:
    if args.role == "call" and args.tenant is None:
        raise InputError("--tenant is missing: a key of role call belongs to a tenant")
    if args.role != "call" and args.tenant is not None:
        raise InputError(f"--tenant is for role call; a key of role {args.role} is an operator's and belongs to none")
    if settings is not None and args.tenant is not None:
        known = [tenant.name for tenant in settings.tenants]
        if args.tenant not in known:
            raise InputError(f"--tenant {args.tenant}: {args.config} lists {', '.join(known) or 'no tenants'}")


def _differs(settings: Settings, path: str) -> bool:
    from pathlib import Path

    return settings.keys is None or Path(settings.keys).resolve() != Path(path).resolve()


def _free(stem: str, names: set[str]) -> str:
    number = 1
    while f"{stem}-{number}" in names:
        number += 1
    return f"{stem}-{number}"


def end_of(text: str, at: datetime) -> datetime:
    """When a key ends that is to end in `90d` or `12h`, or on a date (UTC, its first moment). Raises InputError."""
    import re

    span = re.fullmatch(r"([1-9][0-9]{0,5})([dh])", text)
    try:
        if span:
            end = at + timedelta(**{{"d": "days", "h": "hours"}[span[2]]: int(span[1])})
        else:
            end = datetime.fromisoformat(text)
            end = end.replace(tzinfo=UTC) if end.tzinfo is None else end.astimezone(UTC)
    except (ValueError, OverflowError):
        raise InputError(f"--expires {text}: write 30d, 12h or a date like 2027-01-31") from None
    if end <= at:
        raise InputError(f"--expires {text}: that is over already")
    return end


# ---------------------------------------------------------------- list, revoke


def _list(args: argparse.Namespace, path: str, settings: Settings | None) -> int:
    from hocket.settings.keys import now, read_keys

    rows = [_row(key) for key in read_keys(path)] + (_inline(settings) if settings is not None else [])
    if args.json:
        print(json.dumps(rows, indent=1))
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "role", "tenant", "created", "expires", "kept in", box=None, pad_edge=False)
    at = now().isoformat()
    for row in rows:
        ends = row["expires"] or "never"
        ends = f"{ends} (over)" if row["expires"] and row["expires"] <= at else ends
        table.add_row(row["name"], row["role"], row["tenant"] or "", row["created"] or "", ends, row.get("in", "keys"))
    Console(width=None if sys.stdout.isatty() else 160, highlight=False).print(table)
    return 0


def _row(key: Key) -> dict[str, Any]:
    def when(at: datetime | None) -> str | None:
        return None if at is None else at.astimezone(UTC).isoformat()

    who = {"name": key.name, "role": key.role, "tenant": key.tenant}
    return {**who, "created": when(key.created), "expires": when(key.expires)}


def _inline(settings: Settings) -> list[dict[str, Any]]:
    """The keys that stand in the settings themselves: `revoke` cannot take them out."""
    blank = {"created": None, "expires": None, "in": "settings"}
    rows = [{"name": t.name, "role": "call", "tenant": t.name, **blank} for t in settings.tenants if t.key_sha256]
    if settings.admin_key_sha256:
        rows.append({"name": "admin", "role": "admin", "tenant": None, **blank})
    return rows


def _whose(key: Key) -> str:
    return f"role {key.role}" if key.tenant is None else f"tenant {key.tenant}"


def _revoke(args: argparse.Namespace, path: str, settings: Settings | None) -> int:
    from pathlib import Path

    from hocket.settings.keys import change_keys, read_keys

    def without(keys: list[Key]) -> list[Key]:
        unknown = sorted(set(args.names) - {key.name for key in keys})
        if unknown:
            there = ", ".join(key.name for key in keys) or "none"
            raise InputError(f"{path}: there is no key '{unknown[0]}'; there is: {there}. Nothing was revoked")
        return [key for key in keys if key.name not in args.names]

    if not Path(path).exists():
        read_keys(path)  # says what is missing
    change_keys(path, without)
    print(f"revoked: {', '.join(args.names)}")
    print(RELOAD, file=sys.stderr)
    return 0
