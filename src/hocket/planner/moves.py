"""Moves: what a candidate can be changed to, one or two of its units at a time. What then has no place is trimmed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from hocket.planner.placement import PARTS, Choice, Packer, united
from hocket.planner.plan import Plan

Choices = tuple[Choice, ...]
TRIMS = 4
"reductions of other units that may make room for a move"
COARSE, FINE = (2, 4), (1, 2, 4)
"parts that shares are changed by: while there is much to try, and while little is to be gained"
CORE = "cpu"
"the kind of device that embedded engines run on"


class Move(NamedTuple):
    """What a candidate may become."""

    choices: Choices
    kept: frozenset[int]
    "units that are not trimmed to make room"


class Moves:
    """The moves of one problem. `whole`: shares are whole devices."""

    def __init__(self, packer: Packer, widths: Sequence[Sequence[int]], whole: bool) -> None:
        self.packer, self.widths, self.whole = packer, widths, whole
        self.steps: tuple[int, ...] = COARSE
        self.alike = any(pool[0].kind == CORE for pool in packer.pools)
        "replicas of one unit are: `hocket up` runs no others"

    def least(self, u: int, degree: int) -> int:
        """The least parts that a replica so wide can have."""
        return PARTS if self.whole else min(self.packer.least(u, degree))

    # ---------------------------------------------------------------- neighbours

    def around(self, choices: Choices, used: Sequence[float]) -> list[Move]:
        """All neighbours. First those that give to the busiest unit, or take from the least busy one.

        `used`: how busy each unit is.
        """
        busiest, idlest = max(range(len(used)), key=used.__getitem__), min(range(len(used)), key=used.__getitem__)
        first, rest = list[Move](), list[Move]()
        for u, v, move in self._all(choices):
            gives = move.choices[busiest].taken > choices[busiest].taken
            takes = move.choices[idlest].taken < choices[idlest].taken
            (first if busiest in (u, v) or gives or takes else rest).append(move)
        return [*first, *rest]

    def _all(self, choices: Choices) -> Iterator[tuple[int, int, Move]]:
        """One unit changed; or one given what another gives up. With the two units."""
        for u, choice in enumerate(choices):
            for other in self._changes(u, choice):
                yield u, u, Move((*choices[:u], other, *choices[u + 1 :]), frozenset((u,)))
        for u, more in enumerate(choices):
            for v, less in enumerate(choices):
                if u != v:
                    for one, other in self._exchanged(v, more, less):
                        both = list(choices)
                        both[u], both[v] = one, other
                        yield u, v, Move(tuple(both), frozenset((u, v)))

    def _exchanged(self, v: int, more: Choice, less: Choice) -> Iterator[tuple[Choice, Choice]]:
        if less.replicas > 1:
            yield more._replace(replicas=more.replicas + 1), less._replace(replicas=less.replicas - 1)
        for step in self.steps[:-1]:
            if more.parts + step <= PARTS and less.parts - step >= self.least(v, less.tensor_parallel):
                one, other = more._replace(parts=more.parts + step), less._replace(parts=less.parts - step)
                yield united(one.groups), united(other.groups)

    def _changes(self, u: int, choice: Choice) -> Iterator[Choice]:
        """One group of replicas changed, or one replica made another than the rest."""
        groups = choice.groups
        for g, one in enumerate(groups):
            for other in self._group(u, one):
                changed = united([*groups[:g], other, *groups[g + 1 :]])
                if changed != choice:
                    yield changed
        if len(groups) > 1:
            for g in range(len(groups)):
                yield united([*groups[:g], *groups[g + 1 :]])
        elif not self.alike:
            for two in self._parted(u, choice):
                yield united(two)

    def _parted(self, u: int, one: Choice) -> Iterator[tuple[Choice, Choice]]:
        """Some replicas made another than the rest: of another share, or twice or half as wide."""
        degree, replicas, parts, _ = one
        least = self.least(u, degree)
        if replicas < 2:
            return
        shares = {min(PARTS, max(least, share)) for share in (least, *self._near(parts)[-2:], PARTS)}
        for share in sorted(shares - {parts}):
            yield one._replace(replicas=replicas - 1), Choice(degree, 1, share)
        if 2 * degree in self.widths[u] and replicas > 2:
            yield one._replace(replicas=replicas - 2), Choice(2 * degree, 1, max(parts, self.least(u, 2 * degree)))
        if degree // 2 in self.widths[u]:
            yield one._replace(replicas=replicas - 1), Choice(degree // 2, 2, max(parts, self.least(u, degree // 2)))

    def _group(self, u: int, one: Choice) -> Iterator[Choice]:
        degree, replicas, parts, _ = one
        for other in self.widths[u]:
            least = self.least(u, other)
            counts = {replicas, max(1, replicas * degree // other)} if other != degree else {replicas}
            for count in sorted(counts | {max(1, replicas - 1), replicas + 1, max(1, replicas // 2), replicas * 2}):
                same = other == degree
                shares = {parts} if same or count != replicas else {parts, least, PARTS}
                if same and count == replicas:
                    shares = {*self._near(parts), least, PARTS}
                for share in sorted({min(PARTS, max(least, share)) for share in shares}):
                    yield Choice(other, count, share)

    def _near(self, parts: int) -> list[int]:
        return [parts + sign * step for step in self.steps for sign in (-1, 1)]

    def shaken(self, choices: Choices, rng: random.Random, changes: int = 3) -> Move:
        """After so many random changes."""
        shaken, kept = list(choices), set[int]()
        for _ in range(changes):
            u = rng.randrange(len(shaken))
            shaken[u] = rng.choice(list(self._changes(u, shaken[u])) or [shaken[u]])
            kept.add(u)
        return Move(tuple(shaken), frozenset(kept) if len(kept) < len(shaken) else frozenset())

    def drawn(self, rng: random.Random) -> list[Choice]:
        """One replica of each unit, of any width and of a share not far above the least."""
        degrees = [rng.choice(own) for own in self.widths]
        return [
            Choice(degree, 1, min(PARTS, self.least(u, degree) + rng.choice((0, 0, *COARSE))))
            for u, degree in enumerate(degrees)
        ]

    # ---------------------------------------------------------------- room

    def placed(self, move: Move) -> tuple[Choices, list[Plan]]:
        """Packings of a move; where it has no place, of what it is trimmed to. No packing if nothing helps."""
        choices = move.choices
        for _ in range(TRIMS + 1):
            plans = self.packer.plans(choices)
            if plans:
                return choices, plans
            trimmed = self._trimmed(choices, move.kept)
            if trimmed is None:
                break
            choices = trimmed
        return choices, []

    def _trimmed(self, choices: Choices, kept: frozenset[int]) -> Choices | None:
        """The unit that has most above its least gives some of each device, or a replica where shares are least."""
        spare: list[tuple[int, int, Choice]] = []
        for u, choice in enumerate(choices):
            one, least = choice._replace(also=()), self.least(u, choice.tensor_parallel)
            if u in kept:
                continue
            if one.parts > least:
                less, gain = one._replace(parts=max(least, one.parts - COARSE[0])), one.taken * (one.parts - least)
            elif one.replicas > 1:
                less, gain = one._replace(replicas=one.replicas - 1), one.taken // one.replicas
            else:
                continue
            spare.append((gain, u, united([less, *choice.also])))
        if not spare:
            return None
        _, u, other = max(spare, key=lambda found: (found[0], -found[1]))
        return (*choices[:u], other, *choices[u + 1 :])
