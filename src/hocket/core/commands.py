"""Commands: what the core orders a driver to do. A driver obeys in the order given."""

from __future__ import annotations

import msgspec


class Command(msgspec.Struct, frozen=True, gc=False, tag_field="command", tag=True, omit_defaults=True):
    """An order."""


class Dispatch(Command, frozen=True, gc=False, tag=True):
    """Send this call to this replica, now."""

    call: str
    engine: str
    replica: str


class Preempt(Command, frozen=True, gc=False, tag=True):
    """Take this call off its replica; answer with `CallPreempted`, and let it go on where a later `Dispatch` says.

    A call that ends first has ended, and one that cannot be taken off runs on: then there is no answer but the call's
    own news (`CallStreamed`). No second `Preempt` comes before the call has been dispatched again.
    """

    call: str


class Reject(Command, frozen=True, gc=False, tag=True):
    """Answer the client with an error (or with the replica's own, if it sent one): the call is over."""

    call: str
    status: int
    reason: str
    "unknown_model | upstream_failed | upstream_status | overloaded | ..."
    retry_after_s: float | None = None
    "when to come again, as far as can be foretold"


class Refuse(Command, frozen=True, gc=False, tag=True):
    """Do not open this job: it is forgotten. Answer whoever opened it with an error."""

    job: str
    status: int
    reason: str
    "too_many_jobs"
    retry_after_s: float | None = None


class Abort(Command, frozen=True, gc=False, tag=True):
    """Kill this call, waiting or running, and tell its client so: the call is over."""

    call: str
    reason: str


class CloseJob(Command, frozen=True, gc=False, tag=True):
    """Nothing has been heard of this job for the idle time: forget it, and answer with `JobClosed(reason="idle")`."""

    job: str


class WakeAt(Command, frozen=True, gc=False, tag=True):
    """Send a `Tick` at this time (seconds, the driver's clock). A later `WakeAt` does not replace an earlier one."""

    at: float


AnyCommand = Dispatch | Preempt | Reject | Refuse | Abort | CloseJob | WakeAt
