"""Meters that change what passes: an answer that came compressed, and a usage event that only hocket asked for.

Both are rare or small: a stream that needs neither has the plain meter of `hocket.gateway.answers`.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import msgspec
from aiohttp import hdrs

from hocket.gateway.answers import GarbageError, Meter, StreamEnd
from hocket.gateway.upstream import Answer

MAX_UNPACKED = 2**28
"bytes; an answer that unpacks to more is an attack, or a fault"
MAX_USAGE_EVENT = 2**13
"bytes; a longer event is not the one that holds the usage"
_WBITS = 31
"zlib's window argument for gzip"
_SLICE = 2**14
"bytes unpacked at once: at the end of a member zlib copies what is left of them"

CODING = "gzip"
"the one content coding that hocket can undo, and asks engines for where a client takes it"


@lru_cache(256)  # clients send the same few headers over and over
def accepts(accepted: str, coding: str) -> bool:
    """Whether a client that sent this `Accept-Encoding` can read this `Content-Encoding`. RFC 9110, 12.5.3."""
    star = False
    for item in accepted.lower().split(","):
        name, _, weight = item.partition(";")
        wanted = not re.fullmatch(r"\s*q\s*=\s*0(\.0*)?\s*", weight)
        if name.strip().removeprefix("x-") == coding:
            return wanted
        if name.strip() == "*":
            star = wanted
    return star


def coding_of(headers: Mapping[str, str]) -> str | None:
    """How an answer is packed: `Content-Encoding` without its spellings; None if it is plain."""
    coding = headers.get(hdrs.CONTENT_ENCODING)
    if coding is None:
        return None
    coding = coding.strip().lower().removeprefix("x-")
    return coding if coding not in {"", "identity"} else None


def unpack(body: bytes) -> bytes:
    """A body without its gzip. Raises GarbageError."""
    unpacker = _Unpacker()
    out = unpacker.feed(body)
    if not unpacker.complete:
        raise GarbageError("gzip that ends too early")
    return out


def readable(answer: Answer, accepted: str) -> Answer:
    """An answer as a client with this `Accept-Encoding` can read it: unpacked where it does not take the coding."""
    if coding_of(answer.headers) == CODING and not accepts(accepted, CODING):
        try:
            answer.body = unpack(answer.body)
        except GarbageError:
            return answer
        answer.headers.popall("Content-Encoding")
    return answer


class _Unpacker:
    """Undoes gzip, piece by piece."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(_WBITS)
        self._room = MAX_UNPACKED

    @property
    def complete(self) -> bool:
        return self._zlib.eof

    def feed(self, data: bytes) -> bytes:
        slices = (data[at : at + _SLICE] for at in range(0, len(data), _SLICE))
        return b"".join(piece for some in slices for piece in self._pieces(some))

    def _pieces(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._zlib.eof:  # another member follows
                self._zlib = zlib.decompressobj(_WBITS)
            try:
                piece = self._zlib.decompress(data, self._room + 1)
            except zlib.error as error:
                raise GarbageError(f"gzip that cannot be unpacked: {error}") from None
            self._room -= len(piece)
            if self._room < 0:
                raise GarbageError(f"more than {MAX_UNPACKED >> 20} MiB when unpacked")
            yield piece
            data = self._zlib.unused_data


def meter_for(headers: Mapping[str, str], inner: Meter, accepted: str, sifted: bool) -> tuple[Meter, bool]:
    """The meter of a stream with these headers, and whether it passes packed as it came.

    `accepted`: the client's `Accept-Encoding`. `sifted`: whether hocket alone asked for the usage.
    """
    meter: Meter = WithoutUsage(inner) if sifted else inner
    coding = coding_of(headers)
    if coding is None:
        return meter, False
    if coding != CODING:
        return Opaque(), True
    as_it_came = accepts(accepted, coding) and not sifted
    return Unpacked(meter, as_it_came), as_it_came


class Unpacked:
    """A stream that came as gzip: its meter sees it plain; so does the client, unless it takes it as it came."""

    def __init__(self, inner: Meter, as_it_came: bool) -> None:
        self._inner, self._as_it_came = inner, as_it_came
        self._unpacker = _Unpacker()

    @property
    def events(self) -> int:
        """See `Meter`."""
        return self._inner.events

    def feed(self, chunk: bytes) -> bytes:
        """See `Meter`."""
        out = self._inner.feed(self._unpacker.feed(chunk))
        return chunk if self._as_it_came else out

    def flush(self) -> bytes:
        """See `Meter`."""
        return b"" if self._as_it_came else self._inner.flush()

    def end(self) -> StreamEnd:
        """See `Meter`."""
        return self._inner.end()


class Opaque:
    """A stream in a coding that hocket cannot undo: it passes as it came, and is not counted."""

    def __init__(self) -> None:
        self.events = 0

    def feed(self, chunk: bytes) -> bytes:
        """See `Meter`."""
        self.events += 1
        return chunk

    def flush(self) -> bytes:
        """See `Meter`."""
        return b""

    def end(self) -> StreamEnd:
        """See `Meter`: what cannot be read cannot be found wanting."""
        return StreamEnd(None, self.events, done=True, failed=False)


class _Event(msgspec.Struct):
    choices: list[Any]
    usage: dict[str, Any]


_events = msgspec.json.Decoder(_Event)
_END = re.compile(rb"\r?\n\r?\n")


class WithoutUsage:
    """Takes out the one event that holds nothing but the usage: hocket asked for it, the client did not.

    All other bytes pass as they came. A chunk that ends inside an event is held back from that event's beginning, for
    it may be the one; engines write whole events, so this is rare.
    """

    __slots__ = ("_held", "_inner", "_inner_feed", "_inside")

    def __init__(self, inner: Meter) -> None:
        self._inner, self._inner_feed = inner, inner.feed
        self._held = b""
        self._inside = False

    @property
    def events(self) -> int:
        """See `Meter`."""
        return self._inner.events

    def feed(self, chunk: bytes) -> bytes:
        """See `Meter`."""
        self._inner_feed(chunk)
        if chunk[-2:] == b"\n\n" and not self._held and not self._inside and b"\r" not in chunk:
            return chunk if b"[]" not in chunk else _cut(chunk)
        return self._sift(self._held + chunk)

    def _sift(self, data: bytes) -> bytes:
        out, start = [], 0
        for end in _END.finditer(data):
            event = data[start : end.end()]
            if self._inside or not _only_usage(event):
                out.append(event)
            self._inside, start = False, end.end()
        rest = data[start:]
        if self._inside or len(rest) > MAX_USAGE_EVENT:
            self._inside = True
            # the two line ends that end an event may be cut in two
            keep = max(len(rest) - 3, 0) if rest.endswith((b"\n", b"\r")) else len(rest)
            out.append(rest[:keep])
            rest = rest[keep:]
        self._held = rest
        return b"".join(out)

    def flush(self) -> bytes:
        """See `Meter`: an event that was cut short passes as it is."""
        held, self._held = self._held, b""
        return held

    def end(self) -> StreamEnd:
        """See `Meter`."""
        return self._inner.end()


def _cut(events: bytes) -> bytes:
    """Whole events, without the one that holds nothing but the usage: only those are looked at that may be it."""
    at = events.rfind(b"[]")
    while at >= 0:
        before = events.rfind(b"\n\n", 0, at)
        start, end = before + 2 if before >= 0 else 0, events.find(b"\n\n", at) + 2
        if _only_usage(events[start:end]):
            events = events[:start] + events[end:]
        at = events.rfind(b"[]", 0, start)
    return events


def _only_usage(event: bytes) -> bool:
    """Whether this is the event that `stream_options.include_usage` adds: no choices, and the usage."""
    if b"[]" not in event or not event.startswith(b"data:"):
        return False
    try:
        return not _events.decode(event[5:]).choices
    except (msgspec.MsgspecError, RecursionError):
        return False
