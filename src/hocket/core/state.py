"""The nouns of the core: tenants, applications, jobs, calls, engines and their replicas.

Records without methods that change them: only the scheduler writes. Drivers and policies read. They compare
by identity. Slotted classes, because most are written more often than made; a `Call` is a msgspec struct, which is made
six times faster and written half as fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import msgspec

from hocket.core.accounts import Account, Load, Seat

if TYPE_CHECKING:
    from hocket.core.belief import Belief
    from hocket.core.budget import Budget
    from hocket.core.preemption import Holders
    from hocket.core.queue import Node, ReadyQueue
    from hocket.core.routing import Routing
    from hocket.core.shares import Share
    from hocket.core.windows import WindowSearch


CLASSES = 5
"classes of urgency: 0 (emergency) ... 4 (background), lower is sooner"


class CallState(StrEnum):
    """Where a call is. A call that has ended is nowhere: the core forgets it."""

    QUEUED = "queued"
    DISPATCHED = "dispatched"
    RUNNING = "running"


@dataclass(slots=True, eq=False, repr=False)
class Tenant:
    """Who pays, and who must not be starved."""

    name: str
    number: int
    weight: float = 1.0
    running: int = 0
    "calls in a slot, over all engines"
    last_served: int = 0
    "number of the latest dispatch to it; 0 = never served"
    budget: Budget | None = None
    "of urgent work; None = without end"
    account: Account | None = None
    "what it has in hand against its limits; None = it has none"


@dataclass(slots=True, eq=False, repr=False)
class Application:
    """A kind of work, and what its closed jobs have taught."""

    name: str
    number: int
    jobs_closed: int = 0
    mean_service_s: float = 0.0
    "mean attained service of its closed jobs, in slot-seconds; 0 = none closed yet"
    mean_calls: dict[str, float] = field(default_factory=dict)
    "engine -> calls of such a job there, on average"


@dataclass(slots=True, eq=False, repr=False)
class Job:
    """One run of an application."""

    id: str
    number: int
    "arrival number: unique, increasing"
    app: Application
    tenant: Tenant
    urgency: int
    "its class, which its calls inherit: that of its most urgent request, or the next while its tenant is over budget"
    arrived_at: float
    deadline_at: float | None
    features: dict[str, float]
    claimed: int = 0
    "the class that its requests claim; set when it is opened"
    service_s: float = 0.0
    "attained service: seconds that its calls have held slots, summed over calls and engines"
    path_s: float = 0.0
    "attained service along the longest chain of its calls, each of which arrived when the one before had ended"
    waiting: int = 0
    "calls that are queued"
    running: int = 0
    "calls in a slot"
    last_served: int = 0
    "number of the latest dispatch of one of its calls, counted where an ordering gives turns; 0 = never served"
    fair_finish: float | None = None
    "virtual seconds at which an equal sharing would be done with it (FairClock); None where no ordering asks"
    share: Share | None = None
    "what its slots are charged to: its tenant's, or its application's there; None where no ordering asks"
    belief: Belief | None = None
    "what is expected of its rest; None where no ordering asks"
    closed: bool = False
    "no further call will come; the core forgets the job when its last open call ends"
    aborted: bool = False
    "it was cut short: nothing is learned from its size"
    gone: bool = False
    "the core has forgotten it"
    admitted: bool = False
    "one of its calls was let in: overload refuses none of the later ones"
    started: bool = False
    "one of its calls got a slot"
    late: bool = False
    "it was found unable to meet its deadline, and is of the last class for that, whatever its requests claim"
    seen: dict[str, int] = field(default_factory=dict)
    "engine -> calls of it that have come"
    expected: dict[str, float] = field(default_factory=dict)
    "engine -> calls that are still to come, as is usual of its application"
    seats: Sequence[Seat] = ()
    "its places among the jobs that may be sent away again; none once it has started"
    heard_at: float = 0.0
    "latest event about it, calls in slots aside"
    entry: list[Any] | None = None
    "its place among the jobs that may be idle (IdleJobs); set when it is opened"
    calls: dict[str, Call] = field(default_factory=dict)
    "open calls by id"
    tools: dict[str, str] = field(default_factory=dict)
    "open tool runs: id -> name"
    places: dict[str, Replica] = field(default_factory=dict)
    "engine -> the replica that took its latest call; kept by a routing that asks for it"

    @property
    def open_calls(self) -> int:
        """Calls that are queued or in a slot."""
        return len(self.calls)

    @property
    def open_tools(self) -> int:
        """Tool runs that have not ended."""
        return len(self.tools)


class Call(msgspec.Struct, eq=False, gc=False):
    """One LLM request of one stage of one job. (`gc=False`: an ended call is in no cycle, and there are many.)"""

    id: str
    number: int
    "arrival number: unique, increasing; kept over retries"
    job: Job
    stage: str
    model: str
    "what its client asked for"
    engine: Engine
    urgency: int
    "its job's class, or a less urgent one of its own"
    arrived_at: float
    prompt_tokens: int
    max_tokens: int | None
    parent: str | None = None
    "the stage that caused it, where the application said so"
    hint_output_tokens: int | None = None
    "what a length predictor says, where there is one"
    prefix: str | None = None
    "fingerprint of what its prompt begins with; None = not known"
    path_s: float = 0.0
    "the job's `path_s` when it arrived"
    own_class: bool = False
    "whether it has a class of its own, which does not move with its job's"
    state: CallState = CallState.QUEUED
    replica: Replica | None = None
    "None while queued"
    node: Node | None = None
    "its place in the ready queue; while in a slot among those that may be displaced, or None"
    key: tuple[Any, ...] | None = None
    "its key there"
    attempts: int = 0
    "dispatches so far"
    delays: int = 0
    "times that a replica answered 429"
    failed_on: Replica | None = None
    "the replica that failed it last: a retry goes elsewhere if it can"
    sent_at: float = 0.0
    "when it was dispatched last"
    resumable: bool = False
    "whether a part of its answer can be continued"
    tokens: int = 0
    "of its answer, as last heard; above 0 once its first byte is out"
    kept_tokens: int = 0
    "of these, how many were made before it was displaced last"
    preempted: int = 0
    "times that it was displaced"
    passed: int = CLASSES
    "the class before which it got its slot for its age: calls of that class and of less urgent ones do not displace it"
    leaving: bool = False
    "whether it was asked to leave its slot, and still is in it"
    charged_at: float = 0.0
    "until when its slot time has been added to the job's service"
    queued_at: float = 0.0
    "since when it waits, or waited last"
    size: int = 0
    "bytes of its request, which its driver holds while it is open"

    @property
    def demoted(self) -> bool:
        """Whether its tenant's budget of urgent work has put it into the class after the one that was claimed."""
        return not self.own_class and self.urgency > self.job.claimed


