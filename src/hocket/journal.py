"""The journal: every event and the commands that answered it, as JSON lines, after a first line with the spec.

Because the core is deterministic, a journal is a test: fed to a fresh core, its events must give its commands, byte for
byte. One line is `{"event": {...}, "commands": [...]}`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import IO

import msgspec

from hocket import __version__
from hocket.core.commands import AnyCommand, Command
from hocket.core.events import AnyEvent, Event
from hocket.core.snapshot import Plain
from hocket.core.spec import SchedulerSpec
from hocket.errors import InputError

VERSION = 3
"of the journal: its form, and what its events and snapshots mean to the core"
GATHERED = 64
"records that are encoded in one go: one by one, between a gateway's other work, each costs three times as much"
_encoder = msgspec.json.Encoder()


class Header(msgspec.Struct):
    """The first line: what the scheduler was built from."""

    journal: int
    hocket: str
    spec: SchedulerSpec
    state: Plain | None = None
    "what `hocket.core.snapshot.save` returned, where the journal goes on from an older one"


class Record(msgspec.Struct):
    """One event and what the core ordered."""

    event: AnyEvent
    commands: list[AnyCommand]


class _Line(msgspec.Struct, gc=False):
    """A `Record` that is written."""

    event: Event
    commands: Sequence[Command]


class JournalWriter:
    """Appends records to a file. Buffered: `flush` now and then, `close` at the end.

    A file that is there already is kept: it becomes `PATH.1`, and `PATH.1` becomes `PATH.2`, up to `keep`. So does
    a file that is `full` on `rotate`, whose state makes the new file replay on its own.
    """

    def __init__(self, path: str | Path, spec: SchedulerSpec, *, max_bytes: int = 64 * 2**20, keep: int = 4) -> None:
        self._path, self._max_bytes, self._keep = Path(path), max_bytes, keep
        self._file: IO[bytes] | None = None
        self._size = 0
        self._lines: list[_Line] = []
        try:
            self.rotate(None, spec)
        except OSError as error:
            raise InputError(f"journal {path}: cannot be written ({error.strerror}); check the folder") from None

    def write(self, event: Event, commands: Sequence[Command]) -> bool:
        """Append one event and its commands; neither may change any more. Returns whether it is time to `rotate`.

        Raises OSError, as the disk does.
        """
        self._lines.append(_Line(event, commands))
        if len(self._lines) < GATHERED:
            return False
        self._encode()
        return self.full

    def _encode(self) -> None:
        assert self._file is not None, "the journal is closed"
        lines, self._lines = self._lines, []
        self._size += self._file.write(_encoder.encode_lines(lines))

    @property
    def full(self) -> bool:
        """Whether it is time to `rotate`."""
        return self._size >= self._max_bytes

    def rotate(self, state: Plain | None, spec: SchedulerSpec) -> None:
        """Go on in a new file that begins with the scheduler's spec and `state`: what `snapshot.save` says now."""
        self.close()
        names = [self._path, *(self._path.with_name(f"{self._path.name}.{n}") for n in range(1, self._keep + 1))]
        for older, newer in reversed(list(pairwise(names))):
            if older.exists():
                older.replace(newer)
        self._file = self._path.open("wb", buffering=1 << 16)
        self._file.write(_encoder.encode(Header(VERSION, __version__, spec, state)) + b"\n")
        self._file.flush()
        self._size = 0  # of the records: a large state must not fill a file by itself

    def flush(self) -> None:
        """Hand what is buffered to the operating system."""
        if self._file is not None:
            self._encode()
            self._file.flush()

    def close(self) -> None:
        """Flush and close."""
        if self._file is not None:
            self._encode()
            self._file.close()
            self._file = None


def encode(event: Event, commands: Sequence[Command]) -> bytes:
    """One line of a journal, with its newline."""
    return b'{"event":%b,"commands":%b}\n' % (_encoder.encode(event), _encoder.encode(commands))


def read_journal(path: str | Path) -> tuple[Header, Iterator[tuple[int, Record]]]:
    """The header, and the records with their line numbers. Raises InputError where the file is none of ours.

    A last line without its newline was being written when the gateway died: it is left out.
    """
    try:
        with Path(path).open("rb") as file:
            header = msgspec.json.decode(file.readline(), type=Header)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path}:1: not a journal of hocket ({error}); give a file that `journal:` wrote") from None
    if header.journal != VERSION:
        raise InputError(f"{path}:1: a journal of version {header.journal}; this hocket reads version {VERSION}")
    return header, _records(Path(path))


def _records(path: Path) -> Iterator[tuple[int, Record]]:
    decoder = msgspec.json.Decoder(Record)
    with path.open("rb") as file:
        file.readline()
        for number, line in enumerate(file, start=2):
            if not line.endswith(b"\n"):
                return
            try:
                yield number, decoder.decode(line)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                raise InputError(f"{path}:{number}: not a record ({error}); the file was changed or damaged") from None
