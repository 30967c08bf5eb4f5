"""Model files that Python packages ship: found without importing the package, checked, mapped into memory."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hocket.errors import InputError

_TYPES = {"U8": "u1", "F16": "<f2", "F32": "<f4", "I64": "<i8"}
_MOST_HEADER = 1 << 20


def packaged_file(package: str, path: str, *, remedy: str) -> Path:
    """Return a file of an installed package, unchanged since it was installed (pip's RECORD has the checksum).

    Raises InputError: the package is not installed (`remedy` says how), or the file is missing or changed.
    """
    again = f"install it anew: pip install --force-reinstall --no-deps {package}"
    try:
        files = distribution(package).files or []
    except PackageNotFoundError:
        raise InputError(f"the package {package} is not installed; {remedy}") from None
    record = next((file for file in files if file.as_posix() == path), None)
    place = Path(str(record.locate())) if record else None
    if record is None or place is None or not place.is_file():
        raise InputError(f"the package {package} has no file {path}; {again}")
    if record.hash is not None and record.hash.mode == "sha256" and _sha256(place) != record.hash.value:
        raise InputError(f"{place} is broken: its checksum is not the one it was installed with; {again}")
    return place


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def tensors(file: Path) -> Mapping[str, npt.NDArray[Any]]:
    """Return the arrays of a safetensors file, mapped: a page is read when it is touched.

    The format: 8 bytes with the header's length, a header in JSON (name -> type, shape, place), then the numbers.

    Raises InputError: not a safetensors file, or cut short.
    """
    try:
        with file.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            if not 2 <= size <= _MOST_HEADER:
                raise InputError(f"{file} is not a safetensors file")
            header: dict[str, Any] = json.loads(stream.read(size))
        header.pop("__metadata__", None)
        data = np.memmap(file, mode="r", offset=8 + size)
        found = {}
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            kind, shape = np.dtype(_TYPES[entry["dtype"]]), tuple(entry["shape"])
            if not 0 <= begin <= end <= data.size or math.prod(shape) * kind.itemsize != end - begin:
                raise InputError(f"{file} is cut short, or its header is wrong")
            found[name] = data[begin:end].view(kind).reshape(shape)
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file} is not a readable safetensors file: {error}") from None
    return found
