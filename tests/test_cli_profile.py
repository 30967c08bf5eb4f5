"""`hocket profile`: what was learned is shown as it is; what is explained is what was believed."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from msgspec import structs

from hocket.beliefs.profile import Network, Variable
from hocket.beliefs.record import Record, Step
from hocket.beliefs.summary import correlations, network_entropy, sizes
from hocket.beliefs.tracker import FIRST_SIZE_S
from hocket.cli import main
from hocket.profiles import read_profile, write_profile
from hocket.sim.workloads import generate
from hocket.trace import Job, Stage, write_jobs
from tests.beliefs.observed import ENGINE, record

APP = "code-generation"


class Learned:
    """A trace, and profiles learned from other jobs."""

    def __init__(self, folder: Path) -> None:
        self.trace, self.profiles = folder / "jobs.jsonl", folder / "profiles"
        write_jobs(self.trace, generate(APP, 20, 1.0, 5))
        write_jobs(folder / "earlier.jsonl", generate("mixed", 900, 1.0, 4))
        words = ["--from", folder / "earlier.jsonl", "-o", self.profiles]
        assert main(["learn", *map(str, words)]) == 0


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Learned:
    pytest.importorskip("pyagrum")
    return Learned(tmp_path_factory.mktemp("learned"))


@pytest.fixture
def profile(capsys: pytest.CaptureFixture[str]) -> Any:
    def profile(*words: object, code: int = 0) -> str:
        assert main(["profile", *map(str, words)]) == code
        told = capsys.readouterr()
        if code:
            assert told.err.count("\n") == 1, told.err
        return told.err if code else told.out

    return profile


# ---------------------------------------------------------------- show


def test_what_is_shown_is_what_was_learned(learned: Learned, profile: Any) -> None:
    shown = json.loads(profile("show", APP, "--profiles", learned.profiles, "--json"))
    file = read_profile(learned.profiles / f"{APP}.json")
    assert shown["nodes"] == json.loads(msgspec.json.encode(file.nodes))
    assert [edge["again"] for edge in shown["edges"]] == [False, False, False, True]
    names, matrix = correlations(file.records, [node.name for node in file.nodes])
    assert shown["correlations"] == {"names": names, "matrix": matrix.tolist()}
    assert file.network is not None
    assert shown["entropy_bits"] == pytest.approx(network_entropy(file.network))
    bits = [found["bits"] for found in shown["reducing"]]
    assert bits == sorted(bits, reverse=True) and bits[0] > 0.1
    write = next(found for found in shown["sizes"] if (found["stage"], found["fact"]) == ("write", "answer tokens"))
    answers = sorted(record.steps[0].output_tokens for record in file.records)
    assert answers[0] <= write["quantiles"][0] <= write["quantiles"][1] <= write["quantiles"][3] <= answers[-1]
    assert write["steps"] == len(file.records)


def test_a_page_for_people(learned: Learned, profile: Any) -> None:
    page = profile("show", "llm-compiler", "--profiles", learned.profiles)
    parts = ("plan/*", "holds search 100%", "(again)", "answer tokens", "reduce uncertainty", "which stages there are")
    for text in parts:
        assert text in page, text


def test_a_chart(learned: Learned, profile: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    png, svg = tmp_path / "a.png", tmp_path / "a.svg"
    profile("show", APP, "--profiles", learned.profiles, "--png", png, "--svg", svg)
    assert png.read_bytes().startswith(b"\x89PNG") and png.stat().st_size > 5_000
    assert "<svg" in svg.read_text()
    told = profile("show", APP, "--profiles", learned.profiles, "--png", tmp_path / "no" / "a.png", code=2)
    assert "cannot be written" in told


def test_without_a_network_it_says_so(learned: Learned, profile: Any, tmp_path: Path) -> None:
    file = read_profile(learned.profiles / f"{APP}.json")
    file.network = None
    write_profile(tmp_path, file)
    assert "has no Bayesian network" in profile("show", APP, "--profiles", tmp_path)
    shown = json.loads(profile("show", APP, "--profiles", tmp_path, "--json"))
    assert shown["reducing"] is shown["entropy_bits"] is None


def test_an_application_that_is_not_there(learned: Learned, profile: Any, tmp_path: Path) -> None:
    told = profile("show", "nope", "--profiles", learned.profiles, code=2)
    assert "no profile of 'nope'; there is code-generation, " in told
    assert "cannot be read" in profile("show", APP, "--profiles", tmp_path / "none", code=2)
    (tmp_path / f"{APP}.json").write_text("{")
    assert "not a profile" in profile("show", APP, "--profiles", tmp_path, code=2)


def test_a_profile_in_a_file_of_another_name(learned: Learned, profile: Any, tmp_path: Path) -> None:
    (tmp_path / "renamed.json").write_bytes((learned.profiles / f"{APP}.json").read_bytes())
    assert json.loads(profile("show", APP, "--profiles", tmp_path, "--json"))["app"] == APP


def test_names_are_printed_as_they_are(profile: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Neither markup nor formulas: they come from clients."""
    pytest.importorskip("matplotlib")
    app, stages = "[/red] :smile:", ["[/x] $\\frac{$", "$\\bad$"]
    calls = [
        Stage(id=f"s{k}", name=name, kind="llm", model="small", prompt_tokens=9, needs=[f"s{k - 1}"] if k else [])
        for k, name in enumerate(stages)
    ]
    sized = ([structs.replace(call, output_tokens=9 * n + 1) for call in calls] for n in range(10))
    jobs = [Job(job=f"[/j]{n}", app=app, stages=stages_of) for n, stages_of in enumerate(sized)]
    trace, profiles, engines = tmp_path / "jobs.jsonl", tmp_path / "profiles", tmp_path / "engines.yaml"
    write_jobs(trace, jobs)
    assert main(["learn", "--from", str(trace), "-o", str(profiles)]) == 0
    assert app in capsys.readouterr().out
    shown = profile("show", app, "--profiles", profiles, "--png", tmp_path / "map.png")
    explained = profile("explain", "[/j]3", "--trace", trace, "--profiles", profiles)
    assert all(name in text for name in stages for text in (shown, explained))
    engines.write_text(yaml.safe_dump({"engines": [msgspec.to_builtins(ENGINE)]}))
    words = [trace, "--engines", engines, "--policy", "fcfs", "--gantt-png", tmp_path / "gantt.png"]
    assert main(["simulate", *map(str, words)]) == 0


