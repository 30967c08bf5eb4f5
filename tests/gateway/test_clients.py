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

    async def metric(name: str) -> float:
        async with world.http.get(f"{small_engine}/metrics") as response:
            lines = (await response.text()).splitlines()
        return float(next(x for x in lines if x.startswith(f"llamacpp:{name} ")).split()[1])

    before = await metric("tokens_predicted_total")
    async with openai.AsyncOpenAI(base_url=f"{world.url}/v1", api_key="none", max_retries=0) as client:
        stream = await client.chat.completions.create(
            model="small", messages=HELLO, max_tokens=900, stream=True, extra_body={"ignore_eos": True}
        )
        await anext(aiter(stream))
        await stream.close()
    await soon(lambda: world.inflight == 0)
    async with asyncio.timeout(30):
        while await metric("requests_processing"):  # noqa: ASYNC110 - the engine has no other way to tell
            await asyncio.sleep(0.05)
    assert await metric("tokens_predicted_total") < before + 450, "it wrote on for nobody"


async def test_embeddings_of_a_real_engine(small_engine: str, start: Start) -> None:
    """The client asks for base64 unless it is told otherwise."""
    world = await start(small_engine)
    async with openai.AsyncOpenAI(base_url=f"{world.url}/v1", api_key="none", max_retries=0) as client:
        one = await client.embeddings.create(model="small", input="Say hello.")
        several = await client.embeddings.create(model="small", input=["Say hello.", "No."], encoding_format="float")
        ids = await client.embeddings.create(model="small", input=[1, 2, 3])
    assert len(one.data) == 1 and len(several.data) == 2 and ids.usage.prompt_tokens == 3
    first, again = one.data[0].embedding, several.data[0].embedding
    assert len(first) == len(again) == 576
    assert sum(a * b for a, b in zip(first, again, strict=True)) > 0.99, "the same text has the same direction"


async def test_responses_of_a_real_engine(small_engine: str, start: Start) -> None:
    world = await start(small_engine)
    async with openai.AsyncOpenAI(base_url=f"{world.url}/v1", api_key="none", max_retries=0) as client:
        whole = await client.responses.create(model="small", input="Say hello.", max_output_tokens=8)
        assert whole.output_text and whole.usage is not None and whole.usage.output_tokens > 0
        stream = await client.responses.create(model="small", input="Say hello.", max_output_tokens=8, stream=True)
        events = [event async for event in stream]
        assert events[0].type == "response.created" and events[-1].type == "response.completed"
        assert any(event.type == "response.output_text.delta" for event in events)
        with pytest.raises(openai.BadRequestError, match="previous_response_id"):  # llama.cpp keeps none
            await client.responses.create(model="small", input="And?", previous_response_id=whole.id)
        with pytest.raises(openai.NotFoundError, match="no engine is known to hold"):
            await client.responses.retrieve("resp_nobody")


async def test_stored_responses(engine: ScriptedEngine, start: Start) -> None:
    """An engine that keeps its responses: a turn goes on with the job of the one before."""
    world = await start(engine)
    async with openai.AsyncOpenAI(base_url=f"{world.url}/v1", api_key="none", max_retries=0) as client:
        create = client.responses.with_raw_response.create
        first = await create(model="small", input="a")
        second = await create(model="small", input="b", previous_response_id=first.parse().id)
        other = await create(model="small", input="b")
        jobs = [answer.headers["x-hocket-job"] for answer in (first, second, other)]
        assert jobs[0] == jobs[1] != jobs[2]
        assert (await client.responses.retrieve(first.parse().id)).object == "response"
        await client.responses.delete(first.parse().id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(first.parse().id)


async def test_tools_choices_and_logprobs_of_a_real_engine(small_engine: str, start: Start) -> None:
    """What the engine is asked for and what it answers arrives; what it makes of a tool is its affair."""
    world = await start(small_engine)
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
    async with openai.AsyncOpenAI(base_url=f"{world.url}/v1", api_key="none", max_retries=0) as client:
        create = client.chat.completions.create
        many = await create(model="small", messages=HELLO, max_tokens=3, n=2, logprobs=True, top_logprobs=2)
        assert [choice.index for choice in many.choices] == [0, 1]
        assert many.choices[1].logprobs is not None and len(many.choices[1].logprobs.content[0].top_logprobs) == 2
        called = await create(model="small", messages=HELLO, max_tokens=24, tools=[tool])
        assert called.choices[0].message.content or called.choices[0].message.tool_calls
        stream = await create(
            model="small",
            messages=HELLO,
            max_tokens=8,
            tools=[tool],
            stream=True,
            stream_options={"include_usage": True},
        )
        parts = [part async for part in stream]
        assert parts[-1].usage is not None and not parts[-1].choices


async def test_the_client_does_not_try_a_closed_job_again(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine)
    async with openai.AsyncOpenAI(base_url=f"{world.url}/v1", api_key="none", max_retries=3) as client:
        named = {"x-hocket-job": "j"}
        await client.chat.completions.create(model="small", messages=HELLO, extra_headers=named)
        await client.delete("/jobs/j", cast_to=object)
        with pytest.raises(openai.ConflictError, match="was closed"):
            await client.chat.completions.create(model="small", messages=HELLO, extra_headers=named)
    refused = world.gateway.metrics.render().decode()
    assert 'hocket_refused_requests_total{code="job_closed"} 1.0' in refused and len(engine.seen) == 1


async def test_an_error_after_a_heartbeat_is_the_clients_own_exception(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine, heartbeat_s=0.05)
    engine.default = Script(do="status", status=400, first_s=0.2)
    async with openai.AsyncOpenAI(base_url=f"{world.url}/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(openai.APIError, match="scripted"):
            async for _ in await client.chat.completions.create(model="small", messages=HELLO, stream=True):
                pass
        with pytest.raises(openai.APIError, match="scripted"):
            async for _ in await client.responses.create(model="small", input="a", stream=True):
                pass
        engine.default = Script(first_s=0.2)
        stream = await client.chat.completions.create(model="small", messages=HELLO, stream=True)
        assert "".join([part.choices[0].delta.content or "" async for part in stream if part.choices])
