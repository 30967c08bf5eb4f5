"""The rest of the API: embeddings, responses, tokenizing; and what hocket changes in a request on its way."""

from __future__ import annotations

import asyncio
import gzip
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import aiohttp
import pytest

from hocket.core.events import CallFailed, CallFinished
from hocket.settings import EngineSettings
from tests.gateway.conftest import Running, Start, soon
from tests.gateway.test_identity import TENANTS, key
from tests.scripted_engine import Script, ScriptedEngine, chunks


def sizes(world: Running) -> list[tuple[int, int]]:
    """Prompt and output tokens of the calls that finished, in order."""
    events = [record.event for record in world.records()]
    return [(event.prompt_tokens, event.output_tokens) for event in events if isinstance(event, CallFinished)]


async def one(world: Running, body: Any, path: str = "/v1/chat/completions", **more: Any) -> bytes:
    async with world.post(body, path, **more) as response:
        assert response.status == 200, await response.text()
        return await response.read()  # type: ignore[no-any-return]


# ---------------------------------------------------------------- embeddings


@pytest.mark.parametrize("text", [b'"hi"', b'[ "a", "b"]', b"[1,2,3]", b"[[1,2],[3]]"])
async def test_embeddings(engine: ScriptedEngine, start: Start, text: bytes) -> None:
    world = await start(engine)
    body = b'{"model":"small", "input": %b,"encoding_format":"float", "dimensions":2}' % text
    assert await one(world, body, "/v1/embeddings") == engine.seen[0].sent[0]
    assert (engine.seen[0].path, engine.seen[0].raw) == ("/v1/embeddings", body)
    assert sizes(world) == [(7, 0)]


async def test_embeddings_are_never_taken_for_a_stream(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine)
    answer = await one(world, b'{"model":"small","input":"a","stream":false}', "/v1/embeddings")
    assert answer == engine.seen[0].sent[0]


# ---------------------------------------------------------------- responses


async def test_a_response(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine)
    body = b'{"model":"small","input":[{"role":"user","content":"hi"}], "instructions":"Be brief.","x":[1.50]}'
    assert await one(world, body, "/v1/responses") == engine.seen[0].sent[0]
    assert engine.seen[0].raw == body
    assert sizes(world) == [(7, 8)]


@pytest.mark.parametrize("split", [0, 1, 7, 100])
@pytest.mark.parametrize("pad", [0, 70_000])
async def test_a_streamed_response(engine: ScriptedEngine, start: Start, split: int, pad: int) -> None:
    """The last event repeats the whole answer and may be far longer than what the socket gives at once."""
    if pad and split:
        split *= 997
    world = await start(engine)
    engine.default = Script(split=split, pad=pad)
    answer = await one(world, b'{"model":"small","input":"hi","stream":true}', "/v1/responses")
    assert answer == b"".join(engine.seen[0].sent)
    assert sizes(world) == [(7, 8)]


async def test_a_response_without_input_is_the_engines_to_judge(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine)
    await one(world, b'{"model":"small","conversation":"conv_1"}', "/v1/responses")
    async with world.post(b'{"model":"small","input":7}', "/v1/responses") as response:
        assert await world.error(response) == (400, "invalid_type")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stored_response_is_asked_of_the_replica_that_gave_it(
    engine: ScriptedEngine, engine2: ScriptedEngine, start: Start, stream: bool
) -> None:
    world = await start(engine, engine2)
    await one(world, {"input": "a", "stream": stream}, "/v1/responses")
    (held,) = world.gateway.responses._held["default"]
    url = f"{world.url}/v1/responses/{held}"
    async with world.http.get(url, params={"include": "x"}) as response:
        assert response.status == 200 and (await response.read()) == engine.seen[1].sent[0]
    assert [seen.path for seen in engine.seen] == ["/v1/responses", f"/v1/responses/{held}"] and not engine2.seen
    async with world.http.post(url + "/cancel") as response:
        assert response.status == 200
    async with world.http.delete(url) as response:
        assert response.status == 200 and (await response.json())["deleted"] is True
    async with world.http.get(url) as response:
        assert await world.error(response) == (404, "unknown_response")
    async with world.http.put(url) as response:
        assert response.headers["Allow"] == "GET, DELETE" and response.status == 405


async def test_no_tenant_goes_on_from_anothers_response(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine, tenants=TENANTS)
    await one(world, {"input": "a"}, "/v1/responses", headers=key("a"))
    (response,) = world.gateway.responses._held["a"]
    body = {"input": "b", "previous_response_id": response}
    async with world.post(body, "/v1/responses", headers=key("b")) as answer:
        assert await world.error(answer) == (404, "unknown_response")
    await one(world, body, "/v1/responses", headers=key("a"))
    # what was forgotten may be anybody's
    forgotten = {**body, "previous_response_id": "resp_of_yesterday"}
    async with world.post(forgotten, "/v1/responses", headers=key("a")) as answer:
        assert await world.error(answer) == (404, "unknown_response")
    assert len(engine.seen) == 2


