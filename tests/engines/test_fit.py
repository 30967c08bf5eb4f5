"""The fit: it finds constants that made the points, never goes below 0, and is as good as it can be."""

from __future__ import annotations

import random

import pytest

from hocket.core.latency import Latency
from hocket.engines.fit import Prefill, Step, fit, nnls, prefill_misfit, step_misfit

TRUE = Latency(q0=0.012, q1=2e-6, q2=0.0005, d0=0.009, d1=0.0011, d2=3e-6)


def points(latency: Latency, noise: float = 0.0) -> tuple[list[Prefill], list[Step]]:
    draw = random.Random(1)
    prefills = [
        Prefill(p, latency.iteration(latency.prefill(p), 1, 0, 0) * (1 + draw.uniform(-noise, noise)))
        for p in (16, 64, 256, 1024, 4096)
    ]
    steps = [
        Step(b, b * k, latency.iteration(0.0, 0, b, b * k) * (1 + draw.uniform(-noise, noise)))
        for b in (1, 2, 4, 8, 16)
        for k in (30, 1000)
    ]
    return prefills, steps


def test_exact_points_give_back_the_constants() -> None:
    found = fit(*points(TRUE))
    for name in ("q0", "q1", "q2", "d0", "d1", "d2"):
        assert getattr(found, name) == pytest.approx(getattr(TRUE, name), rel=1e-6), name
    assert prefill_misfit(found, points(TRUE)[0]).max < 1e-9
    assert step_misfit(found, points(TRUE)[1]).max < 1e-9


@pytest.mark.parametrize("absent", ["q0", "q1", "d0", "d1", "d2"])
def test_a_term_that_is_not_there_is_found_to_be_0(absent: str) -> None:
    without = Latency(**{f: 0.0 if f == absent else getattr(TRUE, f) for f in ("q0", "q1", "q2", "d0", "d1", "d2")})
    assert getattr(fit(*points(without)), absent) == pytest.approx(0.0, abs=1e-9)


def test_noise_of_5_percent_stays_5_percent() -> None:
    prefills, steps = points(TRUE, noise=0.05)
    found = fit(prefills, steps)
    assert prefill_misfit(found, prefills).mean < 0.05
    assert step_misfit(found, steps).mean < 0.05


def test_constants_are_never_negative() -> None:
    falling = [Prefill(16, 1.0), Prefill(64, 0.5), Prefill(256, 0.25)]
    found = fit(falling, [Step(1, 10, 0.5), Step(2, 20, 0.4), Step(4, 40, 0.3)])
    assert min(found.q0, found.q1, found.q2, found.d0, found.d1, found.d2) >= 0.0
    assert found.q0 > 0.0


def test_no_neighbour_is_better() -> None:
    """The optimum of a convex problem: no small step along any axis that stays >= 0 lowers the error."""
    draw = random.Random(7)
    for _ in range(50):
        rows = [(1.0, draw.uniform(1, 500), draw.uniform(1, 1e5)) for _ in range(8)]
        measured = [draw.uniform(0.1, 5) for _ in rows]

        def error(x: list[float], rows: list = rows, measured: list = measured) -> float:  # type: ignore[type-arg]
            sums = [sum(a * b for a, b in zip(row, x, strict=True)) for row in rows]
            return sum((s / y - 1) ** 2 for s, y in zip(sums, measured, strict=True))

        best = nnls(rows, measured)
        scale = (1.0, 500.0, 1e5)
        for j in range(3):
            for move in (1e-4, -1e-4):
                other = list(best)
                other[j] = max(0.0, other[j] + move / scale[j])
                assert error(other) >= error(best) - 1e-12


def test_one_point_does_not_break_it() -> None:
    found = fit([Prefill(10, 0.1)], [Step(1, 10, 0.02)])
    assert found.iteration(found.prefill(10), 1, 0, 0) == pytest.approx(0.1)
    assert found.iteration(0.0, 0, 1, 10) == pytest.approx(0.02)


def test_three_noisy_prompts_do_not_make_a_parabola() -> None:
    found = fit([Prefill(16, 0.29), Prefill(64, 1.25), Prefill(256, 5.5)], [Step(1, 10, 0.02)])
    assert found.q1 == 0.0
    assert found.iteration(found.prefill(1024), 1, 0, 0) == pytest.approx(22, rel=0.1)
