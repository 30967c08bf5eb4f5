"""Constants of the engine model (core/latency.py) from measurements: two small non-negative least squares.

A constant below 0 would make the simulator gain time by adding work, hence non-negative. There are three unknowns at a
time, so the constrained optimum is found exactly: it is the best of the unconstrained fits of the 7 non-empty subsets
of terms that come out without a negative constant. That needs no library.

Rows are weighed by 1 / measured, so that what is minimised is the relative error: a step of 20 ms that is 5 ms off
matters more to a job than a prefill of 5 s that is 5 ms off, for it happens hundreds of times.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from statistics import fmean
from typing import NamedTuple

from hocket.core.latency import Latency


class Prefill(NamedTuple):
    """A lone prompt's time to first token."""

    prompt_tokens: int
    seconds: float


class Step(NamedTuple):
    """One decode iteration."""

    running: int
    kv_tokens: int
    "of all running calls together"
    seconds: float


class Misfit(NamedTuple):
    """|predicted - measured| / measured, over the points of a fit."""

    mean: float
    max: float


def fit(prefills: Sequence[Prefill], steps: Sequence[Step]) -> Latency:
    """The constants that describe these points best.

    With fewer than four prefills q1 is left at 0: three points determine three constants and leave none to tell noise
    from curvature, and a q1 made of noise grows with the square of the prompt.
    """
    curved = len(prefills) > 3
    rows = [(1.0, p, p * p if curved else 0.0) for p, _ in prefills]
    q0, q2, q1 = nnls(rows, [seconds for _, seconds in prefills])
    d0, d1, d2 = nnls([(1.0, b, k) for b, k, _ in steps], [seconds for _, _, seconds in steps])
    return Latency(q0=q0, q1=q1, q2=q2, d0=d0, d1=d1, d2=d2)


def prefill_misfit(latency: Latency, prefills: Sequence[Prefill]) -> Misfit:
    """How far `latency` is off these prefills."""
    return misfit((latency.iteration(latency.prefill(p), 1, 0, 0), seconds) for p, seconds in prefills)


def step_misfit(latency: Latency, steps: Sequence[Step]) -> Misfit:
    """How far `latency` is off these decode iterations."""
    return misfit((latency.iteration(0.0, 0, b, k), seconds) for b, k, seconds in steps)


def misfit(pairs: Iterable[tuple[float, float]]) -> Misfit:
    """Relative errors of (predicted, measured) pairs."""
    errors = [abs(predicted - measured) / measured for predicted, measured in pairs]
    return Misfit(fmean(errors), max(errors)) if errors else Misfit(0.0, 0.0)


def nnls(rows: Sequence[Sequence[float]], measured: Sequence[float]) -> list[float]:
    """The x >= 0 that minimises the sum of ((row·x - y) / y)². Each y is > 0; columns number at most a handful."""
    weighed = [[value / y for value in row] for row, y in zip(rows, measured, strict=True)]
    columns = len(weighed[0])
    scale = [max(abs(row[j]) for row in weighed) or 1.0 for j in range(columns)]
    scaled = [[value / s for value, s in zip(row, scale, strict=True)] for row in weighed]
    best, least = [0.0] * columns, float(len(scaled))  # all 0 leaves each row's error at 1
    for size in range(1, columns + 1):
        for chosen in combinations(range(columns), size):
            x = _least_squares([[row[j] for j in chosen] for row in scaled])
            if x is None or min(x) < 0:
                continue
            error = sum((sum(row[j] * v for j, v in zip(chosen, x, strict=True)) - 1.0) ** 2 for row in scaled)
            if error < least * (1 - 1e-9):
                best, least = [0.0] * columns, error
                for j, value in zip(chosen, x, strict=True):
                    best[j] = value / scale[j]
    return best


def _least_squares(rows: Sequence[Sequence[float]]) -> list[float] | None:
    """The x that minimises the sum of (row·x - 1)², by the normal equations; None where it is not determined."""
    n = len(rows[0])
    system = [
        [sum(row[i] * row[j] for row in rows) for j in range(n)] + [sum(row[i] for row in rows)] for i in range(n)
    ]
    for i in range(n):
        pivot = max(range(i, n), key=lambda r: abs(system[r][i]))
        if abs(system[pivot][i]) < 1e-9:
            return None
        system[i], system[pivot] = system[pivot], system[i]
        for r in range(n):
            if r != i:
                factor = system[r][i] / system[i][i]
                system[r] = [a - factor * b for a, b in zip(system[r], system[i], strict=True)]
    return [system[i][n] / system[i][i] for i in range(n)]
