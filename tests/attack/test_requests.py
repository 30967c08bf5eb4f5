"""What a request cannot do: reach another place, mean two things at once, be let in by a page, or be too much."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from hocket.settings import Settings, TenantSettings
from hocket.settings.keys import digest_of
from hocket.yamlfile import parse_yaml
from tests.gateway.conftest import Running, Start, soon
from tests.gateway.test_hostile import CHAT, POST, QUICK, Attacker, attackers, resident_mb
from tests.gateway.test_hostile_engines import raw_engine
from tests.scripted_engine import ScriptedEngine

TENANTS = [TenantSettings("a", digest_of("hk-a"))]
KEY = {"Authorization": "Bearer hk-a"}


class Trap:
    """A server that nobody has set: whoever connects to it was led there."""

    def __init__(self) -> None:
        self.connections = 0
        self.at = ""

    async def caught(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 14\r\n\r\n{"choices":[]}')
        writer.close()


@pytest.fixture
async def trap() -> AsyncIterator[Trap]:
    trap = Trap()
    server = await asyncio.start_server(trap.caught, "127.0.0.1", 0)
    trap.at = "127.0.0.1:{1}".format(*server.sockets[0].getsockname())
    yield trap
    server.close()


async def answers(world: Running, sent: bytes, within_s: float = 3.0) -> bytes:
    """All that comes for these bytes, until the gateway closes or says no more."""
    async with attackers(world, 1) as (one,):
        one.writer.write(sent)
        found = b""
        try:
            async with asyncio.timeout(within_s):
                while piece := await asyncio.wait_for(one.reader.read(65536), 0.1 if found else within_s):
                    found += piece
        except (TimeoutError, ConnectionError):
            pass
        return found


def statuses(found: bytes) -> list[int]:
    return [int(part[2:5]) for part in found.split(b"HTTP/1.")[1:]]


# ---------------------------------------------------------------- no other place is reached


async def test_nothing_in_a_request_names_another_engine(engine: ScriptedEngine, start: Start, trap: Trap) -> None:
    world = await start(engine, tenants=TENANTS)
    there = f"http://{trap.at}"
    headers = [
        {"Host": trap.at}, {"X-Forwarded-Host": trap.at, "X-Forwarded-Proto": "http", "X-Forwarded-For": "127.0.0.1"},
        {"Forwarded": f"host={trap.at};proto=http"}, {"X-Original-URL": there}, {"X-Rewrite-URL": there},
        {"x-envoy-original-dst-host": trap.at}, {"X-Upstream": there}, {"api-base": there}, {"Proxy": there},
        {"x-gateway-destination-endpoint": trap.at}, {"Via": f"1.1 {trap.at}"}, {"Referer": there},
    ]  # fmt: skip
    bodies: list[dict[str, Any]] = [
        {"api_base": there}, {"base_url": there}, {"api_base": there, "custom_llm_provider": "openai"},
        {"engine": there}, {"user_config": {"model_list": [{"litellm_params": {"api_base": there}}]}},
        {"metadata": {"api_base": there, "hocket-app": there}}, {"extra_headers": {"Host": trap.at}},
        {"kv_transfer_params": {"remote_host": trap.at}},
    ]  # fmt: skip
    for header in headers:
        async with world.post({}, headers=KEY | header) as response:
            assert response.status == 200, header
    for body in bodies:
        async with world.post(body, headers=KEY) as response:
            assert response.status == 200, body
    for path in (f"/v1/chat/completions?api_base={there}&url={there}", f"/v1/chat/completions?x={there}#{there}"):
        async with world.post({}, path=path, headers=KEY) as response:
            assert response.status == 200
    async with world.post({"model": there}, headers=KEY) as response:
        assert await world.error(response) == (404, "model_not_found")
    assert len(engine.seen) == len(headers) + len(bodies) + 2
    assert {seen.path for seen in engine.seen} == {"/v1/chat/completions"}
    assert {seen.headers["host"] for seen in engine.seen} == {engine.url.removeprefix("http://")}
    assert not any("hk-a" in str(seen.headers) for seen in engine.seen), "a tenant's key stays here"
    assert trap.connections == 0


async def test_it_is_no_proxy(engine: ScriptedEngine, start: Start, trap: Trap) -> None:
    """Targets as a proxy is asked for them, and paths that are hosts for a careless joiner of URLs."""
    world = await start(engine, tenants=TENANTS)
    more = b"Host: x\r\nAuthorization: Bearer hk-a\r\nContent-Length: %d\r\n\r\n%b" % (len(CHAT), CHAT)
    at = trap.at.encode()
    targets = [
        b"http://%b/v1/chat/completions" % at, b"//%b/v1/chat/completions" % at, b"/@%b/v1/chat/completions" % at,
        b"/v1/chat/completions@%b/" % at, b"/v1/responses/http://%b/x" % at, b"/v1/jobs/..%%2f..%%2f%b" % at,
        b"/v1/chat/completions/../../../%b" % at, b"/v1/models/http:%%2f%%2f%b" % at, b"/\\%b/" % at,
    ]  # fmt: skip
    for target in targets:
        found = await answers(world, b"POST " + target + b" HTTP/1.1\r\n" + more)
        assert statuses(found)[0] in {200, 400, 404, 405}, (target, found)
    for method in (b"CONNECT", b"TRACE", b"OPTIONS"):
        found = await answers(world, method + b" " + at + b" HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer hk-a\r\n\r\n")
        assert statuses(found)[0] in {400, 404, 405}, (method, found)
        assert b"hk-a" not in found
    assert trap.connections == 0
    assert {seen.path for seen in engine.seen} <= {"/v1/chat/completions"}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_an_engines_redirect_is_followed_by_nobody(start: Start, trap: Trap, status: int) -> None:
    """Not by hocket; and its client, whose library would, is not told where to."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        head = b"HTTP/1.1 %d Elsewhere\r\nLocation: http://%b/v1/chat/completions\r\nRefresh: 0; url=http://%b\r\n"
        writer.write(head % (status, trap.at.encode(), trap.at.encode()) + b"Content-Length: 0\r\n\r\n")
        await writer.drain()

    async with raw_engine(answer) as url:
        world = await start(url, queue_timeout=1.0)
        for body, path in (({}, None), ({"stream": True}, None), ({"prompt": "x"}, "/tokenize")):
            async with world.post(body, **({} if path is None else {"path": path})) as response:
                assert response.status >= 300
                assert not {"location", "refresh"} & {name.lower() for name in response.headers}
                assert trap.at.encode() not in await response.read()
    assert trap.connections == 0


