"""The orderings that know only what has happened: one small object each, with a sort key for each waiting call.

An ordering has a `scope`, the facts it `reads`, and `key(call, view)`; smaller goes first. Ties end in the job's
arrival number, then the call's. A page about each is in docs/reference/policies. What reads beliefs is in `informed`.
"""

from __future__ import annotations

from math import frexp
from typing import Any, ClassVar

from hocket.core.ordering import Fact, Scope, View
from hocket.core.state import Call

Key = tuple[Any, ...]
NOTHING: frozenset[Fact] = frozenset()


class Fcfs:
    """First come, first served, by job: an early job's late calls go before a late job's early calls."""

    name: ClassVar[str] = "fcfs"
    scope: ClassVar[Scope] = Scope.JOB
    reads: ClassVar[frozenset[Fact]] = NOTHING

    def key(self, call: Call, view: View) -> Key:
        """The job's arrival number."""
        return (call.job.number,)


class CallFcfs:
    """First come, first served, by call: what gateways and engines do that see lone requests."""

    name: ClassVar[str] = "call-fcfs"
    scope: ClassVar[Scope] = Scope.CALL
    reads: ClassVar[frozenset[Fact]] = NOTHING

    def key(self, call: Call, view: View) -> Key:
        """The call's arrival number."""
        return (call.number,)


class Fair:
    """The tenant with the least running share first, in calls per weight, over all engines."""

    name: ClassVar[str] = "fair"
    scope: ClassVar[Scope] = Scope.TENANT
    reads: ClassVar[frozenset[Fact]] = frozenset({Fact.RUNNING})

    def key(self, call: Call, view: View) -> Key:
        """Running calls over weight; among equals the tenant that was served longest ago."""
        tenant = call.job.tenant
        return (tenant.running / tenant.weight, tenant.last_served)


class FairJobs:
    """The job with the fewest calls in slots first: each gets as many, like tasks under Spark's fair scheduler."""

    name: ClassVar[str] = "fair-jobs"
    scope: ClassVar[Scope] = Scope.JOB
    reads: ClassVar[frozenset[Fact]] = frozenset({Fact.SLOTS})

    def key(self, call: Call, view: View) -> Key:
        """Running calls; among equals the job that was served longest ago, or never."""
        return (call.job.running, call.job.last_served)


class Las:
    """The job with the least attained service first (slot-seconds so far): new and small jobs overtake.

    Knows nothing of the future and is close to shortest-first where sizes are heavy-tailed: Nuyens and Wierman, "The
    Foreground-Background queue: a survey" (2008); for LLM programs Autellix's PLAS (arXiv 2502.13965).
    """

    name: ClassVar[str] = "las"
    scope: ClassVar[Scope] = Scope.JOB
    reads: ClassVar[frozenset[Fact]] = frozenset({Fact.SERVICE, Fact.CLASS})

    def key(self, call: Call, view: View) -> Key:
        """The job's attained service, over the weight of its class."""
        return (call.job.service_s / view.weight(call.job),)


class Plas:
    """Least attained service by levels: 0 to 1 s, to 2, to 4, ...; inside a level the job that arrived first.

    Program-level attained service, a multi-level feedback queue of programs (Autellix, arXiv 2502.13965).
    """

    name: ClassVar[str] = "plas"
    scope: ClassVar[Scope] = Scope.JOB
    reads: ClassVar[frozenset[Fact]] = frozenset({Fact.SERVICE})

    def key(self, call: Call, view: View) -> Key:
        """The level of the job's attained service."""
        return (level(call.job.service_s),)


class Atlas:
    """As `plas`, with the service along the longest chain of the job's calls; inside a level the call that came first.

    So a job that fans out is not held to be big for its width. Adaptive thread-level attained service (Autellix, arXiv
    2502.13965): a call keeps the place that its job's chain had when it arrived.
    """

    name: ClassVar[str] = "atlas"
    scope: ClassVar[Scope] = Scope.CALL
    reads: ClassVar[frozenset[Fact]] = NOTHING

    def key(self, call: Call, view: View) -> Key:
        """The level of the chain that led to the call; then the call's arrival number."""
        return (level(call.path_s), call.number)


def level(service_s: float) -> int:
    """The queue of a multi-level feedback queue: 0 below a second of service, and one more each time it doubles."""
    return max(0, frexp(service_s)[1])


class Sjf:
    """The application whose closed jobs were smallest on average first; jobs of one application by arrival.

    An application of which no job has closed counts as 0: it goes first, and so becomes known.
    """

    name: ClassVar[str] = "sjf"
    scope: ClassVar[Scope] = Scope.APPLICATION
    reads: ClassVar[frozenset[Fact]] = frozenset({Fact.SIZE})

    def key(self, call: Call, view: View) -> Key:
        """The application's mean attained service of a closed job."""
        return (call.job.app.mean_service_s,)
