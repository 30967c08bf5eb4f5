"""What comes out is what the engine said, byte for byte, and when a client goes the engine is told at once."""

from __future__ import annotations

import asyncio
import io
import time
from itertools import pairwise

import aiohttp
import pytest
from aiohttp import web

from hocket.core.events import CallStreamed
from hocket.settings import EngineSettings
from tests.gateway.conftest import Start, soon
from tests.scripted_engine import Script, ScriptedEngine, chunks, whole

CLIENTS = 5
"that go one after another: the quickest is what hocket does, what others take longer is the machine"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_a_whole_answer_is_the_engines_own_bytes(engine: ScriptedEngine, start: Start, path: str) -> None:
    world = await start(engine)
    body = b'{"model" : "small", "prompt":"a", "messages":[ {"content":"\xc3\xa9"} ],"top_k":1e1, "x":[1.50]}'
    async with world.post(body, path, headers={"Content-Type": "application/json", "x-custom": "kept"}) as response:
        assert response.status == 200
        assert await response.read() == whole(engine.default).body
        assert response.headers["x-engine"] == "scripted"
        assert response.headers["x-hocket-job"] and response.headers["x-hocket-call"]
    (seen,) = engine.seen
    assert (seen.path, seen.raw, seen.headers["x-custom"]) == (path, body, "kept")


@pytest.mark.parametrize("script", [Script(), Script(usage=True, gap_s=0.002), Script(pad=50_000), Script(do="close")])
async def test_a_stream_is_the_engines_own_bytes(engine: ScriptedEngine, start: Start, script: Script) -> None:
    world = await start(engine)
    engine.default = script
    async with world.post({"stream": True}) as response:
        assert response.headers["Content-Type"] == "text/event-stream"
        assert await response.read() == b"".join(chunks(script))


async def test_chunks_are_passed_on_as_they_come(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine)
    engine.default = Script(chunks=5, gap_s=0.1)
    async with world.post({"stream": True}) as response:
        times = [time.monotonic() async for _ in response.content.iter_any()]
    assert len(times) >= 5
    assert times[-1] - times[0] > 0.3


async def test_hop_by_hop_headers_and_cookies_stay_behind(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine)
    headers = {"Connection": "keep-alive, x-private", "x-private": "1", "Cookie": "a=b", "TE": "trailers"}
    async with world.post({}, headers=headers) as response:
        assert response.status == 200
    assert not engine.seen[0].headers.keys() & {"x-private", "cookie", "te"}


async def test_the_clients_request_id_comes_back(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine)
    for stream in (False, True):
        async with world.post({"stream": stream}, headers={"x-request-id": "r-17"}) as response:
            assert response.headers["x-request-id"] == "r-17"
    async with world.post({"model": "none"}, headers={"x-request-id": "r-18"}) as response:
        assert response.status == 404 and response.headers["x-request-id"] == "r-18"
    assert engine.seen[0].headers["x-request-id"] == "r-17"


async def test_a_compressed_request_reaches_the_engine_readable(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine)
    async with world.post({"top_k": 3}, compress="gzip") as response:
        assert response.status == 200
    assert engine.seen[0].body["top_k"] == 3
    assert "content-encoding" not in engine.seen[0].headers


async def test_a_renamed_model_changes_nothing_else(engine: ScriptedEngine, start: Start) -> None:
    served = EngineSettings(name="e", models=["small"], upstream_model="org/Big", replicas=[engine.url])
    world = await start(engines=[served])
    body = b'{"messages":[ {"content":"a"} ],"model":"small","temperature":1.50,"seed":12345678901234567890}'
    async with world.post(body) as response:
        assert response.status == 200
    raw = engine.seen[0].raw
    assert b'"model":"org/Big"' in raw and b'"temperature":1.50' in raw and b'"seed":12345678901234567890' in raw
    assert b'[ {"content":"a"} ]' in raw


@pytest.mark.parametrize("renamed", [None, "org/Big"])
async def test_a_body_of_32_mib_passes_and_others_do_not_wait_for_it(
    engine: ScriptedEngine, start: Start, renamed: str | None
) -> None:
    world = await start(engines=[EngineSettings(name="small", upstream_model=renamed, replicas=[engine.url])])
    engine.plan.append(Script(first_s=0.1))
    body = b'{"model":"small","messages":[{"role":"user","content":"%b"}]}'
    body %= b"x" * (2**25 - len(body) + 2)
    large = asyncio.create_task(world.post(io.BytesIO(body)).__aenter__())
    # in CPU time, of client, gateway and engine at once: what else the machine does is none of it
    slowest, first = 0.0, time.process_time()
    while not large.done():
        began = time.process_time()
        async with world.http.get(f"{world.url}/health") as response:
            assert response.status == 200
        slowest = max(slowest, time.process_time() - began)
    assert (await large).status == 200
    assert len(body) == 2**25 and len(engine.seen[0].raw) == len(body) + (2 if renamed else 0)
    assert slowest < 0.7 * (time.process_time() - first)


