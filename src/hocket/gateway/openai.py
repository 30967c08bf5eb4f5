"""What hocket reads of the OpenAI API, and the errors it answers in that API's shape.

Only a few fields are read. Bodies are relayed as they came: nothing here builds a request or an answer.
"""

from __future__ import annotations

import re
from collections import deque
from typing import Any, TypeVar

import msgspec

from hocket.core.commands import Abort, Reject

T = TypeVar("T")

BYTES_PER_TOKEN = 4
"a rough mean over English text and code: only estimates before the engine's own count arrives"

MAX_TOKENS = 2**31 - 1
"a larger limit is no limit"


class ApiError(Exception):
    """An answer of hocket's own, in OpenAI's shape. Raised anywhere below a request handler."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.retry_after_s = retry_after_s

    @property
    def kind(self) -> str:
        """OpenAI's `type`, as its own clients know it."""
        if self.status in _KINDS:
            return _KINDS[self.status]
        return "invalid_request_error" if self.status < 500 else "server_error"

    @property
    def body(self) -> bytes:
        """The answer's JSON."""
        message = self.message.encode("utf-8", "replace").decode()  # a path may hold what is no UTF-8
        error = {"message": message, "type": self.kind, "param": self.param, "code": self.code}
        return msgspec.json.encode({"error": error})

    @property
    def sse(self) -> bytes:
        """The same as an event of a stream that has begun."""
        return b"data: " + self.body + b"\n\n"


_KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error", 503: "service_unavailable"}


# ---------------------------------------------------------------- requests


