"""The simulator as the judge of plans: the same draws for each, at some multiple of the rates."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from math import fsum, inf
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np

from hocket.planner.demand import Demand
from hocket.planner.goal import Goal, Score, Slo, mean_latency
from hocket.planner.inputs import Cluster, Models
from hocket.planner.plan import Plan
from hocket.planner.simulated import setup_of
from hocket.sim.experiment import simulate
from hocket.sim.results import quantile
from hocket.trace import Job

POLICY = "fcfs"
"of jobs: it needs to know nothing of them"
JOBS = 240
"of a run at least"
MOST_JOBS = 2000
"of a run, unless more are asked for"
Item = TypeVar("Item")
Figures = dict[str, dict[str, float]]
"application -> mean and p95 latency, seconds"


class Verdict(NamedTuple):
    """What is said of a plan: by the rehearsal, which the simulator checks."""

    score: Score
    scale: float
    "of the rates, at which the figures are"
    figures: Figures
    "empty of a plan that is not the best"
    differs: float = 0.0
    "by which share of itself a latency of the simulator is another on the first jobs of the run, at worst"

    def told(self) -> dict[str, Any]:
        """As plan.json's `simulated`."""
        return {"rates": round(self.scale, 4), "apps": rounded(self.figures), "differs": round(self.differs, 6)}


def rounded(figures: Figures) -> Figures:
    """To a thousandth of a second."""
    return {app: {name: round(value, 3) for name, value in own.items()} for app, own in figures.items()}


def missed_by(slos: Sequence[Slo], figures: Figures) -> float:
    """By how much the worst SLO is missed, as a share of it; -1 where there is none."""
    return max((figures[slo.app][f"{slo.figure}_s"] / slo.seconds - 1.0 for slo in slos), default=-1.0)


def mean_of(demand: Demand, figures: Figures) -> float:
    """Mean latency over all jobs."""
    return float(mean_latency(demand, np.array([figures[app]["mean_s"] for app in demand.apps])))


# ---------------------------------------------------------------- what is run


def draw(demand: Demand, goal: Goal, scale: float, seed: int, most: float = MOST_JOBS) -> list[Job]:
    """Recorded jobs, dealt out anew: each application a Poisson process at `scale` times its rate."""
    if not 0.0 < scale < inf:
        raise ValueError(f"jobs at {scale} times their rates: there is no such draw")
    total = float(demand.per_s.sum()) * scale
    lasts = max(JOBS / total, min(goal.lasts_s or 0.0, most / total))
    by_app: dict[str, list[Job]] = defaultdict(list)
    for job in demand.jobs:
        by_app[job.app].append(job)
    drawn: list[Job] = []
    for app, per_s in zip(demand.apps, demand.per_s, strict=True):
        rng = random.Random(f"{seed} {app}")
        arrivals = [rng.expovariate(float(per_s) * scale)]
        while (at := arrivals[-1] + rng.expovariate(float(per_s) * scale)) <= lasts:
            arrivals.append(at)
        for number, (at, job) in enumerate(zip(arrivals, dealt(by_app[app], len(arrivals), rng), strict=True)):
            drawn.append(msgspec.structs.replace(job, job=f"{app}-{number}", arrival_s=at))
    return sorted(drawn, key=lambda job: job.arrival_s)


def dealt(jobs: Sequence[Item], count: int, rng: random.Random) -> list[Item]:
    """So many of `jobs`, each as often as any other, and of what is left over some of each size, shuffled.

    Where few jobs are most of the work, draws with replacement differ by a quarter in their load: that would be
    what a short run measures. `jobs` are in the order of their work.
    """
    whole, left = divmod(count, len(jobs))
    first = rng.random()
    dealt = [*jobs] * whole + [jobs[int((i + first) * len(jobs) / left)] for i in range(left)]
    rng.shuffle(dealt)
    return dealt


# ---------------------------------------------------------------- the judge


class Judge:
    """Simulates plans on the same draws."""

    def __init__(
        self,
        demand: Demand,
        cluster: Cluster,
        models: Models,
        goal: Goal,
        seed: int = 1,
        most: float = MOST_JOBS,
    ) -> None:
        """`most`: jobs of a run; infinity for runs as long as they should be."""
        self.demand, self.cluster, self.models, self.goal, self.seed = demand, cluster, models, goal, seed
        self.most = most

    def figures(self, plan: Plan, scale: float) -> Figures:
        """Mean and p95 latency at `scale` times the rates."""
        return self.played(plan, draw(self.demand, self.goal, scale, self.seed, self.most))

    def played(self, plan: Plan, jobs: Sequence[Job]) -> Figures:
        """Mean and p95 latency of these jobs. One that is refused counts as endless."""
        outcome = simulate(jobs, setup_of(plan, self.cluster, self.models), POLICY)
        by_app: dict[str, list[float]] = {app: [] for app in self.demand.apps}
        for job in jobs:
            by_app[job.app].append(outcome.jct_s.get(job.job, inf))
        return {
            app: {"mean_s": fsum(own) / len(own), "p95_s": quantile(sorted(own), 0.95)}
            for app, own in by_app.items()
            if own
        }

    def late(self, figures: Figures) -> float:
        """By how much the worst SLO is missed; see `missed_by`."""
        return missed_by(self.goal.slos, figures)

    def mean(self, figures: Figures) -> float:
        """Mean latency over all jobs."""
        return mean_of(self.demand, figures)
