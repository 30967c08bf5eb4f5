"""Replicas that do not answer: checks find them, the circuit breaker lets them rest, and they come back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hocket.core.events import ReplicaObserved
from hocket.settings import EngineSettings, Health
from tests.gateway.conftest import Running, Start, soon
from tests.scripted_engine import Script, ScriptedEngine

OFTEN = Health(interval_s=0.1, timeout_s=0.3)


def limits(world: Running) -> list[int]:
    return [replica.limit for replica in world.gateway.scheduler.engines["small"].replicas.values()]


async def ask(world: Running, times: int) -> list[int]:
    answers = []
    for _ in range(times):
        async with world.post({}) as response:
            answers.append(response.status)
            await response.read()
    return answers


async def test_a_replica_that_says_it_is_ill_gets_no_calls_until_it_is_well(
    engine: ScriptedEngine, engine2: ScriptedEngine, start: Start
) -> None:
    world = await start(engine, engine2, health=OFTEN)
    engine.healthy = False
    await soon(lambda: limits(world) == [0, 8])
    assert await ask(world, 4) == [200] * 4
    assert (len(engine.seen), len(engine2.seen)) == (0, 4)
    engine.healthy = True
    await soon(lambda: limits(world) == [8, 8])
    await ask(world, 1)
    assert len(engine.seen) == 1


async def test_calls_wait_while_no_replica_is_well(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine, health=OFTEN)
    engine.healthy = False
    await soon(lambda: limits(world) == [0])
    waiting = asyncio.create_task(ask(world, 1))
    await asyncio.sleep(0.2)
    assert not engine.seen and not waiting.done()
    engine.healthy = True
    assert await waiting == [200]


async def test_one_miss_is_no_illness(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine, health=OFTEN)
    engine.healthy = False
    await soon(lambda: world.gateway.scheduler.engines["small"].only.misses == 1)  # type: ignore[union-attr]
    engine.healthy = True
    assert await ask(world, 1) == [200]
    await soon(lambda: world.gateway.scheduler.engines["small"].only.misses == 0)  # type: ignore[union-attr]


async def test_a_replica_that_is_gone_is_found_without_a_call(
    engine: ScriptedEngine, engine2: ScriptedEngine, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    world = await start(engine, engine2, health=OFTEN)
    port = int(engine.url.rpartition(":")[2])
    await engine.stop()
    await soon(lambda: limits(world) == [0, 8])
    assert f"replica {engine.url} of small does not answer as it should: ConnectionRefusedError" in caplog.text
    await engine.start(port)
    await soon(lambda: limits(world) == [8, 8])
    engine.healthy = False
    await soon(lambda: "as it should: status 503" in caplog.text)


async def test_the_breaker_opens_tries_one_call_and_closes(
    engine: ScriptedEngine, engine2: ScriptedEngine, start: Start
) -> None:
    """One of two replicas answers 500 to everything. Its calls succeed on the other; it is soon left alone."""
    world = await start(engine, engine2, window=4)
    engine.default = Script(do="status", status=500)
    assert await ask(world, 24) == [200] * 24
    assert len(engine.seen) == 5, "five failures in a row, then it rests"
    assert limits(world) == [0, 4]
    await soon(lambda: limits(world) == [1, 4])
    assert await ask(world, 2) == [200] * 2
    assert len(engine.seen) == 6, "one call on trial"
    assert limits(world) == [0, 4]
    engine.default = Script()
    await soon(lambda: limits(world) == [1, 4], within_s=20.0)
    await ask(world, 2)
    assert limits(world) == [4, 4], "it delivered: its window is back"


async def test_llamacpp_is_asked_for_its_health(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engines=[EngineSettings(name="small", kind="llamacpp", replicas=[engine.url])], health=OFTEN)
    engine.healthy = False
    await soon(lambda: limits(world) == [0])
    engine.healthy = True
    await soon(lambda: limits(world) == [8])


# ---------------------------------------------------------------- observing, and limits on waiting


async def test_observing_passes_everything_at_once_and_retries_nothing(
    engine: ScriptedEngine, engine2: ScriptedEngine, start: Start
) -> None:
    world = await start(engine, engine2, window=1, mode="observe")
    engine.default = engine2.default = Script(chunks=5, gap_s=0.05)
    streams = [asyncio.create_task(world.post({"stream": True}).__aenter__()) for _ in range(20)]
    await soon(lambda: engine.inflight + engine2.inflight == 20)
    assert (engine.peak, engine2.peak) == (10, 10)
    for response in await asyncio.gather(*streams):
        assert b"[DONE]" in await response.read()
    before = len(engine.seen) + len(engine2.seen)
    engine.default = engine2.default = Script(do="status", status=429)
    assert await ask(world, 1) == [429]
    engine.default = engine2.default = Script(do="status", status=500)
    assert await ask(world, 1) == [500]
    assert len(engine.seen) + len(engine2.seen) == before + 2
    assert limits(world)[0] > 1000, "nobody rests while hocket only watches"


async def test_a_call_that_waits_too_long_gets_503_and_when_to_come_back(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine, window=1, queue_timeout=0.3)
    engine.default = Script(held=True)
    task = asyncio.create_task(world.post({"stream": True}).__aenter__())
    await soon(lambda: engine.inflight == 1)
    began = asyncio.get_running_loop().time()
    async with world.post({}) as late:
        assert asyncio.get_running_loop().time() - began > 0.25
        assert await world.error(late) == (503, "queue_timeout")
        assert int(late.headers["Retry-After"]) >= 1
    engine.gate.set()
    assert b"[DONE]" in await (await task).read()


async def test_an_embedded_engines_metrics_reach_the_core_where_its_window_is_searched_for(start: Start) -> None:
    engine = EngineSettings(name="small", kind="embedded", max_concurrency="auto")
    world = await start(engines=[engine], health=Health(interval_s=0.2))
    await world.gateway.engines_ready()
    body = {"stream": True, "max_tokens": 64}
    streams = [asyncio.create_task(stream_of(world, body)) for _ in range(4)]
    await asyncio.gather(*streams)
    told = [record.event for record in world.records() if isinstance(record.event, ReplicaObserved)]
    assert any(event.running for event in told)
    assert all(event.healthy and event.waiting == 0 for event in told)


async def stream_of(world: Running, body: dict[str, Any]) -> None:
    async with world.post(body) as response:
        assert b"[DONE]" in await response.read()
