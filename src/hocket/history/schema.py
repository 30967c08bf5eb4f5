"""The tables, as the newest migration leaves them: their columns are the fields of `hocket.history.records`.

A test runs the migrations and compares what they make with this.
"""

from __future__ import annotations

from types import UnionType
from typing import Any, get_args, get_type_hints

import msgspec
from sqlalchemy import BigInteger, Column, Double, Index, Integer, MetaData, Table, Text, text
from sqlalchemy.types import TypeEngine

from hocket.history.records import CallRecord, JobRecord, ToolRecord

HEAD = "0003"
"the newest revision in `migrations/versions`"


class RunRecord(msgspec.Struct):
    """A process that recorded, or a file that was imported."""

    id: int
    kind: str
    "gateway | import"
    host: str
    pid: int
    hocket: str
    "its version"
    policy: str
    started_at: float
    "seconds since 1970"
    seen_at: float
    "when it last wrote"
    ended_at: float | None = None
    "None: it runs, or it died"


metadata = MetaData()

_TYPES: dict[Any, type[TypeEngine[Any]]] = {int: BigInteger, float: Double, str: Text}
_SMALL = frozenset({"n", "pid", "urgency", "attempts", "status", "retry", "calls", "tool_runs"})


def _table(name: str, record: type[msgspec.Struct], key: tuple[str, ...], *indexes: Index) -> Table:
    hints = get_type_hints(record)
    columns = []
    for field in msgspec.structs.fields(record):
        hint = hints[field.name]
        kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
        kind = Integer if field.name in _SMALL else _TYPES[kinds[0]]
        columns.append(Column(field.name, kind, primary_key=field.name in key, nullable=type(None) in kinds))
    for column in columns:
        column.autoincrement = False
    # clustered by its key: what belongs to a job lies together, and there is one tree to write instead of two
    return Table(name, metadata, *columns, *indexes, sqlite_with_rowid=False)


runs = _table("runs", RunRecord, ("id",))
jobs = _table("jobs", JobRecord, ("id",), Index("jobs_arrived_at", "arrived_at"), Index("jobs_job", "job"))
_KEYED = text("idempotency <> ''")
calls = _table(
    "calls",
    CallRecord,
    ("job_id", "n"),
    Index("calls_idempotency", "idempotency", sqlite_where=_KEYED, postgresql_where=_KEYED),
)
tool_runs = _table("tool_runs", ToolRecord, ("job_id", "n"))

TABLES: dict[type[msgspec.Struct], Table] = {
    RunRecord: runs,
    JobRecord: jobs,
    CallRecord: calls,
    ToolRecord: tool_runs,
}
"record -> where it goes"
