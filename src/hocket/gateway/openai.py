"""What hocket reads of the OpenAI API, and the errors it answers in that API's shape.

Only a few fields are read. Bodies are relayed as they came: nothing here builds a request or an answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from hocket.core.commands import Abort, Refuse, Reject

T = TypeVar("T")

BYTES_PER_TOKEN = 4
"a rough mean over English text and code: only estimates before the engine's own count arrives"

IMAGE_TOKENS = 1000
"what an image in the prompt counts in estimates, whatever its bytes: between OpenAI's and Qwen-VL's usual sizes"
IMAGE_BYTES = 2048
"a smaller prompt is not searched for images"
_TOKEN_IDS = re.compile(rb"\[\s*\[?\s*\d")
_BASE64 = re.compile(rb";base64,[A-Za-z0-9+/=\\]*")

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
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.retry_after_s = retry_after_s
        self.headers = headers or {}

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
        """The same as an event of a completion's stream that has begun."""
        return b"data: " + self.body + b"\n\n"

    @property
    def named_sse(self) -> bytes:
        """The same as an event of a stream of `/v1/responses`, where events have names and types."""
        error = msgspec.json.decode(self.body)["error"]
        event = {"type": "error", **{key: error[key] for key in ("code", "message", "param")}, "error": error}
        return b"event: error\ndata: " + msgspec.json.encode(event) + b"\n\n"


_KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error", 503: "service_unavailable"}


# ---------------------------------------------------------------- requests


class Endpoint(msgspec.Struct, frozen=True):
    """A path whose requests are calls: they are scheduled."""

    path: str
    input: str
    "the field that holds the prompt"
    wants: str
    "what that field may be"
    text: bool = True
    "whether it may be a plain string"
    needed: bool = True
    streams: bool = True
    usage_on_request: bool = False
    "whether `stream_options.include_usage` asks for one more event, with the usage"


_TEXT = "a string or an array"
ENDPOINTS = {
    endpoint.path: endpoint
    for endpoint in (
        Endpoint("/v1/chat/completions", "messages", "an array of messages", text=False, usage_on_request=True),
        Endpoint("/v1/completions", "prompt", _TEXT, usage_on_request=True),
        # a response may also be of a stored prompt or conversation: the engine knows
        Endpoint("/v1/responses", "input", _TEXT, needed=False),
        Endpoint("/v1/embeddings", "input", _TEXT, streams=False),
    )
}


