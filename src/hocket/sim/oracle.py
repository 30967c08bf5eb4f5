"""`oracle`: shortest remaining job first, by the truth. Only a simulator can have it."""

from __future__ import annotations

from typing import Any, ClassVar

from hocket.core.ordering import Fact, Scope, View
from hocket.core.state import Call


class Oracle:
    """The job with the least true remaining work first: unloaded seconds of its LLM calls that have not ended.

    The yardstick for orderings that must estimate. Counts all engines together, so it bounds what knowing sizes can
    gain, not what any policy can.
    """

    name: ClassVar[str] = "oracle"
    scope: ClassVar[Scope] = Scope.JOB
    reads: ClassVar[frozenset[Fact]] = frozenset({Fact.OUTSIDE})

    def __init__(self) -> None:
        self._remaining: dict[str, int] = {}

    def report(self, job: str, remaining: int) -> None:
        """The driver tells what is left of a job, in picoseconds, then calls `Scheduler.touch_job`."""
        self._remaining[job] = remaining

    def forget(self, job: str) -> None:
        """The job is over."""
        self._remaining.pop(job, None)

    def key(self, call: Call, view: View) -> tuple[Any, ...]:
        """Unloaded time left of the call's job."""
        return (self._remaining[call.job.id],)