def test_settings_are_data() -> None:
    """YAML that would make objects is no settings file, and engines are http URLs alone."""
    for text in (
        "journal: !!python/object/apply:os.system ['true']",
        "engines: [{name: a, replicas: [file:///etc/passwd]}]",
        "engines: [{name: a, replicas: ['gopher://h']}]",
        "engines: [{name: a, replicas: ['http://user:secret@h']}]",
    ):
        with pytest.raises(ValueError, match=r"hocket\.yaml:1: "):
            parse_yaml(text, Settings, "hocket.yaml")


# ---------------------------------------------------------------- one request is one request


SMUGGLED = b"GET /v1/models HTTP/1.1\r\nHost: smuggled\r\n\r\n"
BODY = b"%x\r\n%b\r\n0\r\n\r\n" % (len(CHAT), CHAT)
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
PROBES = {
    "CL.TE": HEAD + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n" + BODY + SMUGGLED,
    "TE.CL": HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n" + BODY + SMUGGLED,
    "TE twice": HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n" + BODY + SMUGGLED,
    "TE unknown": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n" + BODY + SMUGGLED,
    "TE not last": HEAD + b"Transfer-Encoding: chunked, gzip\r\n\r\n" + BODY + SMUGGLED,
    "TE after a space": HEAD + b"Transfer-Encoding : chunked\r\n\r\n" + BODY + SMUGGLED,
    "TE after a tab": HEAD + b"Transfer-Encoding:\x0bchunked\r\n\r\n" + BODY + SMUGGLED,
    "TE folded": HEAD + b"Transfer-Encoding:\r\n chunked\r\n\r\n" + BODY + SMUGGLED,
    "TE in HTTP/1.0": HEAD.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n" + BODY,
    "CL twice": HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n" + CHAT + SMUGGLED,
    "CL list": HEAD + b"Content-Length: 5, 6\r\n\r\n" + CHAT + SMUGGLED,
    "CL signed": HEAD + b"Content-Length: +5\r\n\r\n" + CHAT + SMUGGLED,
    "CL negative": HEAD + b"Content-Length: -5\r\n\r\n" + CHAT + SMUGGLED,
    "CL hexadecimal": HEAD + b"Content-Length: 0x5\r\n\r\n" + CHAT + SMUGGLED,
    "CL underscored": HEAD + b"Content-Length: 1_0\r\n\r\n" + CHAT + SMUGGLED,
    "CL too large": HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n" + CHAT + SMUGGLED,
    "bare LF": HEAD.replace(b"\r\n", b"\n") + b"Content-Length: 5\n\n" + CHAT + SMUGGLED,
    "bare LF in a header": HEAD + b"x: y\nTransfer-Encoding: chunked\r\n\r\n" + BODY + SMUGGLED,
    "bare CR": HEAD + b"x: y\rTransfer-Encoding: chunked\r\n\r\n" + BODY + SMUGGLED,
    "NUL": HEAD + b"x: \x00\r\nContent-Length: 5\r\n\r\n" + CHAT + SMUGGLED,
    "no colon": HEAD + b"Transfer-Encoding chunked\r\n\r\n" + BODY + SMUGGLED,
    "no name": HEAD + b": chunked\r\n\r\n" + BODY + SMUGGLED,
    "chunk size signed": HEAD + b"Transfer-Encoding: chunked\r\n\r\n+" + BODY + SMUGGLED,
    "chunk size prefixed": HEAD + b"Transfer-Encoding: chunked\r\n\r\n0x" + BODY + SMUGGLED,
    "chunk too short": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + BODY.replace(b"3", b"1", 1) + SMUGGLED,
    "chunk ended by LF": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + BODY.replace(b"\r\n", b"\n", 1) + SMUGGLED,
    "version": HEAD.replace(b"HTTP/1.1", b"HTTP/1.1 HTTP/1.1") + b"\r\n" + SMUGGLED,
    "host twice": HEAD + b"Host: evil.example\r\nContent-Length: %d\r\n\r\n%b" % (len(CHAT), CHAT),
}


