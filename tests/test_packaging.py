"""The wheel holds what it should, and the lock pins and hashes everything from public registries alone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from email.parser import HeaderParser
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import hocket

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = (ROOT / "requirements" / "dev.lock").read_text()
MODELS = (ROOT / "requirements" / "models.lock").read_text()


def locked() -> dict[str, set[str]]:
    """Name -> versions (one a Python version, where they differ)."""
    pins: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==(\S+)", LOCK, re.MULTILINE):
        pins.setdefault(canonicalize_name(name), set()).add(version)
    return pins


def test_every_dependency_is_locked_within_its_bounds() -> None:
    wanted = list(PROJECT["project"]["dependencies"])
    wanted += [r for extra in PROJECT["project"]["optional-dependencies"].values() for r in extra]
    wanted += PROJECT["dependency-groups"]["dev"] + PROJECT["build-system"]["requires"]
    pins = locked()
    for text in wanted:
        requirement = Requirement(text)
        versions = pins.get(canonicalize_name(requirement.name))
        assert versions, f"{text} is not in requirements/dev.lock: run `make lock`"
        assert all(requirement.specifier.contains(v) for v in versions), f"{text}: locked {versions}; run `make lock`"


@pytest.mark.parametrize(("lock", "least"), [(LOCK, 30), (MODELS, 1)], ids=["dev", "models"])
def test_every_pin_is_hashed(lock: str, least: int) -> None:
    entries = re.split(r"^(?=[\w.-]+==)", lock, flags=re.MULTILINE)[1:]
    assert len(entries) >= least
    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []


@pytest.mark.parametrize("lock", [LOCK, MODELS], ids=["dev", "models"])
def test_the_lock_names_no_index_and_no_path(lock: str) -> None:
    lines = [line for line in lock.splitlines() if not re.match(r"#|[\w.-]+==|    --hash=sha256:[0-9a-f]{64}", line)]
    assert lines == []
    assert not re.search(r"://|@|--index|--find-links|--extra", lock)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = set(ZipFile(wheel).namelist())
    source = ROOT / "src"
    files = {str(f.relative_to(source)) for f in source.rglob("*") if f.is_file() and "__pycache__" not in f.parts}
    assert "hocket/py.typed" in names
    assert {name for name in names if ".dist-info/" not in name} == files


def test_the_wheel_tells_version_license_and_command(wheel: Path) -> None:
    archive = ZipFile(wheel)
    info = f"hocket-{hocket.__version__}.dist-info"
    metadata = HeaderParser().parsestr(archive.read(f"{info}/METADATA").decode())
    assert metadata["Version"] == hocket.__version__ == PROJECT["project"]["version"]
    assert metadata["License-Expression"] == "Apache-2.0"
    assert b"Apache License" in archive.read(f"{info}/licenses/LICENSE")
    assert "hocket = hocket.cli:main" in archive.read(f"{info}/entry_points.txt").decode()


def test_the_wheel_runs_away_from_the_source_tree(wheel: Path, tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target"]
    subprocess.run([*pip, str(tmp_path / "site"), str(wheel)], check=True, capture_output=True)
    script = f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); import hocket; print(hocket.__file__)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert result.stdout.startswith(str(tmp_path))


def system(python: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": str(python), **more}
    script = ROOT / "requirements" / "system.sh"
    return subprocess.run(["/bin/sh", script, *words], env=environment, capture_output=True, text=True, check=False)


def executable(file: Path, text: str) -> Path:
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return file


@pytest.mark.parametrize("version", ["2.7", "3.9", "3.10", "none"])
def test_an_old_or_missing_python_is_named_with_a_remedy(tmp_path: Path, version: str) -> None:
    python = executable(tmp_path / "python", f"echo {version}") if version != "none" else tmp_path / "python"
    result = system(python)
    assert result.returncode == 1
    assert str(python) in result.stderr
    assert "3.11 or newer" in result.stderr
    assert "PYTHON=/path/to/python3.11" in result.stderr
    assert version == "none" or version in result.stderr


def test_without_root_the_missing_packages_are_named(tmp_path: Path) -> None:
    executable(tmp_path / "id", "echo 1000")
    executable(tmp_path / "uname", "echo Linux")
    executable(tmp_path / "ldconfig", "echo no library at all")
    result = system(Path(sys.executable), PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert result.returncode == 1
    assert "sudo apt-get install libgomp1" in result.stderr


def test_with_everything_there_nothing_is_said(tmp_path: Path) -> None:
    executable(tmp_path / "ldconfig", "echo libgomp.so.1")
    result = system(Path(sys.executable), PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_what_only_the_tests_need_is_asked_for_by_them_only(tmp_path: Path) -> None:
    executable(tmp_path / "id", "echo 1000")
    executable(tmp_path / "uname", "echo Darwin")
    assert system(Path(sys.executable), PATH=str(tmp_path)).returncode == 0
    result = system(Path(sys.executable), "tests", PATH=str(tmp_path))
    assert result.returncode == 1
    assert "sudo apt-get install nodejs npm" in result.stderr
