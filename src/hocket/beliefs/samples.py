"""Recorded jobs of one application as matrices: a row a job, a column a step (stored column by column).

A step's column is its stage and its turn: the n-th time that the stage occurs in a job, be it a round of a loop or one
of its parallel tasks. What a job lacks is absent (work 0). Beliefs reweight the rows by what a job under way has shown
so far; how sharply each fact does that is its *relevance*, learned here: the share of the variance of the remaining
work that it explains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hocket.beliefs.influence import influence
from hocket.beliefs.record import Record, Step
from hocket.core.latency import Latency

Floats = NDArray[np.float64]

MOST_TURNS = 64
"of a stage that have a column of their own; the work of further ones is kept as a sum"
LEAST_RELEVANCE = 0.02
"a fact that explains less is ignored"
LEAST_WIDTH = 0.05
"of a kernel, in standard deviations: the rows are only so dense"
FEW = 8
"rows below which nothing is said about relevance"


class Kernel(NamedTuple):
    """How a fact (the logarithm of a size) tells rows apart: a Gaussian around each row's value."""

    values: Floats
    "of each row; 0 where it lacks the step"
    scale: float
    "1 / (2 width²)"


class Column(NamedTuple):
    """One step of the application's jobs."""

    place: int
    "its index in the matrices"
    model: str | None
    present: NDArray[np.bool_]
    absent: Floats
    "log-likelihood of seeing this step, a row: 0, or a penalty where the row lacks it"
    output: Floats
    "tokens of its answer, a row; where it lacks the step, the mean"
    prompt: Kernel | None
    "None: tells nothing of the rest"
    answer: Kernel | None
    seconds: Kernel | None
    "of a tool run, in milliseconds"


ABSENT = -4.0
"log-likelihood of a step that a row lacks: rare, not impossible"


