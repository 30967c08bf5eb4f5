"""The rehearsal: plans on the same jobs by compiled engines, thousands of runs a minute. What a search climbs by.

It tells candidates apart, and says what the chosen one does; the simulator checks that. Several draws of jobs are held
fixed, and a shorter one, the sketch. A draw has as many jobs whatever the rate: they come the faster, so that what a
plan sustains on it is one number. Most plans do worse than another on the sketch, which one run shows, or part of one.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from math import ceil, exp, fsum, inf, log
from typing import NamedTuple

import msgspec
import numpy as np

from hocket.planner.arrays import NEVER, Fleet, book_of, fleet_of
from hocket.planner.compiled import COMPILED
from hocket.planner.demand import Demand, Floats, Ints
from hocket.planner.engines import play
from hocket.planner.goal import Goal, Score, Slo
from hocket.planner.inputs import Cluster, Models
from hocket.planner.judge import Figures, dealt, mean_of, missed_by
from hocket.planner.plan import Plan
from hocket.sim.engine import TICKS_A_SECOND, ticks
from hocket.sim.results import quantile
from hocket.trace import Job

SEED = 11
LONGEST_S = 2e6
"of a run: 23 days, for ticks end at 100"
ROOM = 1.25
"times what the first plan is thought to carry: so much more a plan may carry, and its runs are long enough"
MOST_CALLS, LARGE, FEWEST = 1_000_000, 32, 240 if COMPILED else 60
"of a draw; devices, of more than which a draw has so much fewer; jobs of a draw, however many calls they make"
SLOWER = 1.0 if COMPILED else 50.0
"times that a run takes longer: draws have so many fewer calls"
SKETCHED, SKETCHED_JOBS, SKETCHED_MOST = 0.2, 300, 0.5
"""of the jobs of a run that is long enough, or of the rarest application, what the sketch has: the more of both, less
where draws have fewer, and no more than that share of a draw"""
TAIL = 0.9, 0.98
"of its jobs, those whose mean stands for the p95 on the sketch: one number of few jobs is chance, a mean is less so"
CALLS = 10_000
"of a run that tells latencies without load, where there are no SLOs"
IN_ALL, FEWEST_DRAWS, MOST_DRAWS = 2000, 2, 4
"jobs of the rarest application in all draws together; how many draws that may be"
BELIEVED = 1.1
"times what is thought: more is not believed of runs that are too short"
NEAR, ENDLESS = 1.01, 100.0
"to which a sustained rate is found; times a guess, above which it is not looked for: few jobs may hold at any rate"
BETTER = 1.003
"times as good as another: less is noise"
CROWDED, UNLOADED = 3.0, 1e-3
"times its p95 at so little of the rates: an application that takes longer is overloaded, where no SLO says otherwise"


class Draw(NamedTuple):
    """Jobs in the order of their arrival."""

    arrivals: Floats
    "seconds, at the rates that are asked for"
    drawn: Ints
    "the recorded job that each is a copy of"
    app: Ints
    most: Ints
    "late jobs of each application with which its 95th percentile is late, or the tail that stands for it"
    tail: bool = False
    "whether it does"

    @property
    def slowest(self) -> float:
        """The multiple of the rates at which it is as long as ticks may count: nothing is loaded there."""
        return float(self.arrivals[-1]) / LONGEST_S


class Outcome(NamedTuple):
    """Of one plan."""

    score: Score
    "over all draws"
    each: tuple[Score, ...]
    "of each draw; a multiple of the rates is the highest that holds on it"

    @property
    def sustained(self) -> float:
        """The multiple of the rates that holds on all draws."""
        return min(-one.value for one in self.each)


class Rehearsal:
    """Plays plans for one demand. `slos`: what must hold; where none are given, what stands for them."""

    def __init__(
        self,
        demand: Demand,
        cluster: Cluster,
        models: Models,
        goal: Goal,
        first: Plan,
        about: float,
        seed: int = SEED,
        most_calls: float | None = None,
    ) -> None:
        """`about`: times the rates that `first`, a plan, is thought to carry. `most_calls` of a draw: MOST_CALLS."""
        self.demand, self.cluster, self.models, self.goal = demand, cluster, models, goal
        self.throughput = goal.objective == "throughput"
        self._about = about if self.throughput else goal.headroom
        self._book = book_of(demand)
        calls, fewer = _calls(demand), SLOWER * max(1.0, len(cluster.devices) / LARGE)
        self._within = np.full(len(demand.apps), NEVER)
        self.slos = goal.slos or self._crowded(first, max(FEWEST, round(CALLS / calls)), f"{seed} alone")
        most_calls = (MOST_CALLS if most_calls is None else most_calls) / fewer
        wanted = self._length()
        jobs = max(FEWEST, ceil(min(wanted, most_calls / calls)))
        self._most = inf if jobs >= wanted else BELIEVED * self._about
        rarest = float(demand.per_s.min() / demand.per_s.sum())
        draws = min(MOST_DRAWS, max(FEWEST_DRAWS, ceil(IN_ALL / (jobs * rarest))))
        self.draws = [self._draw(jobs, f"{seed} {number}") for number in range(draws)]
        enough = max(SKETCHED * wanted, SKETCHED_JOBS / rarest)
        short = self._draw(max(FEWEST, round(min(SKETCHED_MOST * jobs, enough / fewer))), f"{seed} sketch")
        counts = np.bincount(short.app, minlength=len(demand.apps))
        self.sketch = short._replace(most=np.array([count - _tail(count).start for count in counts]), tail=True)
        for slo in self.slos:
            if slo.figure == "p95":
                app = demand.apps.index(slo.app)
                self._within[app] = min(self._within[app], ticks(slo.seconds))

    def _length(self) -> float:
        """Jobs of a run that is long enough for what may be carried."""
        per_s = float(self.demand.per_s.sum())
        lasts_s = self.goal._replace(slos=self.slos).lasts_s
        assert lasts_s is not None, "there are SLOs, or what stands for them"
        return lasts_s * per_s * self._about * (ROOM if self.throughput else 1.0)

    def _draw(self, jobs: int, seed: str) -> Draw:
        """Each application a Poisson process, its recorded jobs dealt out."""
        demand, taken = self.demand, list[tuple[float, int, int]]()
        places: dict[str, list[int]] = defaultdict(list)
        for number, job in enumerate(demand.jobs):
            places[job.app].append(number)
        for app, (name, per_s) in enumerate(zip(demand.apps, demand.per_s, strict=True)):
            rng, at = random.Random(f"{seed} {name}"), 0.0
            count = max(1, round(jobs * float(per_s / demand.per_s.sum())))
            for number in dealt(places[name], count, rng):
                at += rng.expovariate(float(per_s))
                taken.append((at, number, app))
        arrivals, drawn, apps = zip(*sorted(taken), strict=True)
        counts = np.bincount(apps, minlength=len(demand.apps))
        most = np.array([count - int(0.95 * (count - 1)) for count in counts])
        return Draw(np.array(arrivals), np.array(drawn), np.array(apps), most)

    def _crowded(self, first: Plan, jobs: int, seed: str) -> tuple[Slo, ...]:
        alone = self.figures(self.fleet(first), self._draw(jobs, seed), UNLOADED)
        assert alone is not None, "nothing gives this run up"
        return tuple(Slo(app, "p95", CROWDED * own["p95_s"]) for app, own in alone.items())

    # ---------------------------------------------------------------- runs

    def fleet(self, plan: Plan) -> Fleet:
        """A plan as the engines see it."""
        return fleet_of(plan, self.demand, self.cluster, self.models)

    def figures(self, fleet: Fleet, draw: Draw, scale: float, ends_early: bool = False) -> Figures | None:
        """Mean and p95 latency at `scale` times the rates. None if a p95 is missed for certain, with `ends_early`."""
        scale = max(scale, draw.slowest)
        within = self._within if ends_early else np.full(len(self._within), NEVER)
        took, missed = play(self._book, fleet, _ticks(draw.arrivals / scale), draw.drawn, within, draw.most)
        if missed:
            return None
        jct_s = took / TICKS_A_SECOND
        found: Figures = {}
        for app, name in enumerate(self.demand.apps):
            own = np.sort(jct_s[draw.app == app])
            if not len(own):
                continue  # the first few jobs of a draw
            high = own[_tail(len(own))].mean() if draw.tail else quantile(own.tolist(), 0.95)
            found[name] = {"mean_s": float(own.mean()), "p95_s": float(high)}
        return found

    def late(self, figures: Figures) -> float:
        """By how much the worst SLO is missed, as a share of it."""
        return missed_by(self.slos, figures)

    def holds(self, fleet: Fleet, draw: Draw, scale: float) -> bool:
        """Whether all SLOs hold at `scale` times the rates."""
        if scale > self._most and not draw.tail:
            return False
        figures = self.figures(fleet, draw, scale, ends_early=True)
        return figures is not None and self.late(figures) <= 0.0

    def _sustained(self, fleet: Fleet, draw: Draw, about: float) -> float:
        """The highest multiple of the rates at which all SLOs hold, to NEAR, looked for around a guess."""
        low = high = about = about if draw.tail else min(about, self._most)
        step = NEAR**2
        if self.holds(fleet, draw, about):
            while self.holds(fleet, draw, high := low * step):
                low, step = high, step**2
                if low > ENDLESS * about:
                    return low
        else:
            while not self.holds(fleet, draw, low := high / step):
                high, step = low, step**2
                if low < UNLOADED * about:
                    return UNLOADED * about
        while high / low > NEAR + 1e-9:
            middle = (low * high) ** 0.5
            low, high = (middle, high) if self.holds(fleet, draw, middle) else (low, middle)
        return low

    def _appraised(self, fleet: Fleet, draw: Draw, bar: Score | None) -> Score:
        """For latency. `bar`: of another plan; one that misses an SLO is not looked at closely where that does not."""
        hasty = bar is not None and bar.holds
        figures = self.figures(fleet, draw, self.goal.headroom, ends_early=hasty)
        if figures is None:
            return Score(1.0, inf)
        violation = max(0.0, self.late(figures))
        if hasty and violation:
            return Score(violation, inf)
        now = self.figures(fleet, draw, 1.0)
        assert now is not None, "nothing gives this run up"
        return Score(violation, mean_of(self.demand, now))

    # ---------------------------------------------------------------- plans

    def _score(self, fleet: Fleet, draw: Draw, about: float) -> Score:
        if self.throughput:
            return Score(0.0, -self._sustained(fleet, draw, about))
        return self._appraised(fleet, draw, None)

    def outcome(self, plan: Plan, about: float) -> Outcome:
        """Of a plan. `about`: what it may carry."""
        return self.over([self.drawn(plan, number, about) for number in range(len(self.draws))])

    def drawn(self, plan: Plan, number: int, about: float) -> Score:
        """Of a plan, on one of the draws. `about`: what it may carry."""
        return self._score(self.fleet(plan), self.draws[number], about)

    def over(self, each: Sequence[Score]) -> Outcome:
        """From what a plan does on all draws, or the first so many."""
        violation = fsum(one.violation for one in each) / len(each)
        if self.throughput:
            return Outcome(Score(violation, -exp(fsum(log(-one.value) for one in each) / len(each))), tuple(each))
        return Outcome(Score(violation, fsum(one.value for one in each) / len(each)), tuple(each))

    def sketched(self, plan: Plan, about: float) -> Score:
        """Of a plan, on the sketch. `about`: what it may carry."""
        return self._score(self.fleet(plan), self.sketch, about)

    def beats(self, plan: Plan, bar: Score) -> bool:
        """Whether it does better on the sketch than another does."""
        fleet = self.fleet(plan)
        if self.throughput:
            return self.holds(fleet, self.sketch, BETTER * -bar.value)
        return self._appraised(fleet, self.sketch, bar) < Score(bar.violation, bar.value / BETTER)

    def holds_up(self, plan: Plan, best: Outcome) -> bool:
        """Whether it does better than `best` on most draws: to know that takes a run each, to measure it many."""
        fleet, worse = self.fleet(plan), 0
        for draw, bar in zip(self.draws, best.each, strict=False):
            if self.throughput:
                worse += not self.holds(fleet, draw, BETTER * -bar.value)
            else:
                worse += not self._appraised(fleet, draw, bar) < Score(bar.violation, bar.value / BETTER)
            if 2 * worse >= len(best.each):
                return False
        return True

    def told(self, plan: Plan, number: int, scale: float, jobs: int | None = None) -> Figures:
        """Of one draw, or its first so many jobs."""
        draw = self.draws[number]
        some = draw._replace(arrivals=draw.arrivals[:jobs], drawn=draw.drawn[:jobs], app=draw.app[:jobs])
        found = self.figures(self.fleet(plan), some, scale)
        assert found is not None, "nothing gives this run up"
        return found

    def jobs(self, number: int, scale: float, most_calls: float = inf) -> list[Job]:
        """Those of a draw, for the simulator: the first of them that make no more calls than that."""
        draw, found, calls = self.draws[number], list[Job](), 0
        scale = max(scale, draw.slowest)
        for place, (at, recorded) in enumerate(zip(draw.arrivals, draw.drawn, strict=True)):
            job = self.demand.jobs[recorded]
            calls += len(job.stages)
            if found and calls > most_calls:
                break
            found.append(msgspec.structs.replace(job, job=f"{place}", arrival_s=float(at) / scale))
        return found


def _tail(count: int) -> slice:
    """Of so many jobs in the order of how long they took: those that stand for the 95th percentile, one at least."""
    start = min(round(TAIL[0] * count), count - 1)
    return slice(start, max(start + 1, round(TAIL[1] * count)))


def _calls(demand: Demand) -> float:
    """Of a job, mean over the applications."""
    calls = fsum(role.calls * float(demand.per_s[demand.apps.index(role.app)]) for role in demand.roles)
    return calls / float(demand.per_s.sum())


def _ticks(seconds: Floats) -> Ints:
    return np.rint(seconds * TICKS_A_SECOND).astype(np.int64)
