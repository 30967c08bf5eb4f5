"""`hocket`: the project's own ordering of jobs. docs/reference/policies/hocket.md explains it on a page."""

from __future__ import annotations

from math import isfinite
from typing import ClassVar

from hocket.core.ordering import Fact, Scope, View
from hocket.core.state import Call
from hocket.policies.informed import BELIEF, belief_of
from hocket.policies.orderings import Key


class Hocket:
    """The job that is over first, if things go rather well for it, goes first.

    Shortest remaining work, by a low quantile of what is believed: a job that may be nearly done is tried before one
    that surely is half-way. If it was not, its next stage tells, and it steps back.
    """

    name: ClassVar[str] = "hocket"
    scope: ClassVar[Scope] = Scope.JOB
    reads: ClassVar[frozenset[Fact]] = BELIEF

    def __init__(self, quantile: float = 0.3, ageing: float = 0.0) -> None:
        """`quantile`: the share of the outcomes with less work than what counts, above 0 and below 1. `ageing`: seconds
        of work that a second of age makes up for, 0 or more; large, and jobs go by arrival. Raises ValueError.
        """
        if not 0.0 < quantile < 1.0:
            raise ValueError(f"quantile: {quantile}; use a fraction above 0 (the best case) and below 1 (the worst)")
        if ageing < 0.0 or not isfinite(ageing):
            raise ValueError(f"ageing: {ageing}; use 0 (work alone counts) or more (the larger, the more age counts)")
        self.quantile = quantile
        self.ageing = ageing

    def key(self, call: Call, view: View) -> Key:
        """Engine seconds that are left of the job, in an outcome that is rather good; plus its arrival, weighed.

        All jobs age alike, so that what counts of their ages is when they arrived, and no key moves as time passes.
        """
        job = call.job
        return (belief_of(job).quantile_s(self.quantile) + self.ageing * job.arrived_at,)
