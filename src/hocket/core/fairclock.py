"""When an equal sharing of all slots would be done with a job: the virtual time of a fluid fair server.

In that ideal every job that is not done gets the same part of all slots, from its first call on. Its clock runs at the
pace at which one job is served there, so the moment at which a job would be done, on that clock, is known when it joins
and never moves: however many join later, they slow the clock, not the job's place on it. (Generalised processor
sharing: Parekh and Gallager, IEEE/ACM Transactions on Networking 1(3), 1993.)
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Any


class FairClock:
    """Virtual seconds: what each job of the ideal has been given so far. O(log n) a job."""

    __slots__ = ("_at", "_finishes", "_slots", "now")

    def __init__(self) -> None:
        #: virtual seconds
        self.now = 0.0
        self._at = 0.0  # seconds on the driver's clock up to which it has run
        self._slots = 0
        self._finishes: list[float] = []  # a heap: of the jobs that are not done in the ideal

    def join(self, at: float, slots: int, work_s: float) -> float:
        """A job of `work_s` slot-seconds begins at `at`: returns its virtual finish."""
        self.run(at, slots)
        finish = self.now + work_s
        heappush(self._finishes, finish)
        return finish

    def run(self, at: float, slots: int) -> None:
        """Let the clock run until `at` seconds, with as many `slots` as there are now."""
        finishes, passed = self._finishes, at - self._at
        self._at, self._slots = at, slots
        while finishes and slots:
            needed = (finishes[0] - self.now) * len(finishes) / slots
            if needed > passed:
                self.now += passed * slots / len(finishes)
                return
            passed -= needed
            self.now = heappop(finishes)

    def until(self, finish: float) -> float:
        """Seconds until virtual `finish` if nobody came or left; 0 if it is over, infinite without slots."""
        virtual = finish - self.now
        if virtual <= 0.0:
            return 0.0
        return virtual * len(self._finishes) / self._slots if self._slots else float("inf")

    def save(self) -> Any:
        """As JSON-able data."""
        return [self.now, self._at, self._slots, self._finishes]

    def restore(self, saved: Any) -> None:
        """What `save` gave."""
        self.now, self._at, self._slots, finishes = saved
        self._finishes = list(finishes)
