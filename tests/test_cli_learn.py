"""`hocket learn` as a user meets it: from a trace, a history, a journal; bad lines are refused with their number."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hocket.cli import main
from hocket.profiles import read_profile, read_profiles
from hocket.sim.workloads import generate
from hocket.trace import encode_job, write_jobs
from tests.beliefs.observed import record


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("trace") / "jobs.jsonl"
    write_jobs(file, generate("planning", 120, 1.0, 1))
    return file


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A journal and a history of the same jobs."""
    return record(list(generate("code-generation", 60, 1.0, 2)), tmp_path_factory.mktemp("lived"))


@pytest.fixture
def learn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    def learn(*words: object, code: int = 0) -> str:
        assert main(["learn", *map(str, words), "-o", str(tmp_path / "profiles")]) == code
        told = capsys.readouterr()
        if code:
            assert told.err.count("\n") == 1, told.err
        return told.err if code else told.out

    return learn


def test_each_application_gets_a_profile(trace: Path, learn: Any, tmp_path: Path) -> None:
    rows = json.loads(learn("--from", trace, "--json"))["profiles"]
    assert (
        [row["app"] for row in rows] == ["llm-compiler", "task-automation"] == [*read_profiles(tmp_path / "profiles")]
    )
    assert sum(row["jobs"] for row in rows) == 120
    for row in rows:
        profile = read_profile(row["file"])
        assert profile.jobs == row["jobs"] == len(profile.records)
        assert row["dynamic"] == ["plan/*"] == [node.name for node in profile.nodes if node.kind == "dynamic"]
        calls = [sum(step.model is not None for step in record.steps) for record in profile.records]
        assert row["calls"] == pytest.approx(sum(calls) / len(calls))


def test_the_table(trace: Path, learn: Any) -> None:
    table = learn("--from", trace, "--processes", 1)
    assert all(text in table for text in ("application", "llm-compiler", "task-automation", "llm-compiler.json"))


def test_processes_change_nothing(trace: Path, tmp_path: Path) -> None:
    for count in ("1", "2"):
        words = ["learn", "--from", str(trace), "--processes", count, "-o", str(tmp_path / count)]
        command = [str(Path(sys.executable).with_name("hocket")), *words]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    assert read_profiles(tmp_path / "1") == read_profiles(tmp_path / "2")


def test_only_one_application(trace: Path, learn: Any, tmp_path: Path) -> None:
    learn("--from", trace, "--app", "llm-compiler")
    assert list(read_profiles(tmp_path / "profiles")) == ["llm-compiler"]
    assert "no job of 'nope'" in learn("--from", trace, "--app", "nope", code=2)


def test_a_history_and_a_journal_teach_the_same(lived: tuple[Path, Path], learn: Any, tmp_path: Path) -> None:
    journal, history = lived
    learn("--history", history)
    of_history = read_profile(tmp_path / "profiles" / "code-generation.json")
    learn("--from", journal)
    of_journal = read_profile(tmp_path / "profiles" / "code-generation.json")
    assert of_history.jobs == of_journal.jobs == 60
    assert of_history.nodes == of_journal.nodes
    assert {(e.before, e.after, e.again) for e in of_history.edges} == {
        ("write", "test", False),
        ("test", "reflect", False),
        ("reflect", "repair", False),
        ("repair", "test", True),
    }


def test_a_time_of_the_history(lived: tuple[Path, Path], learn: Any, tmp_path: Path) -> None:
    learn("--history", lived[1], "--since", "20s")
    assert 0 < read_profile(tmp_path / "profiles" / "code-generation.json").jobs < 40
    assert "--since" in learn("--history", lived[1], "--since", "yesterday", code=2)
    assert "go with --from history" in learn("--from", lived[0], "--since", "20s", code=2)
    assert "no history there" in learn("--history", tmp_path / "none.db", code=2)


def test_an_aborted_job_teaches_nothing(tmp_path: Path, learn: Any) -> None:
    jobs = list(generate("web-search", 5, 1.0, 1))
    journal, _ = record(jobs, tmp_path)
    lines = journal.read_text().splitlines()
    closed = next(i for i, line in enumerate(lines) if '"JobClosed"' in line)
    event = json.loads(lines[closed])
    event["event"] |= {"abort": True, "reason": "aborted"}
    lines[closed] = json.dumps(event)
    journal.write_text("\n".join([*lines, ""]))
    learn("--from", journal)
    assert read_profile(tmp_path / "profiles" / "web-search.json").jobs == 4


