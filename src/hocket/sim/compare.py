"""How two policies compare that ran on the same draws: the ratio of their means, and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

CONFIDENCE = 0.95


class Ratio(NamedTuple):
    """A ratio with the bounds of its confidence interval; they are NaN where one draw is all there is."""

    ratio: float
    low: float
    high: float


def paired(ratios: Sequence[float]) -> Ratio:
    """The typical one of `ratios`, one a draw: the geometric mean, and Student's interval of the mean logarithm.

    Both policies meet the same jobs in a draw, so what a draw's jobs do to both cancels out. Raises ValueError
    without a ratio, or for one that is not above 0.
    """
    logs = [math.log(ratio) for ratio in ratios]
    n = len(logs)
    if not n:
        raise ValueError("no ratios")
    mean = math.fsum(logs) / n
    if n == 1:
        return Ratio(math.exp(mean), math.nan, math.nan)
    variance = math.fsum((x - mean) ** 2 for x in logs) / (n - 1)
    half = student(n - 1) * math.sqrt(variance / n)
    return Ratio(math.exp(mean), math.exp(mean - half), math.exp(mean + half))


@cache
def student(degrees: int) -> float:
    """The t within which CONFIDENCE of Student's distribution lies, on both sides of 0."""
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        angle = (low + high) / 2
        low, high = (angle, high) if _within(angle, degrees) < CONFIDENCE else (low, angle)
    return math.sqrt(degrees) * math.tan(low)


def _within(angle: float, degrees: int) -> float:
    """P(|T| <= sqrt(degrees) tan(angle)), a finite sum: Abramowitz and Stegun 26.7.3 and 26.7.4."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term, total = (cosine if odd else 1.0), 0.0
    for k in range(2 + odd, degrees + 1, 2):
        total += term
        term *= cosine * cosine * (k - 1) / k
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
