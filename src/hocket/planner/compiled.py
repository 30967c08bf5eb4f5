"""What compiled engines are built of: heaps, iterations in closed form, and the compiler, where it is installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np

from hocket.planner.demand import Ints

F = TypeVar("F", bound=Callable[..., Any])

try:
    from numba import njit
except ImportError:  # the extra `plan` is not installed
    COMPILED = False

    def compiled(function: F) -> F:
        """As it is."""
        return function
else:
    COMPILED = True

    def compiled(function: F) -> F:
        """To machine code, kept on the disk from the first time on; it runs beside other threads."""
        try:
            return cast("F", njit(cache=True, nogil=True)(function))
        except RuntimeError:  # there is no folder to keep it in
            return cast("F", njit(nogil=True)(function))


@compiled
def push(keys: Ints, items: Ints, count: int, key: int, item: int) -> None:
    """Into a heap of `count` items; of equal keys the lowest item comes first."""
    i = count
    while i > 0:
        parent = (i - 1) >> 1
        if keys[parent] < key or (keys[parent] == key and items[parent] < item):
            break
        keys[i], items[i] = keys[parent], items[parent]
        i = parent
    keys[i], items[i] = key, item


@compiled
def pop(keys: Ints, items: Ints, count: int) -> int:
    """The first of a heap of `count` items."""
    found, last = items[0], count - 1
    key, item = keys[last], items[last]
    i = 0
    while True:
        child = 2 * i + 1
        if child >= last:
            break
        other = child + 1
        if other < last and (keys[other] < keys[child] or (keys[other] == keys[child] and items[other] < items[child])):
            child = other
        if keys[child] > key or (keys[child] == key and items[child] > item):
            break
        keys[i], items[i] = keys[child], items[child]
        i = child
    keys[i], items[i] = key, item
    return int(found)


@compiled
def length(n: int, first: int, slope: int) -> int:
    """See `sim/closed_form.py`."""
    return n * first + slope * (n * (n - 1) // 2)


@compiled
def steps(span: int, first: int, slope: int, most: int) -> int:
    """See `sim/closed_form.py`."""
    if span <= 0:
        return 0
    c = first - slope * 0.5
    divisor = c + np.sqrt(c * c + 2.0 * slope * span)
    n = min(int(np.ceil(2.0 * span / divisor)), most)
    while n < most and length(n, first, slope) < span:
        n += 1
    while n > 0 and length(n - 1, first, slope) >= span:
        n -= 1
    return n


@compiled
def numbered(job_first: Ints, drawn: Ints) -> tuple[Ints, Ints, Ints]:
    """Calls, numbered job by job: where those of each job begin; of each call, its job and its recorded stage."""
    start = np.zeros(len(drawn) + 1, np.int64)
    for j in range(len(drawn)):
        start[j + 1] = start[j] + job_first[drawn[j] + 1] - job_first[drawn[j]]
    job_of, stage_of = np.empty(start[-1], np.int64), np.empty(start[-1], np.int64)
    for j in range(len(drawn)):
        for call in range(start[j], start[j + 1]):
            job_of[call], stage_of[call] = j, job_first[drawn[j]] + call - start[j]
    return start, job_of, stage_of
