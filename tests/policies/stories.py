"""The stories that the contract of orderings is checked on: a few hundred random events, told to a scheduler.

Jobs of several tenants and applications, of all urgencies, with and without deadlines; calls that start, stream,
finish, fail, are put back and are cancelled; tool runs. Two applications have a profile, and one of them is learned
anew on the way; the jobs of the others are like no record, at first. All times are multiples of 1/64 s, so that
shifting them is exact.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

from hocket.assembly import build
from hocket.beliefs.network import learn_network
from hocket.beliefs.profile import Node, Profile, encode_profile
from hocket.beliefs.record import Record, Step
from hocket.core import events as ev
from hocket.core.commands import Command
from hocket.core.latency import Latency
from hocket.core.ordering import Ordering
from hocket.core.scheduler import Scheduler
from hocket.core.spec import EngineSpec, SchedulerSpec, TenantSpec

Make = Callable[[], Ordering]
EVENTS = 300
SPEC = SchedulerSpec(
    engines=[EngineSpec("small", ["small"], latency=Latency(q2=0.01, d0=0.02)), EngineSpec("large", ["large"])],
    policy=("candidate",),
    tenants=[TenantSpec("team-a", 2.0), TenantSpec("team-b", 1.0), TenantSpec("team-c", 0.5)],
)


@cache
def profile(app: str, seed: int) -> str:
    """An application's profile: chains with a tool run, forks that join, sizes that hang together."""
    rng = random.Random(seed)
    records = []
    for _ in range(24):
        prompt = rng.randrange(1, 500)
        first = Step("s0", "small", prompt, 10 + prompt // 4, 0.0, [])
        if rng.random() < 0.5:
            rest = [
                Step("look", None, 0, 0, rng.randrange(1, 20) / 4, [0]),
                Step("s1", "large", 2 * prompt, rng.randrange(1, 200), 0.0, [1]),
            ]
        else:
            width = rng.randrange(1, 5)
            rest = [Step("s1", "small", rng.randrange(1, 500), 50, 0.0, [0]) for _ in range(width)]
            rest.append(Step("s2", "large", prompt, 100, 0.0, list(range(1, width + 1))))
        records.append(Record([first, *rest]))
    network = learn_network(records, [Node(name=name, kind="llm") for name in ("s0", "s1", "s2", "look")])
    return encode_profile(Profile(app=app, jobs=len(records), records=records, network=network)).decode()


class Told(NamedTuple):
    """One event of a story."""

    scheduler: Scheduler
    "after it"
    event: ev.Event
    commands: list[Command]
    "that answered"


def fresh(make: Make) -> Scheduler:
    """A scheduler under `make()` to which nothing has happened."""
    return build(SPEC, {"candidate": make()}, {"app-0": profile("app-0", 1), "app-1": profile("app-1", 2)})


def tell(make: Make, seed: int, shift: float = 0.0) -> Iterator[Told]:
    """A scheduler under `make()`, event by event. The same events for all orderings that send the same calls."""
    rng = random.Random(seed)
    scheduler = fresh(make)
    at = shift
    for engine in ("small", "large"):
        for replica in ("r0", "r1"):
            added = ev.ReplicaAdded(at, engine, replica, 2)
            yield Told(scheduler, added, scheduler.handle(added))
    for number in range(EVENTS):
        at += rng.randrange(64) / 64
        event = an_event(rng, scheduler, at, number)
        yield Told(scheduler, event, scheduler.handle(event))


def an_event(rng: random.Random, scheduler: Scheduler, at: float, number: int) -> ev.Event:
    """One that could happen now."""
    opened = sorted(scheduler.jobs)
    running = sorted(call.id for call in scheduler.calls.values() if call.replica is not None)
    choice = rng.random()
    if number == EVENTS // 2:
        return ev.ProfileReplaced(at, "app-1", profile("app-1", 3))
    if choice < 0.14 or not opened:
        deadline = rng.choice([None, rng.randrange(1, 200) / 4])
        urgency, tenant = rng.randrange(5), f"team-{rng.choice('abc')}"
        return ev.JobOpened(at, f"j{number}", f"app-{rng.randrange(4)}", tenant, urgency, deadline)
    job = scheduler.jobs[rng.choice(opened)]
    if choice < 0.56 or not running:
        urgency_of_call = rng.choice([None, None, rng.randrange(5)])
        model, prompt = rng.choice(["small", "large"]), rng.randrange(1, 500)
        stage, most = f"s{rng.randrange(3)}", rng.choice([None, 64])
        return ev.CallArrived(at, f"c{number}", job.id, stage, model, prompt, most, urgency_of_call)
    if choice < 0.62:
        if job.tools:
            return ev.ToolFinished(at, job.id, next(iter(job.tools)))
        return ev.ToolStarted(at, job.id, f"t{number}", "look")
    if choice < 0.66:
        return ev.ToolStarted(at, job.id, f"t{number}", "look") if job.calls else ev.JobClosed(at, job.id)
    if choice < 0.74:
        return ev.CallStreamed(at, rng.choice(running), 1)
    if choice < 0.78:
        return ev.CallFailed(at, rng.choice(running), "reset")
    if choice < 0.8:
        return ev.CallPreempted(at, rng.choice(running))
    if choice < 0.84:
        return ev.CallCancelled(at, rng.choice(sorted(scheduler.calls)))
    return ev.CallFinished(at, rng.choice(running), 100, rng.randrange(1, 120))
