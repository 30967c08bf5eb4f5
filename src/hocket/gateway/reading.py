"""The readers of the settings, loaded: one for each domain, and what of a request each of them is shown.

`hocket.semantics` and its libraries are imported only where the settings name a reader. Texts pass through here;
nothing keeps, logs or raises one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from hocket.errors import InputError
from hocket.gateway.openai import Request
from hocket.settings.urgency import ReaderSettings, UrgencySettings

if TYPE_CHECKING:
    from hocket.semantics.reader import Reader

log = logging.getLogger("hocket.gateway")

QUICK = frozenset({"static"})
"encoders that take less than a millisecond: their readings are there before the call arrives"
QUICK_BYTES = 2**18
"a larger request is read beside the event loop, whoever reads it"

_object = msgspec.json.Decoder(dict[str, object])


class Read(Struct, frozen=True):
    """What came of reading one request."""

    urgency: int | None
    "0 to 4, by its words alone; None = the reader abstains"
    reason: str
    "one of hocket.semantics.text.REASONS, or `failed`"
    text: str = ""
    "what was read, cut: for the judge, and for nobody after it"
    seconds: float = 0.0
    "that it took; 0 = there was nothing to read"


class Domain:
    """A reader at work: for which jobs, and how far it may move them."""

    def __init__(self, settings: ReaderSettings, reader: Reader) -> None:
        self.settings, self._reader = settings, reader
        self.name = settings.name
        #: feature -> where it stands in a request, which is under its own name if the settings do not say
        self._paths = {name: settings.features.get(name, name) for name in reader.model.declared}
        self._quick = reader.encoder.name in QUICK
        self._failed = False

    def quick(self, body: bytes) -> bool:
        """Whether a request can be read while everything else waits."""
        return self._quick and len(body) <= QUICK_BYTES

    def read(self, asked: Request, body: bytes) -> Read:
        """Read the user's last turn, and the declared fields in it or else beside it. From any thread.

        Never raises: a reader that fails abstains, and says so once.
        """
        began = time.perf_counter()
        try:
            return self._read(asked, body, began)
        except Exception as error:  # noqa: BLE001  no text may cost a call; and what was read must not reach the log
            if not self._failed:
                self._failed = True
                log.error("the reader '%s' failed (%s): its jobs keep their class", self.name, type(error).__name__)
            return Read(None, "failed", seconds=time.perf_counter() - began)

    def _read(self, asked: Request, body: bytes, began: float) -> Read:
        from hocket.semantics.text import words_of

        paths = tuple(self._paths.values())
        found = words_of(memoryview(asked.messages) or memoryview(asked.input) or memoryview(asked.prompt), paths)
        if found.reason != "read":
            return Read(None, found.reason)
        fields = found.fields
        if len(fields) < len(paths):
            fields = {**_beside(body, paths), **fields}
        named = {name: fields[path] for name, path in self._paths.items() if path in fields}
        reading = self._reader.read(found.text, named)
        return Read(reading.urgency, reading.reason, found.text, time.perf_counter() - began)

    def moved(self, prior: int, urgency: int) -> int:
        """The class of a job that was of class `prior` and whose words say `urgency`."""
        bound = self.settings.moves_at_most
        return min(max(urgency, prior - bound), prior + bound)


def _beside(body: bytes, paths: Sequence[str]) -> dict[str, float | str]:
    """The declared fields of a request's own JSON; none where it holds what cannot be taken apart, as 1e999."""
    from hocket.semantics.text import declared_fields

    try:
        return declared_fields(_object.decode(body), paths)
    except (msgspec.MsgspecError, RecursionError):
        return {}


def load(settings: UrgencySettings) -> list[Domain]:
    """Bring all readers, in their order. Takes up to a second each.

    Raises InputError where a model is missing or broken, unless `if_unreadable: serve` goes on without that reader.
    """
    domains = []
    for i, one in enumerate(settings.readers):
        try:
            domains.append(Domain(one, reader_of(one)))
        except InputError as error:
            problem = f"urgency.readers[{i}] ('{one.name}'): {error}"
            if settings.if_unreadable == "refuse":
                raise InputError(f"{problem}; `urgency.if_unreadable: serve` would go on without it") from None
            log.error("%s; the gateway goes on without this reader", problem)
    return domains


def reader_of(settings: ReaderSettings) -> Reader:
    """The reader that a domain's settings describe. Raises InputError."""
    try:
        reader = _loaded(settings)
    except ImportError as error:
        remedy = "install it: pip install 'hocket[words]'"
        raise InputError(f"reading words needs a package that is not there ({error.name}); {remedy}") from None
    trained_on, declared = reader.encoder.name, reader.model.declared
    if settings.encoder not in (None, trained_on):
        raise InputError(
            f"{settings.head} was trained on the encoder {trained_on}, not {settings.encoder}; "
            f"train it anew with --encoder {settings.encoder}, or leave `encoder` out"
        )
    for name in settings.features:
        if name not in declared:
            known = ", ".join(declared) or "none"
            raise InputError(f"{settings.head} was trained without the feature '{name}' (with: {known}); remove it")
    return reader


def _loaded(settings: ReaderSettings) -> Reader:
    from hocket.semantics.reader import Reader

    bound = settings.moves_at_most
    if settings.head is not None:
        return Reader.load(settings.head, bound=bound)
    classes = {number: [one.means, *one.examples] for number, one in settings.classes.items()}
    return Reader.described(classes, settings.encoder or "static", bound=bound)
