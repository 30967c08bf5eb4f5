"""`hocket`: the project's own ordering of jobs. docs/reference/policies/hocket.md explains it on a page."""

from __future__ import annotations

from math import isfinite
from typing import ClassVar

from hocket.core.ordering import Fact, Scope, View
from hocket.core.state import Call
from hocket.policies.informed import WEIGHED, belief_of
from hocket.policies.orderings import Key


class Hocket:
    """The job that costs least for the chance to be done with it goes first, as far as jobs tell of themselves.

    The Gittins rank holds for jobs that tell nothing until they end; jobs of stages tell with each stage. So the rank
    is half of that, and half of what it would be if the calls that are open now told all.
    """

    name: ClassVar[str] = "hocket"
    scope: ClassVar[Scope] = Scope.JOB
    reads: ClassVar[frozenset[Fact]] = WEIGHED

    def __init__(self, told: float = 0.5, ageing: float = 0.0) -> None:
        """`told`: how much open calls are taken to tell, 0 (nothing: the Gittins rank) to 1 (all). `ageing`: seconds of
        work that a second of age makes up for, 0 or more; large, and jobs go by arrival. Raises ValueError.
        """
        if not 0.0 <= told <= 1.0:
            raise ValueError(f"told: {told}; use 0 (open calls tell nothing) to 1 (they tell all)")
        if ageing < 0.0 or not isfinite(ageing):
            raise ValueError(f"ageing: {ageing}; use 0 (work alone counts) or more (the larger, the more age counts)")
        self.told = told
        self.ageing = ageing

    def key(self, call: Call, view: View) -> Key:
        """The job's rank in engine seconds, over the weight of its class, plus its arrival, weighed.

        All jobs age alike, so what counts of their ages is when they arrived, and no key moves as time passes.
        """
        job = call.job
        return (belief_of(job).rank_s(self.told) / view.weight(job) + self.ageing * job.arrived_at,)
