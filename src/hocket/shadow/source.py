"""The jobs of a while ago, from a history or from a journal."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Connection

from hocket.errors import InputError
from hocket.history.read import Filter, policies, recorded
from hocket.history.records import CallRecord, JobRecord, Ledger, Record, ToolRecord, policy_of
from hocket.history.traces import Recorded
from hocket.journal import read_journal
from hocket.policies import compose, parse_policy

PASSED_THROUGH = "call-fcfs"
"what it comes to when hocket only observes: the engine takes the calls in the order of their arrival"


class Past(NamedTuple):
    """What was recorded."""

    jobs: list[Recorded]
    policy: str
    "by which calls were ordered, as `hocket simulate --policy` takes it"


def from_history(connection: Connection, since: float) -> Past:
    """Jobs that arrived since then (seconds since 1970). Raises StoreError."""
    which = Filter(since=since)
    return Past(list(recorded(connection, which)), _known(policies(connection, which)))


def from_journal(path: str | Path, last_s: float) -> Past:
    """Jobs that arrived in the last seconds of a journal. Raises InputError.

    A file that goes on from an older one leaves out the jobs that had begun there.
    """
    header, records = read_journal(path)
    ended: list[Record] = []
    ledger = Ledger(0, count(), lambda record: None, ended.append, offset=0.0, prefixed=bool(header.spec.tenants))
    at = 0.0
    for _, record in records:
        ledger.seen(record.event, record.commands)
        at = max(at, record.event.at)
    ledger.interrupt(at)
    jobs = {record.id: Recorded(record, [], []) for record in ended if isinstance(record, JobRecord)}
    for part in ended:
        if isinstance(part, CallRecord):
            jobs[part.job_id].calls.append(part)
        elif isinstance(part, ToolRecord):
            jobs[part.job_id].tools.append(part)
    found = sorted(jobs.values(), key=lambda one: (one.job.arrived_at, one.job.id))
    return Past([one for one in found if one.job.arrived_at >= at - last_s], _known([policy_of(header.spec)]))


def _known(found: list[str]) -> str:
    """The one policy that all were ordered by; where there was none, or there were several, order of arrival."""
    if len(found) == 1:
        policy = found[0].replace(" ", "")
        try:
            compose(parse_policy(policy))
        except InputError:
            return PASSED_THROUGH
        return policy
    return PASSED_THROUGH
