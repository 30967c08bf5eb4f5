"""Answers that come in parts: a call was displaced while it answered, and another engine slot goes on where it was.

A `Draft` is the meter of a stream that may be displaced. It lets the engine's bytes pass as they are, but only whole
events, and can say at any event what the answer is so far. The next part is asked for with that text as the beginning
of the answer; its events get the first part's id, so that a client sees one answer with a pause in it.

Which requests can be resumed, how each kind of engine is asked to go on, and what cannot be kept is argued in
docs/decisions/resume.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from hocket.gateway.answers import GarbageError, Meter, StreamEnd
from hocket.gateway.filters import WithoutUsage
from hocket.gateway.openai import Endpoint, Request
from hocket.gateway.upstream import Fields, Replica

ONE_EACH = frozenset({"llamacpp", "embedded"})
"""kinds of engine whose streams have an event for each token of plain ASCII, where no stop string holds text back. The
others may put several tokens into one event"""
CONTINUES: dict[str, dict[str, object]] = {
    "llamacpp": {},
    "embedded": {},
    "vllm": {"add_generation_prompt": False, "continue_final_message": True},
    "sglang": {"continue_final_message": True},
}
"""kinds of engine that go on with a last message of the assistant, and what a chat request must say for that. Any
other server may take it for a finished turn and begin another"""
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"

HARMLESS = frozenset({
    "model", "messages", "prompt", "stream", "stream_options", "max_tokens", "max_completion_tokens", "temperature",
    "top_p", "top_k", "min_p", "stop", "logit_bias", "ignore_eos", "cache_prompt", "user", "metadata", "priority",
    "store", "service_tier", "safety_identifier", "prompt_cache_key", "session_id", "litellm_session_id",
})  # fmt: skip
"""fields that mean the same for the rest of an answer as for the whole of it. A list of what is known to be good: a
server's own field may be a grammar, a seed, or a count of tokens"""
NEUTRAL = {"n": b"1", "frequency_penalty": b"0", "presence_penalty": b"0", "echo": b"false", "logprobs": b"false"}
"further fields, and the one value (null aside) with which they do nothing"

READ_AT = 2**18
"bytes of a first part that wait to be read: most answers end before"
MAX_EVENT = 2**20
"bytes; a longer event is passed on unread, and its answer runs to its end"

_END = re.compile(rb"\r?\n\r?\n")
_UNFIT = re.compile(r"[\s\ufffd]\Z")
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_any = msgspec.json.Decoder()
_objects = msgspec.json.Decoder(dict[str, Any])
_NO_CHUNK = (msgspec.MsgspecError, RecursionError, AttributeError, TypeError)
_ALIKE = ("id", "object", "created", "model", "system_fingerprint")
"what every event of an answer says alike"
_PLAIN = frozenset({"role", "content"})


class _Message(msgspec.Struct):
    role: str = ""


_messages = msgspec.json.Decoder(list[_Message])


def resumable(kind: str, endpoint: Endpoint, asked: Request, body: bytes) -> bool:
    """Whether an engine of this kind can go on with an answer to this request where another left off."""
    if kind not in CONTINUES or endpoint.path not in {CHAT, TEXT}:
        return False
    for key, raw in _fields.decode(body).items():
        value = bytes(raw)
        if key not in HARMLESS and value != b"null" and value != NEUTRAL.get(key):
            return False
        if key == "stop" and kind == "sglang" and value not in {b"null", b"[]"}:
            return False  # it lets the beginning of a stop string pass; the next part would not know it for one
    if endpoint.path == TEXT:
        # the others end a completion without a limit at 16 tokens: the rest would get 16 more
        return _one_text(asked.prompt) is not None and (kind in ONE_EACH or asked.limit is not None)
    try:
        messages = _messages.decode(asked.messages)
    except (msgspec.MsgspecError, RecursionError):
        return False
    return bool(messages) and messages[-1].role != "assistant"


def _one_text(prompt: msgspec.Raw) -> str | None:
    """The prompt, if it is one text."""
    try:
        value = _any.decode(prompt)
    except (msgspec.MsgspecError, RecursionError):
        return None
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value if isinstance(value, str) else None


class _Tokens(msgspec.Struct):
    tokens: list[Any] = []


_tokens = msgspec.json.Decoder(_Tokens)


async def count_tokens(replica: Replica, kind: str, model: str, text: str, headers: Fields) -> int | None:
    """How many tokens a text is to this replica; None if it does not say. Raises ReplicaFailed where it is silent."""
    if kind in ONE_EACH:
        body: dict[str, object] = {"content": text}
    else:
        body = {"model": model, "prompt": text, "add_special_tokens": False}
    response = await replica.post("/tokenize", msgspec.json.encode(body), headers)
    try:
        answer = await replica.whole(response)
    finally:
        replica.release(response)
    try:
        return len(_tokens.decode(answer.body).tokens) or None
    except (msgspec.MsgspecError, RecursionError):
        return None


