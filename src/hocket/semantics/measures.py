"""How well classes are told apart, and how far the probabilities can be believed. Classes are numbered from 0."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hocket.semantics.ordinal import minimise, sigmoid

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
BINS = 10


def measure(labels: Labels, shares: Array, predicted: Labels) -> dict[str, Any]:
    """All measures of n texts: their labels, (n, K) shares, and predicted classes. What cannot be told is None."""
    borders = range(shares.shape[1] - 1)
    at_most = np.cumsum(shares, axis=1)
    hits = {k: labels <= k for k in borders}
    return {
        "auroc_at_most": {str(k): auroc(hits[k], at_most[:, k]) for k in borders},
        "kappa_quadratic": kappa(labels, predicted, shares.shape[1]),
        "ece": float(np.mean([ece(hits[k], at_most[:, k]) for k in borders])) if len(labels) else None,
        "recall_at_precision_0.5": {str(k): recall_at_precision(hits[k], at_most[:, k]) for k in borders},
        "calibration_slope": {str(k): slope(hits[k], at_most[:, k]) for k in borders},
        "n": len(labels),
    }


def by_urgency(classes: list[int], urgency: Labels, shares: Array, predicted: Labels) -> dict[str, Any]:
    """As `measure`, and the confusion matrix, by urgency.

    classes: of the columns of `shares` and of what is `predicted`; the labels may have others.
    """
    names = sorted({*classes, *np.unique(urgency).tolist()})
    places = np.searchsorted(names, classes)
    every = np.zeros((len(shares), len(names)))
    every[:, places] = shares
    labels, read = np.searchsorted(names, urgency), places[predicted]
    found = measure(labels, every, read)
    for key, value in found.items():
        if isinstance(value, dict):
            found[key] = {str(names[int(k)]): one for k, one in value.items()}
    table = confusion(labels, read, len(names))
    found["confusion"] = {
        str(one): dict(zip(map(str, names), row, strict=True)) for one, row in zip(names, table, strict=True)
    }
    return found


def auroc(hit: npt.NDArray[np.bool_], score: Array) -> float | None:
    """How likely a hit scores above another text; ties count half. None without both kinds."""
    hits, others = int(hit.sum()), int((~hit).sum())
    if not hits or not others:
        return None
    _, place, count = np.unique(score, return_inverse=True, return_counts=True)
    middle = np.cumsum(count) - (count - 1) / 2
    return float((middle[place][hit].sum() - hits * (hits + 1) / 2) / (hits * others))


def recall_at_precision(hit: npt.NDArray[np.bool_], score: Array, precision: float = 0.5) -> float | None:
    """The largest share of hits above a threshold above which at least `precision` are hits."""
    if not hit.any():
        return None
    order = np.argsort(-score, kind="stable")
    found = np.cumsum(hit[order])
    last = np.append(np.diff(score[order]) != 0, True)  # a threshold cannot part equal scores
    enough = (found >= precision * np.arange(1, len(hit) + 1)) & last
    return float(found[enough].max() / found[-1]) if enough.any() else 0.0


def kappa(labels: Labels, predicted: Labels, classes: int) -> float | None:
    """Cohen's kappa with quadratic weights: 1 is agreement, 0 chance."""
    if not len(labels):
        return None
    table = np.zeros((classes, classes))
    np.add.at(table, (labels, predicted), 1)
    far = np.subtract.outer(np.arange(classes), np.arange(classes)) ** 2
    chance = np.outer(table.sum(axis=1), table.sum(axis=0)) / len(labels)
    return float(1 - (far * table).sum() / (far * chance).sum()) if (far * chance).sum() else None


def ece(hit: npt.NDArray[np.bool_], probability: Array) -> float:
    """Expected calibration error: mean gap of probability and frequency, over ten bins of equal width."""
    which = np.minimum((probability * BINS).astype(np.int64), BINS - 1)
    gaps = np.bincount(which, probability - hit, BINS)
    return float(np.abs(gaps).sum() / len(hit))


def slope(hit: npt.NDArray[np.bool_], probability: Array) -> float | None:
    """The slope of a logistic regression of hits on the logits of their probabilities: below 1 is overconfident."""
    if hit.all() or not hit.any():
        return None
    p = probability.clip(1e-6, 1 - 1e-6)
    z = np.log(p / (1 - p))

    def loss(point: Array) -> tuple[float, Array]:
        logits = point[0] * z + point[1]
        errors = (sigmoid(logits) - hit) / len(z)
        return float((np.logaddexp(0, logits) - hit * logits).mean()), np.array([errors @ z, errors.sum()])

    return float(minimise(loss, np.array([1.0, 0.0]), exact=1e-10)[0])


def bins(hit: npt.NDArray[np.bool_], probability: Array) -> list[dict[str, float]]:
    """For a calibration plot: of each bin with texts, how many, their mean probability, and how many hit."""
    which = np.minimum((probability * BINS).astype(np.int64), BINS - 1)
    return [
        {"n": int(one.sum()), "probability": float(probability[one].mean()), "hits": float(hit[one].mean())}
        for one in (which == b for b in range(BINS))
        if one.any()
    ]


def confusion(labels: Labels, predicted: Labels, classes: int) -> list[list[int]]:
    """Rows are labels, columns what was predicted."""
    table = np.zeros((classes, classes), np.int64)
    np.add.at(table, (labels, predicted), 1)
    return [[int(count) for count in row] for row in table]


def interval(hit: npt.NDArray[np.bool_], score: Array, *, draws: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95 % of the AUROC, by resampling the texts (percentile bootstrap)."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        which = rng.integers(0, len(hit), len(hit))
        value = auroc(hit[which], score[which])
        if value is not None:
            found.append(value)
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)