async def test_sizes_come_from_the_engine_or_are_counted(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine)

    def tokens() -> tuple[float, float]:
        value = world.gateway.metrics.registry.get_sample_value
        return tuple(  # type: ignore[return-value]
            value("hocket_tokens_total", {"engine": "small", "direction": name}) or 0 for name in ("prompt", "output")
        )

    engine.default = Script(chunks=5)
    async with world.post({}) as response:
        await response.read()
    assert tokens() == (7, 5)
    engine.default = Script(chunks=6, usage=True)
    async with world.post({"stream": True}) as response:
        await response.read()
    assert tokens() == (14, 11)
    engine.default = Script(chunks=6)
    async with world.post({"stream": True}) as response:
        await response.read()
    # counted: six tokens and the event that carries the finish reason; the prompt is estimated
    assert tokens()[1] == 18 and tokens()[0] > 14


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_goes_while_it_is_served_stops_the_engine(
    engine: ScriptedEngine, start: Start, stream: bool
) -> None:
    world = await start(engine, window=1)
    engine.default = Script(chunks=500, gap_s=0.02) if stream else Script(do="hang")
    took = []
    for _ in range(CLIENTS):
        if stream:
            response = await world.post({"stream": True})
            await response.content.readany()
            gone = time.monotonic()
            response.close()
        else:
            task = asyncio.create_task(world.post({"stream": False}).__aenter__())
            await soon(lambda: engine.inflight == 1)
            gone = time.monotonic()
            task.cancel()
        took.append(await soon(lambda: engine.inflight == 0 and world.inflight == 0))
        aborted = engine.seen[-1].aborted
        assert aborted is not None and aborted >= gone
    assert min(took) < 0.1


async def test_a_client_that_goes_before_the_first_chunk_of_a_stream(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine, window=1)
    engine.default = Script(first_s=30)
    took = []
    for _ in range(CLIENTS):
        task = asyncio.create_task(world.post({"stream": True}).__aenter__())
        await soon(lambda: engine.inflight == 1)
        task.cancel()
        took.append(await soon(lambda: engine.inflight == 0 and world.inflight == 0))
    assert min(took) < 0.1


async def test_a_client_that_goes_while_it_waits_leaves_the_queue(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine, window=1)
    engine.default = Script(first_s=1.0)
    first = asyncio.create_task(world.post({}).__aenter__())
    await soon(lambda: engine.inflight == 1)
    second = asyncio.create_task(world.post({}).__aenter__())
    third = asyncio.create_task(world.post({}).__aenter__())
    queue = world.gateway.scheduler.engines["small"]
    await soon(lambda: queue.queued == 2)
    second.cancel()
    await soon(lambda: queue.queued == 1)
    assert engine.inflight == 1 and not first.done()
    assert (await first).status == (await third).status == 200
    assert len(engine.seen) == 2


async def test_the_window_is_never_exceeded_and_is_used(
    engine: ScriptedEngine, engine2: ScriptedEngine, start: Start
) -> None:
    world = await start(engine, engine2, window=3)
    for each in (engine, engine2):
        each.default = Script(chunks=3, gap_s=0.005)

    async def one(i: int) -> int:
        async with world.post({"stream": i % 2 == 0}) as response:
            await response.read()
            return int(response.status)

    assert await asyncio.gather(*(one(i) for i in range(60))) == [200] * 60
    assert (engine.peak, engine2.peak) == (3, 3)
    assert len(engine.seen) + len(engine2.seen) == 60


async def test_a_tenants_key_does_not_reach_the_engine_and_the_engines_own_does(
    engine: ScriptedEngine, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINE_KEY", "engine-secret")
    served = EngineSettings(name="small", replicas=[engine.url], api_key_env="ENGINE_KEY")
    world = await start(engines=[served])
    async with world.post({}, headers={"Authorization": "Bearer client-secret"}) as response:
        assert response.status == 200
    assert engine.seen[0].headers["authorization"] == "Bearer engine-secret"


async def test_expect_100_continue(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine)
    async with asyncio.timeout(10), world.post({}, expect100=True) as response:
        assert response.status == 200


async def test_two_requests_on_one_connection(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as http:
        for stream in (True, False, True):
            body = {"model": "small", "messages": [], "stream": stream}
            async with http.post(f"{world.url}/v1/chat/completions", json=body) as response:
                assert response.status == 200
                await response.read()
    assert len(engine.seen) == 3


async def test_a_slow_client_holds_no_slot_for_the_end_of_its_stream(
    engine: ScriptedEngine, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor can its call be aborted then: the error would come behind the end, as the next answer's beginning."""
    held: list[int] = []
    write_eof = web.StreamResponse.write_eof

    async def last(response: web.StreamResponse, data: bytes = b"") -> None:
        held.append(world.inflight)
        await write_eof(response, data)

    monkeypatch.setattr("hocket.gateway.downstream._Stream.write_eof", last)
    world = await start(engine)
    for script in (Script(), Script(do="error-event")):
        engine.plan.append(script)
        async with world.post({"stream": True}) as response:
            await response.read()
    assert held and set(held) == {0}


@pytest.mark.parametrize(("policy", "several"), [("las", True), ("call-fcfs", False)])
async def test_progress_is_told_as_often_as_the_policy_wants(
    engine: ScriptedEngine, start: Start, policy: str, several: bool
) -> None:
    world = await start(engine, policy=policy)
    engine.default = Script(chunks=40, gap_s=0.02)
    async with world.post({"stream": True}) as response:
        await response.read()
    told = [record.event for record in world.records() if isinstance(record.event, CallStreamed)]
    assert told[0].tokens <= 2
    assert (3 <= len(told) < 20) if several else (len(told) == 1)
    assert all(after.at - before.at >= 0.25 for before, after in pairwise(told))


async def test_answers_say_how_long_the_call_waited(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine, window=1)
    engine.default = Script(held=True)

    async def waited() -> float:
        async with world.post({}) as response:
            return float(response.headers["x-hocket-queue-ms"])

    calls = [asyncio.create_task(waited()) for _ in range(2)]
    await soon(lambda: world.gateway.scheduler.engines["small"].queued == 1)
    await asyncio.sleep(0.2)
    engine.gate.set()
    first, second = sorted(await asyncio.gather(*calls))
    assert second >= 200 and first < second