class Draft:
    """An answer that may come in parts, of `limit` tokens at most.

    A `Meter`; `inner` is that of the answer as the client gets it.
    """

    __slots__ = (
        "_held", "_inner", "_limit", "_parts", "_same", "_sieve", "_size", "_started", "_strange", "_text", "_tokens",
        "_unread", "broken", "ended", "reason", "usage",
    )  # fmt: skip

    def __init__(self, inner: Meter, sifted: bool, limit: int | None) -> None:
        self._inner, self._limit = inner, limit
        self._sieve: Meter = WithoutUsage(inner) if sifted else inner
        self._held = b""
        self._unread: list[bytes] = []
        self._size = 0
        #: parts that were cut
        self._parts = 0
        self._text: list[str] = []
        self._tokens = 0
        #: tokens of the answer before the part under way
        self._started = 0
        #: the first event's _ALIKE
        self._same: dict[str, object] | None = None
        self.broken = False
        "it is no text that another slot could go on with"
        self._strange = False
        self.ended = False
        "the engine has said that it ended"
        self.reason: str | None = None
        "why it ended: `finish_reason`"
        self.usage: dict[str, Any] | None = None
        "of all parts together, where the engine said it"

    # ---------------------------------------------------------------- a meter

    @property
    def events(self) -> int:
        """See `Meter`."""
        return self._inner.events

    def feed(self, chunk: bytes) -> bytes:
        """See `Meter`. Raises GarbageError where a later part is none."""
        if self._held or chunk[-2:] != b"\n\n":
            chunk = self._whole_events(chunk)
        if self._parts:
            return self._sieve.feed(self._later(chunk))
        if not self.broken:
            self._unread.append(chunk)
            self._size += len(chunk)
            if self._size > READ_AT:
                self._read()
        return self._sieve.feed(chunk)

    def _whole_events(self, chunk: bytes) -> bytes:
        """Only whole events pass: the answer may be cut behind any of them."""
        data = self._held + chunk
        cut = max((end.end() for end in _END.finditer(data)), default=0)
        if len(data) - cut > MAX_EVENT and not self._parts:
            self.broken, cut = True, len(data)
        self._held = data[cut:]
        return data[:cut]

    def flush(self) -> bytes:
        """See `Meter`: an event that was cut short passes as it is."""
        held, self._held = self._held, b""
        return self._sieve.feed(held) + self._sieve.flush()

    def end(self) -> StreamEnd:
        """See `Meter`: of all parts together."""
        return self._sieve.end()

    # ---------------------------------------------------------------- what there is so far

    @property
    def movable(self) -> bool:
        """Whether another slot can go on with this answer: it is plain text, and not at its end."""
        self._read()
        return not (self.broken or self.ended or (self._limit is not None and self._tokens >= self._limit))

    @property
    def strange(self) -> bool:
        """Whether it holds more than text, as the thoughts of a model that reasons."""
        self._read()
        return self._strange

    @property
    def fit(self) -> bool:
        """Whether this is a good place for a joint: not behind white space, nor behind a part of a character.

        Tokenizers join white space to what follows, and some templates strip it: the model would go on from a text
        that it could not have written.
        """
        self._read()
        return not self._text or not _UNFIT.search(self._text[-1])

    @property
    def text(self) -> str:
        """The answer so far."""
        self._read()
        self._text = ["".join(self._text)]
        return self._text[0]

    @property
    def tokens(self) -> int:
        """Tokens of the text so far: one for each event that carried some."""
        self._read()
        return self._tokens

    @property
    def passed(self) -> bool:
        """Whether the client has got an event of this answer."""
        self._read()
        return self._same is not None

    def _read(self) -> None:
        if not self._unread:
            return
        seen, self._unread, self._size = b"".join(self._unread), [], 0
        for line in seen.split(b"\n"):
            if not line.startswith(b"data:"):
                continue
            if line.rstrip().endswith(b"[DONE]"):
                self.ended = True
                continue
            try:
                event = _objects.decode(line[5:])
                self._take(event)
            except _NO_CHUNK:
                self.broken = True
            else:
                if self._same is None:
                    self._same = {key: event[key] for key in _ALIKE if key in event}

    def _take(self, event: dict[str, Any]) -> None:
        """Add what an event says to the text. Raises one of _NO_CHUNK."""
        choices = event.get("choices") or ()
        if event.get("error") is not None or len(choices) > 1:
            self.broken = True
        for choice in choices:
            delta = choice.get("delta")
            text = choice.get("text") if delta is None else delta.get("content")
            if text:
                self._text.append(text + "")
                self._tokens += 1
            if delta and any(delta[key] for key in delta if key not in _PLAIN):
                self._strange = self.broken = True
            if choice.get("logprobs") is not None or choice.get("index"):
                self.broken = True
            reason = choice.get("finish_reason")
            if reason is not None:
                self.ended, self.reason = True, reason
        self.usage = event.get("usage") or self.usage

    def whole(self) -> bytes:
        """The answer to a request that did not ask for a stream."""
        self._read()
        answer = dict(self._same or {})
        choice: dict[str, Any] = {"index": 0, "finish_reason": self.reason}
        if answer.get("object") == "text_completion":
            choice |= {"text": self.text, "logprobs": None}
        else:
            answer["object"] = "chat.completion"
            choice["message"] = {"role": "assistant", "content": self.text}
        return msgspec.json.encode({**answer, "choices": [choice], "usage": self.usage})

    # ---------------------------------------------------------------- the next part

    def cut(self) -> int:
        """The part under way was cut: what is held of it is lost. Returns the tokens that are kept."""
        self._read()
        self._held = b""
        if self._same is not None:
            self._parts += 1
        return self._tokens

    def go_on(self, sifted: bool) -> Meter:
        """The meter of the next part."""
        self._sieve = WithoutUsage(self._inner) if sifted else self._inner
        self._started = self._tokens
        return self

    def counted(self, tokens: int | None) -> None:
        """The engine's own tokenizer has counted the text; None = it could not."""
        if tokens is not None:
            self._tokens = tokens

    def edits(self, kind: str, endpoint: Endpoint, asked: Request) -> dict[str, object]:
        """What the request for the next part says otherwise than the client's."""
        text = self.text
        if not text:
            return {}
        edits: dict[str, object] = {}
        for key in ("max_tokens", "max_completion_tokens"):
            limit = getattr(asked, key)
            if limit is not None and limit > 0:
                edits[key] = max(limit - self._tokens, 1)
        if endpoint.path == TEXT:
            edits["prompt"] = (_one_text(asked.prompt) or "") + text
        else:
            messages = msgspec.json.decode(asked.messages, type=list[msgspec.Raw])
            edits["messages"] = [*messages, {"role": "assistant", "content": text}]
            edits.update(CONTINUES[kind])
        return edits

    def _later(self, chunk: bytes) -> bytes:
        """A chunk of a later part, as the client gets it. Raises GarbageError: then nothing of it counts."""
        texts, tokens = len(self._text), self._tokens
        try:
            return b"".join(self._rewritten(chunk))
        except GarbageError:
            del self._text[texts:]
            self._tokens = tokens
            raise

    def _rewritten(self, chunk: bytes) -> Iterator[bytes]:
        """Events of a later part, as events of the answer that the client knows. Raises GarbageError."""
        for line in chunk.split(b"\n"):
            if not line.startswith(b"data:") or line.rstrip().endswith(b"[DONE]"):
                if line.strip():
                    yield line + b"\n\n"
                continue
            try:
                event = _objects.decode(line[5:])
                self._take(event)
                known = self._adapted(event)
            except _NO_CHUNK as error:
                raise GarbageError(f"an event that is no chunk of a completion: {error}") from None
            if known is not None:
                yield b"data: " + msgspec.json.encode(known) + b"\n\n"

    def _adapted(self, fields: dict[str, Any]) -> dict[str, Any] | None:
        """The fields of one event; None where nothing is left that the client does not know already."""
        if fields.get("error") is not None:
            return fields
        for key in _ALIKE:
            fields.pop(key, None)
        fields.update(self._same or {})
        fields.pop("timings", None)  # of this part alone
        usage, news = fields.get("usage"), False
        if isinstance(usage, dict):
            self._add_up(usage)
            news = True
        for choice in fields.get("choices") or ():
            delta = choice.get("delta")
            if isinstance(delta, dict):
                delta.pop("role", None)
                if delta.get("content", "") is None:
                    del delta["content"]
            news = news or bool(delta) or bool(choice.get("text")) or choice.get("finish_reason") is not None
        return fields if news else None

    def _add_up(self, usage: dict[str, Any]) -> None:
        """The part's usage becomes the answer's: what was kept was prompt for the engine, and is answer."""
        kept, prompt, output = self._started, usage.get("prompt_tokens"), usage.get("completion_tokens")
        if isinstance(prompt, int) and isinstance(output, int):
            usage["prompt_tokens"], usage["completion_tokens"] = max(prompt - kept, 0), output + kept
            usage["total_tokens"] = usage["prompt_tokens"] + usage["completion_tokens"]
            self.usage = usage
        usage.pop("prompt_tokens_details", None)  # what was cached of it is this part's affair
