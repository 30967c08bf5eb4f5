"""Exact answers from a Bayesian network: marginals and joints given evidence.

Evidence says of every variable which states are possible, from `lowest` to `highest`: one state where it was seen,
all but `absent` where a stage has begun, all where nothing is known. The variables that are still open fall into
groups that no dependence joins any more, once what was seen is given; each group is answered alone and depends on few
seen facts only, so its answers are worth keeping: most questions of a running scheduler have been asked before.

Elimination by hand, because the runtime then needs no more than numpy and is two to three times as fast as a general
library for networks of this size (docs/decisions/network-inference.md); the tests compare the two.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from hocket.beliefs.profile import Network, Variable

T = TypeVar("T")
Floats = NDArray[np.float64]
Evidence = tuple[tuple[int, int], ...]
"per variable, the lowest and the highest state that is possible"

MOST_ANSWERS = 20_000
"kept per network, the least recently used forgotten first; a few hundred bytes each"
MOST_VARIABLES = 50
"of a network that is read: numpy has 64 axes"
MOST = 1e9
"tokens, seconds or tasks"
LEAST_PROBABILITY = 1e-9
"of an entry of a table: no evidence is impossible"


class Component(NamedTuple):
    """Open variables that depend on each other, given all that was seen."""

    members: tuple[int, ...]
    tables: tuple[int, ...]
    "the tables that mention a member"
    scope: tuple[int, ...]
    "the variables of those tables: all that its answers depend on"


class Inference:
    """Answers about one network. Its cache never changes an answer."""

    def __init__(self, network: Network, most_answers: int = MOST_ANSWERS) -> None:
        """Raises ValueError, which says where, for a network that is none."""
        variables = network.variables
        _check(variables)
        places = {variable.name: index for index, variable in enumerate(variables)}
        self.names = tuple(places)
        self.states = tuple(len(variable.centres) + 1 for variable in variables)
        "of each variable, `absent` (the last) included"
        self.parents: list[tuple[int, ...]] = []
        for index, variable in enumerate(variables):
            found = tuple(places.get(name, index) for name in variable.parents)
            if any(parent >= index for parent in found) or len(set(found)) != len(found):
                raise ValueError(f"network.{variable.name}.parents: must be earlier variables; learn it again")
            self.parents.append(found)
        self._tables = [self._table(index, variable.table) for index, variable in enumerate(variables)]
        self._scopes = [(*parents, index) for index, parents in enumerate(self.parents)]
        self.unknown: Evidence = tuple((0, count - 1) for count in self.states)
        "nothing was seen"
        self._children = [[c for c, parents in enumerate(self.parents) if v in parents] for v in range(len(variables))]
        self._components: dict[tuple[bool, ...], list[Component]] = {}
        self._plans: dict[Any, list[int]] = {}
        self._answers: OrderedDict[Any, Any] = OrderedDict()
        self._most_answers = most_answers

    def _table(self, index: int, flat: Sequence[float]) -> Floats:
        """P(state | parents) with one axis for every variable of the network, of length 1 where it has no part."""
        shape = [*(self.states[parent] for parent in self.parents[index]), self.states[index]]
        if len(flat) != prod(shape) or not all(0.0 <= p <= 1.0 for p in flat):
            raise ValueError(f"network.{self.names[index]}.table: must be {shape} probabilities; learn it again")
        table = np.maximum(np.array(flat, np.float64).reshape(shape), LEAST_PROBABILITY)
        table /= table.sum(axis=-1, keepdims=True)
        axes = [*self.parents[index], index]
        full = [1] * len(self.names)
        for axis, length in zip(axes, shape, strict=True):
            full[axis] = length
        return np.ascontiguousarray(np.transpose(table, np.argsort(axes)).reshape(full))

    # ---------------------------------------------------------------- answers

    def marginals(self, evidence: Evidence) -> Floats:
        """P(state | evidence), a row a variable; rows of fewer states end in zeros."""
        rows = np.zeros((len(self.states), max(self.states, default=1)))
        for index, (lowest, highest) in enumerate(evidence):
            if lowest == highest:
                rows[index, lowest] = 1.0
        for component in self.components(evidence):
            rows[component.members, :] = self.marginals_of(component, evidence)
        return rows

    def marginals_of(self, component: Component, evidence: Evidence) -> Floats:
        """The marginals of a component's members, over all of their states, a row each.

        Bucket elimination, then back: each clique is calibrated by the one that took in its message.
        """
        tables = self._reduced(component.tables, evidence)
        up: list[tuple[int, Floats, Floats]] = []
        for variable in self._plan(tables, frozenset()):
            tables, clique = _bucket(tables, variable)
            message = clique.sum(axis=variable, keepdims=True)
            up.append((variable, clique, message))
            tables.append(message)
        rows = np.zeros((len(component.members), max(self.states)))
        places = {member: place for place, member in enumerate(component.members)}
        beliefs: list[Floats] = []
        for variable, clique, message in reversed(up):
            shared = [v for v, length in enumerate(message.shape) if length > 1]
            outer = next((b for b in reversed(beliefs) if all(b.shape[v] > 1 for v in shared)), None)
            wanted = 1.0 if outer is None or not shared else _onto(outer, shared)
            belief = clique * (wanted / message)
            beliefs.append(belief)
            lowest, highest = evidence[variable]
            rows[places[variable], lowest : highest + 1] = _onto(belief, [variable]).ravel()
        return rows

    def joint(self, wanted: Sequence[int], evidence: Evidence) -> Floats:
        """P(wanted variables | evidence), an axis each in the order given, over the states that are possible."""
        keep = frozenset(wanted)
        concerned = {t for c in self.components(evidence) if not keep.isdisjoint(c.members) for t in c.tables}
        tables = self._reduced(sorted(concerned), evidence)
        for variable in self._plan(tables, keep):
            tables, clique = _bucket(tables, variable)
            tables.append(clique.sum(axis=variable, keepdims=True))
        product: Floats = np.ones([1] * len(self.states))
        for table in tables:
            product = product * table
        axes = sorted(keep)
        joint = product.reshape([evidence[v][1] - evidence[v][0] + 1 for v in axes])
        joint = np.transpose(joint, [axes.index(v) for v in wanted])
        return np.asarray(joint / joint.sum())

    def components(self, evidence: Evidence) -> list[Component]:
        """The groups of open variables, by their first members."""
        open_ = tuple([lowest < highest for lowest, highest in evidence])
        found = self._components.get(open_)
        if found is None:
            if len(self._components) >= self._most_answers:
                self._components.clear()
            found = self._components[open_] = list(self._split(open_))
        return found

    def cached(self, question: Any, scope: Sequence[int], evidence: Evidence, answer: Callable[[], T]) -> T:
        """`answer()`, computed once for each evidence in `scope`, which must be all that it depends on."""
        key = question, *[evidence[v] for v in scope]
        answers = self._answers
        found: T | None = answers.get(key)
        if found is None:
            found = answers[key] = answer()
            if len(answers) > self._most_answers:
                answers.popitem(last=False)
        else:
            answers.move_to_end(key)
        return found

    def informed(self, variable: int) -> list[int]:
        """The variables that a directed path leads to, the nearest first (then in the network's order)."""
        found: dict[int, None] = {}
        edge = [variable]
        while edge:
            edge = sorted({child for v in edge for child in self._children[v] if child not in found})
            found.update(dict.fromkeys(edge))
        return list(found)

    # ---------------------------------------------------------------- elimination

    def _split(self, open_: tuple[bool, ...]) -> Iterable[Component]:
        left = [v for v in range(len(open_)) if open_[v]]
        while left:
            members, tables, edge = {left[0]}, set[int](), [left[0]]
            while edge:
                v = edge.pop()
                for table in (v, *self._children[v]):
                    tables.add(table)
                    for other in self._scopes[table]:
                        if open_[other] and other not in members:
                            members.add(other)
                            edge.append(other)
            left = [v for v in left if v not in members]
            scope = {v for table in tables for v in self._scopes[table]}
            yield Component(tuple(sorted(members)), tuple(sorted(tables)), tuple(sorted(scope)))

    def _reduced(self, tables: Iterable[int], evidence: Evidence) -> list[Floats]:
        """The tables, cut to the states that are possible. What was seen has an axis of length 1 then, as if absent."""
        reduced = []
        for index in tables:
            cut: list[slice] = [slice(None)] * len(self.states)
            for v in self._scopes[index]:
                cut[v] = slice(evidence[v][0], evidence[v][1] + 1)
            reduced.append(self._tables[index][tuple(cut)])
        return reduced

    def _plan(self, tables: list[Floats], keep: frozenset[int]) -> list[int]:
        """The order of elimination: next whatever needs the smallest table."""
        shapes = tuple(table.shape for table in tables)
        plan = self._plans.get((shapes, keep))
        if plan is None:
            if len(self._plans) >= self._most_answers:
                self._plans.clear()
            plan = self._plans[shapes, keep] = _plan(shapes, keep)
        return plan


def _check(variables: Sequence[Variable]) -> None:
    """Raise ValueError, which says where, for variables that no network can have."""
    names = {variable.name for variable in variables}
    if len(names) != len(variables):
        raise ValueError("network: two variables have one name; learn it again")
    if len(variables) > MOST_VARIABLES:
        raise ValueError(f"network: {len(variables)} variables, {MOST_VARIABLES} at most; learn it again")
    for variable in variables:
        if len(variable.cuts) != len(variable.centres) - 1 or any(a >= b for a, b in pairwise(variable.cuts)):
            raise ValueError(f"network.{variable.name}.cuts: must increase, one fewer than centres; learn it again")
        if (
            not all(0.0 <= size <= MOST for size in (*variable.centres, *variable.prompts))
            and variable.fact != "feature"
        ):
            raise ValueError(f"network.{variable.name}: centres and prompts must be 0 or more; learn it again")


def _bucket(tables: list[Floats], variable: int) -> tuple[list[Floats], Floats]:
    """The tables without `variable`, and the product of those with it."""
    rest = [table for table in tables if table.shape[variable] == 1]
    clique: Any = None
    for table in tables:
        if table.shape[variable] > 1:
            clique = table if clique is None else clique * table
    return rest, clique


def _onto(table: Floats, kept: list[int]) -> Floats:
    """The sum of a table onto some of its axes; the others are left with length 1."""
    axes = tuple(v for v, length in enumerate(table.shape) if length > 1 and v not in kept)
    return np.asarray(table.sum(axis=axes, keepdims=True))


def _plan(shapes: Sequence[tuple[int, ...]], keep: frozenset[int]) -> list[int]:
    scopes = [frozenset(v for v, length in enumerate(shape) if length > 1) for shape in shapes]
    length = {v: shape[v] for shape in shapes for v in range(len(shape)) if shape[v] > 1}
    left, plan = set(length) - keep, []
    while left:
        joined = {v: frozenset[int]().union(*(scope for scope in scopes if v in scope)) for v in left}
        best = min(left, key=lambda v: (prod(length[other] for other in joined[v]), v))
        scopes = [scope for scope in scopes if best not in scope] + [joined[best] - {best}]
        left.remove(best)
        plan.append(best)
    return plan
