"""`llmsched`: shortest expected remaining time, and now and then the stage that would tell most (arXiv 2504.03444).

Zhu, Chen, Fan and Zhu, *LLMSched: Uncertainty-Aware Workload Scheduling for Compound LLM Applications*, ICDCS 2025.
What the paper leaves open is decided in docs/decisions/llmsched.md.
"""

from __future__ import annotations

from math import ceil
from operator import itemgetter
from typing import Any, ClassVar, NamedTuple

from hocket.core.belief import Belief, Posterior
from hocket.core.ordering import Fact, Index, Scope, View
from hocket.core.rng import Rng
from hocket.core.state import Call, CallState, Job
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

    def __init__(self, epsilon: float = 0.02, sample: float = 0.3, informs: int = 4) -> None:
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
        self._rows: dict[str, dict[Job, _Row]] = {}  # engine -> jobs that wait there
        self._moved: dict[str, set[Job]] = {}  # engine -> jobs whose row is to be made anew

    def key(self, call: Call, view: View) -> Key:
        """Expected engine seconds that are left of the job, in batches of today's size.

        It is asked whenever what is known of a waiting job has changed, and then the job's row is old, too.
        """
        self._note(call)
        return (_expected(call.job).remaining_s,)

    def pick(self, index: Index, view: View, rng: Rng) -> Call:
        """The next task of the stage that is being explored; else toss the coin."""
        first = index.first()
        engine = first.engine.name
        going_on = self._samples.pop(engine, None)
        call = None if going_on is None else self._sampled(engine, going_on, index)
        if call is None:
            call = first if rng.random() >= self.epsilon else self._explored(engine, index) or first
        self._note(call)
        return call

    def _note(self, call: Call) -> None:
        if self.epsilon:
            self._moved.setdefault(call.engine.name, set()).add(call.job)

    def _explored(self, engine: str, index: Index) -> Call | None:
        """The first task of a new sample. None if that stage's calls are of another class than `index` is about."""
        row = self._head(engine, index)
        waiting = sum(1 for call in index.calls(row.job) if call.stage == row.stage)
        return self._sampled(engine, _Sample(row.job.id, row.stage, ceil(self.sample * waiting - 1e-9)), index)

    def _sampled(self, engine: str, sample: _Sample, index: Index) -> Call | None:
        """The next task of a sample, its earliest; None if none waits any more, which ends it."""
        job = next((job for job in index.jobs() if job.id == sample.job), None)
        tasks = [] if job is None else [call for call in index.calls(job) if call.stage == sample.stage]
        if not tasks:
            return None
        if sample.left > 1:
            self._samples[engine] = sample._replace(left=sample.left - 1)
        return min(tasks, key=lambda call: call.number)

    # ---------------------------------------------------------------- MSRF

    def _head(self, engine: str, index: Index) -> _Row:
        """The first of the MSRF order: the most telling stage of the first set of overlapping intervals."""
        rows = sorted(self._current(engine, index), key=_LOW)
        upper, inside = rows[0].high, 0
        for low, high, *_ in rows:
            if low > upper:
                break  # a new set begins: whatever it tells, it comes later
            if high > upper:
                upper = high
            inside += 1
        return min(rows[:inside], key=_RANK)

    def _current(self, engine: str, index: Index) -> list[_Row]:
        """A row for each job that waits here. Made anew only where something has moved."""
        rows, moved = self._rows.setdefault(engine, {}), self._moved.setdefault(engine, set())
        jobs = list(index.jobs())
        for job in jobs:
            if job in moved or job not in rows:
                rows[job] = _row(job, engine, self.informs)
        self._moved[engine] = {job for job in moved.difference(jobs) if job.waiting}
        if len(rows) > 2 * len(jobs) + 100:  # not all of them wait here any more
            self._rows[engine] = {job: row for job, row in rows.items() if job.waiting}
        return [rows[job] for job in jobs]

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
    """A job that waits, as MSRF sees it."""

    low: float
    high: float
    rank: tuple[float, float, int]
    "inside a set: the most telling first, then the least work, then the earliest"
    stage: str
    "its most telling ready stage"
    job: Job


_LOW, _RANK = itemgetter(0), itemgetter(2)


def _row(job: Job, engine: str, informs: int) -> _Row:
    """Of all its calls that wait there, whatever their class: the row is the same for each index."""
    expected, posterior = _expected(job), belief_of(job).posterior
    low, high = expected.interval_s
    gain, stage = -1.0, ""
    here = (call for call in job.calls.values() if call.node is not None and call.engine.name == engine)
    waiting = (call.stage for call in here if call.state is CallState.QUEUED)
    for ready in sorted(set(waiting)):
        told = 0.0 if posterior is None else posterior.gain(ready, informs)
        if told > gain:
            gain, stage = told, ready
    return _Row(low, high, (-gain, expected.remaining_s, job.number), stage, job)


def _expected(job: Job) -> Belief | Posterior:
    """What the network says of its rest; where there is none, what recorded jobs say."""
    belief = belief_of(job)
    return belief.posterior or belief
