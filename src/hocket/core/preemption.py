"""Preemption: a waiting call takes the slot of a running one, where that pays.

Pure, like all of the core: it says which call is to leave; a driver takes it off and says so (`CallPreempted`), and the
call waits again. docs/concepts/preemption.md tells what it pays and costs, docs/decisions/preemption.md why so.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from math import inf
from typing import Any

from hocket.core.heap import Key
from hocket.core.ordering import Fact, Ordering, View
from hocket.core.queue import Entity, ReadyQueue, chooser_of
from hocket.core.spec import EngineSpec, PreemptionSpec
from hocket.core.state import Call, CallState

MEMORY = 64
"ends after which what was seen of slot times counts a third"


class _Largest(tuple[Any, ...]):
    """A key that sorts the other way round, in a heap whose smallest goes first."""

    __slots__ = ()

    def __lt__(self, other: tuple[Any, ...]) -> bool:
        return tuple.__gt__(self, other)


class Holders(ReadyQueue):
    """The calls in the slots of one engine that may be displaced, in the reverse of the order in which they wait.

    Re-keyed as a ready queue is: O(log n) an event. A call is in it from its dispatch until it leaves its slot or is
    asked to, unless it has been displaced as often as allowed, or its answer has begun and cannot be continued.
    """

    def __init__(
        self,
        spec: PreemptionSpec,
        engine: EngineSpec,
        orderings: Sequence[Ordering],
        view: View,
        before: Holders | None = None,
    ) -> None:
        """`before`: what these take the place of; what it has seen stays known."""
        super().__init__(orderings, view)
        self.patience = None  # it is no matter here who has waited
        self._lone_key = None
        self._spec, self._engine = spec, engine
        #: calls that were asked to leave, and are still in their slots
        self.leaving = 0
        #: slot-seconds, and calls that have ended in them, both fading
        self.held_s: float = 0.0 if before is None else before.held_s
        self.ends: float = 0.0 if before is None else before.ends

    # ---------------------------------------------------------------- who may be displaced

    def entered(self, call: Call) -> None:
        """`call` got a slot."""
        if call.leaving:
            self.leaving += 1
        elif call.node is None and self.may_leave(call):
            self.push(call)

    def may_leave(self, call: Call) -> bool:
        """Whether `call`, in a slot, could be asked to leave it."""
        begun = call.tokens > 0 and not call.resumable
        return not (begun or call.leaving or call.preempted >= self._spec.at_most)

    def streamed(self, call: Call) -> None:
        """`call`, in a slot, has made tokens: if its answer cannot be continued, it stays, also if it was to leave."""
        if not call.resumable:
            self._withdraw(call)

    def left(self, call: Call, now: float) -> None:
        """`call` is in its slot no longer."""
        self.held_s += now - call.sent_at
        if not call.leaving:
            fading = 1.0 - 1.0 / MEMORY
            self.held_s, self.ends = fading * self.held_s, fading * self.ends + 1.0
        self._withdraw(call)

    def moved(self, call: Call) -> None:
        """The class of `call`, in a slot, has changed."""
        if call.node is not None:
            self.remove(call)
            self.push(call)

    def _withdraw(self, call: Call) -> None:
        if call.leaving:
            call.leaving = False
            self.leaving -= 1
        elif call.node is not None:
            self.remove(call)

    # ---------------------------------------------------------------- who is

    def displace(self, queue: ReadyQueue, weights: Sequence[float], now: float) -> Call | None:
        """The call that is to leave now, because one that waits in `queue` gains more by it than is lost; or None.

        The first calls of `queue` will get the slots of those that are leaving, so it is about the one after them.
        """
        victim = self.first()
        waiter = queue.first() if not self.leaving else next(islice(queue.ordered(), self.leaving, None), None)
        if victim is None or waiter is None:
            return None
        if not yields(victim, waiter):
            victim = next((call for call in self.ordered() if yields(call, waiter)), None)
        if victim is None or not self._goes_before(waiter, victim, queue):
            return None
        lost_s = self._lost_s(victim, now)
        if lost_s * weights[victim.urgency] >= self._saved_s(victim) * weights[waiter.urgency]:
            return None
        self.remove(victim)
        victim.leaving = True
        self.leaving += 1
        return victim

    def _goes_before(self, waiter: Call, victim: Call, queue: ReadyQueue) -> bool:
        """Whether `waiter` would go first if both waited, and may displace `victim`."""
        if self._spec.across == "class" and waiter.urgency >= victim.urgency:
            return False
        return queue.before(queue.place(waiter), self.place(victim))

    def _saved_s(self, victim: Call) -> float:
        """Expected seconds until a slot frees by itself: the mean slot time over the slots that are held.

        Without an end so far, nothing is known, and a slot is taken to free never.
        """
        if not self.ends:
            return inf
        held = sum(replica.inflight for replica in victim.engine.replicas.values()) - self.leaving
        return self.held_s / self.ends / max(held, 1)

    def _lost_s(self, victim: Call, now: float) -> float:
        """Expected seconds of work that its engine must do again when `victim` goes on."""
        if victim.state is CallState.DISPATCHED:
            return 0.0  # it has not begun
        so_far_s = now - victim.sent_at
        if not victim.resumable:
            return so_far_s
        held, engine = victim.prompt_tokens + victim.tokens, self._engine
        swap_s = inf if engine.swap_s_per_token is None else engine.swap_s_per_token * held
        again_s = so_far_s if engine.latency is None else engine.latency.prefill(held)
        return min(swap_s, again_s)

    # ---------------------------------------------------------------- keys

    def place(self, call: Call) -> tuple[Key, ...]:
        return tuple(tuple(key) for key in super().place(call))

    def _leaf_key(self, call: Call) -> Key:
        return _Largest(super()._leaf_key(call))

    def _node_key(self, level: int, call: Call, entity: Entity) -> Key:
        return _Largest(super()._node_key(level, call, entity))


def yields(call: Call, waiter: Call) -> bool:
    """Whether the slot of `call` can be had for `waiter`.

    Not if it went before the waiter's class for its age, or it would have aged for nothing; but an emergency that came
    later did not wait then. Nor if its replica takes no other in its place, because it holds more than it may.
    """
    replica = call.replica
    assert replica is not None, "the call is in no slot"
    before = waiter.urgency < call.passed or (waiter.urgency == 0 and waiter.arrived_at > call.sent_at)
    return before and replica.inflight <= replica.limit


def check_preemption(spec: PreemptionSpec, orderings: Sequence[Ordering]) -> None:
    """Raise ValueError where keys do not say who is to be displaced: each dispatch moves them, or a coin decides."""
    if spec.across != "key":
        return
    turns = [o.name for o in orderings if not o.reads.isdisjoint((Fact.RUNNING, Fact.SLOTS))]
    chooser = chooser_of(orderings)
    for name in turns if chooser is None else [chooser.name]:
        raise ValueError(
            f"preemption across keys: '{name}' gives turns, or picks calls itself, so its keys do not say who is to be "
            "displaced; use across: class, or another policy"
        )
