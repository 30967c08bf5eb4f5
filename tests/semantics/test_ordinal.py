"""The fit finds what made the data, calibration undoes a distortion, and the measures agree with their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from hocket.semantics import measures
from hocket.semantics.features import Rows, rows
from hocket.semantics.ordinal import calibrate, class_shares, fit, minimise, sigmoid

RNG = np.random.default_rng(0)


def drawn(n: int = 3000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three classes of a proportional-odds model: features, labels, true weights."""
    features, weights = RNG.normal(size=(n, 4)), np.array([1.5, -1.0, 0.5, 0.0])
    at_most = sigmoid((features @ weights)[:, None] + np.array([-1.0, 1.0]))
    return features, (RNG.random(n)[:, None] > at_most).sum(axis=1), weights


def dense(features: np.ndarray) -> Rows:
    nothing = np.zeros(0, np.int64), np.zeros(0, np.float32)
    return rows(features, [nothing] * len(features), 0)


def sparse(features: np.ndarray) -> Rows:
    every = np.arange(features.shape[1])
    return rows(np.zeros((len(features), 0)), [(every, row.astype(np.float32)) for row in features], features.shape[1])


def test_the_fit_finds_the_weights_that_made_the_labels() -> None:
    features, labels, weights = drawn()
    found = fit(dense(features), labels, 3, ridge=0.1)
    assert found.weights == pytest.approx(np.stack([weights, weights], axis=1), abs=0.25)
    assert found.offsets == pytest.approx([-1, 1], abs=0.2)


def test_dense_and_sparse_columns_are_the_same_to_it() -> None:
    features, labels, _ = drawn(300)
    assert fit(dense(features), labels, 3, 1.0).weights == pytest.approx(
        fit(sparse(features), labels, 3, 1.0).weights, abs=1e-2
    )


def test_some_rows_are_those_rows() -> None:
    features, _, _ = drawn(20)
    which = RNG.random(20) < 0.5
    weights = RNG.normal(size=(4, 2))
    assert sparse(features).some(which).times(weights) == pytest.approx(features[which] @ weights, abs=1e-5)


def test_more_ridge_means_smaller_weights() -> None:
    features, labels, _ = drawn(300)
    sizes = [np.abs(fit(dense(features), labels, 3, ridge).weights).sum() for ridge in (0.1, 10.0, 1000.0)]
    assert sizes[0] > sizes[1] > sizes[2]


def test_minimise_finds_the_lowest_point_of_a_narrow_valley() -> None:
    steep = np.array([1.0, 100.0, 10.0])
    lowest = np.array([3.0, -2.0, 1.0])

    def loss(point: np.ndarray) -> tuple[float, np.ndarray]:
        away = point - lowest
        return float((steep * away**2).sum()), 2 * steep * away

    assert minimise(loss, np.zeros(3)) == pytest.approx(lowest, abs=1e-2)


def test_calibration_undoes_logits_that_are_too_large() -> None:
    features, labels, weights = drawn()
    logits = (features @ weights)[:, None] + np.array([-1.0, 1.0])
    scale = calibrate(3 * logits, labels)
    assert scale.slopes == pytest.approx([1 / 3, 1 / 3], abs=0.05)
    p = class_shares(sigmoid(3 * logits * scale.slopes + scale.offsets))
    told = measures.measure(labels, p, p.argmax(axis=1))
    assert all(0.9 < slope < 1.1 for slope in told["calibration_slope"].values())
    assert told["ece"] < 0.03


def test_shares_of_classes_are_never_negative() -> None:
    shares = class_shares(np.array([[0.5, 0.3, 0.9], [0.1, 0.2, 0.3]]))
    assert (shares >= 0).all()
    assert shares.sum(axis=1) == pytest.approx([1, 1])


def test_auroc_is_the_share_of_pairs_in_order() -> None:
    hit, score = RNG.random(60) < 0.4, RNG.integers(0, 6, 60).astype(float)
    pairs = [(a > b) + (a == b) / 2 for a in score[hit] for b in score[~hit]]
    assert measures.auroc(hit, score) == pytest.approx(np.mean(pairs))
    assert measures.auroc(np.ones(3, bool), np.ones(3)) is None


def test_recall_at_precision_looks_at_every_threshold() -> None:
    hit, score = RNG.random(80) < 0.3, RNG.integers(0, 9, 80) / 9
    found = [hit[score >= t].sum() / hit.sum() for t in set(score) if hit[score >= t].mean() >= 0.5]
    assert measures.recall_at_precision(hit, score) == pytest.approx(max(found, default=0))


def test_kappa_by_its_definition() -> None:
    labels = np.array([0, 0, 1, 1, 2, 2])
    assert measures.kappa(labels, labels, 3) == 1
    assert measures.kappa(labels, np.array([2, 2, 1, 1, 0, 0]), 3) == pytest.approx(-1)
    assert measures.kappa(labels, np.array([0, 1, 1, 1, 2, 1]), 3) == pytest.approx(0.6667, abs=1e-3)


def test_ece_is_zero_where_frequencies_are_the_probabilities() -> None:
    hit = np.array([True, False, False, False] * 10)
    assert measures.ece(hit, np.full(40, 0.25)) == pytest.approx(0)
    assert measures.ece(hit, np.full(40, 0.75)) == pytest.approx(0.5)


def test_measures_go_by_urgency_even_where_a_head_lacks_a_class() -> None:
    shares = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])
    told = measures.by_urgency([0, 3], np.array([0, 1, 3]), shares, shares.argmax(axis=1))
    assert list(told["auroc_at_most"]) == ["0", "1"]
    assert told["confusion"]["1"] == {"0": 0, "1": 0, "3": 1}
    assert told["n"] == 3
