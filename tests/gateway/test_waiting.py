"""Nobody waits for ever: calls in the queue, clients that dawdle, and proxies that want to hear something."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from hocket.settings import Timeouts
from tests.gateway.conftest import Running, Start, soon
from tests.scripted_engine import Script, ScriptedEngine, chunks

BEAT = b": waiting\n\n"
CHAT = b'{"model":"small","stream":true,"messages":[]}'


async def text(world: Running, body: Any, path: str = "/v1/chat/completions") -> tuple[int, bytes]:
    async with world.post(body, path) as response:
        return response.status, await response.read()


# ---------------------------------------------------------------- the queue


async def test_a_call_that_waits_too_long_is_refused(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine, window=1, queue_timeout=0.2)
    engine.default = Script(held=True)
    first = asyncio.create_task(text(world, {}))
    await soon(lambda: engine.inflight == 1)
    began = time.monotonic()
    async with world.post({}) as response:
        assert await world.error(response) == (503, "queue_timeout")
        assert int(response.headers["Retry-After"]) >= 1
    assert time.monotonic() - began > 0.15
    engine.gate.set()
    assert (await first)[0] == 200 and len(engine.seen) == 1


@pytest.mark.parametrize("window", [1, 8])
async def test_a_heartbeat_while_a_stream_waits(engine: ScriptedEngine, start: Start, window: int) -> None:
    """In the queue, or in a replica that takes its time: the stream itself is the engine's own."""
    world = await start(engine, window=window, heartbeat_s=0.1)
    engine.default = Script(held=True)
    async with world.post({"stream": True}) as one, world.post({"stream": True}) as other:
        assert one.status == other.status == 200
        answers = [b"", b""]
        for number, response in enumerate((one, other)):
            while answers[number].count(BEAT) < 3:
                answers[number] += await response.content.readany()
        engine.gate.set()
        for answer, response in zip(answers, (one, other), strict=True):
            whole = answer + await response.read()
            assert whole == BEAT * whole.count(BEAT) + b"".join(chunks(Script()))


async def test_no_heartbeat_where_nobody_waits_and_where_it_is_no_stream(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine, heartbeat_s=0.1)
    assert await text(world, {"stream": True}) == (200, b"".join(chunks(Script())))
    engine.default = Script(first_s=0.3)
    async with world.post({}) as response:
        assert response.headers["x-engine"] == "scripted" and b"waiting" not in await response.read()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
@pytest.mark.parametrize("do", ["status", "reset", "timeout"])
async def test_an_error_after_a_heartbeat_is_an_event(engine: ScriptedEngine, start: Start, path: str, do: str) -> None:
    world = await start(engine, window=1, heartbeat_s=0.1, queue_timeout=0.25 if do == "timeout" else None)
    other = None
    if do == "timeout":
        engine.plan.append(Script(held=True))
        other = asyncio.create_task(text(world, {}))
        await soon(lambda: engine.inflight == 1)
    else:
        engine.default = Script(do=do, status=400, first_s=0.15)
    async with world.post({"stream": True, "input": "a"}, path) as response:
        assert response.status == 200 and response.headers["Content-Type"] == "text/event-stream"
        answer = await response.read()
    assert answer.startswith(BEAT) and b"[DONE]" not in answer
    event = answer.rstrip().rpartition(b"\n\n")[2]
    named, _, data = event.rpartition(b"data: ")
    error = msgspec.json.decode(data)["error"]
    expected = {"status": (400, "scripted"), "reset": ("upstream_reset", None), "timeout": ("queue_timeout", None)}[do]
    assert error["code"] == expected[0] and (expected[1] is None or error["message"] == expected[1])
    assert named == (b"event: error\n" if path == "/v1/responses" and do != "status" else b"")
    if other is not None:
        engine.gate.set()
        assert (await other)[0] == 200


async def test_a_retry_after_a_heartbeat(engine: ScriptedEngine, engine2: ScriptedEngine, start: Start) -> None:
    world = await start(engine, engine2, heartbeat_s=0.1)
    engine.default = engine2.default = Script(first_s=0.15)
    engine.plan.append(Script(do="reset", first_s=0.25))
    status, answer = await text(world, {"stream": True})
    assert status == 200 and answer.replace(BEAT, b"") == b"".join(chunks(Script()))
    assert len(engine.seen) + len(engine2.seen) == 2


