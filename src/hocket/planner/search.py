"""The search: how wide, how many, which share of a device, and where, for each model. Deterministic.

A beam of candidates climbs move by move, scored by the estimate; where it stands still, shaken candidates start it
anew. Time is told from outside: `until` says when to stop. What is looked at does not depend on time, so more of it
only adds candidates.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from math import ceil, inf
from typing import NamedTuple

from hocket.errors import InputError
from hocket.planner.demand import Demand, Role
from hocket.planner.estimate import Estimator, Fleet, engines_of, fleet_of
from hocket.planner.goal import Goal, Score, appraised, scores
from hocket.planner.inputs import USABLE, Cluster, Models
from hocket.planner.moves import COARSE, FINE, Choices, Move, Moves
from hocket.planner.placement import PARTS, Choice, Packer, Unit, units_of
from hocket.planner.plan import EnginePlan, Law, Plan

BEAM = 4
STARTS = 8
"candidates that are climbed from at first"
LARGE = 32
"devices, from which on the search begins with replicas in proportion to the load: there is no time to find that"
IDLE_STARTS = 8
"times in a row that the beam starts anew and finds nothing better: then the search is over"
AT_ONCE = 48
"moves that are scored together; what is better among them is gone on from at once"
KEPT = 200
"candidates that are remembered, for the finals"
EXACT = 12
"candidates that are known exactly before others are scored roughly"
NEARLY = 0.95
"of what the worst of the beam carries: what carries less is scored roughly"
SETTLED = 48
"of the best, that are all scored exactly in the end"


class Problem(NamedTuple):
    """What is to be planned."""

    demand: Demand
    cluster: Cluster
    models: Models
    goal: Goal
    law: Law = "ps"
    whole: bool = False
    "whole devices only"
    narrow: bool = False
    "no more tensor parallelism than the weights need"
    stacked: bool = True
    "two replicas of one engine may share a device, where there is no other room"


class Candidate(NamedTuple):
    """A plan with its score by the estimate."""

    score: Score
    choices: Choices
    plan: Plan
    used: tuple[float, ...] = ()
    "how busy each engine is beside the busiest, by the estimate"
    rough: bool = False
    "its score is a rank among those that carry less than others"


class Search:
    """Improves candidates for one problem. `best` holds the best of them, in order."""

    def __init__(self, problem: Problem, split: Sequence[Role] = (), seed: int = 0) -> None:
        """`split`: roles that get an engine of their own. Raises InputError for a model that fits nowhere."""
        self.problem = problem
        self.units = units_of(problem.demand, problem.models, split)
        self.widths = [widths(unit, problem) for unit in self.units]
        engines = [EnginePlan(unit.name, unit.model.name, [], list(unit.roles)) for unit in self.units]
        self.serving = engines_of(problem.demand, engines)
        self.estimator = Estimator(problem.demand, self.serving, len(engines), problem.goal.lasts_s)
        self.packer = Packer(self.units, problem.cluster, problem.law, problem.stacked)
        self.moves = Moves(self.packer, self.widths, problem.whole)
        self.best: list[Candidate] = []
        self.tried = 0
        self._seen: set[Choices] = set()
        self._rng = random.Random(seed)

    def run(
        self, until: Callable[[], bool], progress: Callable[[int, Score], None], starts: Iterable[Choices] = ()
    ) -> list[Candidate]:
        """Search until nothing is gained or `until` says so. Raises InputError where nothing has a place."""
        begun = _leaders(self._begun(starts), STARTS)
        if not begun:
            raise InputError(self.too_small())
        beams, idle, number, polished = [begun[:BEAM], *([one] for one in begun[1:])], 0, 0, Score(inf, inf)
        while idle < IDLE_STARTS and not until():
            before = self.best[0].score
            self._climb(beams.pop(0), until, progress)
            if not beams and self.best[0].score < polished:
                self._polish(until, progress)
                polished = self.best[0].score
            idle = idle + 1 if self.best[0].score >= before and not beams else 0
            if not beams:
                number += 1
                beams = [self._anew(number)]
        self.settle()
        return self.best

    def _anew(self, number: int) -> list[Candidate]:
        """Where to climb from next: in turn from shaken leaders, and from what is drawn at random."""
        leaders = _leaders(self.best)
        if number % 2:
            moves = [self.moves.shaken(one.choices, self._rng) for one in leaders for _ in range(BEAM)]
        else:
            moves = [Move(self._filled(self.moves.drawn(self._rng)), frozenset()) for _ in range(BEAM)]
        return _leaders(self.consider(moves)) or leaders

    def _polish(self, until: Callable[[], bool], progress: Callable[[int, Score], None]) -> None:
        """From the best on in smaller steps: too many to take them from everywhere."""
        self.moves.steps = FINE
        self._climb(_leaders(self.best, 1), until, progress)
        self.moves.steps = COARSE

    def _climb(self, beam: list[Candidate], until: Callable[[], bool], progress: Callable[[int, Score], None]) -> None:
        """From `beam` to neighbours that are better, as long as there are any."""
        while not until():
            around = [
                move
                for one in beam
                for move in self.moves.around(one.choices, one.used)
                if move.choices not in self._seen
            ]
            better = beam
            for start in range(0, len(around), AT_ONCE):
                floor = self._floor(better[-1])
                found = self.consider(around[start : start + AT_ONCE], floor)
                better = _leaders([*better, *found])
                progress(self.tried, self.best[0].score)
                if better[0] is not beam[0] or until():
                    break
            if better == beam:
                return
            beam = better

    def settle(self) -> None:
        """Score the first of the best exactly: which of them is first then depends on the plans alone."""
        self.best = self._exact(self.best)

    def _exact(self, found: list[Candidate]) -> list[Candidate]:
        """With exact scores of the first of them."""
        while rough := [one for one in found[:SETTLED] if one.rough]:
            exact = iter(self.rated([(one.choices, one.plan) for one in rough]))
            head = [next(exact) if one.rough else one for one in found[:SETTLED]]
            found = sorted([*head, *found[SETTLED:]], key=_order)
        return found

    def _floor(self, one: Candidate) -> float | None:
        """What carries less than that is of no interest beside `one`."""
        return NEARLY * -one.score.value if self.problem.goal.objective == "throughput" else None

    # ---------------------------------------------------------------- candidates

    def consider(self, moves: Sequence[Move], floor: float | None = None) -> list[Candidate]:
        """Place, or trim and place, and score what is new. See `appraised` for `floor`."""
        placed: list[tuple[Choices, Plan]] = []
        for move in moves:
            if move.choices in self._seen:
                continue
            self._seen.add(move.choices)
            choices, plans = self.moves.placed(move)
            if choices != move.choices:
                if choices in self._seen:
                    continue
                self._seen.add(choices)
            placed += [(choices, plan) for plan in plans]
        return self._scored(placed, floor)

    def take(self, wanted: Iterable[Choices]) -> list[Candidate]:
        """Place and score what is new, as it is; roughly once many are known to be better. The best first."""
        found, fresh = list[Candidate](), [choices for choices in dict.fromkeys(wanted) if choices not in self._seen]
        self._seen.update(fresh)
        for start in range(0, len(fresh), AT_ONCE):
            placed = [(one, plan) for one in fresh[start : start + AT_ONCE] for plan in self.packer.plans(one)]
            floor = self._floor(self.best[EXACT]) if len(self.best) > EXACT else None
            found += self._scored(placed, floor)
        return sorted(found, key=_order)

    def _scored(self, placed: Sequence[tuple[Choices, Plan]], floor: float | None) -> list[Candidate]:
        found = sorted(self.rated(placed, floor), key=_order)
        self.tried += len(placed)
        self.best = sorted([*self.best, *found], key=_order)[:KEPT]
        return found

    def rated(self, placed: Sequence[tuple[Choices, Plan]], floor: float | None = None) -> list[Candidate]:
        """Candidates in the order of `placed`, whether they were looked at or not. See `appraised` for `floor`."""
        found: list[Candidate] = []
        for start in range(0, len(placed), AT_ONCE):
            some = placed[start : start + AT_ONCE]
            scored = appraised(self.problem.goal, self.estimator, [self.fleet(plan) for _, plan in some], floor)
            found += [
                Candidate(score, *one, tuple(map(float, used)), rough)
                for score, one, used, rough in zip(scored.scores, some, scored.used, scored.rough, strict=True)
            ]
        return found

    def score(self, choices: Choices) -> Score | None:
        """Of one candidate, packed the better way; None if it has no place."""
        fleets = [self.fleet(plan) for plan in self.packer.plans(choices)]
        return min(scores(self.problem.goal, self.estimator, fleets)) if fleets else None

    def fleet(self, plan: Plan) -> Fleet:
        """A plan as the estimate sees it."""
        return fleet_of(plan, self.problem.cluster, self.problem.models, self.problem.demand)

    def least(self, u: int, degree: int) -> int:
        """The least parts at which a replica so wide fits some device."""
        return min(self.packer.least(u, degree))

    # ---------------------------------------------------------------- starts

    def _starts(self) -> list[Choices]:
        """One replica of each, as narrow or as wide as can be, of whole devices or of small shares."""
        all_degrees = [[own[min(which, len(own) - 1)] for own in self.widths] for which in (0, 1, -1)]
        found = [
            tuple(
                Choice(degree, 1, PARTS if whole or self.problem.whole else self.least(u, degree))
                for u, degree in enumerate(degrees)
            )
            for degrees in all_degrees
            for whole in (True, False)
        ]
        return list(dict.fromkeys(found))

    def _begun(self, starts: Iterable[Choices]) -> list[Candidate]:
        """What is climbed from at first: besides one replica of each, as many as there is room for, in some way."""
        alone = self._starts()
        if len(self.problem.cluster.devices) < LARGE:
            both = [(choices, self._filled(list(choices))) for choices in alone]
            return self.take([*starts, *(one for pair in both for one in pair)])
        first = self.take([*starts, *alone])
        return [*first, *self.take([self._balanced(one) for one in _leaders(first, len(first))])]

    def _balanced(self, one: Candidate) -> Choices:
        """With replicas in proportion to how busy each is, as many as have a place."""
        area = sum(used * choice.taken for used, choice in zip(one.used, one.choices, strict=True))
        full = self.packer.parts / area
        for part in range(20, 0, -1):
            choices = tuple(
                choice._replace(replicas=max(1, int(full * part / 20.0 * used / choice.replicas)))
                for used, choice in zip(one.used, one.choices, strict=True)
            )
            if self.packer.place(choices) is not None:
                return choices
        return one.choices

    def _filled(self, choices: list[Choice]) -> Choices:
        """With more replicas while they have a place, in turn; on large clusters many at a time at first."""
        step = 1
        while step * len(choices) < len(self.problem.cluster.devices):
            step *= 4
        while step:
            full = set[int]()
            while len(full) < len(choices):
                for u, choice in enumerate(choices):
                    if u in full:
                        continue
                    more = [*choices[:u], choice._replace(replicas=choice.replicas + step), *choices[u + 1 :]]
                    if self.packer.place(more) is None:
                        full.add(u)
                    else:
                        choices = more
            step //= 4
        return tuple(choices)

    # ---------------------------------------------------------------- what cannot be

    def too_small(self) -> str:
        """Say by how much memory is short, and what would do."""
        nodes = self.problem.cluster.nodes
        has = sum(USABLE * node.memory_gib * node.devices for node in nodes)
        needs, devices = 0.0, 0.0
        for u, unit in enumerate(self.units):
            needs += unit.model.memory_gib(1, unit.longest)
            degree = min(self.widths[u])
            devices += degree * (PARTS if self.problem.whole else self.least(u, degree)) / PARTS
        kind, memory_gib = nodes[0].kind, nodes[0].memory_gib
        return (
            f"the models do not fit the cluster together: one replica of each, with its longest call, takes "
            f"{needs:.0f} GiB; the devices have {has:.0f} GiB to fill, in {PARTS} parts each; about {ceil(devices)} "
            f"devices of {kind} with {memory_gib:g} GiB in all would do"
        )


def widths(unit: Unit, problem: Problem) -> list[int]:
    """The degrees of tensor parallelism that a unit can have. Raises InputError if it fits nowhere."""
    cluster, sizes = problem.cluster, dict[str, int]()
    for device in cluster.devices.values():
        sizes[device.domain] = sizes.get(device.domain, 0) + 1
    found = set[int]()
    for device in cluster.devices.values():
        for degree in unit.model.latency.get(device.kind, {}):
            if degree <= sizes[device.domain] and unit.parts(device.kind, degree, device.memory_gib) <= PARTS:
                found.add(degree)
    if found:
        return [min(found)] if problem.narrow else sorted(found)
    raise InputError(_fits_nowhere(unit, problem, max(sizes.values())))


def _fits_nowhere(unit: Unit, problem: Problem, domain: int) -> str:
    name, tables = unit.model.name, unit.model.latency
    node = max(problem.cluster.nodes, key=lambda node: node.memory_gib)
    kinds = {node.kind for node in problem.cluster.nodes}
    if not kinds & tables.keys():
        there = ", ".join(sorted(tables))
        return (
            f"'{name}' has no table for {', '.join(sorted(kinds))}, only for {there}; measure one or change the cluster"
        )
    needs = unit.model.memory_gib(1, unit.longest)
    degrees = sorted({degree for kind in kinds & tables.keys() for degree in tables[kind]})
    wanted = next((d for d in degrees if needs / d <= USABLE * node.memory_gib), None)
    remedy = (
        f"the smallest cluster that could has {wanted} such devices in one fast domain (there are {domain})"
        if wanted
        else f"use devices with {needs / degrees[-1] / USABLE:.0f} GiB, or give a table for more tensor parallelism"
    )
    wide = max((d for d in degrees if d <= domain), default=degrees[0])
    return (
        f"'{name}' fits nowhere: weights and its longest call take {needs / wide:.1f} GiB of each device at tensor "
        f"parallelism {wide}, {USABLE * node.memory_gib:.1f} GiB of {node.memory_gib:g} may be filled; {remedy}"
    )


def _order(one: Candidate) -> tuple[Score, Choices]:
    return one.score, one.choices


def _leaders(found: Sequence[Candidate], count: int = BEAM) -> list[Candidate]:
    """The best few, each of different choices."""
    best: dict[Choices, Candidate] = {}
    for one in sorted(found, key=_order):
        best.setdefault(one.choices, one)
        if len(best) == count:
            break
    return list(best.values())
