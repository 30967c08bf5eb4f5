"""`hocket`: the project's own ordering of jobs. docs/reference/policies/hocket.md explains it on a page."""

from __future__ import annotations

from typing import ClassVar

from hocket.core.ordering import Fact, Scope, View
from hocket.core.state import Call
from hocket.policies.informed import BELIEF, belief_of
from hocket.policies.orderings import Key


class Hocket:
    """The job that is over first, if things go rather well for it, goes first.

    Shortest expected remaining work, the mean being over the most favourable `share` of outcomes: a job that may be
    nearly done is tried before one that surely is half-way. If it was not, the next stage tells, and it steps back.
    """

    name: ClassVar[str] = "hocket"
    scope: ClassVar[Scope] = Scope.JOB
    reads: ClassVar[frozenset[Fact]] = BELIEF

    def __init__(self, share: float = 0.6) -> None:
        """`share`: of the outcomes that count, above 0 (the best case) to 1 (the mean). Raises ValueError."""
        if not 0.0 < share <= 1.0:
            raise ValueError(f"share: {share}; use a fraction above 0 (the best case alone), up to 1 (the mean)")
        self.share = share

    def key(self, call: Call, view: View) -> Key:
        """Engine seconds that are left of the job, over its more favourable outcomes."""
        return (belief_of(call.job).hopeful_s(self.share),)
