"""Rates of a history: jobs, over the time for which a gateway recorded."""

from __future__ import annotations

import pytest

from hocket.history.read import arrivals
from hocket.history.records import JobRecord
from hocket.history.schema import RunRecord
from hocket.history.store import Store

AT = 1.7e9


def run(number: int, begin: float, end: float, kind: str = "gateway") -> RunRecord:
    return RunRecord(number, kind, "host", 1, "0", "las", AT + begin, AT + end)


def job(number: int, run: int, at: float, app: str = "rag") -> JobRecord:
    return JobRecord(number, run, f"j{number}", "t", app, 2, AT + at)


@pytest.mark.parametrize(
    ("since", "jobs", "seconds"),
    [(None, {"rag": 3, "chat": 2}, 500.0), (AT + 50.0, {"rag": 2, "chat": 2}, 450.0), (AT + 1050.0, {"rag": 1}, 50.0)],
)
def test_time_without_a_gateway_does_not_count(
    store: Store, since: float | None, jobs: dict[str, int], seconds: float
) -> None:
    """Two gateways side by side, then a pause, then one that was idle for the most part."""
    records = [
        *(run(1, 0.0, 300.0), run(2, 100.0, 400.0), run(3, 1000.0, 1090.0)),
        *(job(1, 1, 10.0), job(2, 2, 150.0), job(3, 1, 160.0, "chat"), job(4, 2, 390.0, "chat")),
        job(5, 3, 1100.0),  # later than its gateway last said that it lives
    ]
    with store.connect() as connection:
        store.write(connection, records)
        found = arrivals(connection, since)
    assert found.jobs == jobs and found.seconds == pytest.approx(seconds)


def test_an_imported_file_lasts_from_its_first_to_its_last_job(store: Store) -> None:
    with store.connect() as connection:
        store.write(connection, [run(1, 900.0, 900.0, "import"), job(1, 1, 0.0), job(2, 1, 800.0)])
        assert arrivals(connection) == ({"rag": 2}, 800.0)


def test_an_empty_history_has_no_time(store: Store) -> None:
    with store.connect() as connection:
        assert arrivals(connection) == ({}, 0.0)
