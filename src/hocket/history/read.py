"""What the command line asks of a history."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from math import inf
from typing import Any, NamedTuple, TypeVar

import msgspec
from sqlalchemy import Connection, Select, Table, func, select

from hocket.history.records import CallRecord, JobRecord, ToolRecord
from hocket.history.schema import calls, jobs, runs, tool_runs
from hocket.history.store import translated
from hocket.history.traces import Recorded

CHUNK = 500
"jobs whose calls are fetched together"

T = TypeVar("T", JobRecord, CallRecord, ToolRecord)
P = TypeVar("P", CallRecord, ToolRecord)


class Filter(msgspec.Struct, frozen=True):
    """Which jobs. None: any."""

    app: str | None = None
    tenant: str | None = None
    state: str | None = None
    since: float | None = None
    "arrived at this time or later; seconds since 1970"

    def on(self, query: Select[Any]) -> Select[Any]:
        """The query with these conditions."""
        for column, value in ((jobs.c.app, self.app), (jobs.c.tenant, self.tenant), (jobs.c.state, self.state)):
            if value is not None:
                query = query.where(column == value)
        return query if self.since is None else query.where(jobs.c.arrived_at >= self.since)


def latest(connection: Connection, which: Filter, limit: int) -> list[JobRecord]:
    """The last `limit` jobs, the latest arrival first. Raises StoreError."""
    query = which.on(select(jobs)).order_by(jobs.c.arrived_at.desc(), jobs.c.id.desc()).limit(limit)
    with translated(), connection.begin():
        return _records(JobRecord, connection.execute(query))


def named(connection: Connection, job: str, tenant: str | None = None) -> list[Recorded]:
    """The jobs of this id, the latest first: of several tenants, or one that came back. Raises StoreError."""
    query = Filter(tenant=tenant).on(select(jobs)).where(jobs.c.job == job).order_by(jobs.c.arrived_at.desc())
    with translated(), connection.begin():
        return with_parts(connection, _records(JobRecord, connection.execute(query)))


def recorded(connection: Connection, which: Filter) -> Iterator[Recorded]:
    """All jobs with their calls and tool runs, in the order of arrival; a chunk at a time. Raises StoreError."""
    with translated(), connection.begin():
        ids = connection.execute(which.on(select(jobs.c.id)).order_by(jobs.c.arrived_at, jobs.c.id)).scalars().all()
    for start in range(0, len(ids), CHUNK):
        query = select(jobs).where(jobs.c.id.in_(ids[start : start + CHUNK])).order_by(jobs.c.arrived_at, jobs.c.id)
        with translated(), connection.begin():
            chunk = with_parts(connection, _records(JobRecord, connection.execute(query)))
        yield from chunk


def of_one_import(connection: Connection, which: Filter) -> bool:
    """Whether all of these jobs come from one imported file. Raises StoreError."""
    with translated(), connection.begin():
        found = connection.execute(which.on(select(jobs.c.run).distinct()).limit(2)).scalars().all()
        kinds = connection.execute(select(runs.c.kind).where(runs.c.id.in_(found))).scalars().all()
    return len(found) == 1 and kinds == ["import"]


def policies(connection: Connection, which: Filter) -> list[str]:
    """The policies by which the calls of these jobs were ordered. Raises StoreError."""
    query = select(runs.c.policy).distinct().where(runs.c.id.in_(which.on(select(jobs.c.run).distinct())))
    with translated(), connection.begin():
        return list(connection.execute(query).scalars())


def with_parts(connection: Connection, found: Sequence[JobRecord]) -> list[Recorded]:
    """These jobs with their calls and tool runs; inside a transaction. Raises StoreError in `translated`."""
    ids = [job.id for job in found]

    def parts(table: Table, kind: type[P]) -> dict[int, list[P]]:
        query = select(table).where(table.c.job_id.in_(ids)).order_by(table.c.job_id, table.c.n)
        rows = _records(kind, connection.execute(query))
        return {job: list(group) for job, group in groupby(rows, key=lambda row: row.job_id)}

    of_calls, of_tools = parts(calls, CallRecord), parts(tool_runs, ToolRecord)
    return [Recorded(job, of_calls.get(job.id, []), of_tools.get(job.id, [])) for job in found]


def _records(kind: type[T], rows: Any) -> list[T]:
    return [kind(*row) for row in rows]


class Arrivals(NamedTuple):
    """How often applications were asked for."""

    jobs: dict[str, int]
    "application -> jobs that arrived, whatever became of them"
    seconds: float
    "for which a gateway recorded, or an imported file lasts"


def arrivals(connection: Connection, since: float | None = None) -> Arrivals:
    """Of the jobs that arrived at `since` (seconds since 1970) or later. Raises StoreError."""
    which, first, last = Filter(since=since), func.min(jobs.c.arrived_at), func.max(jobs.c.arrived_at)
    with translated(), connection.begin():
        counts = connection.execute(which.on(select(jobs.c.app, func.count())).group_by(jobs.c.app)).all()
        bounds = connection.execute(which.on(select(jobs.c.run, first, last)).group_by(jobs.c.run)).all()
        every = connection.execute(select(runs.c.id, runs.c.kind, runs.c.started_at, runs.c.seen_at)).all()
    seen = {run: (begin, end) for run, begin, end in bounds}
    spans = []
    for run, kind, started_at, seen_at in every:
        begin, end = seen.get(run, (seen_at, seen_at))
        if kind == "gateway":  # it also ran while nobody came
            begin, end = min(started_at, begin), max(seen_at, end)
        spans.append((begin if since is None else max(begin, since), end))
    return Arrivals({row[0]: row[1] for row in counts}, _covered(spans))


def _covered(spans: Sequence[tuple[float, float]]) -> float:
    """Seconds in at least one of (begin, end): gateways that run side by side share what comes."""
    total, until = 0.0, -inf
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total
