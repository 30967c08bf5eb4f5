"""Iterations that differ by nothing but the KV tokens they read: each takes `slope` ticks more than the one before."""

from __future__ import annotations

import math


def length(n: int, first: int, slope: int) -> int:
    """Ticks of n such iterations, the first of which takes `first`."""
    return n * first + slope * (n * (n - 1) // 2)


def steps(span: int, first: int, slope: int, most: int) -> int:
    """The fewest of them, at most `most`, that take `span` ticks or longer."""
    # n·first + slope·n(n-1)/2 = x, solved without cancellation; then corrected by a step where rounding missed.
    c, x = first - slope / 2, max(span, 0)
    divisor = c + math.sqrt(c * c + 2 * slope * x)
    n = min(math.ceil(2 * x / divisor), most) if divisor > 0 else 0
    while n < most and length(n, first, slope) < span:
        n += 1
    while n > 0 and length(n - 1, first, slope) >= span:
        n -= 1
    return n
