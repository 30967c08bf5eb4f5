"""Run jobs through policies in virtual time.

example: hocket workload mixed --jobs 200 --rate 0.5 --seed 1 -o jobs.jsonl
         hocket simulate jobs.jsonl --engines engines.yaml --policy "call-fcfs,las,urgency>las" --load 1.2 --seeds 3
         hocket simulate jobs.jsonl --engines engines.yaml --learn-from earlier.jsonl --policy fcfs,hocket,oracle
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hocket.errors import InputError

if TYPE_CHECKING:
    from hocket.sim.driver import Span
    from hocket.sim.experiment import Setup
    from hocket.sim.results import Run
    from hocket.trace import Job

MOST_DRAWN = 20
"jobs in a PNG chart, unless --gantt chooses them"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("jobs", nargs="?", metavar="JOBS.jsonl", help="a trace: one job a line")
    parser.add_argument("--engines", metavar="FILE", help="engines.yaml: the engine model of each engine")
    parser.add_argument("--plan", metavar="FILE", help="plan.json instead, with --models and --cluster")
    parser.add_argument("--models", metavar="FILE", help="models.yaml: weights and performance tables")
    parser.add_argument("--cluster", metavar="FILE", help="cluster.yaml: nodes and their devices")
    parser.add_argument("--policy", default="call-fcfs,default", help="as 'fcfs,urgency>las,oracle' (%(default)s)")
    parser.add_argument("--preempt", choices=["class", "key", "never"], help="what running calls are displaced across")
    parser.add_argument("--load", type=float, metavar="X", help="scale arrivals to X times what the engines can serve")
    parser.add_argument("--learn-from", metavar="FILE", help="a trace of other jobs: learn the applications from it")
    parser.add_argument("--profiles", metavar="DIR", help="the applications as `hocket learn` wrote them")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="N draws: jobs and arrivals resampled")
    parser.add_argument("--json", metavar="FILE", help="write all figures; - is standard output, without the table")
    parser.add_argument("--plot", metavar="FILE", help="draw the share of jobs done over time, a curve a policy (PNG)")
    parser.add_argument("--gantt", metavar="JOB,..", help="print a Gantt chart of these jobs")
    parser.add_argument("--gantt-png", metavar="FILE", help="draw it (of --gantt's jobs, else the first ones)")
    parser.add_argument("--chrome-trace", metavar="FILE", help="write it for chrome://tracing or Perfetto")
    parser.add_argument("--processes", type=int, metavar="N", help="worker processes (one a core)")
    parser.add_argument("--visibility", choices=["live", "declared"], default="live", help="what the core sees (live)")
    parser.add_argument("--journal", metavar="FILE", help="replay a gateway's journal: its commands must be the same")


def run(args: argparse.Namespace) -> int:
    if args.journal:
        return _replay(args)
    _check(args)
    from hocket.sim import experiment
    from hocket.trace import read_jobs

    setup = experiment.with_preemption(_setup(args), args.preempt)
    policies = experiment.parse_policies(args.policy, setup)
    jobs = read_jobs(args.jobs)
    profiles = _profiles(args, jobs)
    rate = None
    if args.load is not None:
        rate = args.load * experiment.capacity(jobs, setup)
        jobs = experiment.scaled(jobs, rate)
    draws = [jobs] if args.seeds == 1 else [experiment.draw(jobs, seed) for seed in range(args.seeds)]
    shown = _shown(args, draws[0])
    runs = _run_with_bar(args, draws, setup, policies, frozenset(shown), profiles)
    result = _result(args, draws, policies, runs, rate)
    if args.json:
        write_json(result, args.json)
    if args.json != "-":
        print_table(result)
    if shown:
        _draw(args, {run.policy: run.outcome.spans for run in runs if run.seed == 0})
    if args.plot:
        from hocket.sim.plot import write_cdfs

        write_cdfs({policy: [*block["jobs"].values()] for policy, block in result["policies"].items()}, args.plot)
    return _tell_errors(result["policies"])


def _tell_errors(blocks: dict[str, Any]) -> int:
    """1 if a policy raised: its figures are those of what took over."""
    errors = {policy: block["policy_error"] for policy, block in blocks.items() if "policy_error" in block}
    for policy, error in errors.items():
        print(f"{policy}: the policy raised {error}; call-fcfs took over, the figures are not its own", file=sys.stderr)
    return 1 if errors else 0


def _check(args: argparse.Namespace) -> None:
    planned = [args.plan, args.models, args.cluster]
    if not args.jobs or not (args.engines or args.plan):
        raise InputError("give a trace and --engines FILE or --plan FILE (or --journal FILE); see --help")
    if any(planned) and not all(planned):
        raise InputError("--plan needs --models and --cluster, and they need it; give all three")
    if args.engines and args.plan:
        raise InputError("--engines and --plan: two sets of engines; give one of them")
    if args.load is not None and not 0 < args.load < math.inf:
        raise InputError(f"--load {args.load}: use a number above 0, such as 0.9")
    for name in ("seeds", "processes"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise InputError(f"--{name} {value}: use 1 or more")
    for path in (args.json, args.plot, args.gantt_png, args.chrome_trace):
        if path and not Path(path).parent.is_dir():
            raise InputError(f"{path}: cannot be written (no such directory); make {Path(path).parent} first")
    if args.learn_from and args.profiles:
        raise InputError("--learn-from and --profiles: two sources of profiles; give one of them")
    if args.visibility == "declared":
        raise InputError("--visibility declared: not yet; leave it out, the core then sees what a live gateway sees")


def _setup(args: argparse.Namespace) -> Setup:
    """The engines, from `engines.yaml` or from a plan."""
    if args.engines:
        from hocket.sim.experiment import load_setup

        return load_setup(args.engines)
    from hocket.planner.inputs import load_cluster, load_models
    from hocket.planner.plan import load_plan
    from hocket.planner.simulated import setup_of

    return setup_of(load_plan(args.plan), load_cluster(args.cluster), load_models(args.models))


def _replay(args: argparse.Namespace) -> int:
    from hocket.assembly import replay_journal

    difference = replay_journal(args.journal)
    print(f"{args.journal}: {'the same commands' if difference is None else difference}")
    return 0 if difference is None else 1


def _profiles(args: argparse.Namespace, jobs: list[Job]) -> dict[str, str]:
    """What the policies may know of the applications: the text of each profile."""
    from hocket.profiles import read_profiles

    if args.profiles:
        return read_profiles(args.profiles)
    return _learned(args.learn_from, jobs) if args.learn_from else {}


def _learned(path: str, jobs: list[Job]) -> dict[str, str]:
    """Profiles of the jobs of a trace, those left out that are to be simulated: their future must stay unknown."""
    from hocket.beliefs.profile import encode_profile
    from hocket.cli.learn import learn_all, records_by_app
    from hocket.trace import read_jobs

    future = {_content(job) for job in jobs}
    every = read_jobs(path)
    others = [job for job in every if _content(job) not in future]
    if not others:
        raise InputError(f"--learn-from {path}: all of its jobs are to be simulated; learn from others")
    if len(others) < len(every):
        same = len(every) - len(others)
        print(
            f"{path}: {same} of {len(every)} jobs are to be simulated, too; nothing is learned of them", file=sys.stderr
        )
    return {one.app: encode_profile(one).decode() for one in learn_all(records_by_app(others), {})}


def _content(job: Job) -> bytes:
    """What makes a job the same job, whatever its id and its time."""
    import msgspec

    return job.app.encode() + msgspec.json.encode(job.stages)


def _shown(args: argparse.Namespace, jobs: list[Job]) -> list[str]:
    """The jobs whose course is to be kept."""
    ids = [job.job for job in jobs]
    if args.gantt:
        chosen = [name.strip() for name in args.gantt.split(",")]
        for name in chosen:
            if name not in ids:
                raise InputError(f"--gantt: no job {name!r} in the trace; it has {', '.join(ids[:3])}, ...")
        return chosen
    if args.chrome_trace:
        return ids
    return ids[:MOST_DRAWN] if args.gantt_png else []


def _run_with_bar(
    args: argparse.Namespace,
    draws: list[list[Job]],
    setup: Setup,
    policies: list[str],
    shown: frozenset[str],
    profiles: dict[str, str],
) -> list[Run]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from hocket.sim.experiment import run_all

    columns = TextColumn("simulating"), BarColumn(), MofNCompleteColumn(), TextColumn("jobs"), TimeRemainingColumn()
    # No thread of its own: worker processes are forked.
    console = Console(stderr=True)
    quiet = not console.is_terminal
    with Progress(*columns, console=console, auto_refresh=False, transient=True, disable=quiet) as bar:
        task = bar.add_task("", total=len(draws) * len(draws[0]) * len(policies))

        def progress(done: int) -> None:
            bar.update(task, completed=done)
            bar.refresh()

        return run_all(draws, setup, policies, args.processes, shown, progress, profiles)


def _result(
    args: argparse.Namespace, draws: list[list[Job]], policies: list[str], runs: list[Run], rate: float | None
) -> dict[str, Any]:
    """What --json writes."""
    from hocket import __version__
    from hocket.sim.results import ratios, report

    inputs = {
        "jobs": str(args.jobs),
        "engines": args.engines,
        "plan": args.plan,
        "models": args.models,
        "cluster": args.cluster,
        "policies": policies,
        "preempt": args.preempt,
        "load": args.load,
        "arrivals_per_s": rate,
        "seeds": args.seeds,
        "learn_from": args.learn_from,
        "profiles": args.profiles,
        "visibility": args.visibility,
        "hocket": __version__,
    }
    pooled = {policy: report(draws, [run for run in runs if run.policy == policy]) for policy in policies}
    for to in dict.fromkeys([policies[0], *(policy for policy in policies if policy == "oracle")]):
        for policy, ratio in ratios(runs, to).items():
            pooled[policy].setdefault("ratios", {})[to] = None if ratio is None else ratio._asdict()
    result: dict[str, Any] = {"policies": pooled, "inputs": inputs}
    if len(draws) > 1:
        result["runs"] = [
            {"seed": seed, "policies": {run.policy: report(draws, [run]) for run in runs if run.seed == seed}}
            for seed in range(len(draws))
        ]
    return result


def write_json(result: dict[str, Any], path: str) -> None:
    """Write figures for programs; - is standard output. Raises InputError."""
    import msgspec

    text = msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n"
    if path == "-":
        sys.stdout.buffer.write(text)
        return
    try:
        Path(path).write_bytes(text)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); check the directory") from None


def print_table(result: dict[str, Any]) -> None:
    """Show the blocks of `result`, one policy a line."""
    from rich.console import Console
    from rich.table import Table

    from hocket.cli.jobs import console_for

    blocks = result["policies"]
    first = next(iter(blocks))
    versus = {first: "to the first"} | ({"oracle": "to oracle"} if "oracle" in blocks and first != "oracle" else {})
    refused = any(block["rejected"] for block in blocks.values())
    table = Table(title="JCT and wait in seconds", title_justify="left")
    table.add_column("policy")
    for name in ("mean", "p50", "p95", "p99", "mean wait", *versus.values(), *(["rejected"] if refused else [])):
        table.add_column(name, justify="right")
    for policy, block in blocks.items():
        jct = block["jct_s"]
        cells = [*(jct[name] for name in ("mean", "p50", "p95", "p99")), block["wait_s"]["mean"]]
        counts = [str(len(block["rejected"]))] if refused else []
        compared = (_ratio(block, blocks[to], to) for to in versus)
        table.add_row(policy, *("" if cell is None else f"{cell:.4g}" for cell in cells), *compared, *counts)
    console_for(Console).print(table)


def _ratio(block: dict[str, Any], other: dict[str, Any], to: str) -> str:
    """Mean JCT of `block` over that of `other`; of several draws the typical one, and half its 95 % interval."""
    paired = block.get("ratios", {}).get(to)
    if paired is not None and not math.isnan(paired["low"]):
        return f"{paired['ratio']:.3f} ±{(paired['high'] - paired['low']) / 2:.2g}"
    mean, base = block["jct_s"]["mean"], other["jct_s"]["mean"]
    return f"{mean / base:.3f}" if mean and base else ""


def _draw(args: argparse.Namespace, charts: dict[str, list[Span]]) -> None:
    import shutil

    from hocket.sim import gantt

    if args.gantt and args.json != "-":
        for policy, spans in charts.items():
            print(f"\n{policy}\n{gantt.as_text(spans, shutil.get_terminal_size((100, 24)).columns)}")
    if args.gantt_png:
        gantt.write_png(charts, args.gantt_png)
    if args.chrome_trace:
        write_json(gantt.chrome_trace(charts), args.chrome_trace)
