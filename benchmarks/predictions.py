"""How well `hocket plan` foretells what its plans do: the estimate beside the simulator.

    python benchmarks/predictions.py [--cells rag-32b,..] [--devices 8] [--plans 200] [--finalists 4] [--page F]

Random plans (widths, numbers, shares, packings) of each workload of `benchmarks/plan.py`, at a rate that overloads a
quarter of them: Kendall's tau between the estimated and the simulated latency of all, and how many of those that are
not overloaded are estimated within 10 % and 15 %. All plans get the same jobs, resampled from those of the
estimate, which is told how long the run is: what is off is the formula, not the sample.

Finalists: the best by the estimate of the search, each of another kind (how wide, how many). Throughput: the highest
rate at which the p95 targets hold, estimated and simulated, in runs of 12 times the longest target on jobs and
arrivals that were not planned on; of the best, over three seeds. Latency: the mean at 0.7 of that rate.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from math import inf
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from _plan_cells import CELLS, MEASURED_ON, PLANNED_ON, cluster, demand, models, sustained, targets

from hocket.planner.demand import Demand
from hocket.planner.goal import MOST_USED, Goal, Slo
from hocket.planner.judge import Judge
from hocket.planner.placement import PARTS, Choice, place
from hocket.planner.plan import Plan
from hocket.planner.search import Problem, Search

OVERLOADED = 0.25
"of the random plans"
JOBS, RAREST = 480, 100
"of a run of a random plan, in all and of each application"
RUNS = 3
"seeds on which the best finalist is measured"
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


# ---------------------------------------------------------------- two processes

_work: list[Callable[[Any], Any]] = []


def _do(task: Any) -> Any:
    return _work[0](task)


def spread(work: Callable[[Any], Any], tasks: Sequence[Any]) -> list[Any]:
    """`work` of each task, in two processes that have what it closes over."""
    _work[:] = [work]
    with ProcessPoolExecutor(2, get_context("fork")) as pool:
        return list(pool.map(_do, tasks))


# ---------------------------------------------------------------- random plans


def at_random(problem: Problem, count: int) -> dict[str, Any]:
    """The estimate beside the simulator, over random plans."""
    search = Search(problem)
    plans = random_plans(search, count, MEASURED_ON)
    fleets = [search.fleet(plan) for plan in plans]
    used = search.estimator.estimate(fleets, [1.0]).utilisation[:, 0].max(axis=-1)
    scale = float(np.quantile(MOST_USED / used, OVERLOADED))
    rates = problem.demand.per_s
    jobs = max(JOBS, RAREST * float(rates.sum() / rates.min()))
    search.estimator.horizon_s = jobs / (scale * float(rates.sum()))
    start = time.process_time()
    estimate = search.estimator.estimate(fleets, [scale])
    took = (time.process_time() - start) / count
    endless = Goal(slos=(Slo(problem.demand.apps[0], "mean", inf),))  # so that a run has as many jobs as it may
    judge = Judge(problem.demand, problem.cluster, problem.models, endless, MEASURED_ON, jobs)

    def simulated(plan: Plan) -> dict[str, dict[str, float]]:
        return judge.figures(plan, scale)

    ran = spread(simulated, plans)
    over = estimate.utilisation[:, 0].max(axis=-1) > MOST_USED
    told: dict[str, Any] = {
        "rate": scale * float(problem.demand.per_s.sum()),
        "overloaded": float(over.mean()),
        "estimate_ms": 1e3 * took,
        "used": estimate.utilisation[:, 0].max(axis=-1).tolist(),
        "apps": {},
    }
    for a, app in enumerate(problem.demand.apps):
        own: dict[str, Any] = {}
        for figure, values in (("mean_s", estimate.mean_s), ("p95_s", estimate.p95_s)):
            guessed, real = values[:, 0, a], np.array([figures[app][figure] for figures in ran])
            error = (guessed / real - 1.0)[~over]
            own[figure] = {
                "tau": kendall(guessed, real),
                "tau_carried": kendall(guessed[~over], real[~over]),
                "within": [float((abs(error) <= most).mean()) for most in WITHIN],
                "errors": np.quantile(error, [0.05, 0.25, 0.5, 0.75, 0.95]).tolist(),
                "pairs": [guessed.tolist(), real.tolist()],
            }
        told["apps"][app] = own
    return told


# ---------------------------------------------------------------- finalists


def _best(search: Search, seconds: float, most: int) -> list[Plan]:
    """The best of each of the first few kinds, and what the estimate says of it."""
    start = time.monotonic()
    kinds: dict[Any, Any] = {}
    for one in search.run(lambda: time.monotonic() - start > seconds, lambda tried, score: None):
        kinds.setdefault(tuple((choice.tensor_parallel, choice.replicas) for choice in one.choices), one)
    return list(kinds.values())[:most]


def finalists(problem: Problem, fresh: Demand, seconds: float, most: int) -> dict[str, Any]:
    """Predicted and simulated figures of the search's best."""
    goal = Goal("throughput", targets(problem, fresh))
    found: list[Any] = _best(Search(problem._replace(goal=goal)), seconds, most)

    def measured(task: tuple[Plan, float, int]) -> float:
        plan, about, seed = task
        return sustained(Judge(fresh, problem.cluster, problem.models, goal, seed, inf), plan, about)

    tasks = [(one.plan, -one.score.value, MEASURED_ON) for one in found]
    tasks += [(found[0].plan, -found[0].score.value, MEASURED_ON + i) for i in range(1, RUNS)]
    rates = spread(measured, tasks)
    per_s = float(problem.demand.per_s.sum())
    scale = SHARE * max(rates[: len(found)])
    at_rate = {"per_s": problem.demand.per_s * scale, "weights": problem.demand.weights * scale}
    asked = problem._replace(demand=problem.demand._replace(**at_rate), goal=Goal("latency"))
    quick: list[Any] = _best(Search(asked), seconds, most)
    judge = Judge(fresh, problem.cluster, problem.models, goal, MEASURED_ON, inf)

    def mean(plan: Plan) -> float:
        return judge.mean(judge.figures(plan, scale))

    means = spread(mean, [one.plan for one in quick])
    return {
        "targets": {slo.app: slo.seconds for slo in goal.slos},
        "throughput": [[-one.score.value * per_s, rate * per_s] for one, rate in zip(found, rates, strict=False)],
        "seeds": [rate * per_s for rate in (rates[0], *rates[len(found) :])],
        "latency": [[one.score.value, value] for one, value in zip(quick, means, strict=True)],
    }


