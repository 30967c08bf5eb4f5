"""What is remembered of an answer: the ids that it gives out, and the hash of the conversation up to its end."""

from __future__ import annotations

import msgspec
from msgspec import structs

from hocket.gateway.answers import Meter, StreamEnd
from hocket.gateway.identity.conversation import Chain, Message, Reader, ToolCall
from hocket.gateway.identity.memory import Memory, Turn

MAX_EVENT = 2**20
"bytes; a longer event of a stream is not read"
_LAST = b'"response.completed"'
MAX_CALLS = 128
"tool calls of one answer that are remembered"


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


class Trail:
    """Where one call leaves its traces. Nothing here raises: what cannot be read is not remembered.

    `tools`: its answer may call tools. A stream's text is put together only where another job has asked the same, to
    tell the two apart.
    """

    __slots__ = ("_chain", "_memory", "_reader", "_turn", "calls_tools", "listens", "twin")

    def __init__(self, reader: Reader, memory: Memory, chain: Chain, turn: Turn, tools: bool) -> None:
        self._reader, self._memory, self._chain, self._turn = reader, memory, chain, turn
        self.twin = chain.state is not None and any(other.job != turn.job for other in memory.at(chain.end))
        self.listens = tools or self.twin
        self.calls_tools = False
        memory.add_end(chain, turn)
        chain.text = b""

    def whole(self, body: bytes) -> None:
        """The answer came in one piece."""
        try:
            self._keep(_answers.decode(body))
        except (msgspec.MsgspecError, RecursionError):
            pass

    def end(self, body: bytes) -> None:
        """The last event of a stream of /v1/responses."""
        try:
            self._keep(_last_events.decode(body).response)
        except (msgspec.MsgspecError, RecursionError):
            pass

    def _keep(self, answer: _Answer) -> None:
        if answer.output is not None:
            if answer.id is not None:
                self._memory.add(self._reader.hash("response", answer.id), self._turn)
            self.remember(answer.output)
        for choice in answer.choices:
            if choice.message is not None:
                choice.message.role = "assistant"
                self.remember([choice.message])

    def remember(self, messages: list[Message], text: bool = True) -> None:
        """The answer. `text`: it is complete, not only its tool calls."""
        calls = [call.id for message in messages for call in message.tool_calls or ()]
        calls += [message.call_id for message in messages]
        for call in calls[:MAX_CALLS]:
            if call:
                self.calls_tools = True
                self._memory.add(self._reader.hash("tool call", call), self._turn)
        state = self._chain.state
        if not text or state is None:
            return
        state = state.copy()
        for message in messages:
            if message.type != "reasoning":
                state.update(message.canonical())
        self._memory.add(state.digest(), structs.replace(self._turn, answered=False))
        self._turn.answered = True


class Listener:
    """A meter that also reads the stream: the ids of its tool calls, and its text where that is wanted."""

    def __init__(self, inner: Meter, trail: Trail) -> None:
        self._inner, self._trail = inner, trail
        self._text: list[str] = []
        self._calls: list[ToolCall] = []
        self._rest = b""
        self._wanted = b"data:" if trail.twin else b'"tool_calls"'

    @property
    def events(self) -> int:
        """See `Meter`."""
        return self._inner.events

    def feed(self, chunk: bytes) -> bytes:
        """See `Meter`."""
        seen = self._rest + chunk if self._rest else chunk
        if seen.endswith(b"\n"):
            self._rest = b""
        else:
            seen, _, rest = seen.rpartition(b"\n")
            self._rest = rest if len(rest) <= MAX_EVENT else b""
        if self._wanted in seen or _LAST in seen:
            for line in seen.splitlines():
                if line.startswith(b"data:"):
                    self._read(line)
        return self._inner.feed(chunk)

    def _read(self, line: bytes) -> None:
        if _LAST in line:
            self._trail.end(line[5:])
        elif self._wanted in line:
            try:
                choices = _answers.decode(line[5:]).choices
            except (msgspec.MsgspecError, RecursionError):
                return
            for choice in choices[:1]:
                if choice.delta is not None:
                    if isinstance(choice.delta.content, str):
                        self._text.append(choice.delta.content)
                    self._calls += [call for call in choice.delta.tool_calls or () if call.id]

    def flush(self) -> bytes:
        """See `Meter`."""
        return self._inner.flush()

    def end(self, prompt_tokens: int) -> StreamEnd:
        """See `Meter`."""
        if self._text or self._calls:
            message = Message("assistant", content="".join(self._text), tool_calls=self._calls)
            self._trail.remember([message], text=self._trail.twin)
        return self._inner.end(prompt_tokens)
