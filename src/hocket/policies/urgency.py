"""`urgency`: which class goes first. docs/concepts/urgency.md tells the whole story."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import ClassVar

from hocket.core.ordering import Fact, Scope, View
from hocket.core.state import CLASSES, Call
from hocket.policies.orderings import NOTHING, Key


class Urgency:
    """The more urgent class first: 0 (emergency) ... 4 (background), each boundary strict or a matter of weight.

    Classes without a strict boundary between them wait together, and what orders jobs by their work counts a second of
    the more urgent one more. Five strict classes are those of Semantic Scheduling (arXiv 2506.12204).
    """

    name: ClassVar[str] = "urgency"
    scope: ClassVar[Scope] = Scope.CLASS
    reads: ClassVar[frozenset[Fact]] = NOTHING

    def __init__(
        self,
        strict: float | Sequence[float] = (0, 1, 2, 3),
        ratio: float = 2.0,
        within_s: float | None = None,
        every: float = 4,
    ) -> None:
        """`strict`: the classes that always go before the next one. `ratio`: how many times as much a class weighs as
        the next, 1 or more. `within_s`: seconds that a call may wait behind more urgent classes; None = without end.
        `every`: while they wait, every so many-th dispatch goes to calls that have waited so long. Raises ValueError.
        """
        after = {strict} if isinstance(strict, (int, float)) else set(strict)
        if not after <= set(range(CLASSES - 1)):
            raise ValueError(f"strict: {strict}; list classes of 0 to {CLASSES - 2}, each strictly before the next one")
        if not 1.0 <= ratio <= 1e6:
            raise ValueError(f"ratio: {ratio}; use 1 (classes weigh the same) to 1e6")
        if within_s is not None and not (within_s > 0.0 and isfinite(within_s)):
            raise ValueError(f"within_s: {within_s}; use seconds above 0, or leave it out to let classes wait")
        if not (isfinite(every) and every >= 1 and every == int(every)):
            raise ValueError(f"every: {every}; use 1 (calls that have waited go first), or a larger whole number")
        self.every = int(every)
        self.weights = tuple(ratio ** (CLASSES - 1 - urgency) for urgency in range(CLASSES))
        self.within_s = within_s
        self._group = tuple(sum(boundary < urgency for boundary in after) for urgency in range(CLASSES))

    def key(self, call: Call, view: View) -> Key:
        """The number of strict boundaries above the call's class."""
        return (self._group[call.urgency],)
