"""Engines that the settings no longer name: what runs there runs on, and what waited there is no longer theirs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hocket.core.commands import Reject
from hocket.core.events import CallFinished, ReplicaAdded, SettingsChanged
from hocket.core.spec import EngineSpec, SchedulerSpec
from tests.core.bare import Bare, arrive, sent

Make = Callable[..., Bare]
TWO = [EngineSpec("e", ["m"]), EngineSpec("f", ["n"])]
POLICIES = ["fcfs", "las", "fair-share", "default"]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("policy", POLICIES)
def test_a_call_that_was_refused_with_its_engine_is_not_sent_when_another_ends_there(core: Make, policy: str) -> None:
    bare = core(policy, engines=TWO)
    bare.feed(ReplicaAdded(0.0, "f", "q", 1), *arrive(0.0, "a1", "a2", model="n"))
    gone = bare.feed(SettingsChanged(1.0, SchedulerSpec(TWO[:1], (policy,), job_idle_s=1e9)))
    assert [command for command in gone if isinstance(command, Reject)] == [Reject("a2", 404, "unknown_model")]
    assert bare.feed(CallFinished(2.0, "a1")) == []


@pytest.mark.timeout(20)
@pytest.mark.parametrize("policy", POLICIES)
def test_a_call_that_waits_elsewhere_now_is_sent_once(core: Make, policy: str) -> None:
    bare = core(policy, engines=TWO)
    bare.feed(ReplicaAdded(0.0, "f", "q", 1), *arrive(0.0, "b1"), *arrive(0.0, "a1", "a2", model="n"))
    bare.feed(SettingsChanged(1.0, SchedulerSpec([EngineSpec("e", ["m", "n"])], (policy,), job_idle_s=1e9)))
    assert bare.feed(CallFinished(2.0, "a1")) == []
    assert bare.feed(CallFinished(3.0, "b1")) == sent("a2")
