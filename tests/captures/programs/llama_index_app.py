"""LlamaIndex with OpenAILike: chats with memory, and an agent with a tool."""

import asyncio

from labels import TWICE, question, url
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.llms.openai_like import OpenAILike


def model(case: str, number: int, stage: str) -> OpenAILike:
    return OpenAILike(
        model="small", api_base=url(case, f"job-{number}", stage), api_key="none", is_chat_model=True,
        is_function_calling_model=True, context_window=4096,
    )  # fmt: skip


async def search(q: str) -> str:
    """Look it up."""
    await asyncio.sleep(0.01)
    return f"nothing on {q}"


async def chat(number: int) -> None:
    engine = SimpleChatEngine.from_defaults(llm=model("chat", number, "chat"), system_prompt="Be brief.")
    for text in (question(number), "Tell me more.", "Why?"):
        await engine.achat(text)


async def agent(number: int) -> None:
    asking = FunctionAgent(
        tools=[search], llm=model("agent", number, "agent"), system_prompt="You look things up.", streaming=False
    )
    await asking.run(user_msg=question(number) + TWICE)


async def main() -> None:
    await asyncio.gather(*(chat(number) for number in range(4)))
    await asyncio.gather(*(agent(number) for number in range(4)))


asyncio.run(main())
