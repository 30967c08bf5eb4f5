"""What every ordering must keep. Each function takes the constructor of an ordering and asserts one clause.

The clauses are checked on schedulers that were led through a few hundred random events: jobs of several tenants and
applications, of all urgencies, with and without deadlines; calls that start, stream, finish, fail and are cancelled.
All times are multiples of 1/64 s, so that shifting them is exact.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from typing import Any

from hocket.assembly import build
from hocket.core import events as ev
from hocket.core.commands import Command, Dispatch
from hocket.core.ordering import Fact, Ordering, Scope
from hocket.core.queue import ReadyQueue
from hocket.core.scheduler import Scheduler
from hocket.core.spec import EngineSpec, SchedulerSpec, TenantSpec
from hocket.core.state import Call

Make = Callable[[], Ordering]
EVENTS = 400
SPEC = SchedulerSpec(
    engines=[EngineSpec("small", ["small"]), EngineSpec("large", ["large"])],
    policy=("candidate",),
    tenants=[TenantSpec("team-a", 2.0), TenantSpec("team-b", 1.0), TenantSpec("team-c", 0.5)],
)


def story(make: Make, seed: int, shift: float = 0.0) -> Iterator[tuple[Scheduler, list[Command]]]:
    """A scheduler under `make()`, after each of some random events, with the commands that answered."""
    rng = random.Random(seed)
    scheduler = build(SPEC, {"candidate": make()})
    at, jobs, calls = shift, 0, 0
    running: list[str] = []
    for engine in ("small", "large"):
        for replica in ("r0", "r1"):
            scheduler.handle(ev.ReplicaAdded(at, engine, replica, 2))
    for _ in range(EVENTS):
        at += rng.randrange(64) / 64
        opened = sorted(scheduler.jobs)
        choice = rng.random()
        event: ev.Event
        if choice < 0.15 or not opened:
            jobs += 1
            deadline = rng.choice([None, rng.randrange(1, 200) / 4])
            urgency, tenant = rng.randrange(5), f"team-{rng.choice('abc')}"
            event = ev.JobOpened(at, f"j{jobs}", f"app-{rng.randrange(4)}", tenant, urgency, deadline)
        elif choice < 0.6 or not running:
            calls += 1
            urgency_of_call = rng.choice([None, None, rng.randrange(5)])
            model, prompt = rng.choice(["small", "large"]), rng.randrange(1, 500)
            job, stage = rng.choice(opened), f"s{rng.randrange(3)}"
            event = ev.CallArrived(at, f"c{calls}", job, stage, model, prompt, rng.choice([None, 64]), urgency_of_call)
        elif choice < 0.65:
            event = ev.JobClosed(at, rng.choice(opened))
            if scheduler.jobs[event.job].calls:
                continue
        elif choice < 0.75:
            event = ev.CallStreamed(at, rng.choice(running), 1)
        elif choice < 0.8:
            event = ev.CallFailed(at, running.pop(rng.randrange(len(running))), "reset")
        elif choice < 0.85:
            event = ev.CallCancelled(at, rng.choice(sorted(scheduler.calls)))
        else:
            event = ev.CallFinished(at, running.pop(rng.randrange(len(running))), 100, 50)
        commands = scheduler.handle(event)
        running = [call for call in running if call in scheduler.calls]
        running += [command.call for command in commands if isinstance(command, Dispatch)]
        yield scheduler, commands


def waiting(scheduler: Scheduler) -> Iterator[tuple[ReadyQueue, list[Call]]]:
    for engine in scheduler.engines.values():
        yield engine.queue, sorted(engine.queue, key=lambda call: call.number)


def full(make: Make, seed: int) -> Scheduler:
    """A scheduler at the moment of its story when most calls waited."""
    stories = [len(s.calls) for s, _ in story(make, seed)]
    for i, (scheduler, _) in enumerate(story(make, seed)):
        if i == stories.index(max(stories)):
            assert sum(len(calls) for _, calls in waiting(scheduler)) > 20, "too few calls wait to tell an order"
            return scheduler
    raise AssertionError


def entity(call: Call, scope: Scope) -> int:
    """The number of what shares the call's key."""
    match scope:
        case Scope.CLASS:
            return call.urgency
        case Scope.TENANT:
            return call.job.tenant.number
        case Scope.APPLICATION:
            return call.job.app.number
        case Scope.JOB:
            return call.job.number
        case Scope.CALL:
            return call.number


def expected(ordering: Ordering, calls: list[Call], scheduler: Scheduler) -> list[str]:
    """The ids in the order that the keys say, sorted without any queue."""

    def place(call: Call) -> tuple[Any, ...]:
        return (*ordering.key(call, scheduler), entity(call, ordering.scope), call.job.number, call.number)

    return [call.id for call in sorted(calls, key=place)]


