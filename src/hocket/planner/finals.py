"""The finals: the best of the search, then neighbours of the winner, raced in the simulator; then the verdicts.

The estimate ranks thousands of candidates, and holds many for nearly equal; which of these is best the simulator says.
A race is run in simulations of the same jobs, shorter than a verdict's, for throughput under a little more load than
the best is said to carry: who is later there carries less. With SLOs a run lasts a few times the longest: in one that
is over before its first jobs are late, no overload shows. Neighbours of the winner join, those first that the estimate
likes best, for what is left of the time. The first few are then simulated at length, and in between them what simpler
planners would choose: what they sustain is what counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from typing import Any, NamedTuple

from hocket.planner.goal import Goal, Score, Slo
from hocket.planner.judge import CutError, Judge, Verdict, race
from hocket.planner.plan import Plan
from hocket.planner.search import Candidate, Problem, Search
from hocket.sim.workers import FORKS, cores, workers

CALLS, FEWEST, MOST = 12_000, 40, 400
"of a run in a race without SLOs: its jobs make so many calls, and are so many at least and at most"
RACED, MOST_CALLS = 3.0, 50_000
"times the longest SLO that a run in a race lasts, where there are SLOs; its jobs make so many calls at most"
STRESS = 1.25
"times what the estimate says that the best carries: the load of a race (throughput)"
NEIGHBOURS = 24
"of a winner that are raced: if none of them is better, it has won"
TOGETHER = 2
"that are raced before one looks at the time, and for the next winner"
BETTER = 0.995
"times the figure of a winner, that a neighbour must stay below: less is noise"
VERDICTS = 5
"candidates that are simulated at length"
CROWDED = 3.0
"times its p95 without load: an application that takes longer is held for overloaded, where no SLO says otherwise"
UNLOADED = 1e-3
"of the rates"

Clock = Callable[[], float]
Progress = Callable[[str, int, Score | None], None]
Until = Callable[[], bool]


class Entry(NamedTuple):
    """A candidate, and the search whose units it is made of."""

    search: Search
    candidate: Candidate
    simpler: bool = False
    "what a simpler planner chose: simulated at length, whatever its race, so that the plan is not worse"

    @property
    def plan(self) -> Plan:
        return self.candidate.plan


Judged = tuple[Entry, Verdict]


def finals(
    problem: Problem, entries: Sequence[Entry], join: bool, raced: Until, until: Until, progress: Progress
) -> list[Judged]:
    """The first few with their verdicts, the best first; one at least.

    `join`: whether neighbours join. `raced` says when the race must be over, `until` when all must be.
    """
    runners = Runners(problem, entries[0].candidate, progress)
    with runners.ready():
        ahead = _dealt(_raced(runners, entries, join, raced))[:VERDICTS]
    judge, done = Judge(problem.demand, problem.cluster, problem.models, problem.goal, until=until), 0

    def told(verdict: Verdict) -> None:
        nonlocal done
        done += 1
        progress("judging", done, verdict.score)

    asked = [(one.plan, -one.candidate.score.value) for one in ahead]
    judged = sorted(zip(ahead, race(judge, asked, told), strict=False), key=_verdict_of)
    return judged if problem.goal.objective == "throughput" else _carrying(judge, runners.slos, judged)


def _raced(runners: Runners, entries: Sequence[Entry], join: bool, raced: Until) -> list[Entry]:
    """All that ran, the best first, and behind them those that did not."""
    if len(entries) == 1 and not join:
        return list(entries)
    ran: list[tuple[Score, Entry]] = []
    left = list(entries)
    while left and not (ran and raced()):
        some, left = left[:TOGETHER], left[TOGETHER:]
        ran += zip(runners.run([one.plan for one in some]), some, strict=True)
    ran.sort(key=_place)
    while join and not raced():
        score, best = ran[0]
        plans = [one.plan for _, one in ran]
        found = [one for one in best.search.around(best.candidate) if one.plan not in plans][:NEIGHBOURS]
        for start in range(0, len(found), TOGETHER):
            some = [Entry(best.search, one) for one in found[start : start + TOGETHER]]
            ran += zip(runners.run([one.plan for one in some]), some, strict=True)
            leader = min(ran, key=_place)
            if (leader[0].violation, leader[0].value) < (score.violation, BETTER * score.value) or raced():
                break
        ran.sort(key=_place)
        if ran[0][1] is best or not found:
            break
    return [one for _, one in ran] + left


def _dealt(ran: Sequence[Entry]) -> list[Entry]:
    """The first of the race, and in turn what simpler planners chose, the best by the estimate first."""
    simpler = sorted((one for one in ran[1:] if one.simpler), key=lambda one: one.candidate.score)
    rest = [one for one in ran[1:] if not one.simpler]
    turns = [one for pair in zip_longest(simpler, rest) for one in pair if one is not None]
    return [*ran[:1], *turns]


def _place(ran: tuple[Score, Entry]) -> Score:
    return ran[0]


def _carrying(judge: Judge, slos: tuple[Slo, ...], judged: list[Judged]) -> list[Judged]:
    """Of verdicts for latency, the first whose plan carries as much as it must, simulated, comes first."""
    strict = Judge(judge.demand, judge.cluster, judge.models, judge.goal._replace(slos=slos), until=judge.until)
    found: list[Judged] = []
    for place, (one, verdict) in enumerate(judged):
        try:
            holds = strict.holds(one.plan, judge.goal.headroom) is not None
        except CutError:
            break  # no time to tell: as the estimate says
        if holds:
            return sorted([(one, verdict), *judged[place + 1 :], *found], key=_verdict_of)
        missed = verdict._replace(score=verdict.score._replace(violation=max(verdict.score.violation, 1e-3)))
        found.append((one, missed))
    return sorted([*judged[len(found) :], *found], key=_verdict_of)


def _verdict_of(judged: Judged) -> tuple[bool, bool, Score]:
    verdict = judged[1]
    return not verdict.score.holds, verdict.short, verdict.score


class Runners:
    """Short runs of plans on the same jobs, two at a time. What comes out does not depend on how many processes run."""

    def __init__(self, problem: Problem, first: Candidate, progress: Progress) -> None:
        """`first`: the best by the estimate."""
        goal, demand = problem.goal, problem.demand
        per_s = dict(zip(demand.apps, demand.per_s, strict=True))
        calls = sum(role.calls * float(per_s[role.app]) for role in demand.roles) / float(demand.per_s.sum())
        jobs = min(MOST, max(FEWEST, round(CALLS / calls)))
        self.throughput = goal.objective == "throughput"
        self.scale = -STRESS * first.score.value if self.throughput else 1.0
        if goal.slos:
            lasts_s = RACED * max(slo.seconds for slo in goal.slos)
            jobs = max(FEWEST, round(min(lasts_s * self.scale * float(demand.per_s.sum()), MOST_CALLS / calls)))
        self.judge = Judge(demand, problem.cluster, problem.models, goal, most=jobs)
        self.judge.least = float(jobs)
        self.slos = goal.slos or self._crowded(first.plan)
        self.judge.goal = Goal(goal.objective, self.slos, goal.headroom)
        self._progress, self._done = progress, 0
        self._map: Callable[[Sequence[Plan]], list[Score]] = lambda plans: list(map(self.score, plans))

    def _crowded(self, plan: Plan) -> tuple[Slo, ...]:
        """What stands for SLOs where there are none."""
        alone = self.judge.figures(plan, UNLOADED)
        return tuple(Slo(app, "p95", CROWDED * own["p95_s"]) for app, own in alone.items())

    def score(self, plan: Plan) -> Score:
        """Of one run, or of one at the rates and one with as much as must be carried. Lower is better."""
        judge = self.judge
        figures = judge.figures(plan, self.scale)
        if self.throughput:  # the mean is more certain than the p95, which is what counts
            both = ((own["mean_s"] + own["p95_s"]) / slo.seconds for slo, own in self._against(figures))
            return Score(0.0, max(both))
        return Score(max(0.0, judge.late(judge.figures(plan, judge.goal.headroom))), judge.mean(figures))

    def _against(self, figures: Any) -> Iterator[tuple[Slo, dict[str, float]]]:
        return ((slo, figures[slo.app]) for slo in self.slos)

    def run(self, plans: Sequence[Plan]) -> list[Score]:
        """A score of each."""
        found = self._map(plans)
        self._done += len(plans)
        self._progress("racing", self._done, None)
        return found

    @contextmanager
    def ready(self) -> Iterator[None]:
        """With processes to run in, where there is more than one core."""
        if cores() < 2 or not FORKS:
            yield
            return
        alone = self._map
        with workers(2, _prepare, self) as pool:
            self._map = lambda plans: list(pool.map(_score, plans))
            yield
        self._map = alone


_shared: dict[str, Runners] = {}
"what a worker process works with"


def _prepare(runners: Runners) -> None:
    _shared["runners"] = runners


def _score(plan: Plan) -> Score:
    return _shared["runners"].score(plan)
