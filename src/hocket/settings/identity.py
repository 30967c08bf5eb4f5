"""Which places a call's identity is read from, besides hocket's own."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

from hocket.settings.checks import Seconds, unique

Source = Literal["trace", "headers", "body", "inferred"]


class IdentitySettings(Struct, frozen=True, forbid_unknown_fields=True):
    """How calls that do not speak to hocket itself are put together to jobs."""

    sources: list[Source] = field(default_factory=lambda: ["trace", "headers", "body", "inferred"])
    "after hocket's own headers and metadata, which come first always; for each value the first that knows it counts"
    idle_s: Seconds = 30.0
    "how long a job that nobody named waits for its next call, unless its last answer asked for a tool"

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        unique("sources", self.sources)
