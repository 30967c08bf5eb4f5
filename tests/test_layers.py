"""Imports go down only, the pure packages are pure, and no file or function holds two ideas."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "hocket"
LINTER = Path(sys.executable).with_name("lint-imports")
LINES = {"src": 400, "tests": 600, "benchmarks": 600}
FUNCTION_LINES = 60
FILES = [file for folder in LINES for file in sorted((ROOT / folder).rglob("*.py"))]


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([LINTER, "--no-cache"], cwd=folder, capture_output=True, text=True, check=False)


def test_imports_go_down_only() -> None:
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout
    assert "0 broken" in result.stdout


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("core/spec.py", "import time"),
        ("policies/orderings.py", "from random import random"),
        ("core/spec.py", "import hocket.policies"),
        ("client/__init__.py", "import hocket.core.spec"),
    ],
)
def test_the_contracts_bite(tmp_path: Path, module: str, line: str) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(SOURCE, tmp_path / "hocket", ignore=shutil.ignore_patterns("__pycache__"))
    file = tmp_path / "hocket" / module
    file.write_text(f"{file.read_text()}\n{line}\n")
    result = lint(tmp_path)
    assert result.returncode == 1, result.stdout
    assert "1 broken" in result.stdout


def lines_of(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_file_holds_one_idea(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    most = LINES[file.relative_to(ROOT).parts[0]]
    assert text.count("\n") <= most, f"{file}: more than {most} lines; find the second idea in it"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            inside = [one for one in node.body if isinstance(one, ast.FunctionDef)]  # they are looked at themselves
            length = lines_of(node) - sum(lines_of(one) + 1 for one in inside)
            assert length <= FUNCTION_LINES, f"{file}:{node.lineno}: {node.name} has {length} lines"