class Samples:
    """The rows, bound to the pace of the engines that serve them. Never changes."""

    def __init__(self, records: Sequence[Record], pace: Callable[[str, str], Latency]) -> None:
        """`pace`: (stage, model) -> constants of the engine that serves it."""
        self.rows = len(records)
        self.pace = pace
        self._places: dict[tuple[str, int], int] = {}
        steps = [self._place(record) for record in records]
        shape = len(self._places), self.rows
        self.work = np.zeros(shape)
        "[place][row]: engine seconds, unloaded"
        self.tail = np.zeros(shape)
        "seconds from its end to the end of its job along the longest path, tools included"
        self.rest: dict[str, Floats] = {}
        "stage -> engine seconds of its turns that have no column, a row"
        sizes = np.zeros((3, *shape))  # prompt, output, seconds
        present = np.zeros(shape, bool)
        left = np.zeros(shape)  # engine seconds left when it ended
        self.visible = np.zeros((1 + max((len(r.steps) for r in records), default=0), self.rows))
        "[n][row]: how many steps had become visible when so many had ended"
        for row, (record, places) in enumerate(zip(records, steps, strict=True)):
            self._fill(row, record.steps, places, sizes, present, left)
        self.total: Floats = self.work.sum(axis=0) + sum(self.rest.values(), np.zeros(self.rows))
        self.columns = {
            key: self._column(place, key, records, sizes, present, left) for key, place in self._places.items()
        }
        self.features = self._features(records)
        self._records = records

    @cached_property
    def influence(self) -> dict[str, float]:
        """Stage -> how much of a job its end lets begin. Made for whoever asks."""
        return influence(self._records)

    # ---------------------------------------------------------------- building

    def _place(self, record: Record) -> list[int | None]:
        """The column of each step."""
        turns: dict[str, int] = {}
        places: list[int | None] = []
        for step in record.steps:
            turn = turns[step.stage] = turns.get(step.stage, -1) + 1
            key = step.stage, turn
            places.append(self._places.setdefault(key, len(self._places)) if turn < MOST_TURNS else None)
        return places

    def _fill(
        self,
        row: int,
        steps: Sequence[Step],
        places: Sequence[int | None],
        sizes: Floats,
        present: NDArray[np.bool_],
        left: Floats,
    ) -> None:
        """One job: its sizes, and how it would go with all engines to itself."""
        count = len(steps)
        work, lasts, ends = [0.0] * count, [0.0] * count, [0.0] * count
        for i, step in enumerate(steps):
            if step.model is not None:
                work[i] = self.pace(step.stage, step.model).unloaded(step.prompt_tokens, step.output_tokens)
            lasts[i] = work[i] if step.model is not None else step.duration_s
            ends[i] = lasts[i] + max((ends[before] for before in step.after), default=0.0)
        tails = [0.0] * count
        for i in range(count - 1, -1, -1):
            for before in steps[i].after:
                tails[before] = max(tails[before], tails[i] + lasts[i])
        order = sorted(range(count), key=lambda i: (ends[i], i))
        after = {i: number for number, i in enumerate(order, 1)}  # how many steps have ended with this one
        begin = [max((after[before] for before in step.after), default=0) for step in steps]
        self.visible[:, row] = np.cumsum(np.bincount(begin, minlength=len(self.visible)))
        remaining = sum(work)
        for i in order:
            remaining -= work[i]
            place, step = places[i], steps[i]
            if place is None:
                self.rest.setdefault(step.stage, np.zeros(self.rows))[row] += work[i]
                continue
            present[place, row] = True
            self.work[place, row], self.tail[place, row], left[place, row] = work[i], tails[i], max(remaining, 0.0)
            sizes[:, place, row] = step.prompt_tokens, step.output_tokens, 1e3 * step.duration_s

    def _column(
        self,
        place: int,
        key: tuple[str, int],
        records: Sequence[Record],
        sizes: Floats,
        present: NDArray[np.bool_],
        left: Floats,
    ) -> Column:
        here = present[place]
        model = self._model(key, records, int(np.argmax(here)))
        prompt, output, seconds = sizes[:, place]
        ahead = left[place]
        absent = np.where(here, 0.0, ABSENT)
        mean = float(output[here].mean())
        if model is None:
            return Column(place, None, here, absent, output, None, None, _kernel(seconds, here, ahead))
        return Column(
            place,
            model,
            here,
            absent,
            np.where(here, output, mean),
            _kernel(prompt, here, ahead + self.work[place]),
            _kernel(output, here, ahead),
            None,
        )

    @staticmethod
    def _model(key: tuple[str, int], records: Sequence[Record], row: int) -> str | None:
        of_stage = [step for step in records[row].steps if step.stage == key[0]]
        return of_stage[key[1]].model

    def _features(self, records: Sequence[Record]) -> dict[str, Kernel]:
        """Facts of the request that tell of the job's size."""
        kernels = {}
        for name in sorted({name for record in records for name in record.features}):
            here = np.array([name in record.features for record in records])
            values = np.array([record.features.get(name, 0.0) for record in records])
            kernel = _kernel(values, here, self.total)
            if kernel is not None and here.all():
                kernels[name] = kernel
        return kernels


def scaled(value: float) -> float:
    """A size as kernels compare it: by ratio, with room for 0 and for features that are negative."""
    return float(np.arcsinh(value))


def _kernel(sizes: Floats, here: NDArray[np.bool_], ahead: Floats) -> Kernel | None:
    """How sharply this fact singles out rows with a like future; None if it does not."""
    count = int(here.sum())
    if count < FEW:
        return None
    values = np.arcsinh(sizes)
    spread = float(values[here].std())
    if spread < 1e-9:
        return None
    relevance = _explained(values[here], np.log(ahead[here] + 0.01 * float(ahead[here].mean()) + 1e-9))
    if relevance < LEAST_RELEVANCE:
        return None
    width = spread * max(((1.0 - relevance) / relevance) ** 0.5, LEAST_WIDTH)
    return Kernel(np.where(here, values, 0.0), 0.5 / width**2)


def _explained(values: Floats, target: Floats) -> float:
    """Share of the target's variance that the value explains, by its mean in bins of equal count (adjusted η²)."""
    count = len(values)
    variance = float(target.var())
    if variance < 1e-12:
        return 0.0
    order = np.sort(values)
    bins_wanted = min(8, count // 4)
    cuts = np.unique(order[(np.arange(1, bins_wanted) * count) // bins_wanted])
    bins = np.searchsorted(cuts, values, side="right")
    sums, counts = np.bincount(bins, target), np.bincount(bins)
    used = counts > 0
    between = float((sums[used] ** 2 / counts[used]).sum() / count - target.mean() ** 2)
    degrees = count - int(used.sum())
    if degrees <= 0:
        return 0.0
    return min(max(0.0, 1.0 - (1.0 - between / variance) * (count - 1) / degrees), 1.0)
