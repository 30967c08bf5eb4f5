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
MOST_COLUMNS = 2048
"steps beyond count as work alone: the names of stages come from clients, and may be new in each job"
MOST_ENDED = 4096
"steps of a job whose end is told apart by what had become visible then"
LEAST_RELEVANCE = 0.02
"a fact that explains less is ignored"
DENSITY = 30.0
"with it a kernel's width balances what it blurs against how few rows it leaves; see `_kernel`"
LEAST_NOISE = 0.01
"of what is left unexplained over what is explained: no width goes to 0"
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


class Row(NamedTuple):
    """One job: what does not depend on the others."""

    record: Record
    keys: list[tuple[str, int]]
    "(stage, turn) of each step that has a column"
    figures: Floats
    "[figure][step of these]: work, tail, left, prompt, output, milliseconds; see Samples"
    rest: dict[str, float]
    "stage -> engine seconds of its turns that have no column"
    visible: Floats
    "[n]: how many steps had become visible when n had ended"


def row_of(record: Record, pace: Callable[[str, str], Latency]) -> Row:
    """A job's sizes, and how it would go with all engines to itself."""
    steps = record.steps
    count = len(steps)
    work, lasts, ends = [0.0] * count, [0.0] * count, [0.0] * count
    for i, step in enumerate(steps):
        if step.model is not None:
            work[i] = pace(step.stage, step.model).unloaded(step.prompt_tokens, step.output_tokens)
        lasts[i] = work[i] if step.model is not None else step.duration_s
        ends[i] = lasts[i] + max((ends[before] for before in step.after), default=0.0)
    tails = [0.0] * count
    for i in range(count - 1, -1, -1):
        for before in steps[i].after:
            tails[before] = max(tails[before], tails[i] + lasts[i])
    order = sorted(range(count), key=lambda i: (ends[i], i))
    after = {i: number for number, i in enumerate(order, 1)}  # how many steps have ended with this one
    begin = [max((after[before] for before in step.after), default=0) for step in steps]
    numbers = _turns(steps)
    rest: dict[str, float] = {}
    left = [0.0] * count
    remaining = sum(work)
    for i in order:
        remaining -= work[i]
        left[i] = max(remaining, 0.0)
        if numbers[i] >= MOST_TURNS:
            rest[steps[i].stage] = rest.get(steps[i].stage, 0.0) + work[i]
    own = [i for i in range(count) if numbers[i] < MOST_TURNS]
    sizes = [(steps[i].prompt_tokens, steps[i].output_tokens, 1e3 * steps[i].duration_s) for i in own]
    figures = np.array([(work[i], tails[i], left[i], *size) for i, size in zip(own, sizes, strict=True)], np.float64)
    keys = [(steps[i].stage, numbers[i]) for i in own]
    visible = np.cumsum(np.bincount(begin, minlength=count + 1)).astype(np.float64)
    return Row(record, keys, figures.reshape(len(own), 6).T, rest, visible)


def _turns(steps: Sequence[Step]) -> list[int]:
    """Of each step: how many of its stage came before it."""
    counts: dict[str, int] = {}
    turns = []
    for step in steps:
        turns.append(counts.get(step.stage, 0))
        counts[step.stage] = turns[-1] + 1
    return turns


