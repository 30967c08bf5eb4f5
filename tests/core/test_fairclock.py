"""The fluid fair server: against a step-by-step one, and what a virtual finish means."""

from __future__ import annotations

import json
import random
from itertools import pairwise

import pytest

from hocket.core.fairclock import FairClock


def fluid(jobs: list[tuple[float, float]], slots: int, step: float) -> list[float]:
    """The same ideal by brute force: when each of (arrival, work) is done, to about a `step`."""
    left = [work for _, work in jobs]
    done = [0.0] * len(jobs)
    at = 0.0
    while any(work > 0 for work in left):
        active = [i for i, (arrival, _) in enumerate(jobs) if arrival <= at and left[i] > 0]
        for i in active:
            left[i] -= step * slots / len(active)
            done[i] = at + step
        at += step
    return done


@pytest.mark.parametrize("seed", range(5))
def test_virtual_finishes_order_jobs_as_the_fluid_server_completes_them(seed: int) -> None:
    """Whoever comes later cannot change who is done first among those who are there: that is the point of it."""
    rng = random.Random(seed)
    jobs = sorted((rng.uniform(0.0, 20.0), rng.uniform(1.0, 30.0)) for _ in range(12))
    clock = FairClock()
    finishes = [clock.join(at, 3, work) for at, work in jobs]
    done = fluid(jobs, 3, 0.002)
    in_order = sorted(range(len(jobs)), key=lambda i: finishes[i])
    assert all(done[a] <= done[b] + 0.02 for a, b in pairwise(in_order))


def test_the_clock_runs_as_fast_as_one_job_is_served() -> None:
    """Two slots, one job: two slot-seconds a second. A second job joins: one a second each. An idle server stands."""
    clock = FairClock()
    first = clock.join(0.0, 2, 10.0)
    assert (first, clock.until(first)) == (10.0, 5.0)
    second = clock.join(2.0, 2, 3.0)
    assert (clock.now, second) == (4.0, 7.0)
    assert clock.until(second) == 3.0
    clock.run(5.0, 2)  # the second is done, the first has 3 left and both slots again
    assert (clock.now, clock.until(second), clock.until(first)) == (7.0, 0.0, 1.5)
    clock.run(99.0, 2)
    assert clock.now == 10.0


def test_without_slots_nothing_is_served() -> None:
    clock = FairClock()
    finish = clock.join(0.0, 0, 1.0)
    clock.run(50.0, 0)
    assert (clock.now, clock.until(finish)) == (0.0, float("inf"))
    clock.run(50.5, 1)
    assert clock.now == 0.5


def test_it_goes_on_where_it_was_saved() -> None:
    clock, again = FairClock(), FairClock()
    for at, work in ((0.0, 5.0), (1.0, 2.0), (2.5, 9.0)):
        clock.join(at, 4, work)
    again.restore(json.loads(json.dumps(clock.save())))
    assert clock.join(7.0, 4, 1.0) == again.join(7.0, 4, 1.0)
    assert clock.save() == again.save()
