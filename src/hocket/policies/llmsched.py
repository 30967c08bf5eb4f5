"""`llmsched`: shortest expected remaining time, and now and then the stage that would tell most (arXiv 2504.03444).

Zhu, Chen, Fan and Zhu, *LLMSched: Uncertainty-Aware Workload Scheduling for Compound LLM Applications*, ICDCS 2025.
What the paper leaves open is decided in docs/decisions/llmsched.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil
from typing import Any, ClassVar, NamedTuple

from hocket.core.belief import Belief, Posterior
from hocket.core.ordering import Fact, Index, Scope, View
from hocket.core.rng import Rng
from hocket.core.state import Call, Job
from hocket.policies.informed import belief_of
from hocket.policies.orderings import Key


class LlmSched:
    """Exploit: the job with the least expected remaining time (SRTF). Explore, with probability `epsilon`: MSRF.

    MSRF sorts jobs into sets by their intervals of remaining time. Sets do not overlap, so between sets the order is
    certain; inside a set it is not, and there the ready stage goes first that reduces uncertainty most. Of that
    stage's waiting tasks a fraction `sample` is run, then the next decision is made.
    """

    name: ClassVar[str] = "llmsched"
    scope: ClassVar[Scope] = Scope.JOB
    reads: ClassVar[frozenset[Fact]] = frozenset({Fact.BELIEF, Fact.BATCH})

    def __init__(self, epsilon: float = 0.1, sample: float = 0.3, informs: int = 4) -> None:
        """`epsilon`: share of decisions that explore, 0 to 1; `sample`: fraction of the explored stage's waiting tasks
        that are run, above 0 to 1; `informs`: variables that stand for all that a stage informs, 1 to 6.

        Raises ValueError for others.
        """
        if not 0.0 <= epsilon <= 1.0:
            raise ValueError(f"epsilon: {epsilon}; use 0 (never explore) to 1 (always)")
        if not 0.0 < sample <= 1.0:
            raise ValueError(f"sample: {sample}; use a fraction above 0, up to 1 (all tasks)")
        if informs not in range(1, 7):
            raise ValueError(f"informs: {informs}; use 1 to 6: an exact joint over more is out of reach")
        self.epsilon = epsilon
        self.sample = sample
        self.informs = int(informs)
        self._samples: dict[str, _Sample] = {}  # engine -> what is being explored there
        self._rows: dict[str, dict[Job, _Row]] = {}  # engine -> its waiting jobs as of the last exploration
        self._batches: dict[str, int] = {}  # engine -> batch sizes as of then

    def key(self, call: Call, view: View) -> Key:
        """Expected engine seconds that are left of the job, in batches of today's size."""
        return (_expected(call.job).remaining_s,)

    def pick(self, index: Index, view: View, rng: Rng) -> Call:
        """The next task of the stage that is being explored; else toss the coin."""
        first = index.first()
        engine = first.engine.name
        going_on = self._samples.get(engine)
        if going_on is not None:
            call = self._sampled(engine, going_on, index)
            if call is not None:
                return call
        if rng.random() >= self.epsilon:
            return first
        row = self._head(index, engine, view)
        waiting = sum(1 for call in index.calls(row.job) if call.stage == row.stage)
        sample = _Sample(row.job.id, row.stage, ceil(self.sample * waiting - 1e-9))
        return self._sampled(engine, sample, index, row.job) or first

    def _sampled(self, engine: str, sample: _Sample, index: Index, job: Job | None = None) -> Call | None:
        """The next task of a sample, its earliest; None if none waits any more, which ends it."""
        self._samples.pop(engine, None)
        job = job or next((job for job in index.jobs() if job.id == sample.job), None)
        tasks = [call for call in index.calls(job) if call.stage == sample.stage] if job is not None else []
        if not tasks:
            return None
        if sample.left > 1:
            self._samples[engine] = sample._replace(left=sample.left - 1)
        return min(tasks, key=lambda call: call.number)

    # ---------------------------------------------------------------- MSRF

    def _head(self, index: Index, engine: str, view: View) -> _Row:
        """The first of the MSRF order: the most telling stage of the first set of overlapping intervals."""
        rows = sorted(self._current(index, engine, view))
        head, upper = rows[0], rows[0].high
        for row in rows:
            if row.low > upper:
                break  # a new set begins: whatever it tells, it comes later
            if row.high > upper:
                upper = row.high
            if row.rank < head.rank:
                head = row
        return head

    def _current(self, index: Index, engine: str, view: View) -> Iterable[_Row]:
        """A row for each job that waits here. Made anew only where the job has moved since the last exploration."""
        before = self._rows.get(engine, {})
        if self._batches.get(engine) != view.batches:
            self._batches[engine] = view.batches
            before = {}
        rows: dict[Job, _Row] = {}
        for job in index.jobs():
            row = before.get(job)
            if (
                row is None
                or row.belief is not job.belief
                or row.moves != row.belief.moves
                or row.waiting != job.waiting
            ):
                row = self._row(job, index)
            rows[job] = row
        self._rows[engine] = rows
        return rows.values()

    def _row(self, job: Job, index: Index) -> _Row:
        belief, expected = belief_of(job), _expected(job)
        low, high = expected.interval_s
        posterior = belief.posterior
        gain, stage = -1.0, ""
        for ready in sorted({call.stage for call in index.calls(job)}):
            told = 0.0 if posterior is None else posterior.gain(ready, self.informs)
            if told > gain:
                gain, stage = told, ready
        rank = (-gain, expected.remaining_s, job.number)
        return _Row(low, high, rank, stage, job, belief, belief.moves, job.waiting)

    # ---------------------------------------------------------------- snapshots

    def save(self) -> Any:
        """The samples that are not run to their end. (Rows are made anew, and are the same.)"""
        return {engine: list(sample) for engine, sample in self._samples.items()}

    def restore(self, saved: Any) -> None:
        self._samples = {engine: _Sample(*sample) for engine, sample in saved.items()}


class _Sample(NamedTuple):
    """A stage that is being explored."""

    job: str
    stage: str
    left: int
    "tasks still to run"


class _Row(NamedTuple):
    """A job that waits, as MSRF sees it. Rows sort by their intervals."""

    low: float
    high: float
    rank: tuple[float, float, int]
    "inside a set: the most telling first, then the least work, then the earliest"
    stage: str
    "its most telling ready stage"
    job: Job
    belief: Belief
    moves: int
    "of the belief, when this was made"
    waiting: int
    "calls of the job that waited then"


def _expected(job: Job) -> Belief | Posterior:
    """What the network says of its rest; where there is none, what recorded jobs say."""
    belief = belief_of(job)
    return belief.posterior or belief
