"""What a tenant, or all of them together, have in hand against what they may have; and how long a call would wait.

Plain counting, for `hocket.core.admission`, which decides by it. Everything is O(1) a call, or O(log n).
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from hocket.core.heap import Key, KeyedHeap

if TYPE_CHECKING:
    from hocket.core.spec import LimitsSpec
    from hocket.core.state import Call, Engine, Job, Tenant

MEMORY = 64
"ends after which what was seen of slot times counts a third"
FADING = 1.0 - 1.0 / MEMORY
BEYOND = 2.0
"times a tenant's limit, or the bytes of all: how far the calls of a job that was admitted may go"
SHORTEST_S, LONGEST_S = 1.0, 600.0
"what a client may be told to wait before it comes again"


class Refusal(NamedTuple):
    """Why somebody is not let in."""

    status: int
    "429: for its tenant's own limits; 503: for those of all"
    reason: str
    retry_after_s: float | None
    "when to come again; None = it would be no better then"


def bounded(seconds: float) -> float:
    """A time that a client can be told."""
    return min(max(seconds, SHORTEST_S), LONGEST_S)


@dataclass(slots=True)
class Line:
    """What one tenant has at one engine."""

    weight: float
    ahead: list[float]
    "its part of `Load.ahead`"
    waiting: list[OrderedDict[Call, float]]
    "of each class, who waits since when: the oldest first"
    open: int = 0
    "calls, waiting or in slots"


@dataclass(slots=True)
class Load:
    """The work ahead at one engine, and how fast it goes.

    By Little's law k slots that a call holds for s seconds complete k / s calls a second, so that n calls ahead take
    n * s / k seconds. Ahead are the calls that are open, and those that their jobs will still send, as many as jobs of
    their applications have sent on average.
    """

    ahead: list[float]
    "calls, a class"
    held_s: float = 0.0
    "slot-seconds of calls that were completed, fading"
    ends: float = 0.0
    "how many they were, fading alike"
    moved_at: float = 0.0
    "when a call was sent or completed last"
    lines: dict[str, Line] = field(default_factory=dict)
    "of tenants that have sent calls here, or are expected to"
    weights: float = 0.0
    "of those that have open calls here, together"
    wanted: bool = False
    "whether who is ahead is counted, class by class: nobody asks unless a limit or a deadline hangs on it"

    def ended(self, held_s: float, now: float) -> None:
        """A call was completed, `held_s` after it was sent."""
        self.held_s = FADING * self.held_s + held_s
        self.ends = FADING * self.ends + 1.0
        self.moved_at = now

    # ---------------------------------------------------------------- who is ahead

    def opened(self, call: Call) -> None:
        """`call` is open, at this engine."""
        tenant = call.job.tenant
        self.count(tenant, call.urgency, 1.0)
        line = self.lines[tenant.name]
        if not line.open:
            self.weights += line.weight
        line.open += 1

    def closed(self, call: Call) -> None:
        """`call` is open no more, or at another engine."""
        tenant = call.job.tenant
        line = self.lines[tenant.name]
        self.count(tenant, call.urgency, -1.0)
        line.open -= 1
        if not line.open:
            self.weights = max(self.weights - line.weight, 0.0)

    def count(self, tenant: Tenant, urgency: int, calls: float) -> None:
        """So many more calls of a tenant are ahead."""
        self.ahead[urgency] += calls
        line = self.lines.get(tenant.name)
        if line is None:
            line = Line(tenant.weight, [0.0 for _ in self.ahead], [OrderedDict() for _ in self.ahead])
            self.lines[tenant.name] = line
        line.ahead[urgency] += calls

    def waits(self, call: Call, now: float) -> None:
        """`call`, which is open, begins to wait."""
        self.lines[call.job.tenant.name].waiting[call.urgency][call] = now

    def waits_no_more(self, call: Call) -> None:
        """It does not any more; nothing happens if it did not."""
        line = self.lines.get(call.job.tenant.name)
        if line is not None:
            line.waiting[call.urgency].pop(call, None)

    # ---------------------------------------------------------------- how long it takes

    def wait_s(self, engine: Engine, urgency: int, now: float, tenant: Tenant | None = None) -> float:
        """Seconds until one more call of this class would get a slot of `engine`, whose load this is.

        0 while a slot is free, and where no replica was ever there: nothing is known then. Infinite where none works.
        A tenant has its share of the slots, and so waits no longer than its own calls take on that. Where classes and
        tenants are not counted (`wanted`), whoever waits is ahead.
        """
        if engine.room or not engine.replicas:
            return 0.0
        slots, begins_s = float(engine.slots), 0.0
        mean_s = self.held_s / self.ends if self.ends else 0.0
        if slots:  # nothing has moved since then, so each call that runs has held its slot for at least as long
            mean_s = max(mean_s, now - self.moved_at)
        else:
            resting = [replica for replica in engine.replicas.values() if replica.rests_until > now]
            begins_s = min((replica.rests_until - now for replica in resting), default=inf)
            slots = sum(replica.window for replica in resting) or 1.0
        ahead = sum(self.ahead[: urgency + 1]) if self.wanted else slots + len(engine.queue)
        turns = (ahead + 1.0) / slots
        if tenant is not None and self.wanted:
            line = self.lines.get(tenant.name)
            own, others = 0.0, self.weights
            if line is not None:
                own = sum(line.ahead[: urgency + 1])
                others = self.weights - line.weight if line.open else self.weights
            turns = min(turns, (own + 1.0) * (1.0 + others / tenant.weight) / slots)
        return begins_s + max(turns - 1.0, 1.0 / slots) * mean_s

    def seen_s(self, urgency: int, now: float, tenant: Tenant) -> float:
        """Seconds that a call of the tenant, of this class or a more urgent one, has waited by now, at most."""
        line = self.lines.get(tenant.name)
        if line is None:
            return 0.0
        return max((now - next(iter(since.values())) for since in line.waiting[: urgency + 1] if since), default=0.0)


@dataclass(slots=True)
class Bucket:
    """A token bucket: it refills at `per_s` up to `most`. Below 0 is a debt."""

    per_s: float
    most: float
    left: float
    at: float

    def take(self, tokens: float, now: float) -> None:
        """So many were used; below 0: are given back."""
        self.left = min(self.left + self.per_s * (now - self.at), self.most) - tokens
        self.at = now

    def lacks_s(self, tokens: float, now: float) -> float:
        """Seconds until there are so many; 0 if there are. Of more than it holds, until it is full."""
        self.take(0.0, now)
        return max(min(tokens, self.most) - self.left, 0.0) / self.per_s


class Seat:
    """The place of a job that has not begun among those that may be sent away again, and what it holds."""

    __slots__ = ("account", "calls", "job", "key", "size", "urgency")

    def __init__(self, account: Account, job: Job) -> None:
        self.account, self.job, self.urgency = account, job, job.urgency
        self.key: Key | None = None
        self.calls = self.size = 0
        account.unstarted.add(self, (-job.urgency, -job.number))
        self.count(len(job.calls), sum(call.size for call in job.calls.values()))

    def count(self, calls: int, size: int) -> None:
        """It holds so many more."""
        self.calls += calls
        self.size += size
        self.account.spare_calls[self.urgency] += calls
        self.account.spare_bytes[self.urgency] += size

    def leave(self) -> None:
        """The job has begun, or is gone, or takes another place."""
        self.account.unstarted.discard(self)
        self.count(-self.calls, -self.size)

    def __lt__(self, other: Seat) -> bool:
        """For the heap: a job's earlier seat may have left its entry behind, under the same key."""
        return False