async def test_an_open_gateway_asks_the_engine_for_what_it_does_not_know(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine)
    await one(world, {"input": "b", "previous_response_id": "resp_of_yesterday"}, "/v1/responses")
    assert len(engine.seen) == 1


# ---------------------------------------------------------------- tokenizing


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize"])
async def test_tokenizing_takes_no_slot(engine: ScriptedEngine, start: Start, path: str) -> None:
    world = await start(engine, window=1)
    engine.plan.append(Script(held=True))
    busy = asyncio.create_task(one(world, {}))
    await soon(lambda: engine.inflight == 1)
    assert await one(world, b'{"prompt": "xyz"}', path) == engine.seen[1].sent[0]
    assert not busy.done()
    engine.gate.set()
    await busy
    assert len(sizes(world)) == 1


async def test_tokenizing_says_what_is_missing(engine: ScriptedEngine, start: Start) -> None:
    served = [
        EngineSettings(name="a", models=["a"], upstream_model="org/A", replicas=[engine.url]),
        EngineSettings(name="b", replicas=["http://127.0.0.1:1"]),
    ]
    world = await start(engines=served)
    for body, status, code in [
        (b"{}", 400, "missing_required_parameter"),
        (b'{"model":"c"}', 404, "model_not_found"),
        (b'{"model":"b"}', 502, "upstream_connect"),
        (b'{"model":7}', 400, "invalid_type"),
    ]:
        async with world.post(body, "/tokenize") as response:
            assert await world.error(response) == (status, code)
    await one(world, b'{"model":"a","prompt": "x"}', "/tokenize")
    assert engine.seen[0].raw == b'{"model":"org/A","prompt":"x"}'
    engine.plan.append(Script(do="status", status=404))
    async with world.post(b'{"model":"a"}', "/tokenize") as response:
        assert await world.error(response) == (404, "unsupported_by_engine")


# ---------------------------------------------------------------- sizes


def vllm(engine: ScriptedEngine, **more: Any) -> EngineSettings:
    return EngineSettings(name="small", kind="vllm", replicas=[engine.url], **more)


@pytest.mark.parametrize("split", [0, 1, 2, 3, 5, 50, 333, 10_000])
@pytest.mark.parametrize("options", [None, {"include_usage": False}, {"continuous_usage_stats": False}])
async def test_the_usage_is_asked_for_and_taken_out_again(
    engine: ScriptedEngine, start: Start, split: int, options: dict[str, bool] | None
) -> None:
    world = await start(engines=[vllm(engine)])
    engine.default = Script(usage_asked=True, split=split, chunks=5)
    answer = await one(world, {"stream": True} | ({} if options is None else {"stream_options": options}))
    assert answer == b"".join(chunks(Script(chunks=5)))
    assert engine.seen[0].body["stream_options"] == {**(options or {}), "include_usage": True}
    assert sizes(world) == [(7, 5)]


async def test_a_client_that_asks_for_the_usage_gets_it(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engines=[vllm(engine)])
    engine.default = Script(usage_asked=True)
    body = b'{"model":"small","messages":[],"stream":true,"stream_options": {"include_usage":true}}'
    assert await one(world, body) == b"".join(chunks(Script(usage=True)))
    assert engine.seen[0].raw == body


@pytest.mark.parametrize("kind", ["openai", "llamacpp"])
async def test_other_engines_are_not_asked(engine: ScriptedEngine, start: Start, kind: Any) -> None:
    world = await start(engines=[EngineSettings(name="small", kind=kind, replicas=[engine.url])])
    engine.default = Script(usage_asked=True, chunks=5)
    assert await one(world, {"stream": True}) == b"".join(chunks(Script(chunks=5)))
    assert "stream_options" not in engine.seen[0].body
    assert sizes(world)[0][1] == 6  # counted; the last one only says why it ended


async def test_a_stream_that_is_cut_loses_nothing_that_came(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engines=[vllm(engine)])
    engine.default = Script(do="cut", usage_asked=True, split=100, after=3)
    answer = await one(world, {"stream": True})
    came, _, error = answer.partition(b'\n\ndata: {"error"')
    assert b"".join(chunks(Script())).startswith(came) and b"upstream_reset" in error
    assert len(came) >= 200


