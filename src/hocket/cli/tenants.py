"""Say what each tenant has had of the engines lately, how it fared, and who waits for whom.

example: hocket tenants                                   (the history, engines estimated from its calls)
         hocket tenants --config hocket.yaml --last 6h
         hocket tenants --journal journal.jsonl --engines engines.yaml --json -
         hocket tenants --base-url http://127.0.0.1:8080  (how they stand at this moment, from a running gateway)
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hocket.gateway.standing import Standing
    from hocket.shadow.tenants import TenantReport

HAS = ("tenant", "weight", "jobs", "dominant engine", "share", "share / weight")
PATIENCE_S = 10.0


def configure(parser: argparse.ArgumentParser) -> None:
    from hocket.cli.jobs import add_source

    add_source(parser)
    parser.add_argument("--journal", metavar="FILE", help="a gateway's journal instead of a history")
    parser.add_argument("--base-url", metavar="URL", help="ask a running gateway instead, where it serves operators")
    parser.add_argument("--api-key", metavar="KEY", help="of role observe; also read from the variable HOCKET_API_KEY")
    parser.add_argument("--last", default="1h", metavar="AGE", help="jobs that arrived in the last 30m, 6h, 2d (1h)")
    parser.add_argument(
        "--policy", metavar="NAME", help="what the jobs are simulated under (what they were ordered by)"
    )
    parser.add_argument("--engines", metavar="FILE", help="engines.yaml: measured engines (estimated from the calls)")
    parser.add_argument("--json", metavar="FILE", help="write all figures; - is standard output, without the tables")


def run(args: argparse.Namespace) -> int:
    if args.base_url:
        return _run_live(args)
    import msgspec

    from hocket.cli.shadow import past_of, windows_of
    from hocket.cli.simulate import write_json
    from hocket.settings import load_settings
    from hocket.shadow.report import simulable
    from hocket.shadow.tenants import tenants_of
    from hocket.sim.experiment import Setup, load_setup, parse_policies

    past = past_of(args)
    engines = load_setup(args.engines).engines if args.engines else None
    ready = simulable(past, engines=engines, windows=windows_of(args))
    policy = args.policy or past.policy
    parse_policies(policy, Setup(engines=ready.engines))
    weights = {tenant.name: tenant.weight for tenant in load_settings(args.config).tenants} if args.config else {}
    found = tenants_of(ready, policy, weights)
    if args.json:
        tenants = {one.tenant: msgspec.to_builtins(one) for one in found}
        write_json({"tenants": tenants, "inputs": {"last": args.last, "policy": policy}}, args.json)
    if args.json != "-":
        _tell(found, policy)
    return 0


def _tell(found: list[TenantReport], policy: str) -> None:
    rows = [(*_has(one), f"{one.wait_s:.3g} s", f"{one.slowdown:.2f}", _whom(one.waits_for)) for one in found]
    _print(
        (*HAS, "mean wait", "slowdown", "waits for"),
        rows,
        f"Share: of the slots of the engine that it uses most, over the whole time. Slowdown: mean JCT under {policy}, "
        "to the same jobs alone on the tenant's part of each engine, both simulated; 1 or less: sharing pays. "
        "Waits for: who held the slots that it waited for.",
    )


# -------------------------------------------------------------------- a gateway that runs


def _run_live(args: argparse.Namespace) -> int:
    import os

    import msgspec

    from hocket.cli.simulate import write_json
    from hocket.errors import InputError

    for other in ("config", "history", "journal", "policy", "engines"):
        if getattr(args, other):
            raise InputError(f"--base-url asks a running gateway how it is now: leave out --{other}")
    found = _asked(args.base_url, args.api_key or os.environ.get("HOCKET_API_KEY"))
    if args.json:
        write_json({"tenants": {one.tenant: msgspec.to_builtins(one) for one in found}}, args.json)
    if args.json != "-":
        rows = [(*_has(one), *_now(one), _whom(one.waits_for)) for one in found]
        _print(
            (*HAS, "lately", "running", "waiting", "oldest", "waits for"),
            rows,
            "Share: of the slots of the engine that it uses most, at this moment. Lately: the same over its weight, as "
            "fair-share counts it. Waits for: who holds the slots that it waits for.",
        )
    return 0


def _now(one: Standing) -> tuple[str, ...]:
    oldest = f"{one.oldest_s:.3g} s" if one.waiting else ""
    return ("" if one.lately is None else f"{one.lately:.1%}", f"{one.running}", f"{one.waiting}", oldest)


def _asked(base_url: str, key: str | None) -> list[Standing]:
    """What the gateway answers. Raises InputError."""
    from http.client import HTTPException

    import msgspec

    from hocket.errors import InputError
    from hocket.gateway.standing import Standings

    if not base_url.startswith(("http://", "https://")):
        raise InputError(f"--base-url {base_url}: write it as http://HOST:PORT")
    url = base_url.rstrip("/").removesuffix("/v1") + "/admin/tenants"
    try:
        status, body = _got(url, {"Authorization": f"Bearer {key}"} if key else {})
        if status == 200:
            return msgspec.json.decode(body, type=Standings).data
    except (OSError, HTTPException, ValueError) as error:  # ValueError: a bad port, or no such answer
        raise InputError(f"{url}: {error}; is this a gateway that runs?") from None
    hints = {401: ": give a key of role observe", 403: ": give a key of role observe"}
    raise InputError(f"{url} answered {status}" + hints.get(status, "; is this where it serves its operators?"))


def _got(url: str, headers: dict[str, str]) -> tuple[int, bytes]:
    """Status and body. It follows nobody elsewhere: the key is for this gateway alone."""
    from contextlib import closing
    from http.client import HTTPConnection, HTTPSConnection
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    connect = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    with closing(connect(parts.hostname or "", parts.port, timeout=PATIENCE_S)) as connection:
        connection.request("GET", parts.path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()


# -------------------------------------------------------------------- tables


def _has(one: TenantReport | Standing) -> tuple[str, ...]:
    shares = f"{one.shares[one.dominant]:.1%}", f"{one.share:.1%}"
    return (one.tenant, f"{one.weight:g}", f"{one.jobs}", one.dominant, *shares)


def _whom(waits_for: dict[str, float]) -> str:
    waits = sorted(waits_for.items(), key=lambda other: -other[1])[:3]
    return ", ".join(f"{name} {part:.0%}" for name, part in waits)


def _print(columns: Sequence[str], rows: Sequence[Sequence[str]], legend: str) -> None:
    from rich.console import Console
    from rich.table import Table

    from hocket.cli.jobs import console_for

    table: Any = Table()
    for name in columns:
        table.add_column(name, justify="left" if name in {"tenant", "waits for"} else "right")
    for row in rows:
        table.add_row(*row)
    console = console_for(Console)
    console.print(table)
    console.print(legend, highlight=False)
