"""Reads how urgent a text is, says when it does not know, and moves a call by a bounded number of classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from hocket.semantics.text import Words, of_text, words_of

if TYPE_CHECKING:
    from hocket.semantics.head import Model

CLASSES = 5
"urgency 0, an emergency, to 4, background"
STRANGE = 0.05
"a text is of another domain if less than this share of the domain's own texts is at least as strange"


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


class Reader:
    """A model that is trusted so far: `bound` classes up or down, and for texts that are not too `strange`."""

    def __init__(self, model: Model, *, bound: int = 1, strange: float = STRANGE) -> None:
        self.model, self.bound, self.strange = model, bound, strange
        self.declared = [field.name for field in model.head.fields]

    @classmethod
    def load(cls, file: str | Path, *, bound: int = 1) -> Reader:
        """The reader of a head's file, on the encoder it was trained with. Raises InputError for either."""
        from hocket.semantics.encoder import encoder
        from hocket.semantics.head import Model, read_head

        head = read_head(file)
        return cls(Model(head, encoder(head.encoder)), bound=bound)

    def read(self, text: str, fields: Mapping[str, float | str] | None = None) -> Reading:
        """What a text, and the fields that the application declares, say. Never raises for any text."""
        found = of_text(text, self.declared)
        return self._read(msgspec.structs.replace(found, fields={**found.fields, **(fields or {})}))

    def read_prompt(self, prompt: bytes | memoryview) -> Reading:
        """As `read`, of the JSON value of a request's `messages`, `input` or `prompt`."""
        return self._read(words_of(prompt, self.declared))

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
        for urgency, share in zip(self.model.head.classes, found.shares[0].tolist(), strict=True):
            shares[urgency] = share
        likeness = float(found.in_domain[0])
        if likeness < self.strange:
            return Reading(None, tuple(shares), likeness, "out_of_domain")
        return Reading(self.model.head.classes[int(found.number[0])], tuple(shares), likeness, "read")
