"""Generated jobs: reproducible, sound, of the right applications; and the command that writes them."""

import itertools
import json
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from hocket.cli import main
from hocket.sim.workloads import APPLICATIONS, MIXES, MODELS, generate
from hocket.sim.workloads.arrivals import ARRIVALS, CLIENT_CV
from hocket.trace import Job, decode_job, encode_job, read_jobs


@pytest.mark.parametrize("name", [*APPLICATIONS, *MIXES])
def test_reproducible_and_sound(name: str) -> None:
    jobs = list(generate(name, 40, 2.0, seed=5))
    assert jobs == list(generate(name, 40, 2.0, seed=5)) != list(generate(name, 40, 2.0, seed=6))
    assert [decode_job(encode_job(job)) for job in jobs] == jobs
    assert {job.app for job in jobs} == set(MIXES.get(name, (name,)))


def test_the_applications_of_a_mix_are_equally_likely() -> None:
    for name, apps in MIXES.items():
        counts = Counter(job.app for job in generate(name, 600, 1.0, 2))
        assert all(count / 600 == pytest.approx(1 / len(apps), abs=0.06) for count in counts.values())


def test_only_mixed_has_tenants_and_urgencies() -> None:
    mixed = list(generate("mixed", 300, 1.0, 1))
    assert len({job.tenant for job in mixed}) == 4 and len({job.urgency for job in mixed}) == 5
    assert {(job.tenant, job.urgency) for job in generate("planning", 50, 1.0, 1)} == {("default", 2)}


def test_what_is_in_a_job_depends_on_neither_rate_nor_arrivals_nor_models() -> None:
    def inside(**how: Any) -> list[Any]:
        jobs = generate("mixed", 40, how.pop("rate", 1.0), 3, **how)
        return [
            (job.app, job.tenant, [(s.id, s.needs, s.prompt_tokens, s.output_tokens) for s in job.stages])
            for job in jobs
        ]

    assert inside() == inside(rate=7.0) == inside(arrivals="azure") == inside(models="three")


@pytest.mark.parametrize("name", APPLICATIONS)
def test_what_is_revealed_is_needed_first(name: str) -> None:
    """A stage can only begin after the stage that decided it."""
    for job in generate(name, 60, 1.0, seed=1):
        before: dict[str, set[str]] = {}
        names = {stage.id: stage.name for stage in job.stages}
        for stage in job.stages:
            before[stage.id] = set(stage.needs).union(*(before[need] for need in stage.needs))
            assert stage.revealed_by is None or stage.revealed_by in before[stage.id]
            if stage.shares_prefix is not None:
                other = stage.shares_prefix.stage
                assert other in before[stage.id] or names[other] == stage.name, "answers to one prompt share it"


@pytest.mark.parametrize("name", APPLICATIONS)
def test_features_are_what_the_first_request_shows(name: str) -> None:
    for job in generate(name, 30, 1.0, seed=1):
        first = job.stages[0]
        assert not first.needs
        assert job.features["prompt_tokens"] == first.prompt_tokens
        assert job.features.get("max_tokens") == first.max_tokens
        assert job.features.keys() <= {"prompt_tokens", "max_tokens", "tools"}


@pytest.mark.parametrize("name", MIXES["planning"])
def test_a_planner_reveals_all_but_the_answer(name: str) -> None:
    for job in generate(name, 100, 1.0, seed=1):
        plan, *steps, _answer = job.stages
        assert {step.revealed_by for step in steps} == {plan.id}
        assert plan.needs == [] and plan.output_tokens > 10


def test_sorting_is_decided_by_its_length() -> None:
    """The widths of the published graphs of operations: 1 + 2 x 5 + 10 + 10 calls, and so on."""
    counts = {
        (job.features["prompt_tokens"], sum(stage.kind == "llm" for stage in job.stages))
        for job in generate("sequence-sorting", 60, 1.0, 1)
    }
    assert counts == {(443, 31), (819, 71), (1547, 151)}


WIDTHS = (5, 15, 5, 15, 10, 30)


def test_merging_documents_scores_each_answer_three_times() -> None:
    job = next(generate("document-merging", 1, 1.0, 1))
    assert Counter(stage.name for stage in job.stages if stage.kind == "llm") == dict(
        zip(["write", "score-write", "combine", "score-combine", "refine", "score-refine"], WIDTHS, strict=True)
    )


def test_repairs_are_bimodal() -> None:
    rounds = Counter(sum(s.name == "repair" for s in job.stages) for job in generate("code-generation", 3_000, 1, 3))
    assert rounds[0] / 3_000 == pytest.approx(248 / 397, abs=0.03)
    assert rounds[4] / 3_000 == pytest.approx(108 / 397, abs=0.03)


