"""Is a text of the kind that was learned? How far its vector lies from those of the training, by their own spread.

The distance is Mahalanobis's with a covariance that is drawn towards a sphere (Lee et al., 2018, use it to find inputs
from elsewhere; Ledoit and Wolf, 2004, why to draw). Distances of texts that were held out say what is far: the share
of them at least as far is a conformal p-value (Vovk et al., 2005), so that about so many texts of the domain are
refused as one asks for.
"""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from hocket.semantics.features import Floats

SHRINKAGE = 3.0
"of the covariance: so many times the mean variance is added to every direction"
DIRECTIONS = 64
"that have a spread of their own; the others share one"
_FOLDS = 5
_MOST_DISTANCES = 256


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

    def likeness(self, vectors: Floats) -> npt.NDArray[np.float64]:
        """(n,): for each vector the share of held-out texts that lie at least as far; near 0 is elsewhere."""
        far = self.distance(vectors)
        nearer = np.searchsorted(self.distances, far, side="left")
        return (len(self.distances) - nearer + 1) / (len(self.distances) + 1)

    def distance(self, vectors: Floats) -> npt.NDArray[np.float64]:
        """(n,): squared, in units of the spread."""
        away = vectors - self.mean
        along = (away @ self.directions.T) ** 2
        rest = (away**2).sum(axis=1) - along.sum(axis=1)
        return np.asarray(along @ (1 / self.spread[:-1]) + rest / self.spread[-1], np.float64)


def learn_domain(vectors: Floats) -> Domain:
    """The domain of some texts: with fewer than five there is no telling, and everything is far."""
    domain = _shape(vectors)
    fold = np.arange(len(vectors)) % _FOLDS
    held = [_shape(vectors[fold != k]).distance(vectors[fold == k]) for k in range(_FOLDS) if len(vectors) >= _FOLDS]
    distances = np.sort(np.concatenate(held)) if held else np.zeros(0)
    if len(distances) > _MOST_DISTANCES:
        distances = np.quantile(distances, np.linspace(0, 1, _MOST_DISTANCES))
    return msgspec.structs.replace(domain, distances=distances.astype(np.float32))


def _shape(vectors: Floats) -> Domain:
    mean = vectors.mean(axis=0)
    _, sizes, directions = np.linalg.svd(vectors - mean, full_matrices=False)
    variances = sizes**2 / max(len(vectors) - 1, 1)
    r = min(DIRECTIONS, len(sizes))
    total = float(variances.sum())
    others = vectors.shape[1] - r
    rest = float(variances[r:].sum()) / others if others else 0.0
    added = SHRINKAGE * max(total, 1e-6) / vectors.shape[1]
    spread = np.append(variances[:r], rest) + added
    return Domain(mean, directions[:r].astype(np.float32), spread.astype(np.float32), np.zeros(0, np.float32))
