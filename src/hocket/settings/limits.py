"""What may be open at once, of a tenant and in all; and who is refused where it would wait for too long."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from hocket.core.spec import AdmissionSpec, LimitsSpec
from hocket.settings.checks import Count, Seconds

MIB = 2**20


class TenantLimits(Struct, frozen=True, forbid_unknown_fields=True):
    """What one tenant may have. A call beyond it that would begin a job gets 429."""

    calls: Count | None = None
    "open calls: those that wait, and those in slots; None = any number, as for all the others"
    jobs: Count | None = None
    "open jobs"
    tokens_per_minute: Annotated[float, Meta(ge=1, le=1e12)] | None = None
    "of prompts and answers; a minute's worth may be saved up"
    queue: Count | None = None
    "calls that wait"
    held_mib: Annotated[float, Meta(gt=0, le=1e9)] | None = None
    "MiB that the requests of open calls take"

    def to_spec(self) -> LimitsSpec:
        """As the core knows it."""
        return LimitsSpec(*self._numbers)

    @property
    def _numbers(self) -> tuple[int | None, int | None, float | None, int | None, int | None]:
        held = None if self.held_mib is None else max(int(self.held_mib * MIB), 1)
        return self.calls, self.jobs, self.tokens_per_minute, self.queue, held


class LimitsSettings(TenantLimits, frozen=True, forbid_unknown_fields=True):
    """The same of all tenants together, with 503; and what else decides. Memory is bounded, if nothing is set."""

    jobs: Count | None = 100_000
    held_mib: Annotated[float, Meta(gt=0, le=1e9)] | None = 1024
    wait_s: Seconds | None = None
    "a new job whose first call would wait for longer gets 503; None = it waits"
    deadlines: Literal["ignore", "refuse", "demote"] = "ignore"
    "a job that cannot meet its deadline even if all goes well: refused at its first call, or put into class 4"

    def to_spec(self) -> AdmissionSpec:
        """As the core knows it."""
        return AdmissionSpec(*self._numbers, self.wait_s, self.deadlines)
