"""Who has had what of the engines, who waited for whom, and how much slower each tenant was than by itself.

Shares and waits are measured: from when each recorded call arrived, got its slot and ended. What a tenant would have
had by itself is simulated: its own jobs, on as many slots of each engine as its weight entitles it to.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import msgspec

from hocket.history.traces import Recorded
from hocket.shadow.report import Simulable
from hocket.sim.experiment import Setup, simulate
from hocket.sim.model import EngineModel


class TenantReport(msgspec.Struct):
    """One tenant."""

    tenant: str
    weight: float
    jobs: int
    shares: dict[str, float]
    "engine -> the part of its slots that the tenant's calls held, over the whole time"
    dominant: str
    "the engine of which it has the largest part"
    share: float
    "that part, over its weight"
    wait_s: float
    "mean of a call, in hocket's queue"
    waits_for: dict[str, float]
    "tenant -> the part of its waiting in which that one held the slots that it waited for; itself included"
    jct_s: float
    "mean, as simulated under the policy"
    alone_s: float
    "mean of the same jobs alone on the tenant's part of each engine"
    slowdown: float
    "mean of the ratio of the two, a job; at most 1 if sharing pays"


class _Moment(NamedTuple):
    at: float
    change: int
    "1: a call gets what it is about, -1: it gives it back"
    waits: bool
    "whether it is about waiting, or about a slot"
    tenant: str


def tenants_of(past: Simulable, policy: str, weights: Mapping[str, float]) -> list[TenantReport]:
    """Of each tenant that had a job in that time, by its share; `weights` where they are not 1."""
    slots = {engine.name: engine.replicas * engine.max_concurrency for engine in past.engines}
    used, waited, seconds = _measured(past.recorded, slots)
    names = sorted({one.job.tenant for one in past.recorded})
    calls = {name: [c for one in past.recorded if one.job.tenant == name for c in one.calls] for name in names}
    together = simulate(past.jobs, Setup(engines=past.engines), policy).jct_s
    whole = sum(weights.get(name, 1.0) for name in names)
    found = []
    for name in names:
        weight = weights.get(name, 1.0)
        mine = [job for job in past.jobs if job.tenant == name]
        alone = simulate(mine, Setup(engines=_part(past.engines, weight / whole)), policy).jct_s
        both = [job.job for job in mine if job.job in alone and job.job in together]
        shares = {engine: used[name, engine] / (count * seconds) for engine, count in slots.items()}
        dominant = max(shares, key=lambda engine: shares[engine])
        waiting = sum(waited[name].values())
        waits = [c.dispatched_s - c.arrived_s for c in calls[name] if c.dispatched_s is not None]
        found.append(
            TenantReport(
                tenant=name,
                weight=weight,
                jobs=len(mine),
                shares=shares,
                dominant=dominant,
                share=shares[dominant] / weight,
                wait_s=fmean(waits) if waits else 0.0,
                waits_for={other: s / waiting for other, s in sorted(waited[name].items()) if s} if waiting else {},
                jct_s=fmean(together[job] for job in both) if both else 0.0,
                alone_s=fmean(alone[job] for job in both) if both else 0.0,
                slowdown=fmean(together[job] / alone[job] for job in both if alone[job]) if both else 0.0,
            )
        )
    return sorted(found, key=lambda one: -one.share)


def _part(engines: Sequence[EngineModel], part: float) -> list[EngineModel]:
    """So large a part of each engine's slots, at least one; and of its KV cache."""
    return [
        msgspec.structs.replace(
            engine,
            replicas=1,
            max_concurrency=max(1, round(part * engine.replicas * engine.max_concurrency)),
            window=None,
        )
        for engine in engines
    ]


def _measured(recorded: Iterable[Recorded], slots: Mapping[str, int]) -> tuple[Any, Any, float]:
    """Slot-seconds by (tenant, engine); seconds that calls waited, by tenant and who held the slots; and how long."""
    moments: dict[str, list[_Moment]] = {engine: [] for engine in slots}
    first, last = float("inf"), float("-inf")
    for one in recorded:
        for call in one.calls:
            if call.engine not in moments or call.dispatched_s is None or call.ended_s is None:
                continue
            times = [one.job.arrived_at + at for at in (call.arrived_s, call.dispatched_s, call.ended_s)]
            arrived, sent, ended = times
            first, last = min(first, arrived), max(last, ended)
            moments[call.engine] += (
                _Moment(arrived, 1, True, one.job.tenant),
                _Moment(sent, -1, True, one.job.tenant),
                _Moment(sent, 1, False, one.job.tenant),
                _Moment(ended, -1, False, one.job.tenant),
            )
    used: dict[tuple[str, str], float] = defaultdict(float)
    waited: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for engine, some in moments.items():
        _sweep(engine, sorted(some), used, waited)
    return used, waited, max(last - first, 1e-9)


def _sweep(
    engine: str,
    moments: Sequence[_Moment],
    used: dict[tuple[str, str], float],
    waited: dict[str, dict[str, float]],
) -> None:
    """Go through what happened at one engine."""
    holds: dict[str, int] = defaultdict(int)
    waits: dict[str, int] = defaultdict(int)
    at = 0.0
    for moment in moments:
        passed, total = moment.at - at, sum(holds.values())
        if passed > 0.0 and total:
            for holder, count in holds.items():
                used[holder, engine] += count * passed
                for waiter, calls in waits.items():
                    waited[waiter][holder] += calls * passed * count / total
        at = moment.at
        (waits if moment.waits else holds)[moment.tenant] += moment.change
