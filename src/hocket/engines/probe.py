"""Timed calls to a live engine, through its OpenAI API only. What the profiler measures with."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from itertools import pairwise
from statistics import fmean, median
from types import TracebackType
from typing import Any, NamedTuple, Self

import aiohttp

from hocket.errors import InputError

WORDS = [
    "the", "of", "and", "to", "in", "is", "you", "that", "it", "he", "was", "for", "on", "are", "as", "with", "they",
    "at", "be", "this", "have", "from", "or", "one", "had", "by", "word", "but", "not", "what", "all", "were", "we",
    "when", "your", "can", "said", "there", "use", "an", "each", "which", "she", "do", "how", "their", "if", "will",
]  # fmt: skip
"one token each in most vocabularies"

SILENCE_S = 300.0
"an engine from which nothing came for so long is taken for dead"


class Timeline(NamedTuple):
    """One call: when it was sent and when each of its tokens came. Seconds of one monotonic clock."""

    sent: float
    tokens: list[float]
    prompt_tokens: int
    "those that were computed, not taken from a prefix cache"
    context: int
    "all tokens of the prompt"

    @property
    def first_token_s(self) -> float:
        """Time to first token."""
        return self.tokens[0] - self.sent

    def gaps(self, start: float, end: float) -> list[float]:
        """Times between tokens that came within [start, end]."""
        inside = [at for at in self.tokens if start <= at <= end]
        return [b - a for a, b in pairwise(inside)]


class Limits(NamedTuple):
    """What an engine says it can hold. None = it does not say."""

    max_concurrency: int | None
    context: int | None
    "tokens of one call, prompt and answer together"
    kv_tokens: int | None
    "of one replica"


class Probe:
    """A client of one model at one engine."""

    def __init__(self, url: str, model: str | None = None, api_key: str | None = None, seed: int = 0) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self.model = model or ""
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._random = random.Random(seed)
        self._tokens_per_word = 1.0
        self._extra_tokens = 0.0

    async def __aenter__(self) -> Self:
        # One connection a call: llama.cpp closes one after a streamed answer although it announces keep-alive.
        connector = aiohttp.TCPConnector(force_close=True, limit=0)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=SILENCE_S)
        self._http = aiohttp.ClientSession(connector=connector, timeout=timeout, headers=self._headers)
        try:
            self.model = self.model or await self._first_model()
            await self._calibrate()
        except BaseException:
            await self._http.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.close()

    def prompt(self, tokens: int) -> str:
        """A random text of about so many tokens. No two share a prefix worth caching."""
        words = max(1, round((tokens - self._extra_tokens) / self._tokens_per_word))
        return " ".join(self._random.choices(WORDS, k=words))

    async def call(self, prompt: str, output_tokens: int) -> Timeline:
        """Send `prompt` and have exactly so many tokens generated. Raises InputError."""
        request = {
            "model": self.model,
            "prompt": prompt,
            "max_tokens": output_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        tokens: list[float] = []
        usage: dict[str, Any] = {}
        sent = time.perf_counter()
        try:
            async with self._http.post(f"{self.url}/v1/completions", json=request) as response:
                await self._success(response)
                async for line in response.content:
                    at = time.perf_counter()
                    if not line.startswith(b"data: {"):
                        continue
                    chunk = json.loads(line[6:])
                    if chunk.get("error"):
                        raise InputError(f"{self.url}: the engine broke off: {str(chunk['error'])[:200]}")
                    if chunk.get("choices"):
                        tokens.append(at)
                    usage = chunk.get("usage") or usage
        except (aiohttp.ClientError, TimeoutError, OSError, json.JSONDecodeError) as error:
            reason = str(error) or type(error).__name__
            raise InputError(f"{self.url}: {reason}; is an OpenAI engine running there?") from None
        return self._timeline(sent, tokens, usage, output_tokens)

    def _timeline(self, sent: float, tokens: list[float], usage: dict[str, Any], asked: int) -> Timeline:
        if not usage.get("prompt_tokens"):
            raise InputError(f"{self.url}: no usage in the stream (stream_options.include_usage); cannot be profiled")
        if usage.get("completion_tokens", 0) < asked:
            raise InputError(
                f"{self.url}: {usage.get('completion_tokens')} tokens generated of {asked} asked for; "
                "the engine must know `ignore_eos` and have room for prompt and answer"
            )
        # Some engines send a last chunk that carries only the reason of the end, some keep back half a character.
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        return Timeline(sent, tokens[:asked], usage["prompt_tokens"] - cached, usage["prompt_tokens"])

    async def _success(self, response: aiohttp.ClientResponse) -> None:
        if response.status != 200:
            text = (await response.text())[:200]
            raise InputError(f"{self.url}: HTTP {response.status} for model {self.model!r}: {text}")

    async def _calibrate(self) -> None:
        """How many tokens a word is, and the engine warmed up."""
        few, many = await self.call(self.prompt(8), 2), await self.call(self.prompt(40), 2)
        self._tokens_per_word = max((many.context - few.context) / 32, 0.2)
        self._extra_tokens = many.context - 40 * self._tokens_per_word

    async def _first_model(self) -> str:
        models = await self._get("/v1/models")
        try:
            return str(json.loads(models)["data"][0]["id"])
        except (ValueError, LookupError, TypeError):
            raise InputError(f"{self.url}/v1/models lists no model; is it an OpenAI engine? else use --model") from None

    async def _get(self, path: str) -> str:
        try:
            async with self._http.get(self.url + path) as response:
                return await response.text() if response.status == 200 else ""
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise InputError(f"{self.url}: {error}; is an engine running there?") from None

    async def limits(self) -> Limits:
        """What the engine tells of itself: llama.cpp in /props, vLLM in /v1/models and /metrics."""
        try:
            props = json.loads(await self._get("/props"))
            slots, room = int(props["total_slots"]), int(props["default_generation_settings"]["n_ctx"])
            return Limits(slots, room, slots * room)
        except (ValueError, LookupError, TypeError):
            pass
        context_found = re.search(r'"max_model_len": ?(\d+)', await self._get("/v1/models"))
        context = int(context_found[1]) if context_found else None
        cache = re.search(r"^vllm:cache_config_info\{.*\}", await self._get("/metrics"), re.MULTILINE)
        blocks, size = (
            re.search(rf'{key}="(\d+)"', cache[0] if cache else "") for key in ("num_gpu_blocks", "block_size")
        )
        return Limits(None, context, int(blocks[1]) * int(size[1]) if blocks and size else None)


async def keep_busy(probe: Probe, calls: int) -> None:
    """Until cancelled, keep so many calls running."""

    async def one() -> None:
        while True:
            await probe.call(probe.prompt(64), 64)

    await asyncio.gather(*(one() for _ in range(calls)))  # no task group: who waits wants the error itself


def together(timelines: list[Timeline]) -> tuple[float, float]:
    """The span in which all of these calls decoded: from the last first token to the first last token."""
    return max(t.tokens[0] for t in timelines), min(t.tokens[-1] for t in timelines)


def step_s(gaps: list[float]) -> float:
    """The usual time between two tokens: the median, unless tokens come in bursts (then the mean)."""
    usual, average = median(gaps), fmean(gaps)
    return usual if usual > average / 2 else average


def most_at_once(timelines: list[Timeline]) -> int:
    """How many of these calls were decoding at the same time, at most."""
    changes = sorted([(t.tokens[0], 1) for t in timelines] + [(t.tokens[-1], -1) for t in timelines])
    running = most = 0
    for _, change in changes:
        running += change
        most = max(most, running)
    return most
