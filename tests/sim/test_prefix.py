"""llama.cpp's slots: a call finds what the last one left in the slot that it gets, and nothing else."""

from __future__ import annotations

from hocket.core.latency import Latency
from hocket.sim.engine import EngineModel, Replica, Request, ticks
from hocket.sim.prefix import Key, SlotCache

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


def ends_of(requests: list[Request], slots: int) -> dict[str, float]:
    """When calls end that are sent one after the other, each as the one before it ends."""
    latency = Latency(q2=1.0, d0=1.0)
    model = EngineModel(name="e", models=["m"], max_concurrency=slots, latency=latency, prefix_cache="slots")
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
