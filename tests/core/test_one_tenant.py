"""One tenant has nobody to share with: `default` then decides as the same policy without shares, byte for byte."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from hocket.assembly import build
from hocket.core import events as ev
from hocket.core.scheduler import Scheduler
from hocket.core.spec import EngineSpec, PreemptionSpec, SchedulerSpec, TenantSpec
from hocket.journal import encode
from hocket.policies import RECIPES

WITHOUT = tuple(part for part in RECIPES["default"] if not part.startswith("fair-share"))


def what_happens(rng: Random, scheduler: Scheduler, number: int, now: float) -> ev.Event:
    """Something that may happen now, by what is open."""
    jobs, calls = list(scheduler.jobs), list(scheduler.calls.values())
    running = [call.id for call in calls if call.replica is not None]
    what = rng.random()
    if what < 0.2 or not jobs:
        return ev.JobOpened(now, f"j{number}", f"app{rng.randrange(4)}", "t", rng.randrange(5))
    if what < 0.6:
        urgency, tokens = rng.choice([None, None, 0, 3]), rng.randrange(1, 2000)
        model, resumable = rng.choice("mn"), rng.random() < 0.5
        return ev.CallArrived(
            now, f"c{number}", rng.choice(jobs), "s", model, tokens, urgency=urgency, resumable=resumable
        )
    if what < 0.85 and running:
        return ev.CallFinished(now, rng.choice(running), rng.randrange(1, 2000), rng.randrange(1, 300))
    if what < 0.9 and running:
        leaving = [call.id for call in calls if call.leaving]
        return ev.CallPreempted(now, rng.choice(leaving or running), rng.choice([0, 5]))
    if what < 0.93 and running:
        return ev.CallFailed(now, rng.choice(running), "reset")
    if what < 0.95 and calls:
        return ev.CallCancelled(now, rng.choice(calls).id)
    return ev.JobClosed(now, rng.choice(jobs)) if what < 0.98 else ev.Tick(now)


@pytest.mark.parametrize("across", [None, "class", "key"])
@pytest.mark.parametrize("seed", range(3))
def test_default_decides_for_one_tenant_as_without_shares(seed: int, across: Any) -> None:
    def scheduler(policy: tuple[str, ...]) -> Scheduler:
        return build(
            SchedulerSpec(
                [EngineSpec("e", ["m"]), EngineSpec("f", ["n"])],
                policy,
                tenants=[TenantSpec("t", 3.0, urgent_share=0.5)],
                preemption=None if across is None else PreemptionSpec(across),
                seed=seed,
            )
        )

    rng, now, dispatches = Random(seed), 0.0, 0
    shared, alone = scheduler(("default",)), scheduler(WITHOUT)
    for number in range(1500):
        now += rng.choice([0.0, 0.0, 0.1, 1.7])
        event: ev.Event = what_happens(rng, shared, number, now)
        if number < 3:
            event = ev.ReplicaAdded(0.0, "ef"[number % 2], f"r{number}", 2)
        commands = [encode(event, each.handle(event)) for each in (shared, alone)]
        assert commands[0] == commands[1], f"event {number}: {event}"
        dispatches += b"Dispatch" in commands[0]
    assert shared.shares.wanted and not alone.shares.wanted
    assert dispatches > 300 and shared.policy_error is None
