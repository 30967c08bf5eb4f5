"""benchmarks/overload.py, a small version: what must hold there holds in a minute of virtual time, too."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def overload(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = import_module("overload")
    monkeypatch.setattr(module, "WARM_S", 10.0)
    monkeypatch.setattr(module, "SIMULATED_S", 60.0)
    return module


def test_goodput_stays_where_whole_jobs_are_refused(overload: Any) -> None:
    rows = [overload.simulated("fcfs", True, load, 1) for load in (2.0, 5.0)]
    peak = max(row.goodput for row in rows)
    assert all(row.goodput >= 0.9 * peak and row.refused and not row.late for row in rows)
    assert overload.simulated("fcfs", False, 5.0, 1).goodput < 0.5 * peak, "without limits it collapses"


def test_no_later_call_of_a_job_that_was_let_in_is_refused(overload: Any) -> None:
    limits = import_module("_overload_jobs")
    drawn = overload.jobs(5.0, 60.0, 0)
    refused = overload.simulate(drawn, overload.setup(limits.LIMITS), "default").rejected
    first = {job.job: job.stages[0].id for job in drawn}
    assert refused
    assert all(why == f"stage {first[job]}: 503 overloaded" for job, why in refused.items())
