"""Learn a head from labelled texts: choose how much to shrink, calibrate and cut on texts that were held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hocket.errors import InputError
from hocket.semantics import measures
from hocket.semantics.domain import learn_domain
from hocket.semantics.features import Rows, held_out_strangeness, keep, piece_buckets, word_buckets, words
from hocket.semantics.fields import Value, learn_fields
from hocket.semantics.head import Example, Featurizer, Head, expected, scaled
from hocket.semantics.ordinal import Labels, Matrix, calibrate, class_shares, fit, sigmoid
from hocket.semantics.shouting import calm, shouted
from hocket.semantics.text import cut

if TYPE_CHECKING:
    from hocket.semantics.encoder import Encoder

RIDGES = (16.0, 4.0, 1.0)
"tried, the strongest first"
FOLDS = 5
LEAST = 2
"texts of a class, so that one can be held out"


class Labelled:
    """Texts, as much of each as is read of a request, with their urgency and, where there are any, their fields."""

    def __init__(
        self, texts: Sequence[str], urgency: Sequence[int], given: Sequence[Mapping[str, Value]] | None = None
    ) -> None:
        self.texts, self.urgency = [cut(text) for text in texts], np.array(urgency, np.int64)
        self.given: list[Mapping[str, Value]] = list(given) if given is not None else [{} for _ in texts]

    def __len__(self) -> int:
        return len(self.texts)


def train(data: Labelled, encoder: Encoder, features: Sequence[str] = (), *, keep_examples: bool = False) -> Head:
    """Learn a head. The same data give the same head. Raises InputError: too few texts, or features that are none."""
    classes, labels, counts = np.unique(data.urgency, return_inverse=True, return_counts=True)
    _check(classes, counts)
    quiet = [calm(text) for text in data.texts]
    vectors = encoder.encode(quiet)
    fields = learn_fields(features, data.given)
    found = [words(text) for text in quiet]
    least = 2 if len(data) >= 100 else 1
    kept = keep([word_buckets(one) for one in found], least), keep([piece_buckets(one) for one in found], least)
    loud = shouted(quiet)
    featurizer = Featurizer(fields, kept)
    every, _ = featurizer.rows(
        [*quiet, *loud], np.concatenate([vectors, encoder.encode(loud)]), [*data.given, *data.given]
    )
    best, logits = _held_out(every, labels, len(classes))
    scale = calibrate(logits, labels)
    shares = class_shares(sigmoid(logits * scale.slopes + scale.offsets))
    whole = fit(every, np.tile(labels, 2), len(classes), best)
    weights, offsets = scaled(whole.weights, whole.offsets, scale)
    examples = zip(data.texts, data.urgency.tolist(), vectors, strict=True)
    return Head(
        encoder=encoder.name,
        classes=classes.tolist(),
        trained_on=counts.tolist(),
        fields=fields,
        words=kept[0],
        pieces=kept[1],
        weights=weights,
        offsets=offsets,
        slopes=scale.slopes.astype(np.float32),
        cuts=_cuts(shares, counts),
        domain=learn_domain(vectors, *held_out_strangeness([word_buckets(one)[: len(one)] for one in found], least)),
        examples=[Example(*one) for one in examples] if keep_examples else [],
        held_out=measures.measure(labels, shares, np.searchsorted(_cuts(shares, counts), expected(shares))),
    )


def _check(classes: Labels, counts: Labels) -> None:
    if len(classes) < 2:
        raise InputError("the labels name fewer than two classes; there is nothing to tell apart")
    for urgency, count in zip(classes, counts, strict=True):
        if count < LEAST:
            raise InputError(f"the class {urgency} has only {count} text; give it {LEAST} or more, or merge it")


def _folds(labels: Labels) -> Labels:
    """Which fold holds out each text: the texts of a class are dealt out in turn."""
    fold = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        fold[members] = np.arange(len(members)) % FOLDS
    return fold


def _held_out(every: Rows, labels: Labels, classes: int) -> tuple[float, Matrix]:
    """The best ridge, and under it the logits of each text by a fit that had not seen it."""
    n = len(labels)
    fold = _folds(labels)
    loudly = np.tile(labels, 2)
    second = np.repeat([False, True], n)
    at_most = labels[:, None] <= np.arange(classes - 1)
    logits = {ridge: np.empty((n, classes - 1)) for ridge in RIDGES}
    for k in np.unique(fold):
        out = np.tile(fold == k, 2)
        seen, held = every.some(~out), every.some(out & ~second)
        start = None
        for ridge in RIDGES:
            found = fit(seen, loudly[~out], classes, ridge, start)
            logits[ridge][fold == k], start = found.logits(held), found.point

    def loss(ridge: float) -> float:
        scale = calibrate(logits[ridge], labels)
        z = logits[ridge] * scale.slopes + scale.offsets
        return float((np.logaddexp(0, z) - at_most * z).mean())

    best = min(RIDGES, key=loss)
    return best, logits[best]


def _cuts(shares: Matrix, counts: Labels) -> npt.NDArray[np.float32]:
    """Where to cut the expected class number, so that as many held-out texts fall in each class as are of it."""
    upto = np.cumsum(counts)[:-1] / counts.sum()
    return np.asarray(np.quantile(expected(shares), upto), np.float32)
