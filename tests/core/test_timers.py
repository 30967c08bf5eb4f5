"""What the core waits for, on its own."""

from __future__ import annotations

from hocket.core.state import Application, Job, Tenant
from hocket.core.timers import IdleJobs, Timers


def test_wake_ups_are_asked_for_only_when_none_as_early_is_under_way() -> None:
    """Each one costs a timer of the driver."""
    timers = Timers()
    assert [timers.ask(at) for at in (5.0, 7.0, 5.0, 3.0, 4.0)] == [True, False, False, True, False]
    timers.woken(3.0)
    assert [timers.ask(at) for at in (4.0, 6.0)] == [True, False]
    timers.woken(9.0)
    assert timers.ask(9.5)


def test_what_is_due_comes_out_in_the_order_of_its_time_then_of_its_entry() -> None:
    """Several replicas may rest until one moment; they wake in the order in which they fell asleep."""
    timers = Timers()
    for at, what in ((2.0, "b"), (1.0, "a"), (2.0, "c"), (9.0, "z")):
        timers.add(at, what)
    assert (timers.due(0.5), timers.next_at()) == ([], 1.0)
    assert timers.due(2.0) == ["a", "b", "c"]
    assert (timers.due(2.0), timers.next_at()) == ([], 9.0)


def test_a_job_has_one_entry_however_often_it_is_heard_of() -> None:
    """Ten thousand calls of one job must not mean ten thousand entries."""
    idle = IdleJobs(10.0)
    job = Job("j", 1, Application("a", 0), Tenant("t", 0), 2, 0.0, None, {})
    assert idle.opened(job, 1) == 10.0
    for at in range(1, 100):
        job.heard_at = float(at)
        assert idle.due(float(at)) == []
    assert len(idle.entries) == 1
    assert idle.next_at() == 100.0  # it came due at 90, having been heard of in that moment
