"""What a call finds of its prompt: in llama.cpp's slots, and of a prefix that many jobs share."""

from __future__ import annotations

from typing import Literal

import msgspec

from hocket.assembly import build
from hocket.core import events as ev
from hocket.core.latency import Latency
from hocket.sim.driver import Simulation
from hocket.sim.engine import Replica, Request, ticks
from hocket.sim.experiment import Setup, scheduler_spec
from hocket.sim.model import EngineModel
from hocket.sim.prefix import Key, PrefixCache, SlotCache
from hocket.trace import CommonPrefix, Job, Stage

A, B, C, D = (("job", name) for name in "abcd")


def test_the_slot_that_holds_most_is_taken() -> None:
    cache = SlotCache(3)
    assert [cache.take(50, None) for _ in range(3)] == [0, 0, 0]
    cache.leave(A, 60, None)
    cache.leave(B, 70, None)
    cache.leave(C, 80, (A, 30))
    assert cache.take(100, (A, 55)) == 55
    assert cache.take(100, (A, 55)) == 30, "C's slot begins as A did"
    assert cache.take(100, (A, 55)) == 0, "B's slot is left"


def test_without_a_match_the_slot_at_rest_for_longest_is_taken() -> None:
    cache = SlotCache(2)
    for key in (A, B):
        cache.take(50, None)
        cache.leave(key, 50, None)
    cache.take(50, None)  # A's
    cache.leave(C, 50, None)
    assert cache.take(50, (A, 40)) == 0, "A is gone, and B's slot was older than C's"
    assert cache.take(50, (C, 40)) == 40


def test_a_tenth_is_too_little_to_choose_by() -> None:
    cache = SlotCache(2)
    for key in (A, B):
        cache.take(50, None)
        cache.leave(key, 50, None)
    assert cache.take(400, (B, 40)) == 0
    assert cache.take(50, (B, 40)) == 40


def ends_of(
    requests: list[Request], slots: int, cache: Literal["slots"] | bool = "slots", kv_tokens: int | None = None
) -> dict[str, float]:
    """When calls end that are sent one after the other, each as the one before it ends."""
    latency = Latency(q2=1.0, d0=1.0)
    model = EngineModel(
        name="e", models=["m"], max_concurrency=slots, latency=latency, prefix_cache=cache, kv_tokens=kv_tokens
    )
    replica: Replica[Request] = Replica(model, "e/0")
    at, ends = 0, {}
    for request in requests:
        replica.send(request, at)
        while replica.ends is not None:
            at = replica.ends
            ends |= {done.call: at / ticks(1.0) for done in replica.credit(at)[1]}
            replica.begin(at)
    return ends


def call(key: Key, prompt: int, output: int, prefix: tuple[Key, int] | None = None) -> Request:
    return Request(key[1], key, prompt, output, prefix)


def test_in_the_engine_the_rest_of_the_prompt_is_computed() -> None:
    def sent() -> list[Request]:
        return [call(A, 10, 3), call(B, 14, 1, (A, 12)), call(C, 5, 1), call(D, 14, 1, (A, 12))]

    assert ends_of(sent(), slots=1) == {"a": 12.0, "b": 14.0, "c": 19.0, "d": 33.0}
    assert ends_of(sent(), slots=2) == {"a": 12.0, "b": 14.0, "c": 19.0, "d": 21.0}


# ---------------------------------------------------------------- what the prompts of many jobs begin with

SYSTEM: Key = ("", "system prompt")


def of_job(job: str, prompt: int, common: tuple[Key, int] | None) -> Request:
    return Request(job, (job, "s"), prompt, 1, None, common)


def test_a_common_prefix_is_found_by_other_jobs_in_both_kinds_of_cache() -> None:
    def sent() -> list[Request]:
        return [of_job("a", 10, (SYSTEM, 8)), of_job("b", 10, (SYSTEM, 8)), of_job("c", 10, None)]

    assert ends_of(sent(), slots=1, cache=True) == {"a": 10.0, "b": 12.0, "c": 22.0}
    assert ends_of(sent(), slots=1, cache="slots") == {"a": 10.0, "b": 12.0, "c": 22.0}
    assert ends_of(sent(), slots=1, cache=False) == {"a": 10.0, "b": 20.0, "c": 30.0}


def test_a_common_prefix_yields_to_running_calls() -> None:
    sent = [of_job("a", 10, (SYSTEM, 8)), of_job("big", 40, None), of_job("b", 10, (SYSTEM, 8))]
    assert ends_of(sent, slots=1, cache=True, kv_tokens=41)["b"] == 60.0


def test_a_prefix_that_is_there_is_not_counted_twice() -> None:
    cache = PrefixCache()
    for _ in range(3):
        cache.keep(SYSTEM, 8)
    cache.trim(8)
    assert cache.get(SYSTEM) == 8
    cache.trim(5)
    cache.keep(SYSTEM, 8)
    assert cache.get(SYSTEM) == 8, "what was trimmed of it was computed again"


def test_the_core_is_told_of_it_by_name() -> None:
    stage = Stage(id="s", name="s", kind="llm", model="m", prompt_tokens=10, output_tokens=1)
    stage.common_prefix = CommonPrefix("agent", 8)
    setup = msgspec.convert(
        {"engines": [{"name": "e", "models": ["m"], "max_concurrency": 1, "latency": {"d0": 1.0}}]}, Setup
    )
    seen: list[ev.Event] = []
    scheduler = build(scheduler_spec(setup, "fcfs"))
    job = Job(job="j", app="a", stages=[stage])
    Simulation([job], setup.engines, scheduler, observe=lambda event, _: seen.append(event)).run()
    (arrived,) = (event for event in seen if isinstance(event, ev.CallArrived))
    assert arrived.prefix == "agent"
