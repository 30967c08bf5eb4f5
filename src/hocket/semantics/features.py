"""Which words stand in a text, as a row of numbers: what a mean of word vectors blurs.

Words, pairs of words and pieces of words (so that `breathing`, `breathe` and `brething` share most) are
hashed into buckets. The buckets that were seen in more than one text of the training are kept, with the weight of a
rare word over a common one (tf-idf: Spärck Jones, 1972). A file of them holds no word of any text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple
from zlib import crc32

import msgspec
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Buckets = npt.NDArray[np.int64]

BITS = 20
"of a bucket: 20,000 kept ones of a million leave a new word 2 % to be taken for another"
PIECES = (4,)
"letters of a piece of a word, its margins included"
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # of the golden ratio: Fibonacci hashing
_WORD = re.compile(r"\w+")
_SPACE = 32


class Kept(msgspec.Struct):
    """The buckets that a model knows, and what each weighs."""

    buckets: Buckets
    "(n,), increasing"
    rarity: Floats
    "(n,): 1 + log((1 + texts) / (1 + texts with it))"
    unseen: float
    "rarity of any other bucket"

    def table(self) -> npt.NDArray[np.int32]:
        """Bucket -> its column, or -1: (2^BITS,)."""
        found = np.full(1 << BITS, -1, np.int32)
        found[self.buckets] = np.arange(len(self.buckets), dtype=np.int32)
        return found

    def row(self, table: npt.NDArray[np.int32], buckets: Buckets) -> tuple[npt.NDArray[np.int32], Floats]:
        """The columns of a text's buckets and their values: a vector of length 1, or of none."""
        columns = table[buckets]
        columns, counts = np.unique(columns[columns >= 0], return_counts=True)
        values = (1 + np.log(counts)).astype(np.float32) * self.rarity[columns]
        length = float(np.sqrt(values @ values))
        return columns, values / np.float32(length) if length else values

    def rarities(self, table: npt.NDArray[np.int32], buckets: Buckets) -> Floats:
        """Of each bucket."""
        columns = table[buckets]
        return np.where(columns < 0, np.float32(self.unseen), self.rarity[columns])


def keep(texts: Sequence[Buckets], least: int = 2) -> Kept:
    """The buckets that at least so many texts have."""
    seen = np.concatenate([np.unique(one) for one in texts]) if texts else np.zeros(0, np.int64)
    buckets, counts = np.unique(seen, return_counts=True)
    enough = counts >= least
    return Kept(buckets[enough], _rarity(len(texts), counts[enough]), float(_rarity(len(texts), np.zeros(1))[0]))


def _rarity(texts: int, with_it: npt.NDArray[Any]) -> Floats:
    return np.asarray(1 + np.log((1 + texts) / (1 + with_it)), np.float32)


def strangeness(rarities: Floats, usual: float) -> float:
    """How much rarer a text's words are than usual.

    Their sum over n^0.75: a mean (n) is blind to how much there is of what is strange, a z-score (n^0.5) forgives
    short texts everything.
    """
    return float((rarities - usual).sum() / max(len(rarities), 1) ** 0.75)


def held_out_strangeness(texts: Sequence[Buckets], least: int) -> tuple[Floats, float]:
    """How strange each text would be to `keep` of all the others, (texts,), and what is usual: their mean rarity."""
    seen, counts = np.unique(np.concatenate([np.unique(one) for one in texts]), return_counts=True)
    others = counts - 1
    rarity = _rarity(len(texts) - 1, np.where(others >= least, others, 0))
    found = [rarity[np.searchsorted(seen, one)] for one in texts]
    usual = float(np.mean(np.concatenate(found))) if len(seen) else 0.0
    return np.array([strangeness(one, usual) for one in found], np.float32), usual


def words(text: str) -> list[str]:
    """The words of a text, in small letters."""
    return _WORD.findall(text.lower())


def word_buckets(found: Sequence[str]) -> Buckets:
    """A bucket for each word and each pair of neighbours."""
    codes = [crc32(word.encode("utf-8", "replace")) for word in found]
    codes += [(31 * one + two) & 0xFFFFFFFF for one, two in pairwise(codes)]
    return _bucket(np.array(codes, np.uint64))


def piece_buckets(found: Sequence[str]) -> Buckets:
    """A bucket for each piece of a word; a piece at its margin is another one than the same letters inside."""
    codes = np.frombuffer(f" {' '.join(found)} ".encode("utf-32-le", "replace"), np.uint32).astype(np.uint64)
    spaces = codes == _SPACE
    pieces = []
    for size in PIECES:
        count = len(codes) - size + 1
        if count <= 0:
            break
        hashed = np.full(count, size, np.uint64)
        across = np.zeros(count, np.bool_)  # a piece of two words is none
        for at in range(size):
            hashed = hashed * np.uint64(1_000_003) + codes[at : at + count]
            if 0 < at < size - 1:
                across |= spaces[at : at + count]
        pieces.append(hashed[~across])
    return _bucket(np.concatenate(pieces)) if pieces else np.zeros(0, np.int64)


def _bucket(hashed: npt.NDArray[np.uint64]) -> Buckets:
    return (hashed * _FACTOR >> np.uint64(64 - BITS)).astype(np.int64)


class Rows(NamedTuple):
    """Rows of features: some columns are dense, the others sparse and behind them."""

    dense: npt.NDArray[np.float64]
    "(rows, p)"
    row: npt.NDArray[np.int64]
    "(entries,): of each entry of the sparse part"
    column: npt.NDArray[np.int64]
    "(entries,), from 0"
    value: npt.NDArray[np.float64]
    "(entries,)"
    sparse_width: int

    @property
    def width(self) -> int:
        """How many columns there are."""
        return int(self.dense.shape[1]) + self.sparse_width

    def __len__(self) -> int:
        return len(self.dense)

    def times(self, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """(rows, k) = self @ weights (width, k)."""
        p = self.dense.shape[1]
        found = self.dense @ weights[:p]
        for k in range(weights.shape[1]):
            products = self.value * weights[p:, k][self.column]
            found[:, k] += np.bincount(self.row, products, len(self))
        return found

    def back(self, errors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """(width, k) = selfᵀ @ errors (rows, k)."""
        sparse = [
            np.bincount(self.column, self.value * errors[:, k][self.row], self.sparse_width)
            for k in range(errors.shape[1])
        ]
        return np.concatenate([self.dense.T @ errors, np.stack(sparse, axis=1)])

    def some(self, which: npt.NDArray[np.bool_]) -> Rows:
        """The rows for which `which` is true."""
        entries = which[self.row]
        places = np.cumsum(which) - 1
        return Rows(
            self.dense[which],
            places[self.row[entries]],
            self.column[entries],
            self.value[entries],
            self.sparse_width,
        )


def rows(dense: npt.NDArray[np.float64], sparse: Iterable[tuple[npt.NDArray[np.int64], Floats]], width: int) -> Rows:
    """Rows of a dense part and, for each, the columns and values of its sparse part."""
    parts = list(sparse)
    sizes = [len(columns) for columns, _ in parts]
    empty = [np.zeros(0, np.int64)]
    return Rows(
        dense,
        np.repeat(np.arange(len(parts)), sizes),
        np.concatenate([columns for columns, _ in parts] or empty).astype(np.int64),
        np.concatenate([values for _, values in parts] or empty).astype(np.float64),
        width,
    )