def total_order(make: Make, seed: int) -> None:
    """Keys are tuples of one length that compare with each other; none is NaN."""
    scheduler, ordering = full(make, seed), make()
    keys = [ordering.key(call, scheduler) for _, calls in waiting(scheduler) for call in calls]
    assert len({len(key) for key in keys}) == 1
    assert all(isinstance(key, tuple) for key in keys)
    assert not any(isinstance(part, float) and math.isnan(part) for key in keys for part in key)
    sorted(keys)


def one_key_a_scope(make: Make, seed: int) -> None:
    """Calls of one class, tenant, application or job, whichever the scope names, have one key."""
    scheduler, ordering = full(make, seed), make()
    keys: dict[int, set[tuple[Any, ...]]] = {}
    for _, calls in waiting(scheduler):
        for call in calls:
            keys.setdefault(entity(call, ordering.scope), set()).add(ordering.key(call, scheduler))
    assert all(len(found) == 1 for found in keys.values())


def independent_of_candidate_order(make: Make, seed: int) -> None:
    """Whatever the order in which calls came to wait, they leave in the order of their keys."""
    scheduler, ordering = full(make, seed), make()
    for _, calls in waiting(scheduler):
        in_order = expected(ordering, calls, scheduler)
        for shuffle in range(5):
            queue = ReadyQueue([ordering], scheduler)
            for call in random.Random(shuffle).sample(calls, len(calls)):
                queue.push(call)
            left = [call.id for call in iter(queue.pop, None)]
            assert left == in_order


def true_to_what_it_reads(make: Make, seed: int) -> None:
    """After each event the first of each queue is the call with the smallest key as of now: no key moved unseen."""
    ordering = make()
    for scheduler, _ in story(make, seed):
        assert scheduler.policy_error is None
        for queue, calls in waiting(scheduler):
            first = queue.first()
            assert (first.id if first else None) == next(iter(expected(ordering, calls, scheduler)), None)
        scheduler.check()


def moves_only_with_what_it_reads(make: Make, seed: int) -> None:
    """While a call waits, its key stays the same for as long as the facts that the ordering reads do."""
    ordering = make()
    seen: dict[str, tuple[object, ...]] = {}
    for scheduler, _ in story(make, seed):
        now = {}
        for _, calls in waiting(scheduler):
            for call in calls:
                key = ordering.key(call, scheduler)
                now[call.id] = (*(fact_of(call, fact) for fact in sorted(ordering.reads, key=str)), key)
                before = seen.get(call.id, now[call.id])
                assert before[-1] == key or before[:-1] != now[call.id][:-1], f"{before} became {now[call.id]}"
        seen = now


def fact_of(call: Call, fact: Fact) -> object:
    """What a fact says about a call, as a value that differs when it has changed."""
    match fact:
        case Fact.SERVICE:
            return call.job.service_s
        case Fact.RUNNING:
            return call.job.tenant.running, call.job.tenant.last_served
        case Fact.SIZE:
            return call.job.app.jobs_closed, call.job.app.mean_service_s
        case Fact.OUTSIDE:
            return object()  # nobody here can tell


def time_shift_invariant(make: Make, seed: int) -> None:
    """The same events, all 4096 s later, give the same commands (`WakeAt` aside, which names a time)."""
    for (_, commands), (_, later) in zip(story(make, seed), story(make, seed, 4096.0), strict=True):
        assert [c for c in commands if isinstance(c, Dispatch)] == [c for c in later if isinstance(c, Dispatch)]


def same_twice(make: Make, seed: int) -> None:
    """The same events give the same commands, always."""
    assert [commands for _, commands in story(make, seed)] == [commands for _, commands in story(make, seed)]


def view_unchanged(make: Make, seed: int) -> None:
    """Asking for a key changes nothing."""
    scheduler, ordering = full(make, seed), make()
    before = facts(scheduler)
    for _, calls in waiting(scheduler):
        for call in calls:
            ordering.key(call, scheduler)
    assert facts(scheduler) == before


def facts(scheduler: Scheduler) -> list[str]:
    """Every plain fact of every noun, as text."""
    nouns = [*scheduler.jobs.values(), *scheduler.calls.values(), *scheduler.tenants.values(), *scheduler.apps.values()]
    plain = (int, float, str, dict, type(None))
    lines = []
    for noun in nouns:
        values = {name: getattr(noun, name) for name in type(noun).__slots__}
        lines.append(
            repr({k: list(v) if isinstance(v, dict) else v for k, v in values.items() if isinstance(v, plain)})
        )
    return lines


CLAUSES = [
    total_order,
    one_key_a_scope,
    independent_of_candidate_order,
    true_to_what_it_reads,
    moves_only_with_what_it_reads,
    time_shift_invariant,
    same_twice,
    view_unchanged,
]


def check_contract(make: Make, seeds: int = 1) -> None:
    """Raise AssertionError if the orderings that `make` constructs break a clause."""
    for clause in CLAUSES:
        for seed in range(seeds):
            clause(make, seed)
