"""Does a plan by brute force beat the planner's? On small clusters, on the recorded jobs that the planner had.

    python benchmarks/brute.py [--cells rag-32b,...] [--devices 4] [--budget 30] [--step 2] [--law ps]

Of each workload of `benchmarks/plan.py` (but the one of five models) the planner makes a plan. Then every plan of a
grid is looked at: each model at any width, in any number of equal replicas, of any share in steps of so many sixteenths
(and the least that it needs), packed densely and spread out. Not in the grid, and open to the planner: unlike replicas
of one model, shares between the steps, roles apart. Who sustains less than GATE of what the planner's plan does on a
sketch is dropped; of the others, who sustains WITHIN times as much on any draw is measured on all. Prints how many
there were, how many passed the gate, and the best of those measured over the planner's; "-" if there was none. Exit
code 1 if one sustains more than WITHIN times as much.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, product
from math import inf
from typing import Any

import msgspec
from _plan_cells import CELLS, MEASURED_ON, PLANNED_ON, cluster, demand, models, targets

from hocket.planner.goal import Goal, Score
from hocket.planner.moves import Choices
from hocket.planner.placement import PARTS, Choice
from hocket.planner.plan import Plan
from hocket.planner.planning import plan_for
from hocket.planner.rehearsal import Rehearsal
from hocket.planner.search import Problem, Search

WITHIN, GATE = 1.02, 0.93
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
    """Prints a line; what the best of the grid sustains, over what the planner's plan does; 0 if none comes near."""
    asked = demand(CELLS[name][0], PLANNED_ON)
    problem = Problem(asked, cluster(devices), models(name), Goal(), law, stacked=False)
    goal = Goal("throughput", targets(problem, demand(CELLS[name][0], MEASURED_ON)))
    planned = plan_for(problem._replace(goal=goal), budget, time.monotonic, lambda *_: None)
    guess = planned.verdict.scale
    # Twice: runs are long enough for whoever carries as much.
    stage = Rehearsal(asked, problem.cluster, problem.models, goal, planned.plan, 2.0 * guess, most_calls=inf)
    ours, mark = stage.outcome(planned.plan, guess), stage.sketched(planned.plan, guess)
    gate, search, seen, passed = Score(0.0, GATE * mark.value), Search(problem), set[bytes](), 0
    start, wanted, best = time.monotonic(), choices(search, step), 0.0

    def ratio(plan: Plan) -> float:
        """What it sustains, over what the planner's does; 0 if it is behind on every draw."""
        pairs, fleet = zip(stage.draws, ours.each, strict=True), stage.fleet(plan)
        if not any(stage.holds(fleet, draw, WITHIN * -one.value) for draw, one in pairs):
            return 0.0
        return stage.outcome(plan, guess).score.value / ours.score.value

    with ThreadPoolExecutor(THREADS) as pool:
        while some := list(islice(wanted, AT_ONCE)):
            plans = {msgspec.json.encode(plan): plan for one in some for plan in search.packer.plans(one)}
            fresh = [plan for key, plan in plans.items() if key not in seen]
            seen.update(plans)
            near = list(pool.map(lambda plan: stage.beats(plan, gate), fresh))
            rivals = [plan for plan, is_near in zip(fresh, near, strict=True) if is_near]
            passed += len(rivals)
            best = max([best, *pool.map(ratio, rivals)])
    if not passed:
        raise RuntimeError(f"{name}: of {len(seen)} plans none came near the planner's: looked at wrongly")
    print(
        f"{name:10}{devices:4}{len(seen):8}{passed:8}{time.monotonic() - start:8.0f}"
        f"{-ours.score.value * float(asked.per_s.sum()):10.3f}{f'{best:.3f}' if best else '-':>8}",
        flush=True,
    )
    return best


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", default="rag-32b,rag-70b,crew,beam")
    parser.add_argument("--devices", type=int, default=4)
    parser.add_argument("--budget", type=float, default=30.0, metavar="S", help="of the planner")
    parser.add_argument("--step", type=int, default=2, help="sixteenths of a device")
    parser.add_argument("--law", default="ps", choices=["ps", "capped"])
    args = parser.parse_args()
    print(f"{'cell':10}GPUs{'plans':>8}{'near':>8}{'s':>8}{'planner':>10}{'best':>8}", flush=True)
    found = [brute(name, args.devices, args.budget, args.step, args.law) for name in args.cells.split(",")]
    return int(max(found) > WITHIN)


if __name__ == "__main__":
    sys.exit(main())
