"""Say what each tenant has had of the engines lately, how it fared, and who waits for whom.

example: hocket tenants                                   (the history, engines estimated from its calls)
         hocket tenants --config hocket.yaml --last 6h
         hocket tenants --journal journal.jsonl --engines engines.yaml --json -
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hocket.shadow.tenants import TenantReport


def configure(parser: argparse.ArgumentParser) -> None:
    from hocket.cli.jobs import add_source

    add_source(parser)
    parser.add_argument("--journal", metavar="FILE", help="a gateway's journal instead of a history")
    parser.add_argument("--last", default="1h", metavar="AGE", help="jobs that arrived in the last 30m, 6h, 2d (1h)")
    parser.add_argument(
        "--policy", metavar="NAME", help="what the jobs are simulated under (what they were ordered by)"
    )
    parser.add_argument("--engines", metavar="FILE", help="engines.yaml: measured engines (estimated from the calls)")
    parser.add_argument("--json", metavar="FILE", help="write all figures; - is standard output, without the tables")


def run(args: argparse.Namespace) -> int:
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
    from rich.console import Console
    from rich.table import Table

    from hocket.cli.jobs import console_for

    table: Any = Table()
    table.add_column("tenant")
    for name in ("weight", "jobs", "dominant engine", "share", "share / weight", "mean wait", "slowdown"):
        table.add_column(name, justify="right")
    table.add_column("waits for")
    for one in found:
        waits = sorted(one.waits_for.items(), key=lambda other: -other[1])[:3]
        table.add_row(
            one.tenant,
            f"{one.weight:g}",
            f"{one.jobs}",
            one.dominant,
            f"{one.shares[one.dominant]:.1%}",
            f"{one.share:.1%}",
            f"{one.wait_s:.3g} s",
            f"{one.slowdown:.2f}",
            ", ".join(f"{name} {part:.0%}" for name, part in waits),
        )
    console = console_for(Console)
    console.print(table)
    console.print(
        f"Share: of the slots of the engine that it uses most, over the whole time. Slowdown: mean JCT under {policy}, "
        "to the same jobs alone on the tenant's part of each engine, both simulated; 1 or less: sharing pays. "
        "Waits for: who held the slots that it waited for.",
        highlight=False,
    )
