"""The fluid fair server: against a step-by-step one, and what a virtual finish means."""

from __future__ import annotations

import json
import random
from itertools import pairwise

import pytest

from hocket.core import fairclock
from hocket.core.fairclock import FairClock

STEP = 0.01


def fluid(jobs: list[tuple[float, float]]) -> list[float]:
    """The same ideal by brute force: how much was given in all when each of (joins after, work) is done."""
    left = [work for _, work in jobs]
    done = [0.0] * len(jobs)
    given = 0.0
    while any(work > 0.0 for work in left):
        active = [i for i, (after, _) in enumerate(jobs) if after <= given and left[i] > 0.0]
        for i in active:
            left[i] -= STEP / len(active)
            done[i] = given + STEP
        given += STEP
    return done


@pytest.mark.parametrize("seed", range(5))
def test_virtual_finishes_order_jobs_as_the_fluid_server_completes_them(seed: int) -> None:
    """Whoever comes later cannot change who is done first among those who are there: that is the point of it."""
    rng = random.Random(seed)
    jobs = sorted((rng.uniform(0.0, 60.0), rng.uniform(1.0, 30.0)) for _ in range(12))
    clock, given, finishes = FairClock(), 0.0, []
    for after, work in jobs:
        clock.give(after - given)
        given = after
        finishes.append(clock.join(work))
    done = fluid(jobs)
    in_order = sorted(range(len(jobs)), key=lambda i: finishes[i])
    assert all(done[a] <= done[b] + 4 * STEP for a, b in pairwise(in_order))


def test_the_clock_runs_as_fast_as_one_job_is_served() -> None:
    """Alone a job gets all; of two each gets half; who is done leaves the rest; who comes to none gives nothing."""
    clock = FairClock()
    first = clock.join(10.0)
    clock.give(4.0)
    second = clock.join(3.0)
    assert (clock.now, first, second) == (4.0, 10.0, 7.0)
    assert (clock.until(first), clock.until(second)) == (12.0, 6.0)
    clock.give(7.0)  # 3 each, then the first alone
    assert (clock.now, clock.until(first), clock.until(second)) == (8.0, 2.0, 0.0)
    clock.give(99.0)
    assert (clock.now, clock.until(first)) == (10.0, 0.0)
    assert clock.join(1.0) == 11.0


def test_it_goes_on_where_it_was_saved() -> None:
    clock, again = FairClock(), FairClock()
    for work in (5.0, 2.0, 9.0):
        clock.join(work)
        clock.give(1.0)
    again.restore(json.loads(json.dumps(clock.save())))
    clock.give(7.0)
    again.give(7.0)
    assert clock.join(1.0) == again.join(1.0)
    assert clock.save() == again.save()


def test_jobs_whose_work_never_comes_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients leave before their jobs are done: the ideal has no more of them than it may, the last of all."""
    monkeypatch.setattr(fairclock, "MOST_JOBS", 10)
    clock = FairClock()
    finishes = [clock.join(5.0 + number) for number in range(1000)]
    assert len(clock.save()[1]) == 10
    assert finishes == sorted(finishes)
    assert clock.now < finishes[-1]
