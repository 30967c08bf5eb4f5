"""How well `hocket plan` foretells what its plans do: the estimate, and the rehearsal, beside the simulator.

    python benchmarks/predictions.py [--cells rag-32b,..] [--devices 8] [--plans 200] [--budget 30] [--page F]

Random plans (widths, numbers, shares, packings) of each workload of `benchmarks/plan.py`, at a rate that overloads a
quarter of them: Kendall's tau between foretold and simulated latency of all, and how many of those that are not
overloaded are foretold within 10 % and 15 %. The estimate is told how long the run is, and is of the same jobs. The
rehearsal is of other arrivals of other jobs. "Simulated" are runs of the compiled engines, of which the simulator plays
the first three, too, and must say the same to a millionth.

Finalists: what `hocket plan` says of its best few, and what they do in two to four runs of 12 times the longest target,
on jobs and arrivals that were not planned on. Throughput: the highest rate at which the p95 targets hold. Latency: the
mean at 0.7 of that rate.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from _plan_cells import CELLS, MEASURED_ON, PLANNED_ON, cluster, demand, models, targets

from hocket.planner.demand import Demand
from hocket.planner.goal import MOST_USED, Goal, Slo
from hocket.planner.judge import Figures, Judge
from hocket.planner.placement import PARTS, Choice, place
from hocket.planner.plan import Plan
from hocket.planner.planning import plan_for
from hocket.planner.rehearsal import ROOM, Rehearsal
from hocket.planner.search import Problem, Search

OVERLOADED = 0.25
"of the random plans"
JOBS, RAREST = 2000, 400
"of a run of a random plan, in all and of each application"
CHECKED, EQUAL = 3, 1e-6
"random plans that the simulator plays, too; share by which it may differ"
SHARE = 0.7
"of the rate that the best finalist sustains, at which latency is measured"
WITHIN = (0.10, 0.15)


def kendall(one: Sequence[float], other: Sequence[float]) -> float:
    """Tau-a: pairs in the same order less pairs in the other, over all pairs."""
    a, b = np.asarray(one), np.asarray(other)
    signs = np.sign(np.subtract.outer(a, a)) * np.sign(np.subtract.outer(b, b))
    return float(signs.sum() / (len(a) * (len(a) - 1)))


def random_plans(search: Search, count: int, seed: int) -> list[Plan]:
    """Plans that have a place, no two alike."""
    rng, found = random.Random(seed), dict[str, Plan]()
    while len(found) < count:
        choices = []
        for u in range(len(search.units)):
            degree = rng.choice(search.widths[u])
            choices.append(Choice(degree, rng.choice([1, 1, 2, 3, 4]), rng.randint(search.least(u, degree), PARTS)))
        mode = rng.choice(["pack", "spread"])
        plan = place(search.units, choices, search.problem.cluster, mode, search.problem.law)
        if plan is not None:
            found.setdefault(repr(plan), plan)
    return list(found.values())


# ---------------------------------------------------------------- random plans


def at_random(problem: Problem, fresh: Demand, count: int) -> dict[str, Any]:
    """The estimate and the rehearsal beside the simulator, over random plans."""
    search, demand = Search(problem), problem.demand
    plans = random_plans(search, count, MEASURED_ON)
    fleets = [search.fleet(plan) for plan in plans]
    used = search.estimator.estimate(fleets, [1.0]).utilisation[:, 0].max(axis=-1)
    scale = float(np.quantile(MOST_USED / used, OVERLOADED))
    jobs = max(JOBS, RAREST * float(demand.per_s.sum() / demand.per_s.min()))
    search.estimator.horizon_s = jobs / (scale * float(demand.per_s.sum()))
    start = time.process_time()
    estimate = search.estimator.estimate(fleets, [scale])
    took = (time.process_time() - start) / count
    real = played(problem, plans, scale, jobs, MEASURED_ON)
    rehearsed = played(problem._replace(demand=fresh), plans, scale, jobs, PLANNED_ON)
    over = estimate.utilisation[:, 0].max(axis=-1) > MOST_USED
    told: dict[str, Any] = {
        "rate": scale * float(demand.per_s.sum()),
        "overloaded": float(over.mean()),
        "estimate_ms": 1e3 * took,
        "apps": {},
    }
    for a, app in enumerate(demand.apps):
        own: dict[str, Any] = {}
        for figure, values in (("mean_s", estimate.mean_s), ("p95_s", estimate.p95_s)):
            simulated, again = (np.array([figures[app][figure] for figures in ran]) for ran in (real, rehearsed))
            for who, guessed in (("estimate", values[:, 0, a]), ("rehearsal", again)):
                error = (guessed / simulated - 1.0)[~over]
                own[f"{who} {figure}"] = {
                    "tau": kendall(guessed, simulated),
                    "within": [float((abs(error) <= most).mean()) for most in WITHIN],
                    "errors": np.quantile(error, [0.05, 0.25, 0.5, 0.75, 0.95]).tolist(),
                }
        told["apps"][app] = own
    return told


def played(problem: Problem, plans: Sequence[Plan], scale: float, jobs: float, seed: int) -> list[Figures]:
    """Latencies of each plan in one run of so many jobs; the simulator says the same of the first few."""
    demand = problem.demand
    lasts_s = jobs / (scale * float(demand.per_s.sum()))
    goal = Goal("throughput", (Slo(demand.apps[0], "p95", lasts_s / 12.0),))
    stage = Rehearsal(demand, problem.cluster, problem.models, goal, plans[0], scale / ROOM, seed, inf)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda plan: stage.told(plan, 0, scale), plans))
    judge = Judge(demand, problem.cluster, problem.models, goal)
    for plan, figures in list(zip(plans, found, strict=True))[:CHECKED]:
        simulated = judge.played(plan, stage.jobs(0, scale))
        if any(abs(simulated[app][key] / own[key] - 1.0) > EQUAL for app, own in figures.items() for key in own):
            raise RuntimeError(f"the simulator says {simulated}, the rehearsal {figures}")
    return found


# ---------------------------------------------------------------- finalists


def finalists(problem: Problem, fresh: Demand, budget: float) -> dict[str, Any]:
    """Foretold and simulated figures of the best few plans."""
    goal = Goal("throughput", targets(problem, fresh))
    planned = plan_for(problem._replace(goal=goal), budget, time.monotonic, lambda *_: None)
    found = [(planned.plan, planned.verdict), *((one.plan, verdict) for one, verdict in planned.others)]
    stage = Rehearsal(
        *(fresh, problem.cluster, problem.models, goal, planned.plan, planned.verdict.scale, MEASURED_ON, inf)
    )
    outcomes = [stage.outcome(plan, verdict.scale) for plan, verdict in found]
    per_s = float(problem.demand.per_s.sum())
    scale = SHARE * -outcomes[0].score.value
    faster = [one._replace(per_s=one.per_s * scale, weights=one.weights * scale) for one in (problem.demand, fresh)]
    quick_goal = goal._replace(objective="latency", headroom=1.2)
    quick = plan_for(problem._replace(demand=faster[0], goal=quick_goal), budget, time.monotonic, lambda *_: None)
    there = Rehearsal(*(faster[1], problem.cluster, problem.models, quick_goal, quick.plan, 1.0, MEASURED_ON, inf))
    means = [(quick.plan, quick.verdict), *((one.plan, verdict) for one, verdict in quick.others)]
    return {
        "targets": {slo.app: slo.seconds for slo in goal.slos},
        "throughput": [
            [-verdict.score.value * per_s, -outcome.score.value * per_s]
            for (_, verdict), outcome in zip(found, outcomes, strict=True)
        ],
        "draws": [-one.value * per_s for one in outcomes[0].each],
        "latency": [[verdict.score.value, there.outcome(plan, 1.0).score.value] for plan, verdict in means],
    }


# ---------------------------------------------------------------- what is written


def lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The tables, in Markdown."""
    told = [
        "| workload | GPUs | plans | jobs/s | over | app | by | tau, mean | p95 | in 10 % | 15 % | p95 in 15 % | off |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        own = row["random"]
        for app, figures in own["apps"].items():
            for who in ("estimate", "rehearsal"):
                mean, p95 = figures[f"{who} mean_s"], figures[f"{who} p95_s"]
                told.append(
                    f"| {row['cell']} | {row['devices']} | {row['plans']} | {own['rate']:.2f} "
                    f"| {own['overloaded']:.0%} | {app} | {who} "
                    f"| {mean['tau']:.3f} | {p95['tau']:.3f} | {mean['within'][0]:.0%} | {mean['within'][1]:.0%} "
                    f"| {p95['within'][1]:.0%} | {mean['errors'][0]:+.0%} to {mean['errors'][-1]:+.0%} |"
                )
    told += [
        "",
        "| workload | GPUs | sustained: told, simulated | worst | runs of the best | mean latency | worst |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        own = row["finalists"]
        if own:
            rates = ", ".join(f"{guess:.2f}: {real:.2f}" for guess, real in own["throughput"])
            means = ", ".join(f"{guess:.2f}: {real:.2f}" for guess, real in own["latency"])
            draws = f"{min(own['draws']):.2f} to {max(own['draws']):.2f}"
            told.append(
                f"| {row['cell']} | {row['devices']} | {rates} | {_worst(own['throughput']):+.0%} | {draws} "
                f"| {means} | {_worst(own['latency']):+.0%} |"
            )
    return told


def _worst(pairs: Sequence[Sequence[float]]) -> float:
    return max((guess / real - 1.0 for guess, real in pairs if real), key=abs, default=float("nan"))


HEAD = """# Predictions, beside the simulator

Written by

    {command}

{about}

## Figures

{tables}
"""
AIMS = "## What was aimed at"
"what is written by hand, from there on, stays"


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", default=",".join(CELLS))
    parser.add_argument("--devices", default="8")
    parser.add_argument("--plans", type=int, default=200)
    parser.add_argument("--budget", type=float, default=30.0, metavar="S", help="of a plan; 0: no finalists")
    parser.add_argument("--page", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = []
    for name in args.cells.split(","):
        for devices in map(int, args.devices.split(",")):
            start = time.perf_counter()
            apps = CELLS[name][0]
            asked, fresh = demand(apps, PLANNED_ON), demand(apps, MEASURED_ON)
            problem = Problem(asked, cluster(devices), models(name), Goal())
            row: dict[str, Any] = {"cell": name, "devices": devices, "plans": args.plans}
            row["random"] = at_random(problem, fresh, args.plans)
            row["finalists"] = finalists(problem, fresh, args.budget) if args.budget else None
            row["s"] = time.perf_counter() - start
            rows.append(row)
            print(f"# {name} on {devices}: {row['s']:.0f} s", flush=True)
            if args.json:
                args.json.write_text(json.dumps(rows, indent=1) + "\n")
    tables = "\n".join(lines(rows))
    print(tables)
    if args.page:
        title, _, about = (__doc__ or "").partition("\n\n")
        about = f"{title}\n\n{about.partition(chr(10) * 2)[2]}".strip()
        command = f"python benchmarks/predictions.py {' '.join(sys.argv[1:])}"
        text = HEAD.format(command=command, about=about, tables=tables)
        before = args.page.read_text(encoding="utf-8") if args.page.exists() else ""
        args.page.write_text(text + "".join(before.partition(f"\n{AIMS}\n")[1:]), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
