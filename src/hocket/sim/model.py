"""What an engine of the simulator is: an entry of `engines.yaml`. docs/reference/engines-yaml.md lists it all."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from hocket.core.latency import Latency

FIRST_WINDOW = 8
"where `window: auto` begins"


class EngineModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One engine of `engines.yaml`."""

    name: str
    models: list[str]
    replicas: int = 1
    max_concurrency: int
    "calls that run at once in a replica"
    window: int | Literal["auto"] | None = None
    "calls that hocket lets into a replica at once; None = max_concurrency"
    kv_tokens: int | None = None
    "KV cache of a replica; None is without limit"
    latency: Latency
    decode: Literal["step", "slowest"] = "step"
    prefix_cache: bool | Literal["slots"] = False
    "slots: each call finds only what the last one left in its slot, as in llama.cpp"
    swap_s_per_token: float | None = None
    "seconds to save, and to load, a token of a displaced call's KV cache; None: it is always computed again"

    def __post_init__(self) -> None:
        """Check what types cannot say. An error begins with its key, which the loader turns into a line."""
        if not self.models:
            raise ValueError("`models`: empty; name the models that it serves")
        for key in ("replicas", "max_concurrency", "window", "kv_tokens"):
            value = getattr(self, key)
            if isinstance(value, int) and value < 1:
                raise ValueError(f"`{key}`: {value}; use 1 or more")
        swap = self.swap_s_per_token
        if swap is not None and not 0 <= swap < math.inf:
            raise ValueError(f"`swap_s_per_token`: {swap}; use seconds, 0 (free) or more, or leave it out (recompute)")
        constants = msgspec.structs.asdict(self.latency)
        for key, seconds in constants.items():
            if not 0 <= seconds < math.inf:
                raise ValueError(f"`latency.{key}`: {seconds}; use seconds, 0 or more")
        if not any(constants.values()):
            raise ValueError("`latency`: all 0, an engine that takes no time; give its constants in seconds")

    @property
    def first_window(self) -> int:
        """A replica's window when it is added."""
        if self.window is None:
            return self.max_concurrency
        return FIRST_WINDOW if self.window == "auto" else self.window

    def unloaded(self, prompt_tokens: int, output_tokens: int) -> float:
        """Seconds of a call that has a replica to itself, nothing cached."""
        return self.pace.unloaded(prompt_tokens, output_tokens)

    @property
    def pace(self) -> Latency:
        """The constants, with what `decode: slowest` leaves out left out."""
        return self.latency if self.decode == "step" else msgspec.structs.replace(self.latency, d1=0.0)
