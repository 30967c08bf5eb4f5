"""Who pays: what a tenant's jobs are called in the core."""

from __future__ import annotations

from collections.abc import Sequence

from hocket.settings import TenantSettings

OPEN_TENANT = TenantSettings(name="default")
"whose calls those are that come without a key, where no tenants are set"


class Tenants:
    """Keeps the jobs of tenants apart. Which of them a request is of, `hocket.gateway.guard` says."""

    def __init__(self, tenants: Sequence[TenantSettings]) -> None:
        self.change(tenants)

    def change(self, tenants: Sequence[TenantSettings]) -> None:
        """Who may call from now on."""
        self.open = not tenants
        "whether anyone may call"

    def job_key(self, tenant: TenantSettings, job: str) -> str:
        """The id by which the core knows a tenant's job. A tenant's name has no slash, so two never meet."""
        return job if self.open else f"{tenant.name}/{job}"