@dataclass(slots=True, eq=False, repr=False)
class Replica:
    """A server process: it takes `window` calls at once."""

    id: str
    index: int
    "place in its engine's list: the first listed wins ties"
    window: int
    inflight: int = 0
    limit: int = 0
    "calls that it may hold now: its window; 1 on trial; 0 while it rests, is not healthy or was removed"
    free: int = 0
    "slots that a call may be sent to now"
    rests_until: float = 0.0
    "no dispatch before this time: it answered 429, or failed"
    failures: int = 0
    "calls that it failed in a row"
    rests: int = 0
    "rests for failures since it last finished a call; above 0 it is on trial: one call at a time"
    misses: int = 0
    "health checks in a row that it did not answer"
    key: tuple[Any, ...] | None = None
    "its key in the index of a routing policy"
    present: bool = True
    "False once it was removed; calls that it held may still end"
    search: WindowSearch | None = None
    "what finds its window; None where the settings give it"

    def __lt__(self, other: Replica) -> bool:
        """Equal keys meet in a heap only where one entry is stale: any order will do."""
        return False


@dataclass(slots=True, eq=False, repr=False)
class Engine:
    """A model being served, its replicas, and the calls that wait for it."""

    name: str
    models: list[str]
    queue: ReadyQueue
    routing: Routing
    replicas: dict[str, Replica] = field(default_factory=dict)
    room: int = 0
    "free slots over its replicas; while there is one, no call waits"
    slots: int = 0
    "calls that its replicas may hold now, the sum of their limits"
    only: Replica | None = None
    "its replica, if it has one alone: then there is nothing to choose"
    auto_window: bool = False
    "whether the windows of its replicas are searched for"
    holders: Holders | None = None
    "the calls in its slots that may be displaced; None where none may"
    unbegun: dict[str, Call] | None = None
    "calls that were sent and have not begun, by id; None where they need not give way to more urgent ones"
    batch: int = 1
    "calls that a replica of it works on at once, as a power of two; kept where an ordering reads Fact.BATCH"
    load: Load = field(default_factory=lambda: Load([0.0] * CLASSES))
    "the work ahead of it, and how fast that goes"
    listed: dict[str, Replica] = field(default_factory=dict)
    "every replica ever added: one that returns keeps its place, and the calls that it may still hold"

    @property
    def queued(self) -> int:
        """Calls that wait for this engine."""
        return len(self.queue)
