"""A running call is displaced and goes on later: its client sees one answer, with a pause in it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from hocket.core.spec import PreemptionSpec
from hocket.settings import EngineSettings
from tests.gateway.conftest import Running, Start, soon
from tests.writing_engine import PROMPT_TOKENS, WritingEngine

WORDS = [f"{' ' if i else ''}w{i}" for i in range(60)]


@pytest.fixture
async def writer() -> AsyncIterator[WritingEngine]:
    engine = WritingEngine(WORDS)
    await engine.start()
    yield engine
    await engine.stop()


async def serve(start: Start, *engines: WritingEngine, window: int = 1, **more: Any) -> Running:
    """A gateway in front of engines that can go on; calls are displaced by `displace` alone."""
    urls = [engine.url for engine in engines]
    settings = EngineSettings(name="small", kind=engines[0].kind, replicas=urls, max_concurrency=window)
    more = {"policy": ["urgency"], "engines": [settings], **more}
    world = await start(**more)
    scheduler = world.gateway.scheduler
    scheduler.spec = msgspec.structs.replace(scheduler.spec, preemption=PreemptionSpec())
    return world


class Stream:
    """A streamed answer, as its client reads it: events as they come."""

    def __init__(self, response: Any) -> None:
        self.response = response
        self.raw = b""

    @property
    def events(self) -> list[dict[str, Any]]:
        lines = self.raw.split(b"\n")
        return [json.loads(line[6:]) for line in lines if line.startswith(b"data: {") and line.rstrip().endswith(b"}")]

    @property
    def texts(self) -> list[str]:
        choices = [event["choices"][0] for event in self.events if event.get("choices")]
        return [text for c in choices if (text := c["delta"].get("content") if "delta" in c else c["text"])]

    async def read(self, texts: int) -> None:
        """Read on until so many tokens are there."""
        while len(self.texts) < texts:
            piece = await self.response.content.readany()
            assert piece, "the stream ended early"
            self.raw += piece

    async def rest(self) -> None:
        self.raw += await self.response.read()


async def begin(world: Running, tokens: int = 3, body: dict[str, Any] | None = None, **more: Any) -> Stream:
    """A call of class 4 that streams, and has sent so many tokens."""
    headers = {"x-hocket-urgency": "4"}
    stream = Stream(await world.post({"stream": True, **(body or {})}, headers=headers, **more))
    assert stream.response.status == 200, await stream.response.text()
    await stream.read(tokens)
    return stream


def the_call(world: Running) -> Any:
    (call,) = world.gateway.driver.live.values()
    return call


def kept(world: Running) -> list[int]:
    """Tokens kept of each displacement, as the core was told."""
    found = [record.event for record in world.records() if type(record.event).__name__ == "CallPreempted"]
    return [event.tokens_kept for event in found]


async def urgent(world: Running, engine: WritingEngine, displaced: Any) -> asyncio.Task[None]:
    """A call of class 0 that takes the slot of `displaced`, and holds it until it is cancelled."""

    async def call() -> None:
        async with world.post({"stream": True}, headers={"x-hocket-urgency": "0"}) as response:
            await response.read()

    engine.gap_s = 30.0
    task = asyncio.create_task(call())
    await soon(lambda: len(world.gateway.driver.live) == 2)
    displaced.preempt()
    await soon(lambda: bool(engine.seen) and engine.seen[-1].before == "" and len(engine.seen) == 2)
    return task


async def release(task: asyncio.Task[None], engine: WritingEngine) -> None:
    engine.gap_s = 0.0
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("usage", [True, False])
async def test_one_answer_with_a_pause_in_it(start: Start, writer: WritingEngine, path: str, usage: bool) -> None:
    world = await serve(start, writer)
    body: dict[str, Any] = {"max_tokens": 50, "prompt": "Once"}
    if usage:
        body["stream_options"] = {"include_usage": True}
    stream = await begin(world, 5, body, path=path)
    for _ in range(4):
        the_call(world).preempt()
        await stream.read(len(stream.texts) + 4)
    await stream.rest()
    assert stream.texts == WORDS[:50]
    events = stream.events
    assert {(e["id"], e["created"], e["model"], e["object"]) for e in events} == {
        ("cmpl-1", 1001, "writer", events[0]["object"])
    }
    assert stream.raw.count(b'"role"') == (path == "/v1/chat/completions")
    assert stream.raw.count(b"[DONE]") == 1 and stream.raw.endswith(b"data: [DONE]\n\n")
    reasons = [e["choices"][0]["finish_reason"] for e in events if e["choices"]]
    assert reasons == [None] * (len(reasons) - 1) + ["length"]
    usages = [e["usage"] for e in events if "usage" in e]
    sizes = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": 50, "total_tokens": PROMPT_TOKENS + 50}
    assert usages == ([sizes] if usage else [])
    assert "timings" not in stream.raw.decode()
    assert [part.gone for part in writer.seen] == [True] * 4 + [False]
    assert [part.body["max_tokens"] for part in writer.seen] == [50, *(50 - n for n in kept(world))]
    assert [len(part.before.split()) for part in writer.seen] == [0, *kept(world)]
    finished = next(r.event for r in world.records() if type(r.event).__name__ == "CallFinished")
    assert (finished.prompt_tokens, finished.output_tokens) == (PROMPT_TOKENS, 50)
