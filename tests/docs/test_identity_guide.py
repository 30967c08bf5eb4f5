"""The guide to identity names every source, header and member that is read, and no other."""

from __future__ import annotations

import re

from hocket.gateway.identity import HEADERS, foreign
from hocket.gateway.places import MAX_HASHES, MAX_LINGERING
from hocket.settings.identity import IdentitySettings
from tests.docs.pages import ROOT, prose

TEXT = prose(ROOT / "docs" / "guides" / "identity.md")


def section(heading: str) -> str:
    return TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def test_session_headers() -> None:
    named = re.findall(r"`([a-z_-]+[-_][a-z_-]+)`", section("Session headers"))
    read = [*foreign.SESSIONS, *foreign.PARENT_SESSIONS, *foreign.FINALS, *foreign.AGENTS, *foreign.PARENT_AGENTS]
    assert sorted(named) == sorted([*read, *foreign.PRIORITIES, "x-stainless-retry-count"])
    first = named[: len(foreign.SESSIONS)]
    assert first == list(foreign.SESSIONS), "in their order"


def test_baggage() -> None:
    told = set(re.findall(r"`([\w.-]+\.[\w.-]+)`", section("Baggage")))
    assert told == foreign._BAGGAGE
    assert {f"hocket.{key.removeprefix('x-hocket-')}" for key in HEADERS.values()} <= told


def test_sources_stand_in_their_order() -> None:
    rows = re.findall(r"^\| (\S.*?) \|", section("The sources, in order"), re.MULTILINE)
    sources = [f"`{name}`" for name in IdentitySettings().sources]
    assert list(dict.fromkeys(rows)) == ["source", "hocket's own", *sources]


def test_bounds() -> None:
    inferred = section("What is inferred")
    assert f"{MAX_HASHES:,}" in inferred and f"{MAX_LINGERING:,}" in inferred
    assert f"{IdentitySettings().idle_s:g} seconds" in inferred
