"""Random draws from what was measured: quantile tables, counts, and how one quantity goes with another."""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from statistics import NormalDist
from typing import TypeVar

T = TypeVar("T")

PROBABILITIES = (0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
"at which a table of this package gives quantiles"

NORMAL = NormalDist()


def quantile(table: Sequence[float], probability: float) -> float:
    """Geometric between the quantiles that `table` gives at PROBABILITIES: the tails are long."""
    for (low, high), (start, end) in zip(pairwise(PROBABILITIES), pairwise(table), strict=True):
        if probability <= high:
            return start * math.pow(end / start, (probability - low) / (high - low))
    return table[-1]


def rank(score: float) -> float:
    """The share of all scores that are lower."""
    return NORMAL.cdf(score)


def tokens(table: Sequence[float], score: float) -> int:
    """The value at a score's rank, in whole tokens."""
    return round(quantile(table, rank(score)))


def one(weights: Mapping[T, float], score: float) -> T:
    """The value at a score's rank, where the values stand in their order and `weights` says how often each occurs."""
    sums = list(accumulate(weights.values()))
    index = bisect_right(sums, rank(score) * sums[-1])
    return list(weights)[min(index, len(sums) - 1)]


class Draws(random.Random):
    """A seeded generator that draws *scores*: standard normal, so that their ranks can go together.

    A table turns a score into a value. Values that were drawn from linked scores have the rank correlation that was
    asked for, whatever their tables: a Gaussian copula.
    """

    def score(self) -> float:
        """A score that goes with nothing."""
        return self.gauss()

    def linked(self, score: float, spearman: float) -> float:
        """A score whose rank correlation with `score` is `spearman` (Spearman's rho)."""
        pearson = 2 * math.sin(math.pi * spearman / 6)
        return pearson * score + math.sqrt(1 - pearson * pearson) * self.gauss()

    def value(self, table: Sequence[float]) -> float:
        """A value of a table that goes with nothing."""
        return quantile(table, self.random())

    def tokens(self, table: Sequence[float]) -> int:
        """As `value`, in whole tokens."""
        return round(self.value(table))

    def one(self, weights: Mapping[T, float]) -> T:
        """A value, as often as `weights` says."""
        return self.choices(list(weights), list(weights.values()))[0]
