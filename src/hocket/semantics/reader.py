"""Reads how urgent a text is, says when it does not know, and moves a call by a bounded number of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from hocket.semantics.text import Words, of_text, words_of

if TYPE_CHECKING:
    from hocket.semantics.encoder import Encoder
    from hocket.semantics.fields import Value
    from hocket.semantics.head import Predicted

CLASSES = 5
"urgency 0, an emergency, to 4, background"
STRANGE = 0.05
"a text is of another domain if less than this share of the domain's own texts is at least as strange"
SURE = 1.2
"the likeliest class has this many times its share of chance, or the reader abstains"


class Reading(msgspec.Struct, frozen=True):
    """What was read from one text."""

    urgency: int | None
    "0 to 4; None: the reader abstains, and the class that was declared stands"
    probabilities: tuple[float, ...]
    "of urgency 0 to 4; empty where nothing was read"
    in_domain: float
    "0 to 1: share of the domain's own texts that are at least as strange as this one"
    reason: str
    "of hocket.semantics.text.REASONS; `read` where there is an urgency"


class Model(Protocol):
    """What was learned or described of one domain."""

    encoder: Encoder
    classes: list[int]
    "urgency of each class, most urgent first"
    declared: list[str]
    "the fields that it looks at"

    def predict(self, texts: Sequence[str], given: Sequence[Mapping[str, Value]]) -> Predicted:
        """What each text, with its fields, is."""


class Reader:
    """A model that is trusted so far: `bound` classes up or down, and for texts that are not too `strange`."""

    def __init__(self, model: Model, *, bound: int = 1, strange: float = STRANGE) -> None:
        self.model, self.bound, self.strange = model, bound, strange
        self.encoder = model.encoder

    @classmethod
    def load(cls, file: str | Path, *, bound: int = 1) -> Reader:
        """The reader of a head's file, on the encoder it was trained with. Raises InputError for either."""
        from hocket.semantics.encoder import encoder
        from hocket.semantics.head import Trained, read_head

        head = read_head(file)
        return cls(Trained(head, encoder(head.encoder)), bound=bound)

    @classmethod
    def described(cls, classes: Mapping[int, Sequence[str]], encoder_name: str = "static", *, bound: int = 1) -> Reader:
        """The reader of classes in plain words: urgency -> what its texts mean, and examples. Raises InputError."""
        from hocket.semantics.described import Described
        from hocket.semantics.encoder import encoder

        return cls(Described(classes, encoder(encoder_name)), bound=bound)

    def read(self, text: str, fields: Mapping[str, float | str] | None = None) -> Reading:
        """What a text, and the fields that the application declares, say. Never raises for any text."""
        found = of_text(text, self.model.declared)
        return self._read(msgspec.structs.replace(found, fields={**found.fields, **(fields or {})}))

    def read_prompt(self, prompt: bytes | memoryview) -> Reading:
        """As `read`, of the JSON value of a request's `messages`, `input` or `prompt`."""
        return self._read(words_of(prompt, self.model.declared))

    def move(self, prior: int, reading: Reading) -> int:
        """The class of a call that was declared to be `prior`: moved towards the reading, by `bound` at most."""
        if reading.urgency is None:
            return prior
        return min(max(reading.urgency, prior - self.bound), prior + self.bound)

    def _read(self, words: Words) -> Reading:
        if words.reason != "read":
            return Reading(None, (), 0.0, words.reason)
        found = self.model.predict([words.text], [words.fields])
        shares = [0.0] * CLASSES
        for urgency, share in zip(self.model.classes, found.shares[0].tolist(), strict=True):
            shares[urgency] = share
        likeness = float(found.in_domain[0])
        if likeness < self.strange:
            return Reading(None, tuple(shares), likeness, "out_of_domain")
        if max(shares) * len(self.model.classes) < SURE:
            return Reading(None, tuple(shares), likeness, "unsure")
        return Reading(self.model.classes[int(found.number[0])], tuple(shares), likeness, "read")
