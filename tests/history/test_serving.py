"""The history of a real gateway: from requests to rows to a trace that runs in the simulator."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from hocket.cli import main
from hocket.gateway.app import Gateway
from hocket.history.recorder import HistoryRecorder, recorder_of
from hocket.history.store import Store
from hocket.settings import EngineSettings, HistorySettings, Settings, TenantSettings
from hocket.trace import Stage, read_jobs
from tests.gateway.test_serve import serving, settings
from tests.scripted_engine import ScriptedEngine

ENGINES = """
engines:
  - {name: small, models: [small], max_concurrency: 2, latency: {q0: 0.01, q2: 1.0e-5, d0: 0.01, d1: 0.001}}
"""


@pytest.fixture
async def engine() -> AsyncIterator[ScriptedEngine]:
    engine = ScriptedEngine()
    await engine.start()
    yield engine
    await engine.stop()


def hocket(*words: str) -> str:
    """The standard output of a command that succeeds."""
    command = [str(Path(sys.executable).with_name("hocket")), *words]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


class World:
    """A gateway that records."""

    def __init__(self, recorder: HistoryRecorder, url: str, http: aiohttp.ClientSession) -> None:
        self.recorder, self.url, self.http = recorder, url, http

    async def call(self, job: str, stage: str, key: str = "", **script: Any) -> int:
        body = {
            "model": "small",
            "messages": [{"role": "user", "content": "the secret word is xyzzy"}],
            "scripted": script,
        }
        headers = {"x-hocket-app": "research", "x-hocket-job": job, "x-hocket-stage": stage}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        async with self.http.post(f"{self.url}/v1/chat/completions", json=body, headers=headers) as answer:
            await answer.read()
            return answer.status

    async def tool(self, job: str, name: str, seconds: float) -> None:
        for verb in ("start", "end"):
            async with self.http.post(f"{self.url}/v1/jobs/{job}/tools/{name}:{verb}") as answer:
                assert answer.status == 200
            await asyncio.sleep(seconds if verb == "start" else 0)


async def run(engine: ScriptedEngine, url: str, play: Any, **more: Any) -> None:
    engines = [EngineSettings(name="small", replicas=[engine.url], max_concurrency=2)]
    chosen = Settings(listen="127.0.0.1:0", engines=engines, history=HistorySettings(url=url), **more)
    recorder = recorder_of(chosen)
    assert recorder is not None
    gateway = Gateway(chosen, observers=[recorder])
    recorder.start()
    try:
        async with aiohttp.ClientSession() as http:
            await play(World(recorder, await gateway.start(), http))
    finally:
        await gateway.stop()
        recorder.stop()


async def research(world: World) -> dict[str, float]:
    """Plan; two searches at once, one a tool; think for 50 ms; answer. Returns how long at most what took, seconds."""
    took, began = dict[str, float](), time.monotonic()

    async def fetch() -> None:
        begins = time.monotonic()
        await world.tool("j1", "fetch", 0.05)
        took["fetch"] = time.monotonic() - begins

    await world.call("j1", "plan", first_s=0.05)
    await asyncio.gather(world.call("j1", "search", first_s=0.2), fetch())
    thinks = time.monotonic()
    await asyncio.sleep(0.05)
    await world.call("j1", "answer", first_s=0.05)
    return took | {"gap": time.monotonic() - thinks, "all": time.monotonic() - began}


async def test_a_run_comes_out_as_a_trace_that_simulates_and_goes_back_in(
    engine: ScriptedEngine, url: str, tmp_path: Path
) -> None:
    took = dict[str, float]()

    async def play(world: World) -> None:
        found, *_ = await asyncio.gather(research(world), *(world.call(f"k{n}", "ask", first_s=0.02) for n in range(5)))
        took.update(found)
        await world.http.delete(f"{world.url}/v1/jobs/j1")

    await run(engine, url, play)
    first, second, engines = tmp_path / "jobs.jsonl", tmp_path / "again.jsonl", tmp_path / "engines.yaml"
    await asyncio.to_thread(hocket, "jobs", "export", "--history", url, "-o", str(first))
    jobs = {job.job: job for job in read_jobs(first)}
    assert set(jobs) == {"j1", *(f"k{n}" for n in range(5))}
    stages = {stage.name: stage for stage in jobs["j1"].stages if stage.name != "gap"}
    plan, search, fetch, answer = (stages[name] for name in ("plan", "search", "fetch", "answer"))
    gap = next(stage for stage in jobs["j1"].stages if stage.id == f"gap-{answer.id}")
    gaps = {stage.id: stage.needs for stage in jobs["j1"].stages if stage.name == "gap"}

    def needs(stage: Stage) -> set[str]:
        """Gaps looked through: on a busy machine there may be one of a few milliseconds anywhere."""
        return {need for one in stage.needs for need in gaps.get(one, [one])}

    assert needs(plan) == set() and needs(search) == needs(fetch) == {plan.id}
    assert needs(answer) == {search.id, fetch.id} and answer.needs == [gap.id]
    assert fetch.duration_s is not None and 0.04 <= fetch.duration_s <= took["fetch"]
    assert gap.duration_s is not None and 0.04 <= gap.duration_s <= took["gap"] + 0.05  # an answer's end comes after it
    assert (answer.prompt_tokens, answer.output_tokens) == (7, 8), "as the engine reports them"
    assert "xyzzy" not in first.read_text()

    engines.write_text(ENGINES)
    await asyncio.to_thread(
        hocket, "simulate", str(first), "--engines", str(engines), "--json", str(tmp_path / "out.json")
    )
    simulated = json.loads((tmp_path / "out.json").read_text())["policies"]["default"]
    assert set(simulated["jobs"]) == set(jobs) and not simulated["rejected"]
    assert simulated["jobs"]["j1"] > gap.duration_s + fetch.duration_s

    other = str(tmp_path / "other.db")
    await asyncio.to_thread(hocket, "import", str(first), "--history", other)
    await asyncio.to_thread(hocket, "jobs", "export", "--history", other, "-o", str(second))
    assert second.read_bytes() == first.read_bytes()


async def test_jobs_are_listed_and_shown(engine: ScriptedEngine, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    took = dict[str, float]()

    async def play(world: World) -> None:
        took.update(await research(world))
        assert await world.call("bad", "ask", do="status", status=400) == 400

    await run(engine, url, play)

    def out(*words: str) -> str:
        assert main(["jobs", *words, "--history", url]) == 0
        return capsys.readouterr().out

    listed = json.loads(out("ls", "--json"))
    assert [(job["job"], job["state"], job["calls"], job["tool_runs"]) for job in listed] == [
        ("bad", "interrupted", 1, 0),
        ("j1", "interrupted", 3, 1),
    ]
    assert 0.3 <= listed[1]["ended_s"] <= took["all"]
    assert "j1" in out("ls", "--app", "research", "--since", "1h", "--tenant", "default", "--state", "interrupted")
    assert (
        json.loads(out("ls", "--json", "--app", "other"))
        == json.loads(out("ls", "--json", "--since", "2100-01-01"))
        == []
    )
    assert len(json.loads(out("ls", "--json", "--limit", "1"))) == 1
    (shown,) = json.loads(out("show", "j1", "--json"))
    assert [call["stage"] for call in shown["calls"]] == ["plan", "search", "answer"]
    assert shown["calls"][0]["replica"] == engine.url and shown["calls"][0]["engine"] == "small"
    text = out("show", "j1")
    assert "plan" in text and "fetch" in text and "▒" in text and "░" in text
    assert "rejected 400 upstream_status" in out("show", "bad")
    assert main(["jobs", "show", "nobody", "--history", url]) == 2
    assert "no job 'nobody'" in capsys.readouterr().err


async def test_tenants_may_use_one_id_and_are_kept_apart(engine: ScriptedEngine, tmp_path: Path) -> None:
    from hashlib import sha256

    url = str(tmp_path / "history.db")
    tenants = [TenantSettings(name=name, key_sha256=sha256(name.encode()).hexdigest()) for name in ("ann", "bob")]

    async def play(world: World) -> None:
        for name in ("ann", "bob"):
            assert await world.call("same/id", "s", key=name) == 200

    await run(engine, url, play, tenants=tenants)
    with Store(url).connect() as connection, connection.begin():
        rows = connection.exec_driver_sql("SELECT tenant, job FROM jobs ORDER BY arrived_at").all()
    assert [tuple(row) for row in rows] == [("ann", "same/id"), ("bob", "same/id")]
    path = tmp_path / "jobs.jsonl"
    await asyncio.to_thread(hocket, "jobs", "export", "--history", url, "-o", str(path))
    assert [job.job for job in read_jobs(path)] == ["same/id", "same/id#2"], "ids in a trace are unique"


async def test_serve_records_and_what_it_was_killed_in_is_interrupted(engine: ScriptedEngine, tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    config = settings(tmp_path, engine, history=f"{{url: {path}}}")
    body = {"model": "small", "messages": [{"role": "user", "content": "hi"}]}
    slow = {**body, "scripted": {"do": "hang"}}
    async with serving("--config", str(config)) as (process, url), aiohttp.ClientSession() as http:
        async with http.post(f"{url}/v1/chat/completions", json=body, headers={"x-hocket-job": "done"}) as answer:
            assert answer.status == 200
        await http.delete(f"{url}/v1/jobs/done")
        hanging = asyncio.create_task(http.post(f"{url}/v1/chat/completions", json=slow))
        await until(lambda: listed(config) == ["open", "closed"])
        async with http.get(f"{url}/metrics") as answer:
            assert 'hocket_history_rows_total{state="lost"} 0.0' in await answer.text()
        process.send_signal(signal.SIGKILL)
        await process.wait()
        with pytest.raises(aiohttp.ClientError):
            await hanging
    assert listed(config) == ["open", "closed"]
    async with serving("--config", str(config)) as (process, _):
        await until(lambda: "open" not in listed(config))
        process.terminate()
        await process.wait()
        assert process.returncode == 0
    assert listed(config) == ["interrupted", "closed"]


def listed(config: Path) -> list[str]:
    return [job["state"] for job in json.loads(hocket("jobs", "ls", "--json", "--config", str(config)))]


async def until(condition: Callable[[], bool]) -> None:
    """Ask again and again, in a thread of its own, for ten seconds at most."""
    for _ in range(50):
        if await asyncio.to_thread(condition):
            return
        await asyncio.sleep(0.05)
    raise AssertionError("did not happen in time")
