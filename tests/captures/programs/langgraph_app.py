"""LangGraph: an agent with tools, and a map-reduce whose calls only a header ties together."""

import asyncio
import operator
from typing import Annotated, Any, TypedDict

from labels import TWICE, question, url
from langchain_core.messages import SystemMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import Send


@tool
async def search(q: str) -> str:
    """Look it up."""
    await asyncio.sleep(0.01)
    return f"nothing on {q}"


async def react(number: int) -> None:
    model = ChatOpenAI(base_url=url("react", f"job-{number}", "agent"), api_key="none", model="small")
    bound = model.bind_tools([search])

    async def agent(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await bound.ainvoke([SystemMessage("You look things up."), *state["messages"]])]}

    graph = StateGraph(MessagesState).add_node("agent", agent).add_node("tools", ToolNode([search]))
    graph.add_edge(START, "agent").add_conditional_edges("agent", tools_condition).add_edge("tools", "agent")
    await graph.compile().ainvoke({"messages": [("user", question(number) + TWICE)]})


class Notes(TypedDict):
    part: int
    notes: Annotated[list[str], operator.add]


async def map_reduce(number: int) -> None:
    def model(stage: str, thread: str) -> ChatOpenAI:
        where = url("map-reduce", f"job-{number}", stage, thread)
        headers = {"x-session-id": f"run-{number}"}
        return ChatOpenAI(base_url=where, api_key="none", model="small", default_headers=headers)

    async def plan(state: Notes) -> dict[str, Any]:
        return {"notes": [(await model("plan", "main").ainvoke(f"Plan: {question(number)} ({number})")).text]}

    async def work(state: Notes) -> dict[str, Any]:
        part = state["part"]
        asking = model("work", f"part-{part}!")
        return {"notes": [(await asking.ainvoke(f"Do part {part} of {question(number)} ({number})")).text]}

    async def join(state: Notes) -> dict[str, Any]:
        return {"notes": [(await model("join", "sum!").ainvoke(f"Join {state['notes']}")).text]}

    graph = StateGraph(Notes).add_node("plan", plan).add_node("work", work).add_node("join", join)
    graph.add_edge(START, "plan").add_edge("work", "join").add_edge("join", END)
    graph.add_conditional_edges("plan", lambda state: [Send("work", {"part": part}) for part in range(3)], ["work"])
    await graph.compile().ainvoke({"notes": [], "part": 0})


async def main() -> None:
    await asyncio.gather(*(react(number) for number in range(6)))
    await asyncio.gather(*(map_reduce(number) for number in range(3)))


asyncio.run(main())
