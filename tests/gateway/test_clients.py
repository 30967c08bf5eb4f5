"""The official openai client, sync and async, works unmodified, on a scripted and on a real engine."""

from __future__ import annotations

import asyncio

import openai
import pytest

from tests.gateway.conftest import Start, soon
from tests.scripted_engine import Script, ScriptedEngine

HELLO = [{"role": "user", "content": "Say hello."}]


async def test_the_async_client(small_engine: str, start: Start) -> None:
    world = await start(small_engine)
    async with openai.AsyncOpenAI(base_url=f"{world.url}/v1", api_key="none", max_retries=0) as client:
        answer = await client.chat.completions.create(model="small", messages=HELLO, max_tokens=8)
        assert answer.usage is not None and answer.usage.completion_tokens > 0
        assert answer.choices[0].message.content
        stream = await client.chat.completions.create(
            model="small", messages=HELLO, max_tokens=8, stream=True, stream_options={"include_usage": True}
        )
        parts = [part async for part in stream]
        assert "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
        assert parts[-1].usage is not None and parts[-1].usage.completion_tokens > 0
        text = await client.completions.create(model="small", prompt="One, two,", max_tokens=4)
        assert text.choices[0].text
        assert [model.id async for model in await client.models.list()] == ["small"]
        assert (await client.models.retrieve("small")).owned_by == "hocket"


async def test_the_sync_client(small_engine: str, start: Start) -> None:
    world = await start(small_engine)

    def use() -> tuple[str, str]:
        with openai.OpenAI(base_url=f"{world.url}/v1", api_key="none", max_retries=0) as client:
            answer = client.chat.completions.create(model="small", messages=HELLO, max_tokens=8)
            with client.chat.completions.create(model="small", messages=HELLO, max_tokens=8, stream=True) as stream:
                streamed = "".join(part.choices[0].delta.content or "" for part in stream)
            return answer.choices[0].message.content or "", streamed

    whole, streamed = await asyncio.to_thread(use)
    assert whole and streamed


async def test_errors_become_the_clients_own_exceptions(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine)
    async with openai.AsyncOpenAI(base_url=f"{world.url}/v1", api_key="none", max_retries=0) as client:
        create = client.chat.completions.create
        with pytest.raises(openai.NotFoundError, match="there is: small") as unknown:
            await create(model="none", messages=HELLO)
        assert unknown.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError):
            await create(model="small", messages=HELLO, extra_headers={"x-hocket-urgency": "9"})
        engine.plan.extend([Script(do="status", status=500)] * 2)
        with pytest.raises(openai.InternalServerError, match="scripted"):
            await create(model="small", messages=HELLO)
        engine.plan.append(Script(do="cut", after=2))
        stream = await create(model="small", messages=HELLO, stream=True)
        with pytest.raises(openai.APIError, match="before its answer was complete"):
            async for _ in stream:
                pass


async def test_a_client_that_leaves_a_stream_frees_a_real_engine(small_engine: str, start: Start) -> None:
    world = await start(small_engine)
    async with openai.AsyncOpenAI(base_url=f"{world.url}/v1", api_key="none", max_retries=0) as client:
        stream = await client.chat.completions.create(
            model="small", messages=HELLO, max_tokens=900, stream=True, extra_body={"ignore_eos": True}
        )
        await anext(aiter(stream))
        await stream.close()
    assert await soon(lambda: world.inflight == 0) < 0.1

    async def processing() -> bool:
        async with world.http.get(f"{small_engine}/metrics") as response:
            return "llamacpp:requests_processing 0" not in await response.text()

    async with asyncio.timeout(3):
        while await processing():  # noqa: ASYNC110 - the engine has no other way to tell
            await asyncio.sleep(0.05)
