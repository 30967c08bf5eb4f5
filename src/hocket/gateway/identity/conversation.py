"""What a request's messages show without being kept: a stage's fingerprint, and a chain of hashes.

The chain has one hash for each message, of that message and all before it. A request that extends an earlier one has
the earlier one's last hash among its own, so that one look-up a message finds it. Hashed is what the messages say, in
one form: a text may come as a string or as parts, its fields in any order, with or without margins. System prompts are
not in the chain: agents that take turns over one conversation each put their own before it. Hashes have a key of this
process and of the tenant: they mean nothing elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import msgspec

from hocket.gateway.openai import Request

BLOCK = 512
"bytes of a text prompt for each hash of its chain"
MIN_PROMPT = 64
"bytes: that a text begins with a shorter one is no evidence"

_ARRAY, _QUOTE = b'["'
_SYSTEM = frozenset({"system", "developer"})
_CHANGING = b" \t\r\n0123456789"
"left out of a fingerprint: a date or a counter in a system prompt does not make another stage"


class Function(msgspec.Struct, gc=False):
    """What a tool call or a tool names."""

    name: str = ""


class ToolCall(msgspec.Struct, gc=False):
    """A tool call of an answer; in a stream, the part of it that one event holds."""

    id: str | None = None
    function: Function | None = None


class Message(msgspec.Struct, gc=False):
    """A chat message, or an item of /v1/responses."""

    role: str = ""
    type: str = ""
    content: str | list[msgspec.Raw] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    call_id: str | None = None
    name: str | None = None
    output: str | list[msgspec.Raw] | None = None

    @property
    def answer(self) -> bool:
        """Whether a model said it."""
        return self.role == "assistant" or self.type.endswith("_call")

    def canonical(self) -> bytes:
        """What it says. Arguments of tool calls are left out: their ids stand for them, and clients rewrite them."""
        said = self.content if self.output is None else self.output
        if self.role == "user" or not (self.tool_calls or self.tool_call_id or self.call_id or self.name):
            return b"\0%b\2%b\3" % ((self.role or self.type).encode(), text_of(said))
        ids = [call.id or "" for call in self.tool_calls] if self.tool_calls else []
        who = (self.role or self.type, self.tool_call_id or "", self.call_id or "", self.name or "", *ids)
        return b"\0%b\2%b\3" % ("\1".join(who).encode("utf-8", "surrogatepass"), text_of(said))


class _Part(msgspec.Struct, gc=False):
    text: str | None = None


class _Tool(msgspec.Struct, gc=False):
    name: str = ""
    function: Function | None = None


class Chain(msgspec.Struct, gc=False):
    """A conversation as hashes."""

    hashes: list[bytes]
    "of messages: hashes[i] is of 0 to i. Of a text: hashes[i] is of its first i blocks"
    state: Any = None
    "of messages: goes on to the hash of the answer"
    echoes: list[str] = []
    "ids of the tool calls that the last messages answer"
    text: bytes = b""
    "of a text prompt: itself; it goes with the request"

    @property
    def end(self) -> bytes:
        """The hash of all of it."""
        if self.text:
            return tail_hash(self.hashes[-1], self.text[(len(self.hashes) - 1) * BLOCK :])
        return self.hashes[-1]


_messages = msgspec.json.Decoder(list[Message])
_part = msgspec.json.Decoder(_Part)
_tools = msgspec.json.Decoder(list[_Tool])
_string = msgspec.json.Decoder(str)


class Reader:
    """Reads the conversations of one tenant. `key`: 16 to 64 random bytes."""

    def __init__(self, key: bytes, tenant: str) -> None:
        self._seed = blake2b(tenant.encode() + b"\0", digest_size=16, key=key)

    def hash(self, kind: str, value: str) -> bytes:
        """Of an id that an engine gave out."""
        seed = self._seed.copy()
        seed.update(f"\5{kind}\0{value}".encode("utf-8", "surrogatepass"))
        return seed.digest()

    def read(self, request: Request, chained: bool = True) -> tuple[Chain | None, str | None]:
        """The chain, and the fingerprint of system prompt and tools. None: there is none, or it cannot be read."""
        try:
            if raw := memoryview(request.messages):
                return self._chat(_messages.decode(raw), [], request.tools, chained)
            if raw := memoryview(request.prompt):
                return self._prompt(bytes(raw)) if chained else None, None
            if raw := memoryview(request.input):
                items = _messages.decode(raw) if raw[0] == _ARRAY else [Message("user", content=_string.decode(raw))]
                said = memoryview(request.instructions)
                system = [text_of(_string.decode(said))] if said and said[0] == _QUOTE else []
                return self._chat(items, system, request.tools, chained, request.previous_response_id)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            pass  # what is wrong with it is the engine's to say
        return None, None

    def _chat(
        self,
        messages: Sequence[Message],
        system: list[bytes],
        tools: msgspec.Raw,
        chained: bool,
        goes_on_from: object = None,
    ) -> tuple[Chain | None, str | None]:
        state = self._seed.copy()
        if isinstance(goes_on_from, str):
            # these are the new messages alone
            state.update(self.hash("response", goes_on_from))
        hashes: list[bytes] = []
        echoes: list[str] = []
        for message in messages:
            if message.role in _SYSTEM:
                system.append(text_of(message.content))
            elif chained and message.type != "reasoning":  # clients keep a model's reasoning, or drop it
                if message.answer:
                    echoes.clear()
                elif (call := message.tool_call_id or message.call_id) is not None:
                    echoes.append(call)
                state.update(message.canonical())
                hashes.append(state.digest())
        return Chain(hashes, state, echoes) if hashes else None, _fingerprint(system, tools)

    def _prompt(self, raw: bytes) -> Chain | None:
        if raw[:1] == b'"':
            text = raw[1:-1]
        elif re.match(rb"\[\s*\d", raw):
            text = raw[1:-1].rstrip() + b","  # the last number is complete
        else:
            return None  # several prompts at once
        if len(text) < MIN_PROMPT:
            return None
        state = self._seed.copy()
        state.update(b"\6")
        hashes = [state.digest()]
        for start in range(0, len(text) - BLOCK + 1, BLOCK):
            state.update(text[start : start + BLOCK])
            hashes.append(state.digest())
        return Chain(hashes, text=text)


def tail_hash(block: bytes, tail: bytes) -> bytes:
    """Of a text that goes on after whole blocks."""
    return blake2b(tail, digest_size=16, key=block).digest()


def text_of(content: str | list[msgspec.Raw] | None) -> bytes:
    """What a message says. Parts that are no text are taken as they came."""
    if content is None:
        return b""
    if isinstance(content, str):
        return content.strip().encode("utf-8", "surrogatepass")
    out = []
    for raw in content:
        text = _part.decode(raw).text
        out.append(bytes(raw) if text is None else text.encode("utf-8", "surrogatepass"))
    return b"".join(out).strip()


def _fingerprint(system: Sequence[bytes], tools: msgspec.Raw) -> str | None:
    """8 hexadecimal digits for a system prompt and the names of tools; None where there is neither.

    It has no key: a stage has the same name after a restart, and in every gateway.
    """
    names: list[str] = []
    if raw := memoryview(tools):
        try:
            names = sorted(tool.function.name if tool.function else tool.name for tool in _tools.decode(raw))
        except msgspec.MsgspecError:
            pass  # null, or something that the engine has to judge
    if not system and not names:
        return None
    said = b"\0".join(system)
    named = "\0".join(["", *names]).encode("utf-8", "surrogatepass") if names else b""
    return blake2b(said.translate(None, _CHANGING) + named, digest_size=4).hexdigest()
