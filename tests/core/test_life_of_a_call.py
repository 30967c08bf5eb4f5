"""Arrival to end: refusals, cancellation, abortion, closing, and news that comes late or cannot be true."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hocket.core import jobs as module
from hocket.core.commands import Abort, Reject
from hocket.core.events import (
    CallArrived,
    CallCancelled,
    CallFinished,
    CallPreempted,
    CallStarted,
    CallStreamed,
    Event,
    JobClosed,
    JobOpened,
    ReplicaAdded,
    ToolFinished,
    ToolStarted,
)
from hocket.core.spec import EngineSpec, Route
from tests.core.bare import Bare, arrive, fail, sent

Make = Callable[..., Bare]
TWO = [EngineSpec("e", ["m", "shared"]), EngineSpec("big", ["n", "shared"])]


def test_an_unknown_model_is_refused_and_leaves_no_trace(core: Make) -> None:
    """A typing error in a client's settings."""
    bare = core()
    assert bare.feed(*arrive(0.0, "a1", model="gpt-9")) == [Reject("a1", 404, "unknown_model")]
    assert not bare.scheduler.calls and not bare.scheduler.jobs["a"].open_calls
    assert bare.feed(CallCancelled(1.0, "a1")) == []


def test_the_first_engine_that_serves_a_model_gets_it(core: Make) -> None:
    """One name on two engines, and no route says which."""
    bare = core(engines=TWO)
    bare.feed(ReplicaAdded(0.0, "big", "q", 1))
    assert bare.feed(*arrive(0.0, "a1", model="shared")) == sent("a1")
    assert bare.scheduler.models == ["m", "shared", "n"]


def test_routes_send_stages_and_applications_to_other_engines(core: Make) -> None:
    """One model in two roles: long summaries have an engine of their own. The first route that matches counts."""
    routes = [Route("big", app="batch"), Route("big", stage="summary"), Route("e", model="n", stage="s")]
    bare = core(engines=TWO, routes=routes, jobs="ab", apps={"a": "chat", "b": "batch"})
    bare.feed(ReplicaAdded(0.0, "big", "q", 9))
    assert bare.feed(*arrive(0.0, "b1")) == sent("b1", to="q", engine="big")
    assert bare.feed(CallArrived(0.0, "a1", "a", "summary", "m")) == sent("a1", to="q", engine="big")
    assert bare.feed(*arrive(0.0, "a2", model="n")) == sent("a2")
    assert bare.feed(*arrive(0.0, "b2", model="nobody-serves-this")) == sent("b2", to="q", engine="big")
    engine_for = bare.scheduler.engine_for
    assert (engine_for("chat", "s", "m"), engine_for("chat", "s", "x")) == ("e", None)


def test_a_client_that_leaves_while_queued_costs_nothing(core: Make) -> None:
    """It gave up waiting: nothing is dispatched for it, and nobody else moves."""
    bare = core()
    bare.feed(*arrive(0.0, "a1", "b1", "c1"))
    assert bare.feed(CallCancelled(1.0, "b1")) == []
    assert bare.feed(CallFinished(2.0, "a1")) == sent("c1")


def test_a_client_that_leaves_midway_frees_its_slot(core: Make) -> None:
    """A closed browser tab: the next call starts in that moment, and the slot time counts as service."""
    bare = core()
    bare.feed(*arrive(0.0, "a1", "b1"), CallStarted(0.0, "a1"), CallStreamed(1.0, "a1"))
    assert bare.feed(CallCancelled(3.0, "a1")) == sent("b1")
    assert bare.scheduler.jobs["a"].service_s == 3.0


LATE = [
    CallStarted(9.0, "a1"),
    CallStreamed(9.0, "a1"),
    CallFinished(9.0, "a1"),
    fail(9.0, "a1", "reset"),
    fail(9.0, "a1", 429),
    CallCancelled(9.0, "a1"),
    CallPreempted(9.0, "a1"),
]


@pytest.mark.parametrize("late", LATE, ids=lambda event: type(event).__name__)
def test_news_of_a_call_that_has_ended_is_ignored(core: Make, late: Event) -> None:
    """The client left in the moment when the last byte came: both are reported."""
    bare = core()
    bare.feed(*arrive(0.0, "a1", "b1"), CallCancelled(1.0, "a1"))
    before = bare.scheduler.calls["b1"].state
    assert bare.feed(late) == []
    assert bare.scheduler.calls["b1"].state is before


@pytest.mark.parametrize("news", [e for e in LATE if type(e) is not CallCancelled], ids=lambda e: type(e).__name__)
def test_news_that_cannot_be_true_raises_and_changes_nothing(core: Make, news: Event) -> None:
    """A call that waits cannot finish: the driver is wrong, and hiding it would corrupt the slots."""
    bare = core()
    bare.feed(*arrive(0.0, "b1", "a1"))
    with pytest.raises(ValueError, match="'a1' is waiting"):
        bare.feed(news)
    assert bare.feed(CallFinished(9.0, "b1")) == sent("a1")


@pytest.mark.parametrize(
    ("event", "says"),
    [
        (JobOpened(1.0, "a", "app"), "opened twice"),
        (CallArrived(1.0, "a1", "a", "s", "m"), "used before"),
        (CallArrived(1.0, "x1", "x", "s", "m"), "not open"),
    ],
)
def test_what_a_driver_must_not_do(core: Make, event: Event, says: str) -> None:
    """Opening twice, an id used twice, a call without its job: each is a bug, told at once."""
    bare = core()
    bare.feed(*arrive(0.0, "a1"))
    with pytest.raises(ValueError, match=says):
        bare.feed(event)
    bare.scheduler.check()


