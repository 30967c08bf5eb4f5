"""The structure of one recorded job, without its sizes: what ran, in what order, in which round, decided by what.

Sets of steps are bits of an int (bit i = step i), so that "is an ancestor of" costs one operation.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import msgspec

from hocket.beliefs.record import Step


class Skeleton(NamedTuple):
    """What two jobs of the same structure have in common; hashable."""

    stages: tuple[str, ...]
    after: tuple[tuple[int, ...], ...]
    "per step, the earlier steps that had to end first"
    revealed_by: tuple[int | None, ...]


def skeleton_of(steps: Sequence[Step], known: Container[str] | None = None) -> Skeleton:
    """The structure of a job. Steps of stages that are not `known` are passed over: what waits for them waits for what
    they wait for.
    """
    if known is not None and not all(step.stage in known for step in steps):
        steps = _without(steps, known)
    return Skeleton(
        tuple(step.stage for step in steps),
        tuple(tuple(step.after) for step in steps),
        tuple(step.revealed_by for step in steps),
    )


def _without(steps: Sequence[Step], known: Container[str]) -> list[Step]:
    kept: list[Step] = []
    place: list[list[int]] = []  # of each step, its new place, or those of what it waited for
    for step in steps:
        after = sorted({new for old in step.after for new in place[old]})
        if step.stage not in known:
            place.append(after)
            continue
        place.append([len(kept)])
        revealer = [] if step.revealed_by is None or step.revealed_by >= len(place) else place[step.revealed_by]
        by = revealer[0] if len(revealer) == 1 else None
        kept.append(msgspec.structs.replace(step, after=after, revealed_by=by))
    return kept


class Shape:
    """A structure and what follows from it."""

    def __init__(self, skeleton: Skeleton) -> None:
        self.stages, self.after, self.revealed_by = skeleton
        self.of_stage: dict[str, int] = {}
        "stage -> its steps"
        self.ancestors: list[int] = []
        "per step, all that had ended before it began"
        self._levels: dict[str, list[int]] = {}
        "stage -> the steps of each of its rounds"
        for index, (stage, after) in enumerate(zip(self.stages, self.after, strict=True)):
            bits = 0
            for before in after:
                bits |= self.ancestors[before] | 1 << before
            self.ancestors.append(bits)
            self.of_stage[stage] = self.of_stage.get(stage, 0) | 1 << index

    @cached_property
    def rounds(self) -> list[int]:
        """Per step, how many rounds of its own stage came before it, one after another."""
        rounds = []
        for index, stage in enumerate(self.stages):
            levels = self._levels.setdefault(stage, [])
            turn = self._last(levels, self.ancestors[index]) + 1
            if turn == len(levels):
                levels.append(0)
            levels[turn] |= 1 << index
            rounds.append(turn)
        return rounds

    def last_round(self, stage: str, step: int) -> int:
        """The last round of a stage that had ended when a step began; -1: none had."""
        assert self.rounds, "which fills the levels"
        return self._last(self._levels.get(stage, []), self.ancestors[step])

    @staticmethod
    def _last(levels: Sequence[int], steps: int) -> int:
        return next((turn for turn in range(len(levels) - 1, -1, -1) if levels[turn] & steps), -1)

    @cached_property
    def depths(self) -> list[int]:
        """Per step, the length of the longest chain before it."""
        depths: list[int] = []
        for after in self.after:
            depths.append(1 + max((depths[before] for before in after), default=-1))
        return depths

    def edges(self) -> Iterator[tuple[int, int]]:
        """(before, after) of steps, without those that another chain of edges implies."""
        for index, after in enumerate(self.after):
            implied = 0
            for before in after:
                implied |= self.ancestors[before]
            yield from ((before, index) for before in after if not implied >> before & 1)

    def loops(self, before: str, after: str) -> bool:
        """Whether `after` had its first round when `before` had not, so that this edge leads to another one."""
        first = lowest(self.of_stage[before])
        return before == after or bool(self.ancestors[first] & self.of_stage[after])

    def broken(self, before: str, after: str, *, again: bool = False) -> bool:
        """Whether a step of `after` began while one of `before` was still to end, and none of them had.

        An edge that leads to another round (`again`) says nothing of the first one.
        """
        befores, afters = self.of_stage[before], self.of_stage[after]
        return any(
            not self.ancestors[step] & befores
            and not (again and self.rounds[step] == 0)
            and any(not self.ancestors[other] >> step & 1 for other in bits_of(befores))
            for step in bits_of(afters)
        )

    def in_turn(self, stage: str) -> bool:
        """Whether the tasks of a stage ran one after another, round by round: each round waited for all before it."""
        before, rounds = 0, dict[int, int]()
        for step in bits_of(self.of_stage[stage]):
            rounds[self.rounds[step]] = rounds.get(self.rounds[step], 0) | 1 << step
        for turn in range(len(rounds)):
            if any(before & ~self.ancestors[step] for step in bits_of(rounds[turn])):
                return False
            before |= rounds[turn]
        return len(rounds) > 1


def bits_of(bits: int) -> Iterator[int]:
    """The places of the set bits, lowest first."""
    while bits:
        yield lowest(bits)
        bits &= bits - 1


def lowest(bits: int) -> int:
    """The place of the lowest set bit."""
    return (bits & -bits).bit_length() - 1
