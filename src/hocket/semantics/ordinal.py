"""Ordered classes by logistic regression: how likely is a class of at most k, for each border k between two classes?

The borders share one vector of weights, and each may depart from it at a price (partial proportional odds: Peterson
and Harrell, 1990): the rare most urgent class learns from all the others, yet words that tell it alone still count.
Both are kept small by their squares (ridge), and found by limited-memory BFGS (Liu and Nocedal, 1989).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hocket.semantics.features import Rows

Matrix = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

OWN = 4.0
"how many times as dear as the shared weights a border's own ones are"
_MEMORY = 8
_STEPS = 200
_FAR = 30.0
"logits beyond this are certain enough"


class Fit(NamedTuple):
    """What was learned; the logit of "at most class k" is `rows.times(weights)[:, k] + offsets[k]`."""

    weights: Matrix
    "(features, borders)"
    offsets: Matrix
    "(borders,)"
    point: Matrix
    "where the search ended: a good start for one with a little less ridge"

    def logits(self, rows: Rows) -> Matrix:
        """(rows, borders)."""
        return rows.times(self.weights) + self.offsets


def fit(rows: Rows, labels: Labels, classes: int, ridge: float, start: Matrix | None = None) -> Fit:
    """Learn from labels 0 to classes - 1; `start` is another fit's point."""
    borders, width = classes - 1, rows.width
    at_most = (labels[:, None] <= np.arange(borders)).astype(np.float64)
    price = ridge / len(labels)
    shrink = 1 / np.sqrt(OWN)

    def unpack(point: Matrix) -> tuple[Matrix, Matrix]:
        parts = point[borders:].reshape(width, borders + 1)
        return parts, parts[:, :1] + shrink * parts[:, 1:]

    def loss(point: Matrix) -> tuple[float, Matrix]:
        parts, weights = unpack(point)
        logits = rows.times(weights) + point[:borders]
        errors = (sigmoid(logits) - at_most) / len(labels)
        back = rows.back(errors)
        slope = price * parts
        slope[:, 0] += back.sum(axis=1)
        slope[:, 1:] += shrink * back
        value = (np.logaddexp(0, logits) - at_most * logits).sum() / len(labels) + price / 2 * (parts**2).sum()
        return float(value), np.concatenate([errors.sum(axis=0), slope.ravel()])

    if start is None:
        seen = at_most.mean(axis=0).clip(1e-3, 1 - 1e-3)
        start = np.concatenate([np.log(seen / (1 - seen)), np.zeros(width * (borders + 1))])
    found = minimise(loss, start)
    return Fit(unpack(found)[1], found[:borders], found)


def sigmoid(logits: Matrix) -> Matrix:
    """1 / (1 + e^-logits), without overflow."""
    return 1 / (1 + np.exp(-np.clip(logits, -_FAR, _FAR)))


def class_shares(at_most: Matrix) -> Matrix:
    """(n, classes): how likely each class is, from how likely "at most k" is, (n, borders), made to increase in k."""
    rising = np.maximum.accumulate(at_most, axis=1)
    edges = np.zeros((len(rising), 1)), np.ones((len(rising), 1))
    return np.diff(np.concatenate([edges[0], rising, edges[1]], axis=1), axis=1)


def minimise(loss: Callable[[Matrix], tuple[float, Matrix]], start: Matrix, *, exact: float = 1e-6) -> Matrix:
    """The lowest point of a smooth convex function that returns its value and gradient.

    exact: the share of its value below which a step's gain ends the search.
    """
    point, (value, slope) = start, loss(start)
    moves: list[tuple[Matrix, Matrix]] = []
    for _ in range(_STEPS):
        way = _direction(slope, moves)
        downhill, step = float(way @ slope), 1.0
        while True:
            there = point + step * way
            new_value, new_slope = loss(there)
            if new_value <= value + 1e-4 * step * downhill or step < 1e-8:
                break
            step /= 2
        if step < 1e-8:
            break
        move = there - point, new_slope - slope
        if move[0] @ move[1] > 1e-12:
            moves = [*moves[1 - _MEMORY :], move]
        gained = value - new_value
        point, value, slope = there, new_value, new_slope
        if gained < exact * max(abs(value), 1e-3):
            break
    return point


def _direction(slope: Matrix, moves: list[tuple[Matrix, Matrix]]) -> Matrix:
    """The step of a quasi-Newton method that remembers a few moves (the two-loop recursion)."""
    way, pulls = slope.copy(), []
    for step, change in reversed(moves):
        pulls.append(step @ way / (step @ change))
        way -= pulls[-1] * change
    if moves:
        step, change = moves[-1]
        way *= step @ change / (change @ change)
    else:
        way /= max(float(np.linalg.norm(slope)), 1e-12)
    for (step, change), pull in zip(moves, reversed(pulls), strict=True):
        way += step * (pull - change @ way / (step @ change))
    return -way


# ---------------------------------------------------------------- calibration


class Scale(NamedTuple):
    """Platt's scaling of logits, each border's own (Platt, 1999)."""

    slopes: Matrix
    "(borders,)"
    offsets: Matrix
    "(borders,)"


def calibrate(logits: Matrix, labels: Labels, *, trust: float = 2.0) -> Scale:
    """The scaling under which held-out logits (n, borders) fit their labels; `trust`: in a scaling of 1, in rows."""
    slopes, offsets = np.ones(logits.shape[1]), np.zeros(logits.shape[1])
    for k in range(logits.shape[1]):
        z, hit = logits[:, k], labels <= k
        if 0 < hit.sum() < len(hit):
            slopes[k], offsets[k] = _platt(z, hit.astype(np.float64), trust)
    return Scale(slopes, offsets)


def _platt(z: Matrix, hit: Matrix, trust: float) -> tuple[float, float]:
    strength = trust * np.array([float(z.var()) + 1e-6, 0.25]) / len(z)
    prior = np.array([1.0, 0.0])

    def loss(point: Matrix) -> tuple[float, Matrix]:
        logits, away = point[0] * z + point[1], point - prior
        errors = (sigmoid(logits) - hit) / len(z)
        value = (np.logaddexp(0, logits) - hit * logits).mean() + (strength * away**2).sum() / 2
        return float(value), np.array([errors @ z, errors.sum()]) + strength * away

    slope, offset = minimise(loss, prior, exact=1e-10)
    return max(float(slope), 0.05), float(offset)  # a score is never turned round
