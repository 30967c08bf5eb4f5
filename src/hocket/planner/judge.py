"""The simulator as the judge of finalists: the same draws for each, at the rates or up to what each sustains."""

from __future__ import annotations

import random
from collections import defaultdict
from math import fsum
from typing import Any, NamedTuple

import msgspec

from hocket.planner.demand import Demand
from hocket.planner.goal import Goal, Score
from hocket.planner.inputs import Cluster, Models
from hocket.planner.plan import Plan
from hocket.planner.simulated import setup_of
from hocket.sim.experiment import simulate
from hocket.sim.results import quantile
from hocket.trace import Job

POLICY = "fcfs"
"of jobs: it needs to know nothing of them"
JOBS = 240
"drawn a run"
LASTS = 12
"times the longest SLO that a run should last: a shorter one is over before an overload shows"
MOST_JOBS = 2000
"of a run, so that planning takes no longer than it may"
BELIEVED = 1.1
"times what the estimate says: more is not believed of a run that is too short"
STEPS = 5
"of the bisection for the sustained rate"


class Verdict(NamedTuple):
    """What simulation says of a plan."""

    score: Score
    scale: float
    "of the rates, at which the figures are"
    figures: dict[str, dict[str, float]]
    "application -> mean and p95 latency, seconds"

    def told(self) -> dict[str, Any]:
        """As plan.json's `simulated`."""
        return {"rates": round(self.scale, 4), "apps": rounded(self.figures)}


def rounded(figures: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """To a thousandth of a second."""
    return {app: {name: round(value, 3) for name, value in own.items()} for app, own in figures.items()}


def lasting(demand: Demand, goal: Goal, scale: float, most: float = MOST_JOBS) -> tuple[float, bool]:
    """Seconds of a run of `most` jobs at most, and whether that is as long as it should be."""
    total = float(demand.per_s.sum()) * scale
    wanted = LASTS * max((slo.seconds for slo in goal.slos), default=0.0)
    return max(JOBS / total, min(wanted, most / total)), wanted <= max(JOBS, most) / total


def draw(demand: Demand, goal: Goal, scale: float, seed: int, most: float = MOST_JOBS) -> list[Job]:
    """Recorded jobs, resampled: each application a Poisson process at `scale` times its rate."""
    lasts, _ = lasting(demand, goal, scale, most)
    by_app: dict[str, list[Job]] = defaultdict(list)
    for job in demand.jobs:
        by_app[job.app].append(job)
    drawn: list[Job] = []
    for app, per_s in zip(demand.apps, demand.per_s, strict=True):
        rng, at, number = random.Random(f"{seed} {app}"), 0.0, 0
        while True:
            at += rng.expovariate(1.0) / (float(per_s) * scale)
            if at > lasts and number:
                break
            job = rng.choice(by_app[app])
            drawn.append(msgspec.structs.replace(job, job=f"{app}-{number}", arrival_s=at))
            number += 1
    return sorted(drawn, key=lambda job: job.arrival_s)


class Judge:
    """Simulates plans on the same draws."""

    def __init__(
        self, demand: Demand, cluster: Cluster, models: Models, goal: Goal, seed: int = 1, most: float = MOST_JOBS
    ) -> None:
        """`most`: jobs of a run; infinity for runs as long as they should be."""
        self.demand, self.cluster, self.models, self.goal, self.seed = demand, cluster, models, goal, seed
        self.most = most
        self.runs = 0

    def figures(self, plan: Plan, scale: float) -> dict[str, dict[str, float]]:
        """Application -> mean and p95 latency at `scale` times the rates. A job that is refused counts as endless."""
        jobs = draw(self.demand, self.goal, scale, self.seed, self.most)
        outcome = simulate(jobs, setup_of(plan, self.cluster, self.models), POLICY)
        self.runs += 1
        by_app: dict[str, list[float]] = {app: [] for app in self.demand.apps}
        for job in jobs:
            by_app[job.app].append(outcome.jct_s.get(job.job, float("inf")))
        return {
            app: {"mean_s": fsum(own) / len(own), "p95_s": quantile(sorted(own), 0.95)} for app, own in by_app.items()
        }

    def late(self, figures: dict[str, dict[str, float]]) -> float:
        """By how much the worst SLO is missed, as a share of it; -1 where there is none."""
        return max((figures[slo.app][f"{slo.figure}_s"] / slo.seconds - 1.0 for slo in self.goal.slos), default=-1.0)

    def mean(self, figures: dict[str, dict[str, float]]) -> float:
        """Mean latency over all jobs."""
        demand = self.demand
        return fsum(
            float(per_s) * figures[app]["mean_s"] for app, per_s in zip(demand.apps, demand.per_s, strict=True)
        ) / float(demand.per_s.sum())

    def verdict(self, plan: Plan, predicted: float) -> Verdict:
        """Of one plan. `predicted`: the multiple of the rates that the estimate says it carries (throughput)."""
        if self.goal.objective == "throughput" and self.goal.slos:
            return self.sustained(plan, predicted)
        scale = predicted if self.goal.objective == "throughput" else 1.0
        figures = self.figures(plan, scale)
        value = -scale if self.goal.objective == "throughput" else self.mean(figures)
        return Verdict(Score(max(0.0, self.late(figures)), value), scale, figures)

    def sustained(self, plan: Plan, about: float) -> Verdict:
        """The highest multiple of the rates at which the SLOs hold, by bisection around a guess."""
        good: Verdict | None = None
        low, high, scale = 0.0, 0.0, about
        for _ in range(STEPS):
            figures = self.figures(plan, scale)
            if self.late(figures) <= 0.0:
                low, good = scale, Verdict(Score(0.0, -scale), scale, figures)
            else:
                high = scale
            if not low:
                scale = high * 0.75
            elif not high:
                scale = low * 1.25
            else:
                scale = (low * high) ** 0.5
            if not lasting(self.demand, self.goal, scale, self.most)[1]:
                scale = min(scale, BELIEVED * about)
            if scale == low:
                break
        return good or Verdict(Score(1.0, -scale), scale, figures)
