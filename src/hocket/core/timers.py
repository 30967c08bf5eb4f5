"""What the core waits for: replicas that rest, and jobs of which nothing is heard."""

from __future__ import annotations

from collections import OrderedDict
from heapq import heappop, heappush

from hocket.core.state import Engine, Job, Replica


class Timers:
    """Replicas that may be used again later, and the wake-up calls that are under way."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, tuple[Engine, Replica]]] = []
        self._count = 0
        self._asked: list[float] = []

    def add(self, at: float, what: tuple[Engine, Replica]) -> None:
        """`what` is due at `at`."""
        self._count += 1
        heappush(self._heap, (at, self._count, what))

    def due(self, now: float) -> list[tuple[Engine, Replica]]:
        """Take out what is due."""
        out = []
        while self._heap and self._heap[0][0] <= now:
            out.append(heappop(self._heap)[2])
        return out

    def next_at(self) -> float | None:
        """When the next one is due."""
        return self._heap[0][0] if self._heap else None

    def ask(self, at: float) -> bool:
        """Whether a wake-up at `at` must be asked for: none as early is under way."""
        if self._asked and self._asked[0] <= at:
            return False
        heappush(self._asked, at)
        return True

    def woken(self, now: float) -> None:
        """The driver has sent a `Tick`: wake-ups up to `now` are no longer under way."""
        while self._asked and self._asked[0] <= now:
            heappop(self._asked)


class IdleJobs:
    """Open jobs without an open call, in the order in which they fell idle: all wait equally long."""

    def __init__(self, idle_s: float) -> None:
        self._idle_s = idle_s
        self._since: OrderedDict[Job, float] = OrderedDict()

    def rest(self, job: Job, now: float) -> float | None:
        """`job` is idle from `now` on. Returns when to look again, if it is the only one."""
        self._since[job] = now
        self._since.move_to_end(job)
        return now + self._idle_s if len(self._since) == 1 else None

    def busy(self, job: Job) -> None:
        """`job` has a call again, or is over."""
        self._since.pop(job, None)

    def due(self, now: float) -> list[Job]:
        """Jobs that were idle for too long. They stay until they are closed, and are named again an idle time later."""
        out = []
        while self._since:
            job, since = next(iter(self._since.items()))
            if since + self._idle_s > now:
                break
            out.append(job)
            self._since[job] = now
            self._since.move_to_end(job)
        return out

    def next_at(self) -> float | None:
        """When the next one has been idle for too long."""
        return next(iter(self._since.values())) + self._idle_s if self._since else None
