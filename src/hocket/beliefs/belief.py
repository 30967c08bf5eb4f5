"""What is believed of one job: its application's recorded jobs, reweighted by what it has shown so far.

A row of the samples is a way in which the job may go on. Each fact that is seen (a step begins, with this prompt; it
ends, with this answer) multiplies the rows' weights by how well they agree. What is left of the job is then, in every
row, what the row had left; mean, quantiles and ranks all come from the same weighted rows.

A job that no row is like (its application is new, or has changed) is taken for a typical one, whatever it does. All
such jobs are then alike, and go in the order in which they arrived: of those of which nothing is known, none is risked
for another. Where a length predictor told of all its open calls, these are what such a job is taken to have left.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from hocket.beliefs.facts import BEGAN, LOST, Facts
from hocket.beliefs.lesson import Lesson
from hocket.beliefs.posterior import JobPosterior
from hocket.beliefs.record import Step
from hocket.beliefs.samples import Column, Floats, Kernel, Samples, scaled

SUPPORT = 16
"rows: when evidence leaves fewer (or an eighth of all), it is tempered until so many count"
NEW = 3.0
"recorded jobs that the typical one is worth, before any step was as expected"
MISFIT = 9.0
"times all recorded jobs that it is worth for each step that none of them has"
SHAPE = -1.0
"log-likelihood of each step more or fewer than a row had visible at this point"
MOST_SHAPE = 3.0
"steps beyond which it makes no difference"
UNLIKE = 50.0
"minus the log-likelihood of a fact that a row is far from; less, and the many that are far would outweigh the few near"
POSSIBLE = 1e-3
"of the largest weight: rows below it are no longer possible"
FIRST_ANSWER = 128.0
"tokens of an answer of which nothing is known"


class _Open(NamedTuple):
    """A step that has not ended."""

    column: Column | None
    "None where no row has it"
    work: Floats | float
    "engine seconds, a row"
    mean: float
    "of them"
    hinted: bool = False
    "whether a length predictor told of it"


class JobBelief(Facts):
    """The belief about one job. The tracker feeds it; orderings read its properties.

    Feeding it only notes what was told: what the facts do to the rows is worked out when somebody reads. So a gateway
    where no call ever waits pays nothing for it.
    """

    __slots__ = (
        "_ahead", "_attained", "_fits", "_known", "_lacks", "_left", "_log", "_misfits", "_open", "_path", "_places",
        "_posterior", "_remaining", "_rest", "_weights", "foretold", "lesson", "read", "typical_s",
    )  # fmt: skip

    def __init__(self, lesson: Lesson, features: dict[str, float], typical_s: float = 10.0) -> None:
        """`typical_s`: engine seconds that a job of which nothing is known is taken to have left."""
        Facts.__init__(self, features)
        self.lesson = lesson
        self.typical_s = typical_s
        self.read = False
        "whether anybody has asked"
        self.foretold: tuple[Floats, Floats] | None = None
        "sizes and their weights, as believed when its first step ended; None if nobody had asked by then"
        self._known = -1  # facts that are worked out; not even the features are
        self._posterior: JobPosterior | None = None

    def finished(self, index: int, prompt_tokens: int, output_tokens: int, duration_s: float = 0.0) -> None:
        """See `Facts`."""
        if self.read and not self.over:
            self.foretold = self.rows()
        Facts.finished(self, index, prompt_tokens, output_tokens, duration_s)

    def lost(self, index: int) -> None:
        """See `Facts`."""
        if self.read and not self.over:
            self.foretold = self.rows()
        Facts.lost(self, index)

    def judge_by(self, lesson: Lesson) -> None:
        """Judge the job by another lesson."""
        read, judged = self.read, self.foretold is not None
        told, moves = self._forget(), self.moves
        self.lesson, self.foretold = lesson, None
        self._known, self._posterior = -1, None
        self.retell(told, read=read, judged=judged)
        self.moves = moves + 1

    def retell(self, told: Iterable[Sequence[Any]], *, read: bool, judged: bool) -> None:
        """Take in all that was told of a job which was `read` in the end, and `judged` by what was foretold of it."""
        self.read = judged
        for fact in told:
            if len(fact) == BEGAN:
                self.began(*fact[1:])
            elif len(fact) == LOST:
                self.lost(*fact)
            else:
                self.finished(*fact)
        self.read = read

    # ---------------------------------------------------------------- what it does to the rows

    @property
    def samples(self) -> Samples:
        """The recorded jobs that it is judged by."""
        return self.lesson.samples

    def _work_out(self) -> None:
        """Take in the facts that were told since somebody read."""
        self.read = True
        if self._known < 0:
            self._begin()
        if self._known == len(self.told):
            return
        steps = self.record.steps
        for fact in self.told[self._known :]:
            index = fact[0]
            if len(fact) == BEGAN:
                self._take_begin(index, steps[index], *fact[3:])
            else:
                self._take_end(index, steps[index], lost=len(fact) == LOST)
        self._known = len(self.told)
        self._update()

    def _begin(self) -> None:
        samples = self.samples
        self._known = 0
        self._attained = 0.0
        self._fits = self._misfits = 0.0
        self._lacks: Floats = np.zeros(samples.rows)  # log-likelihood of the steps seen, a row
        self._log: Floats = np.zeros(samples.rows)  # and of their sizes
        self._weights: Floats = self._log
        self._remaining: Floats = self._log
        self._path: float | None = None
        self._left: Floats = samples.total
        self._ahead: Floats = np.zeros(samples.rows)  # what the open calls have of it
        self._open: dict[int, _Open] = {}
        self._places: list[int | None] = []
        self._rest: dict[str, float] = {}
        for name, kernel in samples.features.items():
            self._agree(kernel, self.features.get(name))
        self._update()

    def _take_begin(self, index: int, step: Step, prompt: int, most: int | None, hint: int | None) -> None:
        stage, model = step.stage, step.model
        column = self.samples.column(stage, self._turn_of[index])
        place = None if column is None else column.place
        self._places.append(place)
        if column is not None:
            self._lacks = self._lacks + column.absent
            if column.prompt is not None:
                self._agree(column.prompt, prompt)
            self._fits += 1.0
        elif stage in self.samples.rest:
            self._fits += 1.0
        else:
            self._misfits += 1.0
        if model is not None:
            work = self._work(stage, model, column, prompt, most, hint)
            self._open[index] = _Open(column, work, float(np.mean(work)), hint is not None)
            self._left = self._left + (work if place is None else work - self.samples.work[place])
            self._ahead = self._ahead + work
            self._count_rest(index, self._open[index].mean)
        elif column is not None:
            self._open[index] = _Open(column, 0.0, 0.0)

    def _take_end(self, index: int, step: Step, *, lost: bool) -> None:
        work = 0.0
        opened = self._open.pop(index, None)
        if not lost and step.model is not None:
            work = self.samples.pace(step.stage, step.model).unloaded(step.prompt_tokens, step.output_tokens)
            self._attained += work
        if opened is None:
            return
        column = opened.column
        if column is not None and not lost:
            if column.answer is not None and step.output_tokens:
                self._agree(column.answer, step.output_tokens)
            if column.seconds is not None:
                self._agree(column.seconds, 1e3 * step.duration_s)
        if step.model is not None:
            self._left = self._left - opened.work
            self._ahead = self._ahead - opened.work
            self._count_rest(index, work - opened.mean)

    def _count_rest(self, index: int, work: float) -> None:
        """A turn without a column: its work is part of the rows' sum."""
        stage = self.record.steps[index].stage
        if self._places[index] is None and stage in self.samples.rest:
            self._rest[stage] = self._rest.get(stage, 0.0) + work

    def _agree(self, kernel: Kernel, size: float | None) -> None:
        """Weight the rows by how near they are in one fact; where none is near, by which are nearest."""
        if size is None:
            return
        apart = kernel.values - scaled(size)
        unlike = kernel.scale * apart * apart
        support = _support(len(unlike))
        nth = float(np.partition(unlike, support - 1)[support - 1])
        if nth > 1.0:
            unlike = unlike / nth
        self._log = self._log - np.minimum(unlike, UNLIKE)

    def _work(
        self, stage: str, model: str, column: Column | None, prompt: int, most: int | None, hint: int | None
    ) -> Floats | float:
        """Engine seconds of a call, a row: its prompt is known, its answer as long as the row's."""
        pace = self.samples.pace(stage, model)
        if hint is not None:
            return pace.unloaded(prompt, hint)
        answer: Floats | float = FIRST_ANSWER if column is None else column.output
        if most is not None:
            answer = np.minimum(answer, most)
        steps = np.maximum(answer, 1.0) - 1.0
        return (
            pace.q0
            + pace.prefill(prompt)
            + steps * (pace.d0 + pace.d1 + pace.d2 * (prompt + 1.0))
            + pace.d2 * steps * (steps - 1.0) / 2.0
        )

    # ---------------------------------------------------------------- what orderings read

    @property
    def remaining_s(self) -> float:
        """See `hocket.core.belief.Belief`."""
        self._work_out()
        return self._mixed(float(self._weights @ self._remaining))

    @property
    def attained_s(self) -> float:
        self._work_out()
        return self._attained

    @property
    def total_s(self) -> float:
        return self.attained_s + self.remaining_s

    def influence(self, stage: str) -> float:
        return self.samples.influence.get(stage, 1.0)

    @property
    def interval_s(self) -> tuple[float, float]:
        self._work_out()
        if self.misfit > 0.5:
            return 0.0, 2.0 * self._unlike_s
        possible = self._remaining[self._weights >= POSSIBLE * self._weights.max()]
        return float(f"{possible.min():.9g}"), float(f"{possible.max():.9g}")

    @property
    def gittins_s(self) -> float:
        return self.rank_s(0.0)

    def rank_s(self, told: float) -> float:
        self._work_out()
        if not self.samples.rows:
            return self._unlike_s
        possible = (self._weights >= POSSIBLE * self._weights.max()).nonzero()[0]
        work, weights = self._remaining[possible], self._weights[possible]
        weights = weights / weights.sum()
        rank = (1.0 - told) * _silent(work, weights) if told < 1.0 else 0.0
        if told > 0.0:
            ahead = np.minimum(self._ahead, self._remaining)[possible]
            rank += told * _telling(float(weights @ ahead), work - ahead, weights)
        return self._mixed(rank)

    @property
    def path_s(self) -> float:
        self._work_out()
        if self._path is None:  # a chooser asks again and again
            self._path = self._longest()
        return self._path

    def _longest(self) -> float:
        if not self.samples.rows:
            return self._unlike_s
        path = np.zeros(self.samples.rows)
        for call in self._open.values():
            tail = 0.0 if call.column is None else self.samples.tail[call.column.place]
            path = np.maximum(path, call.work + tail)
        if not self._open and self.over:
            last = [place for place in (self._places[i] for i in self._frontier) if place is not None]
            path = self.samples.tail[last].max(axis=0) if last else self._remaining
        return self._mixed(float(self._weights @ path))

    @property
    def posterior(self) -> JobPosterior | None:
        """What the Bayesian network of its application says; None if there is none."""
        self.read = True  # for drift is told from what the rows foretold, whoever was asked
        network = self.lesson.network
        if network is None:
            return None
        record = self.record  # with all that was told by now
        if self._posterior is None:
            self._posterior = JobPosterior(network, record, self.ended)
        return self._posterior

    def rows(self) -> tuple[Floats, Floats]:
        """The remaining work in each row, and the rows' weights (they sum to 1). Not to be written."""
        self._work_out()
        return self._remaining, self._weights

    @property
    def misfit(self) -> float:
        """How much the typical job counts against the recorded ones: 1 where nothing is known of such a job."""
        self._work_out()
        rows = self.samples.rows
        weight = (NEW + MISFIT * rows * self._misfits) / (1.0 + self._fits) ** 2
        return weight / (weight + rows)

    def _mixed(self, of_rows: float) -> float:
        """What the rows say, and the typical job. Nine digits: sums differ in the last from machine to machine."""
        unlike = self.misfit
        return float(f"{(1.0 - unlike) * of_rows + unlike * self._unlike_s:.9g}")

    @property
    def _unlike_s(self) -> float:
        """Engine seconds that a job has left which no row is like."""
        calls = [step for step in self._open.values() if step.mean]
        if calls and all(call.hinted for call in calls):
            return sum(call.mean for call in calls)
        return self.typical_s

    def _update(self) -> None:
        self._path = None
        samples = self.samples
        if not samples.rows:
            return
        remaining = self._left
        for stage, done in self._rest.items():
            remaining = remaining - np.minimum(samples.rest[stage], done)
        self._remaining = np.maximum(remaining, 0.0)
        visible = samples.visible[min(self.over, len(samples.visible) - 1)]
        shape = SHAPE * np.minimum(np.abs(visible - self.begun), MOST_SHAPE)
        self._weights = _weights(self._lacks + shape, self._log)


