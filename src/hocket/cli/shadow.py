"""Say what another policy would have done with the jobs of the last hour.

example: hocket shadow                                    (the history, engines estimated from its calls)
         hocket shadow --config hocket.yaml --last 6h --policy "default,urgency>las"
         hocket shadow --journal journal.jsonl --engines engines.yaml
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from hocket.errors import InputError

if TYPE_CHECKING:
    from hocket.shadow.report import Shadow
    from hocket.shadow.source import Past
    from hocket.sim.model import EngineModel

GOOD, BAD = 0.1, 0.25
"how far the simulation of what happened may be off, for its figures to be believed, or at least looked at"


def configure(parser: argparse.ArgumentParser) -> None:
    from hocket.cli.jobs import add_source

    add_source(parser)
    parser.add_argument("--journal", metavar="FILE", help="a gateway's journal instead of a history")
    parser.add_argument("--last", default="1h", metavar="AGE", help="jobs that arrived in the last 30m, 6h, 2d (1h)")
    parser.add_argument("--policy", default="default", help="what to compare with, as 'default,urgency>las' (default)")
    parser.add_argument("--engines", metavar="FILE", help="engines.yaml: measured engines (estimated from the calls)")
    parser.add_argument("--json", metavar="FILE", help="write all figures; - is standard output, without the tables")


def run(args: argparse.Namespace) -> int:
    from hocket.cli.simulate import write_json
    from hocket.shadow.report import shadow
    from hocket.sim.experiment import Setup, load_setup, parse_policies

    engines: list[EngineModel] | None = load_setup(args.engines).engines if args.engines else None
    found = shadow(
        past_of(args),
        parse_policies(args.policy, Setup(engines=engines or [_any_engine()])),
        engines=engines,
        windows=windows_of(args),
    )
    if args.json:
        write_json(_plain(found, args), args.json)
    if args.json != "-":
        _tell(found)
    return 0


def _any_engine() -> EngineModel:
    from hocket.core.latency import Latency
    from hocket.sim.model import EngineModel

    return EngineModel(name="any", models=["any"], max_concurrency=1, latency=Latency(d0=1.0))


def past_of(args: argparse.Namespace) -> Past:
    import time

    from hocket.cli.jobs import opened, since
    from hocket.shadow.source import from_history, from_journal

    begin = since(args.last, "--last")
    assert begin is not None
    if args.journal:
        past = from_journal(args.journal, time.time() - begin)
    else:
        with opened(args) as connection:
            past = from_history(connection, begin)
    if not past.jobs:
        raise InputError(f"--last {args.last}: no job arrived in that time; choose a longer one")
    return past


def windows_of(args: argparse.Namespace) -> dict[str, int]:
    """What the settings say of each engine's replicas, where there are any."""
    from hocket.settings import load_settings

    if not args.config:
        return {}
    return {e.name: e.max_concurrency for e in load_settings(args.config).engines if isinstance(e.max_concurrency, int)}


def _plain(found: Shadow, args: argparse.Namespace) -> dict[str, Any]:
    import msgspec

    from hocket import __version__

    inputs = {"last": args.last, "as_observed": found.policy, "left_out": found.left_out, "hocket": __version__}
    fits = {
        name: {"mean": fit.misfit.mean, "max": fit.misfit.max, "calls": fit.calls} for name, fit in found.fits.items()
    }
    engines = msgspec.to_builtins(found.engines)
    return {"policies": found.blocks, "off": found.off, "engines": engines, "fits": fits, "inputs": inputs}


# -------------------------------------------------------------------- in words


def _tell(found: Shadow) -> None:
    from rich.console import Console

    from hocket.cli.jobs import console_for

    console = console_for(Console)
    count = len(found.blocks["recorded"]["jobs"])
    left_out = f"; {found.left_out} were open or could not be used" if found.left_out else ""
    console.print(f"{count} jobs{left_out}. As observed = in the simulator under {found.policy}.", highlight=False)
    console.print(_overall(found))
    for title, key in (("application", "by_app"), ("urgency", "by_urgency")):
        console.print(_by(found, title, key))
    for name, fit in found.fits.items():
        console.print(
            f"engine {name}: estimated from {fit.calls} calls, {fit.misfit.mean:.0%} off on average; "
            f"{fit.model.replicas} replica(s) of {fit.model.max_concurrency} calls at once",
            highlight=False,
        )
    console.print(_verdict(found), highlight=False)


def _overall(found: Shadow) -> Any:
    from rich.table import Table

    table = Table(title="times in seconds", title_justify="left")
    table.add_column("")
    for name in ("mean JCT", "p50", "p95", "mean wait", "p95 wait", "to as observed"):
        table.add_column(name, justify="right")
    base = found.blocks["as observed"]["jct_s"]["mean"]
    for name, block in found.blocks.items():
        jct, wait = block["jct_s"], block["wait_s"]
        cells = [jct["mean"], jct["p50"], jct["p95"], wait["mean"], wait["p95"]]
        ratio = "" if name == "recorded" or not base else f"{jct['mean'] / base:.3f}"
        label = f"{name} (simulated)" if name != "recorded" else name
        table.add_row(label, *("" if cell is None else f"{cell:.4g}" for cell in cells), ratio)
    return table


def _by(found: Shadow, title: str, key: str) -> Any:
    from rich.table import Table

    simulated = {name: block for name, block in found.blocks.items() if name != "recorded"}
    table = Table()
    table.add_column(title)
    for name in simulated:
        for figure in ("mean JCT", "mean wait", "p95 wait"):
            table.add_column(f"{figure}\n{name}", justify="right")
    for group in found.blocks["recorded"][key]:
        cells = []
        for block in simulated.values():
            of = block[key].get(group, {"jct_s": {"mean": None}, "wait_s": {"mean": None, "p95": None}})
            cells += [of["jct_s"]["mean"], of["wait_s"]["mean"], of["wait_s"]["p95"]]
        table.add_row(group, *("" if cell is None else f"{cell:.4g}" for cell in cells))
    return table


def _verdict(found: Shadow) -> str:
    off = found.off
    told = (
        f"The simulation as observed is off what was recorded by {off['mean']:+.0%} (mean JCT), "
        f"{off['p95']:+.0%} (p95) and {off['job']:.0%} (the median job)"
    )
    worst = max(abs(off["mean"]), abs(off["p95"]))
    if worst <= GOOD:
        return f"{told}: close enough to believe differences between policies that are larger than that."
    if worst <= BAD:
        return f"{told}: believe the direction of a difference, not its size."
    how = "check the engines' constants"
    if found.fits:
        how = "say with --config how many calls an engine takes at once, or measure it with `hocket engine profile`"
    return f"{told}: too far to believe what it says of other policies; {how}."
