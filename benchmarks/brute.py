"""Does any plan of a small cluster beat the planner's? All of them, by brute force, on the planner's own jobs.

    python benchmarks/brute.py [--cells rag-32b,...] [--devices 4] [--budget 30] [--step 4] [--law ps]

Of each workload of `benchmarks/plan.py` the planner makes a plan. Then every other one is looked at: each model at any
width, in any number of equal replicas, of any share in steps of so many sixteenths (and the least that it needs),
packed densely and spread out. Who sustains more on the rehearsal's sketch is measured on all draws, as the planner's
plan is. Prints how many there were, and the best of them beside the planner's. Exit code 1 if one sustains more than
WITHIN times as much.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, product
from typing import Any

from _plan_cells import CELLS, MEASURED_ON, PLANNED_ON, cluster, demand, models, targets

from hocket.planner.goal import Goal
from hocket.planner.moves import Choices
from hocket.planner.placement import PARTS, Choice
from hocket.planner.plan import Plan
from hocket.planner.planning import plan_for
from hocket.planner.rehearsal import Rehearsal
from hocket.planner.search import Problem, Search

WITHIN = 1.02
THREADS, AT_ONCE = 2, 400


def choices(search: Search, step: int) -> Iterator[Choices]:
    """Every one of equal replicas that is no larger than the cluster."""
    room = search.packer.parts
    each = [
        [
            Choice(degree, replicas, parts)
            for degree in widths
            for parts in sorted({search.least(u, degree), *range(step, PARTS + 1, step)})
            if parts >= search.least(u, degree)
            for replicas in range(1, room // (degree * parts) + 1)
        ]
        for u, widths in enumerate(search.widths)
    ]
    return (found for found in product(*each) if sum(one.taken for one in found) <= room)


def brute(name: str, devices: int, budget: float, step: int, law: Any) -> float:
    """Prints a line; what the best sustains, over what the planner's plan does."""
    asked = demand(CELLS[name][0], PLANNED_ON)
    problem = Problem(asked, cluster(devices), models(name), Goal(), law, stacked=False)
    goal = Goal("throughput", targets(problem, demand(CELLS[name][0], MEASURED_ON)))
    planned = plan_for(problem._replace(goal=goal), budget, time.monotonic, lambda *_: None)
    stage = Rehearsal(asked, problem.cluster, problem.models, goal, planned.plan, planned.verdict.scale)
    ours, mark = stage.outcome(planned.plan, planned.verdict.scale), stage.sketched(planned.plan, planned.verdict.scale)
    search, looked, best = Search(problem), 0, ours
    start, wanted = time.monotonic(), choices(search, step)
    with ThreadPoolExecutor(THREADS) as pool:
        while some := list(islice(wanted, AT_ONCE)):
            plans: list[Plan] = [plan for one in some for plan in search.packer.plans(one)]
            looked += len(plans)
            better = list(pool.map(lambda plan: stage.beats(plan, mark), plans))
            found = [plan for plan, is_better in zip(plans, better, strict=True) if is_better]
            best = min([best, *(stage.outcome(plan, -mark.value) for plan in found)], key=lambda one: one.score)
    ratio = best.score.value / ours.score.value
    rate = float(asked.per_s.sum())
    print(
        f"{name:10}{devices:3}{looked:9}{time.monotonic() - start:8.0f} s"
        f"{-ours.score.value * rate:10.3f}{-best.score.value * rate:10.3f}{ratio:8.3f}",
        flush=True,
    )
    return ratio


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", default="rag-32b,rag-70b,crew,beam")
    parser.add_argument("--devices", type=int, default=4)
    parser.add_argument("--budget", type=float, default=30.0, metavar="S", help="of the planner")
    parser.add_argument("--step", type=int, default=4, help="sixteenths of a device")
    parser.add_argument("--law", default="ps", choices=["ps", "capped"])
    args = parser.parse_args()
    print(f"{'cell':10}GPUs{'plans':>8}{'took':>10}{'planner':>10}{'best':>10}{'ratio':>8}", flush=True)
    found = [brute(name, args.devices, args.budget, args.step, args.law) for name in args.cells.split(",")]
    return int(max(found) > WITHIN)


if __name__ == "__main__":
    sys.exit(main())
