"""Recorded jobs as jobs of a trace (`hocket.trace`), and the other way round.

What a record does not say is inferred: a stage *needs* those that had ended when it arrived (reduced: not those that
such a one needed itself), and the time from the last of their ends to its arrival, which the application spent on
something that nobody reported, becomes a tool stage named `gap`.
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from hocket.history.records import CallRecord, JobRecord, ToolRecord
from hocket.trace import GAP, Job, Stage, decode_job, encode_job

GAP_S = 0.001
"a shorter one is the gateway's and the client's own work"
DIGITS = 6
"of times in a trace: microseconds"


class Recorded(NamedTuple):
    """A job with all that belongs to it."""

    job: JobRecord
    calls: list[CallRecord]
    tools: list[ToolRecord]


class Ran(msgspec.Struct, omit_defaults=True):
    """How a stage went: the field `ran` of an exported stage. Seconds since the job's arrival."""

    arrived_s: float
    ended_s: float
    dispatched_s: float | None = None
    started_s: float | None = None
    first_token_s: float | None = None
    engine: str | None = None
    replica: str | None = None
    attempts: int = 1
    urgency: int | None = None
    "where it is not the job's"
    parent: str | None = None
    retry: int = 0
    "the client's own count of attempts"


# -------------------------------------------------------------------- to a trace


def to_jobs(recorded: Iterable[Recorded], *, as_imported: bool = False) -> Iterator[Job]:
    """Ended jobs as a trace, which begins with the first arrival. Left out are jobs that are open, of which no stage
    ran, or that were cut by the end of their process.

    `as_imported`, for the jobs of one imported file: they arrive as they did there.
    """
    seen: dict[str, int] = {}
    first: float | None = None
    for one in recorded:
        job = one.job
        told = decode_job(job.trace) if job.trace else _inferred(one)
        if told is None:
            continue
        if not as_imported:
            first = job.arrived_at if first is None else first
            told.arrival_s = round(job.arrived_at - first, DIGITS)
        # ids are a tenant's own, and a job that was idle may come back under its name
        count = seen[told.job] = seen.get(told.job, 0) + 1
        if count > 1:
            told.job = f"{told.job}#{count}"
            seen[told.job] = 1
        yield told


def _inferred(one: Recorded) -> Job | None:
    job = one.job
    ran = [call for call in one.calls if call.dispatched_s is not None and call.ended_s is not None]
    stages = [_call_stage(call, job) for call in ran]
    stages += [_tool_stage(tool) for tool in one.tools if tool.ended_s is not None]
    cut = "interrupted" in {*(call.outcome for call in one.calls), *(tool.outcome for tool in one.tools)}
    # a job that two processes served at once has a row in each: the rest of it is elsewhere
    cut = cut or min((*(call.n for call in one.calls), *(tool.n for tool in one.tools)), default=0) > 0
    if job.state == "open" or cut or not stages:
        return None
    stages.sort(key=lambda entry: (entry.arrived, entry.n))
    return Job(
        job=job.job,
        app=job.app,
        tenant=job.tenant,
        urgency=job.urgency,
        deadline_s=job.deadline_s or None,
        features=msgspec.json.decode(job.features) if job.features else {},
        stages=list(_with_needs(stages)),
    )


class _Entry(NamedTuple):
    arrived: float
    ended: float
    n: int
    stage: Stage


def _call_stage(call: CallRecord, job: JobRecord) -> _Entry:
    assert call.ended_s is not None
    ran = Ran(
        round(call.arrived_s, DIGITS),
        round(call.ended_s, DIGITS),
        _rounded(call.dispatched_s),
        _rounded(call.started_s),
        _rounded(call.first_token_s),
        call.engine or None,
        call.replica or None,
        call.attempts,
        call.urgency if call.urgency != job.urgency else None,
        call.parent or None,
        call.retry,
    )
    stage = Stage(
        id=f"s{call.n}",
        name=call.stage,
        kind="llm",
        model=call.model,
        prompt_tokens=call.prompt_tokens,
        output_tokens=call.output_tokens,
        max_tokens=call.max_tokens or None,
        hint_output_tokens=call.hint_output_tokens or None,
        outcome=None if call.outcome == "finished" else call.outcome,
        extra={"ran": msgspec.to_builtins(ran)},
    )
    return _Entry(call.arrived_s, call.ended_s, call.n, stage)


def _rounded(at: float | None) -> float | None:
    return None if at is None else round(at, DIGITS)


def _tool_stage(tool: ToolRecord) -> _Entry:
    assert tool.ended_s is not None
    ran = Ran(round(tool.started_s, DIGITS), round(tool.ended_s, DIGITS), parent=tool.parent or None)
    duration = round(max(tool.ended_s - tool.started_s, 0.0), DIGITS)
    stage = Stage(
        id=f"s{tool.n}", name=tool.name, kind="tool", duration_s=duration, extra={"ran": msgspec.to_builtins(ran)}
    )
    return _Entry(tool.started_s, tool.ended_s, tool.n, stage)


