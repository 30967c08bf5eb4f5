"""The Responses API of the openai package: answers that go on from an earlier one, and whole inputs sent again."""

import asyncio
from typing import Any

from labels import SEARCH, TWICE, question, url
from openai import AsyncOpenAI

TOOL: Any = {"type": "function", "strict": False, **SEARCH["function"]}


async def previous(number: int) -> None:
    ask = AsyncOpenAI(base_url=url("previous-response", f"job-{number}", "chat"), api_key="none")
    last = None
    for text in (question(number), "Tell me more.", "Why?"):
        answer = await ask.responses.create(
            model="small", instructions="Be brief.", input=text, previous_response_id=last, store=True
        )
        last = answer.id


async def previous_with_tools(number: int) -> None:
    ask = AsyncOpenAI(base_url=url("previous-response-tools", f"job-{number}", "agent"), api_key="none")
    given: Any = question(number) + TWICE
    last = None
    while True:
        answer = await ask.responses.create(model="small", input=given, tools=[TOOL], previous_response_id=last)
        calls = [item for item in answer.output if item.type == "function_call"]
        if not calls:
            return
        given = [{"type": "function_call_output", "call_id": call.call_id, "output": "none"} for call in calls]
        last = answer.id


async def stateless(number: int) -> None:
    ask = AsyncOpenAI(base_url=url("stateless", f"job-{number}", "agent"), api_key="none")
    items: list[Any] = [{"role": "user", "content": question(number) + TWICE}]
    while True:
        answer = await ask.responses.create(model="small", input=items, tools=[TOOL], store=False)
        calls = [item for item in answer.output if item.type == "function_call"]
        items += [item.model_dump(exclude_none=True) for item in answer.output]
        if not calls:
            return
        items += [{"type": "function_call_output", "call_id": call.call_id, "output": "none"} for call in calls]


async def main() -> None:
    for program in (previous, previous_with_tools, stateless):
        await asyncio.gather(*(program(number) for number in range(4)))


asyncio.run(main())
