"""How much urgent work a tenant may have done: a token bucket in slot-seconds.

A call is urgent in the classes below `URGENT`. Requests are no measure, for one emergency may be a thousand times as
much work as another; so the slot time of urgent calls is charged as it passes. Who has used up its budget is demoted by
one class, not refused: work that is really urgent is still done early, and shouting gains nothing for long.
"""

from __future__ import annotations

from dataclasses import dataclass

URGENT = 2
"classes 0 and 1 are charged"


@dataclass(slots=True)
class Budget:
    """What is left to a tenant. It refills at `share` of all slots, up to `burst_s`; debts go down to -`burst_s`."""

    share: float
    "of all slots, 0 to 1"
    burst_s: float
    "slot-seconds"
    left_s: float
    "slot-seconds; below 0 = a debt"
    at: float = 0.0
    "until when it has been refilled"

    def spend(self, seconds: float) -> None:
        """An urgent call has held a slot for so long."""
        self.left_s = max(self.left_s - seconds, -self.burst_s)

    def spent(self, now: float, slots: int) -> bool:
        """Whether nothing is left."""
        self.left_s = min(self.left_s + self.share * slots * (now - self.at), self.burst_s)
        self.at = now
        return self.left_s <= 0.0
