"""What is always true between two events. Every core test ends with `Scheduler.check()`."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from hocket.core.budget import URGENT
from hocket.core.state import CLASSES, CallState

if TYPE_CHECKING:
    from hocket.core.scheduler import Scheduler
    from hocket.core.state import Call, Engine


def check(scheduler: Scheduler) -> None:
    """Raise AssertionError, naming what is wrong."""
    queued = [call for engine in scheduler.engines.values() for call in engine.queue]
    waiting = {call.id for call in queued}
    assert len(waiting) == len(queued), "a call waits in two places"
    for call in scheduler.calls.values():
        waits = call.state is CallState.QUEUED
        assert waits == (call.id in waiting), f"{call.id}: state {call.state}, but its place in the queue differs"
        assert waits == (call.replica is None), f"{call.id}: waits and has a replica, or runs without one"
        assert not (waits and call.leaving), f"{call.id}: waits, and is leaving a slot"
        assert call.job.calls.get(call.id) is call, f"{call.id}: unknown to its job"
    assert waiting <= scheduler.calls.keys(), "a call waits that has ended"

    in_slots = [call for call in scheduler.calls.values() if call.state is not CallState.QUEUED]
    inflight = Counter(id(call.replica) for call in in_slots)
    running = Counter(call.job.tenant.name for call in in_slots)
    for tenant in scheduler.tenants.values():
        assert tenant.running == running[tenant.name], f"tenant {tenant.name}: running {tenant.running}"
    for engine in scheduler.engines.values():
        assert len(engine.queue) == sum(1 for call in queued if call.engine is engine), f"{engine.name}: queue length"
        assert not (engine.queue and engine.room), f"{engine.name}: a call waits beside a free slot"
        assert engine.room == sum(replica.free for replica in engine.replicas.values()), f"{engine.name}: room"
        present = {name: replica for name, replica in engine.listed.items() if replica.present}
        assert engine.replicas == present, f"{engine.name}: replicas"
        for replica in engine.listed.values():
            assert replica.inflight == inflight[id(replica)], f"{replica.id}: inflight {replica.inflight}"
            assert replica.free == max(0, replica.limit - replica.inflight), f"{replica.id}: free {replica.free}"
            assert replica.present or not replica.limit, f"{replica.id}: removed, but it may be sent calls"
            assert replica.search is None or replica.search.size == replica.window, f"{replica.id}: window"
        _check_holders(engine, [call for call in in_slots if call.engine is engine])
        assert engine.slots == sum(replica.limit for replica in engine.listed.values()), f"{engine.name}: slots"
    _check_shares(scheduler)
    for tenant in scheduler.tenants.values():
        urgent = [call for call in in_slots if call.job.tenant is tenant and call.urgency < URGENT]
        assert tenant.budget is None or tenant.budget.held == len(urgent), f"tenant {tenant.name}: {tenant.budget}"
    _check_accounts(scheduler)
    for job in scheduler.jobs.values():
        states = Counter(call.state for call in job.calls.values())
        assert job.waiting == states[CallState.QUEUED], f"job {job.id}: waiting {job.waiting}"
        assert job.running == len(job.calls) - job.waiting, f"job {job.id}: running {job.running}"
        over = job.tenant.budget is not None and job.claimed < URGENT
        assert job.urgency in (job.claimed, job.claimed + over), f"job {job.id}: {job.claimed} became {job.urgency}"
        for call in job.calls.values():
            same, lower = call.urgency == job.urgency, call.urgency > job.urgency
            assert lower if call.own_class else same, f"{call.id}: of class {call.urgency}, its job of {job.urgency}"
        assert job.calls or not job.closed, f"job {job.id}: closed, empty, and not forgotten"


def _check_accounts(s: Scheduler) -> None:
    """What is counted for admission is what is there."""
    for engine in s.engines.values():
        if not engine.load.wanted:
            assert not engine.load.lines, f"{engine.name}: counted, and nobody asks"
            continue
        ahead = [0.0] * CLASSES
        for call in s.calls.values():
            ahead[call.urgency] += call.engine is engine
        for job in s.jobs.values():
            ahead[job.urgency] += job.expected.get(engine.name, 0.0) if job.calls else 0.0
        off = max(abs(a - b) for a, b in zip(ahead, engine.load.ahead, strict=True))
        assert off < 1e-6, f"{engine.name}: ahead {engine.load.ahead}, not {ahead}"
        _check_lines(s, engine)
    for account in (s.whole, *(tenant.account for tenant in s.tenants.values())):
        if account is None:
            continue
        jobs = [job for job in s.jobs.values() if account.tenant in (None, job.tenant)]
        calls = [call for job in jobs for call in job.calls.values()]
        held = (account.jobs, len(calls) if account is s.whole else account.calls, account.size)
        there = len(jobs), len(calls), sum(call.size for call in calls)
        assert held == there, f"account of {account.tenant and account.tenant.name}: {held}, not {there}"
        seated = {seat.job.id for seat in account.unstarted}
        assert seated == {job.id for job in jobs if any(seat.account is account for seat in job.seats)}, "seats"
        spare = Counter[tuple[int, str]]()
        for seat in account.unstarted:
            spare[seat.job.urgency, "calls"] += len(seat.job.calls)
            spare[seat.job.urgency, "bytes"] += sum(call.size for call in seat.job.calls.values())
        counted = {(n, "calls"): held for n, held in account.spare_calls.items()}
        counted |= {(n, "bytes"): held for n, held in account.spare_bytes.items()}
        assert spare == Counter(counted), f"what may leave holds {spare}, not {counted}"
        for job in jobs:
            assert not (job.seats and (job.started or not job.admitted or not job.calls)), f"job {job.id}: seated"
            assert job.admitted or not job.calls, f"job {job.id}: has calls, and was not let in"


def _check_lines(s: Scheduler, engine: Engine) -> None:
    """Each tenant's part of the load is what it has there."""
    load = engine.load
    calls = [call for call in s.calls.values() if call.engine is engine]
    opened = {name: line.open for name, line in load.lines.items() if line.open}
    assert opened == Counter(call.job.tenant.name for call in calls), f"{engine.name}: whose calls"
    weights = sum(line.weight for line in load.lines.values() if line.open)
    assert abs(load.weights - weights) < 1e-6, f"{engine.name}: weights"
    off = [abs(sum(line.ahead[n] for line in load.lines.values()) - load.ahead[n]) for n in range(CLASSES)]
    assert max(off) < 1e-6, f"{engine.name}: tenants' parts of what is ahead"
    waiting = [call.id for line in load.lines.values() for since in line.waiting for call in since]
    assert sorted(waiting) == sorted(call.id for call in engine.queue), f"{engine.name}: who waits since when"
    for line in load.lines.values():
        assert all(call.urgency == n for n, since in enumerate(line.waiting) for call in since), "in another class"


