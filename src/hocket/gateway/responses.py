"""Which replica holds a response of `/v1/responses`: it alone can be asked for it later.

Ids are the engine's; a tenant finds its own alone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

REMEMBERED = 50_000
"responses; the one that was used the longest ago is forgotten first"
MAX_ID = 200
"characters; a longer id is not remembered"


class Responses:
    """A bounded memory: tenant and id of a response -> engine and replica."""

    def __init__(self, limit: int = REMEMBERED) -> None:
        self._limit = limit
        self._held: OrderedDict[tuple[str, str], tuple[str, str]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def remember(self, tenant: str, response: str, engine: str, replica: str) -> None:
        """A call of this tenant got `response` from this replica."""
        if len(response) > MAX_ID:
            return
        self._held[tenant, response] = (engine, replica)
        self._held.move_to_end((tenant, response))
        if len(self._held) > self._limit:
            self._held.popitem(last=False)

    def find(self, tenant: str, response: str) -> tuple[str, str] | None:
        """Engine and replica that hold this response of this tenant; None if that is not known."""
        held = self._held.get((tenant, response))
        if held is not None:
            self._held.move_to_end((tenant, response))
        return held

    def of_another(self, tenant: str, response: str, tenants: Iterable[str]) -> bool:
        """Whether this response is not known to be this tenant's, and known to be one of the others'."""
        return (tenant, response) not in self._held and any((other, response) in self._held for other in tenants)

    def forget(self, tenant: str, response: str) -> None:
        """It was deleted."""
        self._held.pop((tenant, response), None)
