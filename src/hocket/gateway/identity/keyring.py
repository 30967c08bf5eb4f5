"""Whose key it is: an `Authorization: Bearer KEY` header, and nothing else, says who asks.

A key is looked up by its SHA-256, hashed once more with a secret of this process. Which bytes are compared on the way
a stranger can therefore neither know nor steer, and a good key, a wrong one and one of another tenant take the same
steps: two hashes, one look-up, one comparison in constant time. No key is kept, neither in a file nor in memory.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Callable, Sequence
from hashlib import blake2b, sha256

from msgspec import Struct

from hocket.gateway.openai import ApiError
from hocket.settings import Settings, TenantSettings
from hocket.settings.keys import Key, Role


class Holder(Struct, frozen=True):
    """Who has a key."""

    name: str
    role: Role
    tenant: TenantSettings | None
    "None: an operator"
    digest: bytes
    until: float = float("inf")
    "seconds since 1970"


NOBODY = Holder("", "call", None, bytes(32))
"what an unknown key is compared with: nothing that can be found has this SHA-256"


class Keyring:
    """All keys of now: those in the settings, and those of `keys.yaml`. `clock`: seconds since 1970."""

    def __init__(self, settings: Settings, keys: Sequence[Key] = (), clock: Callable[[], float] = time.time) -> None:
        self._secret = secrets.token_bytes(32)
        self._clock = clock
        self.change(settings, keys)

    def change(self, settings: Settings, keys: Sequence[Key] = ()) -> None:
        """Other keys hold from now on. `keys` are of tenants that the settings list."""
        tenants = {tenant.name: tenant for tenant in settings.tenants}
        holders = [
            Holder(tenant.name, "call", tenant, bytes.fromhex(tenant.key_sha256))
            for tenant in settings.tenants
            if tenant.key_sha256 is not None
        ]
        if settings.admin_key_sha256 is not None:
            holders.append(Holder("admin", "admin", None, bytes.fromhex(settings.admin_key_sha256)))
        for key in keys:
            tenant = None if key.tenant is None else tenants[key.tenant]
            holders.append(Holder(key.name, key.role, tenant, bytes.fromhex(key.sha256), key.until))
        self._holders = {self._slot(holder.digest): holder for holder in holders}
        self.roles = frozenset(holder.role for holder in holders)
        "those of which there is a key"

    def holder(self, authorization: str | None) -> Holder:
        """Who sends this header. Raises ApiError 401: the same one for a wrong key and for one that has expired."""
        scheme, _, key = (authorization or "").partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer" or not key:
            raise ApiError(401, "this gateway wants an API key: Authorization: Bearer KEY", code="missing_api_key")
        digest = sha256(key.encode("utf-8", "surrogateescape")).digest()
        found = self._holders.get(self._slot(digest), NOBODY)
        if not hmac.compare_digest(found.digest, digest) or found.until <= self._clock():
            raise ApiError(401, "this API key is not known, or no longer good", code="invalid_api_key")
        return found

    def _slot(self, digest: bytes) -> bytes:
        return blake2b(digest, key=self._secret, digest_size=16).digest()
