"""Jobs that nobody closes, and the ticks that find them. The idle time is 300 s."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hocket.core.commands import CloseJob, WakeAt
from hocket.core.events import CallFinished, Event, JobClosed, JobOpened, Tick, ToolFinished, ToolStarted
from tests.core.bare import Bare, arrive, fail, sent

Make = Callable[..., Bare]
IDLE = 300.0


def opened(at: float, *jobs: str) -> list[JobOpened]:
    return [JobOpened(at, job, "app") for job in jobs]


def test_a_job_that_nobody_closes_ends_after_the_idle_time(core: Make) -> None:
    """An application crashed: WakeAt -> Tick -> CloseJob -> JobClosed, and nothing is left."""
    bare = core(jobs="", job_idle_s=IDLE)
    assert bare.feed(*opened(10.0, "a")) == [WakeAt(310.0)]
    assert bare.feed(Tick(310.0)) == [CloseJob("a"), WakeAt(610.0)]
    assert bare.feed(JobClosed(310.0, "a", reason="idle")) == []
    assert not bare.scheduler.jobs
    assert bare.feed(Tick(610.0)) == []


def test_one_wake_up_at_a_time_serves_all_jobs(core: Make) -> None:
    """A thousand jobs must not mean a thousand timers in the driver."""
    bare = core(jobs="", job_idle_s=IDLE)
    assert bare.feed(*opened(0.0, "a"), *opened(1.0, "b"), *opened(2.0, "c")) == [WakeAt(300.0)]
    assert bare.feed(JobClosed(3.0, "a"), Tick(300.0)) == [WakeAt(301.0)]
    assert bare.feed(Tick(301.0)) == [CloseJob("b"), WakeAt(302.0)]


@pytest.mark.parametrize(
    "sign",
    [
        [*arrive(200.0, "a1"), CallFinished(250.0, "a1")],
        [ToolStarted(250.0, "a", "t", "search")],
        [ToolStarted(100.0, "a", "t", "search"), ToolFinished(250.0, "a", "t")],
        [*arrive(100.0, "a1"), fail(250.0, "a1", 400)],
    ],
    ids=["call ended", "tool began", "tool ended", "call refused"],
)
def test_each_sign_of_life_counts(core: Make, sign: list[Event]) -> None:
    """The application thinks or runs a tool between its calls."""
    bare = core(jobs="", job_idle_s=IDLE)
    bare.feed(*opened(0.0, "a"), *sign)
    assert bare.feed(Tick(300.0)) == [WakeAt(550.0)]
    assert bare.feed(Tick(550.0)) == [CloseJob("a"), WakeAt(850.0)]


def test_a_job_with_an_open_call_is_not_idle(core: Make) -> None:
    """A call may run, or wait, for longer than the idle time."""
    bare = core(jobs="", job_idle_s=IDLE)
    bare.feed(*opened(0.0, "a", "b"), *arrive(1.0, "a1", "b1"))
    assert bare.feed(Tick(300.0)) == [WakeAt(600.0)]
    bare.feed(CallFinished(400.0, "a1"))
    # a was heard of at 400, b has its call still
    assert bare.feed(Tick(600.0)) == [WakeAt(700.0)]
    assert bare.feed(Tick(700.0)) == [CloseJob("a"), WakeAt(900.0)]


def test_a_driver_that_does_not_answer_is_told_again(core: Make) -> None:
    """The order was lost; the job must not stay for ever."""
    bare = core(jobs="", job_idle_s=IDLE)
    bare.feed(*opened(0.0, "a"))
    chain = [bare.feed(Tick(300.0 * n)) for n in (1, 2, 3)]
    assert chain == [[CloseJob("a"), WakeAt(300.0 * n)] for n in (2, 3, 4)]


def test_a_job_that_stirs_while_its_closing_crosses(core: Make) -> None:
    """A call arrives between CloseJob and JobClosed: it is served, and the job goes with it."""
    bare = core(jobs="", job_idle_s=IDLE)
    bare.feed(*opened(0.0, "a"), Tick(300.0), *arrive(300.0, "a1"), JobClosed(300.0, "a", reason="idle"))
    assert "a" in bare.scheduler.jobs
    bare.feed(CallFinished(301.0, "a1"))
    assert "a" not in bare.scheduler.jobs


def test_a_late_tick_finds_everything_that_is_due(core: Make) -> None:
    """The machine slept: one tick, half an hour late."""
    bare = core(jobs="", job_idle_s=IDLE)
    bare.feed(*opened(0.0, "a"), *opened(50.0, "b"))
    assert bare.feed(Tick(2000.0)) == [CloseJob("a"), CloseJob("b"), WakeAt(2300.0)]


def test_the_earlier_of_two_reasons_to_wake_is_asked_for(core: Make) -> None:
    """A replica rests while jobs are watched: the short wait is not swallowed by the long one, nor the other way."""
    bare = core(jobs="", job_idle_s=IDLE)
    orders = bare.feed(*opened(0.0, "a"), *arrive(0.0, "a1"), fail(1.0, "a1", 429))
    assert orders == [WakeAt(300.0), *sent("a1"), WakeAt(2.0)]
    assert bare.feed(Tick(2.0)) == sent("a1")
    assert bare.feed(Tick(300.0)) == [WakeAt(600.0)]


def test_an_idle_time_of_nothing_does_not_hang(core: Make) -> None:
    """The settings refuse it; a test's spec may not."""
    bare = core(jobs="", job_idle_s=0.0)
    assert bare.feed(*opened(1.0, "a")) == [WakeAt(1.0)]
    assert bare.feed(Tick(1.0)) == [CloseJob("a"), WakeAt(1.0)]


def test_closed_jobs_do_not_gather_among_the_watched(core: Make) -> None:
    """Ten thousand short jobs within one idle time."""
    bare = core(jobs="", job_idle_s=IDLE)
    bare.feed(*opened(0.0, "a"))
    for number in range(10_000):
        bare.scheduler.handle(JobOpened(1.0, f"j{number}", "app"))
        bare.scheduler.handle(JobClosed(1.0, f"j{number}"))
    assert len(bare.scheduler._timers.idle.entries) < 32
    assert bare.feed(Tick(300.0))[0] == CloseJob("a")
