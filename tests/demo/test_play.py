"""The demo's applications at work: on an engine that counts, and once on the real ones."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
from collections import Counter
from pathlib import Path

import pytest

from hocket.cli import main
from hocket.core import events as ev
from hocket.demo import mix, passes, show
from hocket.demo.passes import Pass, play
from hocket.errors import InputError
from hocket.journal import read_journal
from hocket.settings import load_settings
from hocket.trace import Job, decode_job, encode_job, graph_of
from tests.counting_engine import CountingEngine, gateway_before


def quick() -> list[mix.Task]:
    """The smaller jobs of the mix, with nothing to wait for."""
    return [
        dataclasses.replace(task, arrival_s=round(task.arrival_s / 50, 3), tool_s=tuple(0.01 for _ in task.tool_s))
        for task in mix.draw()
        if task.width <= 3
    ]


def shape(job: Job) -> Counter[tuple[str, str | None]]:
    return Counter((entry.name, entry.model) for entry in job.stages)


async def test_both_passes_do_the_same_work(tmp_path: Path) -> None:
    both = []
    for policy in ("call-fcfs", "las"):
        async with CountingEngine() as engine, gateway_before(engine, tmp_path / policy, policy=policy) as url:
            both.append(await play(url, quick()))
    first, second = both
    assert first.output_tokens == second.output_tokens and first.tests[1] == second.tests[1] > 30
    assert [shape(job) for job in first.jobs] == [shape(job) for job in second.jobs]
    assert first.jct_s.keys() == {task.id for task in quick()}
    for task, job in zip(quick(), first.jobs, strict=True):
        check_job(task, job)
    events = [record.event for _, record in read_journal(tmp_path / "las")[1]]
    assert Counter(type(event).__name__ for event in events if isinstance(event, (ev.JobOpened, ev.JobClosed))) == {
        "JobOpened": len(quick()),
        "JobClosed": len(quick()),
    }
    tools = Counter(event.name for event in events if isinstance(event, ev.ToolStarted))
    tasks = quick()
    assert tools == {
        "search": sum(task.width for task in tasks if task.app == "research"),
        "test": sum(1 + task.width for task in tasks if task.app == "code"),
    }


def check_job(task: mix.Task, job: Job) -> None:
    """The trace of a job says what its application does."""
    assert decode_job(encode_job(job)) == job
    graph_of(job)
    by_name = Counter(entry.name for entry in job.stages)
    match task.app:
        case "research":
            assert by_name == {"plan": 1, "research": task.width, "search": task.width, "answer": 1}
            assert len(job.stages[-1].needs) == task.width
        case "code":
            assert by_name == {
                "generate": 1,
                "test": 1 + task.width,
                "critique": task.width,
                "repair": task.width,
            }
        case _:
            assert by_name == {"map": task.width, "reduce": 1}
    last = [entry for entry in job.stages if entry.kind == "llm"][-1]
    assert (last.model, last.output_tokens, last.max_tokens) == ("large", task.tokens, task.tokens)


async def test_an_engine_that_fails_ends_the_pass_with_the_reason() -> None:
    async with CountingEngine() as engine:
        url = engine.url
    with pytest.raises(InputError, match="a call failed: Connection error"):
        await play(url, quick()[:2])


def test_the_result_has_the_form_of_a_simulation_and_the_table_shows_it() -> None:
    from rich.console import Console

    jobs = [Job(job="a", app="x", stages=[]), Job(job="b", app="x", stages=[])]
    slow = Pass(jobs, {"a": 10.0, "b": 30.0}, 40.0, {"small": 400, "large": 100}, (1, 8))
    fast = Pass(jobs, {"a": 10.0, "b": 20.0}, 20.0, {"small": 400, "large": 100}, (2, 8))
    found = show.result({"call-fcfs": slow, "default": fast}, 70.0, {})
    assert found["ratio"] == 0.75
    assert found["policies"]["default"]["tokens_per_s"] == {"large": 5.0, "small": 20.0}
    assert found["policies"]["default"]["jct_s"] == {"mean": 15.0, "p50": 15.0, "p95": 19.5, "p99": 19.9}
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(show.table(found))
    text = console.export_text()
    assert "20.0" in text and "0.75" in text
    assert "1 and 2 of 8 tests" in show.work_line(found)


def test_the_settings_are_right(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(passes.settings(8123, "urgency>las", tmp_path / 'a "folder"'))
    settings = load_settings(file)
    assert settings.profiles == str(tmp_path / 'a "folder"')
    assert {engine.name: engine.latency for engine in settings.engines} == passes.LATENCY
    assert settings.orderings == ("urgency", "las") and settings.address == ("127.0.0.1", 8123)
    assert [(engine.name, engine.kind, engine.max_concurrency) for engine in settings.engines] == [
        ("small", "embedded", 4),
        ("large", "embedded", 4),
    ]


async def test_a_gateway_that_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "settings", lambda port, *more: f"listen: 127.0.0.1:{port}\npolicy: nonsense\n")
    with pytest.raises(InputError, match=r"did not start: .*unknown policy 'nonsense'"):
        async with passes.Gateway(tmp_path, "las"):
            pass


def test_bad_arguments_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    for words, said in (
        (["--policy", "nonsense"], "unknown policy 'nonsense'"),
        (["--policy", "las,las"], "name each policy once"),
        (["-o", str(tmp_path / "file" / "x")], "cannot be made"),
    ):
        assert main(["demo", *words]) == 2
        err = capsys.readouterr().err
        assert said in err and err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_three_jobs_on_the_real_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {task.app: task for task in sorted(mix.draw(), key=lambda task: -task.width) if task.width <= 2}
    monkeypatch.setattr(mix, "draw", lambda seed: list(few.values()))
    figures = tmp_path / "figures.json"
    words = ["demo", "-o", str(tmp_path / "out"), "--json", str(figures), "--policy", "hocket"]
    assert await asyncio.to_thread(main, words) == 0
    block = json.loads(figures.read_text())["policies"]["hocket"]
    assert block["jobs"].keys() == {task.id for task in few.values()}
    assert block["tokens_per_s"]["small"] > 1 and block["tests_run"] > 0
    log = (tmp_path / "out" / "hocket.log").read_text()
    assert "refused" not in log and "policy failed" not in log, log
    traced = [decode_job(line) for line in (tmp_path / "out" / "jobs.jsonl").read_bytes().splitlines()]
    for task, job in zip(few.values(), traced, strict=True):
        check_job(task, job)
