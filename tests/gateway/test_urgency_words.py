"""The guide's three settings files with the real encoder: what people write moves the way that they mean it."""

from __future__ import annotations

import asyncio
import logging
import socket
from hashlib import sha256
from typing import Any

import pytest
from msgspec import structs

from hocket.settings import Settings
from hocket.yamlfile import parse_yaml
from tests.docs.pages import ROOT, block
from tests.gateway.conftest import Running, Start, soon
from tests.gateway.urgency_world import revised, says, told
from tests.scripted_engine import ScriptedEngine

GUIDE = ROOT / "docs" / "guides" / "urgency.md"
CALM, SOONER, LATER = "stays", "sooner", "later"

HOSPITAL = {
    "he collapsed and is not breathing": SOONER,
    "severe chest pain, he is sweating and pale": SOONER,
    "fever of 40 and confused, neck hurts": SOONER,
    "I would like to change my appointment": LATER,
    "could you send me a copy of my bill": LATER,
    "URGENT!!! please send me the invoice": LATER,
    "": CALM,
}
INCIDENTS = {
    "payments are down for all customers": SOONER,
    '{"alert": "Disk", "text": "disk at 95 percent and growing", "host": "db-1"}': SOONER,
    "the certificate of the staging server expires next month": LATER,
    "URGENT!!! clean up old dashboards": LATER,
    "write the monthly report on incidents": LATER,
    '{"alert": 17, "values": [1, 2, 3]}': CALM,
}
HELP_DESK = {
    "we cannot open the application at all, the whole team is blocked": SOONER,
    "can I have a bigger avatar please": LATER,
}


async def run(start: Start, name: str, engine: ScriptedEngine, app: str, **more: Any) -> tuple[Running, dict[str, str]]:
    """A gateway with the settings of the guide, in front of a scripted engine, and the headers of a call of `app`."""
    settings = parse_yaml(block(GUIDE, name), Settings, name)
    engines = [structs.replace(e, replicas=[engine.url]) for e in settings.engines]
    tenants = [structs.replace(t, key_sha256=sha256(t.name.encode()).hexdigest()) for t in settings.tenants]
    world = await start(engines=engines, tenants=tenants, urgency=settings.urgency, **more)
    key = {"Authorization": f"Bearer {tenants[0].name}"} if tenants else {}
    return world, {"x-hocket-app": app, **key}


@pytest.mark.parametrize(
    ("name", "app", "declared", "texts"),
    [
        ("hospital", "triage-desk", 2, HOSPITAL),
        ("incidents", "incident-bot", 2, INCIDENTS),
        ("help-desk", "help-desk", 3, HELP_DESK),
    ],
)
async def test_the_guides_examples(
    engine: ScriptedEngine, start: Start, name: str, app: str, declared: int, texts: dict[str, str]
) -> None:
    world, headers = await run(start, name, engine, app)
    for text, how in texts.items():
        got, source = await told(world, says(text, model="chat"), headers=headers)
        expected = {SOONER: int(got) < declared, LATER: int(got) > declared, CALM: int(got) == declared}
        assert expected[how], f"{text!r} should be {how}: {declared} -> {got} ({source})"
        assert source == ("tenant" if how == CALM else "words"), text


async def test_other_applications_of_the_same_tenants_are_not_read(engine: ScriptedEngine, start: Start) -> None:
    world, headers = await run(start, "hospital", engine, "nightly-summaries")
    assert await told(world, says("he is not breathing", model="chat"), headers=headers) == ("2", "tenant")
    research = {**headers, "x-hocket-app": "triage-desk", "Authorization": "Bearer research"}
    assert await told(world, says("he is not breathing", model="chat"), headers=research) == ("4", "tenant")
    assert await told(world, says("x", model="chat"), headers={**research, "x-hocket-urgency": "0"}) == (
        "3",
        "explicit",
    )
    assert "hocket_readings_total{" not in world.gateway.metrics.render().decode()


async def test_no_network_is_used(
    engine: ScriptedEngine, start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither when models are loaded nor when they read: every connection is to the scripted engine."""
    caplog.set_level(logging.DEBUG)
    connect, asked = socket.socket.connect, []
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *a, **k: asked.append(host) or [])
    monkeypatch.setattr(socket.socket, "connect", lambda self, to: asked.append(to) or connect(self, to))
    world, headers = await run(start, "hospital", engine, "triage-desk")
    monkeypatch.undo()
    assert not asked
    assert (await told(world, says("he is not breathing", model="chat"), headers=headers))[1] == "words"
    assert "breathing" not in caplog.text


async def test_readers_come_with_a_reload_while_calls_run(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine, window=4)
    slow = says("payments are down for all customers", scripted={"held": True})
    calls = [asyncio.create_task(told(world, slow)) for _ in range(12)]
    await soon(lambda: world.inflight + sum(one.queued for one in world.gateway.scheduler.engines.values()) == 12)
    incidents = parse_yaml(block(GUIDE, "incidents"), Settings, "x").urgency
    (reader,) = incidents.readers
    everywhere = structs.replace(incidents, readers=[structs.replace(reader, apps=[])])
    await world.gateway.reload(structs.replace(world.gateway.settings, urgency=everywhere))
    engine.gate.set()
    assert await told(world, says("payments are down for all customers")) == ("1", "words")
    assert set(await asyncio.gather(*calls)) == {("2", "tenant")}


async def test_the_slow_encoder_reads_while_the_call_waits(engine: ScriptedEngine, start: Start) -> None:
    pytest.importorskip("onnxruntime")
    hospital = parse_yaml(block(GUIDE, "hospital"), Settings, "x").urgency
    better = [structs.replace(reader, tenants=[], apps=[], encoder="minilm") for reader in hospital.readers]
    world = await start(engine, window=1, urgency=structs.replace(hospital, readers=better))
    running = asyncio.create_task(told(world, says("x", scripted={"first_s": 1.0}), {"x-hocket-urgency": "2"}))
    await soon(lambda: world.inflight == 1)
    waiting = [told(world, says(text)) for text in ("he is not breathing", "please send me the invoice")]
    urgent, calm = await asyncio.gather(*waiting)
    assert urgent[1] == calm[1] == "words" and int(urgent[0]) < 2 < int(calm[0])
    assert await running == ("2", "explicit") and len(revised(world)) == 2
