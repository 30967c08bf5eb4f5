"""Jobs that an earlier process left open, so that this one can go on with them by their id.

A process that was killed could tell nobody where its jobs stood. What the history holds of them says it: their age,
the service that they attained, and the steps that they have shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from sqlalchemy import Connection, select

from hocket.core.events import Past, PastStep
from hocket.history.read import with_parts
from hocket.history.records import CallRecord, Continued, JobRecord, ToolRecord, is_open
from hocket.history.schema import RunRecord, jobs, runs
from hocket.history.store import is_dead, translated
from hocket.history.traces import Recorded

MOST = 5_000
"jobs that are held ready to go on"
LOOKED_AT = 100_000
"jobs, the latest arrivals, among which they are looked for: a start must not wait for a large history"
SOURCES = ("open", "interrupted")


class OpenTool(msgspec.Struct):
    """A tool run that had not ended; only its application knows whether it has by now."""

    run: str
    name: str
    parent: str | None


class Unfinished(msgspec.Struct):
    """A job as far as it had come."""

    job: JobRecord
    number: int
    "its arrival number, below 0"
    heard_at: float
    "its latest news; seconds since 1970"
    service_s: float
    path_s: float
    steps: list[PastStep]
    tools: list[OpenTool]
    continued: Continued
    "what its row becomes"

    def past(self, now: float) -> Past:
        """What the core is told. `now` is in seconds since 1970."""
        return Past(self.number, max(now - self.job.arrived_at, 0.0), self.service_s, self.path_s, self.steps)


def unfinished(connection: Connection, own: RunRecord, silent_s: float) -> list[Unfinished]:
    """Jobs that were open when their process ended, and heard of in the last `silent_s`. Raises StoreError."""
    latest = select(jobs).order_by(jobs.c.arrived_at.desc()).limit(LOOKED_AT).subquery()
    other = jobs.alias()  # a row of the same job, which another process went on with, and ended
    same = (other.c.job == latest.c.job, other.c.tenant == latest.c.tenant, other.c.arrived_at == latest.c.arrived_at)
    ended = select(other.c.id).where(*same, other.c.state.not_in(SOURCES)).exists()
    query = select(latest).where(latest.c.state.in_(SOURCES), latest.c.run != own.id, ~ended)
    query = query.order_by(latest.c.arrived_at.desc(), latest.c.id.desc()).limit(MOST)
    with translated(), connection.begin():
        gateways = connection.execute(select(runs).where(runs.c.kind == "gateway", runs.c.id != own.id)).all()
        # one that runs may write to its own rows, and has read those of the dead: it may go on with them, too
        alone = all(run.ended_at is not None or is_dead(run, own) for run in gateways)
        seen_at = {run.id: run.seen_at for run in gateways}
        rows = [JobRecord(*row) for row in connection.execute(query)]
        found = _joined(with_parts(connection, [row for row in rows if row.run in seen_at]))
    heard = [(one, _heard_at(one, seen_at[one.job.run])) for one in found]
    live = [(one, at) for one, at in heard if own.started_at - at <= silent_s]
    return [_unfinished(one, -1 - rank, at, alone) for rank, (one, at) in enumerate(live)]


def _joined(found: Iterable[Recorded]) -> list[Recorded]:
    """A job that went on beside another process has more than one row: its latest, with what belongs to all of them."""
    jobs_of: dict[tuple[str, str, float], Recorded] = {}
    for one in found:
        latest = jobs_of.setdefault((one.job.tenant, one.job.job, one.job.arrived_at), one)
        if latest is not one:
            latest.calls[:0], latest.tools[:0] = one.calls, one.tools
    return list(jobs_of.values())


def _unfinished(one: Recorded, number: int, heard_at: float, alone: bool) -> Unfinished:
    parts: list[CallRecord | ToolRecord] = [*one.calls, *one.tools]
    service_s, path_s = _attained(one.calls)
    open_tools = [OpenTool(tool.run, tool.name, tool.parent or None) for tool in one.tools if not _ended(tool)]
    steps = [
        PastStep(call.stage, call.model, call.arrived_s, _end(call), call.prompt_tokens, call.output_tokens)
        for call in one.calls
    ]
    steps += [PastStep(tool.name, None, tool.started_s, tool.ended_s) for tool in one.tools if _ended(tool)]
    steps.sort(key=lambda step: step.began_s)
    return Unfinished(
        one.job,
        number,
        heard_at,
        service_s,
        path_s,
        steps,
        open_tools,
        Continued(_row(one, alone), 1 + max((part.n for part in parts), default=-1), _cut(parts) if alone else []),
    )


def _row(one: Recorded, alone: bool) -> JobRecord:
    """The job's row, with what its parts add up to: while it is open that is not kept."""
    parts: list[CallRecord | ToolRecord] = [*one.calls, *one.tools]
    ends = [part.ended_s for part in parts if part.ended_s is not None]
    ended = [call for call in one.calls if not is_open(call)]
    return msgspec.structs.replace(
        one.job,
        id=one.job.id if alone else 0,
        ended_s=max(ends, default=None),
        calls=len(one.calls),
        tool_runs=len(one.tools),
        prompt_tokens=sum(call.prompt_tokens for call in ended),
        output_tokens=sum(call.output_tokens for call in ended),
        wait_s=sum(call.dispatched_s - call.arrived_s for call in one.calls if call.dispatched_s is not None),
        urgency=min((call.urgency for call in one.calls), default=one.job.urgency),
    )


def _cut(parts: Iterable[CallRecord | ToolRecord]) -> list[CallRecord | ToolRecord]:
    """What was under way, as interrupted: from now on nobody else will say so."""
    return [msgspec.structs.replace(part, outcome="interrupted") for part in parts if is_open(part)]


def _attained(calls: Sequence[CallRecord]) -> tuple[float, float]:
    """Slot-seconds of the calls that have ended, and those along their longest chain (as `Job.path_s`)."""
    service_s, ends = 0.0, list[tuple[float, float]]()
    for call in sorted(calls, key=lambda call: call.arrived_s):
        began = call.dispatched_s if call.started_s is None else call.started_s
        if call.outcome == "finished" and began is not None and call.ended_s is not None:
            held_s = call.ended_s - began
            service_s += held_s
            before_s = max((path_s for at, path_s in ends if at <= call.arrived_s), default=0.0)
            ends.append((call.ended_s, before_s + held_s))
    return service_s, max((path_s for _, path_s in ends), default=0.0)


def _end(call: CallRecord) -> float | None:
    return call.ended_s if call.outcome == "finished" else None


def _ended(tool: ToolRecord) -> bool:
    return tool.outcome == "finished"


def _heard_at(one: Recorded, seen_at: float) -> float:
    """When there was news of it; of one with a call under way, when its process was last seen."""
    if any(call.ended_s is None for call in one.calls):
        return max(one.job.arrived_at, seen_at)
    times = [at for call in one.calls for at in (call.arrived_s, call.ended_s) if at is not None]
    times += [at for tool in one.tools for at in (tool.started_s, tool.ended_s) if at is not None]
    return one.job.arrived_at + max(times, default=0.0)
