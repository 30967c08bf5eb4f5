"""The question "where?": which replica of an engine takes the call that is next.

A routing policy keeps its own index of the replicas that have room; the core tells it when a replica changes. Picking
is O(log replicas).
"""

from __future__ import annotations

from typing import Protocol

from hocket.core.heap import KeyedHeap
from hocket.core.state import Call, Replica


class Routing(Protocol):
    """Answers: which replica?"""

    def changed(self, replica: Replica, now: float) -> None:
        """`replica` came, went, or has another number of calls in flight."""

    def pick(self, call: Call) -> Replica | None:
        """A replica with room for `call`, or None if none has."""

    @property
    def has_room(self) -> bool:
        """Whether any replica would take a call."""


class LeastLoaded:
    """The smallest inflight / window; the first listed wins ties."""

    def __init__(self) -> None:
        self._open: KeyedHeap[Replica] = KeyedHeap()

    def changed(self, replica: Replica, now: float) -> None:
        """See `Routing`."""
        if replica.has_room and replica.delayed_until <= now:
            self._open.put(replica, (replica.inflight / replica.window, replica.index))
        else:
            self._open.discard(replica)

    def pick(self, call: Call) -> Replica | None:
        """See `Routing`."""
        return self._open.first()

    @property
    def has_room(self) -> bool:
        """See `Routing`."""
        return len(self._open) > 0
