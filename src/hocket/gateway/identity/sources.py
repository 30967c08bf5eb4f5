"""The chain of sources: for each value, the first that knows it counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from multidict import MultiMapping, istr

from hocket.gateway.identity.claim import NOTHING, Claim, merge
from hocket.gateway.identity.explicit import HEADERS, explicit
from hocket.gateway.identity.foreign import READ, body_fields, client_headers, trace
from hocket.gateway.openai import Request

FOREIGN: dict[str, Callable[[MultiMapping[str], Request], Claim]] = {
    "trace": trace,
    "headers": client_headers,
    "body": body_fields,
}
"the sources of the setting `identity.sources`, but for `inferred`, which says only which job it is"


MAX_NAMES, MAX_NAME = 1000, 100
"names of headers that are remembered, and characters of one"
_RETRIES = istr("x-stainless-retry-count")
_HEADERS = READ | set(HEADERS.values()) | {"traceparent", "baggage"}


def claim_of(headers: MultiMapping[str], request: Request, sources: Sequence[str]) -> Claim:
    """What a request says of itself. Raises ApiError 400 for what it says to hocket; the rest never fails."""
    silent = _others.issuperset(headers) or _silent(headers)
    if silent and not request.metadata:  # the usual case, made fast: only the body can say something
        return body_fields(headers, request) if "body" in sources else NOTHING
    claim = explicit(headers, request.metadata)
    for name in sources:
        read = FOREIGN.get(name)
        if read is not None and not (silent and read is not body_fields):
            claim = merge(claim, read(headers, request))
    return claim


_others: set[str] = set()
"names of headers, as they are written, that say nothing here: the same few come again and again"


def _silent(headers: MultiMapping[str]) -> bool:
    """Whether no header says anything of where a call belongs."""
    for name in headers:
        if name.lower() in _HEADERS:
            return False
        if len(_others) < MAX_NAMES and len(name) < MAX_NAME:  # the other side may make up any number, of any length
            _others.add(name)
    return True


def retry_of(headers: MultiMapping[str]) -> int:
    """The attempts before this one, as OpenAI's clients (made by Stainless) count them."""
    text = headers.get(_RETRIES)
    if text is None or text == "0":
        return 0
    text = text.strip()
    return min(int(text), 100) if text.isascii() and text.isdecimal() and len(text) < 9 else 0
