"""A running call is displaced and goes on later: its client sees one answer, with a pause in it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from hocket.gateway.driver import LiveCall
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
    """A gateway in front of engines that can go on, where urgent calls displace others."""
    urls = [engine.url for engine in engines]
    settings = EngineSettings(name="small", kind=engines[0].kind, replicas=urls, max_concurrency=window)
    return await start(**{"policy": ["urgency"], "preemption": True, "engines": [settings], **more})


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


async def urgent(world: Running, engine: WritingEngine) -> asyncio.Task[None]:
    """A call of class 0 that takes the slot of the one that runs, and holds it until it is cancelled."""

    async def call() -> None:
        async with world.post({"stream": True}, headers={"x-hocket-urgency": "0"}) as response:
            await response.read()

    engine.gap_s = 30.0
    task = asyncio.create_task(call())
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


@pytest.mark.parametrize("begun", [True, False], ids=["in its answer", "before it"])
async def test_to_be_asked_twice_for_the_slot_is_to_be_asked_once(
    start: Start, writer: WritingEngine, begun: bool
) -> None:
    """Before its task could do anything about it: it was cancelled twice, and its client cut off."""
    world = await serve(start, writer)
    writer.gap_s = 0.02
    asked = asyncio.create_task(begin(world, 3, {"max_tokens": 20}))
    await soon(lambda: bool(writer.seen))
    if begun:
        await asked
    call = the_call(world)
    call.preempt()
    call.preempt()
    stream = await asked
    await stream.rest()
    assert stream.texts == WORDS[:20] and len(kept(world)) == 1


async def test_a_client_that_goes_is_gone_though_its_slot_is_wanted(start: Start, writer: WritingEngine) -> None:
    """The call waits for a good place to leave, and there is none: each event ends in white space."""
    writer.tokens, writer.gap_s = [f"w{n} " for n in range(60)], 0.02
    world = await serve(start, writer)
    stream = await begin(world, 3)
    the_call(world).preempt()
    await stream.read(6)
    assert kept(world) == []
    stream.response.close()
    await soon(lambda: not world.gateway.driver.live)
    assert kept(world) == [] and len(writer.seen) == 1, "nobody reads what another slot would make"


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
async def test_each_kind_of_engine_is_asked_in_its_own_way(start: Start, writer: WritingEngine, kind: str) -> None:
    writer.kind, writer.together = kind, 3
    world = await serve(start, writer)
    stream = await begin(world, 2, {"max_tokens": 50})
    the_call(world).preempt()
    await stream.rest()
    assert "".join(stream.texts) == "".join(WORDS[:50])
    part = writer.seen[1]
    assert writer.counts == 1 and part.body["max_tokens"] == 50 - len(part.before.split())
    assert part.body["continue_final_message"] is True
    assert part.body.get("add_generation_prompt") == (False if kind == "vllm" else None)
    assert not any("usage" in event for event in stream.events)
    finished = next(r.event for r in world.records() if type(r.event).__name__ == "CallFinished")
    assert (finished.prompt_tokens, finished.output_tokens) == (PROMPT_TOKENS, 50)


@pytest.mark.parametrize("split", [1, 7, 100])
@pytest.mark.parametrize("crlf", [False, True])
async def test_chunks_may_end_anywhere(start: Start, split: int, crlf: bool) -> None:
    """Events cut in two, and characters of several bytes cut in two: nothing is lost or doubled."""
    words = [f" é{i}🦊 漢" for i in range(24)]
    writer = WritingEngine(words, gap_s=0.0)
    writer.split, writer.crlf = split, crlf
    await writer.start()
    world = await serve(start, writer)
    stream = await begin(world, 2)
    for n in range(5, 20, 5):
        the_call(world).preempt()
        await stream.read(n)
    await stream.rest()
    assert "".join(stream.texts) == "".join(words)
    assert len(writer.seen) >= 2 and writer.counts == len(writer.seen) - 1
    await writer.stop()


async def test_the_joint_is_not_behind_white_space(start: Start) -> None:
    words = ["a", "\n", "\n", " ", "b", " ", "c\ufffd", "d", *WORDS]
    writer = WritingEngine(words)
    await writer.start()
    world = await serve(start, writer)
    for n in range(1, 9):
        stream = await begin(world, n)
        the_call(world).preempt()
        await stream.rest()
        assert stream.texts == words
        before = writer.seen[-1].before
        assert before and not before[-1].isspace() and before[-1] != "\ufffd"
    await writer.stop()


async def test_the_slot_is_free_at_once_and_the_call_waits_its_turn(start: Start, writer: WritingEngine) -> None:
    world = await serve(start, writer, heartbeat_s=0.05)
    stream = await begin(world, 3)
    other = await urgent(world, writer)
    assert writer.seen[0].gone and writer.running == 1
    while b": waiting" not in stream.raw:
        stream.raw += await stream.response.content.readany()
    before = len(stream.texts)
    for _ in range(3):
        stream.raw += await stream.response.content.readany()
    assert len(stream.texts) == before, "a pause, with comments"
    await release(other, writer)
    await stream.rest()
    assert stream.texts == WORDS


@pytest.mark.parametrize("stream", [True, False])
async def test_before_its_first_byte_a_call_starts_anew(start: Start, writer: WritingEngine, stream: bool) -> None:
    """Also one that could not be resumed, as it has a seed."""
    writer.kind, writer.gap_s = "vllm", 30.0
    world = await serve(start, writer)
    task = asyncio.create_task(world.post({"stream": stream, "seed": 1}))
    await soon(lambda: len(writer.seen) == 1)
    writer.gap_s = 0.0
    the_call(world).preempt()
    assert (await (await task).text()).count("w59") == 1
    first, again = writer.seen
    assert first.gone and first.body == again.body and kept(world) == [0]


async def test_an_engine_that_would_work_on_for_nobody_keeps_the_call(start: Start, writer: WritingEngine) -> None:
    """llama.cpp does not notice that the client of a whole answer has gone: to leave would free nothing."""
    world = await serve(start, writer)
    task = asyncio.create_task(world.post({"seed": 1}, headers={"x-hocket-urgency": "4"}))
    await soon(lambda: len(writer.seen) == 1)
    async with world.post({"stream": True}, headers={"x-hocket-urgency": "0"}) as response:
        assert (await response.text()).count("w59") == 1
    assert (await (await task).text()).count("w59") == 1 and len(writer.seen) == 2 and kept(world) == []
    orders = [type(command).__name__ for record in world.records() for command in record.commands]
    assert orders.count("Preempt") == 1
    assert world.gateway.scheduler.engines["small"].holders.leaving == 0  # type: ignore[union-attr]


async def test_an_engine_that_displaces_calls_itself_is_told_their_class(start: Start, writer: WritingEngine) -> None:
    engine = EngineSettings(name="small", kind="vllm", replicas=[writer.url], max_concurrency=1, priority="low-first")
    world = await serve(start, writer, engines=[engine])
    stream = await begin(world, 3)
    async with world.post({"stream": True}, headers={"x-hocket-urgency": "0"}) as response:
        await asyncio.gather(stream.rest(), response.read())
    assert [part.body["priority"] for part in writer.seen] == [4, 0] and kept(world) == []


@pytest.mark.parametrize(
    "body",
    [
        {"seed": 1},
        {"n": 2},
        {"logprobs": True},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"response_format": {"type": "json_object"}},
        {"grammar": "root ::= [a-z]"},
        {"frequency_penalty": 0.5},
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "He"}]},
    ],
)
async def test_what_cannot_be_resumed_runs_on(start: Start, writer: WritingEngine, body: dict[str, Any]) -> None:
    world = await serve(start, writer)
    writer.tokens = WORDS[:20]
    writer.kind = "other"
    stream = await begin(world, 3, body)
    the_call(world).preempt()
    await stream.rest()
    assert stream.texts == WORDS[:20] and len(writer.seen) == 1 and kept(world) == []
    arrived = next(r.event for r in world.records() if type(r.event).__name__ == "CallArrived")
    assert not arrived.resumable


@pytest.mark.parametrize(
    "body", [{"n": 1, "seed": None, "tools": None, "frequency_penalty": 0}, {"stop": ["w99"], "temperature": 0.5}]
)
async def test_what_says_nothing_hinders_nothing(start: Start, writer: WritingEngine, body: dict[str, Any]) -> None:
    world = await serve(start, writer)
    stream = await begin(world, 3, body)
    the_call(world).preempt()
    await stream.rest()
    assert stream.texts == WORDS and len(writer.seen) == 2


async def test_an_answer_that_turns_out_not_to_be_plain_text_runs_on(start: Start, writer: WritingEngine) -> None:
    world = await serve(start, writer)
    writer.delta = {"reasoning_content": "hm"}
    stream = await begin(world, 3)
    the_call(world).preempt()
    await stream.rest()
    assert stream.texts == WORDS and len(writer.seen) == 1


# ---------------------------------------------------------------- while it is displaced


async def error_of(stream: Stream) -> str:
    await stream.rest()
    assert b"[DONE]" not in stream.raw
    return str(stream.events[-1]["error"]["code"])


async def test_the_client_goes(start: Start, writer: WritingEngine) -> None:
    world = await serve(start, writer)
    stream = await begin(world, 3)
    call = the_call(world)
    other = await urgent(world, writer)
    stream.response.close()
    await soon(lambda: call.id not in world.gateway.driver.live)
    assert world.inflight == 1
    await release(other, writer)
    await soon(lambda: not world.gateway.driver.live)
    assert len(writer.seen) == 2


async def test_it_may_wait_for_as_long_as_it_takes(start: Start, writer: WritingEngine) -> None:
    """A part of an answer is not refused for waiting, whatever `queue_timeout` says of a call that has got nothing."""
    world = await serve(start, writer, queue_timeout=0.1)
    stream = await begin(world, 3)
    other = await urgent(world, writer)
    await asyncio.sleep(0.3)
    await release(other, writer)
    await stream.rest()
    assert stream.texts == WORDS


async def test_its_job_is_aborted(start: Start, writer: WritingEngine) -> None:
    world = await serve(start, writer)
    stream = await begin(world, 3)
    other = await urgent(world, writer)
    job = stream.response.headers["x-hocket-job"]
    async with world.http.delete(f"{world.url}/v1/jobs/{job}?abort=true") as response:
        assert response.status == 200
    assert await error_of(stream) == "job_aborted"
    await release(other, writer)


async def test_the_gateway_stops(start: Start, writer: WritingEngine) -> None:
    world = await serve(start, writer, shutdown_s=0.2)
    stream = await begin(world, 3)
    other = await urgent(world, writer)
    stopping = asyncio.create_task(world.gateway.stop())
    assert await error_of(stream) == "shutdown"
    await stopping
    await asyncio.gather(other, return_exceptions=True)


async def test_a_stopping_gateway_lets_it_end(start: Start, writer: WritingEngine) -> None:
    world = await serve(start, writer, shutdown_s=10)
    stream = await begin(world, 3)
    other = await urgent(world, writer)
    stopping = asyncio.create_task(world.gateway.stop())
    await asyncio.sleep(0.05)
    await release(other, writer)
    await stream.rest()
    assert stream.texts == WORDS
    await stopping


async def test_its_engine_dies_and_another_goes_on(start: Start, writer: WritingEngine) -> None:
    second = WritingEngine(WORDS)
    await second.start()
    world = await serve(start, writer, second)
    stream = await begin(world, 3)
    first = writer if writer.seen else second
    call = the_call(world)
    first.gap_s = 30.0
    await first.stop()  # cuts the stream: displaced or not, what was begun cannot be ended
    assert await error_of(stream) == "upstream_reset"
    stream = await begin(world, 3)
    other = second if first is writer else writer
    before = len(other.seen)
    the_call(world).preempt()
    await stream.rest()
    assert stream.texts == WORDS and len(other.seen) == before + 1
    assert call.id not in world.gateway.driver.live
    await second.stop()


async def test_the_engine_that_shall_go_on_is_dead(start: Start, writer: WritingEngine) -> None:
    """It is tried again, as before the first byte: nothing of this part has been sent."""
    world = await serve(start, writer, health={"interval_s": 0.1})
    stream = await begin(world, 3)
    port = int(writer.url.rpartition(":")[2])
    other = await urgent(world, writer)
    await writer.stop()
    await release(other, writer)
    again = WritingEngine(WORDS)
    await again.start(port)
    await stream.rest()
    assert stream.texts == WORDS
    await again.stop()


async def test_an_engine_that_will_not_go_on(start: Start, writer: WritingEngine) -> None:
    world = await serve(start, writer)
    writer.refuses = 400
    stream = await begin(world, 3)
    the_call(world).preempt()
    await stream.rest()
    assert stream.events[-1] == {"error": {"message": "no", "code": 400}}


async def test_the_settings_change(start: Start, writer: WritingEngine) -> None:
    world = await serve(start, writer)
    stream = await begin(world, 3)
    other = await urgent(world, writer)
    settings = world.gateway.settings
    await world.gateway.reload(msgspec.structs.replace(settings, queue_timeout=60.0))
    await release(other, writer)
    await stream.rest()
    assert stream.texts == WORDS


async def test_an_order_may_be_taken_back_before_its_handler_saw_it(
    start: Start, writer: WritingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With heartbeats the handler wakes two turns of the loop after its order is there."""
    world = await serve(start, writer, heartbeat_s=0.02)
    driver = world.gateway.driver
    writer.gap_s = 0.01
    first = await begin(world, 3)
    waits = asyncio.create_task(world.post({"stream": True}, headers={"x-hocket-urgency": "4"}))
    await soon(lambda: len(driver.live) == 2)
    second = list(driver.live.values())[1]
    stream = Stream(await waits)
    writer.gap_s = 0.0
    give, given = LiveCall.give, 0

    def taken_back(turns: int) -> None:
        if turns:
            driver.loop.call_soon(taken_back, turns - 1)
        else:
            second.preempt()

    def gives(call: LiveCall, order: Any) -> None:
        """The first time the order is taken back in the same turn of the loop, then in the next one ..."""
        nonlocal given
        give(call, order)
        if call is second and given < 5:
            driver.loop.call_soon(taken_back, given)
            given += 1

    monkeypatch.setattr(LiveCall, "give", gives)
    await asyncio.gather(first.rest(), stream.rest())
    assert stream.texts == WORDS and given == 5