# ---------------------------------------------------------------- what is written


def lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The tables, in Markdown."""
    told = [
        "| workload | GPUs | plans | jobs/s | over | app | tau, mean | p95 | mean in 10 % | 15 % | p95 in 15 % | off |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        own = row["random"]
        for app, figures in own["apps"].items():
            mean, p95 = figures["mean_s"], figures["p95_s"]
            told.append(
                f"| {row['cell']} | {row['devices']} | {len(own['used'])} | {own['rate']:.2f} "
                f"| {own['overloaded']:.0%} | {app} "
                f"| {mean['tau']:.3f} | {p95['tau']:.3f} | {mean['within'][0]:.0%} | {mean['within'][1]:.0%} "
                f"| {p95['within'][1]:.0%} | {mean['errors'][0]:+.0%} to {mean['errors'][-1]:+.0%} |"
            )
    told += [
        "",
        "| workload | GPUs | sustained: predicted, simulated | worst | three seeds | mean latency | worst |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        own = row["finalists"]
        if own:
            rates = ", ".join(f"{guess:.2f}: {real:.2f}" for guess, real in own["throughput"])
            means = ", ".join(f"{guess:.2f}: {real:.2f}" for guess, real in own["latency"])
            seeds = f"{min(own['seeds']):.2f} to {max(own['seeds']):.2f}"
            told.append(
                f"| {row['cell']} | {row['devices']} | {rates} | {_worst(own['throughput']):+.0%} | {seeds} "
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


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", default=",".join(CELLS))
    parser.add_argument("--devices", default="8")
    parser.add_argument("--plans", type=int, default=200)
    parser.add_argument("--finalists", type=int, default=4, help="0: none")
    parser.add_argument("--search", type=float, default=8.0, metavar="S", help="seconds of a search")
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
            row: dict[str, Any] = {"cell": name, "devices": devices, "random": at_random(problem, args.plans)}
            row["finalists"] = finalists(problem, fresh, args.search, args.finalists) if args.finalists else None
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
        args.page.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
