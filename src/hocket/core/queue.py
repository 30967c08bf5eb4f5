"""The ready queue of one engine: a tree of heaps, one level for each scope whose keys can move.

`urgency > fair > las` gives the levels class, tenant, job, and calls at the leaves. When a job's attained service
changes, the one node of that job is re-keyed, not its calls: O(log n) an event. Orderings at the end of the list whose
keys never move need no level of their own: they become part of the leaves' key, so `fcfs` is one plain heap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, islice, pairwise
from typing import Any

from hocket.core.heap import Key, KeyedHeap
from hocket.core.ordering import Chooser, Classes, Fact, Ordering, Scope, View
from hocket.core.patience import Patience
from hocket.core.state import Call, Job

Entity = Any
"a Tenant, Share, Application, Job, Call; or classes that wait together: their key"
Lends = Callable[[Key, Key], bool]
MOST_LENT = 8
"entities of a level that are looked at, where the first of them may lend its turn"

_ENTITY: dict[Scope, Callable[[Call], Entity]] = {
    Scope.TENANT: lambda call: call.job.tenant,
    Scope.TENANT_APP: lambda call: call.job.share,
    Scope.APPLICATION: lambda call: call.job.app,
    Scope.JOB: lambda call: call.job,
    Scope.CALL: lambda call: call,
}


class Node:
    """All waiting calls below one entity (a class, a tenant, ...) of one path through the tree."""

    __slots__ = ("call", "children", "depth", "entity", "heap", "key", "parent")

    def __init__(self, parent: Node | None, depth: int, entity: Entity, call: Call | None) -> None:
        self.parent = parent
        self.depth = depth
        self.entity = entity
        #: any call of this entity: the key of a scope is the same for all of them
        self.call = call
        self.key: Key | None = None
        self.children: dict[Entity, Node] = {}
        #: child nodes, or calls at the deepest level
        self.heap: KeyedHeap[Any] = KeyedHeap()

    def __lt__(self, other: Node) -> bool:
        """For the heap: a node's stale entry may have the key of the node that took its place; either may surface."""
        return False


