"""Requests and streams that nobody would write, without end: hocket itself never fails.

For a few seconds each, or for as long as `HOCKET_FUZZ_S` says (in all), with a new seed each time then:

    HOCKET_FUZZ_S=600 python -m pytest tests/attack/test_fuzz.py -s
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from msgspec import structs

from hocket.core import replicas
from hocket.gateway.identity import HEADERS, foreign
from hocket.gateway.openai import ENDPOINTS
from hocket.gateway.openapi import document
from hocket.settings import EngineSettings, TenantSettings, Timeouts
from hocket.settings.keys import digest_of
from tests.gateway.conftest import Running, Start, soon
from tests.gateway.test_hostile import NAMES, attackers, latency, nonsense
from tests.gateway.test_hostile_engines import CLEAR, http_chunk, mangled, raw_engine, stream
from tests.scripted_engine import Script, ScriptedEngine, chunks, whole

ASKED_S = float(os.environ.get("HOCKET_FUZZ_S", "0"))
FUZZ_S = ASKED_S / 3 if ASKED_S else 2.5
"of each of the three; schemathesis runs elsewhere too, so without the variable only the two others do"
SEED = int(time.time()) if ASKED_S else 1
QUICK = Timeouts(connect=1.0, first_byte=0.3, between_chunks=0.3, request=0.5, client=1.0)
SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")

METHODS = (b"GET", b"POST", b"POST", b"POST", b"DELETE", b"PUT", b"HEAD", b"OPTIONS", b"PATCH", b"CONNECT", b"TRACE")
ODD_PATHS = (b"*", b"/", b"//", b"/v1", b"http://h/v1/jobs", b"/admin/", b"/metrics/x")
OPERATIONS = [
    (method.upper().encode(), path.encode())
    for path, item in json.loads(document())["paths"].items()
    for method in item if method != "parameters"
    for _ in range(4 if path in ENDPOINTS else 1)
]  # fmt: skip
KNOWN_NAMES = [*HEADERS.values(), *sorted(foreign.READ), "traceparent", "baggage", "x-stainless-retry-count"]
ODD_NAMES = [*NAMES, "Idempotency-Key", "Content-Length", "Cookie", "Forwarded"]
VALUES = (
    "1", "0", "-1", "1e99", "true", "null", "{}", "[]", '""', '"x"', '["a"]', '[{"role":"user","content":"hi"}]',
    '{"id":7}', "9" * 30, '"\\ud800"', '"\\u0000"', '{"a":{"a":[[[{}]]]}}', '[{"role":7}]', '[{"content":[7]}]',
)  # fmt: skip
FIELDS = (
    "model", "messages", "prompt", "input", "stream", "max_tokens", "metadata", "stream_options", "tools", "session_id",
    "conversation", "previous_response_id", "vllm_xargs", "nvext", "priority", "logprobs", "app", "job", "run",
    "parent", "urgency", "deadline_ms", "instructions", "n",
)  # fmt: skip


def body_of(rng: random.Random) -> bytes:
    """JSON of fields that hocket reads, of any type; or what is no JSON."""
    if rng.random() < 0.1:
        return nonsense(rng, 60)
    fields = {"model": '"small"', "messages": '[{"role":"user","content":"hi"}]'} if rng.random() < 0.7 else {}
    fields |= {rng.choice(FIELDS): rng.choice(VALUES) for _ in range(rng.randint(0, 3))}
    text = "{" + ",".join(f'"{name}":{value}' for name, value in fields.items()) + "}"
    data = text.encode()
    return data[: rng.randrange(len(data))] if rng.random() < 0.1 else data


def request_of(rng: random.Random) -> bytes:
    """One request, mostly one that is read to its end."""
    method, path = rng.choice(OPERATIONS)
    if rng.random() < 0.2:
        method, path = rng.choice(METHODS), rng.choice((path, *ODD_PATHS))
    for name in (b"{job}", b"{tool}", b"{response}", b"{model}"):
        path = path.replace(name, rng.choice((b"x", b"%2F", b"%00", b"..", b"a%20b", b"%", b"\xff", b"a" * 300)))
    if rng.random() < 0.2:
        path += rng.choice((b"?", b"?abort=maybe", b"?abort=true", b"#", b"?\xff", b"/../", b";a", b"%2e%2e/"))
    lines = [method + b" " + path + b" HTTP/1." + rng.choice((b"1", b"1", b"1", b"0"))]
    lines += [b"Host: 127.0.0.1", b"Connection: close"]
    if rng.random() < 0.95:
        lines.append(b"Authorization: Bearer hk-a")
    for _ in range(rng.randint(0, 3)):
        value = rng.choice(VALUES).encode() if rng.random() < 0.5 else nonsense(rng, 20)
        if rng.random() < 0.95:  # nonsense that is one line still, so that it reaches further than the parser
            value = value.translate(None, bytes(range(32)) + b"\x7f")
        lines.append(rng.choice(KNOWN_NAMES if rng.random() < 0.8 else ODD_NAMES).encode() + b": " + value)
    body = body_of(rng)
    if rng.random() < 0.3:
        lines.append(b"Transfer-Encoding: chunked")
        body = http_chunk(body) + b"0\r\n\r\n" if body else b"0\r\n\r\n"
    else:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


class SoundEngine(ScriptedEngine):
    """It answers whatever it is asked, so that every 5xx is hocket's own."""

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        if b'"stream":true' in await request.read() and request.path != "/v1/embeddings":  # which have no streams
            return web.Response(body=b"".join(chunks(Script())), headers={"Content-Type": "text/event-stream"})
        return whole(Script(), request.method, request.path)