# ---------------------------------------------------------------- explain


def check(told: dict[str, Any]) -> None:
    """What is left shrinks by what ends, and is nothing in the end."""
    events = told["events"]
    assert events[0]["event"] == "the job arrives"
    assert told["over"]
    truths = [event["truth_s"] for event in events]
    assert truths[0] == pytest.approx(events[-1]["attained_s"]) and truths[-1] == 0.0
    assert all(after <= before for before, after in pairwise(truths))
    assert all(event["low_s"] <= event["high_s"] for event in events)


def test_a_job_of_a_trace(learned: Learned, profile: Any) -> None:
    told = json.loads(profile("explain", "j7", "--trace", learned.trace, "--profiles", learned.profiles, "--json"))
    check(told)
    assert (told["job"], told["app"], told["replayed"]) == ("j7", APP, False)
    assert [event["event"].split()[0] for event in told["events"][1:5]] == ["write", "write", "test", "test"]
    assert all(event["network_s"] is not None for event in told["events"])
    page = profile("explain", "j7", "--trace", learned.trace, "--profiles", learned.profiles)
    assert "in truth" in page and "write arrives" in page


def test_expectations_come_near_as_jobs_go_on(learned: Learned, profile: Any) -> None:
    first, later = 0.0, 0.0
    for number in range(20):
        words = ["--trace", learned.trace, "--profiles", learned.profiles, "--json"]
        events = json.loads(profile("explain", f"j{number}", *words))["events"]
        first += abs(events[0]["remaining_s"] - events[0]["truth_s"])
        later += abs(events[-1]["remaining_s"] - events[-1]["truth_s"])
    assert later < 0.4 * first


def test_faster_engines_need_less(learned: Learned, profile: Any, tmp_path: Path) -> None:
    engine = msgspec.to_builtins(ENGINE)
    truths = []
    for factor in (1.0, 0.5):
        scaled = engine | {"latency": {name: factor * value for name, value in engine["latency"].items()}}
        (tmp_path / "engines.yaml").write_text(yaml.safe_dump({"engines": [scaled]}))
        words = ["--profiles", learned.profiles, "--engines", tmp_path / "engines.yaml", "--json"]
        told = json.loads(profile("explain", "j7", "--trace", learned.trace, *words))
        check(told)
        truths.append(told["events"][0]["truth_s"])
    assert truths[1] == pytest.approx(0.5 * truths[0])