class Samples:
    """The rows, bound to the pace of the engines that serve them. Never changes, but that columns are made when used.

    `before`: samples at the same pace; rows of records that they have, or have prepared, are taken from there.
    """

    def __init__(
        self, records: Sequence[Record], pace: Callable[[str, str], Latency], before: Samples | None = None
    ) -> None:
        """`pace`: (stage, model) -> constants of the engine that serves it."""
        self.rows = len(records)
        self.pace = pace
        made = {} if before is None else before.made
        rows = [made.get(id(record)) or row_of(record, pace) for record in records]
        #: by identity of the record, which the row keeps alive
        self.made: dict[int, Row] = {id(row.record): row for row in rows}
        self._all = rows
        places: dict[tuple[str, int], int] = {}
        where = np.array([places.setdefault(key, len(places)) for row in rows for key in row.keys], np.intp)
        number = np.repeat(np.arange(self.rows), [len(row.keys) for row in rows])
        told = np.concatenate([np.zeros((6, 0)), *(row.figures for row in rows)], axis=1)
        own = where < MOST_COLUMNS
        without = np.bincount(number[~own], told[0, ~own], self.rows)  # engine seconds of steps beyond
        where, number = where[own], number[own]
        self._places = {key: place for key, place in places.items() if place < MOST_COLUMNS}
        figures = np.zeros((6, len(self._places), self.rows))
        figures[:, where, number] = told[:, own]
        self.work: Floats = figures[0]
        "[place][row]: engine seconds, unloaded"
        self.tail: Floats = figures[1]
        "seconds from its end to the end of its job along the longest path, tools included"
        self._left: Floats = figures[2]  # engine seconds left when it ended
        self._sizes: Floats = figures[3:]  # prompt, output, milliseconds
        self._present = np.zeros((len(self._places), self.rows), bool)
        self._present[where, number] = True
        self.rest: dict[str, Floats] = {}
        "stage -> engine seconds of its turns that have no column, a row"
        longest = max((len(row.visible) for row in rows), default=1)
        self.visible = np.zeros((min(longest, MOST_ENDED), self.rows))
        "[n][row]: how many steps had become visible when so many had ended"
        for index, row in enumerate(rows):
            self.visible[: len(row.visible), index] = row.visible[:MOST_ENDED]
            self.visible[len(row.visible) :, index] = row.visible[-1]
            for stage, work in row.rest.items():
                self.rest.setdefault(stage, np.zeros(self.rows))[index] = work
        self.total: Floats = self.work.sum(axis=0) + sum(self.rest.values(), without)
        self._columns: dict[tuple[str, int], Column] = {}
        self.features = self._features()

    def prepare(self, record: Record) -> None:
        """Make the row of a record that the next samples will have."""
        self.made[id(record)] = row_of(record, self.pace)

    @cached_property
    def influence(self) -> dict[str, float]:
        """Stage -> how much of a job its end lets begin. Made for whoever asks."""
        return influence([row.record for row in self._all])

    def column(self, stage: str, turn: int) -> Column | None:
        """The step that is the `turn`-th of its stage, from 0; None where no row has it. Made when first asked for."""
        key = stage, turn
        column = self._columns.get(key)
        if column is None and (place := self._places.get(key)) is not None:
            column = self._columns[key] = self._column(place, key)
        return column

    def _column(self, place: int, key: tuple[str, int]) -> Column:
        here = self._present[place]
        model = self._model(key, int(np.argmax(here)))
        prompt, output, seconds = self._sizes[:, place]
        ahead = self._left[place]
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

    def _model(self, key: tuple[str, int], row: int) -> str | None:
        of_stage = [step for step in self._all[row].record.steps if step.stage == key[0]]
        return of_stage[key[1]].model

    def _features(self) -> dict[str, Kernel]:
        """Facts of the request that tell of the job's size."""
        kernels = {}
        told = [row.record.features for row in self._all]
        for name in sorted({name for features in told for name in features}):
            here = np.array([name in features for features in told])
            values = np.array([features.get(name, 0.0) for features in told])
            kernel = _kernel(values, here, self.total)
            if kernel is not None and here.all():
                kernels[name] = kernel
        return kernels


def scaled(value: float) -> float:
    """A size as kernels compare it: by ratio, with room for 0 and for features that are negative."""
    return float(np.arcsinh(float(value)))


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
    # Of a linear dependence a kernel of width h blurs h² (squared: h⁴), and leaves n·h rows, whose noise it averages.
    # Alone the best h goes with (noise / n)^(1/5); with a second fact beside it, with ^(1/6).
    noise = max((1.0 - relevance) / relevance, LEAST_NOISE)
    width = spread * (noise / (DENSITY * count)) ** (1 / 6)
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