class Request(msgspec.Struct):
    """The fields of a completion request that hocket reads."""

    model: str
    stream: bool | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    metadata: dict[str, Any] | None = None
    messages: msgspec.Raw = msgspec.Raw()
    prompt: msgspec.Raw = msgspec.Raw()
    tools: msgspec.Raw = msgspec.Raw()
    # what other gateways' clients say of themselves, of any type: hocket.gateway.identity.body
    session_id: Any = None
    litellm_session_id: Any = None
    conversation: Any = None
    previous_response_id: Any = None
    vllm_xargs: Any = None
    nvext: Any = None
    priority: Any = None

    @property
    def limit(self) -> int | None:
        """Tokens that the answer may have; None where the request sets no limit."""
        limit = self.max_completion_tokens if self.max_tokens is None else self.max_tokens
        return min(limit, MAX_TOKENS) if limit is not None and limit > 0 else None

    @property
    def prompt_tokens(self) -> int:
        """An estimate, from the size of the messages or of the prompt; exact for a prompt of token ids."""
        raw = memoryview(self.messages) or memoryview(self.prompt)
        if re.match(rb"\[\s*\d", raw):
            return bytes(raw).count(b",") + 1
        return max(len(raw) // BYTES_PER_TOKEN, 1)


_requests = msgspec.json.Decoder(Request)


def parse_request(body: bytes, chat: bool) -> Request:
    """Read a completion request. Raises ApiError 400 that says what is wrong with it."""
    request = decode(body, _requests)
    _check_input(request, chat)
    return request


def decode(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """JSON as the decoder's type. Raises ApiError 400."""
    try:
        value = decoder.decode(body)
        if not body.isascii():
            body.decode("utf-8")  # what the decoder skips it does not look at
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$")
        param = where.strip(".`") or _quoted(what)
        raise ApiError(400, f"{what}{f' for {param!r}' if where else ''}", code="invalid_type", param=param) from None
    except UnicodeDecodeError as error:
        raise ApiError(400, f"the body is not valid UTF-8 (byte {error.start})", code="invalid_utf8") from None
    except (msgspec.DecodeError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ApiError(400, f"the body cannot be parsed as JSON: {why}", code="invalid_json") from None
    return value


def _check_input(request: Request, chat: bool) -> None:
    """The shape of the one field that must be there; what is inside it is the engine's to judge."""
    param, raw = ("messages", request.messages) if chat else ("prompt", request.prompt)
    first = bytes(memoryview(raw)[:1])
    if not first:
        raise ApiError(400, f"the request has no '{param}'", code="missing_required_parameter", param=param)
    if first != b"[" and (chat or first != b'"'):
        wanted = "an array of messages" if chat else "a string or an array"
        raise ApiError(400, f"'{param}' must be {wanted}", code="invalid_type", param=param)


def _quoted(what: str) -> str | None:
    found = re.search(r"field `(\w+)`", what)
    return found.group(1) if found else None


def with_model(body: bytes, model: str) -> bytes:
    """The body with another model name; every other value keeps its bytes."""
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    fields["model"] = msgspec.Raw(msgspec.json.encode(model))
    return msgspec.json.encode(fields)


# ---------------------------------------------------------------- answers


class GarbageError(Exception):
    """What came is no answer of the OpenAI API."""


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Timings(msgspec.Struct):
    """llama.cpp's own count; it sends it even where a stream asks for no usage."""

    prompt_n: int = 0
    cache_n: int = 0
    predicted_n: int = 0


class _Answer(msgspec.Struct):
    usage: _Usage | None = None
    timings: _Timings | None = None
    error: msgspec.Raw = msgspec.Raw()

    @property
    def failed(self) -> bool:
        """Whether it is an error."""
        return bytes(self.error) not in {b"", b"null"}

    def sizes(self, prompt_tokens: int, output_tokens: int) -> tuple[int, int]:
        """What the engine counted, else what is given."""
        if self.usage is not None:
            prompt, output = self.usage.prompt_tokens, self.usage.completion_tokens
            return (prompt_tokens if prompt is None else prompt, output_tokens if output is None else output)
        if self.timings is not None:
            return self.timings.prompt_n + self.timings.cache_n, self.timings.predicted_n
        return prompt_tokens, output_tokens


_answers = msgspec.json.Decoder(_Answer)
_any_object = msgspec.json.Decoder(dict[str, msgspec.Raw])


def sizes_of(body: bytes, prompt_tokens: int) -> tuple[int, int]:
    """Prompt and output tokens of a whole answer; the estimate and 0 where the engine does not say.

    Raises GarbageError if the body is no JSON object.
    """
    try:
        return _answers.decode(body).sizes(prompt_tokens, 0)
    except msgspec.ValidationError:
        # a usage of another shape is the engine's affair, as long as this is an object
        try:
            _any_object.decode(body)
        except msgspec.MsgspecError:
            raise GarbageError("a JSON value that is no object") from None
        return prompt_tokens, 0
    except (msgspec.DecodeError, RecursionError) as error:
        raise GarbageError(f"no JSON: {error}") from None


_SSE_STARTS = (b"data:", b"event:", b"id:", b"retry:", b":", b"\n", b"\r\n", b"\xef\xbb\xbf")


def looks_like_sse(head: bytes) -> bool:
    """Whether a stream that begins so can be server-sent events."""
    return any(head.startswith(start) or start.startswith(head) for start in _SSE_STARTS)


class StreamMeter:
    """Counts the tokens of a stream as its bytes pass. Per chunk: one count and one append."""

    __slots__ = ("_last", "events")

    def __init__(self) -> None:
        self.events = 0
        #: usage comes in one of the last events
        self._last: deque[bytes] = deque(maxlen=4)

    def feed(self, chunk: bytes) -> None:
        """See `chunk` pass."""
        self.events += chunk.count(b"data:")
        self._last.append(chunk)

    def end(self, prompt_tokens: int) -> StreamEnd:
        """What the stream's last events said."""
        prompt, output = prompt_tokens, self.events
        done = failed = False
        for line in b"".join(self._last).splitlines():
            data = line.removeprefix(b"data:").strip()
            if data == b"[DONE]":
                done = True
            elif data.startswith(b"{"):
                try:
                    answer = _answers.decode(data)
                except (msgspec.MsgspecError, RecursionError):
                    # the first of the last chunks may begin inside an event
                    continue
                prompt, output = answer.sizes(prompt, output)
                failed = failed or answer.failed
        return StreamEnd(prompt, max(output - done, 0) if output == self.events else output, done, failed)


class StreamEnd(msgspec.Struct, frozen=True):
    """How a stream ended."""

    prompt_tokens: int
    output_tokens: int
    "as the engine counted, else the number of data events"
    done: bool
    "[DONE] was there"
    failed: bool
    "the engine's last events hold an error"


# ---------------------------------------------------------------- what the core's refusals look like

REASONS = {
    "unknown_model": "no engine serves this model",
    "upstream_connect": "no connection to the engine's replica",
    "upstream_reset": "the engine's replica closed the connection before its answer was complete",
    "upstream_timeout": "the engine's replica was silent for too long",
    "upstream_garbage": "the engine's replica sent something that is no answer",
    "upstream_status": "the engine's replica answered with an error",
}


def refusal(order: Reject | Abort) -> ApiError:
    """The error for a call that the core ended."""
    if isinstance(order, Abort):
        if order.reason == "shutdown":
            return ApiError(503, "the gateway is shutting down; try again", code="shutdown")
        return ApiError(409, "the job of this call was aborted", code="job_aborted")
    message = REASONS.get(order.reason, order.reason)
    return ApiError(order.status, message, code=order.reason, retry_after_s=order.retry_after_s)
