"""Nothing in a document leads nowhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, anchors, blocks, label, links, prose

PLACES = ("src/", "docs/", "tests/", "benchmarks/", "requirements/", "changelog.d/", ".ci/")
SOURCES = sorted((ROOT / "src").rglob("*.py"))


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{label(page)}: {link} leads nowhere"
        assert file.is_relative_to(ROOT), f"{label(page)}: {link} leaves the project"
        if anchor:
            assert anchor in anchors(file), f"{label(page)}: {link}: no such heading; there is {sorted(anchors(file))}"


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_paths_exist(page: Path) -> None:
    """Paths in backticks, and those in shell blocks. CONTRIBUTING names files that its reader is to write."""
    words = re.findall(r"`([^`\s]+)`", prose(page))
    for block in blocks(page):
        if block.language == "sh":
            words += block.text.split()
    for word in words:
        path = word.partition("::")[0].rstrip("/.,:")
        if word.startswith(PLACES) and not re.search(r"[*<>{}]|NAME|/edf\.md$", path):
            assert (ROOT / path).exists(), f"{label(page)}: {path} does not exist"


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_pages_that_the_code_names_exist(file: Path) -> None:
    for path in re.findall(r"\b(docs/[\w./-]+\w)", file.read_text(encoding="utf-8")):
        assert (ROOT / path).exists(), f"{file.relative_to(ROOT)} sends the reader to {path}, which does not exist"


def test_every_page_can_be_reached() -> None:
    """From the README or the index of the documents, by links alone."""
    seen: set[Path] = set()
    todo = [ROOT / "README.md", ROOT / "docs" / "index.md"]
    while todo:
        page = todo.pop()
        if page in seen or not page.exists() or page.suffix != ".md":
            continue
        seen.add(page)
        todo += [(page.parent / link.partition("#")[0]).resolve() for link in links(page) if "://" not in link]
    lost = [label(page) for page in PAGES if page not in seen and page.name[0] != "+"]
    assert lost == [], "no link leads to these pages; put them into docs/index.md"


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"(?:`|^)make ([a-z]+)", text, re.MULTILINE):
        assert target in targets, f"{label(page)}: make {target}: no such target"
