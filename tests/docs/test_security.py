"""The threat model names tests that exist, and every test of attacks is in it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, prose

TABLE = re.findall(r"^\| (?!threat|---|\*\*)(.+?) \| (.+?) \| (.+) \|$", prose(ROOT / "SECURITY.md"), re.MULTILINE)
NAMED = [(threat, name) for threat, _, shown in TABLE for name in re.findall(r"`([^`]+)`", shown)]


def named_in(file: Path) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {f"{file.relative_to(ROOT)}::{name}" for name in functions if name.startswith("test_")}


def test_every_threat_has_something_that_holds_and_a_test() -> None:
    assert len(TABLE) > 30
    assert [threat for threat, holds, shown in TABLE if not holds.strip() or "::" not in shown] == []


@pytest.mark.parametrize(("threat", "name"), NAMED, ids=[name for _, name in NAMED])
def test_a_named_test_exists(threat: str, name: str) -> None:
    file = ROOT / name.partition("::")[0]
    assert file.exists() and name in named_in(file), f"{threat}: there is no {name}"


def test_every_test_of_attacks_is_named() -> None:
    there = {name for file in sorted((ROOT / "tests" / "attack").glob("test_*.py")) for name in named_in(file)}
    assert there - {name for _, name in NAMED} == set()