def _weights(shape: Floats, sizes: Floats) -> Floats:
    """Weights that sum to 1. The likelihood of the sizes is tempered until, of the rows that have the right shape, some
    keep at least 1/e of the largest: many facts together would leave none.
    """
    like = sizes[shape >= shape.max() - 1.0]
    best = float(like.max())
    support = min(_support(len(sizes)), len(like))
    nth = best - float(np.partition(like, len(like) - support)[len(like) - support])
    log = shape + (sizes - best) / max(nth, 1.0)
    weights = np.exp(log - log.max())
    return np.asarray(weights / weights.sum())


def _silent(work: Floats, weights: Floats) -> float:
    """The Gittins rank: a job is served for a while, and all that is seen of it is whether it has ended."""
    order = work.argsort(kind="stable")
    work, weights = work[order], weights[order]
    done = weights.cumsum()
    spent = (weights * work).cumsum() + work * (1.0 - done)
    return float((spent / done).min())


def _telling(ahead: float, rest: Floats, weights: Floats) -> float:
    """The same of a job of which all is known once its open calls have ended: then it is left alone, or served."""
    order = rest.argsort(kind="stable")
    rest, weights = rest[order], weights[order]
    return float(((ahead + (weights * rest).cumsum()) / weights.cumsum()).min())


def _support(rows: int) -> int:
    """How many rows must be left to speak."""
    return min(max(rows // 8, 2), SUPPORT, rows)
