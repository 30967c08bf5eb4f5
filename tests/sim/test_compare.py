"""Ratios with their intervals."""

import math
import random

import pytest

from hocket.sim.compare import paired, student


@pytest.mark.parametrize(
    ("degrees", "t"),
    [(1, 12.7062), (2, 4.30265), (3, 3.18245), (4, 2.77645), (9, 2.26216), (30, 2.04227), (200, 1.97190)],
)
def test_student_is_that_of_the_tables(degrees: int, t: float) -> None:
    assert student(degrees) == pytest.approx(t, rel=1e-5)


def test_the_interval_holds_the_truth_nineteen_times_in_twenty() -> None:
    rng = random.Random(1)
    draws = ([0.8 * math.exp(rng.gauss(0, 0.1)) for _ in range(5)] for _ in range(4000))
    hits = sum(low <= 0.8 <= high for _, low, high in map(paired, draws))
    assert hits / 4000 == pytest.approx(0.95, abs=0.012)


def test_a_ratio_and_its_inverse_say_the_same() -> None:
    ratios = [0.7, 0.9, 1.2]
    one, other = paired(ratios), paired([1 / ratio for ratio in ratios])
    assert (one.ratio, one.low, one.high) == pytest.approx((1 / other.ratio, 1 / other.high, 1 / other.low))


def test_one_draw_has_no_interval_and_none_no_ratio() -> None:
    assert paired([0.5]).ratio == pytest.approx(0.5)
    assert math.isnan(paired([0.5]).low)
    with pytest.raises(ValueError):
        paired([])
