"""What was learned of one domain: how likely each class is, given a text's vector, its words and its fields.

A head is one JSON file of a few hundred kilobytes that holds numbers, no texts (unless examples were asked for).
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from hocket.errors import InputError
from hocket.semantics.domain import Domain
from hocket.semantics.features import BITS, Floats, Kept, Rows, piece_buckets, rows, strangeness, word_buckets, words
from hocket.semantics.fields import Field, Value, matrix
from hocket.semantics.ordinal import Scale, class_shares, sigmoid
from hocket.semantics.shouting import calm

if TYPE_CHECKING:
    from hocket.semantics.encoder import Encoder

FORMAT = "hocket urgency head"
VERSION = 1
VECTOR_WEIGHT, FIELD_WEIGHT = 0.7, 0.3
"against 1 for the words and 1 for the pieces of words: each of these is a vector of length 1"
_REMEDY = "make it with `hocket urgency train`"


class Example(msgspec.Struct):
    """A text of the training, kept because it was asked for."""

    text: str
    urgency: int
    vector: Floats


class Head(msgspec.Struct, kw_only=True):
    """A head, as its file holds it."""

    encoder: str
    "name of the encoder whose vectors it reads"
    classes: list[int]
    "urgency of each class, most urgent first"
    trained_on: list[int]
    "texts of each class"
    fields: list[Field]
    words: Kept
    pieces: Kept
    weights: Floats
    "(vector + fields + words + pieces, borders)"
    offsets: Floats
    "(borders,)"
    slopes: Floats
    "(borders,): of the calibration, already in the weights and offsets; near 1 where nothing had to be set right"
    cuts: Floats
    "(borders,): expected class number where one class ends and the next begins"
    domain: Domain
    examples: list[Example] = []
    held_out: dict[str, Any] = {}
    "measures of the training rows, each held out once"


class Predicted(NamedTuple):
    """For n texts, with K classes."""

    shares: npt.NDArray[np.float64]
    "(n, K): how likely each class is"
    number: npt.NDArray[np.int64]
    "(n,): which class, 0 to K - 1"
    in_domain: Floats
    "(n,), 0 to 1"


class Featurizer:
    """Texts and fields to rows of features: what training and reading share."""

    def __init__(self, fields: Sequence[Field], kept: tuple[Kept, Kept], usual: float = 0.0) -> None:
        self._fields, self._usual = fields, usual
        self._kept = [(one, one.table()) for one in kept]
        self._width = sum(len(one.buckets) for one in kept)

    def rows(self, texts: Sequence[str], vectors: Floats, given: Sequence[Mapping[str, Value]]) -> tuple[Rows, Floats]:
        """One row a text, and how strange its words are; the texts are calm, the vectors theirs."""
        dense = np.concatenate([VECTOR_WEIGHT * vectors, FIELD_WEIGHT * matrix(self._fields, given)], axis=1)
        sparse = [self._sparse(text) for text in texts]
        found = rows(dense.astype(np.float64), [one[:2] for one in sparse], self._width)
        return found, np.array([strange for _, _, strange in sparse], np.float32)

    def _sparse(self, text: str) -> tuple[npt.NDArray[np.int64], Floats, float]:
        (kept, table), (pieces, piece_table) = self._kept
        found = words(text)
        buckets = word_buckets(found)
        strange = strangeness(kept.rarities(table, buckets[: len(found)]), self._usual)
        columns, values = kept.row(table, buckets)
        more, further = pieces.row(piece_table, piece_buckets(found))
        every = np.concatenate([columns, more + len(kept.buckets)]).astype(np.int64)
        return every, np.concatenate([values, further]), strange


class Trained:
    """A head that is ready to predict, with its encoder. Raises InputError where the two do not go together."""

    def __init__(self, head: Head, encoder: Encoder) -> None:
        if head.encoder != encoder.name or len(head.domain.mean) != encoder.dimension:
            raise InputError(
                f"the head was trained on the encoder {head.encoder!r} ({len(head.domain.mean)} dimensions), "
                f"not on {encoder.name!r} ({encoder.dimension}); {_REMEDY} --encoder {encoder.name}"
            )
        self.head, self.encoder, self.classes = head, encoder, head.classes
        self.declared = [field.name for field in head.fields]
        self._features = Featurizer(head.fields, (head.words, head.pieces), head.domain.usual)
        self._weights = head.weights.astype(np.float64)

    def predict(self, texts: Sequence[str], given: Sequence[Mapping[str, Value]]) -> Predicted:
        """What each text, with its fields, is."""
        quiet = [calm(text) for text in texts]
        vectors = self.encoder.encode(quiet)
        found, strange = self._features.rows(quiet, vectors, given)
        at_most = sigmoid(found.times(self._weights) + self.head.offsets)
        shares = class_shares(at_most)
        number = np.searchsorted(self.head.cuts, expected(shares))
        return Predicted(shares, number, self.head.domain.likeness(vectors, strange))


def expected(shares: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(n,): the mean class number under (n, K) shares."""
    return np.asarray(shares @ np.arange(shares.shape[1]), np.float64)


