"""What an engine says of itself on `/metrics`: how many calls it works on, how many it keeps waiting, how full it is.

vLLM, SGLang and llama.cpp tell the same three facts under names of their own. The names say which engine it is, so an
engine of kind `openai` is understood as well, if it is one of these behind another face.
"""

from __future__ import annotations

import math

from msgspec import Struct
from prometheus_client.parser import text_string_to_metric_families

PATH = "/metrics"

RUNNING = frozenset({"vllm:num_requests_running", "sglang:num_running_reqs", "llamacpp:requests_processing"})
WAITING = frozenset({"vllm:num_requests_waiting", "sglang:num_queue_reqs", "llamacpp:requests_deferred"})
KV_USED = frozenset(
    {
        "vllm:kv_cache_usage_perc",
        "vllm:gpu_cache_usage_perc",  # before vLLM 0.10
        "sglang:token_usage",
        "llamacpp:kv_cache_usage_ratio",  # before llama.cpp's b5500
    }
)
"shares from 0 to 1, whatever their names say"
_NAMES = RUNNING | WAITING | KV_USED
_PARTS = {"tp_rank": {"", "0"}, "pp_rank": {"", "0"}, "priority": {""}}
"label -> its values on a line that counts: SGLang's ranks each tell the whole, and so does a line of no one priority"


class Observed(Struct, frozen=True):
    """What a replica says of itself; None where it does not say."""

    running: int | None = None
    "calls that it works on"
    waiting: int | None = None
    "calls that wait inside it"
    kv_used: float | None = None
    "share of its KV cache in use, 0 to 1"


def parse_metrics(text: str) -> Observed:
    """Read the text of a `/metrics` page. What cannot be read counts as not said.

    Data-parallel engines in one replica are summed; of their KV caches the fullest counts.
    """
    # a page has a thousand lines of histograms: only those that matter are parsed
    lines = [line for line in text.splitlines() if line.partition("{")[0].partition(" ")[0] in _NAMES]
    found: dict[str, list[float]] = {}
    try:
        for family in text_string_to_metric_families("\n".join(lines) + "\n"):
            for sample in family.samples:
                whole = all(sample.labels.get(label, "") in values for label, values in _PARTS.items())
                if whole and math.isfinite(sample.value) and sample.value >= 0.0:
                    found.setdefault(sample.name, []).append(sample.value)
    except ValueError:  # no exposition format: a page of a proxy, say
        return Observed()
    running, waiting = _of(RUNNING, found), _of(WAITING, found)
    used = _of(KV_USED, found)
    return Observed(
        running=round(sum(running)) if running else None,
        waiting=round(sum(waiting)) if waiting else None,
        kv_used=min(max(used), 1.0) if used else None,
    )


def _of(names: frozenset[str], found: dict[str, list[float]]) -> list[float]:
    return [value for name in sorted(names & found.keys()) for value in found[name]]
