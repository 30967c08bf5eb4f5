"""The first source: what is said to hocket itself, as headers `x-hocket-KEY` or in the body's `metadata`.

In `metadata` the key is `hocket-KEY` or `x-hocket-KEY`: what survives the hops in between differs. Where both are there
they must agree. This is the only source whose mistakes are answered with an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from multidict import MultiMapping

from hocket.gateway.identity.claim import MAX_NAME, NOTHING, Claim, is_name
from hocket.gateway.openai import ApiError

KEYS = ("app", "job", "stage", "parent", "urgency", "deadline-ms")
HEADERS = {key: f"x-hocket-{key}" for key in KEYS}
_METADATA = {name: key for key in KEYS for name in (f"hocket-{key}", f"x-hocket-{key}")}

MAX_DEADLINE_MS = 10**12


def explicit(headers: MultiMapping[str], metadata: Mapping[str, Any] | None) -> Claim:
    """Read both places. Raises ApiError 400 where a value is bad or two of them differ."""
    found = {}
    for key, header in HEADERS.items():
        value = headers.get(header)
        if value is not None:
            found[key] = value.strip()
            if any(other.strip() != found[key] for other in headers.getall(header)):
                raise _bad(key, f"{header} was sent more than once, with different values; send one")
    if metadata:
        _add_metadata(found, metadata)
    return _checked(found) if found else NOTHING


def _add_metadata(found: dict[str, str], metadata: Mapping[str, Any]) -> None:
    for name, key in _METADATA.items():
        if name not in metadata:
            continue
        value = metadata[name]
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise _bad(key, f"metadata '{name}' must be a string")
        text = str(value).strip()
        if found.setdefault(key, text) != text:
            raise _bad(key, f"metadata '{name}' says '{text}', but '{found[key]}' was given as well; send one")


def _checked(found: Mapping[str, str]) -> Claim:
    for key in ("app", "job", "stage", "parent"):
        if key in found:
            check_name(key, found[key])
    urgency, deadline = found.get("urgency"), found.get("deadline-ms")
    return Claim(
        app=found.get("app"),
        job=found.get("job"),
        stage=found.get("stage"),
        parent=found.get("parent"),
        urgency=None if urgency is None else check_urgency(_number("urgency", urgency)),
        deadline_s=None if deadline is None else check_deadline(_number("deadline-ms", deadline)),
        explicit="job" in found,
    )


def check_name(key: str, name: str) -> str:
    """A name or an id. Raises ApiError 400."""
    if not is_name(name):
        raise _bad(
            key, f"'{key}' must be 1 to {MAX_NAME} printable ASCII characters (percent-encode others), without margins"
        )
    return name


def check_urgency(urgency: int) -> int:
    """0 to 4. Raises ApiError 400."""
    if not 0 <= urgency <= 4:
        raise _bad("urgency", f"'urgency' must be 0 (emergency) to 4 (background), got {urgency}")
    return urgency


def check_deadline(milliseconds: int) -> float:
    """Seconds. Raises ApiError 400."""
    if not 0 < milliseconds <= MAX_DEADLINE_MS:
        raise _bad("deadline-ms", f"'deadline-ms' must be milliseconds from now, more than 0, got {milliseconds}")
    return milliseconds / 1000


def _number(key: str, text: str) -> int:
    if not re.fullmatch("-?[0-9]{1,15}", text):
        raise _bad(key, f"'{key}' must be a whole number, got '{text[:40]}'")
    return int(text)


def _bad(key: str, message: str) -> ApiError:
    return ApiError(400, message, code="invalid_identity", param=HEADERS.get(key, key))