def _with_needs(entries: Sequence[_Entry]) -> Iterator[Stage]:
    """The stages with what each needs, and gaps between; `entries` in the order of arrival.

    Of those that ended before a stage arrived, let L be the one that arrived last. Whatever ended before L arrived, L
    needs itself; so the stage needs L and those that ended after L's arrival: the transitive reduction, by walking
    back from the latest end.
    """
    running: list[tuple[float, int]] = []  # heap of (end, place)
    done: list[tuple[float, int]] = []  # the same, sorted
    last = -1
    for place, entry in enumerate(entries):
        while running and running[0][0] <= entry.arrived:
            ended = heapq.heappop(running)
            insort(done, ended)
            last = max(last, ended[1])
        needs: list[str] = []
        for end, other in reversed(done):
            if other != last and end <= entries[last].arrived:
                break
            needs.append(entries[other].stage.id)
        since = done[-1][0] if done else 0.0
        if last >= 0 and entries[last].stage.id not in needs:
            needs.append(entries[last].stage.id)
        needs.sort(key=lambda stage_id: int(stage_id[1:]))
        if entry.arrived - since > GAP_S:
            duration = round(entry.arrived - since, DIGITS)
            gap = Stage(id=f"gap-{entry.stage.id}", name=GAP, kind="tool", needs=needs, duration_s=duration)
            yield gap
            needs = [gap.id]
        entry.stage.needs = needs
        yield entry.stage
        heapq.heappush(running, (entry.ended, place))


# -------------------------------------------------------------------- from a trace


def from_job(job: Job, ids: Iterator[int], run: int, base: float) -> tuple[Recorded, bool]:
    """A job of a trace as records, and whether it had text, which is left out. Its arrival is `base` + arrival_s.

    Where its stages say how they `ran`, the records do as well; else their times are unknown.
    """
    kept = msgspec.structs.replace(job, text=None)
    record = JobRecord(
        next(ids),
        run,
        job.job,
        job.tenant,
        job.app,
        job.urgency,
        base + job.arrival_s,
        job.deadline_s or 0.0,
        msgspec.json.encode(job.features).decode() if job.features else "",
        state="closed",
        trace=encode_job(kept).decode(),
    )
    calls, tools, last = [], [], None
    for n, stage in enumerate(job.stages):
        ran = _ran(stage)
        if ran is not None:
            last = max(last or 0.0, ran.ended_s)
        if stage.kind == "llm":
            calls.append(_call(record, n, stage, ran))
        elif stage.name != GAP:
            tools.append(_tool(record, n, stage, ran))
    record.ended_s = last
    record.calls, record.tool_runs = len(calls), len(tools)
    record.prompt_tokens = sum(call.prompt_tokens for call in calls)
    record.output_tokens = sum(call.output_tokens for call in calls)
    record.wait_s = sum(call.dispatched_s - call.arrived_s for call in calls if call.dispatched_s is not None)
    return Recorded(record, calls, tools), job.text is not None


def _ran(stage: Stage) -> Ran | None:
    """What the stage says of how it ran; None if it says nothing that can be understood."""
    try:
        return msgspec.convert(stage.extra.get("ran"), Ran | None)
    except msgspec.ValidationError:
        return None


def _call(job: JobRecord, n: int, stage: Stage, ran: Ran | None) -> CallRecord:
    call = CallRecord(
        job.id,
        n,
        stage.id,
        stage.name,
        stage.model or "",
        job.urgency,
        "",
        stage.max_tokens or 0,
        stage.hint_output_tokens or 0,
        stage.prompt_tokens,
        0.0,
        stage.output_tokens,
        outcome=stage.outcome if isinstance(stage.outcome, str) else "finished",
    )
    if ran is not None:
        call.arrived_s, call.ended_s = ran.arrived_s, ran.ended_s
        call.dispatched_s, call.started_s, call.first_token_s = ran.dispatched_s, ran.started_s, ran.first_token_s
        call.engine, call.replica, call.parent = ran.engine or "", ran.replica or "", ran.parent or ""
        call.attempts = ran.attempts
        call.retry = ran.retry
        call.urgency = job.urgency if ran.urgency is None else ran.urgency
    return call


def _tool(job: JobRecord, n: int, stage: Stage, ran: Ran | None) -> ToolRecord:
    tool = ToolRecord(job.id, n, stage.id, stage.name, "", 0.0, stage.duration_s, "finished")
    if ran is not None:
        tool.started_s, tool.ended_s, tool.parent = ran.arrived_s, ran.ended_s, ran.parent or ""
    return tool
