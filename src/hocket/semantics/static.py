"""The default encoder: a weighted mean of static word vectors. It needs numpy and no package more.

The vectors are distilled from all-MiniLM-L6-v2 (Reimers and Gurevych, 2019; Apache-2.0) by
`benchmarks/_distil_words.py`, as Model2Vec does it (Tulkens and van Dongen, 2024): what the transformer makes of each
piece of its vocabulary alone, weighed by how rare the piece is (Arora et al., 2017). A text is a table look-up and a
sum. hocket ships them in one file of four megabytes: the vocabulary, and of each piece 256 numbers of 4 bits with a
scale.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hocket.errors import InputError
from hocket.semantics.encoder import Vectors, normalised, readable
from hocket.semantics.packaged import tensors
from hocket.semantics.wordpiece import WordPiece

FILE = Path(__file__).with_name("words.safetensors")
CHECKSUM = "20c9d1a8307271ce80f471d49128cb05605d1c62cc4d934c9ce0d77c8cf59449"
LEVELS = 7
"a number is one of -7 … 7 times its row's scale"


class StaticEncoder:
    """The weighted mean of the vectors of a text's pieces; what the vocabulary does not know counts for nothing."""

    name = "static"

    def __init__(self, file: Path = FILE) -> None:
        try:
            whole = hashlib.sha256(file.read_bytes()).hexdigest() == CHECKSUM
        except OSError:
            whole = False
        if not whole:
            raise InputError(f"{file} is missing or broken; install hocket anew: pip install --force-reinstall hocket")
        table = tensors(file)
        packed = table["codes"]
        self.dimension = 2 * packed.shape[1]
        self._codes = np.empty((len(packed), self.dimension), np.int8)
        self._codes[:, 0::2], self._codes[:, 1::2] = packed & 15, packed >> 4
        self._codes -= 8
        self._scales = table["scales"].astype(np.float32)
        self._pieces = WordPiece(bytes(table["vocabulary"]).decode().split("\n"))
        self._scales[self._pieces.unknown] = 0

    def encode(self, texts: Sequence[str]) -> Vectors:
        """See `Encoder.encode`."""
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        for row, text in zip(vectors, texts, strict=True):
            if pieces := self._pieces(readable(text)):
                # not a matrix product: of a text of many pieces BLAS makes work for several threads, and waits for them
                np.einsum("i,ij->j", self._scales[pieces], self._codes[pieces].astype(np.float32), out=row)
        return normalised(vectors)
