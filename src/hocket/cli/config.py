"""Check a settings file, or print its JSON schema for an editor.

example: hocket config check hocket.yaml
         hocket config schema > hocket.schema.json
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hocket.core.spec import PreemptionSpec
    from hocket.settings import ReaderSettings, Settings, TenantSettings


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser("check", help="say whether a settings file is right, and what it means")
    check.add_argument("file", help="path to hocket.yaml")
    check.add_argument("--json", action="store_true", help="print the settings with all defaults filled in")
    actions.add_parser("schema", help="print the JSON schema of the file")


def run(args: argparse.Namespace) -> int:
    import msgspec

    from hocket.settings import Settings, load_settings
    from hocket.settings.plan import planned_for

    if args.action == "schema":
        json.dump(msgspec.json.schema(Settings), sys.stdout, indent=2)
        print()
        return 0
    settings = load_settings(args.file)
    if args.json:
        json.dump(msgspec.to_builtins(settings), sys.stdout, indent=2)
        print()
        return 0
    planned = planned_for(settings.plan)
    print(f"{args.file}: ok")
    print(f"  listen   {settings.listen}{' with TLS' if settings.tls else ''}")
    if settings.admin_listen is not None:
        print(f"  admin    {settings.admin_listen}")
    print(f"  mode     {settings.mode}")
    print(f"  policy   {' > '.join(settings.orderings)}")
    for engine in settings.engines:
        count = engine.replicas if isinstance(engine.replicas, int) else len(engine.replicas)
        print(
            f"  engine   {engine.name} ({engine.kind}): {', '.join(engine.served)}; "
            f"{count} replica(s) x {engine.max_concurrency} calls"
        )
    if settings.keys is not None:
        print(f"  keys     {settings.keys}: {_keys(settings)}")
    print(f"  tenants  {', '.join(map(_tenant, settings.tenants)) or 'none: open, loopback only'}")
    preemption = settings.to_spec().preemption
    if preemption is not None:
        print(f"  preempt  {_preemption(preemption)}")
    if settings.plan is not None and planned is not None:
        print(f"  plan     {settings.plan.file}: {', '.join(planned.apps)}")
    unread = _check_urgency(settings)
    return max(unread, 0 if settings.profiles is None else _check_profiles(settings.profiles))


def _tenant(tenant: TenantSettings) -> str:
    said = [f"weight {tenant.weight:g}", f"most urgent {tenant.most_urgent}"]
    if tenant.urgency is not None:
        said.append(f"urgency {tenant.urgency}")
    if tenant.urgent_share is not None:
        said.append(f"urgent share {tenant.urgent_share:g}")
    return f"{tenant.name} ({', '.join(said)})"


def _keys(settings: Settings) -> str:
    """How many keys there are of each role. Raises InputError."""
    from collections import Counter

    from hocket.settings.keys import keys_of

    roles = Counter(key.role for key in keys_of(settings))
    return ", ".join(f"{count} {role}" for role, count in roles.items()) or "none"


def _preemption(spec: PreemptionSpec) -> str:
    return f"across {spec.across}, {spec.at_most} times a call at most"


def _check_urgency(settings: Settings) -> int:
    """Who decides how urgent a call is; 1 where a reader's model cannot be read."""
    from hocket.errors import InputError
    from hocket.gateway.reading import reader_of

    urgency, judge, bad = settings.urgency, settings.urgency.judge, 0
    deadlines = ", ".join(f"{seconds:g}" for seconds in urgency.deadlines_s)
    print(f"  urgency  {urgency.default} unless something says another; deadlines {deadlines} s")
    for reader in urgency.readers:
        print(f"  reader   {_reader(reader)}")
        try:
            reader_of(reader)
        except InputError as error:
            print(f"reader '{reader.name}' cannot read: {error}", file=sys.stderr)
            bad = 1
    if judge is not None:
        (engine,) = (engine for engine in settings.engines if engine.name == judge.engine)
        bounds = f"{judge.max_calls_in_flight} in flight, {judge.per_minute:g} a minute, {judge.timeout_s:g} s each"
        print(f"  judge    {judge.model or engine.served[0]} on {judge.engine}: {bounds}")
    return bad


def _reader(reader: ReaderSettings) -> str:
    by = f"head {reader.head}" if reader.head else f"described classes {', '.join(map(str, sorted(reader.classes)))}"
    whose = [f"{key} {', '.join(names)}" for key in ("apps", "tenants") if (names := getattr(reader, key))]
    classes = "1 class" if reader.moves_at_most == 1 else f"{reader.moves_at_most} classes"
    encoder = reader.encoder or ("the head's encoder" if reader.head else "static")
    return f"{reader.name} ({encoder}, {by}): {'; '.join(whose) or 'all jobs'}; moves {classes} at most"


def _check_profiles(folder: str) -> int:
    """Which applications are known; 1 where the gateway would refuse a profile."""
    from hocket.profiles import read_usable_profiles

    found, problems = read_usable_profiles(folder)
    print(f"  profiles {folder}: {', '.join(found) or 'none'}")
    for problem in problems:
        print(f"profile refused: {problem}", file=sys.stderr)
    return 1 if problems else 0
