"""A bare scheduler, and short words for the events of its tests. Times are seconds, multiples of 1/64: exact sums."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from hocket.assembly import build
from hocket.core.commands import Command, Dispatch
from hocket.core.events import CallArrived, CallFailed, CallFinished, Event, JobOpened, ReplicaAdded
from hocket.core.ordering import Ordering, Scope, View
from hocket.core.spec import EngineSpec, SchedulerSpec
from hocket.core.state import Call

NEVER = 1e9
"an idle time that no test reaches"


class Bare:
    """A scheduler without a driver: engine `e` serves model `m` on the replicas of `windows`; `jobs` are open.

    Each job has the application and the tenant that `apps` and `tenants` (a `TenantSpec` each, or a name) give it.
    """

    def __init__(
        self,
        *policy: str,
        windows: Mapping[str, int] | None = None,
        jobs: Iterable[str] = "abcdef",
        apps: Mapping[str, str] | None = None,
        owners: Mapping[str, str] | None = None,
        extra: Mapping[str, Ordering] | None = None,
        **spec: Any,
    ) -> None:
        settings = {"engines": [EngineSpec("e", ["m"])], "policy": policy or ("fcfs",), "job_idle_s": NEVER, **spec}
        self.scheduler = build(SchedulerSpec(**settings), extra)
        self.feed(
            *(ReplicaAdded(0.0, "e", r, window) for r, window in ({"r": 1} if windows is None else windows).items())
        )
        apps, owners = apps or {}, owners or {}
        self.feed(*(JobOpened(0.0, job, apps.get(job, "app"), owners.get(job, "default")) for job in jobs))

    def feed(self, *events: Event) -> list[Command]:
        """What the scheduler orders in answer to all of these. Its invariants hold after each."""
        out = []
        for event in events:
            out += self.scheduler.handle(event)
            self.scheduler.check()
        return out

    def drain(self, at: float = 1.0) -> list[str]:
        """End one call after the other; returns the order in which waiting calls then got their slots."""
        order, calls = [], self.scheduler.calls
        while calls:
            ended = next(call.id for call in calls.values() if call.replica is not None)
            order += [c.call for c in self.feed(CallFinished(at, ended)) if isinstance(c, Dispatch)]
        return order


def arrive(at: float, *calls: str, urgency: int | None = None, model: str = "m") -> list[CallArrived]:
    """Calls of the job that is their first letter, of the stage `s`."""
    return [CallArrived(at, call, call[0], "s", model, 10, urgency=urgency) for call in calls]


def fail(at: float, call: str, how: str | int, **more: Any) -> CallFailed:
    """A failure by its kind, or by the replica's status."""
    return CallFailed(at, call, how, **more) if isinstance(how, str) else CallFailed(at, call, "status", how, **more)


def sent(*calls: str, to: str = "r", engine: str = "e") -> list[Command]:
    """The commands that dispatch these calls to one replica."""
    return [Dispatch(call, engine, to) for call in calls]


def place(orderings: Sequence[Ordering], call: Call, view: View) -> tuple[Any, ...]:
    """Where a call stands: its keys, after each scope whose keys can move what it is about, and the arrival numbers."""
    about = {
        Scope.TENANT: call.job.tenant.number,
        Scope.TENANT_APP: 0 if call.job.share is None else call.job.share.number,
        Scope.APPLICATION: call.job.app.number,
        Scope.JOB: call.job.number,
        Scope.CALL: call.number,
    }
    out: list[Any] = []
    moving = max((ordering.scope for ordering in orderings if ordering.reads), default=-1)
    for scope, group in groupby(orderings, key=lambda ordering: ordering.scope):
        out += (part for ordering in group for part in ordering.key(call, view))
        if Scope.CLASS < scope <= moving:  # classes of one key wait together
            out.append(about[scope])
    return (*out, call.job.number, call.number)
