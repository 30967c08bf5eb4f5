"""A proxy that writes down what passes: each request, its answer, and what the program that sent it says it is.

The program says so in its base URL, which every client lets it choose and no client sends on:

    http://127.0.0.1:PORT/l/CASE/JOB/STAGE/THREAD/v1

A thread is one conversation: the parent of a call is the stage of the call before it in its thread. `THREAD~STAGE`
names the stage that started the thread; `THREAD!` is a conversation that nothing but a header ties to its job; the
second call of `THREAD*` is refused once, so that its client tries again.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections import defaultdict
from typing import Any

import aiohttp
from aiohttp import web

MACHINE = {
    "authorization", "host", "content-length", "connection", "accept-encoding", "transfer-encoding", "x-stainless-arch",
    "x-stainless-os", "x-stainless-runtime-version", "accept-language", "sec-fetch-mode", "keep-alive", "x-api-key",
}  # fmt: skip
"headers that say something of the machine or of the connection only"
LONG = 400
"characters of a text that is kept whole; of a longer one its beginning is, and a digest of all"


class Recorder:
    """Between one program at a time and the engines."""

    def __init__(self, scripted: str, embedded: str, scrub: dict[str, str]) -> None:
        self._scripted, self._embedded, self._scrub = scripted, embedded, scrub
        self._zero = time.monotonic()
        self.begin("")

    def begin(self, client: str) -> None:
        """Another program sends from now on; `lines` holds what passes."""
        self.client = client
        self.lines: list[dict[str, Any]] = []
        self._stages: dict[tuple[str, ...], str] = {}
        "case, job and thread -> the stage of its last answered call"
        self._turns: dict[tuple[str, str], int] = defaultdict(int)
        self._refused: dict[tuple[str, ...], int] = defaultdict(int)

    async def start(self) -> str:
        """Listen; returns the base of the URLs that programs make up."""
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=300), auto_decompress=True)
        self._runner = web.ServerRunner(web.Server(self._serve, access_log=None), shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return "http://127.0.0.1:{1}".format(*self._runner.addresses[0])

    async def stop(self) -> None:
        await self._session.close()
        await self._runner.cleanup()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        raw = await request.read()
        matched = re.fullmatch(r"/l/([^/]+)/([^/]+)/([^/]+)/([^/]+)(/v1/.*)", request.path)
        if matched is None or request.method != "POST":
            return web.json_response({"object": "list", "data": [{"id": "small", "object": "model"}]})
        case, job, stage, thread, path = matched.groups()
        line = self._line(request, case, job, stage, thread, path, json.loads(raw))
        self.lines.append(line)
        key = (case, job, thread)
        if thread.endswith("*") and self._turns[case, job] == 2 and not self._refused[key]:
            self._refused[key] = 1
            line["took"] = self._since(line["at"])
            return web.json_response({"error": {"message": "overloaded", "type": "server_error"}}, status=500)
        upstream = self._embedded if case.endswith("-smollm2") else self._scripted
        async with self._session.post(upstream + path, data=raw, headers={"Content-Type": "application/json"}) as up:
            body = await up.read()
            line["answer"] = self._clean(whole(body)) if up.status == 200 else None
            if up.status == 200:
                self._stages[key] = stage
            line["took"] = self._since(line["at"])
            return web.Response(status=up.status, body=body, headers={"Content-Type": up.headers["Content-Type"]})

    def _line(
        self, request: web.BaseRequest, case: str, job: str, stage: str, thread: str, path: str, body: Any
    ) -> dict[str, Any]:
        key = (case, job, thread)
        retry = self._refused[key] == 1
        if retry:
            self._refused[key] = 2
        else:
            self._turns[case, job] += 1
        last, started_by = self._stages.get(key), thread.rstrip("!*").partition("~")[2] or None
        line: dict[str, Any] = {
            "client": self.client,
            "case": case,
            "turn": self._turns[case, job],
            "headers": self._headers(request),
            "path": path,
            "body": self._clean(body),
            "answer": None,
            "expect": {"job": job, "stage": stage, "parent": last or started_by, "retry": retry},
            "at": self._since(0.0),
        }
        if "!" in thread:
            line["inferred"] = {"job": f"{job}, {thread.rstrip('!')}", "parent": last}
        return line

    def _since(self, moment: float) -> float:
        return round(time.monotonic() - self._zero - moment, 6)

    def _headers(self, request: web.BaseRequest) -> dict[str, str]:
        found = {name.lower(): value for name, value in request.headers.items() if name.lower() not in MACHINE}
        return {name: self._clean(re.sub(r"\([^)]*\)", "(Linux)", value)) for name, value in found.items()}

    def _clean(self, value: Any, name: str = "") -> Any:
        """Without what is of this machine, and shortened: equal texts stay equal, different ones different."""
        if isinstance(value, dict):
            kept = {key: inner for key, inner in value.items() if key not in {"timings", "usage", "logprobs"}}
            return {key: {} if key == "parameters" else self._clean(inner, key) for key, inner in kept.items()}
        if isinstance(value, list):
            return [self._clean(inner, name) for inner in value]
        if not isinstance(value, str):
            return value
        for private, public in self._scrub.items():
            value = value.replace(private, public)
        long = 80 if name == "description" else LONG
        if len(value) > long:
            value = f"{value[: long // 2]} ... {hashlib.sha256(value.encode()).hexdigest()[:16]}"
        return value


def whole(body: bytes) -> dict[str, Any]:
    """A whole answer, put together where it was streamed."""
    if not body.lstrip().startswith((b"data:", b"event:")):
        return dict(json.loads(body))
    events = [json.loads(line[5:]) for line in body.splitlines() if line.startswith(b"data:") and b"[DONE]" not in line]
    if "type" in events[0]:
        return dict(events[-1]["response"])
    message: dict[str, Any] = {"role": "assistant", "content": None}
    end = None
    for choice in (choice for event in events for choice in event["choices"]):
        delta, end = choice["delta"], choice["finish_reason"] or end
        if delta.get("content"):
            message["content"] = (message["content"] or "") + delta["content"]
        for call in delta.get("tool_calls") or ():
            message.setdefault("tool_calls", []).append({key: inner for key, inner in call.items() if key != "index"})
    head = {key: events[0][key] for key in ("id", "created", "model")}
    choice = {"index": 0, "message": message, "finish_reason": end}
    return {**head, "object": "chat.completion", "choices": [choice]}
