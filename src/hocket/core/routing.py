"""The question "where?": which replica of an engine takes the call that is next.

A routing policy keeps its own index of the replicas that have room; the core tells it when a replica changes, and asks
only where there is a choice. Picking is O(log replicas).
"""

from __future__ import annotations

from typing import Protocol

from hocket.core.heap import Key, KeyedHeap
from hocket.core.state import Call, Replica


class Routing(Protocol):
    """Answers: which replica?"""

    def changed(self, replica: Replica) -> None:
        """`replica` came, went, or has another number of free slots."""

    def pick(self, call: Call) -> Replica:
        """A replica with a free slot for `call`. There is one."""


class LeastLoaded:
    """The smallest inflight / window; the first listed wins ties. A retry goes to another replica if one has room."""

    def __init__(self) -> None:
        self._open: KeyedHeap[Replica] = KeyedHeap()

    def changed(self, replica: Replica) -> None:
        """See `Routing`."""
        if replica.free:
            self._open.move(replica, _load(replica))
        else:
            self._open.discard(replica)

    def pick(self, call: Call) -> Replica:
        """See `Routing`."""
        replica = self._open.first()
        assert replica is not None, "asked for a replica while none has room"
        if replica is not call.failed_on:
            return replica
        self._open.discard(replica)
        other = self._open.first()
        self._open.add(replica, _load(replica))
        return other or replica


def _load(replica: Replica) -> Key:
    return (replica.inflight / replica.window, replica.index)
