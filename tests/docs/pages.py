"""The project's Markdown files, taken apart as far as the tests need it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "changelog.d").glob("*.md")),
]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, text, first line, and the name of the HTML comment right above it."""

    language: str
    text: str
    line: int
    name: str


def label(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in _FENCE.finditer(text):
        above = text[: found.start()].rstrip("\n").rpartition("\n")[2]
        name = re.fullmatch(r"<!-- (.+?) -->", above)
        line = text.count("\n", 0, found.start()) + 2
        yield Block(found[1], found[2], line, name[1] if name else "")


def block(page: Path, name: str) -> str:
    """The text of the one block called `name`."""
    (found,) = (b.text for b in blocks(page) if b.name == name)
    return found


def prose(page: Path) -> str:
    """The text without fenced blocks and comments."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)


def links(page: Path) -> list[str]:
    """Targets of links and images."""
    plain = re.sub(r"`[^`\n]*`", "", prose(page))
    return re.findall(r"\]\(([^)\s]+)\)", plain)


def anchors(page: Path) -> set[str]:
    """What a link may name behind `#`, as GitHub makes it of headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def named_rows(page: Path, heading: str | None = None) -> list[tuple[str, list[str]]]:
    """Table rows whose first cell is a name in backticks: (name, further cells). `heading`: of that section alone."""
    text = prose(page)
    if heading is not None:
        (text,) = re.findall(rf"^#+ {re.escape(heading)}$(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    rows = []
    for line in text.splitlines():
        found = re.match(r"\|\s*(?:\[)?`([^`]+)`(?:\]\([^)]*\))?\s*\|(.*)\|\s*$", line)
        if found:
            rows.append((found[1], [cell.strip() for cell in found[2].split("|")]))
    return rows
