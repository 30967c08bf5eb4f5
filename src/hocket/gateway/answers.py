"""What hocket reads of an engine's answers: their sizes, whether a stream is complete, and whether it failed.

The client gets the engine's bytes. A **meter** sees the bytes of one stream pass: `feed` takes a chunk and returns what
of it goes to the client, `flush` what it held back, `end` what the stream said. Most streams have the plain
`StreamMeter`, which holds back nothing and parses nothing before the end. Meters that change what passes are in
`hocket.gateway.filters`.
"""

from __future__ import annotations

import re
from collections import deque
from typing import Protocol

import msgspec


class GarbageError(Exception):
    """What came is no answer of the OpenAI API."""


class Sizes(msgspec.Struct, frozen=True):
    """What a whole answer said of itself. None, 0: it did not say."""

    prompt_tokens: int | None = None
    output_tokens: int = 0
    id: str | None = None
    "its own id, as `previous_response_id` names it later"


class StreamEnd(msgspec.Struct, frozen=True):
    """How a stream ended."""

    prompt_tokens: int | None
    "as the engine counted; None = it did not say"
    output_tokens: int
    "as the engine counted, else the number of data events"
    done: bool
    "the event was there that ends a stream: [DONE], or response.completed"
    failed: bool
    "the engine's last events hold an error"
    id: str | None = None
    "the response's own id, where the stream named it last"


class Meter(Protocol):
    """Sees one stream pass."""

    @property
    def events(self) -> int:
        """Data events so far: about one for each token."""

    def feed(self, chunk: bytes) -> bytes:
        """See `chunk` pass; return what the client gets now. Raises GarbageError."""

    def flush(self) -> bytes:
        """What was held back, once no chunk follows."""

    def end(self) -> StreamEnd:
        """What the stream said."""


class _Usage(msgspec.Struct):
    """The two shapes: of completions and embeddings, and of responses."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


class _Timings(msgspec.Struct):
    """llama.cpp's own count; it sends it even where a stream asks for no usage."""

    prompt_n: int = 0
    cache_n: int = 0
    predicted_n: int = 0


class _Answer(msgspec.Struct):
    id: str | None = None
    usage: _Usage | None = None
    timings: _Timings | None = None
    error: msgspec.Raw = msgspec.Raw()

    @property
    def failed(self) -> bool:
        """Whether it is an error."""
        return bytes(self.error) not in {b"", b"null"}

    def sizes(self, prompt_tokens: int | None, output_tokens: int) -> tuple[int | None, int]:
        """What the engine counted, else what is given."""
        usage = self.usage
        if usage is not None:
            prompt = usage.input_tokens if usage.prompt_tokens is None else usage.prompt_tokens
            output = usage.output_tokens if usage.completion_tokens is None else usage.completion_tokens
            return (prompt_tokens if prompt is None else prompt, output_tokens if output is None else output)
        if self.timings is not None:
            return self.timings.prompt_n + self.timings.cache_n, self.timings.predicted_n
        return prompt_tokens, output_tokens


class _LastEvent(msgspec.Struct):
    """The data of `response.completed` and its kin."""

    response: _Answer


_answers = msgspec.json.Decoder(_Answer)
_last_events = msgspec.json.Decoder(_LastEvent)
_any_object = msgspec.json.Decoder(dict[str, msgspec.Raw])


def sizes_of(body: bytes) -> Sizes:
    """Sizes of a whole answer. Raises GarbageError if the body is no JSON object."""
    try:
        answer = _answers.decode(body)
        return Sizes(*answer.sizes(None, 0), answer.id)
    except msgspec.ValidationError:
        # a usage of another shape is the engine's affair, as long as this is an object
        try:
            _any_object.decode(body)
        except msgspec.MsgspecError:
            raise GarbageError("a JSON value that is no object") from None
        return Sizes()
    except (msgspec.DecodeError, RecursionError) as error:
        raise GarbageError(f"no JSON: {error}") from None


