"""The recorded jobs of the benchmarks: whole, sound, and divided so that nothing to test on was learned from."""

import csv
from pathlib import Path
from types import ModuleType

import pytest

from hocket.trace import decode_job, encode_job

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"the recorded runs are not at {DATA}")


def test_all_jobs_are_there_and_sound(recorded: ModuleType) -> None:
    jobs = recorded.recorded_jobs()
    assert {app: len(some) for app, some in jobs.items()} == {
        "react": 133,
        "reflexion": 654,
        "tot-game24": 100,
        "tot-text": 100,
        "worf-alfworld": 312,
        "worf-lumos": 489,
        "worf-toolalpaca": 93,
        "worf-webshop": 133,
        "worf-wikihow": 255,
    }
    every = [job for some in jobs.values() for job in some]
    assert [decode_job(encode_job(job)) for job in every] == every
    assert len({job.job for job in every}) == len(every)
    assert jobs == recorded.recorded_jobs(), "what is filled in is the same at any time"
    assert {stage.model for some in recorded.recorded_jobs("one").values() for job in some for stage in job.stages} == {
        "small",
        None,
    }


def test_totals_are_those_that_were_recorded(recorded: ModuleType) -> None:
    """Of a tree of thoughts only sums are known: what was shared out adds up to them."""
    with (DATA / "tree_of_thoughts_runs" / "jobs.csv").open() as lines:
        rows = {row["idx"]: row for row in csv.DictReader(lines) if row["family"] == "game24_bfs"}
    for job in recorded.recorded_jobs()["tot-game24"]:
        row = rows[job.job.removeprefix("tot-game24-")]
        prompts, answers = (sum(getattr(s, f"{of}_tokens") for s in job.stages) for of in ("prompt", "output"))
        assert prompts == pytest.approx(int(row["prompt_tokens"]), rel=0.05)
        assert answers == pytest.approx(int(row["completion_tokens"]), rel=0.05)
        values = [stage for stage in job.stages if stage.name == "value"]
        assert len(values) == sum(int(row[f"cand{level}"]) for level in range(4))


def test_halves_have_no_question_in_common(recorded: ModuleType) -> None:
    for app, jobs in recorded.recorded_jobs().items():
        learned, tested = recorded.halves(jobs)
        assert len(learned) + len(tested) == len(jobs)
        assert 0.3 * len(jobs) < len(learned) < 0.7 * len(jobs), app
        about = [{job.extra["recorded"] for job in half} for half in (learned, tested)]
        assert not about[0] & about[1]
        assert (learned, tested) == recorded.halves(jobs)


def test_arriving_jobs_are_the_recorded_ones(recorded: ModuleType) -> None:
    jobs = recorded.recorded_jobs()
    drawn = recorded.arriving(jobs, 200, 2.0, 1)
    assert drawn == recorded.arriving(jobs, 200, 2.0, 1) != recorded.arriving(jobs, 200, 2.0, 2)
    known = {job.job: job.stages for some in jobs.values() for job in some}
    assert all(known[job.job.rpartition("#")[0]] == job.stages for job in drawn)
    assert len({job.job for job in drawn}) == 200 and {job.app for job in drawn} == set(jobs)
    assert drawn[-1].arrival_s == pytest.approx(100, rel=0.3)
