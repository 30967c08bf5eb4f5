"""The default encoder: the mean direction of static word vectors.

The vectors are WordLlama's (256 dimensions, MIT licence), learned from the token embeddings of large language models;
the package `wordllama` ships them with their tokenizer. Its own loader looks for them on the network, so the two files
are read here. A text is a table look-up and a mean: no matrix product, no torch.

Each token counts by its direction alone, and letters are made small first: long vectors belong to rare pieces of words,
not to telling ones, and capitals to manner, not to meaning. Both read better (docs/decisions/encoders.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hocket.errors import InputError
from hocket.semantics.encoder import Vectors, normalised, readable
from hocket.semantics.packaged import packaged_file, tensors

REMEDY = "pip install 'hocket[words]'"
TABLE = "wordllama/weights/l2_supercat_256.safetensors"
TOKENIZER = "wordllama/tokenizers/l2_supercat_tokenizer_config.json"


class StaticEncoder:
    """The mean of the directions of a text's tokens."""

    name = "static"

    def __init__(self) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise InputError(f"the encoder 'static' needs the package tokenizers ({error}); {REMEDY}") from None
        table = tensors(packaged_file("wordllama", TABLE, remedy=REMEDY))
        self._table = table["embedding.weight"]
        self.dimension = self._table.shape[1]
        self._tokenizer = Tokenizer.from_file(str(packaged_file("wordllama", TOKENIZER, remedy=REMEDY)))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def encode(self, texts: Sequence[str]) -> Vectors:
        """See `Encoder.encode`."""
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        for row, text in zip(vectors, texts, strict=True):
            tokens = self._tokenizer.encode(readable(text).lower(), add_special_tokens=False).ids
            if tokens:
                normalised(self._table[tokens].astype(np.float32)).sum(axis=0, out=row)
        return normalised(vectors)
