"""A reader whose answers a test knows, in the place of a model: what becomes of its readings is what is tested here.

What the models themselves read is tested in tests/semantics, and with the gateway around them in
tests/gateway/test_urgency_words.py.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from hashlib import sha256
from types import SimpleNamespace
from typing import Any

import pytest

from hocket.core import events as ev
from hocket.semantics.reader import Reading
from hocket.settings import TenantSettings
from hocket.settings.urgency import ClassSettings, ReaderSettings, UrgencySettings
from tests.gateway.conftest import Running

KEY = {"Authorization": "Bearer k"}
CLASSES = {0: ClassSettings(means="a life is in danger"), 4: ClassSettings(means="no hurry", examples=["a newsletter"])}


class Plain:
    """Reads the class that a text names as `class=N`, or the feature `n`; abstains where there is neither."""

    def __init__(self, encoder: str, slow_s: float = 0.0) -> None:
        self.encoder = SimpleNamespace(name=encoder)
        self.model = SimpleNamespace(declared=["hr", "n"])
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self._slow_s = slow_s

    def read(self, text: str, fields: Mapping[str, float | str] | None = None) -> Reading:
        self.seen.append((text, dict(fields or {})))
        time.sleep(self._slow_s)
        if "raise" in text:
            raise RuntimeError(text)
        found = re.search(r"class=(\d)", text)
        urgency = int(found[1]) if found else int(fields["n"]) if fields and "n" in fields else None
        return Reading(urgency, (), 1.0, "read" if urgency is not None else "out_of_domain")


def reads(monkeypatch: pytest.MonkeyPatch, encoder: str = "static", slow_s: float = 0.0) -> Plain:
    """Every domain is read by the reader that is returned."""
    plain = Plain(encoder, slow_s)
    monkeypatch.setattr("hocket.gateway.reading.reader_of", lambda settings: plain)
    return plain


def urgency(*readers: ReaderSettings, **more: Any) -> UrgencySettings:
    """A block `urgency`; without readers one that reads everything."""
    return UrgencySettings(readers=list(readers) or [ReaderSettings("all", classes=CLASSES)], **more)


def says(text: Any, **more: Any) -> dict[str, Any]:
    """A request's body with one message."""
    return {"messages": [{"role": "user", "content": text}], **more}


def tenant(**more: Any) -> list[TenantSettings]:
    """The one tenant, `team`; its key is in `KEY`."""
    return [TenantSettings("team", sha256(b"k").hexdigest(), **more)]


async def told(world: Running, body: Any = None, headers: dict[str, str] | None = None, **more: Any) -> tuple[str, str]:
    """Class and source of a call, as the headers of its answer say them."""
    body = says("hello") if body is None else body
    async with world.post(body, headers={**KEY, **(headers or {})}, **more) as response:
        assert response.status == 200, await response.text()
        await response.read()
        return response.headers["x-hocket-urgency"], response.headers["x-hocket-urgency-source"]


def revised(world: Running) -> list[int | None]:
    """The classes that came while calls were there already."""
    return [record.event.urgency for record in world.records() if isinstance(record.event, ev.CallRevised)]


def metric(world: Running, name: str) -> float:
    """The value of one line of `/metrics`."""
    lines = world.gateway.metrics.render().decode().splitlines()
    found = [line.rpartition(" ")[2] for line in lines if line.startswith(name)]
    return float(found[0]) if found else 0.0
