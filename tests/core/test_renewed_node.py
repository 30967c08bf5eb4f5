"""A job whose last waiting call left the queue comes back with the key that it had."""

from __future__ import annotations

import pytest

from hocket.assembly import build
from hocket.core.events import CallArrived, CallFinished, JobOpened, ReplicaAdded
from hocket.core.spec import EngineSpec, SchedulerSpec


@pytest.mark.parametrize("policy", ["las", "fair", "sjf"])
def test_a_job_that_returns_at_once_does_not_collide_with_its_stale_entry(policy: str) -> None:
    scheduler = build(SchedulerSpec([EngineSpec("e", ["m"])], (policy,)))
    scheduler.handle(ReplicaAdded(0, "e", "r", 2))
    for job in "abc":
        scheduler.handle(JobOpened(0, job, "app"))
    for call in ("a1", "a2", "b1"):
        scheduler.handle(CallArrived(0, call, call[0], "stage", "m"))
    scheduler.handle(CallFinished(1, "a1"))
    scheduler.handle(CallArrived(1, "b2", "b", "stage", "m"))
    assert scheduler.policy_error is None
    scheduler.check()
