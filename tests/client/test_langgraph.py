"""Real LangGraph applications through a real gateway: its journal says which jobs, stages and parents they are."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.documents import Document
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import Command, Send
from openai import OpenAI

import hocket
from hocket.client import langgraph
from tests.client.live import Live


class Notes(TypedDict):
    notes: Annotated[list[str], operator.add]


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    with Live(tmp_path) as running:
        yield running


def chat(live: Live, **options: Any) -> ChatOpenAI:
    return langgraph.instrument(ChatOpenAI(base_url=live.url, api_key="none", model="small", max_retries=0, **options))


def asking(model: Any, text: str = "go on") -> Any:
    def ask(state: Notes) -> Notes:
        return {"notes": [model.invoke(text).content]}

    return ask


def graph_of(nodes: dict[str, Any], *edges: tuple[Any, str], name: str = "notes") -> Any:
    builder = StateGraph(Notes)
    for node, function in nodes.items():
        builder.add_node(node, function)
    for start, end in edges:
        builder.add_edge(start, end)
    return builder.compile(name=name)


@tool
def search(q: str) -> str:
    """Look it up."""
    return f"found {q}"


@tool
async def look(q: str) -> str:
    """Look it up, later."""
    await asyncio.sleep(0.001)
    return f"saw {q}"


def react(model: Any, tools: list[Any], name: str = "research") -> Any:
    bound = model.bind_tools(tools)
    builder = StateGraph(MessagesState)
    builder.add_node("agent", lambda state: {"messages": [bound.invoke(state["messages"])]})
    builder.add_node("tools", ToolNode(tools))
    builder.add_edge(START, "agent")
    builder.add_conditional_edges("agent", tools_condition)
    builder.add_edge("tools", "agent")
    return builder.compile(name=name)


def asked(text: str) -> dict[str, Any]:
    return {"messages": [("user", text)]}


REACT = [
    ("job", "research", None),
    ("call", "agent", None),
    ("tool", "search", "agent"),
    ("call", "agent", "search"),
    ("tool", "search", "agent"),
    ("call", "agent", "search"),
    ("close", "", None),
]
TWICE = 'Hm. script: search {"q": "a"} | search {"q": "b"} | say Done.'


def test_an_agent_with_tools(live: Live) -> None:
    answer = react(chat(live), [search]).invoke(asked(TWICE), {"configurable": {"thread_id": "t"}})
    assert [message.content for message in answer["messages"]][-2:] == ["found b", "Done."]
    assert live.steps() == REACT


async def test_an_asynchronous_agent(live: Live) -> None:
    model = chat(live).bind_tools([search])

    async def agent(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    builder = StateGraph(MessagesState).add_node("agent", agent).add_node("tools", ToolNode([search]))
    builder.add_edge(START, "agent").add_conditional_edges("agent", tools_condition).add_edge("tools", "agent")
    await builder.compile(name="research").ainvoke(asked(TWICE))
    assert await asyncio.to_thread(live.steps) == REACT


@pytest.mark.parametrize("mode", ["values", "messages"])
def test_a_streamed_agent(live: Live, mode: str) -> None:
    assert list(react(chat(live, streaming=True), [search]).stream(asked(TWICE), stream_mode=mode))
    assert live.steps() == REACT


async def test_a_stream_that_its_reader_leaves_is_aborted(live: Live) -> None:
    graph = react(chat(live, streaming=True), [look])
    stream = graph.astream(asked('script: look {"q": "a"} | say Done.'))
    async for _ in stream:
        break
    await stream.aclose()
    assert (await asyncio.to_thread(live.steps))[-1] == ("abort", "", None)


def test_jobs_side_by_side_keep_apart(live: Live) -> None:
    graph = react(chat(live), [search])
    graph.batch([asked(TWICE)] * 6)
    jobs = live.jobs()
    assert len(jobs) == 6
    assert all([step for step in steps if step[0] != "tool-end"] == REACT for steps in jobs.values())


async def test_asynchronous_jobs_side_by_side_keep_apart(live: Live) -> None:
    model = chat(live).bind_tools([look])

    async def agent(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    builder = StateGraph(MessagesState).add_node("agent", agent).add_node("tools", ToolNode([look]))
    builder.add_edge(START, "agent").add_conditional_edges("agent", tools_condition).add_edge("tools", "agent")
    graph = builder.compile(name="research")
    await asyncio.gather(
        *(graph.ainvoke(asked('script: look {"q": "a"} look {"q": "b"} | say Done.')) for _ in range(6))
    )
    jobs = await asyncio.to_thread(live.jobs)
    assert len(jobs) == 6
    for steps in jobs.values():
        assert [step for step in steps if step[0] != "tool-end"] == [
            ("job", "research", None),
            ("call", "agent", None),
            ("tool", "look", "agent"),
            ("tool", "look", "agent"),
            ("call", "agent", "look"),
            ("close", "", None),
        ]


def test_parallel_branches_join(live: Live) -> None:
    """The parent of the joining node is the branch that ended last."""
    model = chat(live)
    ask = asking(model)
    edges = [(START, "plan"), ("plan", "left"), ("plan", "right"), ("left", "join"), ("right", "join")]
    graph_of(dict.fromkeys(["plan", "left", "right", "join"], ask), *edges).invoke({"notes": []})
    steps = live.steps()
    assert steps[1] == ("call", "plan", None)
    assert sorted(steps[2:4]) == [("call", "left", "plan"), ("call", "right", "plan")]
    assert steps[4] in {("call", "join", "left"), ("call", "join", "right")}


def test_parallel_chains_need_the_graphs_edges(live: Live) -> None:
    ask = asking(chat(live))
    edges = [(START, "plan"), ("plan", "a"), ("plan", "b"), ("a", "c"), ("b", "d")]
    graph = langgraph.instrument(graph_of(dict.fromkeys(["plan", "a", "b", "c", "d"], ask), *edges))
    for _ in range(5):
        graph.invoke({"notes": []})
    for steps in live.jobs().values():
        assert {("call", "c", "a"), ("call", "d", "b")} < set(steps)


def test_map_and_reduce(live: Live) -> None:
    ask = asking(chat(live))
    builder = StateGraph(Notes)
    for name in ("plan", "work", "sum"):
        builder.add_node(name, ask)
    builder.add_edge(START, "plan")
    builder.add_conditional_edges("plan", lambda state: [Send("work", state)] * 4, ["work"])
    builder.add_edge("work", "sum")
    builder.compile().invoke({"notes": []})
    assert live.steps() == [
        ("job", "LangGraph", None),
        ("call", "plan", None),
        *[("call", "work", "plan")] * 4,
        ("call", "sum", "work"),
        ("close", "", None),
    ]


def test_a_sub_graph(live: Live) -> None:
    ask = asking(chat(live))
    inner = graph_of({"draft": ask, "check": ask}, (START, "draft"), ("draft", "check"))
    edges = [(START, "plan"), ("plan", "write"), ("write", "send")]
    graph_of({"plan": ask, "write": inner, "send": ask}, *edges).invoke({"notes": []})
    assert live.steps()[1:-1] == [
        ("call", "plan", None),
        ("call", "write/draft", "plan"),
        ("call", "write/check", "write/draft"),
        ("call", "send", "write/check"),
    ]


def test_a_graph_that_a_tool_runs(live: Live) -> None:
    model = chat(live)
    expert = graph_of({"think": asking(model)}, (START, "think"))

    @tool
    def consult(q: str) -> str:
        """Ask the expert."""
        return str(expert.invoke({"notes": []})["notes"])

    react(model, [consult]).invoke(asked('script: consult {"q": "a"} | say Done.'))
    assert live.steps()[1:-1] == [
        ("call", "agent", None),
        ("tool", "consult", "agent"),
        ("call", "consult/think", "consult"),
        ("call", "agent", "consult"),
    ]


def test_a_graph_that_a_tool_runs_on_its_own(live: Live) -> None:
    """Nobody has begun a job before: the tool's run is it."""
    graph = graph_of({"think": asking(chat(live))}, (START, "think"))

    @tool
    def consult(q: str) -> str:
        """Ask the expert."""
        return str(graph.invoke({"notes": []})["notes"])

    consult.invoke({"q": "a"})
    assert live.steps() == [("job", "notes", None), ("call", "consult/think", "consult"), ("close", "", None)]


