"""Is a text of the kind that was learned? Two things tell: how far its vector lies from those of the training, by their
own spread, and how much rarer its words are than usual.

The distance is Mahalanobis's with a covariance that is drawn towards a sphere (Lee et al., 2018, use it to find inputs
from elsewhere; Ledoit and Wolf, 2004, why to draw). Texts that were held out say what is strange: the share of them
that are at least as strange is a conformal p-value (Vovk et al., 2005), so that about so many texts of the domain are
refused as one asks for.
"""

from __future__ import annotations

import msgspec
import numpy as np

from hocket.semantics.features import Floats

SHRINKAGE = 3.0
"of the covariance: so many times the mean variance is added to every direction"
DIRECTIONS = 64
"that have a spread of their own; the others share one"
_FOLDS = 5
_MOST = 256
"held-out texts that are remembered, evenly over their order"
_NONE = np.zeros(0, np.float32)


class Domain(msgspec.Struct):
    """Where the texts of a domain lie. Vectors have d dimensions."""

    mean: Floats
    "(d,)"
    directions: Floats
    "(r, d), orthonormal"
    spread: Floats
    "(r + 1,): variance along each direction, and along every other"
    distances: Floats
    "of held-out texts, increasing"
    rareness: Floats
    "how strange the words of held-out texts are, increasing; empty where that says nothing"
    usual: float
    "mean rarity of a word"
    strangest: Floats
    "of held-out texts, increasing: the smaller of their two shares"

    def likeness(self, vectors: Floats, rareness: Floats) -> Floats:
        """(n,): for each text the share of held-out ones that are at least as strange; near 0 is elsewhere."""
        return _share_above(-self.strangest[::-1], -self.smaller(self.distance(vectors), rareness))

    def smaller(self, distance: Floats, rareness: Floats) -> Floats:
        """(n,): the share of held-out texts that are at least as strange, by the vector or by the words."""
        by_vector = _share_above(self.distances, distance)
        return np.minimum(by_vector, _share_above(self.rareness, rareness)) if len(self.rareness) else by_vector

    def distance(self, vectors: Floats) -> Floats:
        """(n,): squared, in units of the spread."""
        away = vectors - self.mean
        along = (away @ self.directions.T) ** 2
        rest = (away**2).sum(axis=1) - along.sum(axis=1)
        return np.asarray(along @ (1 / self.spread[:-1]) + rest / self.spread[-1], np.float32)


def learn_domain(vectors: Floats, rareness: Floats = _NONE, usual: float = 0.0) -> Domain:
    """The domain of some texts, (n, d), and how strange the words of each are to the others, (n,).

    With fewer than twenty texts none is ever so strange that less than a twentieth of them are at least as strange.
    """
    domain = _shape(vectors)
    fold = np.arange(len(vectors)) % _FOLDS
    distances = np.zeros(len(vectors), np.float32)
    for k in np.unique(fold) if len(vectors) > _FOLDS else ():
        distances[fold == k] = _shape(vectors[fold != k]).distance(vectors[fold == k])
    whole = msgspec.structs.replace(domain, distances=np.sort(distances), rareness=np.sort(rareness), usual=usual)
    strangest = np.sort(whole.smaller(distances, rareness))
    return msgspec.structs.replace(
        whole, distances=_some(whole.distances), rareness=_some(whole.rareness), strangest=_some(strangest)
    )


def _share_above(known: Floats, found: Floats) -> Floats:
    """Of each number the share of the known ones, which increase, that are at least as large."""
    nearer = np.searchsorted(known, found, side="left")
    return np.asarray((len(known) - nearer + 1) / (len(known) + 1), np.float32)


def _some(increasing: Floats) -> Floats:
    """At most so many of them, evenly."""
    if len(increasing) <= _MOST:
        return increasing
    return increasing[np.linspace(0, len(increasing) - 1, _MOST).round().astype(np.int64)]


def _shape(vectors: Floats) -> Domain:
    mean = vectors.mean(axis=0)
    away = (vectors - mean).astype(np.float64)
    variances, directions = np.linalg.eigh(away.T @ away / max(len(vectors) - 1, 1))  # increasing
    most = np.maximum(variances[-DIRECTIONS:], 0)
    rest = float(variances[:-DIRECTIONS].mean()) if len(variances) > DIRECTIONS else 0.0
    added = SHRINKAGE * max(float(variances.mean()), 1e-6)
    spread = (np.append(most, max(rest, 0)) + added).astype(np.float32)
    return Domain(mean, directions[:, -DIRECTIONS:].T.astype(np.float32), spread, _NONE, _NONE, 0.0, _NONE)
