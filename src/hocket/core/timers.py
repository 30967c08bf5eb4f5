"""What the core waits for: replicas that rest, jobs of which nothing is heard, and calls that wait for too long."""

from __future__ import annotations

from collections import OrderedDict
from heapq import heapify, heappop, heappush
from math import inf
from typing import Any

from hocket.core.state import Call, Engine, Job, Replica


class Timers:
    """Replicas that may be used again later, jobs that may be idle, and the wake-up calls that are under way."""

    def __init__(self, idle_s: float = inf) -> None:
        #: jobs of which nothing is heard
        self.idle = IdleJobs(idle_s)
        self.heap: list[tuple[float, int, tuple[Engine, Replica]]] = []
        self.count = 0
        self.asked: list[float] = []

    def add(self, at: float, what: tuple[Engine, Replica]) -> None:
        """`what` is due at `at`."""
        self.count += 1
        heappush(self.heap, (at, self.count, what))

    def due(self, now: float) -> list[tuple[Engine, Replica]]:
        """Take out what is due."""
        out = []
        while self.heap and self.heap[0][0] <= now:
            out.append(heappop(self.heap)[2])
        return out

    def next_at(self) -> float | None:
        """When the next one is due."""
        return self.heap[0][0] if self.heap else None

    def keep(self, engines: set[Engine]) -> None:
        """Drop what concerns other engines than these."""
        self.heap = [entry for entry in self.heap if entry[2][0] in engines]
        heapify(self.heap)

    def ask(self, at: float) -> bool:
        """Whether a wake-up at `at` must be asked for: none as early is under way."""
        if self.asked and self.asked[0] <= at:
            return False
        heappush(self.asked, at)
        return True

    def woken(self, now: float) -> None:
        """The driver has sent a `Tick`: wake-ups up to `now` are no longer under way."""
        while self.asked and self.asked[0] <= now:
            heappop(self.asked)


class IdleJobs:
    """Open jobs, each looked at again when it may have been idle for too long.

    A job has one entry. Hearing of it costs nothing here: an entry that comes due moves on if the job was heard of. The
    entry of a closed job stays until it surfaces, or such entries outnumber the others, but without the job.
    """

    def __init__(self, idle_s: float) -> None:
        self.idle_s = idle_s
        #: a heap of [due at, the job's number, the job; None = it is closed]
        self.entries: list[list[Any]] = []

    def opened(self, job: Job, open_jobs: int) -> float | None:
        """`job` is new, one of `open_jobs`. Returns when to look again, if it is the first to be due."""
        at = job.heard_at + self.idle_s
        heappush(self.entries, self.entry(at, job))
        if len(self.entries) > 2 * open_jobs + 16:
            self.entries = [entry for entry in self.entries if entry[2] is not None]
            heapify(self.entries)
        return at if self.entries[0][2] is job else None

    @staticmethod
    def entry(at: float, job: Job) -> list[Any]:
        """The one entry of `job`."""
        job.entry = entry = [at, job.number, job]
        return entry

    @staticmethod
    def closed(job: Job) -> None:
        """`job` is over: nothing here holds it any more."""
        assert job.entry is not None, "it was never opened"
        job.entry[2] = None

    def due(self, now: float) -> list[Job]:
        """Jobs that have been idle for too long. They stay, and are named again an idle time later if still open."""
        out, again, entries = [], [], self.entries
        while entries and entries[0][0] <= now:
            entry = heappop(entries)
            job = entry[2]
            if job is None:
                continue
            at = (now if job.calls else job.heard_at) + self.idle_s
            if at <= now:
                out.append(job)
                at = now + self.idle_s
            entry[0] = at
            again.append(entry)
        for entry in again:
            heappush(entries, entry)
        return out

    def next_at(self) -> float | None:
        """When to look again."""
        if not self.entries:
            return None
        at: float = self.entries[0][0]
        return at


class Waits:
    """Waiting calls, each looked at when it has waited for as long as a call may. All wait equally long: no heap."""

    def __init__(self, limit_s: float | None) -> None:
        self.limit_s = limit_s
        #: call -> when it is due, the first due first (a dict alone gets slow as its first entries leave)
        self.entries: OrderedDict[Call, float] = OrderedDict()

    def began(self, call: Call, now: float) -> float:
        """`call` begins to wait, or waits on in another place. Returns when the first call is due."""
        assert self.limit_s is not None
        self.entries.setdefault(call, now + self.limit_s)
        return next(iter(self.entries.values()))

    def ended(self, call: Call) -> None:
        """`call` waits no longer."""
        self.entries.pop(call, None)

    def due(self, now: float) -> list[Call]:
        """Take out the calls that have waited for too long."""
        due, entries = [], self.entries
        while entries and next(iter(entries.values())) <= now:
            due.append(entries.popitem(last=False)[0])
        return due

    def next_at(self) -> float | None:
        """When to look again."""
        return next(iter(self.entries.values()), None)
