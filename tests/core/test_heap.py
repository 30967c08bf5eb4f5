"""The heap with stale entries, against a sorted list."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hocket.core.heap import Key, KeyedHeap

OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["add", "move", "discard", "pop", "first"]), st.integers(0, 12), st.integers(0, 5))
)


class Item:
    def __init__(self, number: int) -> None:
        self.number = number
        self.key: Key | None = None


@given(OPERATIONS)
def test_it_does_what_a_sorted_list_does(operations: list[tuple[str, int, int]]) -> None:
    """Items come, change their key to and fro, leave and return, in any order."""
    heap: KeyedHeap[Item] = KeyedHeap()
    items = [Item(number) for number in range(13)]
    model: dict[int, tuple[int, int]] = {}
    for operation, number, value in operations:
        key = (value, number)
        if operation == "pop":
            taken = heap.pop()
            expected = min(model.values(), default=None)
            assert (taken and taken.number) == (expected and expected[1])
            if expected:
                del model[expected[1]]
        elif operation == "discard":
            heap.discard(items[number])
            model.pop(number, None)
        elif operation == "move" or (operation == "add" and number not in model):
            getattr(heap, operation)(items[number], key)
            model[number] = key
        first, expected = heap.first(), min(model.values(), default=None)
        assert (first and first.number) == (expected and expected[1])
        assert heap.size == len(model)
        assert sorted(item.number for item in heap) == sorted(model)
        assert all((item.key is None) == (item.number not in model) for item in items)


@pytest.mark.parametrize("leave", ["move", "discard"])
def test_stale_entries_never_outnumber_the_live_ones_for_long(leave: str) -> None:
    """One job streams for hours and is re-keyed four times a second, while nobody else moves."""
    heap: KeyedHeap[Item] = KeyedHeap()
    items = [Item(number) for number in range(10)]
    for item in items:
        heap.add(item, (0, item.number))
    for turn in range(10_000):
        if leave == "discard":
            heap.discard(items[turn % 10])
        heap.move(items[turn % 10], (turn, turn % 10))
        assert len(heap._entries) <= 2 * 10 + 17
    assert [item.number for item in _emptied(heap)] == list(range(10))


def _emptied(heap: KeyedHeap[Item]) -> Iterator[Item]:
    return iter(heap.pop, None)
