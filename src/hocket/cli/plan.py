"""Plan engines: how wide, how many, and which share a device.

example: hocket plan --jobs jobs.jsonl --rates apps.yaml --cluster cluster.yaml --models models.yaml -o plan/
         hocket plan ... --objective throughput --slo rag.p95=30s --budget 60
         hocket plan ... --baseline k8s-best
         hocket plan --history --since 1d --cluster cluster.yaml --models models.yaml --against plan/ -o next/
"""

from __future__ import annotations

import argparse
import math
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hocket.errors import InputError

if TYPE_CHECKING:
    from hocket.planner.finals import Progress
    from hocket.planner.goal import Score
    from hocket.planner.inputs import Cluster, Models
    from hocket.planner.plan import Plan
    from hocket.planner.planning import Planned

ONE_MORE = 0.15
"share of the budget for the look at one device more, which gets what is left of it"


def configure(parser: argparse.ArgumentParser) -> None:
    from hocket.cli import demand

    demand.configure(parser)
    parser.add_argument("--cluster", required=True, metavar="FILE", help="cluster.yaml: nodes and their devices")
    parser.add_argument("--models", required=True, metavar="FILE", help="models.yaml: weights and performance tables")
    parser.add_argument(
        "--objective", choices=["latency", "throughput", "cost"], default="latency", help="best at what (latency)"
    )
    parser.add_argument(
        "--slo", action="append", default=[], metavar="APP.p95=30s", help="a bound on latency; or .mean"
    )
    parser.add_argument(
        "--headroom",
        type=float,
        default=1.2,
        metavar="X",
        help="be able to carry X times the rates (%(default)s)",
    )
    parser.add_argument("--law", choices=["ps", "capped"], default="ps", help="how engines that share slow each other")
    parser.add_argument("--budget", type=float, default=60.0, metavar="S", help="seconds to take at most (%(default)s)")
    parser.add_argument("--baseline", default="", metavar="NAME", help="plan as others do: k8s-default, k8s-best, ...")
    parser.add_argument("--against", metavar="PLAN", help="the plan that runs: what would change, and is it worth it?")
    parser.add_argument(
        "--worth", type=float, default=0.05, metavar="X", help="with --against: the least gain that is (%(default)s)"
    )
    parser.add_argument("-o", "--output", default="plan", metavar="DIR", help="where plan.json goes (%(default)s)")
    parser.add_argument("--key-digest", metavar="HEX", help="of the API key that opens the exported gateway to others")
    parser.add_argument("--json", action="store_true", help="print the explanation as JSON")


def run(args: argparse.Namespace) -> int:
    from hocket.cli.demand import demand_from
    from hocket.planner.compiled import COMPILED
    from hocket.planner.diff import against
    from hocket.planner.explain import explain
    from hocket.planner.goal import Goal, parse_slo
    from hocket.planner.inputs import load_cluster, load_models
    from hocket.planner.planning import missed, plan_for, without_room
    from hocket.planner.search import Problem

    _check(args)
    if not COMPILED:
        print(
            "hocket plan: numba is missing, so rehearsals are few and short: pip install 'hocket[plan]'",
            file=sys.stderr,
        )
    start = time.monotonic()
    cluster, models = load_cluster(args.cluster), load_models(args.models)
    running = None if args.against is None else _running(args, cluster, models)
    demand = demand_from(args)
    slos = tuple(parse_slo(text, demand.apps) for text in args.slo)
    goal = Goal(args.objective, slos, args.headroom)
    problem = Problem(demand, cluster, models, goal, args.law)
    with _bar() as progress:
        left = args.budget - (time.monotonic() - start)
        planned = plan_for(problem, (1.0 - ONE_MORE) * left, time.monotonic, progress, args.baseline)
    left = args.budget - (time.monotonic() - start)
    told = explain(planned, min(left, ONE_MORE * args.budget), time.monotonic)
    path = None
    if running is not None:
        told["against"] = against(running, planned.plan, problem, args.worth)
    if running is None or told["against"]["worth"]:
        path = _write(planned, told, cluster, args.output)
        _export(planned, cluster, models, args)
    if args.json:
        import msgspec

        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(told), indent=1) + b"\n")
    else:
        _print(told, args.against, path)
    short = missed(planned)
    if short:
        print(f"hocket plan: no plan was found that holds all SLOs: {'; '.join(short)}", file=sys.stderr)
    elif room := without_room(planned):
        print(f"hocket plan: {room}", file=sys.stderr)
    return 1 if short or path is None else 0


