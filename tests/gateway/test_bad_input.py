"""Whatever a client sends, it gets a clear error of OpenAI's shape, and nobody else notices."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

import pytest

from hocket.settings import IdentitySettings
from tests.gateway.conftest import Running, Start, soon
from tests.scripted_engine import Script, ScriptedEngine

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
M = b'"messages":[{"role":"user","content":"a"}]'

BAD = [
    (CHAT, b"", "invalid_json", None),
    (CHAT, b"{", "invalid_json", None),
    (CHAT, b'{"model":"small",' + M + b"} trailing", "invalid_json", None),
    (CHAT, b'{"model":"small",' + M + b',"x":NaN}', "invalid_json", None),
    (CHAT, b"[1]", "invalid_type", None),
    (CHAT, b"null", "invalid_type", None),
    (CHAT, b"{" + M + b"}", "invalid_type", "model"),
    (CHAT, b'{"model":7,' + M + b"}", "invalid_type", "model"),
    (CHAT, b'{"model":null,' + M + b"}", "invalid_type", "model"),
    (CHAT, b'{"model":"small"}', "missing_required_parameter", "messages"),
    (CHAT, b'{"model":"small","messages":"hi"}', "invalid_type", "messages"),
    (CHAT, b'{"model":"small","messages":{}}', "invalid_type", "messages"),
    (CHAT, b'{"model":"small","messages":null}', "invalid_type", "messages"),
    (CHAT, b'{"model":"small",' + M + b',"stream":"yes"}', "invalid_type", "stream"),
    (CHAT, b'{"model":"small",' + M + b',"max_tokens":"9"}', "invalid_type", "max_tokens"),
    (CHAT, b'{"model":"small",' + M + b',"max_tokens":9.5}', "invalid_type", "max_tokens"),
    (CHAT, b'{"model":"small",' + M + b',"max_completion_tokens":[]}', "invalid_type", "max_completion_tokens"),
    (CHAT, b'{"model":"small",' + M + b',"metadata":[]}', "invalid_type", "metadata"),
    (CHAT, b'{"model":"small","messages":[{"role":"user","content":"\xff"}]}', "invalid_utf8", None),
    (CHAT, b'{"model":"small","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "invalid_json", None),
    (CHAT, b'{"model":"small",' + M + b',"x":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001, "invalid_json", None),
    (TEXT, b'{"model":"small"}', "missing_required_parameter", "prompt"),
    (TEXT, b'{"model":"small","prompt":7}', "invalid_type", "prompt"),
]


@pytest.mark.parametrize(("path", "body", "code", "param"), BAD, ids=range(len(BAD)))
async def test_a_bad_body(
    engine: ScriptedEngine, start: Start, path: str, body: bytes, code: str, param: str | None
) -> None:
    world = await start(engine)
    async with world.post(body, path) as response:
        assert (await response.json())["error"]["param"] == param
        assert await world.error(response) == (400, code)
    assert not engine.seen
    assert not world.records()[1:], "the core hears nothing of it"


@pytest.mark.parametrize("model", ["none", "", "x" * 5000, "sm\\u00e4ll", "\\ud800"])
async def test_an_unknown_model_lists_those_that_are_there(engine: ScriptedEngine, start: Start, model: str) -> None:
    world = await start(engine)
    async with world.post(b'{"model":"%b","messages":[]}' % model.encode()) as response:
        error = (await response.json())["error"]
        assert response.status in {404, 400}
    if response.status == 404:
        assert error["code"] == "model_not_found" and error["param"] == "model" and "small" in error["message"]
    assert not world.records()[1:]


async def test_odd_numbers_are_relayed_and_harm_nothing(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine)
    for limit in ("99999999999999999999999999", "-1", "0", "null"):
        body = b'{"model":"small",' + M + b',"max_tokens":%b}' % limit.encode()
        async with world.post(body) as response:
            assert response.status == 200
        assert engine.seen[-1].raw == body


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_that_is_too_large(engine: ScriptedEngine, start: Start, declared: bool) -> None:
    world = await start(engine, body_limit_mib=0.25)

    async def pieces() -> Any:
        for _ in range(8):
            yield b" " * 2**16
            await asyncio.sleep(0)

    async with world.post(b" " * 2**19 if declared else pieces()) as response:
        assert await world.error(response) == (413, "body_too_large")
    async with world.post({}) as response:
        assert response.status == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", CHAT, 405),
        ("PUT", "/v1/jobs", 405),
        ("POST", "/v1/nothing", 404),
        ("GET", "/v1/models/none", 404),
        ("GET", "/v1/jobs/", 404),
        ("PATCH", "/v1/jobs/x", 405),
        ("POST", "/v1/jobs/x/tools/", 404),
        ("POST", "/v1/jobs/x/tools/y:start", 404),
        ("GET", "/%ff%fe", 404),
        ("POST", "/v1/jobs/%ff/tools/%00:end", 404),
    ],
)
async def test_unknown_paths_and_methods(
    engine: ScriptedEngine, start: Start, method: str, path: str, status: int
) -> None:
    world = await start(engine)
    async with world.http.request(method, world.url + path) as response:
        assert (await world.error(response))[0] == status


async def raw(world: Running, request: bytes) -> bytes:
    """What the gateway says to these very bytes."""
    address = urlsplit(world.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(request)
    async with asyncio.timeout(3):
        answer = await reader.read(4096)
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: [::1]\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope",
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nx: " + b"y" * 20_000 + b"\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n" + b"x: yyy\r\n" * 5_000 + b"\r\n",
        b"GET /v1/" + b"yyy" * 10_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
    ids=["tls", "version", "length", "chunked", "gzip", "header", "headers", "path"],
)
async def test_what_is_no_http(
    engine: ScriptedEngine, start: Start, request_bytes: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    world = await start(engine)
    answer = await raw(world, request_bytes)
    wanted = b" 431 " if b"yyy" in request_bytes else b" 400 "
    assert answer.startswith(b"HTTP/1.") and wanted in answer[:40], answer
    assert b'"error":{"message":' in answer
    assert b"Traceback" not in answer and not caplog.records
    async with world.post({}) as response:
        assert response.status == 200


async def test_a_client_that_hangs_up_inside_its_request(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine)
    address = urlsplit(world.url)
    _, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(b'POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\n{"model"')
    await asyncio.sleep(0.05)
    writer.close()
    await writer.wait_closed()
    async with world.post({}) as response:
        assert response.status == 200
    assert len(engine.seen) == 1


async def test_headers_that_are_no_utf8_do_no_harm(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine)
    body = b'{"model":"small",' + M + b"}"
    request = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        b"x-request-id: \xff\r\nx-odd: \xe9\r\nx-good: \xc3\xa9\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body)
    )
    answer = await raw(world, request + body)
    assert answer.startswith(b"HTTP/1.1 200"), answer
    assert "x-odd" not in engine.seen[0].headers and engine.seen[0].headers["x-good"] == "\u00e9"


async def test_bad_requests_do_not_disturb_good_ones(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine, window=4)
    engine.default = Script(chunks=10, gap_s=0.005)

    async def good() -> int:
        async with world.post({"stream": True}) as response:
            return response.status if (await response.read()).endswith(b"data: [DONE]\n\n") else 0

    async def bad(i: int) -> int:
        path, body, _, _ = BAD[i % len(BAD)]
        async with world.post(body, path) as response:
            return int(response.status)

    results = await asyncio.gather(*(good() if i % 2 else bad(i) for i in range(100)))
    assert results == [200 if i % 2 else 400 for i in range(100)]


async def test_health_ready_and_metrics(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine)
    async with world.post({}) as response:
        assert response.status == 200
    async with world.http.get(f"{world.url}/health") as response:
        assert (response.status, await response.json()) == (200, {"status": "ok"})
    async with world.http.get(f"{world.url}/ready") as response:
        assert (await response.json())["ready"] is True
    async with world.http.get(f"{world.url}/metrics") as response:
        text = await response.text()
    assert 'hocket_calls_total{engine="small",outcome="finished"} 1.0' in text
    assert 'hocket_window{engine="small",replica="' in text


async def test_clients_cannot_blow_up_the_metrics(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine, identity=IdentitySettings(idle_s=0.01))
    for i in range(150):
        async with world.post({}, headers={"x-hocket-app": f"app-{i}"}) as response:
            assert response.status == 200
    await soon(lambda: not world.gateway.scheduler.jobs)
    text = world.gateway.metrics.render().decode()
    assert text.count("hocket_jobs_total{app=") == 101
    assert 'hocket_jobs_total{app="other",reason="idle"} 50.0' in text
