"""A whole answer's head, on connections that stay open and on those that do not."""

from __future__ import annotations

import asyncio

import pytest

from tests.gateway.conftest import Running, Start
from tests.scripted_engine import Script, ScriptedEngine

CHAT = b'{"model":"small","messages":[{"role":"user","content":"hi"}]}'


async def asked(world: Running, *requests: tuple[bytes, bytes]) -> list[tuple[bytes, dict[str, list[str]], bytes]]:
    """(version, more headers) of posts on one connection -> status line, headers and body of each answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(world.url.rpartition(":")[2]))
    answers = []
    for version, more in requests:
        head = b"POST /v1/chat/completions HTTP/%b\r\nHost: 127.0.0.1\r\n%bContent-Length: %d\r\n\r\n"
        writer.write(head % (version, more, len(CHAT)) + CHAT)
        status, *lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[:-2]
        headers: dict[str, list[str]] = {}
        for line in lines:
            name, _, value = line.decode().partition(": ")
            headers.setdefault(name.lower(), []).append(value)
        answers.append((status, headers, await reader.readexactly(int(headers["content-length"][0]))))
    writer.write_eof()
    assert await reader.read() == b""
    writer.close()
    return answers


async def test_one_connection_serves_whole_answers_one_after_the_other(engine: ScriptedEngine, start: Start) -> None:
    engine.plan += [Script(says="first"), Script(says="the second"), Script(do="status", status=418)]
    answers = await asked(await start(engine), *[(b"1.1", b"")] * 3)
    assert [status for status, _, _ in answers] == [b"HTTP/1.1 200 OK"] * 2 + [b"HTTP/1.1 418 I'm a Teapot"]
    assert b"first" in answers[0][2] and b"the second" in answers[1][2]
    for _, headers, _ in answers:
        assert "connection" not in headers and "transfer-encoding" not in headers
        for name in ("content-length", "content-type", "date", "server", "x-hocket-call", "x-request-id"):
            assert len(headers[name]) == 1, name


@pytest.mark.parametrize(
    ("version", "more", "says"),
    [
        (b"1.1", b"Connection: close\r\n", ["close"]),
        (b"1.0", b"", None),
        (b"1.0", b"Connection: keep-alive\r\n", ["keep-alive"]),
    ],
)
async def test_a_client_that_wants_it_otherwise_is_told_what_becomes_of_the_connection(
    engine: ScriptedEngine, start: Start, version: bytes, more: bytes, says: list[str] | None
) -> None:
    ((status, headers, body),) = await asked(await start(engine), (version, more))
    assert status == b"HTTP/%b 200 OK" % version
    assert headers.get("connection") == says
    assert body.startswith(b"{")
