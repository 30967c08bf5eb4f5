"""The simulator as the judge of plans: the same draws for each, at some multiple of the rates.

A run that cannot hold its SLOs any more ends there and then.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from math import fsum, inf
from typing import Any, NamedTuple, TypeVar

import msgspec

from hocket.planner.demand import Demand
from hocket.planner.goal import Goal, Score, Slo
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
SHORT = 60
"of a run when the time is over and nothing is known yet"
MOST_JOBS = 2000
"of a run, so that planning takes no longer than it may"
Item = TypeVar("Item")
Figures = dict[str, dict[str, float]]
"application -> mean and p95 latency, seconds"


class Verdict(NamedTuple):
    """What simulation says of a plan."""

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


# ---------------------------------------------------------------- what is run


def lasting(
    demand: Demand, goal: Goal, scale: float, most: float = MOST_JOBS, least: float = JOBS
) -> tuple[float, bool]:
    """Seconds of a run of `most` jobs at most, and whether that is as long as it should be."""
    total = float(demand.per_s.sum()) * scale
    wanted = goal.lasts_s or 0.0
    return max(least / total, min(wanted, most / total)), wanted <= max(least, most) / total


def draw(
    demand: Demand, goal: Goal, scale: float, seed: int, most: float = MOST_JOBS, least: float = JOBS
) -> list[Job]:
    """Recorded jobs, dealt out anew: each application a Poisson process at `scale` times its rate."""
    if not 0.0 < scale < inf:
        raise ValueError(f"jobs at {scale} times their rates: there is no such draw")
    lasts, _ = lasting(demand, goal, scale, most, least)
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


class _Bound:
    """One SLO in a run under way: whether its jobs can still hold it."""

    def __init__(self, slo: Slo, count: int) -> None:
        """`count`: jobs of its application in the run."""
        self.app, self._seconds, self._of_mean = slo.app, slo.seconds, slo.figure == "mean"
        # so many late jobs and the 95th percentile is late, however soon the others end
        self._most_late = count - int(0.95 * (count - 1))
        self._most_s = slo.seconds * count
        self._due: deque[tuple[float, str]] = deque()  # jobs in the order in which they will be late
        self._on_time: set[str] = set()  # of these, those that have ended
        self._late, self._total_s = 0, 0.0

    def missed(self, job: Job, at: float, jct_s: float | None) -> bool:
        """A job has arrived, or ended after `jct_s`. Whether the SLO is missed for certain."""
        if self._of_mean:
            self._total_s += jct_s or 0.0
            return self._total_s > self._most_s
        if jct_s is None:
            self._due.append((at + self._seconds, job.job))
        elif jct_s <= self._seconds:
            self._on_time.add(job.job)
        while self._due and self._due[0][0] < at:
            name = self._due.popleft()[1]
            if name in self._on_time:
                self._on_time.discard(name)
            else:
                self._late += 1
        return self._late >= self._most_late


class _Watch:
    """Ends a run that is hopeless, or for which there is no time."""

    def __init__(self, jobs: Sequence[Job], slos: Sequence[Slo], until: Callable[[], bool]) -> None:
        counts = Counter(job.app for job in jobs)
        self._bounds: dict[str, list[_Bound]] = defaultdict(list)
        for slo in slos:
            self._bounds[slo.app].append(_Bound(slo, counts[slo.app]))
        self._until = until
        self.missed = self.cut = False

    def __call__(self, job: Job, at: float, jct_s: float | None) -> bool:
        if any(bound.missed(job, at, jct_s) for bound in self._bounds[job.app]):
            self.missed = True
        elif self._until():
            self.cut = True
        return self.missed or self.cut


# ---------------------------------------------------------------- the judge


class CutError(Exception):
    """A run was cut, because the time is over."""


def _never() -> bool:
    return False


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
        until: Callable[[], bool] = _never,
    ) -> None:
        """`most`: jobs of a run; infinity for runs as long as they should be. `until` says when the time is over."""
        self.demand, self.cluster, self.models, self.goal, self.seed = demand, cluster, models, goal, seed
        self.most, self.least, self.until = most, float(JOBS), until

    def figures(self, plan: Plan, scale: float) -> Figures:
        """Mean and p95 latency at `scale` times the rates. A job that is refused counts as endless."""
        found = self._run(plan, scale, (), _never)
        assert found is not None, "nothing ends this run before its jobs"
        return found

    def holds(self, plan: Plan, scale: float) -> Figures | None:
        """As `figures`, where all SLOs hold; None where they do not, which shows soon. Raises CutError."""
        found = self._run(plan, scale, self.goal.slos, self.until)
        return found if found is not None and self.late(found) <= 0.0 else None

    def _run(self, plan: Plan, scale: float, slos: Sequence[Slo], until: Callable[[], bool]) -> Figures | None:
        jobs = draw(self.demand, self.goal, scale, self.seed, self.most, self.least)
        return self.played(plan, jobs, slos, until)

    def played(
        self, plan: Plan, jobs: Sequence[Job], slos: Sequence[Slo] = (), until: Callable[[], bool] = _never
    ) -> Figures | None:
        """Of these jobs. None if `slos` are missed for certain. Raises CutError where the time is over before."""
        watch = _Watch(jobs, slos, until)
        outcome = simulate(jobs, setup_of(plan, self.cluster, self.models), POLICY, watch=watch)
        if watch.cut:
            raise CutError
        if watch.missed:
            return None
        by_app: dict[str, list[float]] = {app: [] for app in self.demand.apps}
        for job in jobs:
            by_app[job.app].append(outcome.jct_s.get(job.job, inf))
        return {
            app: {"mean_s": fsum(own) / len(own), "p95_s": quantile(sorted(own), 0.95)} for app, own in by_app.items()
        }

    def late(self, figures: Figures) -> float:
        """By how much the worst SLO is missed, as a share of it; -1 where there is none."""
        return max((figures[slo.app][f"{slo.figure}_s"] / slo.seconds - 1.0 for slo in self.goal.slos), default=-1.0)

    def mean(self, figures: Figures) -> float:
        """Mean latency over all jobs."""
        demand = self.demand
        return fsum(
            float(per_s) * figures[app]["mean_s"] for app, per_s in zip(demand.apps, demand.per_s, strict=True)
        ) / float(demand.per_s.sum())