@pytest.fixture
async def sound() -> AsyncIterator[ScriptedEngine]:
    engine = SoundEngine()
    await engine.start()
    yield engine
    await engine.stop()


async def ask(world: Running, request: bytes) -> bytes:
    async with attackers(world, 1) as (one,):
        one.writer.write(request)
        return await one.ends(6.0)


@pytest.mark.timeout(ASKED_S + 120)
async def test_no_request_makes_hocket_fail(sound: ScriptedEngine, start: Start) -> None:
    """Every answer of a gateway before a sound engine is 2xx or 4xx, or the connection is cut."""
    rng = random.Random(SEED)
    patient = structs.replace(QUICK, first_byte=60.0)  # that the machine is busy is no finding
    tenants = [TenantSettings("a", digest_of("hk-a")), TenantSettings("b", digest_of("hk-b"))]
    world = await start(sound, tenants=tenants, timeouts=patient, window=64, admin_key_sha256=digest_of("hk-admin"))
    found: Counter[bytes] = Counter()
    until = time.monotonic() + FUZZ_S
    while time.monotonic() < until or sum(found.values()) < 600:
        requests = [request_of(rng) for _ in range(32)]
        for request, answer in zip(requests, await asyncio.gather(*(ask(world, r) for r in requests)), strict=True):
            found[answer[9:12]] += 1
            assert answer[9:10] != b"5", (SEED, request, answer)
    print(f"\n{sum(found.values())} requests (seed {SEED}): {dict(found)}")
    assert found[b"200"] > 20 and found[b"400"] > 20 and found[b"404"] > 5, found
    await soon(lambda: world.inflight == 0, 5.0)
    async with world.post({}, headers={"Authorization": "Bearer hk-a"}) as response:
        assert response.status == 200


@pytest.mark.timeout(ASKED_S + 120)
@pytest.mark.parametrize("kind", ["vllm"])
async def test_no_stream_makes_hocket_fail(monkeypatch: pytest.MonkeyPatch, start: Start, kind: str) -> None:
    """An engine whose streams are damaged anywhere: the client has them, or one clear error; never a 500."""
    monkeypatch.setattr(replicas, "REST_S", 0.001)
    rng = random.Random(SEED)

    async def answer(writer: asyncio.StreamWriter) -> None:
        await stream(writer, rng, mangled(rng))

    found: Counter[int] = Counter()
    async with raw_engine(answer) as url:
        served = EngineSettings(name="small", kind=kind, replicas=[url], max_concurrency=16)  # type: ignore[arg-type]
        world = await start(engines=[served], timeouts=QUICK, queue_timeout=1.0, heartbeat_s=0.2)
        until = time.monotonic() + FUZZ_S

        async def one(path: str) -> None:
            body = {"stream": True, "prompt": "x", "input": "x", "tools": [{"function": {"name": "f"}}]}
            async with asyncio.timeout(8), world.post(body, path) as response:
                text = await response.read()
                found[response.status] += 1
                assert response.status in {200, 502, 503}, (SEED, response.status, text)
                if response.status != 200:
                    assert json.loads(text)["error"]["code"] in CLEAR | {"upstream_connect"}, (SEED, text)
                assert b"internal_error" not in text, (SEED, text)

        while time.monotonic() < until or sum(found.values()) < 200:
            paths = rng.choices(("/v1/chat/completions", "/v1/completions", "/v1/responses"), k=16)
            await asyncio.gather(*map(one, paths))
        await soon(lambda: world.inflight == 0, 5.0)
    print(f"\n{sum(found.values())} streams (seed {SEED}): {dict(found)}")
    assert found[200] > 20


@pytest.mark.skipif(not ASKED_S, reason="tests/gateway/test_openapi.py runs it for a while; for longer: HOCKET_FUZZ_S")
@pytest.mark.timeout(ASKED_S + 120)
async def test_schemathesis_for_longer(engine: ScriptedEngine, start: Start, tmp_path: Path) -> None:
    """Requests made from the OpenAPI document, one seed after the other."""
    world = await start(engine)
    schema = json.loads(document())
    for item in schema["paths"].values():
        body = item.get("post", {}).get("requestBody", {}).get("content", {}).get("application/json", {})
        if "model" in body.get("schema", {}).get("properties", {}):
            straight = item["post"]["operationId"].endswith("tokenize")
            body["schema"]["properties"]["model"] = {"enum": ["small", None] if straight else ["small"]}
    schema["security"] = []
    file = tmp_path / "openapi.json"
    file.write_text(json.dumps(schema))
    until, seed = time.monotonic() + FUZZ_S, SEED
    while time.monotonic() < until:
        seed += 1
        words = ["run", str(file), "--url", world.url, "--max-examples", "50", "--seed", str(seed), "--no-color"]
        words += ["--checks", "not_a_server_error"]  # the shorter run looks at everything else, too
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(SCHEMATHESIS, *words, cwd=tmp_path, stdout=pipe, stderr=pipe)
        out, _ = await process.communicate()
        text = out.decode()
        if process.returncode != 0:
            print(text)
        assert process.returncode == 0, f"seed {seed}; what it found is printed above"
    print(f"\n{seed - SEED} runs of schemathesis, {len(engine.seen)} calls")
    assert await latency(world, 3) < 1.0
