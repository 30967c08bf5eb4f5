"""What is remembered of an answer: the ids that it gives out, and the hash of the conversation up to its end."""

from __future__ import annotations

import re

import msgspec

from hocket.gateway.answers import Meter, ResponseMeter, StreamEnd
from hocket.gateway.identity.conversation import Chain, Message, Reader, ToolCall
from hocket.gateway.identity.memory import MAX_TWINS, Memory, Turn

BATCH = 16
"chunks of a stream that are read at once: less work than one by one"
MAX_HELD = 2**20
"bytes of one answer that are held until its end; a longer one is not remembered"
MAX_CALLS = 128
"tool calls of one answer that are remembered"

_CONTENT = re.compile(rb'"content": ?"([^"\\]*+(?:\\.[^"\\]*+)*+)"')
_TOOLS, _COMPLETED, _OUTPUT, _DONE = b'"tool_calls"', b'"response.completed"', b'"output"', b"[DONE]\n\n"


class _Choice(msgspec.Struct, gc=False):
    message: Message | None = None
    delta: Message | None = None


class _Answer(msgspec.Struct, gc=False):
    """A whole answer, or one event of a stream."""

    id: str | None = None
    choices: list[_Choice] = []
    output: list[Message] | None = None


class _LastEvent(msgspec.Struct, gc=False):
    response: _Answer


_answers = msgspec.json.Decoder(_Answer)
_last_events = msgspec.json.Decoder(_LastEvent)
_string = msgspec.json.Decoder(str)


class Trail:
    """Where one call leaves its traces. Nothing here raises: what cannot be read is not remembered.

    `tools`: the request has some, so that the answer may call them.
    """

    __slots__ = ("_chain", "_memory", "_reader", "_turn", "calls_tools", "reads_text", "reads_tools")

    def __init__(self, reader: Reader, memory: Memory, chain: Chain, turn: Turn, tools: bool) -> None:
        self._reader, self._memory, self._chain, self._turn = reader, memory, chain, turn
        twins = memory.add_end(chain, turn)
        chain.text = b""  # no prompt is kept
        self.reads_tools = tools
        #: where many ask the same, as monitors do, nobody can be told from the others anyway
        self.reads_text = twins < MAX_TWINS and chain.state is not None
        self.calls_tools = False

    def whole(self, body: bytes) -> None:
        """The answer came in one piece."""
        if self.reads_text or (self.reads_tools and _TOOLS in body) or _OUTPUT in body:
            try:
                self.keep(_answers.decode(body))
            except (msgspec.MsgspecError, RecursionError):
                pass

    def complete(self) -> None:
        """From now on somebody can go on from it."""
        self._turn.open = False

    def keep(self, answer: _Answer) -> None:
        """An answer that is complete."""
        if answer.output is not None:
            if answer.id is not None:
                self._memory.add(self._reader.hash("response", answer.id), self._turn)
            self.remember(answer.output)
        for choice in answer.choices:
            if choice.message is not None:
                choice.message.role = "assistant"
                self.remember([choice.message])

    def remember(self, messages: list[Message]) -> None:
        """What the model said."""
        for message in messages:
            if message.tool_calls or message.call_id:
                self._remember_calls([message.call_id, *(call.id for call in message.tool_calls or ())])
        if self.reads_text:
            state = self._chain.state.copy()
            for message in messages:
                if message.type != "reasoning":
                    state.update(message.canonical())
            turn = self._turn
            turn.heard = True
            self._memory.add(state.digest(), Turn(turn.job, turn.app, turn.stage, turn.parent, turn.fingerprint, False))

    def _remember_calls(self, ids: list[str | None]) -> None:
        for call in ids[:MAX_CALLS]:
            if call:
                self.calls_tools = True
                self._memory.add(self._reader.hash("tool call", call), self._turn)


class Listener:
    """A meter that reads the stream, too: the ids of its tool calls, and its text."""

    def __init__(self, inner: Meter, trail: Trail) -> None:
        self._inner, self._trail = inner, trail
        self._named = isinstance(inner, ResponseMeter)
        self._chunks: list[bytes] = []
        self._size = 0
        self._text: list[bytes] = []
        self._calls: list[ToolCall] = []

    @property
    def events(self) -> int:
        """See `Meter`."""
        return self._inner.events

    def feed(self, chunk: bytes) -> bytes:
        """See `Meter`."""
        self._chunks.append(chunk)
        if chunk.endswith(_DONE) or (self._named and _COMPLETED in chunk):
            self._read()
            self._remember()
            self._trail.complete()  # before the client can: its next request may be here before this answer's end
        elif len(self._chunks) >= BATCH:
            self._read()
        return self._inner.feed(chunk)

    def _read(self) -> None:
        """Whole lines become texts and ids; the rest waits."""
        seen, newline, rest = b"".join(self._chunks).rpartition(b"\n")
        if self._size + len(rest) > MAX_HELD:
            self._chunks, self._size = [], MAX_HELD + 1
            return
        self._chunks = [rest]
        seen += newline
        if self._trail.reads_text:
            texts = _CONTENT.findall(seen)
            self._text += texts
            self._size += sum(map(len, texts))
        if _TOOLS in seen or _COMPLETED in seen:
            for line in seen.splitlines():
                if line.startswith(b"data:"):
                    self._read_line(line)

    def _read_line(self, line: bytes) -> None:
        try:
            if _COMPLETED in line:
                self._trail.keep(_last_events.decode(line[5:]).response)
            elif _TOOLS in line:
                for choice in _answers.decode(line[5:]).choices:
                    if choice.delta is not None:
                        self._calls += [call for call in choice.delta.tool_calls or () if call.id]
        except (msgspec.MsgspecError, RecursionError):
            pass

    def flush(self) -> bytes:
        """See `Meter`."""
        return self._inner.flush()

    def end(self) -> StreamEnd:
        """See `Meter`."""
        end = self._inner.end()
        if not end.failed:
            self._read()
            self._remember()
        return end

    def _remember(self) -> None:
        if self._size > MAX_HELD or not (self._text or self._calls):
            return
        try:
            text = _string.decode(b'"%b"' % b"".join(self._text))
        except msgspec.MsgspecError:
            text = ""
        self._trail.remember([Message("assistant", content=text, tool_calls=self._calls)])
        self._text, self._calls = [], []
