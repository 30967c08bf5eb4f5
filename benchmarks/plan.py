"""What `hocket plan` gains over whole devices dealt out by hand: sustained rates and latency, simulated.

    python benchmarks/plan.py [--cells rag-32b,...] [--devices 4,8,16] [--budget 30] [--law ps] [--processes 2]
        [--json F]

Cells: RAG with a 32B and with a 70B generator, beam search with a reward model, a crew of coding agents, RAG and beam
search together, each on 4, 8 and 16 H100s in domains of 8. Method: the p95 target of each application is three times
its unloaded p95 under `k8s-default`. Sustained is the highest rate at which all targets hold, by bisection (to 1 %),
in runs of at least 12 times the longest target, on jobs and arrivals that were not planned on: the geometric mean of
two to four such runs, the same for all planners. They are played by the planner's compiled engines; one of them, or
its first 300,000 calls, by the simulator, too, which must say the same to a millionth. 90 % of memory is usable.
Latency: the mean at 0.7 of the rate that `k8s-best` sustains, of a plan for that rate (which is asked to carry 0.9 of
what `k8s-best` sustains on the jobs planned on), and how much of that rate it carries; and the mean at 0.3. Prints a
table, a cell when it is done; the last line has geometric means.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from concurrent.futures import as_completed
from math import exp, fsum, inf, log
from pathlib import Path
from typing import Any

from _plan_cells import CELLS, MEASURED_ON, PLANNED_ON, cluster, demand, models, targets

from hocket.errors import InputError
from hocket.planner.demand import Demand
from hocket.planner.goal import Goal
from hocket.planner.judge import Judge
from hocket.planner.moves import Choices
from hocket.planner.placement import PARTS
from hocket.planner.plan import Plan
from hocket.planner.planning import bound, plan_for
from hocket.planner.rehearsal import Rehearsal
from hocket.planner.search import Problem, Search
from hocket.sim.workers import workers

OTHERS = ("k8s-default", "k8s-best", "whole-best", "aggregate")
OVER = 1.02
"times the bound that a finite run may seem to sustain"
KEEPS = 0.9
"of what `k8s-best` sustains, that a plan for latency must"
CHECKED, EQUAL = 300_000, 1e-6
"calls that the simulator plays; share by which it may differ"

Figures = dict[str, Any]


def cell(name: str, devices: int, budget: float, law: Any) -> Figures:
    """All figures of one cell."""
    apps = CELLS[name][0]
    asked, fresh = demand(apps, PLANNED_ON), demand(apps, MEASURED_ON)
    problem = Problem(asked, cluster(devices), models(name), Goal(), law)
    slos = targets(problem, fresh)
    goal = Goal("throughput", slos)
    told: Figures = {"cell": name, "devices": devices, "law": law, "targets": {s.app: s.seconds for s in slos}}
    told["bound"] = bound(Search(problem))["carries"]
    plans: dict[str, Plan] = {}
    for planner in (*OTHERS, ""):
        start = time.perf_counter()
        planned = plan_for(problem._replace(goal=goal), budget, time.monotonic, lambda *_: None, planner)
        key = planner or "plan"
        plans[key] = planned.plan
        told[f"{key} s"] = round(time.perf_counter() - start, 1)
        told[f"{key} choices"] = texts(planned.candidate.choices)
        told[f"{key} planned"] = planned.verdict.scale
        told[f"{key} estimated"] = planned.plan.predicted["carries"]
    most = max(told[f"{key} planned"] for key in plans)
    stage = Rehearsal(fresh, problem.cluster, problem.models, goal, plans["plan"], most, MEASURED_ON, inf)
    for key, plan in plans.items():
        outcome = stage.outcome(plan, told[f"{key} planned"])
        told[key], told[f"{key} each"] = -outcome.score.value, [-one.value for one in outcome.each]
    if max(told[key] for key in plans) > OVER * told["bound"]:
        raise RuntimeError(f"{name} on {devices}: more is sustained than the bound {told['bound']}: measured wrongly")
    told["differs"] = differs(stage, Judge(fresh, problem.cluster, problem.models, goal), plans["plan"], told["plan"])
    known = Rehearsal(asked, problem.cluster, problem.models, goal, plans["k8s-best"], most, PLANNED_ON, inf)
    peak = -known.outcome(plans["k8s-best"], told["k8s-best planned"]).score.value
    told["latency"] = latency(problem, fresh, plans["k8s-best"], stage, told["k8s-best"], peak, budget)
    return told


def differs(stage: Rehearsal, judge: Judge, plan: Plan, scale: float) -> float:
    """By which share the simulator says another latency than the rehearsal."""
    jobs = stage.jobs(0, scale, CHECKED)
    simulated, rehearsed = judge.played(plan, jobs), stage.told(plan, 0, scale, len(jobs))
    found = max(abs(simulated[app][key] / own[key] - 1.0) for app, own in rehearsed.items() for key in own)
    if found > EQUAL:
        raise RuntimeError(f"the simulator differs from the rehearsal by {found}")
    return found


def latency(
    problem: Problem, fresh: Demand, best: Plan, stage: Rehearsal, rate: float, peak: float, budget: float
) -> Figures:
    """Mean latency of `best`, which sustains `rate`, over that of a plan, at shares of the rate; and what bounds it.

    `peak`: what `best` sustains on the jobs that are planned on; of that, one for 0.7 is to keep KEEPS. `keeps`: what
    it keeps of `rate`.
    """
    told: Figures = {}
    for share in (0.7, 0.3):
        scale = share * rate
        goal = Goal("latency", stage.slos, headroom=max(1.0, KEEPS * peak / scale) if share == 0.7 else 1.2)
        asked = problem._replace(demand=scaled(problem.demand, scale), goal=goal)
        try:
            planned = plan_for(asked, budget, time.monotonic, lambda *_: None)
        except InputError as error:
            told[str(share)] = str(error)
            continue
        there = Rehearsal(*(scaled(fresh, scale), problem.cluster, problem.models, goal, best, 1.0, MEASURED_ON, inf))
        ours, theirs = (there.outcome(one, 1.0).score.value for one in (planned.plan, best))
        told[str(share)] = round(theirs / ours, 3)
        told[f"{share} choices"] = texts(planned.candidate.choices)
        bounds = planned.plan.bound["mean_s"]
        alone = fsum(bounds[app] * per_s for app, per_s in zip(fresh.apps, fresh.per_s, strict=True))
        told[f"{share} bound"] = round(theirs * float(fresh.per_s.sum()) / alone, 3)
        if share == 0.7:
            told["keeps"] = round(-stage.outcome(planned.plan, rate).score.value / rate, 3)
    return told


def scaled(demand: Demand, scale: float) -> Demand:
    """The same applications, asked for `scale` times as often."""
    return demand._replace(per_s=demand.per_s * scale, weights=demand.weights * scale)


def texts(choices: Choices) -> list[str]:
    """Replicas x width at parts of a device, for each engine."""
    return [
        " + ".join(f"{one.replicas} x tp{one.tensor_parallel} {one.parts}/{PARTS}" for one in choice.groups)
        for choice in choices
    ]


def geometric(values: list[float]) -> float:
    return exp(fsum(map(log, values)) / len(values)) if values else float("nan")


def line(one: Figures) -> str:
    """Of the table."""
    total = fsum(CELLS[one["cell"]][0].values())
    figures = "".join(f"{one['plan'] / one[other]:14.2f}" for other in OTHERS)
    waits = "".join(
        f"{v:10.2f}" if isinstance(v := one["latency"].get(share), float) else f"{'-':>10}" for share in ("0.7", "0.3")
    )
    rates = f"{one['plan'] * total:9.3f}{one['bound'] * total:9.3f}"
    return f"{one['cell']:12}{one['devices']:4}{rates}{figures}    {waits}  {one['latency'].get('keeps', '-')}"


def _begun() -> None:
    """A worker needs nothing; it ends with this command, however that ends."""


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", default=",".join(CELLS))
    parser.add_argument("--devices", default="4,8,16")
    parser.add_argument("--budget", type=float, default=30.0, metavar="S", help="of each plan")
    parser.add_argument("--law", default="ps", choices=["ps", "capped"])
    parser.add_argument("--processes", type=int, default=1, help="cells at a time, which share the cores")
    parser.add_argument("--json", metavar="F")
    args = parser.parse_args()
    heads = "".join(f"x {other}".rjust(14) for other in OTHERS)
    print(f"{'cell':12}GPUs   plan/s  bound/s{heads}   latency 0.7       0.3  keeps", flush=True)
    rows: list[Figures] = []
    with workers(args.processes, _begun) as pool:
        tasks = [
            pool.submit(cell, name, devices, args.budget, args.law)
            for devices in map(int, args.devices.split(","))
            for name in args.cells.split(",")
        ]
        for task in as_completed(tasks):
            if task.exception():
                print(f"a cell failed: {task.exception()}", file=sys.stderr, flush=True)
                continue
            rows.append(task.result())
            print(line(rows[-1]), flush=True)
            if args.json:
                Path(args.json).write_text(json.dumps(rows, indent=1) + "\n")
    means = "".join(f"{geometric([row['plan'] / row[other] for row in rows]):14.2f}" for other in OTHERS)
    waits = [[v for row in rows if isinstance(v := row["latency"].get(share), float)] for share in ("0.7", "0.3")]
    print(f"{'geometric mean':34}{means}    {geometric(waits[0]):10.2f}{geometric(waits[1]):10.2f}")
    return 0 if len(rows) == len(tasks) else 1


if __name__ == "__main__":
    sys.exit(main())
