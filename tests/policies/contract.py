"""What every ordering must keep. Each function takes the constructor of an ordering and asserts one clause.

The clauses are checked on the schedulers of `stories`. A chooser, whose picks may differ from its keys, and one that
lends its turns keep the same clauses: keys are in order, picks hang on nothing but what has happened.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from typing import Any

from hocket.core.commands import Dispatch
from hocket.core.ordering import Fact, Ordering, Scope
from hocket.core.queue import ReadyQueue, chooser_of
from hocket.core.scheduler import Scheduler
from hocket.core.snapshot import restore, save
from hocket.core.state import Call
from tests.policies.stories import EVENTS, Make, fresh, tell


def waiting(scheduler: Scheduler) -> Iterator[tuple[ReadyQueue, list[Call]]]:
    for engine in scheduler.engines.values():
        yield engine.queue, sorted(engine.queue, key=lambda call: call.number)


def full(make: Make, seed: int) -> Scheduler:
    """A scheduler at the moment of its story when most calls waited."""
    lengths = [len(told.scheduler.calls) for told in tell(make, seed)]
    for i, told in enumerate(tell(make, seed)):
        if i == lengths.index(max(lengths)):
            found = [call for _, calls in waiting(told.scheduler) for call in calls]
            assert len(found) > 20, "too few calls wait to tell an order"
            return told.scheduler
    raise AssertionError


def entity(call: Call, scope: Scope) -> int:
    """The number of what shares the call's key."""
    match scope:
        case Scope.CLASS:
            return call.urgency
        case Scope.TENANT:
            return call.job.tenant.number
        case Scope.TENANT_APP:
            assert call.job.share is not None
            return call.job.share.number
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
    """Whatever the order in which calls came to wait, they leave in that of their keys; or of a chooser's picks."""
    scheduler, ordering = full(make, seed), make()
    state = scheduler.rng.state
    for _, calls in waiting(scheduler):
        free = chooser_of([ordering]) or hasattr(ordering, "lends")
        in_order = None if free else expected(ordering, calls, scheduler)
        for shuffle in range(5):
            queue = ReadyQueue([make()], scheduler)
            scheduler.rng.state = state
            for call in random.Random(shuffle).sample(calls, len(calls)):
                queue.push(call)
            left = [call.id for call in iter(queue.pop, None)]
            in_order = in_order or left
            assert left == in_order
            assert sorted(left) == sorted(call.id for call in calls)


def true_to_what_it_reads(make: Make, seed: int) -> None:
    """After each event the first of each queue is the call with the smallest key as of now: no key moved unseen."""
    ordering = make()
    for scheduler, _, _ in tell(make, seed):
        assert scheduler.policy_error is None, scheduler.policy_error
        for queue, calls in waiting(scheduler):
            first = queue.first()
            assert (first.id if first else None) == next(iter(expected(ordering, calls, scheduler)), None)
        scheduler.check()


def moves_only_with_what_it_reads(make: Make, seed: int) -> None:
    """While a call waits, its key stays the same for as long as the facts that the ordering reads do."""
    ordering = make()
    seen: dict[str, tuple[object, ...]] = {}
    for scheduler, _, _ in tell(make, seed):
        now = {}
        for _, calls in waiting(scheduler):
            for call in calls:
                key = ordering.key(call, scheduler)
                # a call whose class moves is queued anew, so keys of any ordering may hang on its class
                now[call.id] = (
                    call.urgency,
                    *(fact_of(call, fact, scheduler) for fact in sorted(ordering.reads, key=str)),
                    key,
                )
                before = seen.get(call.id, now[call.id])
                assert before[-1] == key or before[:-1] != now[call.id][:-1], f"{before} became {now[call.id]}"
        seen = now


def fact_of(call: Call, fact: Fact, scheduler: Scheduler) -> object:
    """What a fact says about a call, as a value that differs when it has changed."""
    match fact:
        case Fact.SERVICE:
            return call.job.service_s
        case Fact.RUNNING:
            return call.job.tenant.running, call.job.tenant.last_served
        case Fact.SHARE:
            share = call.job.share
            return share and (share.level, share.parent and share.parent.level)
        case Fact.SLOTS:
            return call.job.running, call.job.last_served
        case Fact.BELIEF:
            return call.job.belief and call.job.belief.moves
        case Fact.CLASS:
            return call.job.urgency
        case Fact.FAIR:
            return call.job.fair_finish
        case Fact.SIZE:
            return call.job.app.jobs_closed, call.job.app.mean_service_s
        case Fact.BATCH:
            return [engine.batch for engine in scheduler.engines.values()]
        case Fact.OUTSIDE:
            return object()  # nobody here can tell


def time_shift_invariant(make: Make, seed: int) -> None:
    """The same events, all 4096 s later, give the same commands (`WakeAt` aside, which names a time)."""
    for told, later in zip(tell(make, seed), tell(make, seed, 4096.0), strict=True):
        assert [c for c in told.commands if isinstance(c, Dispatch)] == [
            c for c in later.commands if isinstance(c, Dispatch)
        ]


def same_twice(make: Make, seed: int) -> None:
    """The same events give the same commands, always."""
    assert [told.commands for told in tell(make, seed)] == [told.commands for told in tell(make, seed)]


def goes_on_after_a_snapshot(make: Make, seed: int) -> None:
    """Saved at any moment, here the middle of a story, and restored in a new process, it decides on as if never."""
    story = [(told.event, told.commands) for told in tell(make, seed)]
    before = fresh(make)
    for event, _ in story[: EVENTS // 2]:
        before.handle(event)
    after = fresh(make)
    restore(after, json.loads(json.dumps(save(before))))
    for event, commands in story[EVENTS // 2 :]:
        assert after.handle(event) == commands
        assert after.policy_error is None


def view_unchanged(make: Make, seed: int) -> None:
    """Asking for a key, or for a pick, changes nothing but the state of the generator."""
    scheduler, ordering = full(make, seed), make()
    before = facts(scheduler)
    for _, calls in waiting(scheduler):
        queue = ReadyQueue([ordering], scheduler)
        keys = [ordering.key(call, scheduler) for call in calls]
        for call in calls:
            queue.push(call)
        while queue.pop() is not None:
            pass
        assert keys == [ordering.key(call, scheduler) for call in calls]
    assert facts(scheduler) == before


def facts(scheduler: Scheduler) -> list[str]:
    """Every plain fact of every noun, as text; a call's place in a queue aside."""
    nouns = [*scheduler.jobs.values(), *scheduler.calls.values(), *scheduler.tenants.values(), *scheduler.apps.values()]
    plain = (int, float, str, dict, type(None))
    lines = []
    for noun in nouns:
        values = {name: getattr(noun, name) for name in type(noun).__slots__ if name not in ("key", "node")}
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
    goes_on_after_a_snapshot,
    view_unchanged,
]


def check_contract(make: Make, seeds: int = 1) -> None:
    """Raise AssertionError if the orderings that `make` constructs break a clause."""
    for clause in CLAUSES:
        for seed in range(seeds):
            clause(make, seed)
