"""An OpenAI-like engine that calls tools: what it answers is written in the request's words.

The last user message that holds `script:` says it, one step after the other, divided by bars:

    What is hocket? script: search {"q": "a"} lookup {"q": "b"} | search {"q": "c"} | say Done. endscript

Each step is one answer: tool calls, or text (`endscript` is needed only where more follows). Which step is next shows
in the answers since that message, so the engine keeps nothing; only `/v1/responses` remembers its answers, for
`previous_response_id`. Without a script it calls no tool. Text is made up, different in each answer, as a model's is.

It speaks `/v1/chat/completions`, `/v1/responses`, streamed or not, and `/v1/embeddings`. `engine.fail` holds statuses
for the next requests: each is answered with that error.

    async with ToolEngine() as url: ...
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import re
from collections import deque
from typing import Any, Self

from aiohttp import web

WORDS = re.findall(
    r"\w+",
    "a the of and to in is that it for on as with at by from this which their into than more some time found work "
    "people music voice part song note rest round chant bell score line verse play hall sound share turn pause beat",
)
_CALL = re.compile(r"(?P<name>[\w.-]+)\s*(?P<args>\{.*?\})(?=\s|$)", re.DOTALL)


class ToolEngine:
    """One replica on 127.0.0.1. `seen`: the bodies of the requests, in order."""

    def __init__(self, seed: int = 0, delay_s: float = 0.0) -> None:
        self.seen: list[dict[str, Any]] = []
        self.fail: deque[int] = deque()
        self._random, self._delay_s = random.Random(seed), delay_s
        self._serial = itertools.count(1)
        self._kept: dict[str, list[dict[str, Any]]] = {}

    async def start(self, port: int = 0) -> str:
        """Listen; returns the base URL, without /v1."""
        self._runner = web.ServerRunner(web.Server(self._serve, access_log=None), shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port).start()
        self.url = "http://127.0.0.1:{1}".format(*self._runner.addresses[0])
        return self.url

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "GET":
            return web.json_response({"object": "list", "data": [{"id": "small", "object": "model"}]})
        body = json.loads(await request.read())
        self.seen.append(body)
        if self._delay_s:
            await asyncio.sleep(self._random.uniform(0, self._delay_s))
        if self.fail:
            status = self.fail.popleft()
            return web.json_response(
                {"error": {"message": "scripted", "type": "engine", "code": status}}, status=status
            )
        if request.path == "/v1/embeddings":
            return web.json_response(_embeddings(body))
        events, whole = (self._responses if request.path == "/v1/responses" else self._chat)(body)
        if not body.get("stream"):
            return web.json_response(whole)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for event in events:
            await response.write(event)
        await response.write_eof()
        return response

    # ---------------------------------------------------------------- what is said

    def _act(self, turns: list[tuple[str, str]]) -> tuple[str, list[tuple[str, str, str]]]:
        """Text and tool calls (id, name, arguments) after these turns: ("user", text), ("acted", ""), ("other", "")."""
        step, script = 0, ""
        for role, text in turns:
            if role == "user" and "script:" in text:
                step, script = 0, text.rpartition("script:")[2].partition("endscript")[0]
            step += role == "acted"
        steps = [part.strip() for part in script.split("|")] if script else []
        now = steps[step] if step < len(steps) else ""
        if now.startswith("say"):
            return now.removeprefix("say").strip(), []
        calls = [(self._id("call_"), found["name"], found["args"]) for found in _CALL.finditer(now)]
        return ("" if calls else " ".join(self._random.choices(WORDS, k=self._random.randint(4, 24)))), calls

    def _id(self, prefix: str) -> str:
        return prefix + "".join(self._random.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=24))

    # ---------------------------------------------------------------- chat completions

    def _chat(self, body: dict[str, Any]) -> tuple[list[bytes], dict[str, Any]]:
        text, calls = self._act([(_chat_role(message), _text(message)) for message in body.get("messages", [])])
        message: dict[str, Any] = {"role": "assistant", "content": text or None}
        if calls:
            message["tool_calls"] = [
                {"id": id_, "type": "function", "function": {"name": name, "arguments": args}}
                for id_, name, args in calls
            ]
        head = {"id": self._id("chatcmpl-"), "created": 1_700_000_000, "model": body["model"]}
        reason = "tool_calls" if calls else "stop"
        usage = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
        choice = {"index": 0, "message": message, "finish_reason": reason}
        whole = {**head, "object": "chat.completion", "choices": [choice], "usage": usage}
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": "" if not calls else None}]
        deltas += [{"content": part} for part in re.findall(r"\s*\S+", text)]
        deltas += [{"tool_calls": [{"index": i, **call}]} for i, call in enumerate(message.get("tool_calls", []))]
        ends: list[str | None] = [None] * len(deltas) + [reason]
        chunks = [
            {**head, "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, "finish_reason": end}]}
            for delta, end in zip([*deltas, {}], ends, strict=True)
        ]
        if (body.get("stream_options") or {}).get("include_usage"):
            chunks.append({**head, "object": "chat.completion.chunk", "choices": [], "usage": usage})
        return [*(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks), b"data: [DONE]\n\n"], whole

    # ---------------------------------------------------------------- responses

    def _responses(self, body: dict[str, Any]) -> tuple[list[bytes], dict[str, Any]]:
        given = body.get("input", [])
        items = [{"role": "user", "content": given}] if isinstance(given, str) else given
        items = [*self._kept.get(body.get("previous_response_id") or "", []), *items]
        text, calls = self._act(_response_turns(items))
        output: list[dict[str, Any]] = [
            {"id": self._id("fc_"), "type": "function_call", "status": "completed", "call_id": id_, "name": name,
             "arguments": args}
            for id_, name, args in calls
        ]  # fmt: skip
        if text:
            content = [{"type": "output_text", "text": text, "annotations": []}]
            kind = {"type": "message", "role": "assistant", "status": "completed"}
            output.append({"id": self._id("msg_"), **kind, "content": content})
        usage = {
            "input_tokens": 7, "output_tokens": 5, "total_tokens": 12, "input_tokens_details": {"cached_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        }  # fmt: skip
        whole = {
            "id": self._id("resp_"), "object": "response", "created_at": 1_700_000_000, "status": "completed",
            "model": body["model"], "output": output, "usage": usage, "parallel_tool_calls": True,
            "tool_choice": "auto", "tools": [], "error": None, "incomplete_details": None,
            "instructions": None, "metadata": {},
            "previous_response_id": body.get("previous_response_id"), "temperature": 1.0, "top_p": 1.0,
        }  # fmt: skip
        self._kept[whole["id"]] = [*items, *output]
        return _response_events(whole), whole


def _embeddings(body: dict[str, Any]) -> dict[str, Any]:
    given = body["input"] if isinstance(body["input"], list) else [body["input"]]
    data = [{"object": "embedding", "index": i, "embedding": [0.25, -0.5, 1.0]} for i in range(len(given))]
    usage = {"prompt_tokens": 3, "total_tokens": 3}
    return {"object": "list", "model": body["model"], "data": data, "usage": usage}


def _chat_role(message: dict[str, Any]) -> str:
    if message["role"] == "assistant":
        return "acted"
    return "user" if message["role"] == "user" else "other"


def _text(message: dict[str, Any]) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else " ".join(part.get("text") or "" for part in content)


def _response_turns(items: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Function calls that stand side by side are one answer."""
    turns, last = [], ""
    for item in items:
        kind = item.get("type", "message")
        if kind == "function_call":
            if last != "function_call":
                turns.append(("acted", ""))
        elif kind == "message":
            turns.append(("acted", "") if item["role"] == "assistant" else ("user", _text(item)))
        last = kind
    return turns


