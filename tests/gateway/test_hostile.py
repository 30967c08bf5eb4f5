"""Clients that mean harm: what they send is bounded in time and memory, and another client hardly notices.

How much another client notices is measured in the same run: its median latency beside the attack, to that before it.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from hocket.settings import Timeouts
from tests.gateway.conftest import Running, Start, soon
from tests.scripted_engine import Script, ScriptedEngine

QUICK = Timeouts(connect=1.0, first_byte=2.0, between_chunks=2.0, request=0.6, client=0.6)
LINGERS = 20.0
"until a client that dawdles is cut: after its error it may take a moment to read it"
NOTICED = 8.0
"times as slow, at most, another client's calls may become while hundreds attack from the same process"
POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
CHAT = b'{"model":"small","messages":[{"role":"user","content":"hi"}]}'
CALL = POST + b"Content-Length: %d\r\n\r\n%b" % (len(CHAT), CHAT)


class Attacker:
    """A raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def dribble(self, data: bytes, every_s: float = 0.02) -> None:
        """Send byte by byte, until cut off."""
        try:
            for i in range(len(data)):
                self.writer.write(data[i : i + 1])
                await self.writer.drain()
                await asyncio.sleep(every_s)
        except OSError:
            pass

    async def ends(self, within_s: float) -> bytes:
        """All that comes until the gateway closes."""
        try:
            async with asyncio.timeout(within_s):
                return await self.reader.read()
        except ConnectionError:
            return b""


@asynccontextmanager
async def attackers(world: Running, count: int) -> AsyncIterator[list[Attacker]]:
    """So many connections."""
    port = int(world.url.rpartition(":")[2])
    found = [Attacker(*await asyncio.open_connection("127.0.0.1", port)) for _ in range(count)]
    try:
        yield found
    finally:
        for one in found:
            one.writer.transport.abort()
        await asyncio.sleep(0.01)


async def latency(world: Running, calls: int = 15) -> float:
    """Median seconds of a call of a client that means well."""
    took = []
    for _ in range(calls):
        began = time.perf_counter()
        async with world.post({}) as response:
            assert response.status == 200, await response.text()
            await response.read()
        took.append(time.perf_counter() - began)
    return statistics.median(took)


async def unaffected(world: Running, attack: Callable[[], Awaitable[None]]) -> None:
    """Run an attack; another client's calls stay about as fast as they were."""
    before = await latency(world)
    task = asyncio.ensure_future(attack())
    await asyncio.sleep(0.05)
    beside = await latency(world)
    await task
    assert beside < NOTICED * before + 0.005, f"{1000 * before:.1f} ms before, {1000 * beside:.1f} ms beside the attack"


