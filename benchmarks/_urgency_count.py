"""How many keys are compared for an event, with n calls waiting.

Every heap of the core is made to hold entries that count when they are compared: the ready queue's, whatever its
orderings, the clock's of waits, the timers'. Nothing else of the core compares keys. The events go through
`Scheduler.handle`, as a driver's do.
"""

from __future__ import annotations

import gc
import heapq
import math
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from hocket.assembly import build
from hocket.core import events as ev
from hocket.core.commands import Dispatch
from hocket.core.ordering import Ordering
from hocket.core.scheduler import Scheduler
from hocket.core.spec import EngineSpec, SchedulerSpec
from hocket.policies import parse_policy
from hocket.sim.oracle import Oracle

EVENTS = ("arrival", "class change", "eviction", "decision")


class Row(NamedTuple):
    """What `calls` waiting calls cost: comparisons an event, the mean over all events of a kind."""

    policy: str
    calls: int
    mean: dict[str, float]
    "kind of event -> comparisons"
    sorting: float
    "all arrivals and all decisions, over the least that any algorithm needs to sort as many calls"


class _Entry(tuple):  # type: ignore[type-arg]
    """An entry of a heap; counts how often two are compared."""

    __slots__ = ()
    compared = 0

    def __lt__(self, other: Any) -> bool:
        _Entry.compared += 1
        return tuple.__lt__(self, other)


class _Idle(list):  # type: ignore[type-arg]
    """The entry of a job that may be idle, which the job knows too; counts with the others."""

    __slots__ = ()

    def __lt__(self, other: Any) -> bool:
        _Entry.compared += 1
        return list.__lt__(self, other)


class _At(float):
    """A time in a heap of times; counts with the others."""

    def __lt__(self, other: Any) -> bool:
        _Entry.compared += 1
        return float.__lt__(self, other)


def _counted(entry: Any) -> Any:
    if isinstance(entry, list):
        idle = _Idle(entry)
        if idle[2] is not None:
            idle[2].entry = idle
        return idle
    return _Entry(entry) if isinstance(entry, tuple) else _At(entry)


def _push(heap: list[Any], entry: Any) -> None:
    heapq.heappush(heap, _counted(entry))


def _heapify(heap: list[Any]) -> None:
    heap[:] = map(_counted, heap)
    heapq.heapify(heap)


@contextmanager
def counting() -> Iterator[None]:
    """While this lasts, all heaps of the core count. (heappop compares entries that are in: they count already.)"""
    ours: dict[str, Callable[..., Any]] = {"heappush": _push, "heapify": _heapify}
    modules = [module for name, module in sorted(sys.modules.items()) if name.startswith("hocket.core.")]
    changed = [(module, name) for module in modules for name in ours if hasattr(module, name)]
    theirs = [getattr(module, name) for module, name in changed]
    for module, name in changed:
        setattr(module, name, ours[name])
    try:
        yield
    finally:
        for (module, name), function in zip(changed, theirs, strict=True):
            setattr(module, name, function)


def count(policy: str, calls: int, seed: int = 1) -> Row:
    """Let `calls` jobs of one call each come; move each into another class; take half out, dispatch the others."""
    with counting():
        return _Story(policy, calls, seed).row()


class _Story:
    """What happens to one engine of one slot."""

    def __init__(self, policy: str, calls: int, seed: int) -> None:
        self.policy, self.calls = policy, calls
        self.rng = random.Random(seed)
        self.oracle = Oracle() if "oracle" in parse_policy(policy) else None
        extra: dict[str, Ordering] | None = {"oracle": self.oracle} if self.oracle else None
        spec = SchedulerSpec([EngineSpec("e", ["m"])], policy=parse_policy(policy), job_idle_s=1e15)
        self.scheduler: Scheduler = build(spec, extra)
        self.handle = self.scheduler.handle
        self.handle(ev.ReplicaAdded(0.0, "e", "r", 1))
        self.running = ""
        self.arrive(0)  # it takes the slot: all others wait
        self.spent: dict[str, list[int]] = {event: [] for event in EVENTS}

    def row(self) -> Row:
        names = list(range(1, self.calls + 1))
        self._each("arrival", names, self.arrive)
        self._each("class change", names, self.change)
        self.rng.shuffle(names)
        self._each("eviction", names[: self.calls // 2], lambda n: self.handle(ev.CallCancelled(2.0, f"{n}")))
        self._each("decision", names[self.calls // 2 :], lambda _: self.decide())
        mean = {event: sum(spent) / len(spent) for event, spent in self.spent.items()}
        least = math.lgamma(self.calls + 1) / math.log(2) / self.calls
        return Row(self.policy, self.calls, mean, (mean["arrival"] + mean["decision"]) / least)

    def _each(self, event: str, names: list[int], happen: Callable[[int], object]) -> None:
        spent = self.spent[event]
        gc.collect()
        gc.freeze()  # a million calls, looked through again and again, would be most of the time
        for name in names:
            before = _Entry.compared
            happen(name)
            spent.append(_Entry.compared - before)

    def arrive(self, number: int) -> None:
        job, tokens = f"j{number}", self.rng.randrange(1, 10_000)
        if self.oracle is not None:
            self.oracle.report(job, tokens)
        self.handle(ev.JobOpened(0.0, job, "app", urgency=self.rng.randrange(5)))
        arrived = ev.CallArrived(0.0, f"{number}", job, "s", "m", 100, hint_output_tokens=tokens)
        self._dispatched(self.handle(arrived))

    def change(self, number: int) -> None:
        self.handle(ev.CallRevised(1.0, f"{number}", urgency=self.rng.randrange(5)))

    def decide(self) -> None:
        """The slot becomes free: which call is next? The job that ended is not learned from: that is no decision."""
        self._dispatched(self.handle(ev.CallCancelled(3.0, self.running)))

    def _dispatched(self, commands: list[Any]) -> None:
        self.running = next((c.call for c in commands if type(c) is Dispatch), self.running)