@dataclass(slots=True, eq=False)
class Account:
    """What one tenant has in hand, or all together, against what it may have."""

    limits: LimitsSpec
    tenant: Tenant | None = None
    "None: it is that of all"
    calls: int = 0
    "open ones"
    jobs: int = 0
    size: int = 0
    "bytes that the requests of open calls take"
    call_s: float = 0.0
    "mean time of its calls from arrival to end; 0 = none has ended"
    job_s: float = 0.0
    "the same of jobs"
    bucket: Bucket | None = None
    unstarted: KeyedHeap[Seat] = field(default_factory=KeyedHeap)
    """admitted jobs of which every call still waits, kept where room can be made; the least valuable first: the least
    urgent, of these who came last"""
    spare_calls: Counter[int] = field(default_factory=Counter)
    "class -> calls that such jobs hold"
    spare_bytes: Counter[int] = field(default_factory=Counter)

    def makes_room(self, size: int) -> bool:
        """Whether a job may be sent away again for more urgent ones, the request of which is so large."""
        return self.limits.queue is not None or (size > 0 and self.limits.held_bytes is not None)

    def came(self, call: Call) -> None:
        """`call` is open."""
        self.calls += 1
        self.size += call.size

    def went(self, call: Call, now: float) -> None:
        """`call` is open no more."""
        self.calls -= 1
        self.size -= call.size
        self.ended(now - call.arrived_at)

    def ended(self, lasted_s: float) -> None:
        """A call has ended."""
        self.call_s = FADING * self.call_s + (1.0 - FADING) * lasted_s if self.call_s else lasted_s

    def refusal(self, reason: str, after_s: float) -> Refusal:
        """What one is told who is refused for this account."""
        return Refusal(503 if self.tenant is None else 429, reason, bounded(after_s))

    def opens(self) -> Refusal | None:
        """Why no further job may be opened; None if it may."""
        most = self.limits.jobs
        if most is None or self.jobs < most:
            return None
        return self.refusal("too_many_jobs", _until(self.jobs - most + 1, self.jobs, self.job_s))

    def admits(self, job: Job, tokens: int, now: float) -> Refusal | None:
        """Why a call of `job` may not come in for its number or its tokens; None if it may.

        A job that was admitted goes on: past the limits of all, and past its tenant's up to `BEYOND` times.
        """
        most, own = self.limits.calls, self.tenant is not None
        if most is not None and (own or not job.admitted):
            most = int(BEYOND * most) if job.admitted else most
            if self.calls >= most:
                return self.refusal("too_many_calls", _until(self.calls - most + 1, self.calls, self.call_s))
        if self.bucket is not None and (own or not job.admitted):
            after_s = self.bucket.lacks_s((1.0 - BEYOND) * self.bucket.most if job.admitted else tokens, now)
            if after_s > 0.0:
                return self.refusal("too_many_tokens", after_s)
        return None

    def lacks(self, job: Job, size: int, waiting: int) -> tuple[int, int]:
        """Calls that wait, and bytes, that would be too many if one more call of `job` waited. Below 1 = none."""
        limits, times = self.limits, BEYOND if job.admitted else 1.0
        calls = 0 if limits.queue is None or job.admitted else waiting + 1 - limits.queue
        # one is always let in: a request may be larger than all that may be held
        over = 0 if limits.held_bytes is None or not self.size else self.size + size - int(times * limits.held_bytes)
        return calls, over

    def spares(self, calls: int, size: int, least: int) -> bool:
        """Whether jobs of class `least` or less urgent ones that may be sent away hold so many calls and bytes. O(1)"""
        spare_calls = sum(held for urgency, held in self.spare_calls.items() if urgency >= least)
        spare_bytes = sum(held for urgency, held in self.spare_bytes.items() if urgency >= least)
        return calls <= spare_calls and size <= spare_bytes

    def victims(self, calls: int, size: int) -> Iterator[Job]:
        """The least valuable jobs that hold so many calls and bytes together. O(k log k) for k of them."""
        for seat in self.unstarted.ordered() if calls > 0 or size > 0 else ():
            yield seat.job
            calls -= seat.calls
            size -= seat.size
            if calls <= 0 and size <= 0:
                return

    def closed(self, lasted_s: float | None) -> None:
        """A job is over; None: it was refused, and says nothing of how long others are open."""
        self.jobs -= 1
        if lasted_s is not None:
            self.job_s = FADING * self.job_s + (1.0 - FADING) * lasted_s if self.job_s else lasted_s


def _until(ends: int, among: int, lasts_s: float) -> float:
    """Seconds until so many have ended `among` those that are open and last so long, by Little's law."""
    return lasts_s * ends / max(among, 1)