def _check(args: argparse.Namespace) -> None:
    from hocket.planner.baselines import BASELINES
    from hocket.planner.export import exports_in

    if args.baseline and args.baseline not in BASELINES:
        raise InputError(f"--baseline {args.baseline!r}: there is {', '.join(BASELINES)}")
    for name in ("budget", "headroom", "worth"):
        if not 0 < getattr(args, name) < math.inf:
            raise InputError(f"--{name} {getattr(args, name)}: use a number above 0")
    if args.key_digest is not None and not re.fullmatch("[0-9a-fA-F]{64}", args.key_digest):
        raise InputError("--key-digest: must be 64 hexadecimal digits, the key's SHA-256, never the key itself")
    if args.objective == "cost" and not args.slo:
        raise InputError("--objective cost: the cheapest plan that holds what? Give an --slo APP.p95=30s")
    exports_in(args.output)


def _running(args: argparse.Namespace, cluster: Cluster, models: Models) -> Plan:
    """The plan of `--against`. Raises InputError where it cannot be run, or would be overwritten."""
    from hocket.planner.plan import check, load_plan

    file = Path(args.against)
    if Path(args.output).resolve() == (file if file.is_dir() else file.parent).resolve():
        raise InputError(f"--output {args.output}: holds the plan that runs; write the new one to another folder")
    running = load_plan(file)
    try:
        check(running, cluster, models)
    except InputError as error:
        raise InputError(f"--against {file}: {error}") from None
    return running


def _write(planned: Planned, told: dict[str, Any], cluster: Cluster, folder: str) -> Path:
    """The plan and its picture. Returns where the plan is."""
    from hocket.planner.export import write
    from hocket.planner.picture import picture
    from hocket.planner.plan import as_json

    drawn = picture(planned.plan, cluster, told["critical_path"])
    write({"plan.json": as_json(planned.plan), "plan.svg": drawn}, folder)
    return Path(folder) / "plan.json"


def _export(planned: Planned, cluster: Cluster, models: Models, args: argparse.Namespace) -> None:
    """What Kubernetes, Ray, Compose and hocket itself run; a plan that they cannot is a plan all the same."""
    from hocket.planner.export import export, put_by, write

    put_by(args.output)
    try:
        files = export(planned.plan, cluster, models, args.key_digest)
    except InputError as error:
        print(f"hocket plan: not exported: {error}", file=sys.stderr)
        return
    write(files, args.output)


@contextmanager
def _bar() -> Iterator[Progress]:
    """Says on a terminal how far the search is, and the best so far."""
    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("searching", total=None)

        def progress(what: str, done: int, score: Score | None) -> None:
            best = f", best {abs(score.value):.4g}" if score is not None else ""
            bar.update(task, description=f"{what}: {done} plans{best}")

        yield progress


def _print(told: dict[str, Any], against: str | None, path: Path | None) -> None:
    from rich.console import Console
    from rich.table import Table

    from hocket.cli.jobs import console_for
    from hocket.planner import diff, explain

    heads = ("engine", "tp", "replicas", "share", "beside", "used", "batch", "slowed", "critical")
    table = Table(*heads)
    for one in told["engines"]:
        table.add_row(
            one["engine"],
            "/".join(map(str, one["tensor_parallel"])),
            str(one["replicas"]),
            "/".join(f"{share:g}" for share in one["shares"]),
            ", ".join(one["beside"]),
            f"{one['utilisation']:.0%}",
            f"{one['batch']:g}",
            f"{one['slowed_by_neighbours']:g}x",
            f"{one['critical_share']:.0%}",
        )
    console = console_for(Console)
    console.print(table)
    latencies = Table("application", "mean: predicted", "simulated", "bound", "95 %: predicted", "simulated")
    for app, own in told["apps"].items():
        keys = ("predicted_mean_s", "simulated_mean_s", "bound_mean_s", "predicted_p95_s", "simulated_p95_s")
        latencies.add_row(app, *(f"{own[key]:.3g} s" for key in keys))
    console.print(latencies)
    said = explain.lines(told)
    if against is not None:
        said += diff.lines(told["against"], against)
    if path is not None:
        said.append(f"Written to {path}, drawn in {path.with_suffix('.svg')}")
    for line in said:
        console.print(line, highlight=False, soft_wrap=True)