_SSE_STARTS = (b"data:", b"event:", b"id:", b"retry:", b":", b"\n", b"\r\n", b"\xef\xbb\xbf")


def looks_like_sse(head: bytes) -> bool:
    """Whether a stream that begins so can be server-sent events."""
    return any(head.startswith(start) or start.startswith(head) for start in _SSE_STARTS)


_LAST_LINES = 12
"of a stream; an event takes two"
_TELLING = re.compile(rb'"(?:usage|timings|error)":')


class StreamMeter:
    """Counts the tokens of a completion's stream. Per chunk: one count and one append."""

    __slots__ = ("_last", "events")

    def __init__(self) -> None:
        self.events = 0
        #: usage comes in one of the last events
        self._last: deque[bytes] = deque(maxlen=4)

    def feed(self, chunk: bytes) -> bytes:
        """See `Meter`."""
        self.events += chunk.count(b"data:")
        self._last.append(chunk)
        return chunk

    def flush(self) -> bytes:
        """See `Meter`: nothing is held back."""
        return b""

    def end(self) -> StreamEnd:
        """See `Meter`."""
        prompt, output = None, self.events
        done = failed = False
        for line in b"".join(self._last).rsplit(b"\n", _LAST_LINES):
            data = line.removeprefix(b"data:").strip()
            if data == b"[DONE]":
                done = True
            elif data.startswith(b"{") and _TELLING.search(data):
                try:
                    answer = _answers.decode(data)
                except (msgspec.MsgspecError, RecursionError):
                    # the first may have begun before
                    continue
                prompt, output = answer.sizes(prompt, output)
                failed = failed or answer.failed
        return StreamEnd(prompt, max(output - done, 0) if output == self.events else output, done, failed)


_LAST_EVENT = re.compile(rb"event: ?(response\.(?:completed|incomplete|failed)|error)\r?\n")
_DELTA = b"_text.delta\n"
"the end of the name of an event that carries a token"
_MARGIN = 32
"bytes of the chunk before in which the name of an event may have begun"
MAX_LAST_EVENT = 2**26
"bytes; a longer event is passed on, and not read"


class ResponseMeter:
    """Counts the tokens of a stream of `/v1/responses`.

    Its last event repeats the whole answer, so it is of any size: it is collected from its name on.
    """

    __slots__ = ("_before", "_last", "_room", "events")

    def __init__(self) -> None:
        self.events = 0
        self._before = b""
        self._room = MAX_LAST_EVENT
        self._last: list[bytes] | None = None

    def feed(self, chunk: bytes) -> bytes:
        """See `Meter`."""
        if self._last is not None:
            if self._room > 0:
                self._room -= len(chunk)
                self._last.append(chunk)
            return chunk
        seen = self._before + chunk
        self.events += seen.count(_DELTA, max(len(self._before) - len(_DELTA) + 1, 0))
        found = _LAST_EVENT.search(seen)
        if found is not None:
            self._last = [seen[found.start() :]]
        else:
            self._before = seen[-_MARGIN:]
        return chunk

    def flush(self) -> bytes:
        """See `Meter`: nothing is held back."""
        return b""

    def end(self) -> StreamEnd:
        """See `Meter`."""
        name, _, rest = b"".join(self._last or ()).partition(b"\n")
        name = name.removeprefix(b"event:").strip()
        failed = name in {b"response.failed", b"error"}
        lines = [line.removeprefix(b"data:").strip() for line in rest.splitlines() if line.startswith(b"data:")]
        if lines:
            try:
                answer = _last_events.decode(lines[0]).response
            except (msgspec.MsgspecError, RecursionError):
                pass
            else:
                prompt, output = answer.sizes(None, self.events)
                return StreamEnd(prompt, output, True, failed, answer.id)
        return StreamEnd(None, self.events, bool(name) and not failed, failed)