class ReadyQueue:
    """Waiting calls in the order of a composition of orderings."""

    def __init__(self, orderings: Sequence[Ordering], view: View) -> None:
        check_nesting(orderings)
        self._view = view
        groups = [(scope, tuple(group)) for scope, group in groupby(orderings, key=lambda o: o.scope)]
        #: the last ordering, where it is one that may pick another call than its keys say
        self._chooser: Chooser | None = chooser_of(orderings)
        moving = [i for i, (_, group) in enumerate(groups) if any(o.reads or o is self._chooser for o in group)]
        depth = moving[-1] + 1 if moving else 0
        self._levels = groups[:depth]
        self._leaf = tuple(o for _, group in groups[depth:] for o in group)
        #: of each level: whether the first there may lend its turn, and to whom; down to the last that may
        self._lends = () if self._chooser is not None else _lending(self._levels)
        #: the usual case, made fast: one ordering keys the leaves
        self._lone_key = self._leaf[0].key if len(self._leaf) == 1 else None
        #: the facts that move keys here
        self.reads: frozenset[Fact] = frozenset().union(*(o.reads for o in orderings))
        classes = classes_of(orderings)
        #: who has waited for too long, where the orderings set a bound
        self.patience = (
            None if classes is None or classes.within_s is None else Patience(classes.within_s, classes.every)
        )
        #: whether the first call always goes next: the usual case, made fast
        self._simple = self.patience is None and self._chooser is None and not self._lends
        self._root = Node(None, 0, None, None)
        self._nodes: dict[Entity, list[Node]] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Call]:
        """All waiting calls, in no particular order."""
        stack = [self._root]
        while stack:
            node = stack.pop()
            if node.depth == len(self._levels):
                yield from node.heap
            stack.extend(node.children.values())

    def push(self, call: Call) -> None:
        """Let `call` wait. If an ordering raises, the queue is as before."""
        if self._lone_key is None:
            key = self._leaf_key(call)
        else:
            key = (*self._lone_key(call, self._view), call.job.number, call.number)
        node = self._root
        if self._levels:
            fresh = self._path(call)
            node = fresh[-1][0]
            for child, child_key in fresh:
                if child_key is not None:
                    self._attach(child, child_key)
        node.heap.add(call, key)
        call.node = node
        self._size += 1
        if self.patience is not None:
            self.patience.add(call)

    def pop(self, *, displacing: bool = False) -> Call | None:
        """Take out the call that goes next, or None. `displacing`: into a slot that one was asked to leave for it."""
        if not self._size:
            return None
        if self._simple:
            node: Any = self._root
            for _ in self._levels:
                node = node.heap.first()
            return self._popped(node)
        # a slot that one was asked to leave goes to whom it was asked for
        call = self.next() if self._lends and not displacing else self.first()
        assert call is not None, "nobody waits"
        if self.patience is not None and not displacing:
            aged = self.patience.overdue(call, self._view.now)
            if aged is not None:
                self.remove(aged)
                return aged
        if self._chooser is not None:
            return self._pick(self._chooser)
        return self._popped(call.node)

    def _popped(self, node: Any) -> Call:
        """Take out the first call of a node of the deepest level."""
        call: Call = node.heap.pop()
        call.node = None
        self._size -= 1
        if node.parent is not None and not node.heap.size:
            self._prune(node)
        if self.patience is not None:
            self.patience.sweep(self._size)
        return call

    def _pick(self, chooser: Chooser) -> Call:
        node: Any = self._root
        for _ in self._levels[:-1]:
            node = node.heap.first()
        call = chooser.pick(_Jobs(node), self._view, self._view.rng)
        self.remove(call)
        return call

    def next(self) -> Call | None:
        """What `pop` would take out, if no call has aged and no chooser picks: `first`, or whom its turn is lent to.

        Where tenants have had nearly the same, it is their jobs that are compared. O(1) where one tenant waits.
        """
        node: Any = self._root
        for lends in self._lends:
            if lends is not None and node.heap.size > 1:
                break
            node = node.heap.first()
        else:
            return self.first()
        _, call = min((self._lead(below) for below in self._lent(node)), key=lambda lead: lead[0])
        return call

    def _lent(self, node: Node) -> Iterator[Node]:
        """The nodes below the levels that lend, of which the best call goes next."""
        if node.depth == len(self._lends):
            yield node
            return
        lends, least = self._lends[node.depth], None
        for child in islice(node.heap.ordered(), 1 if lends is None else MOST_LENT):
            least = least or child.key
            if lends is not None and not lends(least, child.key):
                return
            yield from self._lent(child)

    def _lead(self, node: Any) -> tuple[list[Key], Call]:
        """The first call below `node`, behind the keys that lead there."""
        keys = []
        for _ in range(node.depth, len(self._levels)):
            node = node.heap.first()
            keys.append(node.key)
        call: Call = node.heap.first()
        keys.append(call.key)
        return keys, call

    def first(self) -> Call | None:
        """The call with the smallest key: what `pop` would take out, if none has aged, lends its turn or is picked."""
        node: Node | None = self._root
        for _ in self._levels:
            node = node.heap.first() if node is not None else None
        call: Call | None = node.heap.first() if node is not None else None
        return call

    def ordered(self) -> Iterator[Call]:
        """All of them by their keys, the first of which is `first`, while nothing changes. O(k log k) for k of them."""
        return self._ordered(self._root)

    def _ordered(self, node: Node) -> Iterator[Call]:
        below = node.heap.ordered()
        if node.depth == len(self._levels):
            yield from below
        else:
            for child in below:
                yield from self._ordered(child)

    def place(self, call: Call) -> tuple[Key, ...]:
        """Where a call of this queue stands: the keys on its path, from the top level down to its own."""
        node: Node | None = call.node
        keys = [call.key]
        while node is not None and node.key is not None:
            keys.append(node.key)
            node = node.parent
        return tuple(key for key in reversed(keys) if key is not None)

    def before(self, place: tuple[Key, ...], other: tuple[Key, ...]) -> bool:
        """Whether a call at `place` goes before one at `other`, and would if the turns there were lent, too."""
        # one tenant may have an older key in one place than in the other: who competes with nobody is not re-keyed
        same = (
            mine if scope is not Scope.CLASS and mine[-1] == theirs[-1] else theirs
            for (scope, _), mine, theirs in zip(self._levels, place, other, strict=False)
        )
        other = (*same, *other[len(self._levels) :])
        if not place < other:
            return False
        for lends, mine, theirs in zip(self._lends, place, other, strict=False):
            if mine != theirs and (lends is None or not lends(mine, theirs)):
                return True
        return place[len(self._lends) :] < other[len(self._lends) :]

    def remove(self, call: Call) -> None:
        """Take a waiting call out, wherever it stands."""
        node = call.node
        assert node is not None, "the call does not wait here"
        node.heap.discard(call)
        call.node = None
        self._size -= 1
        if not node.heap.size:
            self._prune(node)
        if self.patience is not None:
            self.patience.sweep(self._size)

    def touch(self, entity: Entity) -> None:
        """Re-key the nodes of `entity`: a fact about it has changed."""
        for node in self._nodes.get(entity, ()):
            assert node.parent is not None
            assert node.call is not None
            node.parent.heap.move(node, self._node_key(node.depth - 1, node.call, entity))

    def touch_all(self) -> None:
        """Re-key every node: a fact about an engine has changed. O(jobs that wait)."""
        for entity in list(self._nodes):
            if not isinstance(entity, tuple):  # a class stays what it is; the call that it began with may have left it
                self.touch(entity)

    def _prune(self, node: Node) -> None:
        """`node` is empty: forget it, and each node above that is empty then."""
        while node.parent is not None and not node.heap.size:
            parent = node.parent
            parent.heap.discard(node)
            del parent.children[node.entity]
            siblings = self._nodes[node.entity]
            siblings.remove(node)
            if not siblings:
                del self._nodes[node.entity]
            node = parent

    def _path(self, call: Call) -> list[tuple[Node, Key | None]]:
        """The nodes from the top level to `call`'s; with a key where the node is new and not yet attached."""
        path: list[tuple[Node, Key | None]] = []
        parent = self._root
        for depth, (scope, orderings) in enumerate(self._levels):
            if scope is Scope.CLASS:
                entity: Entity = tuple(part for o in orderings for part in o.key(call, self._view))
            else:
                entity = _ENTITY[scope](call)
            node = parent.children.get(entity)
            key = None
            if node is None:
                node = Node(parent, depth + 1, entity, call)
                key = self._node_key(depth, call, entity)
            path.append((node, key))
            parent = node
        return path

    def _attach(self, node: Node, key: Key) -> None:
        assert node.parent is not None
        node.parent.children[node.entity] = node
        node.parent.heap.add(node, key)
        self._nodes.setdefault(node.entity, []).append(node)

    def _node_key(self, level: int, call: Call, entity: Entity) -> Key:
        if isinstance(entity, tuple):
            return entity
        _, orderings = self._levels[level]
        if len(orderings) == 1:
            return (*orderings[0].key(call, self._view), entity.number)
        return (*(part for o in orderings for part in o.key(call, self._view)), entity.number)

    def _leaf_key(self, call: Call) -> Key:
        parts = (part for o in self._leaf for part in o.key(call, self._view))
        return (*parts, call.job.number, call.number)