async def test_a_client_that_goes_between_two_heartbeats(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine, window=1, heartbeat_s=0.05)
    engine.default = Script(first_s=5)
    tasks = [asyncio.create_task(text(world, {"stream": True})) for _ in range(2)]
    await soon(lambda: engine.inflight == 1)
    await asyncio.sleep(0.12)
    for task in tasks:
        task.cancel()
    await soon(lambda: engine.inflight == 0 and world.inflight == 0)


async def test_a_job_that_is_aborted_after_a_heartbeat(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine, heartbeat_s=0.05)
    engine.default = Script(first_s=5)
    async with world.post({"stream": True}, headers={"x-hocket-job": "j"}) as response:
        assert await response.content.readline() == b": waiting\n"
        await world.http.delete(f"{world.url}/v1/jobs/j?abort=true")
        assert b'"job_aborted"' in await response.read()
    await soon(lambda: engine.inflight == 0)


# ---------------------------------------------------------------- clients that dawdle


def connect(world: Running, sent: bytes) -> socket.socket:
    """A client with small buffers that has sent this and reads nothing."""
    address = urlsplit(world.url)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect((address.hostname, address.port))
    client.sendall(sent)
    client.setblocking(False)
    return client


def post(body: bytes, length: int | None = None) -> bytes:
    return b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n%b" % (
        len(body) if length is None else length,
        body,
    )


async def read(client: socket.socket) -> bytes:
    """What comes until the connection is closed."""
    out, loop = b"", asyncio.get_running_loop()
    async with asyncio.timeout(3):
        while piece := await loop.sock_recv(client, 65536):
            out += piece
    return out


async def test_a_client_that_does_not_read_loses_its_slot(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine, window=1, timeouts=Timeouts(client=0.3))
    engine.plan.append(Script(chunks=2000, pad=20_000))
    with connect(world, post(CHAT)):
        await soon(lambda: world.inflight == 1)
        began = time.monotonic()
        assert (await text(world, {}))[0] == 200, "the next call gets the slot"
        assert time.monotonic() - began < 2
    assert engine.seen[0].aborted is not None


async def test_a_client_that_reads_slowly_keeps_its_slot(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine, timeouts=Timeouts(client=0.3))
    engine.plan.append(Script(chunks=100, pad=20_000))
    async with world.post({"stream": True}) as response:
        size = 0
        while piece := await response.content.read(100_000):
            size += len(piece)
            await asyncio.sleep(0.05)
    assert size > 2_000_000 and engine.seen[0].aborted is None


@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        (post(CHAT, 500), True),
        (post(CHAT)[:40], True),
        (b"", False),
    ],
    ids=["body", "headers", "nothing"],
)
async def test_a_request_that_does_not_come(engine: ScriptedEngine, start: Start, sent: bytes, answered: bool) -> None:
    world = await start(engine, timeouts=Timeouts(request=0.3))
    began = time.monotonic()
    with connect(world, sent) as client:
        async with asyncio.timeout(3):
            answer = await asyncio.get_running_loop().sock_recv(client, 65536)
    assert 0.25 < time.monotonic() - began < 1.5
    assert (b" 408 " in answer[:20] and b'"request_timeout"' in answer) == answered and bool(answer) == answered
    assert not engine.seen


async def test_the_second_request_of_a_connection_that_does_not_come(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine, timeouts=Timeouts(request=0.3))
    with connect(world, b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n") as client:
        loop = asyncio.get_running_loop()
        assert b" 200 " in await loop.sock_recv(client, 65536)
        await asyncio.sleep(0.4)  # idle, which is allowed
        await loop.sock_sendall(client, b"GET /health HT")
        assert b" 408 " in await read(client)


async def test_slow_requests_do_not_stop_others(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine, timeouts=Timeouts(request=10.0))
    clients = [connect(world, post(CHAT, 10_000)) for _ in range(100)]
    try:
        began = time.monotonic()
        assert (await text(world, {"stream": True}))[0] == 200
        assert time.monotonic() - began < 5.0, "it waited for them"
    finally:
        for client in clients:
            client.close()
