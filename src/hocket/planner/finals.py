"""The finals: finalists are rehearsed, and the best of them climbs on from neighbour to neighbour.

The estimate ranks thousands of candidates, and holds many for nearly equal; where several models share a device it may
take the wrong ones for good. So from its best on the rehearsal says which of two is better. Where no neighbour is,
another finalist or a shaken one is climbed from, as long as there is time. The simulator plays the beginning of the
best plan's run, too, and should say the same.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import NamedTuple

import msgspec

from hocket.planner.goal import Score
from hocket.planner.judge import Judge, Verdict
from hocket.planner.moves import FINE
from hocket.planner.plan import Plan
from hocket.planner.rehearsal import BETTER, Outcome, Rehearsal
from hocket.planner.search import Candidate, Problem, Search
from hocket.sim.workers import cores

TOGETHER = 8
"neighbours, or shaken plans, that are looked at before one looks at the time; the best of them is gone on from"
THREADS = min(TOGETHER, cores())
"that rehearse; what comes out does not depend on how many"
TOLD = 3
"of the best that are told, the chosen one among them"
MOST_AROUND = 300
"moves from one candidate that are looked at"
FARTHER, SHAKES = 25, 500
"times that nothing is found until shaking takes a change more, and until it is over"
CHECKED = 10_000
"calls of the best plan's run, the first, that the simulator plays, too"
SLACK, FAR = 0.02, 0.1
"by how much less than the best a plan may do on the sketch to be tried on all draws, and to be climbed from"

Clock = Callable[[], float]
Progress = Callable[[str, int, Score | None], None]
Until = Callable[[], bool]


class Entry(NamedTuple):
    """A candidate, and the search whose units it is made of."""

    search: Search
    candidate: Candidate

    @property
    def plan(self) -> Plan:
        return self.candidate.plan


Judged = tuple[Entry, Verdict]
Known = tuple[Outcome, Entry]
Sketched = tuple[Score, Entry]


def finals(problem: Problem, entries: Sequence[Entry], climbs: bool, until: Until, progress: Progress) -> list[Judged]:
    """Verdicts of the best few, the best first; one at least.

    `climbs`: whether the best climbs on from there. `until` says when that must be over.
    """
    about = -_rated(entries[0]).candidate.score.value
    stage = Rehearsal(problem.demand, problem.cluster, problem.models, problem.goal, entries[0].plan, about)
    with ThreadPoolExecutor(THREADS) as pool:
        climb = _Climb(stage, pool, about, until, progress)
        climb.run(entries) if climbs else climb.race(entries)
    judge = Judge(problem.demand, problem.cluster, problem.models, problem.goal)
    best, *others = [(outcome, _rated(entry)) for outcome, entry in sorted(climb.known, key=_score_of)[:TOLD]]
    return [
        (best[1], verdict(judge, stage, best[1].plan, best[0])),
        *((entry, _heard(stage, outcome)) for outcome, entry in others),
    ]


def verdict(judge: Judge, stage: Rehearsal, plan: Plan, outcome: Outcome) -> Verdict:
    """Of a plan: of what it sustains, on the draw that is the hardest for it; and what the simulator says to that."""
    heard = _heard(stage, outcome)
    number = outcome.each.index(max(outcome.each)) if stage.throughput else 0
    figures = stage.told(plan, number, heard.scale)
    jobs = stage.jobs(number, heard.scale, CHECKED)
    simulated, rehearsed = judge.played(plan, jobs), stage.told(plan, number, heard.scale, len(jobs))
    differs = max(abs(simulated[app][key] / own[key] - 1.0) for app, own in rehearsed.items() for key in own)
    return heard._replace(figures=figures, differs=differs)


def _rated(entry: Entry) -> Entry:
    """With its score by the estimate."""
    search, candidate = entry
    return Entry(search, search.rated([(candidate.choices, candidate.plan)])[0])


def _heard(stage: Rehearsal, outcome: Outcome) -> Verdict:
    """What the rehearsal says: what is sustained on all draws, or how it is at the rates."""
    if stage.throughput:
        return Verdict(Score(0.0, -outcome.sustained), outcome.sustained, {})
    return Verdict(outcome.score, 1.0, {})


def _score_of(known: Known) -> Score:
    return known[0].score


class _Climb:
    """From finalists to better plans. What it looks at does not depend on time, so more of it only adds plans."""

    def __init__(self, stage: Rehearsal, pool: Executor, about: float, until: Until, progress: Progress) -> None:
        """`about`: what the first of the finalists is thought to carry."""
        self.known: list[Known] = []
        self._stage, self._pool, self._about, self._until, self._progress = stage, pool, about, until, progress
        self._seen: set[bytes] = set()
        self._told: set[bytes] = set()
        self._tried = 0
        self._rng = random.Random(0)

    def race(self, entries: Sequence[Entry]) -> list[Sketched]:
        """Who does better on the sketch than those before; the best first. That one is measured."""
        first = self._sketched(self._fresh(entries[:1]), self._about)
        for start in range(1, len(entries), TOGETHER):
            if self._until():
                break
            first += self._better(entries[start : start + TOGETHER], min(first, key=_place))
        first.sort(key=_place)
        self._measure(first[0])
        return first

    def run(self, entries: Sequence[Entry]) -> None:
        """Climb from the best; then from others, and from shaken ones, until nothing is found or time is over."""
        starts, idle = self.race(entries), 0
        best, runners_up = starts[0], starts[1:2]
        starts = [one for one in starts if one[0] < _below(best[0], FAR)]
        for search in {id(entry.search): entry.search for entry in entries}.values():
            search.moves.steps = FINE
        while idle < SHAKES and not self._until():
            if not starts:
                starts, idle = self._shaken(best, 2 + idle // FARTHER), idle + 1
                continue
            found = [self._climbed(starts.pop(0))]
            if self._until():
                break
            if not self._promising(found[0], best[0]):
                found, runners_up = runners_up, []  # one is told, whether it is better or not
            for one in found:
                if self._measure(one):
                    best, idle = one, 0

    def _promising(self, one: Sketched, mark: Score) -> bool:
        """Whether to measure it: it does nearly as well as `mark` on the sketch, and better than the best on draws."""
        if _key(one[1]) in self._told or not one[0] < _below(mark, SLACK):
            return False
        return self._stage.holds_up(one[1].plan, min(self.known, key=_score_of)[0])

    def _measure(self, one: Sketched) -> bool:
        """On the draws, as many for all: they are compared. Whether it is the best so far."""
        best = min(self.known, key=_score_of)[0] if self.known else None
        draws = range(len(best.each) if best else 1 if self._until() else len(self._stage.draws))
        each = self._pool.map(lambda number: self._stage.drawn(one[1].plan, number, -one[0].value), draws)
        self.known.append((self._stage.over(tuple(each)), one[1]))
        self._told.add(_key(one[1]))
        return best is not None and self.known[-1][0].score < _below(best.score, 1.0 - BETTER)

    def _shaken(self, start: Sketched, most: int) -> list[Sketched]:
        """A few plans that random changes lead to, `most` or fewer, less those that are much worse."""
        mark, (search, candidate) = start
        found: list[Entry] = []
        for _ in range(TOGETHER):
            changes = self._rng.randint(1, most)
            choices, plans = search.moves.placed(search.moves.shaken(candidate.choices, self._rng, changes))
            found += [Entry(search, candidate._replace(choices=choices, plan=plan)) for plan in plans]
        near = self._holding(self._fresh(found), _below(mark, FAR))
        return [] if self._until() else sorted(self._sketched(near, -mark.value), key=_place)

    def _climbed(self, start: Sketched) -> Sketched:
        """To neighbours that are better, as long as there are any."""
        while not self._until():
            found = next(self._steps(start), None)
            if found is None:
                break
            start = found
        return start

    def _steps(self, start: Sketched) -> Iterator[Sketched]:
        """Better neighbours, in any order: what the estimate thinks of them is known to mislead here."""
        search, candidate = start[1]
        moves = search.moves.around(candidate.choices, candidate.used)
        self._rng.shuffle(moves)
        del moves[MOST_AROUND:]
        some: list[Entry] = []
        for number, move in enumerate(moves, start=1):
            choices, plans = search.moves.placed(move)
            some += [Entry(search, candidate._replace(choices=choices, plan=plan)) for plan in plans]
            if len(some) >= TOGETHER or number == len(moves):
                found = self._better(some, start)
                some = []
                if found:
                    yield min(found, key=_place)
                if self._until():
                    return

    def _fresh(self, entries: Sequence[Entry]) -> list[Entry]:
        """Those that were not looked at before."""
        fresh = {_key(one): one for one in entries}
        fresh = {key: one for key, one in fresh.items() if key not in self._seen}
        self._seen.update(fresh)
        self._tried += len(fresh)
        self._progress("rehearsing", self._tried, min(self.known, key=_score_of)[0].score if self.known else None)
        return list(fresh.values())

    def _holding(self, entries: Sequence[Entry], bar: Score) -> list[Entry]:
        """Those that do better than that on the sketch."""
        beats = list(self._pool.map(lambda one: self._stage.beats(one.plan, bar), entries))
        return [one for one, better in zip(entries, beats, strict=True) if better]

    def _better(self, entries: Sequence[Entry], best: Sketched) -> list[Sketched]:
        """Those that are better than `best`."""
        return self._sketched(self._holding(self._fresh(entries), best[0]), BETTER * -best[0].value)

    def _sketched(self, entries: Sequence[Entry], about: float) -> list[Sketched]:
        scores = self._pool.map(lambda one: self._stage.sketched(one.plan, about), entries)
        return list(zip(scores, entries, strict=True))


def _key(entry: Entry) -> bytes:
    return msgspec.json.encode(entry.plan)


def _below(score: Score, part: float) -> Score:
    return Score(score.violation, score.value + abs(score.value) * part)


def _place(sketched: Sketched) -> Score:
    return sketched[0]
