"""The search: how wide, how many, which share of a device, and where, for each model. Deterministic.

A beam of candidates is improved move by move, scored by the estimate; where it stands still, shaken candidates start
it anew. Time is told from outside: `until` says when to stop.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from math import ceil
from typing import NamedTuple

from hocket.errors import InputError
from hocket.planner.demand import Demand
from hocket.planner.estimate import Estimator, Fleet, engines_of, fleet_of
from hocket.planner.goal import Goal, Score, scores
from hocket.planner.inputs import USABLE, Cluster, Models
from hocket.planner.placement import PARTS, Choice, Unit, place, units_of
from hocket.planner.plan import EnginePlan, Law, Plan

BEAM = 4
STARTS = 6
"times that the beam starts anew"
MOST_MOVES = 160
"tried a round: of larger instances, a seeded sample"
KEPT = 200
"candidates that are remembered, for the judge"

Choices = tuple[Choice, ...]


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


class Candidate(NamedTuple):
    """A plan with its score by the estimate."""

    score: Score
    choices: Choices
    plan: Plan


class Search:
    """Improves candidates for one problem. `best` holds the best of them, in order."""

    def __init__(self, problem: Problem, split: Sequence[str] = (), seed: int = 0) -> None:
        """`split`: roles that get an engine of their own. Raises InputError for a model that fits nowhere."""
        self.problem = problem
        self.units = units_of(problem.demand, problem.models, split)
        self.widths = [widths(unit, problem) for unit in self.units]
        engines = [EnginePlan(unit.name, unit.model.name, [], list(unit.roles)) for unit in self.units]
        self.serving = engines_of(problem.demand, engines)
        self.estimator = Estimator(problem.demand, self.serving, len(engines))
        self.best: list[Candidate] = []
        self.tried = 0
        self._seen: set[Choices] = set()
        self._rng = random.Random(seed)

    def run(self, until: Callable[[], bool], progress: Callable[[int, Score], None]) -> list[Candidate]:
        """Search until nothing is gained or `until` says so. Raises InputError where nothing has a place."""
        self.take(self._starts())
        if not self.best:
            raise InputError(self.too_small())
        for start in range(STARTS):
            beam = self.best[:BEAM]
            if start:
                shaken = [self._shaken(one.choices) for one in beam for _ in range(BEAM)]
                beam = self.take(shaken)[:BEAM] or beam
            while not until():
                moves = list(dict.fromkeys(move for one in beam for move in self._moves(one.choices)))
                moves = [move for move in moves if move not in self._seen]
                if len(moves) > MOST_MOVES:
                    moves = self._rng.sample(moves, MOST_MOVES)
                better = sorted([*beam, *self.take(moves)], key=_order)[:BEAM]
                progress(self.tried, self.best[0].score)
                if better == beam:
                    break
                beam = better
            if until():
                break
        return self.best

    # ---------------------------------------------------------------- candidates

    def take(self, wanted: Sequence[Choices]) -> list[Candidate]:
        """Place and score what is new. Returns it, the best first."""
        problem = self.problem
        placed: list[tuple[Choices, Plan]] = []
        for choices in wanted:
            if choices in self._seen:
                continue
            self._seen.add(choices)
            plans = [place(self.units, choices, problem.cluster, mode, problem.law) for mode in ("pack", "spread")]
            placed += [(choices, plan) for plan in plans[: 1 if plans[0] == plans[1] else 2] if plan is not None]
        if not placed:
            return []
        self.tried += len(placed)
        fleets = [self.fleet(plan) for _, plan in placed]
        about = -self.best[0].score.value if self.best and problem.goal.objective == "throughput" else None
        scored = scores(problem.goal, self.estimator, fleets, about)
        found = sorted((Candidate(score, *one) for score, one in zip(scored, placed, strict=True)), key=_order)
        self.best = sorted([*self.best, *found], key=_order)[:KEPT]
        return found

    def score(self, choices: Choices) -> Score | None:
        """Of one candidate, packed the better way; None if it has no place."""
        placed = [
            place(self.units, choices, self.problem.cluster, mode, self.problem.law) for mode in ("pack", "spread")
        ]
        fleets = [self.fleet(plan) for plan in placed if plan is not None]
        return min(scores(self.problem.goal, self.estimator, fleets)) if fleets else None

    def fleet(self, plan: Plan) -> Fleet:
        """A plan as the estimate sees it."""
        return fleet_of(plan, self.problem.cluster, self.problem.models, self.problem.demand)

    def _starts(self) -> list[Choices]:
        """Each as narrow or as wide as can be, in as many replicas as there is room for, whole or in small shares."""
        found: list[Choices] = []
        for which in (0, 1, -1):
            degrees = [own[min(which, len(own) - 1)] for own in self.widths]
            for whole in (True, False):
                choices = [
                    Choice(degree, 1, PARTS if whole or self.problem.whole else self.least(u, degree))
                    for u, degree in enumerate(degrees)
                ]
                found.append(tuple(choices))
                found.append(self._filled(choices))
        return list(dict.fromkeys(found))

    def _filled(self, choices: list[Choice]) -> Choices:
        """With more replicas while they have a place, in turn; on large clusters many at a time at first."""
        problem, step = self.problem, 1
        while step * len(choices) < len(problem.cluster.devices):
            step *= 4
        while step:
            full = set[int]()
            while len(full) < len(choices):
                for u, choice in enumerate(choices):
                    if u in full:
                        continue
                    more = [*choices[:u], choice._replace(replicas=choice.replicas + step), *choices[u + 1 :]]
                    if place(self.units, more, problem.cluster, "pack", problem.law) is None:
                        full.add(u)
                    else:
                        choices = more
            step //= 4
        return tuple(choices)

    def least(self, u: int, degree: int) -> int:
        """The least parts at which a replica so wide fits some device."""
        nodes = self.problem.cluster.nodes
        return min(self.units[u].parts(node.kind, degree, node.memory_gib) for node in nodes)

    # ---------------------------------------------------------------- moves

    def _moves(self, choices: Choices) -> Iterator[Choices]:
        """All candidates that one move leads to: one unit changed, or one given what another gives up."""
        for u, choice in enumerate(choices):
            for other in self._changes(u, choice):
                yield (*choices[:u], other, *choices[u + 1 :])
        for u, more in enumerate(choices):
            for v, less in enumerate(choices):
                if u == v:
                    continue
                both = list(choices)
                if less.replicas > 1:
                    both[u], both[v] = (
                        more._replace(replicas=more.replicas + 1),
                        less._replace(replicas=less.replicas - 1),
                    )
                    yield tuple(both)
                least = self.least(v, less.tensor_parallel)
                if not self.problem.whole and more.parts < PARTS and less.parts > least:
                    both[u], both[v] = more._replace(parts=more.parts + 1), less._replace(parts=less.parts - 1)
                    yield tuple(both)

    def _changes(self, u: int, choice: Choice) -> Iterator[Choice]:
        degree, replicas, parts = choice
        for other in self.widths[u]:
            least = PARTS if self.problem.whole else self.least(u, other)
            counts = {replicas, max(1, replicas * degree // other)} if other != degree else {replicas}
            for count in sorted(counts | {max(1, replicas - 1), replicas + 1, max(1, replicas // 2), replicas * 2}):
                same = other == degree
                shares = {parts} if same or count != replicas else {parts, least, PARTS}
                if same and count == replicas:
                    shares = {parts - 2, parts - 1, parts + 1, parts + 2, least, PARTS}
                for share in sorted({min(PARTS, max(least, share)) for share in shares}):
                    changed = Choice(other, count, share)
                    if changed != choice:
                        yield changed

    def _shaken(self, choices: Choices) -> Choices:
        """A few random changes."""
        shaken = list(choices)
        for _ in range(3):
            u = self._rng.randrange(len(shaken))
            shaken[u] = self._rng.choice(list(self._changes(u, shaken[u])))
        return tuple(shaken)

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
