"""Profiles that live: a gateway that has learned orders as the simulator does, and a bad profile costs only itself."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import structs

from hocket.beliefs.profile import Profile, encode_profile
from hocket.beliefs.record import Record, Step
from hocket.cli import main
from hocket.core import events as ev
from hocket.core.commands import Dispatch
from hocket.core.latency import Latency
from hocket.gateway.openai import Request
from hocket.profiles import read_profiles, write_profile
from hocket.settings import EngineSettings
from hocket.sim.experiment import Setup, simulate
from hocket.sim.model import EngineModel
from hocket.trace import Job, Stage
from tests.gateway.conftest import Running, Start, soon
from tests.scripted_engine import ScriptedEngine

PACE = Latency(q0=0.01, q2=1e-4, d0=0.01, d1=0.002)
WIDTHS = (1, 8, 2, 6, 4, 3)
"of jobs of `tree`: how many calls follow the first one, in the order in which the jobs arrive"


def words(width: int) -> str:
    """What a job of this width asks: the longer, the more follows."""
    return "word " * (20 * width)


def prompt_tokens(width: int) -> int:
    """As the gateway estimates them."""
    messages = msgspec.json.encode([{"role": "user", "content": words(width)}])
    return Request(model="small", messages=msgspec.Raw(messages)).prompt_tokens


def record(width: int, jitter: int = 0) -> Record:
    ask = Step("ask", "small", prompt_tokens(width) + jitter, 16, 0.0, [])
    return Record([ask, *(Step("work", "small", 40, 30, 0.0, [0]) for _ in range(width))])


def profile(app: str = "tree", jitter: int = 0) -> Profile:
    records = [record(width, jitter) for _ in range(6) for width in range(1, 9)]
    return Profile(app=app, jobs=len(records), records=records)


def learned(world: Running) -> dict[str, int]:
    """Application -> records that the core goes by."""
    beliefs: Any = world.gateway.scheduler.beliefs
    return {app: len(known.records) for app, known in beliefs._apps.items()}


def engines(engine: ScriptedEngine) -> list[EngineSettings]:
    return [EngineSettings(name="small", replicas=[engine.url], max_concurrency=1, latency=PACE)]


async def ask(world: Running, job: str, width: int, app: str = "tree", gap_s: float = 0.0) -> None:
    headers = {"x-hocket-app": app, "x-hocket-job": job, "x-hocket-stage": "ask"}
    body = {"messages": [{"role": "user", "content": words(width)}], "max_tokens": 16}
    async with world.post({**body, "scripted": {"chunks": 10, "gap_s": gap_s}, "stream": True}, headers=headers) as got:
        assert got.status == 200, await got.text()
        await got.read()


def waits(world: Running, calls: int) -> bool:
    return world.gateway.scheduler.engines["small"].queued == calls


def simulated(profiles: dict[str, str]) -> list[str]:
    """The order in which the simulator begins the same jobs."""
    setup = Setup([EngineModel(name="small", models=["small"], max_concurrency=1, latency=PACE)])

    def job(name: str, app: str, at: float, width: int, output: int) -> Job:
        prompt = prompt_tokens(width)
        stage = Stage(id="s0", name="ask", kind="llm", needs=[], model="small", prompt_tokens=prompt)
        stage.output_tokens, stage.max_tokens = output, 16
        features = {"prompt_tokens": float(prompt), "max_tokens": 16.0}
        return Job(job=name, app=app, arrival_s=at, features=features, stages=[stage])

    jobs = [job("first", "other", 0.0, 1, 16)]
    jobs += [job(f"wide-{width}", "tree", 0.001 * n, width, 10) for n, width in enumerate(WIDTHS, 1)]
    spans = simulate(jobs, setup, "hocket", frozenset(job.job for job in jobs), profiles=profiles).spans
    return [span.job for span in sorted(spans, key=lambda span: span.started or 0.0)]


async def test_a_gateway_with_profiles_orders_as_the_simulator_does(
    engine: ScriptedEngine, start: Start, tmp_path: Path
) -> None:
    folder = tmp_path / "profiles"
    write_profile(folder, profile())
    world = await start(engines=engines(engine), policy="hocket", profiles=str(folder))
    calls = [asyncio.create_task(ask(world, "first", 1, "other", gap_s=0.05))]
    await soon(lambda: world.inflight == 1)
    for queued, width in enumerate(WIDTHS, 1):
        calls.append(asyncio.create_task(ask(world, f"wide-{width}", width)))
        await soon(partial(waits, world, queued))
    await asyncio.gather(*calls)
    records = world.records()
    of = {record.event.call: record.event.job for record in records if isinstance(record.event, ev.CallArrived)}
    order = [of[order.call] for record in records for order in record.commands if isinstance(order, Dispatch)]
    assert order == simulated(read_profiles(folder))
    assert order == ["first", *(f"wide-{width}" for width in sorted(WIDTHS))], "what is shortest in all goes first"
    (event,) = [record.event for record in records if isinstance(record.event, ev.ProfileReplaced)]
    assert (event.app, event.profile) == ("tree", encode_profile(profile()).decode())


async def test_the_first_request_tells_the_features(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine)
    tools = [{"type": "function", "function": {"name": name}} for name in ("search", "read")]
    for more in ({"max_tokens": 9, "tools": tools}, {"tools": None}, {"tools": "none of this API's"}):
        async with world.post(more) as got:
            assert got.status == 200, await got.text()
    opened = [record.event for record in world.records() if isinstance(record.event, ev.JobOpened)]
    estimate = {"prompt_tokens": 8.0}
    assert [event.features for event in opened] == [{**estimate, "max_tokens": 9.0, "tools": 2.0}, estimate, estimate]
    deep = msgspec.Raw(b"[" * 100_000 + b"]" * 100_000)
    assert Request(model="small", tools=deep).features(8) == estimate


BAD = {
    "cut.json": encode_profile(profile("cut"))[:-20],
    "engines.json": b'{"engines": [{"name": "small"}]}',
    "newer.json": encode_profile(structs.replace(profile("newer"), v=2)),
    "bytes.json": b"\xff\xfe",
}


async def test_bad_profiles_are_left_out_told_once_and_counted(
    engine: ScriptedEngine, start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, data in BAD.items():
        (tmp_path / name).write_bytes(data)
    write_profile(tmp_path, profile())
    with caplog.at_level(logging.ERROR, "hocket.gateway"):
        world = await start(engines=engines(engine), policy="hocket", profiles=str(tmp_path))
        assert learned(world) == {"tree": 48}
        assert await refused(world) == len(BAD)
        await world.gateway.reload(world.gateway.settings)
        assert await refused(world) == 2 * len(BAD)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == len(BAD)
    assert all(any(str(tmp_path / name) in line for line in told) for name in BAD)
    await ask(world, "j", 2)


async def test_a_profile_that_breaks_later_leaves_the_one_that_is_there(
    engine: ScriptedEngine, start: Start, tmp_path: Path
) -> None:
    file = write_profile(tmp_path, profile())
    world = await start(engines=engines(engine), policy="hocket", profiles=str(tmp_path))
    file.write_bytes(BAD["cut.json"])
    await world.gateway.reload(world.gateway.settings)
    assert await refused(world) == 1
    assert learned(world) == {"tree": 48}
    await ask(world, "j", 2)


async def test_no_folder_is_one_refusal(engine: ScriptedEngine, start: Start, tmp_path: Path) -> None:
    world = await start(engines=engines(engine), policy="hocket", profiles=str(tmp_path / "none"))
    assert await refused(world) == 1
    await ask(world, "j", 2)


async def test_a_reload_hands_over_what_is_new_and_nothing_else(
    engine: ScriptedEngine, start: Start, tmp_path: Path
) -> None:
    """What was learned from live jobs since must not be thrown away."""
    write_profile(tmp_path, profile())
    world = await start(engines=engines(engine), policy="hocket", profiles=str(tmp_path))
    await ask(world, "j", 2)
    world.gateway.driver.close_job("j")
    assert learned(world) == {"tree": 49}
    write_profile(tmp_path, profile("other"))
    await world.gateway.reload(world.gateway.settings)
    assert learned(world) == {"tree": 49, "other": 48}
    write_profile(tmp_path, profile(jitter=1))
    await world.gateway.reload(world.gateway.settings)
    assert learned(world) == {"tree": 48, "other": 48}
    replaced = [record.event.app for record in world.records() if isinstance(record.event, ev.ProfileReplaced)]
    assert replaced == ["tree", "other", "tree"]


async def test_a_policy_that_begins_to_believe_gets_them(engine: ScriptedEngine, start: Start, tmp_path: Path) -> None:
    write_profile(tmp_path, profile())
    world = await start(engines=engines(engine), policy="las", profiles=str(tmp_path))
    assert world.gateway.scheduler.beliefs is None
    for policy in ("hocket", "las", "hocket"):
        await world.gateway.reload(structs.replace(world.gateway.settings, policy=policy))
    assert learned(world) == {"tree": 48}
    replaced = [record.event.app for record in world.records() if isinstance(record.event, ev.ProfileReplaced)]
    assert replaced == ["tree", "tree"]


async def test_metrics_tell_what_was_learned_and_how_far_off_it_was(
    engine: ScriptedEngine, start: Start, tmp_path: Path
) -> None:
    write_profile(tmp_path, profile())
    world = await start(engines=engines(engine), policy="hocket", profiles=str(tmp_path))
    busy = asyncio.create_task(ask(world, "busy", 8, "other", gap_s=0.05))
    await soon(lambda: world.inflight == 1)
    calls = []
    for n in range(3):
        calls.append(asyncio.create_task(ask(world, f"j{n}", 8)))
        await soon(partial(waits, world, n + 1))
    await asyncio.gather(busy, *calls)
    for n in range(3):
        world.gateway.driver.close_job(f"j{n}")
    text = await metrics(world)
    assert text['hocket_jobs_learned_total{app="tree"}'] == 3
    # no work followed, where 8 calls of 30 tokens were expected: the jobs were about ten times smaller
    assert 1.5 < text['hocket_belief_error{app="tree"}'] < 4.0


def test_config_check_names_the_applications_and_the_bad_profiles(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, file = tmp_path / "profiles", tmp_path / "hocket.yaml"
    write_profile(folder, profile())
    file.write_text(f"profiles: {folder}\n")
    assert main(["config", "check", str(file)]) == 0
    assert f"profiles {folder}: tree\n" in capsys.readouterr().out
    (folder / "cut.json").write_bytes(BAD["cut.json"])
    assert main(["config", "check", str(file)]) == 1
    assert "profile refused: " in capsys.readouterr().err


async def refused(world: Running) -> float:
    return (await metrics(world))["hocket_profiles_refused_total"]


async def metrics(world: Running) -> dict[str, float]:
    async with world.http.get(f"{world.url}/metrics") as got:
        lines = (await got.text()).splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}
