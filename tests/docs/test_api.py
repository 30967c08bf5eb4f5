"""The API page and the gateway name the same error codes and the same headers."""

from __future__ import annotations

import re

from hocket.gateway.identity import HEADERS
from hocket.gateway.openai import REASONS
from tests.docs.pages import ROOT, named_rows, prose

PAGE = ROOT / "docs" / "reference" / "api.md"
GATEWAY = ROOT / "src" / "hocket" / "gateway"
SOURCE = "".join(file.read_text() for file in sorted(GATEWAY.rglob("*.py")))
NEVER_SHOWN = {"unknown_model", "upstream_status"}
"reasons of the core that the gateway answers in other words: model_not_found, and the engine's own body"


def test_error_codes() -> None:
    real = {*re.findall(r'\bcode="(\w+)"', SOURCE), *REASONS} - NEVER_SHOWN
    rows = re.findall(r"^\| \d[\d, ]* \| (.+?) \|", prose(PAGE), re.MULTILINE)
    told = {code for row in rows for code in re.findall(r"`(\w+)`", row)}
    assert told == real


def test_identity_headers() -> None:
    assert [name for name, _ in named_rows(PAGE, "Identity")] == list(HEADERS.values())


def test_headers_of_answers() -> None:
    files = ("app", "downstream", "relay", "straight", "urgency")
    relaying = "".join((GATEWAY / f"{name}.py").read_text() for name in files)
    real = set(re.findall(r'"(x-[\w-]+)"', relaying)) - set(HEADERS.values())
    own = {"x-hocket-job", "x-hocket-call", "x-hocket-queue-ms", "x-hocket-urgency-source"}
    own |= {"x-request-id", "x-should-retry"}
    assert real == own - set(HEADERS.values())
    for name in real:
        assert f"`{name}`" in prose(PAGE)
