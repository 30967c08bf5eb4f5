"""Replicas that misbehave. A call is retried once, before its first byte; then its client gets one clear error."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import time
from collections import Counter
from typing import Any

import aiohttp
import pytest

from hocket.settings import Timeouts
from tests.gateway.conftest import Running, Start, soon
from tests.scripted_engine import Script, ScriptedEngine, chunks, whole

QUICK = Timeouts(connect=0.5, first_byte=0.3, between_chunks=0.3)
GOOD = Script()


def events(raw: bytes) -> list[Any]:
    """The data events of a stream; `[DONE]` as it is."""
    lines = [line.removeprefix(b"data: ") for line in raw.splitlines() if line.startswith(b"data: ")]
    return [line if line == b"[DONE]" else json.loads(line) for line in lines]


RETRIED = [
    Script(do="reset"),
    Script(do="hang", hang_s=2),
    Script(do="garbage"),
    Script(do="status", status=500),
    Script(do="status", status=503),
]
ONLY_STREAM = [Script(do="not-sse"), Script(do="empty"), Script(do="cut", after=0)]
ONLY_WHOLE = [Script(do="not-json"), Script(do="cut"), Script(do="stall", hang_s=2)]


@pytest.mark.parametrize(
    ("script", "stream"),
    [(script, stream) for script in RETRIED for stream in (False, True)]
    + [(script, True) for script in ONLY_STREAM]
    + [(script, False) for script in ONLY_WHOLE],
    ids=lambda value: f"{value.do}-{value.status}" if isinstance(value, Script) else f"stream={value}",
)
async def test_one_failure_before_the_first_byte_is_retried(
    engine: ScriptedEngine, start: Start, script: Script, stream: bool
) -> None:
    world = await start(engine, timeouts=QUICK)
    engine.plan.extend([script, GOOD])
    async with world.post({"stream": stream}) as response:
        assert response.status == 200
        assert await response.read() == (b"".join(chunks(GOOD)) if stream else whole(GOOD).body)
    assert len(engine.seen) == 2
    assert engine.seen[0].raw == engine.seen[1].raw


@pytest.mark.parametrize(
    ("script", "status", "code"),
    [
        (Script(do="reset"), 503, "upstream_reset"),
        (Script(do="hang", hang_s=2), 503, "upstream_timeout"),
        (Script(do="garbage"), 503, "upstream_garbage"),
        (Script(do="not-json"), 503, "upstream_garbage"),
    ],
    ids=lambda value: value.do if isinstance(value, Script) else None,
)
async def test_a_second_failure_is_told(
    engine: ScriptedEngine, start: Start, script: Script, status: int, code: str
) -> None:
    world = await start(engine, timeouts=QUICK)
    engine.plan.extend([script, script, GOOD])
    async with world.post({}) as response:
        assert await world.error(response) == (status, code)
        assert response.headers["x-hocket-call"]
    assert len(engine.seen) == 2
    async with world.post({}) as response:
        assert response.status == 200


async def test_the_second_500_is_the_engines_own_body(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine)
    engine.plan.extend([Script(do="status", status=500)] * 2)
    async with world.post({"stream": True}) as response:
        assert response.status == 500
        assert await response.read() == engine.seen[1].sent[0]
        assert response.headers["x-engine"] == "scripted"


@pytest.mark.parametrize("status", [400, 401, 404, 422])
async def test_what_the_engine_refuses_is_not_retried(engine: ScriptedEngine, start: Start, status: int) -> None:
    world = await start(engine)
    engine.plan.append(Script(do="status", status=status))
    async with world.post({}) as response:
        assert response.status == status
        assert await response.read() == engine.seen[0].sent[0]
    assert len(engine.seen) == 1


async def test_429_rests_the_replica_and_the_call_goes_on(
    engine: ScriptedEngine, engine2: ScriptedEngine, start: Start
) -> None:
    world = await start(engine, window=1)
    engine.plan.append(Script(do="status", status=429, retry_after="0.3"))
    began = time.monotonic()
    async with world.post({}) as response:
        assert response.status == 200
    assert 0.29 < time.monotonic() - began < 1.5
    assert len(engine.seen) == 2


async def test_429_that_never_ends_is_passed_on(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine)
    engine.default = Script(do="status", status=429, retry_after="0.01")
    async with world.post({}) as response:
        assert response.status == 429
        assert response.headers["Retry-After"] == "0.01"
        assert await response.read() == engine.seen[-1].sent[0]


async def test_a_dead_port_and_a_living_replica(engine: ScriptedEngine, start: Start) -> None:
    with socket.socket() as held:  # bound and not listening: connections are refused, and nobody else takes it
        held.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{held.getsockname()[1]}"
        world = await start(dead, engine, timeouts=QUICK, window=2)
        results = await asyncio.gather(*(_status(world, {}) for _ in range(6)))
        assert set(results) <= {200, 503} and 200 in results
        failed = world.gateway.metrics.registry.get_sample_value(
            "hocket_replica_failures_total", {"engine": "small", "kind": "connect"}
        )
        assert failed


async def _status(world: Running, body: dict[str, Any]) -> int:
    async with world.post(body) as response:
        await response.read()
        return int(response.status)


@pytest.mark.parametrize(
    "script",
    [Script(do="cut", after=3), Script(do="stall", after=3, hang_s=3), Script(do="cut-close", after=3)],
    ids=lambda script: script.do,
)
async def test_a_stream_that_breaks_ends_in_an_error_event(
    engine: ScriptedEngine, start: Start, script: Script
) -> None:
    world = await start(engine, timeouts=QUICK)
    engine.plan.append(script)
    async with world.post({"stream": True}) as response:
        assert response.status == 200
        raw = await response.read()
    told = events(raw)
    assert raw.startswith(b"".join(chunks(script)[:3]))
    assert told[-1]["error"]["code"] in {"upstream_reset", "upstream_timeout"}
    assert b"[DONE]" not in told
    assert len(engine.seen) == 1, "what has begun is never retried"


async def test_an_error_that_the_engine_streams_is_passed_on_and_counts_as_failure(
    engine: ScriptedEngine, start: Start
) -> None:
    world = await start(engine)
    engine.plan.append(Script(do="error-event"))
    async with world.post({"stream": True}) as response:
        assert await response.read() == b"".join(chunks(Script(do="error-event")))
    value = world.gateway.metrics.registry.get_sample_value
    assert value("hocket_replica_failures_total", {"engine": "small", "kind": "status"}) == 1


async def test_a_replica_that_goes_and_another_that_comes(
    engine: ScriptedEngine, engine2: ScriptedEngine, start: Start
) -> None:
    world = await start(engine, window=2)
    engine.default = Script(chunks=200, gap_s=0.05)
    stream = await world.post({"stream": True})
    await stream.content.readany()
    await engine.stop()
    world.gateway.fleet.remove("small", engine.url, died=True)
    assert events(await stream.read())[-1]["error"]["code"] == "upstream_reset"
    waiting = asyncio.create_task(_status(world, {}))
    await soon(lambda: world.gateway.scheduler.engines["small"].queued == 1)
    async with world.http.get(world.url + "/ready") as response:
        assert response.status == 503
    world.gateway.fleet.add("small", engine2.url, engine2.url)
    assert await waiting == 200


@pytest.mark.parametrize("policy", ["default", "call-fcfs"])
async def test_500_calls_over_replicas_that_misbehave(start: Start, policy: str) -> None:
    """Each client gets one complete answer or one clear error; nothing hangs, nothing is counted twice."""
    rng = random.Random(17)
    engines = [ScriptedEngine(record=False) for _ in range(4)]
    for engine in engines:
        await engine.start()
        for _ in range(400):
            bad = rng.random() < 0.4
            do = rng.choice(
                ("reset", "cut", "stall", "hang", "status", "garbage", "not-json", "not-sse", "empty", "close")
            )
            status = rng.choice((400, 429, 500, 503))
            engine.plan.append(
                Script(
                    do=do if bad else "answer",
                    chunks=4,
                    gap_s=0.001,
                    after=1,
                    hang_s=5,
                    status=status,
                    retry_after="0.02",
                )
            )
    world = await start(*engines, timeouts=QUICK, window=8, policy=policy)
    outcomes: Counter[str] = Counter()

    async def one(i: int) -> None:
        stream = i % 2 == 0
        headers = {} if i % 3 else {"x-hocket-app": "a", "x-hocket-job": f"j{i % 20}"}
        try:
            async with world.post({"stream": stream}, headers=headers) as response:
                raw = await response.read()
        except aiohttp.ClientError as error:  # a broken connection is no clear error
            outcomes[f"broken {type(error).__name__}"] += 1
            return
        outcomes[_judged(response.status, raw, stream)] += 1

    async with asyncio.timeout(60):
        await asyncio.gather(*(one(i) for i in range(500)))
    assert sum(outcomes.values()) == 500
    assert set(outcomes) <= {"answer", "error", "broken off with an error"}, outcomes
    assert outcomes["answer"] > 300 and outcomes["error"] > 5 and outcomes["broken off with an error"] > 5, outcomes
    assert world.inflight == 0
    for engine in engines:
        assert engine.peak <= 8 + 8, "a window counts what the core holds; what was given up may still be dying"
        await engine.stop()


def _judged(status: int, raw: bytes, stream: bool) -> str:
    if status != 200:
        return "error" if "error" in json.loads(raw) else f"unclear {status}"
    if not stream:
        return "answer" if json.loads(raw)["usage"]["completion_tokens"] == 4 else "wrong answer"
    told = events(raw)
    if told[-1] == b"[DONE]":
        good = raw == b"".join(chunks(Script(chunks=4)))
        return "answer" if good else "wrong stream"
    return "broken off with an error" if "error" in told[-1] else "silently cut"
