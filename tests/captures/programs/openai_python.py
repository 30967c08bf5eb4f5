"""The openai package: chats, loops with tools, fan-outs and retries, many jobs at once."""

import asyncio
from typing import Any

from labels import SEARCH, TWICE, question, url
from openai import AsyncOpenAI, OpenAI

SYSTEM = {"role": "system", "content": "You are a helpful assistant. Answer in one sentence."}
LONG_WAY = " script: " + " | ".join('search {"q": "a"}' for _ in range(3)) + " | say That is it."
FOLLOW_UPS = ["Tell me more.", "Why is that?", "Give me an example."]


def client(case: str, job: str, stage: str, thread: str = "main", **more: Any) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=url(case, job, stage, thread), api_key="none", max_retries=2, **more)


async def chat(number: int) -> None:
    ask = client("chat-smollm2", f"job-{number}", "chat")
    messages: list[Any] = [SYSTEM, {"role": "user", "content": question(number)}]
    for text in [*FOLLOW_UPS, None]:
        answer = await ask.chat.completions.create(model="small", messages=messages, max_tokens=24, temperature=0.9)
        messages.append({"role": "assistant", "content": answer.choices[0].message.content or ""})
        if text is not None:
            messages.append({"role": "user", "content": text})


async def tool_loop(number: int) -> None:
    ask = client("tool-loop", f"job-{number}", "agent")
    messages: list[Any] = [SYSTEM, {"role": "user", "content": question(number) + TWICE}]
    while True:
        answer = (
            (await ask.chat.completions.create(model="small", messages=messages, tools=[SEARCH])).choices[0].message
        )
        messages.append(answer.model_dump(exclude_none=True))
        if not answer.tool_calls:
            return
        for call in answer.tool_calls:
            messages.append({"role": "tool", "tool_call_id": call.id, "content": "nothing found"})
            await asyncio.sleep(0.01)


async def streamed_tool_loop(number: int) -> None:
    ask = client("streamed-tool-loop", f"job-{number}", "agent")
    messages: list[Any] = [SYSTEM, {"role": "user", "content": question(number) + TWICE}]
    while True:
        async with ask.chat.completions.stream(model="small", messages=messages, tools=[SEARCH]) as stream:
            answer = (await stream.get_final_completion()).choices[0].message
        calls = [
            {"id": c.id, "type": "function", "function": {"name": c.function.name, "arguments": c.function.arguments}}
            for c in answer.tool_calls or ()
        ]
        if not calls:
            return
        messages.append({"role": "assistant", "content": answer.content, "tool_calls": calls})
        messages += [{"role": "tool", "tool_call_id": call["id"], "content": "nothing"} for call in calls]


async def trimmed_tool_loop(number: int) -> None:
    """The oldest messages are dropped to fit the context; the tools' ids still tell."""
    ask = client("trimmed-tool-loop", f"job-{number}", "agent")
    messages: list[Any] = [{"role": "user", "content": question(number) + LONG_WAY}]
    for _ in range(4):
        sent = [SYSTEM, messages[0], *messages[1:][-2:]]
        answer = (await ask.chat.completions.create(model="small", messages=sent, tools=[SEARCH])).choices[0].message
        messages.append(answer.model_dump(exclude_none=True))
        if not answer.tool_calls:
            return
        messages.append({"role": "tool", "tool_call_id": answer.tool_calls[0].id, "content": "nothing found"})


async def clock_in_the_prompt(number: int) -> None:
    """The system prompt tells the time, so that it is another one in each call."""
    ask = client("clock-in-the-prompt", f"job-{number}", "agent")
    messages: list[Any] = [{"role": "user", "content": question(number) + LONG_WAY}]
    for minute in range(20):
        now = {"role": "system", "content": f"You look things up. It is 12:{minute:02}."}
        sent = [now, *messages]
        answer = (await ask.chat.completions.create(model="small", messages=sent, tools=[SEARCH])).choices[0].message
        messages.append(answer.model_dump(exclude_none=True))
        if not answer.tool_calls:
            return
        messages.append({"role": "tool", "tool_call_id": answer.tool_calls[0].id, "content": "nothing found"})


async def fan_out(number: int) -> None:
    """Only the header that the program adds ties these together."""
    job, headers = f"job-{number}", {"x-session-id": f"run-{number}"}

    async def ask(stage: str, thread: str, text: str) -> str:
        async with client("fan-out", job, stage, thread, default_headers=headers) as asking:
            messages: list[Any] = [{"role": "system", "content": f"You {stage}."}, {"role": "user", "content": text}]
            answer = await asking.chat.completions.create(model="small", messages=messages)
        return answer.choices[0].message.content or ""

    await ask("plan", "main", f"Split this: {question(number)} ({number})")
    parts = [f"Part {part} of {question(number)} ({number})" for part in range(3)]
    notes = await asyncio.gather(*(ask("research", f"part-{part}!", text) for part, text in enumerate(parts)))
    await ask("write", "sum!", f"Sum up: {notes}")


async def retries(number: int) -> None:
    ask = client("retries", f"job-{number}", "chat", "main*")
    messages: list[Any] = [SYSTEM, {"role": "user", "content": f"{question(number)} ({number})"}]
    for text in FOLLOW_UPS:
        answer = await ask.chat.completions.create(model="small", messages=messages)
        messages.append({"role": "assistant", "content": answer.choices[0].message.content or ""})
        messages.append({"role": "user", "content": text})


def synchronous_loop(number: int) -> None:
    """Several conversations in turns from one thread, as batch scripts do."""
    with OpenAI(base_url=url("sync", f"job-{number}", "chat"), api_key="none") as ask:
        messages: list[Any] = [{"role": "user", "content": f"Hello. {question(number)}"}]
        for text in FOLLOW_UPS:
            answer = ask.chat.completions.create(model="small", messages=messages)
            messages += [answer.choices[0].message.to_dict(), {"role": "user", "content": text}]


async def main() -> None:
    programs = (
        (chat, 8),
        (tool_loop, 8),
        (streamed_tool_loop, 6),
        (trimmed_tool_loop, 4),
        (clock_in_the_prompt, 4),
        (fan_out, 4),
        (retries, 4),
    )
    for program, jobs in programs:
        await asyncio.gather(*(program(number) for number in range(jobs)))
    await asyncio.gather(*(asyncio.to_thread(synchronous_loop, number) for number in range(4)))


asyncio.run(main())