async def cancelled(tasks: list[asyncio.Future[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


# ---------------------------------------------------------------- clients that send slowly


@pytest.mark.parametrize(
    ("head", "slow"),
    [(b"", POST + b"x-slow: " + b"y" * 2000), (POST + b"Content-Length: 2000\r\n\r\n", b'{"model":' + b" " * 2000)],
    ids=["headers", "body"],
)
async def test_slow_loris(engine: ScriptedEngine, start: Start, head: bytes, slow: bytes) -> None:
    world = await start(engine, timeouts=QUICK)

    async def attack() -> None:
        async with attackers(world, 200) as crowd:
            began = time.monotonic()
            for one in crowd:
                one.writer.write(head)
            dribbles = [asyncio.ensure_future(one.dribble(slow)) for one in crowd]
            answers = await asyncio.gather(*(one.ends(LINGERS) for one in crowd))
            assert time.monotonic() - began < LINGERS
            assert {answer[:12] for answer in answers} <= {b"HTTP/1.1 408", b""}
            await cancelled(dribbles)

    await unaffected(world, attack)
    assert not engine.seen or len(engine.seen) == 30  # those of the client that means well


async def test_connections_that_say_nothing(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine, timeouts=QUICK)
    before = resident_mb()

    async def attack() -> None:
        async with attackers(world, 800) as crowd:
            assert resident_mb() - before < 100
            assert set(await asyncio.gather(*(one.ends(LINGERS) for one in crowd))) == {b""}

    await unaffected(world, attack)


async def test_clients_that_never_read_their_stream(engine: ScriptedEngine, start: Start) -> None:
    """Each is cut when it has read nothing for `timeouts.client`, and its slot is free again."""
    world = await start(engine, window=64, timeouts=QUICK)
    # more than the sockets' buffers hold on the way, about 9.5 MB: else the engine is done, and nothing is cut
    body = json.dumps({
        **json.loads(CHAT),
        "stream": True,
        "scripted": {"chunks": 150, "pad": 100_000},
    }).encode()  # fmt: skip
    before = resident_mb()
    async with attackers(world, 8) as crowd:
        for one in crowd:
            one.writer.transport.pause_reading()  # type: ignore[attr-defined]
            one.writer.write(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        await soon(lambda: len(engine.seen) == len(crowd))
        assert await latency(world, 5) < 1.0
        await soon(lambda: world.inflight == 0, LINGERS)
        await soon(lambda: len(engine.aborted) == len(crowd))  # the engine does not work on for nobody
        # 8 x 15 MB were on their way, which the engine, in this process too, holds
        assert resident_mb() - before < 300


# ---------------------------------------------------------------- clients that send too much


@pytest.mark.parametrize(
    "flood",
    [
        POST + b"".join(b"x-%d: y\r\n" % i for i in range(5000)) + b"\r\n",
        POST + b"x: " + b"y" * 2**20 + b"\r\n\r\n",
        POST + b"y" * 2**20 + b": x\r\n\r\n",
        b"POST /" + b"y" * 2**20 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    ],
    ids=["count", "value", "name", "path"],
)
async def test_header_floods(engine: ScriptedEngine, start: Start, flood: bytes) -> None:
    world = await start(engine, timeouts=QUICK)

    async def attack() -> None:
        async with attackers(world, 20) as crowd:
            for one in crowd:
                one.writer.write(flood)
            answers = await asyncio.gather(*(one.ends(LINGERS) for one in crowd))
            assert {answer[:12] for answer in answers} <= {b"HTTP/1.0 431", b"HTTP/1.0 400", b""}

    await unaffected(world, attack)


@pytest.mark.parametrize("chunked", [False, True])
async def test_huge_bodies(engine: ScriptedEngine, start: Start, chunked: bool) -> None:
    world = await start(engine, timeouts=QUICK, body_limit_mib=1)
    before = resident_mb()
    async with attackers(world, 8) as crowd:
        for one in crowd:
            length = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 99999999999"
            one.writer.write(POST + length + b"\r\n\r\n")

        async def pour(one: Attacker) -> None:
            try:
                while True:
                    one.writer.write(b"10000\r\n" + b" " * 65536 + b"\r\n")
                    await one.writer.drain()
            except OSError:
                pass

        pours = [asyncio.ensure_future(pour(one)) for one in crowd]
        answers = await asyncio.gather(*(one.ends(5.0) for one in crowd))
        assert {answer[:12] for answer in answers} <= {b"HTTP/1.1 413", b""}  # b"": cut while still sending
        await cancelled(pours)
    assert resident_mb() - before < 100
    assert await latency(world) < 1.0


async def test_requests_sent_ahead_are_bounded(engine: ScriptedEngine, start: Start) -> None:
    """Pipelined requests wait for the one before them, and would wait in memory."""
    engine.default = Script(first_s=0.5)
    world = await start(engine, timeouts=QUICK)
    before = resident_mb()
    async with attackers(world, 1) as (one,):
        one.writer.write(CALL)
        try:
            for _ in range(100):
                one.writer.write(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 2000)
                async with asyncio.timeout(0.5):
                    await one.writer.drain()
        except (TimeoutError, OSError):
            pass
        assert resident_mb() - before < 60
    await soon(lambda: world.inflight == 0)


async def test_a_few_requests_sent_ahead_are_answered_in_order(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine, timeouts=QUICK)
    async with attackers(world, 1) as (one,):
        one.writer.write(CALL + b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" + CALL)
        await soon(lambda: len(engine.seen) == 2)
        one.writer.write(b"\x00garbage\r\n\r\n")
        answer = await one.ends(LINGERS)
    assert re.findall(rb"HTTP/1\.[01] (\d+)", answer) == [b"200", b"200", b"200", b"400"]


# ---------------------------------------------------------------- nonsense


def nonsense(rng: random.Random, longest: int) -> bytes:
    """Bytes that tend to matter to a parser of HTTP."""
    alphabet = [bytes([n]) for n in range(256)] + [b"\r\n", b": ", b"\r", b"\n", b",", b'"', b"\xff", b"\x00"] * 8
    return b"".join(rng.choices(alphabet, k=rng.randint(0, longest)))


NAMES = (
    *(
        "Authorization",
        "Accept-Encoding",
        "Connection",
        "Content-Encoding",
        "Content-Type",
        "Expect",
        "Host",
        "Upgrade",
    ),
    *("Transfer-Encoding", "traceparent", "tracestate", "baggage", "x-request-id", "x-session-id", "x-hocket-job"),
    *(
        "x-hocket-app",
        "x-hocket-urgency",
        "x-hocket-deadline-ms",
        "x-stainless-retry-count",
        "Cookie",
        "Origin",
        "Range",
    ),
)


@pytest.mark.parametrize("seed", range(4))
async def test_random_headers(engine: ScriptedEngine, start: Start, seed: int) -> None:
    """No header, whatever its bytes, makes hocket fail: 2xx, 4xx or a closed connection."""
    rng = random.Random(seed)
    world = await start(engine, timeouts=QUICK)
    found = set()
    for _ in range(120):
        lines = [
            (rng.choice(NAMES).encode() if rng.random() < 0.9 else nonsense(rng, 8)) + b": " + nonsense(rng, 24)
            for _ in range(rng.randint(1, 4))
        ]
        async with attackers(world, 1) as (one,):
            head = POST + b"".join(line + b"\r\n" for line in lines) + b"Connection: close\r\n"
            one.writer.write(head + b"Content-Length: %d\r\n\r\n%b" % (len(CHAT), CHAT))
            answer = await one.ends(5.0)
        found.add(status := answer[9:12])
        assert not status.startswith(b"5"), (seed, lines, answer)
    assert b"400" in found
    assert await latency(world, 3) < 1.0


async def test_one_connection_too_many_is_told_and_the_others_stay(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine, max_connections=20)
    async with world.post({}) as response:  # keeps its connection
        await response.read()
    async with attackers(world, 19) as others:
        async with attackers(world, 1) as (late,):
            answer = await late.ends(LINGERS)
            assert answer.startswith(b"HTTP/1.1 503 ") and b"too_many_connections" in answer
        others[0].writer.write(CALL)
        assert (await others[0].reader.readline()).startswith(b"HTTP/1.1 200")
        async with world.post({}) as response:
            assert response.status == 200
    await soon(lambda: world.gateway.listeners.open <= 1)
    async with attackers(world, 1) as (again,):
        again.writer.write(CALL)
        assert (await again.reader.readline()).startswith(b"HTTP/1.1 200")
