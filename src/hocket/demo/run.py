"""One job at work: its calls go through the openai package, its stages and tools through hocket.client.

Beside the answers it keeps a record of what happened, so that the jobs can be written as a trace: replayed elsewhere
(`hocket replay`) and simulated under other policies (`hocket simulate`).
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import hocket
from hocket import trace
from hocket.demo.mix import Task
from hocket.demo.tools import TestReport

if TYPE_CHECKING:
    from openai import AsyncOpenAI

T = TypeVar("T")
LEAST_PREFIX = 16
"tokens: less in common between two prompts is not worth a note"


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    """A call or a tool run that has ended: what came out, and its id in the trace."""

    id: str
    value: T


class Run:
    """A job of the mix under way. `told` is called at the end of each call, with the model and its answer's tokens."""

    def __init__(
        self, client: AsyncOpenAI, task: Task, told: Callable[[str, int], None] = lambda model, n: None
    ) -> None:
        self.task = task
        self._client = client
        self._told = told
        self._stages: list[trace.Stage] = []
        self._prompts: dict[str, str] = {}
        self.tests: list[TestReport] = []

    async def ask(
        self,
        stage: str,
        model: str,
        prompt: str,
        tokens: int,
        after: Sequence[Done[Any]] = (),
        because: Done[Any] | None = None,
        chat: bool = True,
    ) -> Done[str]:
        """One call: exactly `tokens` tokens of answer to `prompt`, which was made of what `after` holds.

        `because`: whose outcome decided that this call is made. Not `chat`: the answer continues the prompt.
        """
        entry = self._enter(stage, "llm", after, because)
        entry.model, entry.max_tokens = model, tokens
        # llama.cpp, vLLM and SGLang know ignore_eos: two passes do the same work
        fixed: dict[str, Any] = {"extra_body": {"ignore_eos": True}, "temperature": 0, "seed": 1}
        fixed |= {"model": model, "max_tokens": tokens}
        async with hocket.stage(stage):
            if chat:
                messages: Any = [{"role": "user", "content": prompt}]
                answer: Any = await self._client.chat.completions.create(messages=messages, **fixed)
                text = answer.choices[0].message.content
            else:
                answer = await self._client.completions.create(prompt=prompt, **fixed)
                text = answer.choices[0].text
        if answer.usage is None:
            raise RuntimeError(f"the engine of {model} does not say how many tokens it used")
        entry.prompt_tokens, entry.output_tokens = answer.usage.prompt_tokens, answer.usage.completion_tokens
        entry.shares_prefix = self._shared(entry, prompt)
        self._prompts[entry.id] = prompt
        self._told(model, entry.output_tokens)
        return Done(entry.id, text or "")

    async def use(
        self,
        tool: Callable[..., Awaitable[T]],
        *args: Any,
        after: Sequence[Done[Any]] = (),
        because: Done[Any] | None = None,
    ) -> Done[T]:
        """One run of a tool, a coroutine function under `@hocket.tool`."""
        entry = self._enter(getattr(tool, "__name__", "tool"), "tool", after, because)
        began = time.perf_counter()
        value = await tool(*args)
        entry.duration_s = round(time.perf_counter() - began, 4)
        return Done(entry.id, value)

    def record(self, text: str) -> trace.Job:
        """What happened, as a line of a trace. `text`: the request."""
        task = self.task
        return trace.Job(job=task.id, app=task.app, arrival_s=task.arrival_s, text=text, stages=self._stages)

    def _enter(self, name: str, kind: Any, after: Sequence[Done[Any]], because: Done[Any] | None) -> trace.Stage:
        needs = [done.id for done in after]
        entry = trace.Stage(id=f"s{len(self._stages)}", name=name, kind=kind, needs=needs)
        entry.revealed_by = because.id if because else None
        self._stages.append(entry)
        return entry

    def _shared(self, entry: trace.Stage, prompt: str) -> trace.Prefix | None:
        """The longest beginning that this prompt has in common with an earlier one on the same model."""
        earlier = [stage for stage in self._stages if stage.id in self._prompts and stage.model == entry.model]
        best = max(earlier, key=lambda stage: _common(prompt, self._prompts[stage.id]), default=None)
        if best is None:
            return None
        tokens = entry.prompt_tokens * _common(prompt, self._prompts[best.id]) // max(len(prompt), 1)
        return trace.Prefix(best.id, tokens) if tokens >= LEAST_PREFIX else None


def _common(a: str, b: str) -> int:
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
