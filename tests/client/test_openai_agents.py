"""Real applications of the OpenAI Agents SDK through a real gateway: jobs, agents, hand-overs and tool runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import agents
import pytest
from agents import Agent, OpenAIChatCompletionsModel, RunConfig, Runner
from openai import APIConnectionError, AsyncOpenAI, OpenAI

import hocket
from hocket.client import openai_agents
from tests.client.live import Live


@pytest.fixture(autouse=True)
def _tracing_goes_nowhere_else() -> Iterator[None]:
    agents.set_trace_processors([openai_agents._processor])
    yield
    agents.set_tracing_disabled(False)


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[Live]:
    with Live(tmp_path) as running:
        running.clients = []
        yield running
        for client in running.clients:
            await client.close()


def client_of(live: Live) -> AsyncOpenAI:
    live.clients.append(openai_agents.instrument(AsyncOpenAI(base_url=live.url, api_key="none", max_retries=0)))
    return live.clients[-1]


def model(live: Live) -> OpenAIChatCompletionsModel:
    return OpenAIChatCompletionsModel(model="small", openai_client=client_of(live))


@agents.function_tool
def search(q: str) -> str:
    """Look it up."""
    return f"found {q}"


@agents.function_tool
async def look(q: str) -> str:
    """Look it up, later."""
    await asyncio.sleep(0.001)
    return f"saw {q}"


TWICE = 'Hm. script: search {"q": "a"} | search {"q": "b"} | say Done.'
RESEARCH = RunConfig(workflow_name="research")
TOOLS = [
    ("job", "research", None),
    ("call", "Researcher", None),
    ("tool", "search", "Researcher"),
    ("call", "Researcher", "search"),
    ("tool", "search", "Researcher"),
    ("call", "Researcher", "search"),
    ("close", "", None),
]


def researcher(live: Live, **more: Any) -> Agent:
    return Agent(name="Researcher", **{"model": model(live), "tools": [search], **more})


async def steps_of(live: Live) -> list[tuple[str, str, str | None]]:
    return await asyncio.to_thread(live.steps)


async def test_an_agent_with_tools(live: Live) -> None:
    result = await Runner.run(researcher(live), TWICE, run_config=RESEARCH)
    assert result.final_output == "Done."
    assert await steps_of(live) == TOOLS


def test_a_synchronous_run(tmp_path: Path) -> None:
    """It leaves its event loop open and asleep: the job's end is reported all the same."""
    with Live(tmp_path) as live:
        live.clients = []
        assert Runner.run_sync(researcher(live), TWICE, run_config=RESEARCH).final_output == "Done."
        assert live.steps() == TOOLS
        loop = asyncio.get_event_loop_policy().get_event_loop()
        loop.run_until_complete(live.clients[0].close())
        loop.close()


async def test_a_streamed_run(live: Live) -> None:
    result = Runner.run_streamed(researcher(live), TWICE, run_config=RESEARCH)
    assert [event async for event in result.stream_events()] and result.final_output == "Done."
    assert await steps_of(live) == TOOLS


async def test_the_job_is_the_trace(live: Live) -> None:
    config = RunConfig(workflow_name="research", trace_id="trace_" + "a" * 32, group_id="chat-1")
    await Runner.run(researcher(live), TWICE, run_config=config)
    assert list(await asyncio.to_thread(live.jobs)) == [config.trace_id]


async def test_several_runs_in_one_trace_are_one_job(live: Live) -> None:
    first, second = researcher(live, tools=[]), Agent(name="Writer", model=model(live))
    with agents.trace("report"):
        await asyncio.gather(Runner.run(first, "one"), Runner.run(first, "two"))
        await Runner.run(second, "write")
    assert await steps_of(live) == [
        ("job", "report", None),
        *[("call", "Researcher", None)] * 2,
        ("call", "Writer", "Researcher"),
        ("close", "", None),
    ]


async def test_a_handover(live: Live) -> None:
    writer = Agent(name="Writer", model=model(live), tools=[look])
    triage = Agent(name="Triage", model=model(live), handoffs=[writer])
    script = 'script: transfer_to_writer {} | look {"q": "a"} | say Done.'
    assert (await Runner.run(triage, script)).final_output == "Done."
    assert await steps_of(live) == [
        ("job", "Agent workflow", None),
        ("call", "Triage", None),
        ("call", "Writer", "Triage"),
        ("tool", "look", "Writer"),
        ("call", "Writer", "look"),
        ("close", "", None),
    ]


