"""Whether a call of this key was made before: asked after a restart, when no answer is in memory any more."""

from __future__ import annotations

from sqlalchemy import Connection, func, select

from hocket.history.schema import calls, jobs
from hocket.history.store import translated

ANSWERED = ("", "finished", "interrupted")
"outcomes of calls that were answered, or may have been: those that run, too. The others may be made again"


def called_before(connection: Connection, key: str, since: float, own: str) -> str | None:
    """The job of the call with this hash of a key, if it ran at `since` (seconds since 1970) or later, and was or may
    have been answered. Calls whose ids begin with `own` do not count. Raises StoreError.
    """
    latest = jobs.c.arrived_at + func.coalesce(calls.c.ended_s, calls.c.arrived_s)
    query = (
        select(jobs.c.job)
        .join(calls, calls.c.job_id == jobs.c.id)
        # the second condition is the index's own: SQLite uses it only where it is repeated
        .where(calls.c.idempotency == key, calls.c.idempotency != "", calls.c.outcome.in_(ANSWERED), latest >= since)
        .where(~calls.c.call.startswith(own, autoescape=True))
        .limit(1)
    )
    with translated(), connection.begin():
        return connection.execute(query).scalar()
