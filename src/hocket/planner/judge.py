"""The simulator as the judge of finalists: the same draws for each, at the rates or up to what each sustains.

What decides how many can be judged is how soon a run may end. One that cannot hold its SLOs any more ends there and
then, and a finalist that does not hold at what another sustains is looked at no further. Two are judged at a time, one
a process; what comes out does not depend on how many processes there are.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from math import fsum, inf
from typing import Any, NamedTuple

import msgspec

from hocket.planner.demand import Demand
from hocket.planner.goal import Goal, Score, Slo
from hocket.planner.inputs import Cluster, Models
from hocket.planner.plan import Plan
from hocket.planner.simulated import setup_of
from hocket.sim.experiment import simulate
from hocket.sim.results import quantile
from hocket.sim.workers import FORKS, cores, workers
from hocket.trace import Job

POLICY = "fcfs"
"of jobs: it needs to know nothing of them"
JOBS = 240
"drawn a run"
SHORT = 60
"drawn a run when the time is over and nothing is known yet"
MOST_JOBS = 2000
"of a run, so that planning takes no longer than it may"
BELIEVED = 1.1
"times what the estimate says: more is not believed of a run that is too short"
STEPS = 6
"of the bisection for the sustained rate"
NEAR = 1.02
"at which it ends; by less than that no finalist beats another"
TOGETHER = 2
"finalists that are judged at one time"

Figures = dict[str, dict[str, float]]
"application -> mean and p95 latency, seconds"


class Verdict(NamedTuple):
    """What simulation says of a plan."""

    score: Score
    scale: float
    "of the rates, at which the figures are"
    figures: Figures
    "empty of a finalist that does not hold where another does"
    short: bool = False
    "by a run for which there was hardly time: it may not show an overload"

    def told(self) -> dict[str, Any]:
        """As plan.json's `simulated`."""
        return {"rates": round(self.scale, 4), "apps": rounded(self.figures)}


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
        for number, (at, job) in enumerate(zip(arrivals, _dealt(by_app[app], len(arrivals), rng), strict=True)):
            drawn.append(msgspec.structs.replace(job, job=f"{app}-{number}", arrival_s=at))
    return sorted(drawn, key=lambda job: job.arrival_s)


def _dealt(jobs: Sequence[Job], count: int, rng: random.Random) -> list[Job]:
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

    def _run(
        self, plan: Plan, scale: float, slos: Sequence[Slo], until: Callable[[], bool], short: bool = False
    ) -> Figures | None:
        """None if `slos` are missed for certain. Raises CutError where the time is over before."""
        jobs = draw(self.demand, self.goal, scale, self.seed, *((SHORT, SHORT) if short else (self.most, self.least)))
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

    def verdict(self, plan: Plan, predicted: float, bar: float = 0.0) -> Verdict:
        """Of one plan. `predicted`: the multiple of the rates that the estimate says it carries (throughput).

        `bar`: one that another sustains; what does not hold a little above it is not looked at closely.
        """
        throughput = self.goal.objective == "throughput"
        if throughput and self.goal.slos:
            return self.sustained(plan, predicted, bar)
        return self._at(plan, predicted if throughput else 1.0)

    def _at(self, plan: Plan, scale: float) -> Verdict:
        """At one multiple of the rates, by a short run where there is no time for another."""
        short = False
        try:
            found = self._run(plan, scale, (), self.until)
        except CutError:
            found, short = self._run(plan, scale, (), _never, short=True), True
        assert found is not None, "there is no SLO to end it"
        value = -scale if self.goal.objective == "throughput" else self.mean(found)
        return Verdict(Score(max(0.0, self.late(found)), value), scale, found, short)

    def sustained(self, plan: Plan, about: float, bar: float = 0.0) -> Verdict:
        """The highest multiple of the rates at which the SLOs hold, to NEAR, by bisection around a guess."""
        good: Verdict | None = None
        low = high = 0.0
        scale = NEAR * bar if bar else about
        try:
            for _ in range(STEPS):
                figures = self.holds(plan, scale)
                if figures is not None:
                    low, good = scale, Verdict(Score(0.0, -scale), scale, figures)
                else:
                    high = scale
                    if scale <= NEAR * bar:
                        return Verdict(Score(1.0, -scale), scale, {})
                scale = self._next(low, high, about)
                if scale <= low * NEAR or (high and high <= low * NEAR):
                    break
        except CutError:
            pass
        return good or self._at(plan, high or scale)

    def _next(self, low: float, high: float, about: float) -> float:
        """Where to look, between what holds and what does not (0: not known)."""
        if not low:
            return high * 0.75
        scale = (low * high) ** 0.5 if high else max(about, low * 1.25)
        if not lasting(self.demand, self.goal, scale, self.most)[1]:
            scale = min(scale, max(low, BELIEVED * about))
        return scale


# ---------------------------------------------------------------- several

_shared: dict[str, Any] = {}
"what a worker process works with"


def race(
    judge: Judge,
    finalists: Sequence[tuple[Plan, float]],
    told: Callable[[Verdict], None] = lambda verdict: None,
    processes: int | None = None,
) -> list[Verdict]:
    """Verdicts of plans, each with what the estimate says it carries, in their order; as many as there is time for.

    Two at a time, against the best before them. There is one at least.
    """
    count = min(processes or cores(), len(finalists), TOGETHER)
    if count < 2 or not FORKS:
        return _race(lambda some, bar: [judge.verdict(*finalists[i], bar) for i in some], judge, len(finalists), told)
    with workers(count, _prepare, judge, finalists) as pool:
        return _race(lambda some, bar: list(pool.map(_verdict, some, [bar] * len(some))), judge, len(finalists), told)


def _race(
    verdicts: Callable[[Sequence[int], float], list[Verdict]], judge: Judge, count: int, told: Callable[[Verdict], None]
) -> list[Verdict]:
    found: list[Verdict] = []
    for start in range(0, count, TOGETHER):
        if found and judge.until():
            break
        bar = max((verdict.scale for verdict in found if verdict.score.holds), default=0.0)
        for verdict in verdicts(range(start, min(start + TOGETHER, count)), bar):
            found.append(verdict)
            told(verdict)
    return found


def _prepare(judge: Judge, finalists: Sequence[tuple[Plan, float]]) -> None:
    _shared["judge"], _shared["finalists"] = judge, finalists


def _verdict(index: int, bar: float) -> Verdict:
    verdict: Verdict = _shared["judge"].verdict(*_shared["finalists"][index], bar)
    return verdict
