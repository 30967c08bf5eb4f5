"""The engine model, by hand: each number below can be checked with a pencil."""

from typing import Any

import pytest

from hocket.sim.driver import Outcome
from hocket.sim.experiment import simulate
from tests.sim.worlds import as_jobs, as_setup

LATENCY = {"q0": 0.5, "q1": 0.01, "q2": 0.1, "d0": 1.0, "d1": 0.25, "d2": 0.125}


def engine(**more: Any) -> dict[str, Any]:
    return {"name": "e", "models": ["m"], "max_concurrency": 4, "latency": LATENCY, **more}


def call(id_: str, prompt: int, output: int, **more: Any) -> dict[str, Any]:
    return {
        "id": id_, "name": id_, "kind": "llm", "model": "m", "prompt_tokens": prompt, "output_tokens": output, **more,
    }  # fmt: skip


def run(stages: list[tuple[float, dict[str, Any]]], **more: Any) -> dict[str, float]:
    """Each stage is a job of its own, or several of one job if they come as a list: when does each stage end?"""
    jobs = [
        {"job": f"j{i}", "app": "a", "arrival_s": at, "stages": stage if isinstance(stage, list) else [stage]}
        for i, (at, stage) in enumerate(stages)
    ]
    record = frozenset(job["job"] for job in jobs)
    outcome: Outcome = simulate(as_jobs(jobs), as_setup([engine(**more)]), "call-fcfs", record)
    return {span.stage: span.ended for span in outcome.spans}


def prefill(p: int) -> float:
    return 0.01 * p * p + 0.1 * p


def test_a_call_alone() -> None:
    first = 0.5 + prefill(2)
    assert run([(0, call("a", 2, 3))])["a"] == pytest.approx(first + (1.25 + 0.125 * 3) + (1.25 + 0.125 * 4))


def test_no_output_takes_one_iteration() -> None:
    assert run([(0, call("a", 2, 0))])["a"] == run([(0, call("a", 2, 1))])["a"] == pytest.approx(0.5 + prefill(2))


def test_two_at_once_share_the_prefill_floor() -> None:
    ends = run([(0, call("a", 2, 1)), (0, call("b", 3, 1))])
    assert ends["a"] == ends["b"] == pytest.approx(0.5 + prefill(2) + prefill(3))


def test_one_that_comes_late_joins_at_the_next_boundary() -> None:
    """Boundaries of a: 0.74, then +1.625, +1.75, ...; b comes at 2.0 and joins at 2.365: a mixed iteration."""
    ends = run([(0, call("a", 2, 4)), (2.0, call("b", 3, 1))])
    start = 0.5 + prefill(2) + 1.25 + 0.125 * 3
    mixed = 1.0 + prefill(3) + 0.25 + 0.125 * 4  # the floor is the larger of q0 and d0; a alone decodes
    assert ends["b"] == pytest.approx(start + mixed)
    assert ends["a"] == pytest.approx(start + mixed + 1.25 + 0.125 * 5)


def test_one_that_comes_at_a_boundary_joins_there() -> None:
    """Ticks are exact: 0.5 + 0.24 and the boundary at 0.74 are one moment."""
    ends = run([(0, call("a", 2, 2)), (0.74, call("b", 3, 1))])
    assert ends["b"] == pytest.approx(0.74 + 1.0 + prefill(3) + 0.25 + 0.125 * 3)


def test_slowest_pays_for_the_longest_alone() -> None:
    ends = run([(0, call("a", 2, 2)), (0, call("b", 5, 2))], decode="slowest")
    assert ends["a"] == ends["b"] == pytest.approx(0.5 + prefill(2) + prefill(5) + 1.0 + 0.125 * 6)


def test_no_more_than_fit_the_window_and_the_head_blocks() -> None:
    """b does not fit beside a (10 + 8 > 16), so c, which would, waits behind b."""
    ends = run([(0, call("a", 10, 1)), (0, call("b", 8, 1)), (0, call("c", 1, 1))], kv_tokens=16)
    one = 0.5 + prefill(10)
    assert ends["a"] == pytest.approx(one)
    assert ends["b"] == ends["c"] == pytest.approx(one + 0.5 + prefill(8) + prefill(1))


def test_what_overflows_goes_back_and_is_computed_again() -> None:
    """a and b hold 4 + 4 tokens of 9; with their first ones 10: b goes back, and waits until a is done."""
    ends = run([(0, call("a", 4, 2)), (0, call("b", 4, 2))], kv_tokens=9)
    a = 0.5 + 2 * prefill(4) + 1.25 + 0.125 * 5
    assert ends["a"] == pytest.approx(a)
    assert ends["b"] == pytest.approx(a + 0.5 + prefill(5))


def test_the_last_one_running_is_never_evicted() -> None:
    ends = run([(0, call("a", 4, 6))], kv_tokens=5)
    assert ends["a"] == pytest.approx(0.5 + prefill(4) + sum(1.25 + 0.125 * (4 + n) for n in range(1, 6)))


def test_a_cached_prefix_is_not_prefilled() -> None:
    b = call("b", 8, 1, needs=["a"], shares_prefix={"stage": "a", "tokens": 5})
    ends = run([(0, [call("a", 4, 1), b])], prefix_cache=True, kv_tokens=100)
    assert ends["b"] - ends["a"] == pytest.approx(0.5 + prefill(3))
    ends = run([(0, [call("a", 4, 1), b])], prefix_cache=False, kv_tokens=100)
    assert ends["b"] - ends["a"] == pytest.approx(0.5 + prefill(8))


def test_a_cached_prefix_yields_to_running_calls() -> None:
    """a leaves 5 tokens; when b holds 13 of 14 there is room for 1 of them: c finds 1."""
    stages = [
        call("a", 4, 1),
        call("b", 12, 1, needs=["a"]),
        call("c", 8, 1, needs=["b"], shares_prefix={"stage": "a", "tokens": 5}),
    ]
    roomy = run([(0, stages)], prefix_cache=True, kv_tokens=100)
    scarce = run([(0, stages)], prefix_cache=True, kv_tokens=14)
    assert roomy["c"] - roomy["b"] == pytest.approx(0.5 + prefill(3))
    assert scarce["c"] - scarce["b"] == pytest.approx(0.5 + prefill(7))
