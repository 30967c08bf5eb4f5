"""Generated jobs: reproducible, sound, and like the runs that their constants were learned from."""

import csv
import gzip
import itertools
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from hocket.cli import main
from hocket.sim.workloads import APPLICATIONS, MIXES, generate
from hocket.trace import decode_job, encode_job, read_jobs

DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.parametrize("name", [*APPLICATIONS, *MIXES])
def test_reproducible_and_sound(name: str) -> None:
    jobs = list(generate(name, 60, 2.0, seed=5))
    assert jobs == list(generate(name, 60, 2.0, seed=5)) != list(generate(name, 60, 2.0, seed=6))
    assert [decode_job(encode_job(job)) for job in jobs] == jobs
    assert {job.app for job in jobs} == set(MIXES.get(name, (name,)))


@pytest.mark.parametrize("name", APPLICATIONS)
def test_what_is_revealed_is_needed_first(name: str) -> None:
    """A stage can only begin after the stage that decided it."""
    for job in generate(name, 60, 1.0, seed=1):
        before: dict[str, set[str]] = {}
        for stage in job.stages:
            before[stage.id] = set(stage.needs).union(*(before[need] for need in stage.needs))
            assert stage.revealed_by is None or stage.revealed_by in before[stage.id]
            if stage.shares_prefix is not None and "." not in stage.id:  # samples share with one another
                assert stage.shares_prefix.stage in before[stage.id]


def test_arrivals_are_poisson() -> None:
    arrivals = [job.arrival_s for job in generate("web-search", 5_000, 4.0, seed=2)]
    gaps = [after - before for before, after in itertools.pairwise(arrivals)]
    assert statistics.fmean(gaps) == pytest.approx(0.25, rel=0.05)
    assert statistics.pstdev(gaps) == pytest.approx(0.25, rel=0.05)


def test_repairs_are_bimodal() -> None:
    rounds = Counter(sum(s.name == "repair" for s in job.stages) for job in generate("code-generation", 4_000, 1, 3))
    assert rounds[0] / 4_000 == pytest.approx(0.6247, abs=0.03)
    assert rounds[4] / 4_000 == pytest.approx(0.2721, abs=0.03)


@pytest.mark.skipif(not DATA.is_dir(), reason=f"the recorded runs are not at {DATA}")
def test_program_sizes_are_those_of_the_recorded_runs() -> None:
    with gzip.open(DATA / "reflexion_lats_runs" / "mbpp_py_runs_dev.csv.gz", "rt") as file:
        rows = [row for row in csv.DictReader(file) if row["run"] == "reflexion_mbpp_py"]
    recorded = statistics.quantiles([int(row["solution_tokens"]) for row in rows], n=10)
    made = [
        s.output_tokens for job in generate("code-generation", 4_000, 1, 4) for s in job.stages if s.name == "write"
    ]
    assert statistics.quantiles(made, n=10) == pytest.approx(recorded, rel=0.1)


def test_the_command(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "jobs.jsonl"
    assert main(["workload", "planning", "--jobs", "7", "--rate", "0.5", "--seed", "1", "-o", str(path)]) == 0
    assert read_jobs(path) == list(generate("planning", 7, 0.5, 1))
    assert main(["workload", "list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in [*APPLICATIONS, *MIXES])
    for bad in (
        ["nope"],
        ["planning", "--jobs", "0"],
        ["planning", "--rate", "0"],
        ["planning", "-o", "/nonexistent/x"],
    ):
        assert main(["workload", *bad]) == 2
        assert capsys.readouterr().err.count("\n") == 1
