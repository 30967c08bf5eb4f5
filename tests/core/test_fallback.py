"""A policy that raises is taken out for `call-fcfs`, and no call is lost, wherever it happened."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from hocket.core.events import CallCancelled, CallFinished, CallRevised, JobClosed, ReplicaAdded
from hocket.core.ordering import Fact, Scope, View
from hocket.core.spec import EngineSpec
from hocket.core.state import Call
from tests.core.bare import Bare, arrive, sent

Make = Callable[..., Bare]


class AskedToFailError(Exception):
    """What the orderings below raise."""


class Moody:
    """The attained service, or newest first; raises once `broken`."""

    name = "moody"
    scope = Scope.JOB

    def __init__(self, reads: Iterable[Fact] = ()) -> None:
        self.reads = frozenset(reads)
        self.broken = False

    def key(self, call: Call, view: View) -> tuple[Any, ...]:
        if self.broken:
            raise AskedToFailError("on purpose")
        return (call.job.service_s, -call.job.number)


class Given:
    """Keys from a table: a job's, whatever they are."""

    name = "given"
    scope = Scope.JOB
    reads: frozenset[Fact] = frozenset()

    def __init__(self, keys: dict[str, Any], reads: Iterable[Fact] = ()) -> None:
        self.keys = keys
        self.reads = frozenset(reads)

    def key(self, call: Call, view: View) -> tuple[Any, ...]:
        return self.keys[call.job.id]


def test_it_raises_when_a_call_comes_to_wait(core: Make) -> None:
    """A division by zero for a certain job: that job's call waits in order of arrival, with all others."""
    moody = Moody()
    bare = core("moody", extra={"moody": moody})
    bare.feed(*arrive(0.0, "a1", "b1", "c1"))
    moody.broken = True
    bare.feed(*arrive(0.0, "d1"))
    assert bare.scheduler.policy_error == "AskedToFailError: on purpose"
    assert bare.drain() == ["b1", "c1", "d1"]


def test_it_raises_when_a_fact_moves(core: Make) -> None:
    """The end of one call re-keys its job; the error must not cost the slot that just became free."""
    moody = Moody([Fact.SERVICE])
    bare = core("moody", extra={"moody": moody})
    bare.feed(*arrive(0.0, "a1", "b1", "c1", "a2"))
    moody.broken = True
    assert bare.feed(CallFinished(1.0, "a1")) == sent("b1")
    assert bare.drain() == ["c1", "a2"]


@pytest.mark.parametrize("fact", [Fact.RUNNING, Fact.SIZE, Fact.OUTSIDE])
def test_it_raises_in_another_touch(core: Make, fact: Fact) -> None:
    """A tenant was served, an application has learned, the driver reported something."""

    class Tenantwise(Moody):
        scope = Scope.TENANT if fact is Fact.RUNNING else Scope.APPLICATION if fact is Fact.SIZE else Scope.JOB

        def key(self, call: Call, view: View) -> tuple[Any, ...]:
            super().key(call, view)
            return ()

    moody = Tenantwise([fact])
    bare = core("moody", extra={"moody": moody})
    bare.feed(*arrive(0.0, "a1", "b1", "c1"))
    moody.broken = True
    if fact is Fact.OUTSIDE:
        bare.scheduler.touch_job("b")
        assert bare.feed(CallFinished(1.0, "a1")) == sent("b1")
    else:
        bare.feed(JobClosed(0.5, "d"))
        assert bare.feed(CallFinished(1.0, "a1")) == sent("b1")
    assert bare.scheduler.policy_error is not None
    assert bare.drain() == ["c1"]


@pytest.mark.parametrize("reads", [(), (Fact.SERVICE,)], ids=["leaf", "node"])
@pytest.mark.parametrize(
    "keys",
    [
        {"b": (0, 1), "c": (0, None), "d": (0, "x")},  # seen when one comes to wait
        {"b": (0, 0), "c": (1, None), "d": (1, "x")},  # seen when one is taken out: the two meet only then
        {"b": (0,), "c": (1, None), "d": (1, 2), "e": (1, "x")},
        {"b": 7, "c": (1,), "d": (2,)},  # not even a tuple
    ],
)
def test_keys_that_do_not_compare_lose_no_call(core: Make, keys: dict[str, Any], reads: Iterable[Fact]) -> None:
    """None for 'not known' beside a number: `heapq` raises halfway, in a push, a pop or a sweep."""
    jobs = sorted(keys)
    bare = core("given", extra={"given": Given({"a": (0, 0), **keys}, reads)})
    bare.scheduler.policy_error = None
    bare.feed(*arrive(0.0, "a1", *(f"{job}1" for job in jobs), *(f"{job}2" for job in jobs)))
    left = bare.drain()
    assert sorted(left) == sorted([f"{job}{n}" for job in jobs for n in (1, 2)])
    assert bare.scheduler.policy_error is not None
    bare.scheduler.policy_error = "Asked for"


def test_keys_that_do_not_compare_meet_in_a_sweep(core: Make) -> None:
    """Many clients leave: the heap drops its stale entries, and heapify compares what never met before."""
    keys: dict[str, Any] = {"a": (0, 0), "b": (0, 0), "c": (1, None), "d": (1, "x")}
    bare = core("given", extra={"given": Given(keys)})
    calls = [f"b{n}" for n in range(60)]
    bare.feed(*arrive(0.0, "a1", *calls, "c1"))
    bare.feed(*arrive(0.0, "d1"))
    bare.feed(*(CallCancelled(1.0, call) for call in calls))
    assert sorted(bare.drain()) == ["c1", "d1"]
    bare.scheduler.policy_error = "Asked for"


def test_it_raises_while_a_call_changes_its_class(core: Make) -> None:
    """Out of the queue, not yet in again: the call must not fall between."""
    moody = Moody()
    bare = core("urgency", "moody", extra={"moody": moody})
    bare.feed(*arrive(0.0, "a1", "b1", "c1"))
    moody.broken = True
    bare.feed(CallRevised(0.5, "c1", urgency=0))
    assert bare.drain() == ["b1", "c1"]


def test_every_engine_falls_back(core: Make) -> None:
    """One policy orders all queues; a half of them under another order would be a third policy."""
    moody = Moody()
    bare = core("moody", extra={"moody": moody}, engines=[EngineSpec("e", ["m"]), EngineSpec("big", ["n"])])
    bare.feed(*arrive(0.0, "a1", "b1"), *arrive(0.0, "a2", "b2", model="n"))
    moody.broken = True
    bare.feed(*arrive(0.0, "c1"))
    # moody would have sent the newest job first
    assert bare.feed(ReplicaAdded(1.0, "big", "q", 2)) == sent("a2", "b2", to="q", engine="big")


def test_the_fallback_stays(core: Make) -> None:
    """A policy that failed once is not trusted again, and the driver is no longer asked for progress."""
    moody = Moody([Fact.SERVICE])
    bare = core("moody", extra={"moody": moody})
    moody.broken = True
    bare.feed(*arrive(0.0, "a1", "b1"))
    moody.broken = False
    bare.feed(*arrive(1.0, "c1"))
    assert bare.drain() == ["b1", "c1"]
    assert not bare.scheduler.wants_progress
