"""The OpenAI Agents SDK: tools, hand-overs, and both APIs."""

import asyncio
from typing import Any

import agents
from agents import Agent, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner
from labels import TWICE, question, url
from openai import AsyncOpenAI

agents.set_tracing_disabled(True)


@agents.function_tool
async def search(q: str) -> str:
    """Look it up."""
    await asyncio.sleep(0.01)
    return f"nothing on {q}"


def agent(case: str, job: str, name: str, responses: bool = False, **more: Any) -> Agent:
    client = AsyncOpenAI(base_url=url(case, job, name), api_key="none")
    model: Any = (OpenAIResponsesModel if responses else OpenAIChatCompletionsModel)("small", client)
    return Agent(name=name, instructions=f"You are {name}.", model=model, **more)


async def tools(number: int) -> None:
    await Runner.run(agent("tools", f"job-{number}", "researcher", tools=[search]), question(number) + TWICE)


async def tools_by_responses(number: int) -> None:
    researcher = agent("tools-by-responses", f"job-{number}", "researcher", responses=True, tools=[search])
    await Runner.run(researcher, question(number) + TWICE)


async def hand_over(number: int) -> None:
    job = f"job-{number}"
    writer = agent("hand-over", job, "writer", tools=[search])
    triage = agent("hand-over", job, "triage", handoffs=[writer])
    script = ' script: transfer_to_writer {} | search {"q": "a"} | say That is it.'
    await Runner.run(triage, question(number) + script)


async def main() -> None:
    for program in (tools, tools_by_responses, hand_over):
        await asyncio.gather(*(program(number) for number in range(4)))


asyncio.run(main())
