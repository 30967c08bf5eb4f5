"""Who calls: the tenant by its API key, and the application, job and stage that the request names.

Each key can come as a header `x-hocket-KEY`, or in the body's `metadata` as `hocket-KEY` or `x-hocket-KEY`: what
survives the hops in between differs. Where both are there they must agree. A request that names none is a job of its
own. Job ids belong to a tenant: no tenant can name, read or end another's job.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from msgspec import Struct
from multidict import MultiMapping

from hocket.gateway.openai import ApiError
from hocket.settings import TenantSettings

KEYS = ("app", "job", "stage", "parent", "urgency", "deadline-ms")
HEADERS = {key: f"x-hocket-{key}" for key in KEYS}
_METADATA = {name: key for key in KEYS for name in (f"hocket-{key}", f"x-hocket-{key}")}

MAX_NAME = 200
"characters of a name or an id"
MAX_DEADLINE_MS = 10**12
DEFAULT_APP = "default"
DEFAULT_STAGE = "call"

OPEN_TENANT = TenantSettings(name="default", key_sha256="0" * 64)
"whose calls those are that come without a key, where no tenants are set"


class Identity(Struct, frozen=True):
    """What a request says of itself. None: it does not say."""

    app: str | None = None
    job: str | None = None
    stage: str | None = None
    parent: str | None = None
    urgency: int | None = None
    deadline_s: float | None = None


NOBODY = Identity()


class Tenants:
    """Finds the tenant of a request."""

    def __init__(self, tenants: Sequence[TenantSettings]) -> None:
        self._tenants = [(bytes.fromhex(tenant.key_sha256), tenant) for tenant in tenants]

    @property
    def open(self) -> bool:
        """Whether anyone may call."""
        return not self._tenants

    def of(self, authorization: str | None) -> TenantSettings:
        """The tenant of an `Authorization: Bearer KEY` header. Raises ApiError 401."""
        if not self._tenants:
            return OPEN_TENANT
        scheme, _, key = (authorization or "").partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer" or not key:
            raise ApiError(401, "this gateway wants an API key: Authorization: Bearer KEY", code="missing_api_key")
        digest = sha256(key.encode("utf-8", "surrogateescape")).digest()
        found = None
        for known, tenant in self._tenants:  # all of them, so that time tells nothing
            if hmac.compare_digest(known, digest):
                found = tenant
        if found is None:
            raise ApiError(401, "this API key is not known", code="invalid_api_key")
        return found

    def job_key(self, tenant: TenantSettings, job: str) -> str:
        """The id by which the core knows a tenant's job. A tenant's name has no slash, so two never meet."""
        return f"{tenant.name}/{job}" if self._tenants else job


def identify(headers: MultiMapping[str], metadata: Mapping[str, Any] | None) -> Identity:
    """Read the identity from both places. Raises ApiError 400 where a value is bad or two of them differ."""
    found = {}
    for key, header in HEADERS.items():
        value = headers.get(header)
        if value is not None:
            found[key] = value.strip()
            if any(other.strip() != found[key] for other in headers.getall(header)):
                raise _bad(key, f"{header} was sent more than once, with different values; send one")
    if metadata:
        _add_metadata(found, metadata)
    return _checked(found) if found else NOBODY


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


def _checked(found: Mapping[str, str]) -> Identity:
    for key in ("app", "job", "stage", "parent"):
        if key in found:
            check_name(key, found[key])
    urgency = found.get("urgency")
    if urgency is not None:
        check_urgency(_number("urgency", urgency))
    deadline = found.get("deadline-ms")
    return Identity(
        app=found.get("app"),
        job=found.get("job"),
        stage=found.get("stage"),
        parent=found.get("parent"),
        urgency=None if urgency is None else int(urgency),
        deadline_s=None if deadline is None else check_deadline(_number("deadline-ms", deadline)),
    )


def check_name(key: str, name: str) -> str:
    """A name or an id. Raises ApiError 400."""
    if not name or len(name) > MAX_NAME or not (name.isascii() and name.isprintable()) or name != name.strip():
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
    return ApiError(400, message, code="invalid_identity", param=HEADERS[key])