async def test_an_agent_as_a_tool(live: Live) -> None:
    expert = Agent(name="Expert", model=model(live))
    consult = expert.as_tool(tool_name="consult", tool_description="Ask the expert.")
    await Runner.run(researcher(live, tools=[consult]), 'script: consult {"input": "why?"} | say Done.')
    assert (await steps_of(live))[1:-1] == [
        ("call", "Researcher", None),
        ("tool", "consult", "Researcher"),
        ("call", "Expert", "consult"),
        ("call", "Researcher", "consult"),
    ]


async def test_jobs_side_by_side_keep_apart(live: Live) -> None:
    agent = researcher(live)
    await asyncio.gather(*(Runner.run(agent, TWICE, run_config=RESEARCH) for _ in range(6)))
    jobs = await asyncio.to_thread(live.jobs)
    assert len(jobs) == 6
    assert all([step for step in steps if step[0] != "tool-end"] == TOOLS for steps in jobs.values())


async def test_tools_side_by_side(live: Live) -> None:
    agent = researcher(live, tools=[search, look])
    await Runner.run(agent, 'script: search {"q": "a"} look {"q": "b"} | say Done.')
    steps = (await steps_of(live))[1:-1]
    assert sorted(steps[1:3]) == [("tool", "look", "Researcher"), ("tool", "search", "Researcher")]
    assert steps[3] in {("call", "Researcher", "look"), ("call", "Researcher", "search")}


async def test_a_job_around_the_run_is_its_job(live: Live) -> None:
    async with hocket.job("mine") as job, hocket.stage("before"):
        await Runner.run(researcher(live, tools=[]), "hi")
    assert list(await asyncio.to_thread(live.jobs)) == [job.id]
    assert await steps_of(live) == [("job", "mine", None), ("call", "Researcher", "before"), ("close", "", None)]


async def test_an_agent_inside_a_langgraph_node(live: Live) -> None:
    from langgraph.graph import START, StateGraph

    from hocket.client import langgraph

    langgraph.instrument(hocket.instrument(OpenAI(base_url=live.url, api_key="none")))
    agent = researcher(live, tools=[])

    async def node(state: dict[str, Any]) -> dict[str, Any]:
        return {"said": (await Runner.run(agent, "hi")).final_output}

    graph = StateGraph(dict).add_node("node", node).add_edge(START, "node").compile(name="outer")
    await graph.ainvoke({})
    jobs = await asyncio.to_thread(live.jobs)
    assert [steps[:2] for steps in jobs.values()] == [[("job", "outer", None), ("call", "Researcher", None)]]


async def test_the_responses_api_is_known_as_well(live: Live) -> None:
    agent = researcher(live, model=agents.OpenAIResponsesModel(model="small", openai_client=client_of(live)))
    await Runner.run(agent, TWICE, run_config=RESEARCH)
    assert await steps_of(live) == TOOLS


async def test_a_run_that_fails_ends_its_job(live: Live) -> None:
    with pytest.raises(agents.MaxTurnsExceeded):
        await Runner.run(researcher(live), TWICE, max_turns=1)
    assert (await steps_of(live))[-1] == ("close", "", None)
    assert not openai_agents._processor._spans


async def test_without_tracing_calls_go_out_without_an_identity(live: Live, caplog: pytest.LogCaptureFixture) -> None:
    openai_agents._processor._warned = False
    agents.set_tracing_disabled(True)
    assert (await Runner.run(researcher(live), TWICE)).final_output == "Done."
    assert {steps[0] for steps in (await asyncio.to_thread(live.jobs)).values()} == {("job", "default", None)}
    assert [r.message for r in caplog.records if "tracing is disabled" in r.message] != []


async def test_a_hook_that_fails_does_not_break_the_application(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("bug")

    monkeypatch.setattr(openai_agents, "_Span", fail)
    assert (await Runner.run(researcher(live), TWICE)).final_output == "Done."


async def test_without_a_gateway_the_application_goes_on() -> None:
    """And fails as it would without hocket, where its calls do."""
    async with AsyncOpenAI(base_url="http://127.0.0.1:9/v1", api_key="none", max_retries=0) as client:
        model = OpenAIChatCompletionsModel("small", openai_agents.instrument(client))
        with pytest.raises(APIConnectionError):
            await Runner.run(Agent(name="A", model=model), "hi")