class Request(msgspec.Struct):
    """The fields of a call's request that hocket reads."""

    model: str
    stream: bool | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    metadata: dict[str, Any] | None = None
    messages: msgspec.Raw = msgspec.Raw()
    prompt: msgspec.Raw = msgspec.Raw()
    input: msgspec.Raw = msgspec.Raw()
    instructions: msgspec.Raw = msgspec.Raw()
    stream_options: msgspec.Raw = msgspec.Raw()
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
        for limit in (self.max_tokens, self.max_completion_tokens, self.max_output_tokens):
            if limit is not None:
                return min(limit, MAX_TOKENS) if limit > 0 else None
        return None

    @property
    def prompt_tokens(self) -> int:
        """An estimate, from the size of what is the prompt; exact for one list of token ids."""
        raw = memoryview(self.messages) or memoryview(self.prompt) or memoryview(self.input)
        if _TOKEN_IDS.match(raw):
            return bytes(raw).count(b",") + 1
        size = len(raw) + len(memoryview(self.instructions))
        if size > IMAGE_BYTES and b";base64," in bytes(raw):
            images = [blob.end() - blob.start() for blob in _BASE64.finditer(raw)]
            return max((size - sum(images)) // BYTES_PER_TOKEN, 1) + IMAGE_TOKENS * len(images)
        return max(size // BYTES_PER_TOKEN, 1)

    def features(self, prompt_tokens: int) -> dict[str, float]:
        """What a job's first request tells of the job: facts that go with how much work follows."""
        found = {"prompt_tokens": float(prompt_tokens)}
        if (limit := self.limit) is not None:
            found["max_tokens"] = float(limit)
        if memoryview(self.tools):
            try:
                found["tools"] = float(len(_tools.decode(self.tools)))
            except (msgspec.MsgspecError, RecursionError):
                pass  # null, or something that the engine has to judge
        return found


_requests = msgspec.json.Decoder(Request)
_tools = msgspec.json.Decoder(list[msgspec.Raw])


def parse_request(body: bytes, endpoint: Endpoint) -> Request:
    """Read a call's request. Raises ApiError 400 that says what is wrong with it."""
    request = decode(body, _requests)
    _check_input(request, endpoint)
    if not endpoint.streams:
        request.stream = None
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


def _check_input(request: Request, endpoint: Endpoint) -> None:
    """The shape of the one field that is the prompt; what is inside it is the engine's to judge."""
    param = endpoint.input
    first = bytes(memoryview(getattr(request, param))[:1])
    if not first:
        if endpoint.needed:
            raise ApiError(400, f"the request has no '{param}'", code="missing_required_parameter", param=param)
    elif first != b"[" and (first != b'"' or not endpoint.text) and (first != b"n" or endpoint.needed):
        raise ApiError(400, f"'{param}' must be {endpoint.wants}", code="invalid_type", param=param)


def _quoted(what: str) -> str | None:
    found = re.search(r"field `(\w+)`", what)
    return found.group(1) if found else None


# ---------------------------------------------------------------- edits


def edited(body: bytes, edits: Mapping[str, object]) -> bytes:
    """The body with other values of some keys; every other value keeps its bytes."""
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    for key, value in edits.items():
        fields[key] = msgspec.Raw(msgspec.json.encode(value))
    return msgspec.json.encode(fields)


def with_usage(stream_options: msgspec.Raw) -> dict[str, object] | None:
    """`stream_options` that ask for the usage; None if the client's ask for it already, or are none."""
    raw = bytes(stream_options)
    if raw in {b"", b"null"}:
        return {"include_usage": True}
    try:
        options = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    except msgspec.MsgspecError:
        return None  # the engine will say what is wrong with them
    if bytes(options.get("include_usage", msgspec.Raw(b"false"))) not in {b"false", b"null"}:
        return None
    return {**options, "include_usage": True}


# ---------------------------------------------------------------- what the core's refusals look like

REASONS = {
    "unknown_model": "no engine serves this model",
    "queue_timeout": "the call has waited for a slot for as long as `queue_timeout` allows; try again",
    "overloaded": "a new job would wait for longer than `limits.wait_s` allows; nothing of it was begun",
    "queue_full": "as many calls wait as `limits.queue` allows; nothing of this job was begun",
    "shed": "the call made room for a more urgent one; nothing of its job was begun",
    "too_many_bytes": "requests of open calls hold as many bytes as `limits.held_mib` allows",
    "too_many_calls": "as many calls are open as `limits.calls` allows",
    "too_many_jobs": "as many jobs are open as `limits.jobs` allows",
    "too_many_tokens": "the tokens of `limits.tokens_per_minute` are used up",
    "deadline_unmeetable": "the job could not end by its deadline even if all went well; nothing of it was begun",
    "upstream_connect": "no connection to the engine's replica",
    "upstream_reset": "the engine's replica closed the connection before its answer was complete",
    "upstream_timeout": "the engine's replica was silent for too long",
    "upstream_garbage": "the engine's replica sent something that is no answer",
    "upstream_status": "the engine's replica answered with an error",
}


def unknown_model(models: Sequence[str], model: str) -> ApiError:
    """The error for a model that no engine serves; `models` are those that are there."""
    message = f"no engine serves the model '{model[:200]}'; there is: {', '.join(models)}"
    return ApiError(404, message, code="model_not_found", param="model")


def refusal(order: Reject | Refuse | Abort) -> ApiError:
    """The error for a call that the core ended, or a job that it did not open."""
    if isinstance(order, Abort):
        if order.reason == "shutdown":
            return ApiError(503, "the gateway is shutting down; try again", code="shutdown")
        return ApiError(409, "the job of this call was aborted", code="job_aborted")
    message, after_s = REASONS.get(order.reason, order.reason), order.retry_after_s
    # official clients would send the same again, and again too late
    headers = {"x-should-retry": "false"} if order.reason == "deadline_unmeetable" and after_s is None else None
    return ApiError(order.status, message, code=order.reason, retry_after_s=after_s, headers=headers)
