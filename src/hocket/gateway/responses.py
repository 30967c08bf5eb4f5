"""Which replica holds a response of `/v1/responses`: it alone can be asked for it later.

Ids are the engine's; a tenant finds its own alone, and cannot push another's out: the one that holds the most forgets.
"""

from __future__ import annotations

from collections import OrderedDict

REMEMBERED = 50_000
"responses; the one that was used the longest ago is forgotten first"
MAX_ID = 200
"characters; a longer id is not remembered"


class Responses:
    """A bounded memory: tenant and id of a response -> engine and replica."""

    def __init__(self, limit: int = REMEMBERED) -> None:
        self._limit = limit
        self._count = 0
        self._held: dict[str, OrderedDict[str, tuple[str, str]]] = {}

    def __len__(self) -> int:
        return self._count

    def remember(self, tenant: str, response: str, engine: str, replica: str) -> None:
        """A call of this tenant got `response` from this replica."""
        if len(response) > MAX_ID:
            return
        held = self._held.setdefault(tenant, OrderedDict())
        self._count += response not in held
        held[response] = (engine, replica)
        held.move_to_end(response)
        if self._count > self._limit:
            max(self._held.values(), key=len).popitem(last=False)
            self._count -= 1

    def find(self, tenant: str, response: str) -> tuple[str, str] | None:
        """Engine and replica that hold this response of this tenant; None if that is not known."""
        held = self._held.get(tenant)
        if held is None or response not in held:
            return None
        held.move_to_end(response)
        return held[response]

    def forget(self, tenant: str, response: str) -> None:
        """It was deleted."""
        held = self._held.get(tenant)
        if held is not None and held.pop(response, None) is not None:
            self._count -= 1
