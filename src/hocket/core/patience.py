"""Ageing: a call that has waited for so long goes before the more urgent classes that came later.

The bound behind `urgency:within_s`. Each class keeps its waiting calls by arrival in a heap beside the ready queue, so
a decision looks at one head a class, whatever waits: O(log n) an event. Entries of calls that have left are skipped
when they surface and swept when they outnumber the rest, as in `hocket.core.heap`.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush

from hocket.core.state import CLASSES, Call


class Patience:
    """The calls that wait in one queue, each class by arrival; and whose turn it is."""

    __slots__ = ("_heaps", "_size", "every", "since_turn", "within_s")

    def __init__(self, within_s: float, every: int) -> None:
        """`every`: while more urgent calls wait, every so many-th dispatch may go to one that waited `within_s`."""
        self.within_s = within_s
        self.every = every
        #: dispatches since a call went first for its age
        self.since_turn = every
        self._heaps: list[list[tuple[float, int, Call]]] = [[] for _ in range(CLASSES)]
        self._size = 0

    def add(self, call: Call) -> None:
        """`call` waits."""
        heappush(self._heaps[call.urgency], (call.arrived_at, call.number, call))
        self._size += 1

    def overdue(self, first: Call, now: float) -> Call | None:
        """The call that goes instead of `first` for its age; None if it is not the turn of any.

        One of a class that is less urgent than that of `first` must have waited for too long. Then it is the turn of
        the call that arrived first of all that have, class 0 aside: who comes up for others would be passed by them.
        """
        oldest: tuple[float, int, Call] | None = None
        behind = False
        for urgency in range(1, CLASSES):
            heap = self._heaps[urgency]
            while heap and not _waits(heap[0], urgency):
                heappop(heap)
                self._size -= 1
            if heap and now - heap[0][0] >= self.within_s:
                behind = behind or urgency > first.urgency
                oldest = heap[0] if oldest is None else min(oldest, heap[0])
        if oldest is None or not behind or self.since_turn + 1 < self.every:
            self.since_turn += 1
            return None
        self.since_turn = 0
        if oldest[2] is not first:
            oldest[2].passed = first.urgency
        return oldest[2]

    def sweep(self, waiting: int) -> None:
        """Drop the entries of calls that have left, and second ones, once they outnumber the `waiting` calls.

        Where none waits, all of them: see `KeyedHeap`.
        """
        if self._size > 2 * waiting + 16 or not waiting:
            for urgency, heap in enumerate(self._heaps):
                heap[:] = {entry[1]: entry for entry in heap if _waits(entry, urgency)}.values()
                heapify(heap)
            self._size = sum(map(len, self._heaps))


def _waits(entry: tuple[float, int, Call], urgency: int) -> bool:
    """Whether the call of an entry still waits in that class. (It waits in one queue at most; see `ReadyQueue`.)"""
    call = entry[2]
    return call.replica is None and call.node is not None and call.urgency == urgency
