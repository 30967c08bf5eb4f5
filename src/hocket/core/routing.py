"""The question "where?": which replica of an engine takes the call that is next.

A routing policy keeps its own index of the replicas that have room; the core tells it when a replica changes, and asks
only where there is a choice. Picking is O(log replicas).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Protocol

from hocket.core.heap import Key, KeyedHeap
from hocket.core.state import Call, Replica

SLACK = 0.25
"of its window: how much fuller than the least loaded a replica may be that holds a call's beginning"
PREFIXES = 10_000
"fingerprints that are remembered; the ones unused for longest are forgotten"
HOLDERS = 4
"replicas that are remembered for a fingerprint, the latest"


class Routing(Protocol):
    """Answers: which replica?"""

    def changed(self, replica: Replica) -> None:
        """`replica` came, went, or has another number of free slots."""

    def pick(self, call: Call) -> Replica:
        """A replica with a free slot for `call`. There is one."""

    def save(self) -> Any:
        """What later picks depend on, as JSON-able data."""

    def restore(self, state: Any, replicas: Mapping[str, Replica]) -> None:
        """Give a new routing what `save` returned; `replicas` are the engine's by id."""


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

    def save(self) -> Any:
        """See `Routing`: the loads are all."""
        return None

    def restore(self, state: Any, replicas: Mapping[str, Replica]) -> None:
        """See `Routing`."""


class Affinity(LeastLoaded):
    """Where the beginning of the prompt is in the KV cache, unless that replica is much fuller than the least loaded.

    First the replica that took the job's latest call, which holds its conversation; then the least loaded of those
    that lately took a call with the same prefix (system prompt and tools). A replica is much fuller if its load is
    SLACK above the least. A call never waits for a replica while another has room.
    """

    def __init__(self) -> None:
        super().__init__()
        #: fingerprint -> the replicas that took it, latest last; fingerprints: unused for longest first
        self._prefixes: OrderedDict[str, list[Replica]] = OrderedDict()

    def pick(self, call: Call) -> Replica:
        """See `Routing`."""
        least = super().pick(call)
        most = least.inflight / least.window + SLACK
        places = call.job.places
        last = places.get(call.engine.name)
        if last is not None and self._suits(last, call, most):
            replica = last
        else:
            holders = [r for r in self._prefixes.get(call.prefix or "", ()) if self._suits(r, call, most)]
            replica = min(holders, key=_load, default=least)
        places[call.engine.name] = replica
        if call.prefix is not None:
            self._took(call.prefix, replica)
        return replica

    @staticmethod
    def _suits(replica: Replica, call: Call, most: float) -> bool:
        return replica.free > 0 and replica is not call.failed_on and replica.inflight <= most * replica.window

    def _took(self, prefix: str, replica: Replica) -> None:
        holders = self._prefixes.get(prefix)
        if holders is None:
            self._prefixes[prefix] = [replica]
            if len(self._prefixes) > PREFIXES:
                self._prefixes.popitem(last=False)
            return
        self._prefixes.move_to_end(prefix)
        if holders[-1] is not replica:
            if replica in holders:
                holders.remove(replica)
            holders.append(replica)
            del holders[:-HOLDERS]

    def save(self) -> Any:
        """See `Routing`: fingerprints with their replicas. Where a job's calls went is saved with the job."""
        return [[prefix, [replica.id for replica in holders]] for prefix, holders in self._prefixes.items()]

    def restore(self, state: Any, replicas: Mapping[str, Replica]) -> None:
        """See `Routing`."""
        for prefix, holders in state:
            self._prefixes[prefix] = [replicas[name] for name in holders]


def _load(replica: Replica) -> Key:
    return (replica.inflight / replica.window, replica.index)