def scaled(weights: npt.NDArray[np.float64], offsets: npt.NDArray[np.float64], scale: Scale) -> tuple[Floats, Floats]:
    """Weights and offsets with the calibration in them."""
    return (
        (weights * scale.slopes).astype(np.float32),
        (offsets * scale.slopes + scale.offsets).astype(np.float32),
    )


# ---------------------------------------------------------------- file


class _File(msgspec.Struct, forbid_unknown_fields=True):
    format: str
    version: int
    sha256: str
    head: msgspec.Raw


def encode_head(head: Head) -> bytes:
    """The file of a head: the same bytes for the same head."""
    body = msgspec.json.encode(head, enc_hook=_encode_array)
    return msgspec.json.encode(_File(FORMAT, VERSION, hashlib.sha256(body).hexdigest(), msgspec.Raw(body))) + b"\n"


def write_head(file: str | Path, head: Head) -> None:
    """Write a head; the file appears whole or not at all. Raises InputError."""
    target = Path(file)
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        draft.write_bytes(encode_head(head))
        draft.replace(target)
    except OSError as error:
        with suppress(OSError):
            draft.unlink()
        raise InputError(f"{target}: cannot be written ({error.strerror}); check the folder") from None


def read_head(file: str | Path) -> Head:
    """Read a head. Raises InputError: which file, what is wrong, what to do."""
    try:
        body = Path(file).read_bytes()
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); check the path, or {_REMEDY}") from None
    try:
        found = msgspec.json.decode(body, type=_File)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        raise InputError(f"{file}: not a head, or cut off; {_REMEDY}") from None
    if found.format != FORMAT:
        raise InputError(f"{file}: not a head; {_REMEDY}")
    if found.version != VERSION:
        raise InputError(f"{file}: a head of version {found.version}, this hocket reads {VERSION}; {_REMEDY} again")
    if hashlib.sha256(found.head).hexdigest() != found.sha256:
        raise InputError(f"{file}: damaged, its checksum is wrong; {_REMEDY} again")
    try:
        head = msgspec.json.decode(found.head, type=Head, dec_hook=_decode_array)
        _check(head)
    except (msgspec.MsgspecError, ValueError, TypeError, LookupError) as error:
        raise InputError(f"{file}: a damaged head ({error}); {_REMEDY} again") from None
    return head


def _check(head: Head) -> None:
    """Whether its parts go together; a checksum does not say that of a file that was written by hand."""
    borders = len(head.classes) - 1
    width = len(head.domain.mean) + sum(field.width for field in head.fields)
    width += len(head.words.buckets) + len(head.pieces.buckets)
    if borders < 1 or head.classes != sorted(set(head.classes)) or not set(head.classes) <= set(range(5)):
        raise ValueError("its classes are not two or more of 0 to 4")
    if head.weights.shape != (width, borders) or not len(head.offsets) == len(head.cuts) == borders:
        raise ValueError("its arrays do not go together")
    dimension, directions = len(head.domain.mean), len(head.domain.directions)
    shapes = {(directions, dimension): head.domain.directions, (directions + 1,): head.domain.spread}
    if any(one.shape != shape for shape, one in shapes.items()) or not len(head.domain.strangest):
        raise ValueError("its domain does not go together")
    for kept in (head.words, head.pieces):
        if kept.buckets.shape != kept.rarity.shape or not ((kept.buckets >= 0) & (kept.buckets < 1 << BITS)).all():
            raise ValueError("its words are not in their buckets")
    if any(one.vector.shape != (dimension,) for one in head.examples):
        raise ValueError("its examples are of another encoder")
    numbers = [head.weights, head.offsets, head.cuts, np.array([field.mean for field in head.fields])]
    if not all(np.isfinite(one).all() for one in numbers) or any(field.deviation <= 0 for field in head.fields):
        raise ValueError("it has numbers that are none")


def _encode_array(array: object) -> dict[str, Any]:
    assert isinstance(array, np.ndarray)
    if array.ndim == 2:  # weights and directions: half the digits do
        array = array.astype(np.float16)
    kind = array.astype(np.int32) if array.dtype == np.int64 else array
    return {"type": kind.dtype.name, "shape": kind.shape, "data": base64.b64encode(kind.tobytes()).decode()}


def _decode_array(_kind: type, value: dict[str, Any]) -> npt.NDArray[Any]:
    kind = {"float16": np.float16, "float32": np.float32, "int32": np.int32}[value["type"]]
    array = np.frombuffer(base64.b64decode(value["data"], validate=True), kind).reshape(value["shape"])
    return array.astype(np.int64 if kind is np.int32 else np.float32)
