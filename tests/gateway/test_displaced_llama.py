"""Displaced on a real engine: what the client gets is what the engine wrote in each part, and nothing besides."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Self

import aiohttp
import pytest
from aiohttp import web

from hocket.core.events import ReplicaObserved
from hocket.core.replicas import MISSES
from hocket.engines.embedded import EmbeddedSpec
from hocket.settings import EngineSettings
from tests.conftest import serving
from tests.gateway.conftest import Running, Start, soon
from tests.gateway.test_displaced import Stream, kept


@dataclass(eq=False)
class Part:
    """One request to the engine, and what it wrote."""

    body: dict[str, Any]
    raw: bytes = b""

    @property
    def before(self) -> str:
        if "prompt" in self.body:
            return str(self.body["prompt"])
        last = self.body["messages"][-1]
        return str(last["content"]) if last["role"] == "assistant" else ""

    @property
    def text(self) -> str:
        stream = Stream(None)
        stream.raw = self.raw
        return "".join(stream.texts)


TURNS = 200
"of the loop, that a client may take to read an event: in turns, for a machine that pauses takes none"


class Witness:
    """A proxy before an engine that takes down what passes, and passes an event when the one before it was read.

    The engine, a process of its own, writes on while a busy machine holds up the others; then all that it wrote would
    come to the gateway at once, and nothing of it could be displaced.
    """

    def __init__(self, engine: str) -> None:
        self.engine = engine
        self.read = self.passed = 0
        "events with text that the client has, and that went to the gateway"
        self.parts: list[Part] = []
        self.url = ""

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True, limit=0))
        server = web.Server(self._serve, handler_cancellation=True, access_log=None)  # type: ignore[arg-type]
        self._runner = web.ServerRunner(server, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = "http://127.0.0.1:{1}".format(*self._runner.addresses[0])
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
        await self._http.close()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        raw = await request.read()
        part = Part(json.loads(raw or b"{}"))
        if request.path.startswith("/v1/") and raw:
            self.parts.append(part)
        async with self._http.request(request.method, self.engine + request.path, data=raw) as answer:
            kind = answer.headers.get("Content-Type", "")
            response = web.StreamResponse(status=answer.status, headers={"Content-Type": kind})
            await response.prepare(request)
            rest, self.passed = b"", self.read
            async for chunk in answer.content.iter_any():
                part.raw += chunk
                *events, rest = (rest + chunk).split(b"\n\n")
                for event in events:
                    await response.write(event + b"\n\n")
                    await self._read(event)
            await response.write(rest)
        return response

    async def _read(self, event: bytes) -> None:
        """Wait for the client to read it, if it has text."""
        one = Stream(None)
        one.raw = event
        self.passed += len(one.texts)
        for _ in range(TURNS):
            if self.read >= self.passed:
                break
            await asyncio.sleep(0.001)


@pytest.fixture
async def witness(small_engine: str) -> AsyncIterator[Witness]:
    async with Witness(small_engine) as witness:
        yield witness


async def serve(start: Start, witness: Witness) -> Running:
    engine = EngineSettings(name="small", kind="llamacpp", replicas=[witness.url], max_concurrency=8)
    return await start(engines=[engine], preemption=True)


def asks(prompt: str, tokens: int, chat: bool, **more: Any) -> dict[str, Any]:
    said = {"messages": [{"role": "user", "content": prompt}]} if chat else {"prompt": prompt}
    options = {"stream": True, "stream_options": {"include_usage": True}}
    return {"model": "small", **said, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, **options, **more}


async def written(world: Running, witness: Witness, body: dict[str, Any], every: int) -> Stream:
    """The answer to a call that is displaced again and again, behind `every` events of text."""
    path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    async with world.http.post(world.url + path, json=body) as response:
        assert response.status == 200, await response.text()
        call = world.gateway.driver.live[response.headers["x-hocket-call"]]
        stream, due = Stream(response), every
        witness.read = witness.passed = 0
        while piece := await response.content.readany():
            stream.raw += piece
            witness.read = len(stream.texts)
            if len(stream.texts) >= due and call.id in world.gateway.scheduler.calls:
                due = len(stream.texts) + every
                call.preempt()
    return stream


def check(stream: Stream, parts: list[Part], tokens: int) -> None:
    """One continuous answer, of what the engine wrote in each part."""
    whole, start = "".join(stream.texts), len(parts[0].before if "prompt" in parts[0].body else "")
    kept = [part.before[start:] for part in parts[1:]] + [whole]
    seen = ""
    for part, text in zip(parts, kept, strict=True):
        assert text.startswith(seen), "the text that was gone on from is not what the client has"
        assert part.text.startswith(text[len(seen) :]), "the client has what the engine did not write"
        seen = text
    assert seen == whole and whole.endswith(parts[-1].text), "the last part came whole"
    assert stream.raw.count(b"[DONE]") == 1 and len({event["id"] for event in stream.events}) == 1
    usage = stream.events[-1]["usage"]
    assert usage["completion_tokens"] == tokens, usage
    assert usage["total_tokens"] == usage["prompt_tokens"] + tokens


@pytest.mark.parametrize("chat", [True, False])
async def test_a_displaced_answer_is_one_answer(start: Start, witness: Witness, chat: bool) -> None:
    world = await serve(start, witness)
    body = asks("Tell me about the rivers of the world.", 36, chat)
    stream = await written(world, witness, body, 6)
    check(stream, witness.parts, 36)
    assert len(witness.parts) >= 5 and len(stream.texts) == 36, "an event a token"
    (alone,) = [await written(world, witness, {**body, "max_tokens": 8}, 99)]
    assert stream.events[-1]["usage"]["prompt_tokens"] == alone.events[-1]["usage"]["prompt_tokens"]


async def test_characters_of_several_tokens(start: Start, witness: Witness) -> None:
    world = await serve(start, witness)
    stream = await written(world, witness, asks("Repeat: 🦊🐻 こんにちは 你好世界 привет, for ever.", 40, True), 5)
    text = "".join(stream.texts)
    assert not text.isascii() and "\ufffd" not in text
    check(stream, witness.parts, 40)


async def test_a_stop_string_across_the_joint(start: Start, witness: Witness, small_engine: str) -> None:
    """The engine holds back what may be one; a part is asked to go on from before it, and finds it whole."""
    world = await serve(start, witness)
    body = asks("Tell me about the rivers of the world.", 30, True)
    plain = "".join((await written(world, witness, body, 99)).texts)
    stop = " " + " ".join(plain.split(" ")[5:7])
    assert plain.index(stop) > 10
    witness.parts.clear()
    stream = await written(world, witness, {**body, "stop": [stop]}, 1)
    text = "".join(stream.texts)
    assert len(witness.parts) > 2 and stop not in text
    assert [event["choices"][0]["finish_reason"] for event in stream.events if event["choices"]][-1] == "stop"
    said = [*body["messages"], {"role": "assistant", "content": text}]
    async with world.http.post(
        small_engine + "/v1/chat/completions", json={**body, "messages": said, "max_tokens": 6, "stream": False}
    ) as response:
        rest = (await response.json())["choices"][0]["message"]["content"]
    assert rest.startswith(text + stop), "nothing before it was lost"


async def test_the_slot_is_free_at_once(start: Start, witness: Witness, small_engine: str) -> None:
    """The engine stops working on a call that was taken off: it does not write on for nobody."""
    world = await serve(start, witness)
    driver = world.gateway.driver

    async def metric(name: str) -> float:
        async with world.http.get(f"{small_engine}/metrics") as response:
            lines = (await response.text()).splitlines()
        return float(next(x for x in lines if x.startswith(f"llamacpp:{name} ")).split()[1])

    before = await metric("tokens_predicted_total")
    async with world.post(asks("Never stop.", 900, True)) as response:
        stream = Stream(response)
        await stream.read(3)
        assert await metric("requests_processing") == 1
        for _ in range(MISSES):  # so that it waits, displaced
            driver.tell(ReplicaObserved(driver.clock(), "small", witness.url, healthy=False))
        driver.live[response.headers["x-hocket-call"]].preempt()
        async with asyncio.timeout(30):
            while await metric("requests_processing"):  # noqa: ASYNC110 - the engine has no other way to tell
                await asyncio.sleep(0.01)
        assert await metric("tokens_predicted_total") < before + 450, "the engine works on"
    await soon(lambda: not driver.live)


@pytest.mark.slow
async def test_two_hundred_times(start: Start) -> None:
    """One answer, displaced behind every token but those that end in white space."""
    with serving(EmbeddedSpec(weights="small", context=1024, parallel=1)) as url:
        async with Witness(url) as witness:
            world = await serve(start, witness)
            stream = await written(world, witness, asks("Tell me about the rivers of the world.", 215, True), 1)
            check(stream, witness.parts, 215)
            assert len(stream.texts) == 215, "an event a token"
            assert len(kept(world)) >= len(witness.parts) - 1 >= 200
