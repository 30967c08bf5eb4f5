"""Retries: once, before the first byte, for what another attempt may mend."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hocket.core.commands import Reject, WakeAt
from hocket.core.events import (
    CallFinished,
    CallPreempted,
    CallStarted,
    CallStreamed,
    JobClosed,
    ReplicaAdded,
    ReplicaRemoved,
    Tick,
)
from tests.core.bare import Bare, arrive, fail, sent

Make = Callable[..., Bare]


@pytest.mark.parametrize("how", ["reset", "timeout", "garbage", 500, 502, 503, 529])
def test_a_failure_before_the_first_byte_is_retried_once(core: Make, how: str | int) -> None:
    """The engine broke, not the request: the client need not know."""
    bare = core()
    bare.feed(*arrive(0.0, "a1"), CallStarted(0.0, "a1"))
    assert bare.feed(fail(1.0, "a1", how)) == sent("a1")
    assert bare.feed(CallFinished(2.0, "a1")) == []
    assert not bare.scheduler.calls


def test_a_connection_that_is_refused_is_tried_again_a_second_later(core: Make) -> None:
    """A lone engine restarts: at once it would be refused again."""
    bare = core()
    bare.feed(*arrive(0.0, "a1"))
    assert bare.feed(fail(1.0, "a1", "connect")) == [WakeAt(2.0)]
    assert bare.feed(Tick(2.0)) == sent("a1")


@pytest.mark.parametrize(
    ("how", "status", "reason"),
    [
        ("reset", 503, "upstream_reset"),
        ("timeout", 503, "upstream_timeout"),
        ("garbage", 503, "upstream_garbage"),
        (500, 500, "upstream_status"),
        (503, 503, "upstream_status"),
    ],
)
def test_the_second_failure_is_the_clients_answer(core: Make, how: str | int, status: int, reason: str) -> None:
    """A call that was present at two deaths is suspected; an engine's own answer is passed on."""
    bare = core()
    bare.feed(*arrive(0.0, "a1", "b1"), fail(1.0, "a1", "reset"))
    assert bare.feed(fail(2.0, "a1", how)) == [Reject("a1", status, reason), *sent("b1")]


def test_two_refused_connections_end_in_503(core: Make) -> None:
    """The engine is not there: two tries, a second apart."""
    bare = core()
    bare.feed(*arrive(0.0, "a1"), fail(1.0, "a1", "connect"), Tick(2.0))
    assert bare.feed(fail(2.0, "a1", "connect")) == [WakeAt(4.0), Reject("a1", 503, "upstream_connect")]


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422])
def test_another_4xx_is_the_callers_own_and_passed_on(core: Make, status: int) -> None:
    """The same request would be refused by every replica."""
    bare = core(windows={"r": 1, "q": 1})
    bare.feed(*arrive(0.0, "a1"))
    assert bare.feed(fail(1.0, "a1", status)) == [Reject("a1", status, "upstream_status")]


@pytest.mark.parametrize("how", ["reset", "timeout", 500])
def test_no_retry_once_the_client_has_a_byte(core: Make, how: str | int) -> None:
    """A second answer behind half of a first is worse than an error."""
    bare = core()
    bare.feed(*arrive(0.0, "a1"), CallStreamed(0.5, "a1"))
    status, reason = (502, f"upstream_{how}") if isinstance(how, str) else (how, "upstream_status")
    assert bare.feed(fail(1.0, "a1", how, first_byte=True)) == [Reject("a1", status, reason)]


def test_a_kind_of_failure_that_nobody_knows_is_not_retried(core: Make) -> None:
    """A newer driver may know more kinds; the cautious reading is not to try again."""
    bare = core()
    bare.feed(*arrive(0.0, "a1"))
    assert bare.feed(fail(1.0, "a1", "cosmic")) == [Reject("a1", 502, "upstream_cosmic")]


def test_a_retry_keeps_its_place_in_the_queue(core: Make) -> None:
    """Its replica died; it must not queue behind those that came while it ran."""
    bare = core("call-fcfs")
    bare.feed(*arrive(0.0, "a1", "b1", "c1"))
    assert bare.feed(fail(5.0, "a1", "reset")) == sent("a1")


def test_a_preempted_call_waits_again_and_keeps_its_retry(core: Make) -> None:
    """Being displaced is no failure of the call."""
    bare = core("urgency", windows={"r": 1})
    bare.feed(*arrive(0.0, "a1"), *arrive(0.0, "b1", urgency=0))
    assert bare.feed(CallPreempted(1.0, "a1", tokens_kept=7)) == sent("b1")
    assert bare.feed(CallFinished(2.0, "b1")) == sent("a1")
    assert bare.feed(fail(3.0, "a1", "reset")) == sent("a1")
    assert bare.feed(fail(4.0, "a1", "reset")) == [Reject("a1", 503, "upstream_reset")]


def test_a_failed_attempt_counts_as_service(core: Make) -> None:
    """A job whose calls hold slots and die has used the engine all the same, so `las` does not favour it."""
    bare = core("las", windows={"r": 2})
    bare.feed(*arrive(0.0, "a1", "b1"), *arrive(1.0, "b2", "a2"))
    bare.feed(fail(4.0, "a1", 400))
    assert bare.scheduler.jobs["a"].service_s == 4.0


def test_the_last_call_of_a_closed_job_may_still_be_retried(core: Make) -> None:
    """The application said goodbye with a call under way: the job lives until that has its answer."""
    bare = core()
    bare.feed(*arrive(0.0, "a1"), JobClosed(0.5, "a"))
    assert bare.feed(fail(1.0, "a1", "reset")) == sent("a1")
    assert "a" in bare.scheduler.jobs
    bare.feed(CallFinished(2.0, "a1"))
    assert "a" not in bare.scheduler.jobs


def test_a_retry_waits_for_a_replica_if_its_own_has_gone(core: Make) -> None:
    """The lone embedded engine crashed; its supervisor starts another."""
    bare = core()
    bare.feed(*arrive(0.0, "a1"), ReplicaRemoved(1.0, "e", "r", died=True))
    assert bare.feed(fail(1.0, "a1", "reset")) == []
    assert bare.feed(ReplicaAdded(4.0, "e", "r", 1)) == sent("a1")
