"""The engine model's formula: how long one iteration of continuous batching lasts.

One formula serves the simulator (which advances by it), the engine profiler (which fits its constants) and the
planner (which prices with it). Seconds and tokens throughout. The terms:

- a prompt of p tokens costs q1·p² + q2·p to prefill, once, in the iteration that admits it;
- a running call costs d1, and d2 for each token of its KV cache, every iteration;
- passing over the weights costs d0 in an iteration that decodes, q0 in one that prefills: the larger of the two,
  because a mixed iteration passes over them once.
"""

from __future__ import annotations

import msgspec


class Latency(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Constants of one engine replica. Defaults of 0 leave a term out (a table may lack q0)."""

    q0: float = 0.0
    "seconds: floor of an iteration that prefills"
    q1: float = 0.0
    "seconds per squared prompt token"
    q2: float = 0.0
    "seconds per prompt token"
    d0: float = 0.0
    "seconds: floor of an iteration that decodes"
    d1: float = 0.0
    "seconds per running call"
    d2: float = 0.0
    "seconds per KV token"

    def prefill(self, prompt_tokens: int) -> float:
        """Seconds that prefilling `prompt_tokens` adds to the iteration that does it."""
        return (self.q1 * prompt_tokens + self.q2) * prompt_tokens

    def iteration(self, prefill_s: float, new: int, running: int, kv_tokens: int) -> float:
        """Seconds of one iteration: `running` calls hold `kv_tokens`; `new` calls join, costing `prefill_s` in all."""
        floor = max(self.q0 if new else 0.0, self.d0 if running else 0.0)
        return floor + prefill_s + self.d1 * running + self.d2 * kv_tokens

    def unloaded(self, prompt_tokens: int, output_tokens: int) -> float:
        """Seconds of a whole call that has the replica to itself."""
        p, steps = prompt_tokens, max(output_tokens, 1) - 1
        decode = steps * (self.d0 + self.d1) + self.d2 * (steps * (p + 1) + steps * (steps - 1) / 2)
        return self.q0 + self.prefill(p) + decode