# ---------------------------------------------------------------- packed answers


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("accepted", ["gzip", "br, gzip;q=0.5", "*", "identity", "gzip;q=0", ""])
async def test_packed_answers(engine: ScriptedEngine, start: Start, stream: bool, accepted: str) -> None:
    world = await start(engine)
    engine.default = Script(gzip=True, usage=True)
    body = {"model": "small", "messages": [], "stream": stream}
    async with (
        aiohttp.ClientSession(auto_decompress=False) as http,
        http.post(f"{world.url}/v1/chat/completions", json=body, headers={"Accept-Encoding": accepted}) as response,
    ):
        answer = await response.read()
        packed = response.headers.get("Content-Encoding") == "gzip"
    assert packed == (accepted in {"gzip", "br, gzip;q=0.5", "*"})
    assert (gzip.decompress(answer) if packed else answer) == b"".join(engine.seen[0].sent)
    assert sizes(world) == [(7, 8)]
    assert engine.seen[0].headers.get("accept-encoding") == ("gzip" if packed and not stream else None)


async def test_packed_errors_and_tokens(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine)
    plain = {"Accept-Encoding": "identity"}
    engine.default = Script(gzip=True, do="status", status=400)
    async with world.post({}, headers=plain) as response:
        assert response.status == 400 and (await response.json())["error"]["message"] == "scripted"
    engine.default = Script(gzip=True)
    assert await one(world, b"{}", "/tokenize", headers=plain) == engine.seen[1].sent[0]


async def test_a_packed_stream_without_the_usage_that_only_hocket_wanted(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engines=[vllm(engine)])
    engine.default = Script(gzip=True, usage_asked=True, split=40)
    answer = await one(world, {"stream": True})
    assert answer == b"".join(chunks(Script()))
    assert sizes(world) == [(7, 8)]


# ---------------------------------------------------------------- what else is written


@pytest.mark.parametrize(("setting", "urgency", "sent"), [
    ("low-first", "1", 1), ("high-first", "1", 3), ("low-first", None, 2), ("high-first", "4", 0), ("off", "1", 77),
])  # fmt: skip
async def test_urgency_is_passed_down_as_the_engines_priority(
    engine: ScriptedEngine, start: Start, setting: Any, urgency: str | None, sent: int
) -> None:
    world = await start(engines=[vllm(engine, priority=setting)])
    headers = {} if urgency is None else {"x-hocket-urgency": urgency}
    own = b"" if urgency is None else b'"priority":77,'  # without an urgency it would be taken for one
    body = b'{"model":"small","messages":[ {"content":"a"} ],%b"temperature":1.50}' % own
    await one(world, body, headers=headers)
    raw = engine.seen[0].raw
    assert b'"priority":%d' % sent in raw and b'[ {"content":"a"} ]' in raw and b'"temperature":1.50' in raw
    assert (raw == body) == (setting == "off")


async def test_tools_images_and_the_rest_pass_as_they_are(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine)
    body = (
        b'{"model":"small","n" : 2,"logprobs":true,"top_logprobs": 3,"tools":[ {"type":"function","function":'
        b'{"name":"f","parameters":{}}}],"tool_choice":"auto","messages":[{"role":"user","content":[{"type":"image_url",'
        b'"image_url":{"url":"data:image/png;base64,%b"}}]}],"guided_json": {"a":1e2},"x":null}' % (b"iVBOR" * 10_000)
    )
    await one(world, body)
    assert engine.seen[0].raw == body
    arrived = next(record.event for record in world.records() if type(record.event).__name__ == "CallArrived")
    assert arrived.prompt_tokens < 2000, "an image is not 50,000 characters of text"  # type: ignore[union-attr]


async def test_queries_pass(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine)
    await one(world, {}, "/v1/chat/completions?api-version=2026-01-01&a=%26%20b")
    assert engine.seen[0].query == "api-version=2026-01-01&a=%26%20b"


async def test_a_date_in_retry_after(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine)
    at = format_datetime(datetime.now(UTC) + timedelta(seconds=3), usegmt=True)
    engine.plan.append(Script(do="status", status=429, retry_after=at))
    await one(world, {})
    (failed,) = [record.event for record in world.records() if isinstance(record.event, CallFailed)]
    assert failed.retry_after_s is not None and 0 < failed.retry_after_s <= 3


async def test_methods_that_a_path_takes(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine)
    async with world.http.get(f"{world.url}/v1/embeddings") as response:
        assert response.headers["Allow"] == "POST" and (await world.error(response)) == (405, "method_not_allowed")


async def test_every_call_has_a_request_id(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine)
    for stream in (False, True):
        async with world.post({"stream": stream}) as response:
            assert response.headers["x-request-id"] == response.headers["x-hocket-call"]
        async with world.post({"stream": stream}, headers={"x-request-id": "mine"}) as response:
            assert response.headers["x-request-id"] == "mine" == engine.seen[-1].headers["x-request-id"]
