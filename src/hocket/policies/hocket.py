"""`hocket`: the project's own ordering of jobs."""

from __future__ import annotations

from typing import Any, ClassVar

from hocket.core.ordering import Fact, Scope, View
from hocket.core.state import Call


class Hocket:
    """The job that is expected to need the least engine work to its end goes first."""

    name: ClassVar[str] = "hocket"
    scope: ClassVar[Scope] = Scope.JOB
    reads: ClassVar[frozenset[Fact]] = frozenset({Fact.BELIEF})

    def key(self, call: Call, view: View) -> tuple[Any, ...]:
        """Expected seconds of engine work left."""
        belief = call.job.belief
        assert belief is not None
        return (belief.remaining_s,)
