"""Who pays: the tenant of a request, by its API key and by nothing else."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from hashlib import sha256

from hocket.gateway.openai import ApiError
from hocket.settings import TenantSettings

OPEN_TENANT = TenantSettings(name="default", key_sha256="0" * 64)
"whose calls those are that come without a key, where no tenants are set"


MAX_KNOWN = 1000
"headers that were found good: a dictionary, whose hashes have a secret of this process, tells as little by its time"


class Tenants:
    """Finds the tenant of a request."""

    def __init__(self, tenants: Sequence[TenantSettings]) -> None:
        self.change(tenants)

    def change(self, tenants: Sequence[TenantSettings]) -> None:
        """Who may call from now on."""
        self._tenants = [(bytes.fromhex(tenant.key_sha256), tenant) for tenant in tenants]
        self._known: dict[str, TenantSettings] = {}

    @property
    def open(self) -> bool:
        """Whether anyone may call."""
        return not self._tenants

    def of(self, authorization: str | None) -> TenantSettings:
        """The tenant of an `Authorization: Bearer KEY` header. Raises ApiError 401."""
        if not self._tenants:
            return OPEN_TENANT
        authorization = authorization or ""
        tenant = self._known.get(authorization)
        if tenant is not None:
            return tenant
        scheme, _, key = authorization.partition(" ")
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
        if len(self._known) < MAX_KNOWN:
            self._known[authorization] = found
        return found

    def job_key(self, tenant: TenantSettings, job: str) -> str:
        """The id by which the core knows a tenant's job. A tenant's name has no slash, so two never meet."""
        return f"{tenant.name}/{job}" if self._tenants else job
