"""What `hocket plan` gains over whole devices dealt out by hand: sustained rates and latency, simulated.

    python benchmarks/plan.py [--cells rag-32b,...] [--devices 4,8,16] [--budget 30] [--law ps] [--json F]

Cells: RAG with a 32B and with a 70B generator, beam search with a reward model, a crew of coding agents, RAG and beam
search together, each on 4, 8 and 16 H100s in domains of 8. Method: the p95 target of each application is three times
its unloaded p95 under `k8s-default`. Sustained is the highest rate at which all targets hold, by bisection (to 2 %),
in runs of at least 12 times the longest target, on jobs and arrivals that were not planned on. 90 % of memory is
usable. Latency: the mean at 0.7 of the rate that `k8s-best` sustains, of the plan for that rate with headroom 1.3: by
the estimate, which is not checked here, it carries 90 % of what `k8s-best` does. Prints a table; the last line has
geometric means.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from math import exp, fsum, inf, log
from pathlib import Path
from typing import Any

from _plan_cells import CELLS, MEASURED_ON, PLANNED_ON, cluster, demand, models, sustained, targets

from hocket.errors import InputError
from hocket.planner.demand import Demand
from hocket.planner.goal import Goal
from hocket.planner.judge import Judge
from hocket.planner.plan import Plan
from hocket.planner.planning import bound, plan_for
from hocket.planner.search import Problem, Search

OVER = 1.02
"times the bound that a finite run may seem to sustain"


def cell(name: str, devices: int, budget: float, law: Any) -> dict[str, Any]:
    """All figures of one cell."""
    apps = CELLS[name][0]
    asked, fresh = demand(apps, PLANNED_ON), demand(apps, MEASURED_ON)
    problem = Problem(asked, cluster(devices), models(name), Goal(), law)
    slos = targets(problem, fresh)
    goal = Goal("throughput", slos)
    judge = Judge(fresh, problem.cluster, problem.models, goal, MEASURED_ON, inf)
    told: dict[str, Any] = {"cell": name, "devices": devices, "law": law, "targets": {s.app: s.seconds for s in slos}}
    plans, rates = {}, {}
    for planner in ("k8s-default", "k8s-best", "whole-best", "aggregate", ""):
        start = time.perf_counter()
        planned = plan_for(problem._replace(goal=goal), budget, time.monotonic, lambda *_: None, planner)
        key = planner or "plan"
        told[f"{key} s"] = round(time.perf_counter() - start, 1)
        plans[key], rates[key] = planned.plan, sustained(judge, planned.plan, planned.verdict.scale)
        told[key] = round(rates[key], 4)
        told[f"{key} choices"] = [list(choice) for choice in planned.candidate.choices]
        if not planner:
            told["predicted"] = planned.plan.predicted["carries"]
    told["bound"] = bound(Search(problem))["carries"]
    if max(rates.values()) > OVER * told["bound"]:
        raise SystemExit(
            f"{name} on {devices}: {max(rates.values())} sustained, bounded by {told['bound']}: measured wrongly"
        )
    told["latency"] = latency(problem, plans["k8s-best"], rates["k8s-best"], budget, fresh, goal)
    return told


def latency(problem: Problem, best: Plan, rate: float, budget: float, fresh: Demand, long: Goal) -> dict[str, Any]:
    """Mean latency of `k8s-best` over that of the plan, at shares of what the former sustains.

    `long`: the goal by whose targets runs are as long as they should be.
    """
    told = {}
    for share in (0.7, 0.3):
        scale = share * rate
        goal = Goal("latency", headroom=0.9 / share if share == 0.7 else 1.2)
        asked = problem._replace(demand=problem.demand._replace(**_scaled(problem.demand, scale)), goal=goal)
        judge = Judge(fresh._replace(**_scaled(fresh, scale)), problem.cluster, problem.models, long, MEASURED_ON, inf)
        try:
            plan = plan_for(asked, budget, time.monotonic, lambda *_: None).plan
        except InputError as error:
            told[str(share)] = str(error)
            continue
        ours, theirs = (judge.mean(judge.figures(one, 1.0)) for one in (plan, best))
        told[str(share)] = round(theirs / ours, 3)
    return told


def _scaled(demand: Demand, scale: float) -> dict[str, Any]:
    return {"per_s": demand.per_s * scale, "weights": demand.weights * scale}


def geometric(values: list[float]) -> float:
    return exp(fsum(map(log, values)) / len(values)) if values else float("nan")


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", default=",".join(CELLS))
    parser.add_argument("--devices", default="4,8,16")
    parser.add_argument("--budget", type=float, default=30.0, metavar="S", help="of each plan")
    parser.add_argument("--law", default="ps", choices=["ps", "capped"])
    parser.add_argument("--json", metavar="F")
    args = parser.parse_args()
    rows = []
    names = ("k8s-default", "k8s-best", "whole-best", "aggregate")
    heads = "".join(f"{'x ' + name:>14}" for name in names)
    print(f"{'cell':12}GPUs   plan/s  bound/s{heads}   latency 0.7       0.3")
    for name in args.cells.split(","):
        for devices in map(int, args.devices.split(",")):
            one = cell(name, devices, args.budget, args.law)
            rows.append(one)
            total = fsum(CELLS[name][0].values())
            figures = "".join(f"{one['plan'] / one[other]:14.2f}" for other in names)
            waits = "".join(f"{v:10.2f}" if isinstance(v, float) else f"{'-':>10}" for v in one["latency"].values())
            rates = f"{one['plan'] * total:9.3f}{one['bound'] * total:9.3f}"
            print(f"{name:12}{devices:4}{rates}{figures}    {waits}", flush=True)
            if args.json:
                Path(args.json).write_text(json.dumps(rows, indent=1) + "\n")
    means = "".join(f"{geometric([row['plan'] / row[other] for row in rows]):14.2f}" for other in names)
    waits = [[v for row in rows if isinstance(v := row["latency"][share], float)] for share in ("0.7", "0.3")]
    print(f"{'geometric mean':34}{means}    {geometric(waits[0]):10.2f}{geometric(waits[1]):10.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
