"""Rows that were made before give the same matrices as rows that are made now."""

from __future__ import annotations

import random

import numpy as np

from hocket.beliefs.record import Record, Step
from hocket.beliefs.samples import MOST_TURNS, Samples
from hocket.core.latency import Latency

PACES = {"a": Latency(q0=0.01, q2=2e-4, d0=0.01), "b": Latency(q1=1e-7, d0=0.02, d1=0.003, d2=1e-6)}


def pace(stage: str, model: str) -> Latency:
    return PACES[model]


def record(rng: random.Random) -> Record:
    """A job at random; now and then one with more turns of a stage than have a column."""
    steps: list[Step] = []
    for i in range(rng.choice([0, 1, 3, 10, 3 * MOST_TURNS])):
        model = rng.choice(["a", "b", None])
        after = sorted(rng.sample(range(i), min(i, rng.randrange(3))))
        sizes = rng.randrange(500), rng.randrange(300)
        steps.append(Step(rng.choice("xyz") if model else "tool", model, *sizes, 0.0 if model else rng.random(), after))
    return Record(steps, {"size": rng.random()})


def check_same(one: Samples, other: Samples) -> None:
    assert (
        one.rows == other.rows and one.rest.keys() == other.rest.keys() and list(one.features) == list(other.features)
    )
    for name in ("work", "tail", "total", "visible"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    for stage in one.rest:
        assert np.array_equal(one.rest[stage], other.rest[stage])
    for stage in ("x", "y", "z", "tool"):
        for turn in (0, 1, MOST_TURNS - 1, MOST_TURNS):
            first, second = one.column(stage, turn), other.column(stage, turn)
            assert (first is None) == (second is None)
            for a, b in zip(first or (), second or (), strict=True):
                np.testing.assert_equal(a, b)


def test_rows_that_were_made_before_are_the_same() -> None:
    rng = random.Random(5)
    samples = Samples([], pace)
    records: list[Record] = []
    for _ in range(12):
        fresh = [record(rng) for _ in range(10)]
        for one in fresh[:7]:  # the others come unprepared, as from a profile
            samples.prepare(one)
        records = [*records, *fresh][-60:]
        samples = Samples(records, pace, samples)
        check_same(samples, Samples(records, pace))
    assert samples.rest and samples.rows == 60
    assert samples.made.keys() == {id(one) for one in records}, "what left is forgotten"
