"""Which vector stands for a text? The seam between local embedding models and what is learned on top of them.

An encoder is frozen: it knows nothing of classes or labels. `encoder("static")` is the default: well under a
millisecond a text, numpy alone. `encoder("minilm")` reads better, takes some milliseconds and needs packages
of its own. Texts are data from anywhere: none of them raises.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from hocket.errors import InputError

Vectors = npt.NDArray[np.float32]
"(texts, dimension), every row of length 1, or all zeros for a text without a word"

CHARACTERS = 2048
"of a longer text this many are read"
CHARACTERS_AT_END = 512
"so many of them from its end, where a question often stands; the rest from its beginning"

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]+")


class Encoder(Protocol):
    """Texts in, vectors out: the same ones for the same text, from any thread, whatever else is in the batch."""

    @property
    def name(self) -> str:
        """What `encoder` knows it by."""

    @property
    def dimension(self) -> int:
        """Of a vector."""

    def encode(self, texts: Sequence[str]) -> Vectors:
        """One row a text. Never raises for what a text holds."""


def readable(text: str) -> str:
    """Return what an encoder reads of a text: cut to `CHARACTERS`, without control characters or broken surrogates.

    It is cut first, so that a megabyte costs what four kilobytes cost.
    """
    if len(text) > CHARACTERS:
        text = f"{text[: CHARACTERS - CHARACTERS_AT_END]} {text[-CHARACTERS_AT_END:]}"
    return _CONTROL.sub(" ", text)


def normalised(vectors: Vectors) -> Vectors:
    """Return rows of length 1; a row of zeros stays one."""
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, np.newaxis]
    found: Vectors = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return found


def _static() -> Encoder:
    from hocket.semantics.static import StaticEncoder

    return StaticEncoder()


def _minilm() -> Encoder:
    from hocket.semantics.minilm import MiniLMEncoder

    return MiniLMEncoder()


ENCODERS: dict[str, Callable[[], Encoder]] = {"static": _static, "minilm": _minilm}
"name -> constructor; slow to call (0.1 to 1 s), so make one and keep it"


def encoder(name: str) -> Encoder:
    """Return the encoder of that name.

    Raises InputError: there is none of that name, or its package or files are missing or broken; says what to do.
    """
    make = ENCODERS.get(name)
    if make is None:
        raise InputError(f"there is no encoder {name!r}: choose one of {', '.join(ENCODERS)}")
    return make()
