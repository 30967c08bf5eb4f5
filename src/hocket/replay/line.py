"""The connection to what jobs are replayed on: a hocket gateway, or a plain engine that speaks the OpenAI API."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import aiohttp
import msgspec
from aiohttp.http_exceptions import BadHttpMessage

from hocket.errors import InputError
from hocket.replay import prompts
from hocket.trace import PROBE

REPORT_TIMEOUT_S = 10.0
FEW, MANY = 8, 72
"words of the two prompts that show how a model's tokenizer counts"


class Target(NamedTuple):
    """Where to, and how."""

    base_url: str
    api_key: str | None = None
    models: Mapping[str, str] = {}
    "names in the trace -> names there; others stay as they are"
    speed: float = 1.0
    "arrivals and tool runs pass so many times as fast; engines do not"


class Answer(NamedTuple):
    """A call's answer."""

    text: str
    prompt_tokens: int
    output_tokens: int
    wait_s: float | None
    "seconds in the gateway's queue, where it says so"
    first_token: float
    "when, on the monotonic clock"


class _Choice(msgspec.Struct):
    text: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Event(msgspec.Struct):
    """What is read of an event of a stream."""

    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: msgspec.Raw = msgspec.Raw()


_events = msgspec.json.Decoder(_Event)


class ReplayError(Exception):
    """A call or a report that did not succeed. The message says why."""


class Line:
    """Calls and reports over one HTTP session."""

    def __init__(self, http: aiohttp.ClientSession, target: Target) -> None:
        self.target = target
        self._http = http
        self._url = target.base_url.rstrip("/").removesuffix("/v1").rstrip("/") + "/v1"
        self._listens = True
        "to reports; a plain engine does not"
        self._counts: dict[str, tuple[float, float]] = {}
        "model -> tokens of an empty prompt, tokens of a word"

    async def check(self, models: set[str]) -> None:
        """See that the target is there and serves `models`, and how their tokenizers count. Raises InputError."""
        served = await self._served()
        for model in sorted(models):
            name = self.target.models.get(model, model)
            if name not in served:
                raise InputError(
                    f"model {name!r} is not served there, only {', '.join(served)}; map it: --model-map {model}=NAME"
                )
            try:
                few, many = [await self._count(model, words) for words in (FEW, MANY)]
            except ReplayError as error:
                raise InputError(f"model {name!r} does not answer: {error}; its log may say more") from None
            per_word = max((many - few) / (MANY - FEW), 0.1)
            self._counts[model] = few - FEW * per_word, per_word

    async def _served(self) -> list[str]:
        try:
            async with self._http.get(f"{self._url}/models") as answer:
                status, body = answer.status, await answer.read()
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError):
            raise InputError(f"{self.target.base_url}: not a URL; write it like http://127.0.0.1:8080") from None
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise InputError(f"{self._url}: nobody answers ({error}); is the gateway up? `hocket serve`") from None
        if status in {401, 403}:
            raise InputError(f"{self._url}: the API key is refused ({status}); give one with --api-key")
        try:
            return sorted(model["id"] for model in msgspec.json.decode(body)["data"])
        except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError):
            raise InputError(f"{self._url}/models answers {status}, not a list of models; check the URL") from None

    async def _count(self, model: str, words: int) -> int:
        answer = await self.call(model, prompts.filler(f"{model} {words}", words), 1, {"x-hocket-app": PROBE})
        return answer.prompt_tokens

    def words(self, model: str, tokens: int) -> int:
        """How many filler words make a prompt of so many tokens. At least one: engines refuse an empty prompt."""
        empty, per_word = self._counts[model]
        return max(1, round((tokens - empty) / per_word))

    async def call(self, model: str, prompt: str, tokens: int, identity: Mapping[str, str]) -> Answer:
        """One streamed completion of `tokens` tokens. Raises ReplayError."""
        body = {
            "model": self.target.models.get(model, model),
            "prompt": prompt,
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        try:
            async with self._http.post(f"{self._url}/completions", json=body, headers=identity) as answer:
                if answer.status != 200:
                    raise ReplayError(f"{answer.status} {_message(await answer.read())}")
                return await _read(answer)
        except (aiohttp.ClientError, BadHttpMessage, OSError, TimeoutError, ValueError) as error:
            raise ReplayError(f"{type(error).__name__}: {str(error)[:200]}") from None

    async def report(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> None:
        """Tell of a job or a tool run; `path`: below `/v1/jobs`. Raises ReplayError where a job may not be opened."""
        if not self._listens:
            return
        timeout = aiohttp.ClientTimeout(total=REPORT_TIMEOUT_S)
        try:
            async with self._http.request(method, f"{self._url}/jobs{path}", json=body, timeout=timeout) as answer:
                if not path and answer.status in {404, 405, 501}:
                    self._listens = False
                elif not path and answer.status >= 400:
                    raise ReplayError(f"the job is refused: {answer.status} {_message(await answer.read())}")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise ReplayError(f"{type(error).__name__}: {error}") from None


async def _read(answer: aiohttp.ClientResponse) -> Answer:
    """An SSE stream to its end. Engines send one token an event; the usage comes last, where it is asked for."""
    texts: list[str] = []
    usage = _Usage()
    first_token, done = 0.0, False
    async for line in answer.content:
        data = line.strip()
        if not data.startswith(b"data:"):
            continue
        data = data.removeprefix(b"data:").strip()
        if data == b"[DONE]":
            done = True
            break
        event = _events.decode(data)
        if bytes(event.error) not in {b"", b"null"}:
            raise ReplayError(_message(data))
        first_token = first_token or time.monotonic()
        texts += [choice.text or "" for choice in event.choices or ()]
        usage = event.usage or usage
    if not done:
        raise ReplayError("the answer was cut off")
    if usage.prompt_tokens is None:
        raise ReplayError("the engine does not tell its usage, so nothing can be counted")
    queued = answer.headers.get("x-hocket-queue-ms")
    wait_s = None if queued is None else float(queued) / 1000
    return Answer("".join(texts), usage.prompt_tokens, usage.completion_tokens or 0, wait_s, first_token)


def _message(body: bytes) -> str:
    """What an error in OpenAI's shape says, else its beginning."""
    try:
        return str(msgspec.json.decode(body)["error"]["message"])
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError):
        return body[:200].decode(errors="replace")
