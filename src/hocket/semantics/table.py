"""Labelled texts in a CSV file: one row a text, named columns, labels that are integers."""

from __future__ import annotations

import csv
import gzip
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from hocket.errors import InputError
from hocket.semantics.fields import Value
from hocket.semantics.train import Labelled

MOST_URGENCY = 4


def read_table(
    file: str | Path, text: str, label: str, features: Sequence[str] = (), levels: Sequence[int] | None = None
) -> Labelled:
    """Read a CSV file (`.gz` too). `levels`: the labels of another scale, most urgent first.

    Raises InputError: which file, which line, what is wrong, what to do.
    """
    path = Path(file)
    scale = {one: urgency for urgency, one in enumerate(levels)} if levels else {k: k for k in range(MOST_URGENCY + 1)}
    csv.field_size_limit(min(sys.maxsize, 1 << 30))
    try:
        with _opened(path) as stream:
            return _read(csv.DictReader(stream), str(path), [text, label, *features], scale)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check the path") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except (csv.Error, EOFError, zlib.error) as error:
        raise InputError(f"{path}: not a readable CSV file ({error})") from None


def _opened(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _read(rows: csv.DictReader[str], file: str, columns: Sequence[str], scale: dict[int, int]) -> Labelled:
    there = list(rows.fieldnames or [])
    for column in columns:
        if column not in there:
            raise InputError(f"{file}: has no column {column!r}; it has {', '.join(there) or 'none'}")
    text, label, *features = columns
    texts: list[str] = []
    urgency: list[int] = []
    given: list[dict[str, Value]] = []
    for row in rows:
        texts.append(row[text] or "")
        urgency.append(_urgency(row[label], scale, f"{file}:{rows.line_num}: the label"))
        given.append({name: row[name] for name in features if row[name]})
    if not texts:
        raise InputError(f"{file}: holds no rows")
    return Labelled(texts, urgency, given)


def _urgency(label: str | None, scale: dict[int, int], where: str) -> int:
    try:
        number = float(label or "")
        if number in scale:
            return scale[int(number)]
    except ValueError:
        raise InputError(f"{where} {(label or '')[:40]!r} is not an integer; 0 is the most urgent") from None
    known = ", ".join(map(str, scale))
    raise InputError(
        f"{where} {label!r} is not one of {known}; --levels names those of another scale, most urgent first"
    )
