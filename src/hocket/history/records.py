"""What the history holds of a run, and the ledger that makes it out of events and commands.

A record is a row: its fields are the columns of `hocket.history.schema`, in order. Times of calls and tool runs are
seconds since their job's arrival, so they stay exact and survive a clock that is set; only a job has a time of day. No
record holds text of a prompt or an answer.

Where there is nothing to say, a name is empty and a number that must be above 0 is 0; only a time may be None: SQLite's
driver takes four times as long to bind None as to bind any other value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from hocket.core import events as ev
from hocket.core.commands import Abort, Command, Dispatch, Refuse, Reject
from hocket.core.spec import SchedulerSpec


class JobRecord(msgspec.Struct, gc=False):
    """One run of an application."""

    id: int
    run: int
    "the process that recorded it: `RunRecord.id`"
    job: str
    "the id that its client knows"
    tenant: str
    app: str
    urgency: int
    arrived_at: float
    "seconds since 1970"
    deadline_s: float = 0.0
    features: str = ""
    "JSON object of numbers: what was known of the request when it arrived"
    state: str = "open"
    "open | closed | idle | aborted | refused (not let in) | interrupted (its process ended before it did)"
    ended_s: float | None = None
    "the job completion time: from its arrival to its last stage's end"
    calls: int = 0
    tool_runs: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    wait_s: float = 0.0
    "of all its calls together, in hocket's queue"
    trace: str = ""
    "of an imported job: its line of the trace, without `text`"


class CallRecord(msgspec.Struct, gc=False):
    """One LLM request. Sizes are the engine's once it has ended, the gateway's estimate before."""

    job_id: int
    n: int
    "its number among the calls and tool runs of its job"
    call: str
    stage: str
    model: str
    urgency: int
    parent: str
    max_tokens: int
    hint_output_tokens: int
    prompt_tokens: int
    arrived_s: float
    output_tokens: int = 0
    engine: str = ""
    replica: str = ""
    attempts: int = 0
    "dispatches"
    dispatched_s: float | None = None
    "the first of them"
    started_s: float | None = None
    "when the replica that answered got it"
    first_token_s: float | None = None
    ended_s: float | None = None
    outcome: str = ""
    "finished | rejected | cancelled | aborted | interrupted; empty: it has not ended"
    reason: str = ""
    "why it was rejected or aborted; of a finished one, what its last failed attempt failed of"
    status: int = 0
    "HTTP status of a rejection"
    retry: int = 0
    "the client's own count of attempts: above 0 it is an earlier call again"
    idempotency: str = ""
    "a hash of the key by which its client would recognise a repetition"


class ToolRecord(msgspec.Struct, gc=False):
    """One execution of a tool stage."""

    job_id: int
    n: int
    run: str
    name: str
    parent: str
    started_s: float
    ended_s: float | None = None
    outcome: str = ""
    "finished | unfinished (its job ended first) | interrupted; empty: it has not ended"


Record = JobRecord | CallRecord | ToolRecord


def is_open(record: Record) -> bool:
    """Whether it has not ended."""
    return record.state == "open" if isinstance(record, JobRecord) else not record.outcome


Sink = Callable[[Record], None]


def policy_of(spec: SchedulerSpec) -> str:
    """What a run is said to be governed by: its orderings, or `observe`."""
    return "observe" if spec.observe else " > ".join(spec.policy)


class _Job(msgspec.Struct, gc=False):
    """A job under way."""

    key: str
    "the core's id"
    record: JobRecord
    at: float
    "when it arrived, on the clock of events"
    n: int = 0
    "of its calls and tool runs so far"
    last_s: float | None = None
    open: int = 0
    "calls that have not ended"
    closed: str | None = None
    "why, once it is"
    tools: dict[str, ToolRecord] = {}


class Continued(msgspec.Struct):
    """A job of an earlier process, as this one would go on with it."""

    job: JobRecord
    "its row; without an `id` where another process may write to it: then this one gives it a row of its own"
    n: int
    "of its calls and tool runs so far"
    cut: list[CallRecord | ToolRecord]
    "those of them that the end of that process interrupted"


class Ledger:
    """Turns what the core was told, and what it ordered, into records.

    `began` is handed each record when it begins, `ended` when nothing will be added to it. `ids` gives numbers that
    no other record of the same store has. `offset` is what must be added to an event's time to make it seconds since
    1970; it may be changed at any time. `prefixed`: whether the core's job ids begin with `TENANT/`, which they do
    where tenants are set.
    """

    def __init__(
        self, run: int, ids: Iterator[int], began: Sink, ended: Sink, *, offset: float, prefixed: bool
    ) -> None:
        self.offset = offset
        self.prefixed = prefixed
        #: by which calls are ordered now, once the settings have changed
        self.policy: str | None = None
        #: what an earlier process left open, by the core's id
        self.continued: dict[str, Continued] = {}
        self._run, self._ids, self._began, self._ended = run, ids, began, ended
        self._jobs: dict[str, _Job] = {}
        self._calls: dict[str, tuple[CallRecord, _Job]] = {}
        self._handlers: dict[type[ev.Event], Callable[[Any], None]] = {
            ev.JobOpened: self._job_opened,
            ev.JobClosed: self._job_closed,
            ev.CallArrived: self._call_arrived,
            ev.CallStarted: self._call_started,
            ev.CallStreamed: self._call_streamed,
            ev.CallFinished: self._call_finished,
            ev.CallFailed: self._call_failed,
            ev.CallCancelled: self._call_cancelled,
            ev.CallRevised: self._call_revised,
            ev.ToolStarted: self._tool_started,
            ev.ToolFinished: self._tool_finished,
            ev.SettingsChanged: self._settings_changed,
        }

    def seen(self, event: ev.Event, commands: Sequence[Command]) -> None:
        """One event, and what the core ordered."""
        handler = self._handlers.get(type(event))
        if handler is not None:
            handler(event)
        if commands:
            self._ordered(commands, event.at)

    def _ordered(self, commands: Sequence[Command], at: float) -> None:
        for command in commands:
            if type(command) is Dispatch:
                self._dispatched(command, at)
            elif type(command) is Reject:
                self._call_ended(command.call, at, "rejected", command.reason, command.status)
            elif type(command) is Abort:
                self._call_ended(command.call, at, "aborted", command.reason)
            elif type(command) is Refuse and command.job in self._jobs:
                self._over(self._jobs[command.job], "refused")

    def interrupt(self, at: float) -> None:
        """The process ends: so does everything that is open."""
        for call in list(self._calls):
            self._call_ended(call, at, "interrupted")
        for job in list(self._jobs.values()):
            self._over(job, "interrupted")

    def _settings_changed(self, event: ev.SettingsChanged) -> None:
        self.prefixed = bool(event.spec.tenants)
        self.policy = policy_of(event.spec)

    # ---------------------------------------------------------------- jobs and tools

    def _job_opened(self, event: ev.JobOpened) -> None:
        before = None if event.past is None else self.continued.pop(event.job, None)
        if event.past is not None and before is not None:
            self._job_goes_on(event.job, event.at - event.past.age_s, before)
            return
        name = event.job
        if self.prefixed:
            name = name.removeprefix(f"{event.tenant}/")
        record = JobRecord(
            next(self._ids),
            self._run,
            name,
            event.tenant,
            event.app,
            event.urgency,
            event.at + self.offset,
            event.deadline_s or 0.0,
            msgspec.json.encode(event.features).decode() if event.features else "",
        )
        self._jobs[event.job] = _Job(event.job, record, event.at)
        self._began(record)

    def _job_goes_on(self, key: str, arrived_at: float, before: Continued) -> None:
        record = before.job
        record.run, record.state, last_s = self._run, "open", record.ended_s
        record.id = record.id or next(self._ids)
        record.ended_s = None
        self._jobs[key] = _Job(key, record, arrived_at, before.n, last_s)
        for part in before.cut:
            self._ended(part)
        self._began(record)

    def _job_closed(self, event: ev.JobClosed) -> None:
        job = self._jobs.get(event.job)
        if job is not None:
            job.closed = event.reason
            if not job.open:
                self._over(job, event.reason)

    def _over(self, job: _Job, state: str) -> None:
        del self._jobs[job.key]
        record = job.record
        for tool in job.tools.values():
            tool.outcome = "interrupted" if state == "interrupted" else "unfinished"
            self._ended(tool)
        record.state = state
        record.ended_s = job.last_s
        self._ended(record)

    def _tool_started(self, event: ev.ToolStarted) -> None:
        job = self._jobs.get(event.job)
        if job is not None:
            tool = ToolRecord(
                job.record.id,
                job.n,
                event.run,
                event.name,
                event.parent or "",
                event.at - job.at,
            )
            job.n += 1
            job.record.tool_runs += 1
            job.tools[event.run] = tool
            self._began(tool)

    def _tool_finished(self, event: ev.ToolFinished) -> None:
        job = self._jobs.get(event.job)
        tool = None if job is None else job.tools.pop(event.run, None)
        if job is not None and tool is not None:
            job.last_s = tool.ended_s = event.at - job.at
            tool.outcome = "finished"
            self._ended(tool)

    # ---------------------------------------------------------------- calls

    def _call_arrived(self, event: ev.CallArrived) -> None:
        job = self._jobs.get(event.job)
        if job is None:
            return  # it was opened before this ledger began
        of = job.record
        if event.urgency is not None and event.urgency < of.urgency:
            of.urgency = event.urgency  # a job is of its most urgent request's class
        call = CallRecord(
            of.id,
            job.n,
            event.call,
            event.stage,
            event.model,
            of.urgency if event.urgency is None else event.urgency,
            event.parent or "",
            event.max_tokens or 0,
            event.hint_output_tokens or 0,
            event.prompt_tokens,
            event.at - job.at,
            retry=event.retry,
            idempotency=event.idempotency or "",
        )
        job.n += 1
        of.calls += 1
        job.open += 1
        self._calls[event.call] = call, job
        self._began(call)

    def _dispatched(self, command: Dispatch, at: float) -> None:
        found = self._calls.get(command.call)
        if found is not None:
            call, job = found
            call.engine, call.replica = command.engine, command.replica
            call.attempts += 1
            if call.dispatched_s is None:
                call.dispatched_s = at - job.at
                job.record.wait_s += call.dispatched_s - call.arrived_s

    def _call_started(self, event: ev.CallStarted) -> None:
        found = self._calls.get(event.call)
        if found is not None:
            found[0].started_s = event.at - found[1].at

    def _call_streamed(self, event: ev.CallStreamed) -> None:
        found = self._calls.get(event.call)
        if found is not None and event.tokens:
            call, job = found
            call.output_tokens = event.tokens
            if call.first_token_s is None:
                call.first_token_s = event.at - job.at

    def _call_finished(self, event: ev.CallFinished) -> None:
        found = self._calls.get(event.call)
        if found is not None:
            call = found[0]
            call.prompt_tokens, call.output_tokens = event.prompt_tokens, event.output_tokens
            self._call_ended(event.call, event.at, "finished", call.reason)

    def _call_failed(self, event: ev.CallFailed) -> None:
        found = self._calls.get(event.call)
        if found is not None:
            found[0].reason = f"{event.kind} {event.status}" if event.status else event.kind

    def _call_cancelled(self, event: ev.CallCancelled) -> None:
        self._call_ended(event.call, event.at, "cancelled")

    def _call_revised(self, event: ev.CallRevised) -> None:
        found = self._calls.get(event.call)
        if found is not None and event.urgency is not None:
            call, job = found
            call.urgency = job.record.urgency = event.urgency

    def _call_ended(self, call_id: str, at: float, outcome: str, reason: str = "", status: int = 0) -> None:
        found = self._calls.pop(call_id, None)
        if found is None:
            return
        call, job = found
        job.last_s = call.ended_s = at - job.at
        call.outcome, call.reason, call.status = outcome, reason, status
        job.record.prompt_tokens += call.prompt_tokens
        job.record.output_tokens += call.output_tokens
        self._ended(call)
        job.open -= 1
        if job.closed is not None and not job.open:
            self._over(job, job.closed)