class _Jobs:
    """A chooser's index: the jobs below one node."""

    __slots__ = ("_node",)

    def __init__(self, node: Node) -> None:
        self._node = node

    def first(self) -> Call:
        job: Any = self._node.heap.first()
        call: Call = job.heap.first()
        return call

    def jobs(self) -> Iterable[Job]:
        return self._node.children.keys()

    def calls(self, job: Job) -> Iterable[Call]:
        node = self._node.children.get(job)
        return () if node is None else node.heap


def _lending(levels: Sequence[tuple[Scope, tuple[Ordering, ...]]]) -> tuple[Lends | None, ...]:
    """What the first of each level lends by, down to the last level where it does."""
    lends = [getattr(group[0], "lends", None) if len(group) == 1 else None for _, group in levels]
    while lends and lends[-1] is None:
        lends.pop()
    return tuple(lends)


def chooser_of(orderings: Sequence[Ordering]) -> Chooser | None:
    """The chooser of a composition; it is its last part."""
    last: Any = orderings[-1] if orderings else None
    return last if hasattr(last, "pick") else None


def classes_of(orderings: Sequence[Ordering]) -> Classes | None:
    """The ordering of a composition that says what classes are worth; it is its first part."""
    first: Any = orderings[0] if orderings else None
    return first if hasattr(first, "within_s") else None


def check_nesting(orderings: Sequence[Ordering]) -> None:
    """Raise ValueError unless scopes go from coarse to fine."""
    for before, after in pairwise(orderings):
        if after.scope < before.scope:
            raise ValueError(
                f"'{after.name}' ({after.scope.name.lower()}) cannot follow '{before.name}' "
                f"({before.scope.name.lower()}): scopes nest from coarse to fine; put '{after.name}' first"
            )
        if hasattr(before, "pick"):
            raise ValueError(f"'{after.name}' cannot follow '{before.name}', which picks calls itself: put it last")
