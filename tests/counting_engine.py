"""An OpenAI-like engine on a real socket that counts: a token is a word, prompts have one more, answers are as long as
`max_tokens` says. It remembers what it was asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

from aiohttp import web

from hocket.gateway.app import Gateway
from hocket.journal import JournalWriter
from hocket.settings import EngineSettings, Settings


class CountingEngine:
    """`prompts`: what came, in order. A prompt of `fails` words is answered with 500, each time."""

    def __init__(self, token_s: float = 0.0, fails: int | None = None, short_by: int = 0) -> None:
        self.prompts: list[str] = []
        self.url = ""
        self._token_s, self._fails, self._short_by = token_s, fails, short_by

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/completions", self._complete)
        app.router.add_post("/v1/chat/completions", self._complete)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = "http://127.0.0.1:{1}".format(*self._runner.addresses[0])
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "small"}, {"id": "large"}]})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        chat = "messages" in asked
        prompt = asked["messages"][0]["content"] if chat else asked["prompt"]
        self.prompts.append(prompt)
        if len(prompt.split()) == self._fails:
            return web.json_response({"error": {"message": "broken"}}, status=500)
        count = asked["max_tokens"] - self._short_by
        usage = {"prompt_tokens": 1 + len(prompt.split()), "completion_tokens": count}
        usage["total_tokens"] = sum(usage.values())
        if not asked.get("stream"):
            await asyncio.sleep(count * self._token_s)
            return web.json_response({**self._choice(chat, "message", " ok" * count), "usage": usage})
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for _ in range(count):
            await asyncio.sleep(self._token_s)
            await self._send(response, self._choice(chat, "delta", " ok"))
        await self._send(response, {"id": "1", "object": "chunk", "choices": [], "usage": usage})
        await response.write(b"data: [DONE]\n\n")
        return response

    @staticmethod
    def _choice(chat: bool, key: str, text: str) -> dict[str, Any]:
        said = {key: {"role": "assistant", "content": text}} if chat else {"text": text}
        choice = {"index": 0, "finish_reason": "length", **said}
        return {"id": "1", "object": "completion", "created": 0, "model": "small", "choices": [choice]}

    @staticmethod
    async def _send(response: web.StreamResponse, event: dict[str, Any]) -> None:
        await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")


@asynccontextmanager
async def gateway_before(
    engine: CountingEngine, journal: Path | None = None, window: int = 4, **more: Any
) -> AsyncIterator[str]:
    """The base URL of a gateway whose engines small and large are both this one."""
    engines = [EngineSettings(name=name, replicas=[engine.url], max_concurrency=window) for name in ("small", "large")]
    settings = Settings(listen="127.0.0.1:0", engines=engines, shutdown_s=1.0, **more)
    writer = JournalWriter(journal, settings.to_spec()) if journal else None
    gateway = Gateway(settings, writer)
    try:
        yield await gateway.start()
    finally:
        await gateway.stop()
        if writer is not None:
            writer.close()
        gateway.scheduler.check()