def work(jobs: list[Job]) -> Counter[str]:
    """Rough engine time by model: a token of an answer costs as much as 20 of a prompt."""
    cost: Counter[str] = Counter()
    for stage in (stage for job in jobs for stage in job.stages if stage.model):
        cost[str(stage.model)] += stage.prompt_tokens + 20 * stage.output_tokens
    return cost


@pytest.mark.parametrize("models", MODELS)
@pytest.mark.parametrize("name", MIXES)
def test_no_model_is_idle(name: str, models: str) -> None:
    cost = work(list(generate(name, 150, 1.0, 1, models=models)))
    assert len(cost) == {"one": 1, "two": 2, "three": 3}[models]
    assert min(cost.values()) > 0.1 * cost.total()


# ---------------------------------------------------------------- arrivals


def gaps(arrivals: str, count: int, rate: float) -> list[float]:
    times = [job.arrival_s for job in generate("web-search", count, rate, 2, arrivals=arrivals)]
    assert times == sorted(times)
    return [after - before for before, after in itertools.pairwise(times)]


@pytest.mark.parametrize("arrivals", ARRIVALS)
def test_arrivals_keep_the_rate(arrivals: str) -> None:
    assert statistics.fmean(gaps(arrivals, 4_000, 0.1)) == pytest.approx(10.0, rel=0.06)


def test_poisson_gaps_are_as_wide_as_they_are_long_and_those_of_a_client_come_in_bunches() -> None:
    poisson, client = gaps("poisson", 5_000, 4.0), gaps("servegen", 5_000, 4.0)
    assert statistics.pstdev(poisson) / statistics.fmean(poisson) == pytest.approx(1.0, rel=0.05)
    assert statistics.pstdev(client) / statistics.fmean(client) == pytest.approx(CLIENT_CV, rel=0.1)


def test_the_rate_of_azure_moves_from_minute_to_minute() -> None:
    """Variance over mean of the arrivals of a minute: 1 for Poisson; 16 was recorded, at 5.53 a second."""
    spread = {}
    for arrivals in ("poisson", "azure"):
        minutes: Counter[int] = Counter()
        for at in itertools.accumulate(gaps(arrivals, 12_000, 5.53)):
            minutes[int(at // 60)] += 1
        counts = list(minutes.values())[:-1]
        spread[arrivals] = statistics.pvariance(counts) / statistics.fmean(counts)
    assert spread["poisson"] < 2 and 8 < spread["azure"] < 30


# ---------------------------------------------------------------- the command


def test_the_command(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "jobs.jsonl"
    words = ["--jobs", "7", "--rate", "0.5", "--seed", "1", "--models", "three", "--arrivals", "azure"]
    assert main(["workload", "planning", *words, "-o", str(path)]) == 0
    assert read_jobs(path) == list(generate("planning", 7, 0.5, 1, models="three", arrivals="azure"))
    assert main(["workload", "list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in [*APPLICATIONS, *MIXES])
    assert main(["workload", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out).keys() == {*APPLICATIONS, *MIXES}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nope"], "'nope' is none; known: sequence-sorting, "),
        (["planning", "--jobs", "0"], "--jobs 0: use 1 or more"),
        (["planning", "--rate", "0"], "--rate 0.0: use jobs a second, above 0"),
        (["planning", "--rate", "nan"], "--rate nan"),
        (["planning", "--models", "four"], "--models: 'four' is none; known: one, two, three"),
        (["planning", "--arrivals", "daily"], "--arrivals: 'daily' is none; known: poisson, azure, servegen"),
        (["planning", "-o", "/nonexistent/x"], "cannot be written"),
    ],
)
def test_bad_input_is_told_in_one_line(words: list[str], said: str, capsys: Any) -> None:
    assert main(["workload", *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and said in error


def test_what_the_command_writes_can_be_simulated(tmp_path: Path, capsys: Any) -> None:
    jobs, engines = tmp_path / "jobs.jsonl", tmp_path / "engines.yaml"
    one = "models: [small, medium, large], max_concurrency: 8, latency: {q2: 1.0e-4, d0: 0.01}"
    engines.write_text(f"engines:\n  - {{name: all, {one}}}\n")
    assert main(["workload", "mixed", "--jobs", "12", "--models", "three", "-o", str(jobs)]) == 0
    assert main(["simulate", str(jobs), "--engines", str(engines), "--policy", "fcfs", "--json", "-"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told["policies"]["fcfs"]["jct_s"]) and not told["policies"]["fcfs"].get("rejected")