def _check_shares(scheduler: Scheduler) -> None:
    """Each share knows its open calls, and those that hold slots; who holds any is counted in turn."""
    shares = scheduler.shares
    calls, held = Counter[int](), Counter[tuple[int, str]]()
    for call in scheduler.calls.values():
        share = call.job.share
        assert share is not None or not shares.wanted, f"{call.id}: its job has no share"
        while share is not None:
            calls[id(share)] += 1
            held[id(share), call.engine.name] += call.replica is not None
            share = share.parent
    stack = list(shares.root.below.values())
    while stack:
        share = stack.pop()
        stack += share.below.values()
        assert share.calls == calls[id(share)], f"share {share.name}: {share.calls} open calls"
        for name, hold in share.on.items():
            assert hold.calls == held[id(share), name], f"share {share.name}: {hold.calls} slots of {name}"
            leaf = not share.below and hold.calls > 0
            assert (hold in shares.due) == leaf, f"share {share.name}: not counted in turn on {name}"


def _check_holders(engine: Engine, in_slots: list[Call]) -> None:
    """Those that may be displaced are known, by keys that are up to date."""
    holders = engine.holders
    if holders is None:
        assert all(call.node is None for call in in_slots), f"{engine.name}: may be displaced, but nobody may"
        return
    may = [call for call in in_slots if holders.may_leave(call)]
    assert sorted(call.id for call in holders) == sorted(call.id for call in may), (
        f"{engine.name}: who may be displaced"
    )
    leaving = sum(call.leaving for call in in_slots)
    assert holders.leaving == leaving, f"{engine.name}: {leaving} are leaving, not {holders.leaving}"