@pytest.mark.parametrize("name", PROBES)
async def test_what_could_be_two_requests_is_none(engine: ScriptedEngine, start: Start, name: str) -> None:
    """Two servers in a row that end a request at different places let one client speak in the next one's name."""
    world = await start(engine, timeouts=QUICK)
    found = await answers(world, PROBES[name])
    assert statuses(found) == [400], found
    assert not engine.seen


async def test_what_engines_get_is_framed_anew(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine)
    chunked = (
        HEAD + b"Transfer-Encoding: chunked\r\nTrailer: Host\r\nTE: trailers\r\nConnection: x-hop\r\nx-hop: 1\r\n\r\n"
    )
    found = await answers(world, chunked + BODY.replace(b"0\r\n\r\n", b"0\r\nHost: evil\r\n\r\n"))
    assert statuses(found) == [200]
    (seen,) = engine.seen
    assert seen.raw == CHAT and seen.headers["content-length"] == str(len(CHAT))
    assert not {"transfer-encoding", "trailer", "te", "connection", "x-hop"} & seen.headers.keys()
    assert seen.headers["host"] == engine.url.removeprefix("http://")


# ---------------------------------------------------------------- web pages


async def test_no_page_of_another_origin_may_read_or_call(engine: ScriptedEngine, start: Start) -> None:
    """CORS is off: no answer, of hocket or of an engine, permits anything to a page."""
    generous = b"".join(
        b"Access-Control-%b: *\r\n" % name
        for name in (b"Allow-Origin", b"Allow-Credentials", b"Allow-Headers", b"Allow-Methods", b"Expose-Headers")
    )

    async def answer(writer: asyncio.StreamWriter) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 14\r\n"
        writer.write(head + generous + b"Set-Cookie: a=b\r\nAlt-Svc: h3\r\n\r\n" + b'{"choices":[]}')
        await writer.drain()

    async with raw_engine(answer) as url:
        world = await start(url, tenants=TENANTS)
        page = {"Origin": "https://evil.example"}
        asking = page | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        for method, path, headers in (
            ("OPTIONS", "/v1/chat/completions", asking),
            ("OPTIONS", "/admin/reload", asking),
            ("OPTIONS", "/health", asking),
            ("POST", "/v1/chat/completions", page | KEY),
            ("POST", "/v1/chat/completions", page),
            ("GET", "/health", page),
            ("GET", "/v1/models", page | KEY),
        ):
            body = json.loads(CHAT) if method == "POST" else None
            async with world.http.request(method, world.url + path, headers=headers, json=body) as response:
                assert method != "OPTIONS" or response.status in {401, 405}, path
                found = {name.lower() for name in response.headers}
                assert not [name for name in found if name.startswith("access-control-")], (method, path)
                assert not {"set-cookie", "alt-svc"} & found


