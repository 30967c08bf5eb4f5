"""An OpenAI-like engine on a real socket whose speed depends on how many calls it holds, by a curve.

    python tests/shaped_engine.py --shape steep|flat|cliff|narrow [--metrics]

prints its base URL and serves until it is killed. Every call gets its share of the curve's tokens per second, one token
a chunk; calls beyond the curve's limit wait inside, as in a real engine. `POST /shape/NAME` makes it another engine
while it runs. With --metrics it tells, under vLLM's names, what it works on and what waits.
"""

from __future__ import annotations

import argparse
import asyncio
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import msgspec
from aiohttp import web


class Shape(NamedTuple):
    """A throughput curve."""

    rate: Callable[[int], float]
    "tokens per second in all, of the calls running"
    limit: int = 4096
    "calls that run at once; more wait"


SHAPES = {
    "steep": Shape(lambda running: 20.0 * running, limit=32),
    "narrow": Shape(lambda running: 20.0 * running, limit=8),
    "flat": Shape(lambda running: 200.0 * running / (running + 0.03)),
    "cliff": Shape(lambda running: 25.0 * running if running <= 20 else 150.0),
}


class _Asked(msgspec.Struct):
    max_tokens: int = 16
    stream: bool = False


_asked = msgspec.json.Decoder(_Asked)


class ShapedEngine:
    """One replica."""

    def __init__(self, shape: str, *, metrics: bool = False) -> None:
        self.shape = SHAPES[shape]
        self.running = 0
        self._metrics = metrics
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._runner: web.ServerRunner | None = None

    async def start(self, port: int = 0) -> str:
        """Listen on 127.0.0.1; returns the base URL."""
        self._runner = web.ServerRunner(web.Server(self._serve, handler_cancellation=True, access_log=None))
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port, backlog=4096).start()
        return "http://127.0.0.1:{1}".format(*self._runner.addresses[0])

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _serve(self, http: web.BaseRequest) -> web.StreamResponse:
        if http.path == "/metrics" and self._metrics:
            running, waiting = self.running, len(self._waiting)
            labels = '{engine="0",model_name="m"}'
            return web.Response(
                text=f"vllm:num_requests_running{labels} {running}\nvllm:num_requests_waiting{labels} {waiting}\n"
            )
        if http.path.startswith("/shape/"):
            self.shape = SHAPES[http.path.removeprefix("/shape/")]
            return web.Response()
        if http.method == "GET":
            return web.Response(text="{}")
        asked = _asked.decode(await http.read())
        await self._enter()
        try:
            return await self._answer(http, asked)
        finally:
            self._leave()

    async def _enter(self) -> None:
        while self.running >= self.shape.limit:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            finally:
                if turn in self._waiting:
                    self._waiting.remove(turn)
        self.running += 1

    def _leave(self) -> None:
        self.running -= 1
        while self._waiting and self.running < self.shape.limit:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                break

    async def _answer(self, http: web.BaseRequest, asked: _Asked) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        if asked.stream:
            await response.prepare(http)
        loop = asyncio.get_running_loop()
        due = loop.time()
        for _ in range(asked.max_tokens):
            due += self.running / self.shape.rate(self.running)
            await asyncio.sleep(due - loop.time())
            if asked.stream:
                await response.write(_CHUNK)
        if not asked.stream:
            return web.Response(body=_WHOLE % asked.max_tokens, headers={"Content-Type": "application/json"})
        await response.write(_END % asked.max_tokens)
        return response


_HEAD = b'{"id":"c","object":"chat.completion%b","model":"m","choices":[{"index":0,'
_CHUNK = b"data: " + _HEAD % b".chunk" + b'"delta":{"content":"t"},"finish_reason":null}]}\n\n'
_USAGE = b'"usage":{"prompt_tokens":7,"completion_tokens":%d,"total_tokens":7}}'
_WHOLE = _HEAD % b"" + b'"message":{"role":"assistant","content":"t"},"finish_reason":"stop"}],' + _USAGE
_END = b"data: " + _HEAD % b".chunk" + b'"delta":{},"finish_reason":"stop"}],' + _USAGE + b"\n\ndata: [DONE]\n\n"


async def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shape", choices=sorted(SHAPES), required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--metrics", action="store_true")
    args = parser.parse_args()
    print(await ShapedEngine(args.shape, metrics=args.metrics).start(args.port), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main())
