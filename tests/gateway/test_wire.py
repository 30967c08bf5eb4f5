"""Connections to a replica: kept open, given back, cut, watched for silence; read no faster than their reader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from hocket.gateway.wire import HIGH_WATER, Pool, WireError
from tests.gateway.conftest import soon

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Name: v\xc3\xa4lue\r\n\r\nhi"
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Peer:
    """A server: `script` gets each request's head and the writer. It counts connections and keeps what it read."""

    def __init__(self, script: Callable[[int, asyncio.StreamWriter], Any]) -> None:
        self.script, self.connections = script, 0
        self.requests: list[bytes] = []
        self.url = ""
        self.tasks: list[asyncio.Task[None]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self.tasks.append(task)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
                self.requests.append(head + await reader.readexactly(length))
                await self.script(len(self.requests), writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()


@asynccontextmanager
async def peer(script: Callable[[int, asyncio.StreamWriter], Any]) -> AsyncIterator[Peer]:
    found = Peer(script)
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    found.url = "http://127.0.0.1:{1}".format(*server.sockets[0].getsockname())
    try:
        yield found
    finally:
        server.close()
        for task in found.tasks:
            task.cancel()
        await asyncio.gather(*found.tasks)


@asynccontextmanager
async def pool(url: str, **more: float) -> AsyncIterator[Pool]:
    found = Pool(url, **{"connect_s": 1.0, "first_byte_s": 1.0, "between_s": 1.0, "keep_alive_s": 4.0, **more})
    try:
        yield found
    finally:
        found.close()
        await asyncio.sleep(0)


async def say(data: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(data)
    await writer.drain()


async def get(wire: Pool) -> bytes:
    response = await wire.request("POST", "/v1/x?a=b", [("X-One", "1")], b"body")
    try:
        return await response.read()
    finally:
        response.close()


async def test_a_connection_serves_one_call_after_the_other() -> None:
    async with peer(lambda _, writer: say(OK, writer)) as server, pool(server.url + "/base/") as wire:
        for _ in range(3):
            response = await wire.request("POST", "/v1/x?a=b", [("X-One", "1")], b"body")
            assert (response.status, response.headers["x-name"], response.ends_by_close) == (200, "välue", False)
            assert await response.read() == b"hi" and response.drained is False
        host = server.url.removeprefix("http://").encode()
        assert server.connections == 1
        assert set(server.requests) == {
            b"POST /base/v1/x?a=b HTTP/1.1\r\nHost: %b\r\nX-One: 1\r\nContent-Length: 4\r\n\r\nbody" % host
        }


@pytest.mark.parametrize("answer", [OK.replace(b"\r\nX-", b"\r\nConnection: close\r\nX-"), OK.replace(b"1.1", b"1.0")])
async def test_a_connection_that_the_replica_will_close_is_not_used_again(answer: bytes) -> None:
    async with peer(lambda _, writer: say(answer, writer)) as server, pool(server.url) as wire:
        assert [await get(wire) for _ in range(3)] == [b"hi"] * 3
        assert server.connections == 3


async def test_connections_for_one_call_each() -> None:
    async with peer(lambda _, writer: say(OK, writer)) as server, pool(server.url, keep_alive_s=0.0) as wire:
        assert [await get(wire) for _ in range(2)] == [b"hi"] * 2
        assert server.connections == 2 and b"\r\nConnection: close\r\n" in server.requests[0]


async def test_idle_connections_are_closed() -> None:
    async with peer(lambda _, writer: say(OK, writer)) as server, pool(server.url, keep_alive_s=0.1) as wire:
        await get(wire)
        await asyncio.sleep(0.25)
        assert not wire._idle and not wire._all
        await get(wire)
        assert server.connections == 2


async def test_a_connection_is_not_given_back_before_its_request_has_left() -> None:
    """The replica answered without reading: the rest of the body would be the next request's head."""

    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await say(OK, writer)
        await over.wait()
        writer.transport.abort()

    over = asyncio.Event()
    server = await asyncio.start_server(early, "127.0.0.1", 0)
    async with pool("http://127.0.0.1:{1}".format(*server.sockets[0].getsockname())) as wire:
        response = await wire.request("POST", "/", [], b"x" * 2**25)
        assert await response.read() == b"hi"
        await asyncio.sleep(0.01)
        assert not wire._idle and not wire._all, "nor kept until the replica reads it"
        await asyncio.sleep(0.3)
    server.close()
    over.set()
    await asyncio.sleep(0.02)


@pytest.mark.parametrize("more", [OK, OK[:20], OK[:-1]], ids=["whole", "head", "body"])
@pytest.mark.parametrize("later", [False, True])
async def test_what_comes_unasked_ends_the_connection(more: bytes, later: bool) -> None:
    """Else the next call would get it for its answer."""

    async def script(number: int, writer: asyncio.StreamWriter) -> None:
        if later:
            await say(OK, writer)
            await asyncio.sleep(0.01)
            await say(more, writer)
        else:
            await say(OK + more, writer)

    async with peer(script) as server, pool(server.url) as wire:
        assert await get(wire) == b"hi"
        async with asyncio.timeout(10):
            while wire._all:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.005)
        assert await get(wire) == b"hi"
        assert server.connections == 2


@pytest.mark.parametrize(("after_s", "connections"), [(0.0, 2), (0.4, 1)])
async def test_a_request_that_met_a_closing_connection_is_sent_again(after_s: float, connections: int) -> None:
    """The replica closed an idle connection while a request was on its way: no failure. Later it may be a death."""

    async def script(number: int, writer: asyncio.StreamWriter) -> None:
        if number == 2:
            await asyncio.sleep(after_s)
            raise OSError
        await say(OK, writer)

    async with peer(script) as server, pool(server.url) as wire:
        assert await get(wire) == b"hi"
        if connections == 2:
            assert await get(wire) == b"hi"
        else:
            with pytest.raises(WireError, match="closed"):
                await get(wire)
        assert server.connections == connections


async def test_1xx_is_no_answer_and_a_trailer_no_header() -> None:
    text = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + HEAD + b"2\r\nhi\r\n0\r\nX-Late: y\r\n\r\n"
    async with peer(lambda _, writer: say(text, writer)) as server, pool(server.url) as wire:
        response = await wire.request("POST", "/", [], b"")
        assert dict(response.headers) == {"Transfer-Encoding": "chunked"}
        assert await response.read() == b"hi"


async def test_an_answer_byte_by_byte() -> None:
    async def dribble(_: int, writer: asyncio.StreamWriter) -> None:
        for i in range(len(OK)):
            await say(OK[i : i + 1], writer)
            await asyncio.sleep(0.001)

    async with peer(dribble) as server, pool(server.url) as wire:
        assert await get(wire) == b"hi"


# ---------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize(
    ("answer", "hangs", "kind"),
    [
        (b"", False, "reset"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi", False, "reset"),
        (HEAD + b"5\r\nhi", False, "reset"),
        (b"", True, "timeout"),
        (HEAD + b"2\r\nhi\r\n", True, "timeout"),
        (b"\x16\x03\x01", True, "garbage"),
        (HEAD + b"zz\r\n", True, "garbage"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nx", True, "garbage"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nhi", True, "garbage"),
    ],
)
async def test_failures_have_kinds(answer: bytes, hangs: bool, kind: str) -> None:
    async def script(_: int, writer: asyncio.StreamWriter) -> None:
        await say(answer, writer)
        if hangs:
            await asyncio.sleep(1.0)
        raise OSError

    patience_s = 0.2 if kind == "timeout" else 10.0
    async with peer(script) as server, pool(server.url, first_byte_s=patience_s, between_s=patience_s) as wire:
        with pytest.raises(WireError) as failed:
            await get(wire)
        assert failed.value.kind == kind
        await asyncio.sleep(0.01)
        assert not wire._idle and not wire._all


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://no..host", f"http://{'a' * 70}.example"])
async def test_nobody_listens(url: str) -> None:
    async with pool(url) as wire:
        with pytest.raises(WireError) as failed:
            await get(wire)
        assert failed.value.kind == "connect"


async def test_the_closing_may_be_the_end() -> None:
    async def script(_: int, writer: asyncio.StreamWriter) -> None:
        await say(b"HTTP/1.1 200 OK\r\n\r\nhi", writer)
        writer.close()
        await writer.wait_closed()
        raise OSError

    async with peer(script) as server, pool(server.url) as wire:
        response = await wire.request("POST", "/", [], b"")
        assert response.ends_by_close
        assert await response.read() == b"hi"


async def test_silence_counts_only_while_somebody_waits() -> None:
    """A client that reads slowly must not make its replica look silent."""

    goes_on = asyncio.Event()

    async def script(_: int, writer: asyncio.StreamWriter) -> None:
        await say(HEAD + b"2\r\nhi\r\n", writer)
        await goes_on.wait()
        await say(b"2\r\nho\r\n0\r\n\r\n", writer)

    async with peer(script) as server, pool(server.url, first_byte_s=1.0, between_s=1.0) as wire:
        response = await wire.request("POST", "/", [], b"")
        assert await response.readany() == b"hi"
        await asyncio.sleep(1.3)
        goes_on.set()
        assert await response.readany() == b"ho"
        assert await response.readany() == b"" and response.drained


async def test_a_slow_reader_makes_the_replica_wait() -> None:
    written = [0]

    async def script(_: int, writer: asyncio.StreamWriter) -> None:
        await say(HEAD, writer)
        for _i in range(400):
            await say(b"%x\r\n%b\r\n" % (2**16, b"x" * 2**16), writer)
            written[0] += 2**16
        await say(b"0\r\n\r\n", writer)

    async with peer(script) as server, pool(server.url) as wire:
        response = await wire.request("POST", "/", [], b"")
        await asyncio.sleep(0.2)
        assert written[0] < 400 * 2**16
        first = await response.readany()
        assert len(first) < 4 * HIGH_WATER
        assert len(first) + len(await response.read()) == 400 * 2**16


async def test_trailers_without_end_are_not_kept() -> None:
    async def script(_: int, writer: asyncio.StreamWriter) -> None:
        await say(HEAD + b"2\r\nhi\r\n0\r\n" + b"X-Late: y\r\n" * 1000, writer)
        await asyncio.sleep(1.0)

    async with peer(script) as server, pool(server.url) as wire:
        response = await wire.request("POST", "/", [], b"")
        assert await response.readany() == b"hi"
        await asyncio.sleep(0.05)
        assert not [fields for connection in wire._all if (fields := connection._fields)]
        response.close()


async def test_a_cancelled_request_cuts_its_connection() -> None:
    async with peer(lambda _, writer: asyncio.sleep(5)) as server, pool(server.url) as wire:
        task = asyncio.create_task(get(wire))
        await soon(lambda: bool(server.requests))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.01)
        assert not wire._all


async def test_a_header_cannot_hold_a_line_end() -> None:
    async with peer(lambda _, writer: say(OK, writer)) as server, pool(server.url) as wire:
        for value in ("a\r\nB: c", "a\nB: c", "a\rb"):
            with pytest.raises(ValueError, match="line end"):
                await wire.request("POST", "/", [("A", value)], b"")
        assert not server.requests
