"""One recorded job under way on a live gateway."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Any
from urllib.parse import quote

from hocket.client.context import header_value
from hocket.replay import prompts
from hocket.replay.line import Answer, Line, ReplayError
from hocket.sim.driver import Span
from hocket.trace import Job, Stage, graph_of


class Drive:
    """Plays the application of one job: begins each stage when all that it needs has ended."""

    def __init__(self, line: Line, job: Job, began: float) -> None:
        """`began`: when second 0 of the trace is, on the monotonic clock."""
        self.job = job
        self.failure: str | None = None
        "why the job did not complete"
        self.jct_s = 0.0
        self.ended_s = 0.0
        "after `began`"
        self.late_s = 0.0
        self.waits_s: list[float] = []
        self.calls: list[tuple[Stage, Answer]] = []
        self.spans: list[Span] = []
        self._line, self._began = line, began
        self._at = began + job.arrival_s / line.target.speed
        self._id = header_value(f"{job.job}@{secrets.token_hex(4)}")  # a gateway takes no id twice
        self._path = "/" + quote(self._id, safe="")
        self._prompts: dict[str, str] = {}
        self._answers: dict[str, Answer] = {}
        self._identity = {
            "x-hocket-app": header_value(job.app),
            "x-hocket-job": self._id,
            "x-hocket-urgency": str(job.urgency),
        }

    async def run(self) -> None:
        """From the job's arrival to its end, or to its first failure: that ends the job, as it would an application."""
        await asyncio.sleep(self._at - time.monotonic())
        self.late_s = max(0.0, time.monotonic() - self._at)
        try:
            await self._line.report("POST", "", self._opening())
            await self._stages()
        except* ReplayError as errors:
            self.failure = str(errors.exceptions[0])
        self.ended_s = time.monotonic() - self._began
        self.jct_s = time.monotonic() - self._at
        try:
            await self._line.report("DELETE", self._path + ("?abort=true" if self.failure else ""))
        except ReplayError as error:
            self.failure = self.failure or str(error)

    def _opening(self) -> dict[str, Any]:
        opening = {"job": self._id, "app": self._identity["x-hocket-app"], "urgency": self.job.urgency}
        if self.job.deadline_s:
            deadline = round(1000 * self.job.deadline_s / self._line.target.speed)
            return {**opening, "deadline_ms": max(1, deadline)}
        return opening

    async def _stages(self) -> None:
        graph = graph_of(self.job)
        left = graph.waits_for
        async with asyncio.TaskGroup() as group:

            async def play(stage: Stage) -> None:
                await (self._call(stage) if stage.kind == "llm" else self._tool(stage))
                for dependent in graph.dependents[stage.id]:
                    left[dependent.id] -= 1
                    if not left[dependent.id]:
                        group.create_task(play(dependent))

            for stage in [stage for stage in graph.order if not left[stage.id]]:
                group.create_task(play(stage))

    async def _call(self, stage: Stage) -> None:
        began, model = time.monotonic(), stage.model or ""
        prompt = self._prompts[stage.id] = self._prompt(stage, model)
        identity = {**self._identity, "x-hocket-stage": header_value(stage.name)}
        try:
            answer = await self._line.call(model, prompt, max(1, stage.output_tokens), identity)
        except ReplayError as error:
            raise ReplayError(f"stage {stage.id}: {error}") from None
        self._answers[stage.id] = answer
        self.calls.append((stage, answer))
        dispatched = None
        if answer.wait_s is not None:
            self.waits_s.append(answer.wait_s)
            dispatched = began + answer.wait_s
        self._span(stage, model, began, dispatched, dispatched, answer.first_token)

    async def _tool(self, stage: Stage) -> None:
        began, run = time.monotonic(), secrets.token_hex(6)
        path = f"{self._path}/tools/{quote(header_value(stage.name), safe='')}"
        await self._line.report("POST", f"{path}:start", {"run": run})
        until = began + (stage.duration_s or 0.0) / self._line.target.speed
        await asyncio.sleep(until - time.monotonic())
        await self._line.report("POST", f"{path}:end", {"run": run})
        self._span(stage, "tool", began, None, began, None)

    def _prompt(self, stage: Stage, model: str) -> str:
        """As long as recorded; it begins like the prompt that it shared a beginning with, if that one was sent."""
        seed = f"{self._id} {stage.id}"
        words, shared = self._line.words(model, stage.prompt_tokens), stage.shares_prefix
        if shared is None or shared.stage not in self._prompts:
            return prompts.filler(seed, words)
        common = self._line.words(model, shared.tokens)
        head = prompts.first_words(self._prompts[shared.stage], common)
        answer = self._answers.get(shared.stage)
        if answer is not None and shared.tokens > answer.prompt_tokens:
            # the words of real text are not filler, one a token: take the same share of them
            share = (shared.tokens - answer.prompt_tokens) / max(1, answer.output_tokens)
            head += prompts.first_words(answer.text, round(share * len(answer.text.split())))
        return f"{head} {prompts.filler(seed, words - common)}".rstrip()

    def _span(
        self,
        stage: Stage,
        place: str,
        arrived: float,
        dispatched: float | None,
        started: float | None,
        first_token: float | None,
    ) -> None:
        def since(at: float | None) -> float | None:
            return None if at is None else at - self._began

        span = Span(
            job=self.job.job,
            stage=stage.id,
            name=stage.name,
            kind=stage.kind,
            place=place,
            arrived=arrived - self._began,
            dispatched=since(dispatched),
            started=since(started),
            first_token=since(first_token),
            ended=time.monotonic() - self._began,
        )
        self.spans.append(span)
