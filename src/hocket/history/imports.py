"""A trace into a history: all of it, or nothing."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path

from hocket import __version__
from hocket.history.records import Record
from hocket.history.schema import RunRecord
from hocket.history.store import Store
from hocket.history.traces import from_job
from hocket.history.writer import new_run
from hocket.trace import Job, iter_jobs


def import_trace(store: Store, path: str | Path) -> tuple[int, int]:
    """Write the jobs of a trace as one run, whose last job arrives now. Returns how many, and how many had text.

    Raises InputError with the number of the first bad line, StoreError where the database does not do it. The file is
    read twice: it is known to be good, and when it ends, before anything is written.
    """
    jobs, last = 0, 0.0
    for job in iter_jobs(path):
        jobs, last = jobs + 1, max(last, job.arrival_s)
    run = new_run("", __version__, kind="import")
    run.ended_at = run.seen_at
    texts, base = 0, time.time() - last

    def records(of: Iterable[Job]) -> Iterator[Record | RunRecord]:
        nonlocal texts
        ids = count(run.id)
        yield run
        for job in of:
            found, had_text = from_job(job, ids, run.id, base)
            texts += had_text
            yield found.job
            yield from found.calls
            yield from found.tools

    with store.connect() as connection:
        store.write(connection, records(iter_jobs(path)))
    return jobs, texts
