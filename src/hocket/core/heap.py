"""A heap whose items can change their key or leave: `heapq` with stale entries skipped.

An item carries the key under which it counts. A re-keyed or removed item leaves its old entry behind; entries are
checked when they surface, and swept when they outnumber the live ones. So every operation is O(log n) amortised and the
comparisons stay in C, which a heap with an index of positions written in Python cannot match.

An empty heap has no entries: calls are not tracked by Python's collector, so a stale entry of one would keep all that
the call knows, its scheduler too, for as long as the process lives.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from typing import Any, Generic, Protocol, TypeVar

Key = tuple[Any, ...]


class Keyed(Protocol):
    """What a heap holds. An item is in one heap at most."""

    key: Key | None
    "the key under which it counts; None while it is in no heap. Only the heap writes it"


Item = TypeVar("Item", bound=Keyed)


class KeyedHeap(Generic[Item]):
    """Items by key, smallest first. Keys of different items must differ (end them with a number)."""

    __slots__ = ("_entries", "size")

    def __init__(self) -> None:
        #: an entry is stale unless its tuple is its item's `key`, that very object
        self._entries: list[tuple[Key, Item]] = []
        self.size = 0

    def __iter__(self) -> Iterator[Item]:
        """Live items, in no particular order."""
        return (item for key, item in self._entries if item.key is key)

    def add(self, item: Item, key: Key) -> None:
        """Insert `item`, which is not in."""
        item.key = key
        self.size += 1
        heappush(self._entries, (key, item))

    def move(self, item: Item, key: Key) -> None:
        """Give `item` another key, or insert it."""
        if item.key is None:
            self.size += 1
        item.key = key
        heappush(self._entries, (key, item))
        self._sweep()

    def discard(self, item: Item) -> None:
        """Take `item` out; nothing happens if it is not in."""
        if item.key is not None:
            item.key = None
            self.size -= 1
            self._sweep()
            if not self.size:
                self._entries.clear()

    def first(self) -> Item | None:
        """The item with the smallest key, or None."""
        entries = self._entries
        while entries:
            key, item = entries[0]
            if item.key is key:
                return item
            heappop(entries)
        return None

    def ordered(self) -> Iterator[Item]:
        """Live items, smallest first, while nothing changes. O(k log k) for the first k, stale entries beside them."""
        self.first()  # which drops the stale ones before it
        entries = self._entries
        ahead = [(*entry, 0) for entry in entries[:1]]
        while ahead:
            key, item, index = heappop(ahead)
            if item.key is key:
                yield item
            for child in (2 * index + 1, 2 * index + 2):
                if child < len(entries):
                    heappush(ahead, (*entries[child], child))

    def pop(self) -> Item | None:
        """Take the item with the smallest key out, or None."""
        entries = self._entries
        while entries:
            key, item = heappop(entries)
            if item.key is key:
                item.key = None
                self.size -= 1
                if not self.size:
                    entries.clear()
                return item
        return None

    def _sweep(self) -> None:
        """Drop stale entries once they outnumber the live ones."""
        if len(self._entries) > 2 * self.size + 16:
            self._entries = [entry for entry in self._entries if entry[1].key is entry[0]]
            heapify(self._entries)
