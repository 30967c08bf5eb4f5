"""The command line as a user meets it: quick to start, an example in every help, one line and exit 2 for bad input."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from hocket import __version__
from hocket.cli import COMMANDS

HOCKET = str(Path(sys.executable).with_name("hocket"))
START_S = 0.3
ROUNDS = 20


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([HOCKET, *args], capture_output=True, text=True, timeout=60, check=False)


def seconds(*command: str) -> float:
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def test_help_is_quick() -> None:
    """Best of several, each beside a bare interpreter, since other work may hold the machine at any one moment."""
    bare, best = [], []
    for _ in range(ROUNDS):
        bare.append(seconds(sys.executable, "-c", "pass"))
        best.append(seconds(HOCKET, "--help"))
        if min(best) <= START_S:
            break
    print(f"hocket --help {min(best):.3f} s, python -c pass {min(bare):.3f} s, {len(best)} rounds")
    assert min(best) <= START_S, f"hocket --help takes {min(best):.2f} s, a bare interpreter {min(bare):.2f} s"


def test_help_imports_nothing_heavy() -> None:
    script = "import sys, hocket.cli; hocket.cli.main([]); print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(result.stdout.splitlines()[-1].split())
    heavy = {"aiohttp", "asyncio", "matplotlib", "msgspec", "numpy", "rich", "uvloop", "xllamacpp", "yaml"}
    assert not loaded & heavy


def test_version() -> None:
    assert run("--version").stdout == f"hocket {__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself_with_an_example(command: str) -> None:
    result = run(command, "--help")
    assert result.returncode == 0, result.stderr
    assert f"usage: hocket {command}" in result.stdout
    assert "example" in result.stdout.lower()
    assert f"hocket {command} " in result.stdout.split("usage:", 1)[1].split("\n", 1)[1], "no example of a call"


@pytest.mark.parametrize("args", [["nosuch"], ["--nosuch"], *([name, "--nosuch-option"] for name in COMMANDS)])
def test_bad_usage_is_one_line_and_exit_2(args: list[str]) -> None:
    result = run(*args)
    assert result.returncode == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert "nosuch" in result.stderr or "required" in result.stderr
