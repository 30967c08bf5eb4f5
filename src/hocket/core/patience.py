"""Ageing: a call that has waited for so long goes before the more urgent classes that came later.

The bound behind `urgency:within_s`. Each class keeps its waiting calls by arrival in a heap beside the ready queue, so
a decision looks at one head a class, whatever waits: O(log n) an event. Entries of calls that have left are skipped
when they surface and swept when they outnumber the rest, as in `hocket.core.heap`.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush

from hocket.core.state import CLASSES, Call

TURN = 4
"while class 0 waits, at most every so many-th dispatch goes to a call that has waited for too long"


class Patience:
    """The calls that wait in one queue, each class by arrival; and whose turn it is."""

    __slots__ = ("_heaps", "_size", "since_turn", "within_s")

    def __init__(self, within_s: float) -> None:
        self.within_s = within_s
        #: dispatches since a call went first for its age
        self.since_turn = TURN
        self._heaps: list[list[tuple[float, int, Call]]] = [[] for _ in range(CLASSES)]
        self._size = 0

    def add(self, call: Call) -> None:
        """`call` waits."""
        heappush(self._heaps[call.urgency], (call.arrived_at, call.number, call))
        self._size += 1

    def overdue(self, first: Call, now: float) -> Call | None:
        """The call that goes instead of `first`, whose class is more urgent; None if none has waited for too long.

        Of several, the one that arrived first. Against class 0 it has to be a call's turn.
        """
        oldest: tuple[float, int, Call] | None = None
        for urgency in range(first.urgency + 1, CLASSES):
            heap = self._heaps[urgency]
            while heap and not _waits(heap[0], urgency):
                heappop(heap)
                self._size -= 1
            if heap and now - heap[0][0] >= self.within_s and (oldest is None or heap[0] < oldest):
                oldest = heap[0]
        if oldest is None or (first.urgency == 0 and self.since_turn + 1 < TURN):
            self.since_turn += 1
            return None
        self.since_turn = 0
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