def test_nodes_that_do_nothing_are_passed_over_and_retrievers_are_tools(live: Live) -> None:
    class Shelf(BaseRetriever):
        def _get_relevant_documents(self, query: str, **_: Any) -> list[Document]:
            return [Document(page_content=query)]

    ask, shelf = asking(chat(live)), Shelf()
    nodes = {
        "plan": ask,
        "tidy": lambda state: {"notes": ["tidy"]},
        "read": lambda state: {"notes": [shelf.invoke("q", {"run_name": "shelf"})[0].page_content]},
        "answer": ask,
    }
    graph_of(nodes, (START, "plan"), ("plan", "tidy"), ("tidy", "read"), ("read", "answer")).invoke({"notes": []})
    assert live.steps()[1:-1] == [
        ("call", "plan", None),
        ("tool", "shelf", "plan"),
        ("call", "answer", "shelf"),
    ]


def test_embeddings_in_a_node(live: Live) -> None:
    model = OpenAIEmbeddings(base_url=live.url, api_key="none", model="small", check_embedding_ctx_length=False)
    vectors = langgraph.instrument(model)
    ask = asking(chat(live))
    nodes = {"plan": ask, "embed": lambda state: {"notes": [str(vectors.embed_query("a"))]}, "answer": ask}
    answer = graph_of(nodes, (START, "plan"), ("plan", "embed"), ("embed", "answer")).invoke({"notes": []})
    assert answer["notes"][1] == "[0.25, -0.5, 1.0]"
    assert live.steps()[1:-1] == [("call", "plan", None), ("call", "embed", "plan"), ("call", "answer", "embed")]


