"""An engine on a real socket that writes one given text, token by token, and goes on where a request's text leaves off.

It stands in for the kinds of engine that can do so, with their ways: llama.cpp and SGLang go on with a last message of
the assistant, vLLM where `continue_final_message` says so, and all of them with a prompt. Each request is in `seen`.

    engine = WritingEngine(["One", " token", " after", " another"])
    await engine.start()
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from aiohttp import web

PROMPT_TOKENS = 7


@dataclass(eq=False)
class Part:
    """One request, and what became of it."""

    body: dict[str, Any]
    path: str
    before: str
    "the text that it is to go on from"
    sent: int = 0
    "tokens"
    done: bool = False
    gone: bool = False
    "its client went first"


class WritingEngine:
    """`tokens`: the answer to everything. `gap_s` before each event; `together`: tokens of one event."""

    def __init__(self, tokens: list[str], *, kind: str = "llamacpp", gap_s: float = 0.002, together: int = 1) -> None:
        self.tokens, self.kind, self.gap_s, self.together = tokens, kind, gap_s, together
        self.split = 0
        "bytes of each write: events end anywhere; 0 = an event a write"
        self.crlf = False
        self.refuses = 0
        "status of every answer that goes on; 0 = none"
        self.delta: dict[str, Any] = {}
        "more fields of each delta"
        self.seen: list[Part] = []
        self.counts = 0
        "requests to count tokens"
        self.url = ""
        self.running = 0
        self._runner: web.ServerRunner | None = None

    async def start(self, port: int = 0) -> str:
        """Listen on 127.0.0.1; returns the base URL."""
        server = web.Server(self._serve, handler_cancellation=True, access_log=None)  # type: ignore[arg-type]
        self._runner = web.ServerRunner(server, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port).start()
        self.url = "http://127.0.0.1:{1}".format(*self._runner.addresses[0])
        return self.url

    async def stop(self) -> None:
        """Die: close the port and cut all connections."""
        assert self._runner is not None
        for connection in self._runner.server.connections if self._runner.server else []:
            if connection.transport is not None:
                connection.transport.abort()
        await self._runner.cleanup()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "GET":
            return web.json_response({"data": []})
        body = json.loads(await request.read())
        if request.path == "/tokenize":
            self.counts += 1
            text = body["content" if self.kind == "llamacpp" else "prompt"]
            return web.json_response({"tokens": list(range(self._written(text)))})
        chat = request.path == "/v1/chat/completions"
        part = Part(body, request.path, self._before(body, chat))
        self.seen.append(part)
        if part.before and self.refuses:
            return web.json_response({"error": {"message": "no", "code": 400}}, status=self.refuses)
        self.running += 1
        try:
            if not body.get("stream"):
                return await self._whole(part)
            return await self._stream(request, part, chat)
        except (asyncio.CancelledError, ConnectionError):
            part.gone = True
            raise
        finally:
            self.running -= 1

    def _before(self, body: dict[str, Any], chat: bool) -> str:
        if not chat:
            return str(body["prompt"]).removeprefix("Once")
        last = body["messages"][-1]
        goes_on = last["role"] == "assistant" and (
            self.kind == "llamacpp" or (body.get("continue_final_message") and not body.get("add_generation_prompt"))
        )
        return last["content"] if goes_on else ""

    def _written(self, text: str) -> int:
        """How many tokens of the answer the text holds: all of it must be of the answer."""
        count = 0
        while text:
            assert text.startswith(self.tokens[count]), f"not what was written: {text!r} at token {count}"
            text = text.removeprefix(self.tokens[count])
            count += 1
        return count

    async def _whole(self, part: Part) -> web.StreamResponse:
        await asyncio.sleep(self.gap_s * len(self.tokens))
        part.done = True
        message = {"role": "assistant", "content": "".join(self.tokens)}
        return web.json_response({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})

    async def _stream(self, request: web.BaseRequest, part: Part, chat: bool) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for event in self._events(part, chat):
            if self.gap_s:
                await asyncio.sleep(self.gap_s)
            for piece in (
                [event[i : i + self.split] for i in range(0, len(event), self.split)] if self.split else [event]
            ):
                await response.write(piece)
                if self.split:
                    await asyncio.sleep(0)
        part.done = True
        return response

    def _events(self, part: Part, chat: bool) -> Any:
        body, first = part.body, self._written(part.before)
        limit = body.get("max_tokens") or len(self.tokens)
        tokens = self.tokens[first : first + limit]
        reason = "length" if first + limit < len(self.tokens) else "stop"
        known = {"id": f"cmpl-{len(self.seen)}", "created": 1000 + len(self.seen), "model": "writer"}
        known["object"] = "chat.completion.chunk" if chat else "text_completion"

        def event(choices: list[dict[str, Any]], **more: Any) -> bytes:
            end = "\r\n\r\n" if self.crlf else "\n\n"
            return ("data: " + json.dumps({**known, "choices": choices, **more}, ensure_ascii=False) + end).encode()

        if chat:
            yield event([{"index": 0, "delta": {"role": "assistant", "content": None}, "finish_reason": None}])
        for i in range(0, len(tokens), self.together):
            text = "".join(tokens[i : i + self.together])
            said = {"delta": {"content": text, **self.delta}} if chat else {"text": text}
            part.sent += len(tokens[i : i + self.together])
            yield event([{"index": 0, **said, "finish_reason": None}])
        last = {"delta": {}} if chat else {"text": ""}
        sizes = {"prompt_tokens": PROMPT_TOKENS + first, "completion_tokens": len(tokens)}
        usage = {**sizes, "total_tokens": sum(sizes.values()), "prompt_tokens_details": {"cached_tokens": first}}
        timings = {"timings": {"prompt_n": PROMPT_TOKENS + first, "predicted_n": len(tokens)}}
        asked = (body.get("stream_options") or {}).get("include_usage")
        yield event([{"index": 0, **last, "finish_reason": reason}], **({} if asked else timings))
        if asked:
            yield event([], usage=usage, **timings)
        yield b"data: [DONE]\n\n"