def _response_events(whole: dict[str, Any]) -> list[bytes]:
    begun = {**whole, "status": "in_progress", "output": [], "usage": None}
    events: list[dict[str, Any]] = [{"type": "response.created", "response": begun}]
    for index, item in enumerate(whole["output"]):
        at = {"output_index": index, "item_id": item["id"]}
        if item["type"] == "function_call":
            events.append(
                {"type": "response.output_item.added", "output_index": index, "item": {**item, "arguments": ""}}
            )
            done = {
                "type": "response.function_call_arguments.done",
                "arguments": item["arguments"],
                "name": item["name"],
            }
            events += [
                {"type": "response.function_call_arguments.delta", "delta": item["arguments"], **at},
                {**done, **at},
            ]
        else:
            part, inside = item["content"][0], {**at, "content_index": 0}
            events += [
                {"type": "response.output_item.added", "output_index": index, "item": {**item, "content": []}},
                {"type": "response.content_part.added", "part": {**part, "text": ""}, **inside},
                *({"type": "response.output_text.delta", "delta": word, "logprobs": [], **inside}
                  for word in re.findall(r"\s*\S+", part["text"])),
                {"type": "response.output_text.done", "text": part["text"], "logprobs": [], **inside},
                {"type": "response.content_part.done", "part": part, **inside},
            ]  # fmt: skip
        events.append({"type": "response.output_item.done", "output_index": index, "item": item})
    events.append({"type": "response.completed", "response": whole})
    numbered = [{**event, "sequence_number": number} for number, event in enumerate(events)]
    return [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in numbered]