async def test_a_name_of_elsewhere_that_leads_here_gets_nothing(engine: ScriptedEngine, start: Start) -> None:
    """DNS rebinding, in every place where a request can name its host."""
    world = await start(engine)
    call = b"Content-Length: %d\r\n\r\n%b" % (len(CHAT), CHAT)
    for head in (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: evil.example\r\n",
        b"POST http://evil.example/v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n",
        b"POST http://127.0.0.1@evil.example/v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: https://evil.example\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1.nip.io\r\n",
    ):
        assert statuses(await answers(world, head + call)) == [403], head
    assert not engine.seen
    found = await answers(world, b"POST http://127.0.0.1/v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n" + call)
    assert statuses(found) == [200]


# ---------------------------------------------------------------- too much


async def test_a_body_that_unpacks_to_gigabytes_is_refused(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine, body_limit_mib=1)
    bomb = gzip.compress(b" " * 2**26)
    before = resident_mb()
    async with world.post(bomb, headers={"Content-Encoding": "gzip"}) as response:
        assert await world.error(response) == (413, "body_too_large")
    assert resident_mb() - before < 60 and not engine.seen


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"small","messages":' + b"[" * 100_000,
        b'{"model":"small","messages":[' + b'{"a":' * 100_000,
        b'{"model":"small","messages":[],"max_tokens":' + b"9" * 100_000 + b"}",
        b'{"model":"small","messages":[],"metadata":{"hocket-urgency":"' + b"9" * 100_000 + b'"}}',
        b'{"model":"' + b"\\u0000" * 100_000 + b'","messages":[]}',
    ],
    ids=["arrays", "objects", "number", "string", "escapes"],
)
async def test_a_body_that_costs_more_than_it_weighs_is_refused(
    engine: ScriptedEngine, start: Start, body: bytes
) -> None:
    world = await start(engine)
    async with asyncio.timeout(5), world.post(body) as response:
        assert response.status in {400, 404} and len(await response.read()) < 2000
    async with world.post({}) as response:
        assert response.status == 200


async def test_idle_and_slow_connections_do_not_keep_others_out(engine: ScriptedEngine, start: Start) -> None:
    """A thousand that say nothing, or a byte now and then. How little others notice: benchmarks/strangers.py."""
    world = await start(engine)

    async def dribbling(crowd: list[Attacker]) -> None:
        await asyncio.gather(*(one.dribble(POST, 0.1) for one in crowd))

    async with attackers(world, 1000) as crowd:
        task = asyncio.ensure_future(dribbling(crowd[:500]))
        assert world.gateway.listeners.open >= 1000
        for _ in range(10):
            async with asyncio.timeout(5), world.post({}) as response:
                assert response.status == 200
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await soon(lambda: world.gateway.listeners.open <= 1, 5.0)
