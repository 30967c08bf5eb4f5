"""An OpenAI-like engine on a real socket that behaves, or misbehaves, as each request is scripted.

A request says how it wants to be served in a body field of its own, `"scripted": {"do": "reset", ...}` (gateways must
pass unknown fields on). Where it does not, the next entry of `engine.plan` counts, and then `engine.default`.

    engine = ScriptedEngine()
    await engine.start()                          # engine.url
    engine.plan.append(Script(do="reset"))        # the next request is reset before the first byte
    ...
    await engine.stop()

As a process of its own, for benchmarks: `python tests/scripted_engine.py --port 9001`.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import math
import time
import zlib
from collections import deque
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import msgspec
from aiohttp import web

MISBEHAVIOURS = ("reset", "cut", "hang", "stall", "status", "garbage", "not-json", "not-sse", "empty")


class Script(msgspec.Struct, frozen=True):
    """How one request is served."""

    do: str = "answer"
    """answer | reset (before the first byte) | cut (reset after `after` chunks) | hang (no answer) | stall (silent
    after `after` chunks) | status | garbage (no HTTP) | not-json | not-sse | empty (a stream that ends at once) |
    error-event (an error inside the stream) | close (only the closing marks the end) | cut-close (the same, cut)"""
    chunks: int = 8
    "content chunks of a stream: one token each"
    first_s: float = 0.0
    "before the first byte"
    held: bool = False
    "until the engine's gate is open, too: nothing hangs on how fast the machine is"
    gap_s: float = 0.0
    "between chunks"
    after: int = 2
    status: int = 500
    retry_after: str | None = None
    usage: bool = False
    "whether a stream's last event holds the usage; a whole answer always has it"
    usage_asked: bool = False
    "as vLLM does it: the last event with the usage comes where `stream_options.include_usage` is true"
    pad: int = 0
    "bytes added to each chunk"
    split: int = 0
    "bytes of each write of a stream: events end anywhere; 0 = an event a write"
    says: str | None = None
    "the text of a whole chat answer"
    tops: dict[str, float] = {}
    "token -> probability, of the first token of a whole chat answer, where `logprobs` are asked for"
    gzip: bool = False
    "the answer comes packed, whatever the request accepts"
    hang_s: float = 60.0


@dataclass(eq=False)
class Seen:
    """One request, as the engine saw it."""

    path: str
    headers: dict[str, str]
    "names in lower case"
    raw: bytes
    script: Script
    started: float
    query: str = ""
    ended: float | None = None
    aborted: float | None = None
    "when the client was found gone"
    sent: list[bytes] = field(default_factory=list)

    @property
    def body(self) -> dict[str, Any]:
        return msgspec.json.decode(self.raw)  # type: ignore[no-any-return]


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Asked(msgspec.Struct):
    scripted: Script | None = None
    logprobs: Any = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None


_asked = msgspec.json.Decoder(_Asked)


class ScriptedEngine:
    """One replica. Times are `time.monotonic()`."""

    def __init__(self, default: Script | None = None, *, record: bool = True) -> None:
        self.default = default or Script()
        self.plan: deque[Script] = deque()
        self.seen: list[Seen] = []
        self.inflight = self.peak = 0
        self.gate = asyncio.Event()
        "calls that are held wait for it"
        self.healthy = True
        "what a health check is told; checks are not among `seen`"
        self.url = ""
        self._record = record
        self._server: web.Server | None = None
        self._runner: web.ServerRunner | None = None

    async def start(self, port: int = 0) -> str:
        """Listen on 127.0.0.1; returns the base URL."""
        loop = asyncio.get_running_loop()

        def request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
            return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=2**26)

        self._server = web.Server(self._serve, handler_cancellation=True, access_log=None, request_factory=request)
        self._runner = web.ServerRunner(self._server, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port, backlog=4096).start()
        self.url = "http://127.0.0.1:{1}".format(*self._runner.addresses[0])
        return self.url

    async def stop(self) -> None:
        """Die: close the port and cut all connections."""
        for connection in self._server.connections if self._server else []:
            if connection.transport is not None:
                connection.transport.abort()
        if self._runner is not None:
            await self._runner.cleanup()

    @property
    def aborted(self) -> list[Seen]:
        """Requests whose client went before their answer was complete."""
        return [seen for seen in self.seen if seen.aborted is not None]

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "GET" and request.path in {"/health", "/v1/models"}:
            return web.Response(status=200 if self.healthy else 503, text='{"data": []}')
        raw = await request.read()
        asked = _asked.decode(raw or b"{}")
        script = asked.scripted or (self.plan.popleft() if self.plan else self.default)
        if not asked.logprobs:
            script = msgspec.structs.replace(script, tops={})
        if script.usage_asked:
            options = asked.stream_options
            script = msgspec.structs.replace(script, usage=options is not None and options.include_usage is True)
        seen = Seen(request.path, {k.lower(): v for k, v in request.headers.items()}, raw, script, time.monotonic())
        seen.query = request.rel_url.raw_query_string
        if self._record:
            self.seen.append(seen)
        self.inflight += 1
        self.peak = max(self.peak, self.inflight)
        try:
            if script.first_s:
                await asyncio.sleep(script.first_s)
            if script.held:
                await self.gate.wait()
            return await self._behave(request, script, seen, bool(asked.stream) and request.path != "/v1/embeddings")
        except (asyncio.CancelledError, ConnectionError):
            seen.aborted = time.monotonic()
            raise
        finally:
            self.inflight -= 1
            seen.ended = time.monotonic()

    async def _behave(self, request: web.BaseRequest, script: Script, seen: Seen, stream: bool) -> web.StreamResponse:
        transport = request.transport
        assert transport is not None
        match script.do:
            case "reset":
                transport.abort()
            case "hang":
                await asyncio.sleep(script.hang_s)
                transport.abort()
            case "garbage":
                transport.write(b"\x16\x03\x01 this is no HTTP \xff\xfe\r\n\r\n")  # type: ignore[attr-defined]
                transport.close()
            case "status":
                headers = {"Content-Type": "application/json", "x-engine": "scripted"}
                if script.retry_after is not None:
                    headers["Retry-After"] = script.retry_after
                body = b'{"error": {"message": "scripted", "type": "engine", "code": %d}}' % script.status
                return _packed(script, self._sent(seen, web.Response(status=script.status, headers=headers, body=body)))
            case "not-json":
                return web.Response(body=b"<html>proxy login</html>", headers={"Content-Type": "application/json"})
            case "not-sse":
                return web.Response(body=b"<html>proxy login</html>", headers={"Content-Type": "text/event-stream"})
            case _ if stream:
                return await self._stream(request, script, seen)
            case "cut" | "stall":
                transport.write(b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"id":')  # type: ignore[attr-defined]
                await asyncio.sleep(script.hang_s if script.do == "stall" else 0.001)
                transport.abort()
            case _:
                return _packed(script, self._sent(seen, whole(script, request.method, request.path)))
        return web.Response()

    @staticmethod
    def _sent(seen: Seen, response: web.Response) -> web.Response:
        assert isinstance(response.body, bytes)
        seen.sent.append(response.body)
        return response

    @staticmethod
    async def _stream(request: web.BaseRequest, script: Script, seen: Seen) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "x-engine": "scripted"})
        if script.do.endswith("close"):
            return await _until_close(request, script, seen)
        packed = zlib.compressobj(wbits=31) if script.gzip else None
        if packed:
            response.headers["Content-Encoding"] = "gzip"
        await response.prepare(request)
        assert request.transport is not None
        for i, chunk in enumerate(writes(script, request.path)):
            if script.do == "empty":
                break
            if script.do in {"cut", "stall"} and i == script.after:
                await asyncio.sleep(script.hang_s if script.do == "stall" else 0.001)
                request.transport.abort()
                break
            if i and script.gap_s:
                await asyncio.sleep(script.gap_s)
            seen.sent.append(chunk)
            await response.write(packed.compress(chunk) + packed.flush(zlib.Z_SYNC_FLUSH) if packed else chunk)
        if packed:
            await response.write(packed.flush())
        return response


def _packed(script: Script, answer: web.Response) -> web.Response:
    if script.gzip:
        assert isinstance(answer.body, bytes)
        answer.headers["Content-Encoding"] = "gzip"
        answer.body = gzip.compress(answer.body)
    return answer


async def _until_close(request: web.BaseRequest, script: Script, seen: Seen) -> web.StreamResponse:
    """A stream without a length and without chunked encoding: its end and a cut look alike, but for [DONE]."""
    transport: Any = request.transport
    transport.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
    for i, chunk in enumerate(chunks(script)):
        if script.do == "cut-close" and i == script.after:
            break
        seen.sent.append(chunk)
        transport.write(chunk)
        await asyncio.sleep(script.gap_s)
    transport.close()
    return web.Response()


def whole(script: Script, method: str = "POST", path: str = "/v1/chat/completions") -> web.Response:
    """A complete answer. Its spacing is odd on purpose: a gateway that parses and writes it again shows."""
    text = "x" * (script.chunks + script.pad) if script.says is None else script.says
    sizes = (script.chunks, 7 + script.chunks)
    if path == "/v1/embeddings":
        body = (
            b'{"object":"list",  "data":[{"object":"embedding","index":0,"embedding":[0.50,1e-3]}],'
            b'"model":"scripted","usage":{"prompt_tokens":7,"total_tokens":7}}'
        )
    elif method == "DELETE":
        body = b'{"id":"%b",  "object":"response","deleted":true}' % path.rpartition("/")[2].encode()
    elif path.startswith("/v1/responses"):
        body = b"{%b}" % _response(text, sizes)
    elif path == "/tokenize":
        body = b'{"tokens":[ 1,2,3],  "count":3}'
    elif path == "/detokenize":
        body = b'{"prompt":  "xyz"}'
    else:
        body = (
            b'{"id":"cmpl-1",  "object":"chat.completion","created":1,"model":"scripted","unknown":{"n":1.50},'
            b'"choices":[{"index":0,"message":{"role":"assistant","content":"%b"},%b"finish_reason":"stop"}],'
            b'"usage":{"prompt_tokens":7,"completion_tokens":%d,"total_tokens":%d}}'
            % (text.encode(), _logprobs(script.tops), *sizes)
        )
    return web.Response(body=body, headers={"Content-Type": "application/json", "x-engine": "scripted"})


def _logprobs(tops: dict[str, float]) -> bytes:
    """The probabilities of the first token, as OpenAI tells them."""
    if not tops:
        return b""
    told = [{"token": token, "logprob": math.log(p), "bytes": None} for token, p in tops.items()]
    return b'"logprobs":{"content":[%b]},' % msgspec.json.encode({**told[0], "top_logprobs": told})


def _response(text: str, sizes: tuple[int, int]) -> bytes:
    """The fields of a response of /v1/responses."""
    return (
        b'"id":"resp_%d",  "object":"response","created_at":1,"status":"completed","model":"scripted",'
        b'"output":[{"id":"msg_1","type":"message","role":"assistant","status":"completed",'
        b'"content":[{"type":"output_text","text":"%b","annotations":[]}]}],'
        b'"usage":{"input_tokens":7,"output_tokens":%d,"total_tokens":%d}' % (next(_responses), text.encode(), *sizes)
    )


_responses = count(1)


def writes(script: Script, path: str) -> list[bytes]:
    """The pieces in which a stream is sent."""
    events = response_events(script) if path == "/v1/responses" else chunks(script)
    if not script.split:
        return events
    text = b"".join(events)
    return [text[i : i + script.split] for i in range(0, len(text), script.split)]


def response_events(script: Script) -> list[bytes]:
    """The named events of a stream of /v1/responses."""

    def event(name: str, data: bytes) -> bytes:
        return b'event: response.%b\ndata: {"type":"response.%b",%b}\n\n' % (name.encode(), name.encode(), data)

    deltas = [b'"item_id":"msg_1","delta":"t%d%b"' % (i, b"y" * script.pad) for i in range(script.chunks)]
    if script.do == "error-event":
        last = event("failed", b'"response":{"id":"resp_0","status":"failed","error":{"message":"scripted"}}')
    else:
        text = "x" * (script.chunks * (1 + script.pad))
        last = event("completed", b'"response":{%b}' % _response(text, (script.chunks, 7 + script.chunks)))
    created = event("created", b'"response":{"id":"resp_0","object":"response","status":"in_progress"}')
    return [created, *(event("output_text.delta", delta) for delta in deltas), last]


def chunks(script: Script) -> list[bytes]:
    """The events of a stream, as they are sent."""
    head = b'data: {"id":"cmpl-1","object":"chat.completion.chunk","model":"scripted","choices":[{"index":0,"delta":'
    pad = "y" * script.pad
    out = [head + b'{"content":"t%d%b"},"finish_reason":null}]}\n\n' % (i, pad.encode()) for i in range(script.chunks)]
    if script.do == "error-event":
        return [*out, b'data: {"error":{"message":"scripted"}}\n\n']
    out.append(head + b'{},"finish_reason":"stop"}]}\n\n')
    if script.usage:
        out.append(
            b'data: {"id":"cmpl-1","object":"chat.completion.chunk","choices":[],"usage":{"prompt_tokens":7,'
            b'"completion_tokens":%d,"total_tokens":%d}}\n\n' % (script.chunks, 7 + script.chunks)
        )
    return [*out, b"data: [DONE]\n\n"]


async def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--chunks", type=int, default=20)
    parser.add_argument("--gap-s", type=float, default=0.0)
    args = parser.parse_args()
    engine = ScriptedEngine(Script(chunks=args.chunks, gap_s=args.gap_s, usage=True), record=False)
    print(await engine.start(args.port), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main())
