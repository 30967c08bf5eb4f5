"""What every routing must keep. Each function takes the name of a routing and asserts one clause.

The clauses are checked on schedulers that were led through a few hundred random events: jobs of several calls with and
without prefixes, calls that finish, fail and are cancelled, replicas that come, rest and go. At each dispatch the
routing's choice is seen together with what it could have chosen.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec

from hocket.core import events as ev
from hocket.core.commands import Command
from hocket.core.routing import Routing
from hocket.core.scheduler import Scheduler
from hocket.core.slots import Policy
from hocket.core.snapshot import restore, save
from hocket.core.spec import EngineSpec, SchedulerSpec
from hocket.core.state import Call, Replica
from hocket.journal import encode
from hocket.policies import compose

Make = Callable[[], Routing]
EVENTS = 600
SPEC = SchedulerSpec([EngineSpec("e", ["m"])], policy=("call-fcfs",), job_idle_s=1e9)


class Choice(NamedTuple):
    """One pick, and what was there to pick from."""

    call: Call
    picked: Replica
    open: list[Replica]
    "replicas with a free slot"
    failed_on: Replica | None


class Watched:
    """A routing under watch."""

    def __init__(self, routing: Routing, choices: list[Choice]) -> None:
        self.routing, self.choices = routing, choices
        self.replicas: dict[int, Replica] = {}

    def changed(self, replica: Replica) -> None:
        self.replicas[id(replica)] = replica
        self.routing.changed(replica)

    def pick(self, call: Call) -> Replica:
        picked = self.routing.pick(call)
        choice = Choice(call, picked, [r for r in self.replicas.values() if r.free], call.failed_on)
        self.choices.append(choice)
        return picked

    def save(self) -> object:
        return self.routing.save()

    def restore(self, state: object, replicas: dict[str, Replica]) -> None:
        self.routing.restore(state, replicas)


def scheduler_with(make: Make) -> tuple[Scheduler, list[Choice]]:
    choices: list[Choice] = []

    def policy_of(spec: SchedulerSpec) -> Policy:
        orderings = compose(spec.policy)
        return Policy(orderings, orderings, lambda: Watched(make(), choices))  # type: ignore[arg-type, return-value]

    return Scheduler(SPEC, policy_of), choices


def random_event(rng: random.Random, s: Scheduler, at: float, number: int) -> ev.Event:
    """One event that could happen now."""
    held = [call.id for call in s.calls.values() if call.replica is not None]
    jobs = sorted(s.jobs)
    kind = rng.random()
    if kind < 0.12 or not jobs:
        return ev.JobOpened(at, f"j{number}", "a")
    if kind < 0.52 or not held:
        prefix = rng.choice([None, "p1", "p2", f"p{number}"])
        return ev.CallArrived(at, f"c{number}", rng.choice(jobs), "s", "m", 10, prefix=prefix)
    if kind < 0.82:
        return ev.CallFinished(at, rng.choice(held), 10, 10)
    if kind < 0.86:
        return ev.CallFailed(at, rng.choice(held), rng.choice(["reset", "connect"]))
    if kind < 0.88:
        return ev.CallCancelled(at, rng.choice(sorted(s.calls)))
    if kind < 0.91:
        return ev.JobClosed(at, rng.choice(jobs))
    if kind < 0.94:
        return ev.ReplicaRemoved(at, "e", f"r{rng.randrange(5)}")
    if kind < 0.98:
        return ev.ReplicaAdded(at, "e", f"r{rng.randrange(5)}", rng.randrange(1, 6))
    return ev.Tick(at)


def story(make: Make, seed: int) -> Iterator[tuple[Scheduler, ev.Event, list[Command], list[Choice]]]:
    """A scheduler with `make()`, after each of some random events, with the commands and the choices so far."""
    rng, at = random.Random(seed), 0.0
    scheduler, choices = scheduler_with(make)
    for replica in range(4):
        scheduler.handle(ev.ReplicaAdded(at, "e", f"r{replica}", 3))
    for number in range(EVENTS):
        at += rng.expovariate(5.0)
        event = random_event(rng, scheduler, at, number)
        yield scheduler, event, scheduler.handle(event), choices


def picks_what_has_room(make: Make, seed: int) -> None:
    """A replica with a free slot, always; so a call never waits for one while another has room."""
    for scheduler, _, _, choices in story(make, seed):
        for choice in choices:
            assert choice.picked in choice.open
        choices.clear()
        engine = scheduler.engines["e"]
        assert not (engine.queue and engine.room)
        scheduler.check()


def a_retry_goes_elsewhere(make: Make, seed: int) -> None:
    """Not to the replica that failed the call, if another has room."""
    seen = 0
    for _, _, _, choices in story(make, seed):
        for choice in choices:
            if choice.failed_on is not None and [r for r in choice.open if r is not choice.failed_on]:
                seen += 1
                assert choice.picked is not choice.failed_on
        choices.clear()
    assert seen, "no call was tried again"


def nobody_starves(make: Make, seed: int) -> None:
    """Calls of one prefix, and calls without, in three quarters of the slots: each replica gets some."""
    for prefix, same_job in ((None, False), ("p", False), ("p", True)):
        scheduler, choices = scheduler_with(make)
        rng = random.Random(seed)
        for replica in range(4):
            scheduler.handle(ev.ReplicaAdded(0.0, "e", f"r{replica}", 8))
        scheduler.handle(ev.JobOpened(0.0, "all", "a"))
        for number in range(400):
            at = float(number)
            held = [call.id for call in scheduler.calls.values()]
            if len(held) >= 24:
                scheduler.handle(ev.CallFinished(at, rng.choice(held), 10, 10))
            job = "all" if same_job else f"j{number}"
            if not same_job:
                scheduler.handle(ev.JobOpened(at, job, "a"))
            scheduler.handle(ev.CallArrived(at, f"c{number}", job, "s", "m", 10, prefix=prefix))
        got = Counter(choice.picked.id for choice in choices)
        assert all(got[f"r{replica}"] >= 40 for replica in range(4)), got


def same_twice(make: Make, seed: int) -> None:
    """The same events give the same commands, always."""
    first, second = ([commands for _, _, commands, _ in story(make, seed)] for _ in range(2))
    assert first == second


def survives_a_snapshot(make: Make, seed: int) -> None:
    """A restored scheduler picks as the saved one."""
    twin: Scheduler | None = None
    for number, (scheduler, event, commands, _) in enumerate(story(make, seed)):
        if twin is not None:
            assert encode(event, commands) == encode(event, twin.handle(event))
        if number % 150 == 149:
            twin, _ = scheduler_with(make)
            state = save(scheduler)
            restore(twin, msgspec.json.decode(msgspec.json.encode(state)))
            assert save(twin) == save(scheduler)


def costs_no_more_with_many_replicas(make: Make, seed: int) -> None:
    """A pick looks at a few replicas, not at all: counted in looks at `free`, not in time."""

    class Counted(Replica):
        looks = 0

        @property  # type: ignore[override]
        def free(self) -> int:
            Counted.looks += 1
            return 1

        @free.setter
        def free(self, value: int) -> None:
            pass

    looks = {}
    for count in (10, 1000):
        scheduler, _ = scheduler_with(make)
        engine = scheduler.engines["e"]
        routing = make()
        for index in range(count):
            routing.changed(Counted(f"r{index}", index, 8))
        scheduler.handle(ev.JobOpened(0.0, "j", "a"))
        scheduler.handle(ev.ReplicaAdded(0.0, "e", "real", 100))
        scheduler.handle(ev.CallArrived(0.0, "c", "j", "s", "m", 10, prefix="p"))
        Counted.looks = 0
        for _ in range(50):
            routing.pick(scheduler.calls["c"])
        looks[count] = Counted.looks
        assert engine.replicas
    assert looks[1000] <= 2 * looks[10] + 50, looks


CLAUSES = [
    picks_what_has_room,
    a_retry_goes_elsewhere,
    nobody_starves,
    same_twice,
    survives_a_snapshot,
    costs_no_more_with_many_replicas,
]


def check_contract(make: Make, seeds: int = 1) -> None:
    """Raise AssertionError if the routings that `make` constructs break a clause."""
    for clause in CLAUSES:
        for seed in range(seeds):
            clause(make, seed)
