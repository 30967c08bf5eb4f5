"""Every changelog fragment has a kind that exists, and reaches the changelog."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from sys import executable

from tests.docs.pages import ROOT

FOLDER = ROOT / "changelog.d"
FRAGMENTS = [file for file in sorted(FOLDER.iterdir()) if file.name != "README.md"]
KINDS = {
    kind["directory"] for kind in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["towncrier"]["type"]
}


def test_fragments_are_named_as_the_page_says() -> None:
    wrong = [f.name for f in FRAGMENTS if not re.fullmatch(rf"\+[a-z0-9-]+\.({'|'.join(KINDS)})\.md", f.name)]
    assert wrong == [], "see changelog.d/README.md"
    page = (FOLDER / "README.md").read_text()
    assert all(f"`{kind}`" in page for kind in KINDS)


def test_each_fragment_reaches_the_changelog() -> None:
    towncrier = Path(executable).with_name("towncrier")
    command = [towncrier, "build", "--draft", "--version", "9.9.9"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    told = " ".join(result.stdout.split())
    for file in FRAGMENTS:
        assert " ".join(file.read_text().split()) in told, f"{file.name} is not in the draft"
