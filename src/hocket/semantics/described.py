"""Classes told apart from a few sentences each: what a class means in plain words, and examples if there are any.

Two ways are mixed. Which sentences is a text nearest to (a mean of kernels, so one sentence that fits is enough)? That
needs no text of the domain. And an ordinal fit that takes every sentence for a labelled text, which learns what tells
the classes apart, and is the better of the two from about ten sentences a class. Nothing says how often each class
comes, so the shares are not calibrated; with some hundred labelled texts, `hocket urgency train` does better.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hocket.errors import InputError
from hocket.semantics.domain import learn_domain
from hocket.semantics.features import Floats, keep, piece_buckets, word_buckets, words
from hocket.semantics.fields import Value
from hocket.semantics.head import Featurizer, Predicted
from hocket.semantics.ordinal import class_shares, fit, sigmoid
from hocket.semantics.shouting import calm

if TYPE_CHECKING:
    from hocket.semantics.encoder import Encoder

TEMPERATURE = 0.1
"of the kernel, in cosines"
ENOUGH = 10.0
"sentences a class from which the fit weighs more than the kernel"
RIDGE = 2.0
_SENTENCE = re.compile(r"(?<=[.!?;])\s+|\n+")


class Described:
    """A model of described classes. Raises InputError: fewer than two classes, or one without words.

    classes: urgency -> texts. The first says what the class means, and is taken sentence by sentence; the others are
    examples, each taken whole.
    """

    def __init__(self, classes: Mapping[int, Sequence[str]], encoder: Encoder) -> None:
        self.encoder, self.classes, self.declared = encoder, sorted(classes), list[str]()
        if len(classes) < 2:
            raise InputError("fewer than two classes are described; there is nothing to tell apart")
        sentences = [_sentences(classes[urgency]) for urgency in self.classes]
        for urgency, found in zip(self.classes, sentences, strict=True):
            if not found:
                raise InputError(f"the class {urgency} is not described; say in a sentence what its texts are about")
        texts = [one for found in sentences for one in found]
        labels = np.repeat(np.arange(len(sentences)), [len(found) for found in sentences])
        vectors = encoder.encode(texts)
        self._centre = vectors.mean(axis=0)
        self._near = [_unit(vectors[labels == k] - self._centre) for k in range(len(sentences))]
        buckets = [words(one) for one in texts]
        kept = keep([word_buckets(one) for one in buckets], 1), keep([piece_buckets(one) for one in buckets], 1)
        self._features = Featurizer([], kept)
        self._fit = fit(self._features.rows(texts, vectors, [{}] * len(texts))[0], labels, len(sentences), RIDGE)
        each = len(texts) / len(sentences)
        self._learned = each / (each + ENOUGH)
        self.domain = learn_domain(vectors)

    def predict(self, texts: Sequence[str], given: Sequence[Mapping[str, Value]]) -> Predicted:
        """What each text is; the fields are not looked at. A text's class is the median of its shares."""
        quiet = [calm(text) for text in texts]
        vectors = self.encoder.encode(quiet)
        rows, strange = self._features.rows(quiet, vectors, given)
        learned = class_shares(sigmoid(self._fit.logits(rows)))
        shares = self._learned * learned + (1 - self._learned) * self._nearest(vectors)
        number = (np.cumsum(shares, axis=1)[:, :-1] < 0.5).sum(axis=1)
        return Predicted(shares, number, self.domain.likeness(vectors, strange))

    def _nearest(self, vectors: Floats) -> npt.NDArray[np.float64]:
        away = _unit(vectors - self._centre)
        kernels = [np.exp(away @ near.T / TEMPERATURE).mean(axis=1) for near in self._near]
        close = np.stack(kernels, axis=1).astype(np.float64)
        return np.asarray(close / close.sum(axis=1, keepdims=True), np.float64)


def _sentences(texts: Sequence[str]) -> list[str]:
    parts = [*_SENTENCE.split(texts[0]), *texts[1:]] if texts else []
    return [quiet for part in parts if words(quiet := calm(part))]


def _unit(vectors: Floats) -> Floats:
    lengths = np.sqrt((vectors**2).sum(axis=1, keepdims=True))
    return np.asarray(np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0), np.float32)
