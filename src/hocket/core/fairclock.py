"""When an equal sharing of the engines would be done with a job: the virtual time of a fluid fair server.

In that ideal every job that is not done gets the same part of the work that is being done, from its first call on. Its
clock runs at the pace at which one job is served there, so the moment at which a job would be done, on that clock, is
known when it joins and never moves: however many join later, they slow the clock, not the job's place on it.
(Generalised processor sharing: Parekh and Gallager, IEEE/ACM Transactions on Networking 1(3), 1993.)

The ideal is as fast as the engines are: it is given the work of each call that ends, in the seconds in which sizes are
believed (those of calls that have an engine to themselves), so that batching slows both alike.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Any

MOST_JOBS = 20_000
"of the ideal: work that was foretold and never came leaves jobs there; of more, the first to be done is let go"


class FairClock:
    """Virtual seconds: what each job of the ideal has been given so far. O(log n) a job."""

    __slots__ = ("_finishes", "now", "wanted")

    def __init__(self) -> None:
        #: virtual seconds
        self.now = 0.0
        #: whether an ordering reads it: else no job joins
        self.wanted = False
        self._finishes: list[float] = []  # a heap: of the jobs that are not done in the ideal

    def join(self, work_s: float) -> float:
        """A job of this size begins: returns its virtual finish."""
        finish = self.now + work_s
        heappush(self._finishes, finish)
        if len(self._finishes) > MOST_JOBS:
            self.now = heappop(self._finishes)
        return finish

    def give(self, work_s: float) -> None:
        """So much was done: share it out among the jobs of the ideal. What it has no job for is lost."""
        finishes = self._finishes
        while finishes:
            needed = (finishes[0] - self.now) * len(finishes)
            if needed > work_s:
                self.now += work_s / len(finishes)
                return
            work_s -= needed
            self.now = heappop(finishes)

    def until(self, finish: float) -> float:
        """Work to be done by all engines until virtual `finish`, if nobody came or left; 0 if it is over."""
        return max(0.0, finish - self.now) * len(self._finishes)

    def save(self) -> Any:
        """As JSON-able data."""
        return [self.now, self._finishes]

    def restore(self, saved: Any) -> None:
        """What `save` gave."""
        self.now, finishes = saved
        self._finishes = list(finishes)