def test_aborting_a_job_kills_all_its_calls_and_hands_on_the_slots_afterwards(core: Make) -> None:
    """`DELETE /v1/jobs/{id}?abort=true`: a slot that one of its calls leaves must not go to another of them."""
    bare = core(windows={"r": 2})
    bare.feed(*arrive(0.0, "a1", "a2", "a3", "b1", "c1"))
    killed = [Abort(call, "aborted") for call in ("a1", "a2", "a3")]
    assert bare.feed(JobClosed(1.0, "a", abort=True, reason="aborted")) == [*killed, *sent("b1", "c1")]
    assert "a" not in bare.scheduler.jobs


def test_an_abort_reaches_every_engine(core: Make) -> None:
    """A job that fanned out to two models frees slots of both."""
    bare = core(engines=TWO)
    bare.feed(ReplicaAdded(0.0, "big", "q", 1), *arrive(0.0, "a1", "b1"))
    bare.feed(*arrive(0.0, "a2", "b2", model="n"))
    orders = bare.feed(JobClosed(1.0, "a", abort=True))
    assert orders[2:] == [*sent("b1"), *sent("b2", to="q", engine="big")]


def test_closing_a_job_lets_its_open_calls_end(core: Make) -> None:
    """The application is done and does not wait for its last, fire-and-forget call."""
    bare = core()
    bare.feed(*arrive(0.0, "a1", "a2"))
    assert bare.feed(JobClosed(1.0, "a")) == []
    assert bare.feed(CallFinished(2.0, "a1")) == sent("a2")
    assert "a" in bare.scheduler.jobs
    bare.feed(CallFinished(3.0, "a2"))
    assert "a" not in bare.scheduler.jobs


def test_a_closed_job_may_still_be_aborted(core: Make) -> None:
    """Closed politely, and then somebody loses patience."""
    bare = core()
    bare.feed(*arrive(0.0, "a1"), JobClosed(1.0, "a"))
    assert bare.feed(JobClosed(2.0, "a", abort=True)) == [Abort("a1", "closed")]
    assert bare.feed(JobClosed(3.0, "a", abort=True), JobClosed(3.0, "nobody")) == []


def test_the_id_of_a_job_that_is_gone_may_be_used_again(core: Make) -> None:
    """A nightly job has one name. It is another job then, and starts from nothing."""
    bare = core()
    bare.feed(*arrive(0.0, "a1"), CallFinished(5.0, "a1"), JobClosed(5.0, "a"), JobOpened(6.0, "a", "app"))
    assert bare.scheduler.jobs["a"].service_s == 0.0
    assert bare.scheduler.apps["app"].jobs_closed == 1


def test_tool_runs_are_counted_and_strange_ones_ignored(core: Make) -> None:
    """A tool's end may be told twice, or after its job has ended."""
    bare = core()
    bare.feed(ToolStarted(1.0, "a", "t1", "search"), ToolStarted(1.0, "a", "t2", "search"))
    bare.feed(ToolFinished(2.0, "a", "t1"), ToolFinished(2.0, "a", "t1"))
    assert bare.scheduler.jobs["a"].open_tools == 1
    assert bare.feed(ToolStarted(3.0, "gone", "t", "x"), ToolFinished(3.0, "gone", "t")) == []


def test_time_never_runs_backwards(core: Make) -> None:
    """Two threads of a driver read the clock in one order and report in the other."""
    bare = core()
    bare.feed(*arrive(5.0, "a1"), CallFinished(4.0, "a1"))
    assert bare.scheduler.now == 5.0
    assert bare.scheduler.jobs["a"].service_s == 0.0


def test_applications_without_end_do_not_fill_the_memory(core: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client puts a request id where the application's name belongs. What has taught something stays longest."""
    monkeypatch.setattr(module, "MAX_IDLE_APPS", 100)
    bare = core("sjf", jobs="")
    for at in range(2):
        bare.feed(JobOpened(0.0, "good", "good"), *(CallArrived(at, f"g{at}", "good", "s", "m"),))
        bare.feed(CallFinished(at + 4.0, f"g{at}"), JobClosed(at + 4.0, "good"))
    bare.feed(JobOpened(9.0, "held", "held"))
    for number in range(1000):
        bare.feed(JobOpened(9.0, f"j{number}", f"app-{number}"), JobClosed(9.0, f"j{number}"))
        assert len(bare.scheduler.apps) <= 104
    assert bare.scheduler.apps["good"].jobs_closed == 2
    assert bare.scheduler.jobs["held"].app is bare.scheduler.apps["held"]
    numbers = [app.number for app in bare.scheduler.apps.values()]
    assert len(set(numbers)) == len(numbers)


def test_nothing_is_left_of_a_long_day(core: Make) -> None:
    """A gateway runs for months: what has ended must leave no entry in any heap, list or dict."""
    bare = core("urgency", "fair", "las", jobs="", job_idle_s=300.0)
    handle = bare.scheduler.handle
    for number in range(3000):
        at, job = number / 8, f"j{number}"
        handle(JobOpened(at, job, "app", urgency=number % 5))
        for call in "12":
            handle(CallArrived(at, f"{job}.{call}", job, "s", "m"))
        handle(CallCancelled(at, f"{job}.2"))
        if number % 7 == 0:
            handle(fail(at, f"{job}.1", "reset"))
        handle(CallFinished(at, f"{job}.1"))
        handle(JobClosed(at, job))
    bare.scheduler.check()
    queue = bare.scheduler.engines["e"].queue
    assert not bare.scheduler.jobs and not bare.scheduler.calls
    assert not queue._nodes and not queue._root.children and len(queue._root.heap._entries) < 32
    assert len(bare.scheduler._timers.idle.entries) < 32
    assert len(bare.scheduler._timers.asked) <= 1
    assert list(bare.scheduler.apps) == ["app"]
