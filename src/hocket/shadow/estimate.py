"""Constants of the engine model from recorded calls: a rough but robust estimate, where no measurement is at hand.

A call's time in its replica is the sum of the iterations that it was part of. By the engine model that is linear in the
constants: q0 once; q2 for each prompt token that was admitted meanwhile, its own and others'; d0 for each token but the
first; d1 and d2 for each token times the calls, and the KV tokens, that ran beside it on average. So one non-negative
least squares over all calls gives them (q1 is left out: it needs prompts of very different length, alone). Where a
call streamed, its first token splits it into two rows. Rows that the fit misses by far more than most are left out of
a second one: a call that stalled, or that found its prompt cached.

`hocket engine profile` measures an idle engine on purpose and is to be preferred.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from statistics import median
from typing import NamedTuple

from hocket.core.latency import Latency
from hocket.engines.fit import Misfit, misfit, nnls
from hocket.history.traces import Recorded
from hocket.sim.model import EngineModel

MOST_ROWS = 2000
"that are fitted; of more, every so many-th"
FAR = 4.0
"times the median error: a row that is missed by more is left out"
SAME_S = 1e-5
"a call that begins so shortly before another ends took its place: times of day have no more digits"
ENOUGH = 20
"rows, below which those of crowded replicas are taken as well"

Row = tuple[tuple[float, ...], float]
"what the seconds are made of, in the order q0, q2, d0, d1, d2, and the seconds"


class Interval(NamedTuple):
    """A call in its replica, in seconds since 1970."""

    start: float
    first: float | None
    "its first token, where it streamed"
    end: float
    prompt: int
    output: int
    good: bool
    "whether it can teach: finished, at the first attempt"


class Estimate(NamedTuple):
    """One engine, as recorded calls show it."""

    model: EngineModel
    misfit: Misfit
    "of the rows that were fitted"
    calls: int


def intervals(jobs: Iterable[Recorded]) -> dict[str, dict[str, list[Interval]]]:
    """Engine -> replica -> what it did, by start."""
    found: dict[str, dict[str, list[Interval]]] = {}
    for one in jobs:
        at = one.job.arrived_at
        for call in one.calls:
            begun = call.dispatched_s if call.started_s is None else call.started_s
            if not call.engine or begun is None or call.ended_s is None:
                continue
            first = None if call.first_token_s is None else at + call.first_token_s
            good = call.outcome == "finished" and call.attempts == 1 and call.output_tokens > 0
            span = Interval(at + begun, first, at + call.ended_s, call.prompt_tokens, call.output_tokens, good)
            found.setdefault(call.engine, {}).setdefault(call.replica, []).append(span)
    for replicas in found.values():
        for spans in replicas.values():
            spans.sort()
    return found


def estimate(name: str, replicas: dict[str, list[Interval]], window: int | None) -> Estimate | None:
    """An engine of these replicas; None where no call teaches anything.

    `window`: calls that a replica works on at once; None: as many as were seen in one. Where more were sent, they
    waited inside the replica, which its times do not show: such calls are passed over if enough others are left.
    """
    profiles = [_Load(spans) for spans in replicas.values()]
    peak = max(load.peak for load in profiles)
    width = window or peak
    rows = [row for load in profiles for row in load.rows(width)]
    if len(rows) < ENOUGH:
        rows = [row for load in profiles for row in load.rows(peak)]
    rows = rows[:: max(1, len(rows) // MOST_ROWS)]
    if not rows:
        return None
    constants = _fit(rows)
    errors = [abs(_dot(row, constants) - seconds) / seconds for row, seconds in rows]
    limit = FAR * median(errors) + 1e-9
    kept = [row for row, error in zip(rows, errors, strict=True) if error <= limit]
    constants = _fit(kept)
    if not any(constants):
        return None
    q0, q2, d0, d1, d2 = constants
    model = EngineModel(
        name=name,
        models=[name],
        replicas=len(replicas),
        max_concurrency=width,
        latency=Latency(q0=q0, q2=q2, d0=d0, d1=d1, d2=d2),
    )
    off = misfit((_dot(row, constants), seconds) for row, seconds in kept)
    return Estimate(model, off, sum(len(spans) for spans in replicas.values()))


def _fit(rows: Sequence[Row]) -> list[float]:
    return nnls([row for row, _ in rows], [seconds for _, seconds in rows])


def _dot(row: Sequence[float], constants: Sequence[float]) -> float:
    return sum(value * constant for value, constant in zip(row, constants, strict=True))


class _Load:
    """What ran in one replica at each moment, summed up so that the mean over any interval is a subtraction."""

    def __init__(self, spans: Sequence[Interval]) -> None:
        self._spans = spans
        self._starts = [span.start for span in spans]
        self._admitted = [0.0, *accumulate(float(span.prompt) for span in spans)]
        held = [span.prompt + span.output / 2 for span in spans]
        changes = sorted(
            [(span.start, 1, kv) for span, kv in zip(spans, held, strict=True)]
            + [(max(span.start, span.end - SAME_S), -1, -kv) for span, kv in zip(spans, held, strict=True)]
        )
        self._times = [at for at, _, _ in changes]
        self._running = list(accumulate(step for _, step, _ in changes))
        self._kv = list(accumulate(kv for _, _, kv in changes))
        gaps = [after - before for before, after in zip(self._times, self._times[1:], strict=False)]
        self._running_s = [0.0, *accumulate(n * gap for n, gap in zip(self._running, gaps, strict=False))]
        self._kv_s = [0.0, *accumulate(kv * gap for kv, gap in zip(self._kv, gaps, strict=False))]

    @property
    def peak(self) -> int:
        """Calls at once, at most."""
        return max(self._running)

    def rows(self, width: int) -> Iterable[Row]:
        """Of each call that ran while at most `width` did, on average."""
        for span in self._spans:
            if not span.good or self._mean(self._running, self._running_s, span.start, span.end) > width + 1e-6:
                continue
            if span.first is None or not span.start < span.first < span.end:
                yield from self._row(span, span.start, span.end, 1.0, span.output - 1)
            else:
                yield from self._row(span, span.start, span.first, 1.0, 0)
                yield from self._row(span, span.first, span.end, 0.0, span.output - 1)

    def _row(self, span: Interval, begin: float, end: float, prefills: float, steps: int) -> Iterable[Row]:
        seconds = end - begin
        if seconds <= 0 or not (prefills or steps):
            return
        calls = self._mean(self._running, self._running_s, begin, end)
        kv = self._mean(self._kv, self._kv_s, begin, end)
        # a call that begins as this one ends is no part of it
        prompts = self._admitted[bisect_left(self._starts, end)] - self._admitted[bisect_left(self._starts, begin)]
        others = max(calls - 1, 0.0)
        # beside others, it waits for half an iteration, and shares the one that prefills it
        half = 0.5 * min(others, 1.0) * prefills
        decode = steps + half
        mixed = 1.5 * prefills if others else 0.0
        row = (
            prefills,
            prompts,
            decode,
            steps * calls + mixed * others,
            steps * kv + mixed * max(kv - span.prompt, 0.0),
        )
        yield row, seconds

    def _mean(self, values: Sequence[float], integral: Sequence[float], begin: float, end: float) -> float:
        if end <= begin:
            return float(values[max(bisect_right(self._times, begin) - 1, 0)])
        return (self._upto(values, integral, end) - self._upto(values, integral, begin)) / (end - begin)

    def _upto(self, values: Sequence[float], integral: Sequence[float], at: float) -> float:
        place = bisect_right(self._times, at) - 1
        return integral[place] + values[place] * (at - self._times[place]) if place >= 0 else 0.0
