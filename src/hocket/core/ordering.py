"""The question "what next?" and the form of its answer.

An ordering returns a sort key for a waiting call; smaller goes first. Orderings compose lexicographically, coarse
scope first. What an ordering reads decides when its keys can move: the core touches a node of the ready queue only
when a fact that its orderings read has changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum, IntEnum
from typing import Any, Protocol

from hocket.core.fairclock import FairClock
from hocket.core.rng import Rng
from hocket.core.state import Call, Job


class Scope(IntEnum):
    """What shares one key: all waiting calls of one class, tenant, application or job, or a call alone."""

    CLASS = 0
    TENANT = 1
    TENANT_APP = 2
    "one application of one tenant"
    APPLICATION = 3
    JOB = 4
    CALL = 5


class Fact(Enum):
    """What may change while a call waits. Facts that never change (its arrival) are not listed."""

    __hash__ = object.__hash__  # Enum's own is written in Python, and facts are looked up at every event

    SERVICE = "a job's attained service"
    RUNNING = "a tenant's running calls"
    SHARE = "what a tenant has had of the engines, and an application of its tenant's"
    SIZE = "an application's mean size"
    SLOTS = "how many slots a job's calls hold"
    BELIEF = "what is expected of a job's rest"
    CLASS = "a job's class of urgency"
    FAIR = "when an equal sharing would be done with a job"
    BATCH = "the batch sizes of engines, in powers of two"
    OUTSIDE = "something the driver knows and reports through Scheduler.touch_job (the simulator's oracle)"


class View(Protocol):
    """What an ordering may read beside the call (and through it its job, application and tenant)."""

    @property
    def now(self) -> float:
        """Seconds on the driver's clock."""

    @property
    def rng(self) -> Rng:
        """The seeded generator of choosers. An ordering must not draw from it."""

    @property
    def slots(self) -> int:
        """Calls that all replicas together may hold now."""

    def weight(self, job: Job) -> float:
        """What a second of its waiting counts: by its class, where the composition says so (`Classes`); else 1."""

    @property
    def fair(self) -> FairClock:
        """The clock of `job.fair_finish`, as of this event. Kept where an ordering reads Fact.FAIR."""


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


class Classes(Ordering, Protocol):
    """An ordering of classes (scope CLASS) that also says what they are worth. It comes first in a composition."""

    @property
    def weights(self) -> Sequence[float]:
        """What a second of waiting counts in each class; orderings by work divide by it."""

    @property
    def within_s(self) -> float | None:
        """Seconds that a call may wait behind calls of more urgent classes; None = without end."""

    @property
    def every(self) -> int:
        """Every so many-th dispatch may go to a call that has waited so long, while more urgent ones wait."""


class Sharing(Ordering, Protocol):
    """An ordering of tenants, or of a tenant's applications, by what they have had of the engines (Fact.SHARE).

    It may lend: where several have had nearly the same, the orderings that follow say whose call goes first.
    """

    @property
    def half_life_s(self) -> float:
        """Seconds in which what was used counts half."""

    @property
    def tolerance(self) -> float:
        """How much more one may have had than the least and still go first, as a part of it."""

    def lends(self, least: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
        """Whether the call of one with the key `other` may go before that of one with the smallest, `least`."""


class Index(Protocol):
    """The jobs that wait for one engine, as the core keeps them for a chooser."""

    def first(self) -> Call:
        """The first call of the job with the smallest key."""

    def jobs(self) -> Iterable[Job]:
        """All of them, by the time since when they wait here."""

    def calls(self, job: Job) -> Iterable[Call]:
        """The calls of `job` that wait here, in no particular order."""


class Chooser(Ordering, Protocol):
    """An ordering of jobs (scope JOB) that may pick another call than its keys say: a coin, slack to lend.

    It comes last in a composition. Its keys keep the index; `pick` is asked for each dispatch.
    """

    def pick(self, index: Index, view: View, rng: Rng) -> Call:
        """The waiting call that goes next. `index` is not empty."""

    def save(self) -> Any:
        """What later picks depend on, as JSON-able data."""

    def restore(self, saved: Any) -> None:
        """What `save` gave."""
