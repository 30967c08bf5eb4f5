"""How the tenants stand at this moment: what each holds of the engines, how much of its waits, and for whom."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Literal

import msgspec

from hocket.core.scheduler import Scheduler
from hocket.core.state import Engine


class Standing(msgspec.Struct):
    """One tenant."""

    tenant: str
    weight: float
    jobs: int
    "that are open"
    running: int
    "calls in slots"
    waiting: int
    "calls in hocket's queue"
    oldest_s: float
    "since when the oldest of these is there; 0 if there is none"
    shares: dict[str, float]
    "engine -> the part of its slots that the tenant's calls hold"
    dominant: str
    "the engine of which it has the largest part"
    share: float
    "that part, over its weight"
    lately: float | None
    "the same over the past, as `fair-share` counts it; None where the policy does not"
    waits_for: dict[str, float]
    "tenant -> the part of the slots that its waiting calls wait for which that one holds; itself included"


class Standings(msgspec.Struct):
    """The answer to `GET /admin/tenants`."""

    object: Literal["list"]
    data: list[Standing]


Counts = Mapping[str, Counter[str]]
"engine -> tenant -> calls"


def standings(scheduler: Scheduler, now: float) -> Standings:
    """Of each tenant that the settings name or that has an open job, by its share. O(open calls)."""
    holds: Counts = defaultdict(Counter)
    waits: Counts = defaultdict(Counter)
    oldest: dict[str, float] = {}
    for call in scheduler.calls.values():
        owner = call.job.tenant.name
        (waits if call.replica is None else holds)[call.engine.name][owner] += 1
        if call.replica is None:
            oldest[owner] = min(oldest.get(owner, now), call.arrived_at)
    jobs = Counter(job.tenant.name for job in scheduler.jobs.values())
    known = {tenant.name for tenant in scheduler.spec.tenants} | set(jobs)
    found = []
    for tenant in (tenant for tenant in scheduler.tenants.values() if tenant.name in known):
        name, share = tenant.name, scheduler.shares.root.below.get(tenant.name)
        shares = {
            engine.name: holds[engine.name][name] / _slots(engine, holds) for engine in scheduler.engines.values()
        }
        dominant = max(shares, key=lambda engine: shares[engine])
        found.append(
            Standing(
                tenant=name,
                weight=tenant.weight,
                jobs=jobs[name],
                running=tenant.running,
                waiting=sum(by_tenant[name] for by_tenant in waits.values()),
                oldest_s=now - oldest.get(name, now),
                shares=shares,
                dominant=dominant,
                share=shares[dominant] / tenant.weight,
                lately=None if share is None else scheduler.shares.dominant(share, now),
                waits_for=_waits_for(name, waits, holds),
            )
        )
    return Standings("list", sorted(found, key=lambda one: -one.share))


def _slots(engine: Engine, holds: Counts) -> int:
    """Calls that it may hold now; not below those that it does hold, for a replica may rest or leave."""
    return max(engine.slots, holds[engine.name].total(), 1)


def _waits_for(name: str, waits: Counts, holds: Counts) -> dict[str, float]:
    """Each call that waits does so for the slots of its engine, by who holds them."""
    parts: dict[str, float] = defaultdict(float)
    for engine, waiting in waits.items():
        for holder, slots in holds[engine].items():
            parts[holder] += waiting[name] * slots / holds[engine].total()
    total = sum(parts.values())
    return {holder: part / total for holder, part in sorted(parts.items()) if part}
