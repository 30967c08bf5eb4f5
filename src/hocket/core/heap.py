"""A heap whose items can change their key or leave: `heapq` with stale entries skipped.

A re-keyed or removed item leaves its old entry behind; entries are checked when they surface, and swept when they
outnumber the live ones. So every operation is O(log n) amortised and the comparisons stay in C, which a heap with an
index of positions written in Python cannot match.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Key = tuple[Any, ...]


class KeyedHeap(Generic[Item]):
    """Items by key, smallest first. Keys of different items must differ (end them with a number)."""

    __slots__ = ("_entries", "_keys")

    def __init__(self) -> None:
        self._entries: list[tuple[Key, Item]] = []
        #: the key under which each live item counts; an entry is stale unless it holds this very tuple
        self._keys: dict[Item, Key] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Item]:
        """Live items, in no particular order."""
        return iter(self._keys)

    def add(self, item: Item, key: Key) -> None:
        """Insert `item`, which is not in."""
        self._keys[item] = key
        heappush(self._entries, (key, item))

    def move(self, item: Item, key: Key) -> None:
        """Give `item` another key, or insert it."""
        self._keys[item] = key
        heappush(self._entries, (key, item))
        self._sweep()

    def discard(self, item: Item) -> None:
        """Take `item` out; nothing happens if it is not in."""
        self._keys.pop(item, None)
        self._sweep()

    def first(self) -> Item | None:
        """The item with the smallest key, or None."""
        entries, keys = self._entries, self._keys
        while entries:
            key, item = entries[0]
            if keys.get(item) is key:
                return item
            heappop(entries)
        return None

    def pop(self) -> Item | None:
        """Take the item with the smallest key out, or None."""
        entries, keys = self._entries, self._keys
        while entries:
            key, item = heappop(entries)
            if keys.get(item) is key:
                del keys[item]
                return item
        return None

    def _sweep(self) -> None:
        """Drop stale entries once they outnumber the live ones."""
        entries, keys = self._entries, self._keys
        if len(entries) > 2 * len(keys) + 16:
            self._entries = [entry for entry in entries if keys.get(entry[1]) is entry[0]]
            heapify(self._entries)
