"""The judge: a language model that is asked how urgent a text is, where a domain's reader abstains.

It runs on one of the configured engines, as calls of a tenant and an application of its own: nobody's budget or share
pays for them. They are few (so many in flight, so many a minute) and one token long, so they may go first: the judge's
answer about a call that waits must not wait behind it. Whatever goes wrong, the call keeps its class. What is asked,
and what is made of the answer, is in `hocket.gateway.judgement`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from hocket.core.commands import Dispatch
from hocket.gateway.answers import GarbageError, sizes_of
from hocket.gateway.driver import Driver, LiveCall
from hocket.gateway.judgement import Question, calibrated, judgement, probabilities, question_of
from hocket.gateway.upstream import Fields, Replica, ReplicaFailed
from hocket.settings import EngineSettings, Settings
from hocket.settings.urgency import JUDGE, JudgeSettings, ReaderSettings

Outcome = Literal["moved", "kept", "unclear", "late", "timeout", "failed", "over_budget"]

URGENT, LEAST_URGENT = 0, 4
"the class of the judge's own calls"
TOP = 20
"tokens whose probabilities are asked for: the most that OpenAI and vLLM give"
PATH = "/v1/chat/completions"
HEADERS: Fields = [("Content-Type", "application/json"), ("Accept", "application/json")]

Heard = Callable[[dict[int, float]], Outcome]
"takes the probabilities of an answer"


class Judge:
    """Asks. `replicas` and `engine_of` are the gateway's; both change under way."""

    def __init__(
        self,
        driver: Driver,
        replicas: Mapping[tuple[str, str], Replica],
        engine_of: Callable[[str], EngineSettings],
        settings: Settings,
    ) -> None:
        self._driver, self._replicas, self._engine_of = driver, replicas, engine_of
        self._fence = secrets.token_hex(4)
        self._in_flight = 0
        self._saved = 0.0
        self._at = driver.clock()
        self._tells = True
        "whether the engine takes a request for log-probabilities"
        self._questions: dict[str, Question] = {}
        "by the domain's name"
        self._blank: dict[str, dict[int, float]] = {}
        "what the model answers where there is nothing to judge, by the domain's name"
        self._settings: JudgeSettings | None = None
        self.change(settings)

    def change(self, settings: Settings) -> None:
        """Other settings hold from now on. A gateway that only watches asks nobody."""
        judge = None if settings.mode == "observe" else settings.urgency.judge
        if judge != self._settings:
            self._settings, self._tells = judge, True
            self._saved = 0.0 if judge is None else judge.per_minute
        self._questions.clear()
        self._blank.clear()

    @property
    def on(self) -> bool:
        """Whether there is a judge to ask."""
        return self._settings is not None

    def admits(self) -> bool:
        """Whether one more may be asked. If so it counts from now on: `ask` it."""
        settings = self._settings
        if settings is None:
            return False
        now = self._driver.clock()
        self._saved = min(self._saved + settings.per_minute * (now - self._at) / 60, max(settings.per_minute, 1.0))
        self._at = now
        if self._in_flight >= settings.max_calls_in_flight or self._saved < 1.0:
            return False
        self._saved -= 1.0
        self._in_flight += 1
        return True

    async def ask(self, domain: ReaderSettings, text: str, prior: int, tell: Callable[[int], bool]) -> Outcome:
        """What is the class of a job that is declared to be `prior` and begins with `text`?

        `tell` is called with it where there is an answer, and says whether it still counts. Takes `timeout_s` at most.
        """
        settings, driver = self._settings, self._driver
        if settings is None:  # switched off a moment ago
            self._in_flight -= 1
            return "failed"
        question = self._questions.get(domain.name)
        if question is None:
            question = self._questions[domain.name] = question_of(domain, self._fence)

        def heard(found: dict[int, float]) -> Outcome:
            urgency = judgement(calibrated(found, blank), prior, domain.moves_at_most)
            if urgency is None:
                return "unclear"
            return "late" if not tell(urgency) else "kept" if urgency == prior else "moved"

        def heard_blank(found: dict[int, float]) -> Outcome:
            blank.update(found)
            return "kept" if found else "unclear"

        blank = self._blank.setdefault(domain.name, {})
        key = f"{JUDGE}/{secrets.token_hex(8)}"  # where anyone may call, anyone may name a job: not this one
        try:
            if driver.open_job(key, JUDGE, JUDGE, URGENT) is not None:
                return "failed"
            async with asyncio.timeout(settings.timeout_s):
                outcome: Outcome = "kept"
                if not blank:
                    outcome = await self._call(key, settings, question, "", heard_blank)
                return outcome if outcome != "kept" else await self._call(key, settings, question, text, heard)
        except TimeoutError:
            return "timeout"
        finally:
            self._in_flight -= 1
            driver.end_job(key)

    async def _call(self, job: str, settings: JudgeSettings, question: Question, text: str, heard: Heard) -> Outcome:
        """One call, by way of the core like everyone's."""
        model = settings.model or self._engine_of(settings.engine).served[0]
        body: dict[str, Any] = {"model": model, "messages": question.about(text), "max_tokens": 1, "temperature": 0}
        if self._tells:
            body |= {"logprobs": True, "top_logprobs": TOP}
        call = self._driver.arrive(
            job,
            f"judge-{question.domain}",
            model,
            prompt_tokens=question.tokens(text),
            max_tokens=1,
            prefix=question.fingerprint,
        )
        try:
            return await self._obey(call, body, question, heard)
        finally:
            self._driver.leave(call)

    async def _obey(self, call: LiveCall, body: dict[str, Any], question: Question, heard: Heard) -> Outcome:
        while isinstance(order := await call.order(), Dispatch):
            replica, upstream = self._replicas.get((order.engine, order.replica)), None
            engine = self._engine_of(order.engine)
            if engine.upstream_model is not None:
                body["model"] = engine.upstream_model
            if engine.priority != "off":
                body["priority"] = URGENT if engine.priority == "low-first" else LEAST_URGENT - URGENT
            try:
                if replica is None:
                    raise ReplicaFailed("connect", "the replica is gone")
                call.started()
                upstream = await replica.post(PATH, msgspec.json.encode(body), HEADERS)
                await replica.success(upstream)
                answer = (await replica.whole(upstream)).body
                sizes = sizes_of(answer)
            except GarbageError:
                call.failed("garbage")
            except ReplicaFailed as error:
                if error.status == 400:  # it may be this that it does not know
                    self._tells = False
                call.failed(error.kind, error.status, retry_after_s=error.retry_after_s)
            else:
                # before its slot is free, for the call that it is about may want that one
                outcome = heard(probabilities(answer, question.labels))
                call.finished(
                    question.tokens("") if sizes.prompt_tokens is None else sizes.prompt_tokens, sizes.output_tokens
                )
                return outcome
            finally:
                if replica is not None and upstream is not None:
                    replica.release(upstream)
        return "failed"
