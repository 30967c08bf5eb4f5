"""How much urgent work a tenant may have done: a token bucket in slot-seconds.

A call is urgent in the classes below `URGENT`. Requests are no measure, for one emergency may be a thousand times as
much work as another; so the slot time of urgent calls is charged as it passes, not when they end: long ones, or many at
once, would be seen too late. Who has used up its budget is demoted by
one class, not refused: work that is really urgent is still done early, and shouting gains nothing for long.
"""

from __future__ import annotations

from dataclasses import dataclass

URGENT = 2
"classes 0 and 1 are charged"


@dataclass(slots=True)
class Budget:
    """What is left to a tenant. It refills at `share` of all slots, up to `burst_s`, and each slot that an urgent call
    holds drains it by a second a second, down to a debt of `burst_s`.
    """

    share: float
    "of all slots, 0 to 1"
    burst_s: float
    "slot-seconds"
    left_s: float
    "slot-seconds; below 0 = a debt"
    at: float = 0.0
    "until when all of this has been counted"
    held: int = 0
    "slots that urgent calls of the tenant hold"

    def hold(self, calls: int, now: float, slots: int) -> None:
        """So many more urgent calls hold a slot; of all `slots`."""
        self._count(now, slots)
        self.held += calls

    def spent(self, now: float, slots: int) -> bool:
        """Whether nothing is left."""
        self._count(now, slots)
        return self.left_s <= 0.0

    def _count(self, now: float, slots: int) -> None:
        left_s = self.left_s + (self.share * slots - self.held) * (now - self.at)
        self.left_s = max(min(left_s, self.burst_s), -self.burst_s)
        self.at = now