def test_an_instrumented_model_may_have_been_bound_before(live: Live) -> None:
    bound = ChatOpenAI(base_url=live.url, api_key="none", model="small").bind_tools([search])
    graph_of({"node": asking(langgraph.instrument(bound))}, (START, "node")).invoke({"notes": []})
    assert live.steps()[1] == ("call", "node", None)


def test_loops_and_commands(live: Live) -> None:
    model = chat(live)

    def worker(state: Notes) -> Command[Any]:
        note = model.invoke("work").content
        return Command(update={"notes": [note]}, goto="critic")

    def critic(state: Notes) -> Command[Any]:
        model.invoke("judge")
        return Command(goto=END if len(state["notes"]) > 1 else "worker")

    graph_of({"worker": worker, "critic": critic}, (START, "worker")).invoke({"notes": []})
    assert live.steps()[1:-1] == [
        ("call", "worker", None),
        ("call", "critic", "worker"),
        ("call", "worker", "critic"),
        ("call", "critic", "worker"),
    ]


def test_chains_and_plain_clients_inside_nodes(live: Live) -> None:
    """What a node does without LangChain's models is known, too."""
    model = chat(live)
    client = hocket.instrument(OpenAI(base_url=live.url, api_key="none", max_retries=0))

    @hocket.tool
    def compute() -> None:
        pass

    def first(state: Notes) -> Notes:
        chain = ChatPromptTemplate.from_template("say {x}") | model
        chain.batch([{"x": "a"}, {"x": "b"}])
        return {"notes": []}

    def second(state: Notes) -> Notes:
        compute()
        client.chat.completions.create(model="small", messages=[{"role": "user", "content": "hi"}])
        with hocket.stage("third"):
            model.invoke("hi")
        return {"notes": []}

    graph_of({"first": first, "second": second}, (START, "first"), ("first", "second")).invoke({"notes": []})
    assert live.steps()[1:-1] == [
        *[("call", "first", None)] * 2,
        ("tool", "compute", "first"),
        ("call", "second", "compute"),
        ("call", "third", "second"),
    ]
    client.close()


def test_a_job_around_the_graph_is_its_job(live: Live) -> None:
    model = chat(live)
    with hocket.job("mine", urgency=1) as job:
        with hocket.stage("before"):
            model.invoke("hi")
        with hocket.stage("inside"):
            graph_of({"node": asking(model)}, (START, "node")).invoke({"notes": []})
        model.invoke("hi")
    (name,) = live.jobs()
    assert name == job.id
    assert live.steps() == [
        ("job", "mine", None),
        ("call", "before", None),
        ("call", "node", "inside"),
        ("call", "call", None),
        ("close", "", None),
    ]


def test_a_chain_without_a_graph_is_no_job(live: Live) -> None:
    (ChatPromptTemplate.from_template("say {x}") | chat(live)).invoke({"x": "a"})
    (steps,) = live.jobs().values()
    assert steps[0] == ("job", "default", None)


def test_a_graph_that_fails_aborts_its_job(live: Live) -> None:
    def broken(state: Notes) -> Notes:
        raise ZeroDivisionError

    graph = graph_of({"ask": asking(chat(live)), "broken": broken}, (START, "ask"), ("ask", "broken"))
    with pytest.raises(ZeroDivisionError):
        graph.invoke({"notes": []})
    assert live.steps()[-1] == ("abort", "", None)


def test_a_hook_that_fails_does_not_break_the_application(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("bug")

    for name in ("_run", "_node", "_start_tool"):
        monkeypatch.setattr(langgraph._Handler, name, fail)
    answer = react(chat(live), [search]).invoke(asked(TWICE))
    assert answer["messages"][-1].content == "Done."
    assert {steps[0] for steps in live.jobs().values()} == {("job", "default", None)}


def test_without_a_gateway_the_application_goes_on(live: Live) -> None:
    """The engine itself answers 404 to reports."""
    model = langgraph.instrument(ChatOpenAI(base_url=f"{live.engine.url}/v1", api_key="none", model="small"))
    assert react(model, [search]).invoke(asked(TWICE))["messages"][-1].content == "Done."


def test_nothing_is_kept_when_all_has_ended(live: Live) -> None:
    react(chat(live), [search]).invoke(asked(TWICE))
    assert not langgraph._handler._runs and not langgraph._handler._graphs


def test_what_cannot_be_instrumented_is_told() -> None:
    with pytest.raises(TypeError, match="openai or httpx client, not dict"):
        langgraph.instrument({})
