"""The question "what next?" and the form of its answer.

An ordering returns a sort key for a waiting call; smaller goes first. Orderings compose lexicographically, coarse
scope first. What an ordering reads decides when its keys can move: the core touches a node of the ready queue only
when a fact that its orderings read has changed.
"""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import Any, Protocol

from hocket.core.state import Call


class Scope(IntEnum):
    """What shares one key: all waiting calls of one class, tenant, application or job, or a call alone."""

    CLASS = 0
    TENANT = 1
    APPLICATION = 2
    JOB = 3
    CALL = 4


class Fact(Enum):
    """What may change while a call waits. Facts that never change (arrival, urgency) are not listed."""

    SERVICE = "a job's attained service"
    RUNNING = "a tenant's running calls"
    SIZE = "an application's mean size"
    OUTSIDE = "something the driver knows and reports through Scheduler.touch_job (the simulator's oracle)"


class View(Protocol):
    """What an ordering may read beside the call (and through it its job, application and tenant)."""

    @property
    def now(self) -> float:
        """Seconds on the driver's clock."""


class Ordering(Protocol):
    """Answers: which waiting call goes to a free engine slot?"""

    @property
    def name(self) -> str:
        """Its name in the catalog."""

    @property
    def scope(self) -> Scope:
        """The coarsest thing whose calls all have the same key."""

    @property
    def reads(self) -> frozenset[Fact]:
        """The facts that can move a key while its calls wait; empty = a key never moves."""

    def key(self, call: Call, view: View) -> tuple[Any, ...]:
        """The sort key; smaller goes first.

        Ties end in the number of what shares the key, if keys of its scope can move (a tenant's or an application's:
        first seen, first served); then in the job's arrival number; then in the call's.
        """
