"""The ready queue, against a list of calls that is sorted anew each time."""

from __future__ import annotations

import random
from typing import Any

import pytest

from hocket.core.ordering import Fact, Scope, View
from hocket.core.queue import ReadyQueue, check_nesting
from hocket.core.state import Application, Call, Engine, Job, Tenant
from hocket.errors import InputError
from hocket.policies import compose
from tests.core.bare import place


class Now:
    now = 0.0

    @staticmethod
    def weight(job: Job) -> float:
        return 1.0


class ByFeature:
    """A call-scope key, so that calls too can be a level's last tie."""

    name = "by-feature"
    scope = Scope.CALL
    reads: frozenset[Fact] = frozenset()

    def key(self, call: Call, view: View) -> tuple[Any, ...]:
        return (call.prompt_tokens,)


class World:
    """Tenants, applications and jobs whose facts a test may change, and the calls of a queue."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.tenants = [Tenant(f"t{n}", n, weight=n + 1.0) for n in range(4)]
        self.apps = [Application(f"a{n}", n) for n in range(4)]
        self.jobs = [
            Job(f"j{n}", n, rng.choice(self.apps), rng.choice(self.tenants), rng.randrange(5), 0.0, None, {})
            for n in range(20)
        ]
        self.made = 0

    def call(self) -> Call:
        self.made += 1
        job = self.rng.choice(self.jobs)
        urgency, engine = self.rng.randrange(3), None
        return Call(f"c{self.made}", self.made, job, "s", "m", engine, urgency, 0.0, self.rng.randrange(9), None)

    def move(self, fact: Fact) -> Job | Tenant | Application:
        """Change a fact of something, as the scheduler would."""
        rng = self.rng
        if fact is Fact.RUNNING:
            tenant = rng.choice(self.tenants)
            tenant.running, tenant.last_served = rng.randrange(4), rng.randrange(99)
            return tenant
        if fact is Fact.SIZE:
            app = rng.choice(self.apps)
            app.mean_service_s = float(rng.randrange(4))
            return app
        job = rng.choice(self.jobs)
        job.service_s += rng.randrange(3)
        return job


COMPOSITIONS = [
    "fcfs",
    "call-fcfs",
    "urgency",
    "fair",
    "las",
    "sjf",
    "urgency > las",
    "urgency > fair > las",
    "urgency > fair > sjf > las",
    "fair > sjf",
    "sjf > fcfs",
    "las > fcfs",
    "fcfs > las",
    "urgency > fair > by-feature",
    "las > by-feature",
    "fcfs > by-feature > call-fcfs",
]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("names", COMPOSITIONS)
def test_it_does_what_a_sorted_list_does(names: str, seed: int) -> None:
    """Calls come, go, are taken out first, and facts move; the first is always the smallest as of now."""
    orderings = compose(names.split(" > "), {"by-feature": ByFeature()})
    world = World(seed)
    rng = world.rng
    queue = ReadyQueue(orderings, Now)
    waiting: list[Call] = []
    for turn in range(600):
        busy = turn % 200 < 120  # fill, then empty: nodes are made, pruned and made again
        kind = rng.random()
        if kind < (0.5 if busy else 0.15):
            call = world.call()
            queue.push(call)
            waiting.append(call)
        elif kind < 0.7 and waiting:
            first = min(waiting, key=lambda call: place(orderings, call, Now))
            assert queue.first() is first
            assert queue.pop() is first
            waiting.remove(first)
            assert first.node is None and first.key is None
        elif kind < 0.8 and waiting:
            gone = waiting.pop(rng.randrange(len(waiting)))
            queue.remove(gone)
        else:
            fact = rng.choice([Fact.RUNNING, Fact.SERVICE, Fact.SIZE])
            moved = world.move(fact)
            if fact in queue.reads:
                queue.touch(moved)
        assert len(queue) == len(waiting)
    assert set(queue) == set(waiting)
    for call in waiting:
        queue.remove(call)
    assert not queue and queue.pop() is None and queue.first() is None
    assert not queue._nodes and not queue._root.children


def test_orderings_whose_keys_never_move_cost_no_level() -> None:
    """`fcfs` is one plain heap: that is why it is fast."""
    depth = {names: len(ReadyQueue(compose(names.split(" > ")), Now)._levels) for names in COMPOSITIONS[:10]}
    assert depth["fcfs"] == depth["call-fcfs"] == depth["urgency"] == 0
    assert depth["las"] == depth["fair"] == depth["sjf"] == 1
    assert (depth["urgency > las"], depth["urgency > fair > las"]) == (2, 3)


def test_a_moved_fact_re_keys_a_node_and_not_its_calls() -> None:
    """A job with a thousand parallel calls streams: one key changes, not a thousand."""

    class Counting(ByFeature):
        scope = Scope.JOB
        reads = frozenset({Fact.SERVICE})
        asked = 0

        def key(self, call: Call, view: View) -> tuple[Any, ...]:
            type(self).asked += 1
            return (call.job.service_s,)

    world = World(0)
    queue = ReadyQueue([Counting()], Now)
    job = world.jobs[0]
    for number in range(1000):
        queue.push(Call(f"c{number}", number, job, "s", "m", None, 2, 0.0, 1, None))
    asked = Counting.asked
    queue.touch(job)
    assert Counting.asked == asked + 1


@pytest.mark.parametrize(
    ("names", "fix"), [("las > fair", "fair"), ("fair > urgency", "urgency"), ("call-fcfs > las", "las")]
)
def test_scopes_nest_from_coarse_to_fine(names: str, fix: str) -> None:
    """A job's key says nothing about its tenant's: which tenant would go first?"""
    with pytest.raises(InputError, match=f"put '{fix}' first"):
        compose(names.split(" > "))
    check_nesting(compose(names.split(" > ")[::-1]))


def test_an_ordering_that_raises_leaves_the_queue_as_it_was() -> None:
    """The fallback takes over what waits: all of it, and once."""

    class Raising(ByFeature):
        scope = Scope.JOB
        reads = frozenset({Fact.SERVICE})

        def key(self, call: Call, view: View) -> tuple[Any, ...]:
            return (1 / call.prompt_tokens,)

    queue = ReadyQueue([*compose(["fair"]), Raising()], Now)
    world = World(0)
    engine: Engine = None
    calls = [
        Call(f"c{n}", n, world.jobs[n], "s", "m", engine, 2, 0.0, tokens, None) for n, tokens in enumerate([1, 0, 2])
    ]
    queue.push(calls[0])
    with pytest.raises(ZeroDivisionError):
        queue.push(calls[1])
    queue.push(calls[2])
    assert set(queue) == {calls[0], calls[2]} and len(queue) == 2
    assert {queue.pop(), queue.pop()} == {calls[0], calls[2]}