def test_a_declared_graph(trace: Path, learn: Any, tmp_path: Path) -> None:
    graph = tmp_path / "graph.yaml"
    stages = [
        {"name": "plan"},
        {"name": "search", "kind": "tool", "needs": ["plan"]},
        {"name": "math", "needs": ["search"], "revealed_by": "plan"},
        {"name": "join", "needs": ["search", "math"]},
    ]
    graph.write_text(json.dumps({"app": "llm-compiler", "stages": stages}))
    learn("--from", trace, "--graph", graph)
    profile = read_profile(tmp_path / "profiles" / "llm-compiler.json")
    assert [(e.before, e.after) for e in profile.edges if e.before == "search"] == [
        ("search", "math"),
        ("search", "join"),
    ]
    assert next(node.candidates for node in profile.nodes if node.kind == "dynamic") == ["math"]
    assert "--app is 'other'" in learn("--from", trace, "--graph", graph, "--app", "other", code=2)
    graph.write_text("app: llm-compiler\nstages:\n - {name: plan}\n - {name: plan}\n")
    assert f"{graph}:4: `stages[1].name`" in learn("--from", trace, "--graph", graph, code=2)


def test_applications_of_which_there_is_little_to_learn(tmp_path: Path, learn: Any) -> None:
    stages = {
        "idle": {"kind": "tool", "name": "gap", "duration_s": 1},
        "constant": {"kind": "tool", "name": "t", "duration_s": 0},
        "empty": {"kind": "llm", "name": "c", "model": "m", "prompt_tokens": 0, "output_tokens": 0},
        "huge": {"kind": "llm", "name": "c", "model": "m", "prompt_tokens": 10**9, "output_tokens": 10**9},
        "forever": {"kind": "tool", "name": "t", "duration_s": 1e9},
    }
    lines = [json.dumps({"v": 1, "job": app, "app": app, "stages": [{"id": "s"} | s]}) for app, s in stages.items()]
    file = tmp_path / "jobs.jsonl"
    file.write_text("\n".join(lines))
    rows = json.loads(learn("--from", file, "--json"))["profiles"]
    assert [row["app"] for row in rows] == ["constant", "empty", "forever", "huge"]
    assert len(read_profiles(tmp_path / "profiles")) == 4
    file.write_text(lines[0])
    assert "nothing to learn from" in learn("--from", file, code=2)


def test_without_pyagrum_it_says_so_once(
    trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("hocket.cli.learn.bayes", lambda: False)
    assert main(["learn", "--from", str(trace), "--processes", "1", "-o", str(tmp_path)]) == 0
    assert capsys.readouterr().err.count("hocket[bayes]") == 1
    assert read_profile(tmp_path / "llm-compiler.json").network is None


# ---------------------------------------------------------------- bad input


def line(job: str, *stages: dict[str, Any], **fields: Any) -> str:
    return json.dumps({"v": 1, "job": job, "app": "a", "stages": list(stages)} | fields)


def llm(id_: str, *needs: str, **fields: Any) -> dict[str, Any]:
    sizes = {"prompt_tokens": 10, "output_tokens": 10}
    return {"id": id_, "name": id_, "kind": "llm", "model": "m", "needs": list(needs)} | sizes | fields


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (line("x", llm("a", "b"), llm("b", "a")), "needs form a cycle"),
        (line("x", llm("a", "a")), "needs form a cycle"),
        (line("x", llm("a", "nowhere")), "needs 'nowhere'"),
        (line("x", llm("a", output_tokens=-1)), "output_tokens is -1"),
        (line("x", llm("a", prompt_tokens=-5)), "prompt_tokens is -5"),
        (line("x", {"id": "t", "name": "t", "kind": "tool", "needs": [], "duration_s": -0.1}), "duration_s is -0.1"),
        (line("j0", llm("a")), "job 'j0' was on line 1 already"),
        (line("x", llm("a"), llm("a")), "stage 'a' is there twice"),
        (line("x", llm("a"), v=2), "v is 2"),
        (line("x", llm("a", revealed_by="nowhere")), "revealed_by 'nowhere'"),
        (line("x"), "stages is empty"),
        ("{", "not valid JSON"),
        (line("x", llm("a"), app=""), "must not be empty"),
    ],
)
def test_a_bad_trace_is_refused_with_line_and_reason(bad: str, said: str, tmp_path: Path, learn: Any) -> None:
    file = tmp_path / "bad.jsonl"
    good = [encode_job(job).decode() for job in generate("code-generation", 2, 1.0, 1)]
    file.write_text("\n".join([*good, bad, ""]))
    told = learn("--from", file, code=2)
    assert f"{file}:3: " in told
    assert said in told
    assert not (tmp_path / "profiles").exists(), "nothing is written of a trace that is wrong"


def test_other_bad_input(trace: Path, tmp_path: Path, learn: Any) -> None:
    assert "cannot be read" in learn("--from", tmp_path / "none.jsonl", code=2)
    assert "--processes 0" in learn("--from", trace, "--processes", 0, code=2)
    (tmp_path / "graph.yaml").write_text("app: nope\nstages: [{name: a}]\n")
    assert "no job of 'nope' that ended" in learn("--from", trace, "--graph", tmp_path / "graph.yaml", code=2)
    (tmp_path / "cut.jsonl").write_text('{"journal":')
    assert "not a journal" in learn("--from", tmp_path / "cut.jsonl", code=2)
    (tmp_path / "profiles").write_text("a file")
    assert "cannot be written" in learn("--from", trace, code=2)
