"""Answers that their clients want whole, displaced: put together from the parts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from hocket.gateway.answers import GarbageError, StreamMeter
from hocket.gateway.resume import Draft
from tests.gateway.conftest import Start, soon
from tests.gateway.test_displaced import WORDS, kept, serve, the_call, writer
from tests.writing_engine import PROMPT_TOKENS, Part, WritingEngine

__all__ = ["writer"]  # the fixture


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_a_whole_answer_goes_on_too(start: Start, writer: WritingEngine, path: str) -> None:
    world = await serve(start, writer)
    task = asyncio.create_task(world.post({"max_tokens": 50, "prompt": "Once"}, path=path))
    for n in (1, 2, 3):
        await soon(lambda n=n: len(writer.seen) == n and writer.seen[-1].sent > 5)  # type: ignore[misc]
        the_call(world).preempt()
    response = await task
    assert response.headers["Content-Type"] == "application/json"
    answer = await response.json()
    (choice,) = answer["choices"]
    text = choice["message"]["content"] if "chat" in path else choice["text"]
    assert text == "".join(WORDS[:50]) and choice["finish_reason"] == "length"
    assert (answer["id"], answer["created"], answer["model"]) == ("cmpl-1", 1001, "writer")
    assert answer["object"] == ("chat.completion" if "chat" in path else "text_completion")
    sizes = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": 50, "total_tokens": PROMPT_TOKENS + 50}
    assert answer["usage"] == sizes
    assert len(kept(world)) == 3 and all(kept(world)) and all(part.body["stream"] for part in writer.seen)


async def test_a_whole_answer_of_more_than_text_is_the_engines_own(start: Start, writer: WritingEngine) -> None:
    writer.delta = {"reasoning_content": "hm"}
    world = await serve(start, writer)
    async with world.post({}) as response:
        assert (await response.json())["choices"][0]["message"]["content"] == "".join(WORDS)
    first, again = writer.seen
    assert first.body["stream"] and "stream" not in again.body
    async with world.post({}) as response:
        await response.read()
    assert "stream" not in writer.seen[-1].body and len(writer.seen) == 3, "known from then on"


async def test_a_whole_answer_that_cannot_be_gone_on_with_is_made_anew(start: Start, writer: WritingEngine) -> None:
    writer.refuses = 400
    world = await serve(start, writer)
    task = asyncio.create_task(world.post({}))
    await soon(lambda: bool(writer.seen) and writer.seen[-1].sent > 5)
    the_call(world).preempt()
    answer = await (await task).json()
    assert answer["choices"][0]["message"]["content"] == "".join(WORDS)
    assert len(writer.seen) == 3


async def test_a_whole_answer_that_was_cut_goes_on_elsewhere(start: Start, writer: WritingEngine) -> None:
    second = WritingEngine(WORDS)
    await second.start()
    world = await serve(start, writer, second)
    task = asyncio.create_task(world.post({}))
    await soon(lambda: any(engine.seen and engine.seen[-1].sent > 5 for engine in (writer, second)))
    first, other = (writer, second) if writer.seen else (second, writer)
    await first.stop()
    answer = await (await task).json()
    assert answer["choices"][0]["message"]["content"] == "".join(WORDS)
    assert other.seen[0].before
    await second.stop()


async def test_a_whole_answer_that_was_cut_at_its_end_is_made_anew(
    start: Start, writer: WritingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nothing to go on with: an engine that is asked to would write a token more than it may."""
    written = writer._events

    def events(part: Part, chat: bool) -> Iterator[bytes]:
        for event in written(part, chat):
            if b"[DONE]" in event and len(writer.seen) == 1:
                raise ConnectionError
            yield event

    monkeypatch.setattr(writer, "_events", events)
    world = await serve(start, writer)
    async with world.post({"max_tokens": 6}) as response:
        answer = await response.json()
    assert answer["choices"][0]["message"]["content"] == "".join(WORDS[:6])
    assert answer["usage"]["completion_tokens"] == 6
    assert [part.before for part in writer.seen] == ["", ""]


def test_of_a_chunk_that_is_garbage_nothing_is_kept() -> None:
    """Its client gets none of it, so that the next attempt must write it again."""
    draft = Draft(StreamMeter(), sifted=False, limit=None)
    event = b'data: {"id": "x", "choices": [{"index": 0, "delta": {"content": "%b"}}]}\n\n'
    assert draft.feed(event % b"one")
    assert draft.cut() == 1
    draft.go_on(sifted=False)
    with pytest.raises(GarbageError):
        draft.feed(event % b" two" + b"data: {garbage\n\n")
    assert (draft.cut(), draft.text) == (1, "one")
