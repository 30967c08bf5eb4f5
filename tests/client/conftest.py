"""A gateway's two faces on a real socket: it answers calls (streamed or not) and notes what it was told."""

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from typing import Self

import pytest
from aiohttp import web

from hocket.client.http import Reporter

COMPLETION = {
    "id": "c1",
    "object": "chat.completion",
    "created": 0,
    "model": "small",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "yes"}}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}
CHUNK = {
    "id": "c1",
    "object": "chat.completion.chunk",
    "created": 0,
    "model": "small",
    "choices": [{"index": 0, "delta": {"content": "yes"}, "finish_reason": None}],
}


class Gateway:
    """`calls`: the identity headers of each call, without their prefix. `reports`: (method, path, body), in order."""

    def __init__(self, jobs_api: bool = True) -> None:
        self.calls: list[dict[str, str]] = []
        self.reports: list[tuple[str, str, dict | None]] = []
        self.authorized: set[str | None] = set()
        self.fail_first = 0
        self._jobs_api = jobs_api
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> Self:
        self._thread.start()
        self.url = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _start(self) -> str:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._complete)
        if self._jobs_api:
            app.router.add_route("*", "/v1/jobs{rest:.*}", self._report)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        prefix = "x-hocket-"
        found = {key.lower(): value for key, value in request.headers.items()}
        self.calls.append({key.removeprefix(prefix): value for key, value in found.items() if key.startswith(prefix)})
        if len(self.calls) <= self.fail_first:
            return web.json_response({"error": {"message": "busy"}}, status=500, headers={"retry-after-ms": "1"})
        if not (await request.json()).get("stream"):
            return web.json_response(COMPLETION)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for _ in range(3):
            await response.write(b"data: " + json.dumps(CHUNK).encode() + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _report(self, request: web.Request) -> web.Response:
        body = await request.json() if request.can_read_body else None
        self.reports.append((request.method, request.raw_path.removeprefix("/v1"), body))
        self.authorized.add(request.headers.get("authorization"))
        return web.json_response({"ok": True})


@pytest.fixture(autouse=True)
def _no_client_from_another_test(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    caplog.set_level(logging.WARNING, "hocket.client")
    monkeypatch.setattr("hocket.client.http.ORDER_S", 30.0)  # a busy machine may hold up a report for longer
    Reporter.latest.clear()
    yield
    Reporter.latest.clear()


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with Gateway() as running:
        yield running


@pytest.fixture
def plain_engine() -> Iterator[Gateway]:
    with Gateway(jobs_api=False) as running:
        yield running