def test_a_journal_tells_what_was_believed_then(learned: Learned, profile: Any, tmp_path: Path) -> None:
    """No profile: what it believed of the last job, it had learned from the ones before."""
    journal, _ = record(list(generate(APP, 60, 0.05, 2)), tmp_path, policy="hocket")
    first, last = (json.loads(profile("explain", job, "--journal", journal, "--json")) for job in ("j0", "j59"))
    for told in (first, last):
        check(told)
        assert told["replayed"]
    assert all(event["network_s"] is None for event in last["events"])
    assert first["events"][0]["remaining_s"] == FIRST_SIZE_S, "nothing was known"
    assert last["events"][0]["remaining_s"] > 0.5


def test_a_journal_whose_policy_believed_nothing(learned: Learned, profile: Any, tmp_path: Path) -> None:
    journal, history = record(list(generate(APP, 20, 0.05, 2)), tmp_path, policy="call-fcfs")
    words = ["--profiles", learned.profiles, "--json"]
    of_journal = json.loads(profile("explain", "j3", "--journal", journal, *words))
    check(of_journal)
    assert not of_journal["replayed"]
    of_history = json.loads(profile("explain", "j3", "--history", history, *words))
    check(of_history)
    assert of_history["events"][0]["truth_s"] == pytest.approx(of_journal["events"][0]["truth_s"])
    assert not any("gap" in event["event"] for event in of_history["events"])


def test_jobs_that_cannot_be_explained(learned: Learned, profile: Any, tmp_path: Path) -> None:
    assert "no job 'nope'" in profile("explain", "nope", "--trace", learned.trace, code=2)
    assert "two places" in profile("explain", "j1", "--trace", learned.trace, "--journal", "x", code=2)
    assert "no history there" in profile("explain", "j1", "--history", tmp_path / "none.db", code=2)
    journal, _ = record(list(generate(APP, 2, 0.05, 2)), tmp_path)
    assert "no job 'nope' begins in it" in profile("explain", "nope", "--journal", journal, code=2)
    told = profile("explain", "j1", "--trace", learned.trace, "--profiles", tmp_path, code=2)
    assert "no profile of 'code-generation'; there is none" in told


# ---------------------------------------------------------------- numbers


def test_correlations_see_what_goes_together_and_absence() -> None:
    def job(first: int, second: int, third: int) -> Record:
        steps = [Step("a", "m", 1, first, 0.0, []), Step("b", "m", 1, second, 0.0, [0])]
        if third:
            steps.append(Step("b", "m", 1, third, 0.0, [1]))
        return Record(steps)

    records = [job(size, 1000 - size, size % 7 if size > 50 else 0) for size in range(1, 100)]
    names, matrix = correlations(records, ["a", "b"])
    assert names == ["a", "b", "b 2"]
    assert matrix[0, 1] == pytest.approx(-1.0)
    assert 0.5 < matrix[0, 2] < 1.0
    assert matrix.diagonal() == pytest.approx(1.0)
    assert correlations([job(5, 5, 0)] * 3, ["a", "b"])[0] == []


def test_sizes_are_those_of_the_steps() -> None:
    records = [Record([Step("a", "m", 10, n, 0.0, []), Step("t", None, 0, 0, n / 2, [0])]) for n in range(1, 102)]
    told = {(found.stage, found.fact): found for found in sizes(records, ["a", "t"])}
    assert told["a", "answer tokens"].quantiles[1] == 51 and told["a", "prompt tokens"].mean == 10
    assert told["t", "seconds"].quantiles[2] == pytest.approx(45.5)
    assert [key[0] for key in told] == ["a", "a", "t"]


def test_entropy_of_independent_variables_adds_up() -> None:
    def coin(name: str, *parents: str) -> Variable:
        table = [0.5, 0.5] if not parents else [1.0, 0.0, 0.0, 1.0]
        return Variable(
            name=name, stage=name, fact="tokens", cuts=[], centres=[1.0], parents=list(parents), table=table
        )

    assert network_entropy(Network(variables=[coin("a"), coin("b")])) == pytest.approx(2.0)
    assert network_entropy(Network(variables=[coin("a"), coin("b", "a")])) == pytest.approx(1.0, abs=1e-3)
