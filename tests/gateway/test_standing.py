"""`GET /admin/tenants` and `hocket tenants --base-url`: how the tenants stand at this moment."""

from __future__ import annotations

import asyncio
import json
import socket
from hashlib import sha256
from typing import Any

import pytest

from hocket.cli import main
from hocket.core.events import ReplicaAdded, ReplicaRemoved
from hocket.core.spec import TenantSpec
from hocket.gateway.standing import Standing, standings
from hocket.settings import EngineSettings, TenantSettings
from tests.core.bare import Bare, arrive
from tests.core.test_shares import OWNERS, TWO
from tests.gateway.conftest import Running, Start, soon
from tests.scripted_engine import ScriptedEngine

HELD = {"scripted": {"do": "hang", "hang_s": 60.0}}


def by_name(bare: Bare, at: float) -> dict[str, Standing]:
    return {one.tenant: one for one in standings(bare.scheduler, at).data}


def test_who_holds_what_and_who_waits_for_whom() -> None:
    """At e, a and b hold two slots each and c waits twice; at f, a holds one of four, and nobody waits."""
    tenants = [TenantSpec(name, weight) for name, weight in (("ta", 1.0), ("tb", 2.0), ("tc", 1.0), ("idle", 1.0))]
    owners = {"a": "ta", "b": "tb", "c": "tc"}
    bare = Bare("fair-share", jobs="abc", windows={"r": 4}, owners=owners, engines=TWO, tenants=tenants)
    bare.feed(ReplicaAdded(0.0, "f", "q", 4), *arrive(0.0, "a1", "a2", "b1", "b2"), *arrive(0.0, "a3", model="n"))
    bare.feed(*arrive(10.0, "c1"), *arrive(20.0, "c2"))
    found = by_name(bare, 30.0)
    assert [found[name].shares for name in ("ta", "tb", "tc", "idle")] == [
        {"e": 0.5, "f": 0.25},
        {"e": 0.5, "f": 0.0},
        {"e": 0.0, "f": 0.0},
        {"e": 0.0, "f": 0.0},
    ]
    assert [(found[name].dominant, found[name].share) for name in ("ta", "tb")] == [("e", 0.5), ("e", 0.25)]
    assert [(one.tenant, one.jobs, one.running, one.waiting) for one in found.values()] == [
        ("ta", 1, 3, 0),
        ("tb", 1, 2, 0),
        ("tc", 1, 0, 2),
        ("idle", 0, 0, 0),
    ]
    assert (found["tc"].oldest_s, found["ta"].oldest_s) == (20.0, 0.0)
    assert found["tc"].waits_for == {"ta": 0.5, "tb": 0.5} and not found["ta"].waits_for
    # half of e for a half-life of 30 s: what is held counts, though no call has ended since
    assert (found["ta"].lately, found["tb"].lately) == pytest.approx((0.25, 0.125))
    assert found["idle"].lately is None and found["tc"].lately == pytest.approx(0.0, abs=1e-9)
    again = by_name(bare, 30.0)
    assert again == found, "to look changes nothing"


def test_without_shares_there_is_no_lately_and_slots_that_rest_are_no_zero() -> None:
    bare = Bare("fcfs", jobs="a", owners=OWNERS)
    bare.feed(*arrive(0.0, "a1", "a2"), ReplicaRemoved(1.0, "e", "r"))
    (one,) = standings(bare.scheduler, 2.0).data
    assert (one.lately, one.shares, one.waits_for) == (None, {"e": 1.0}, {one.tenant: 1.0})


async def world_of(engine: ScriptedEngine, start: Start) -> tuple[Running, list[asyncio.Task[Any]]]:
    """Greedy holds both slots, light waits."""
    settings = [TenantSettings(name, sha256(name.encode()).hexdigest()) for name in ("greedy", "light")]
    served = [EngineSettings(name="small", replicas=[engine.url], max_concurrency=2)]
    digest = sha256(b"operator").hexdigest()
    world = await start(engines=served, tenants=settings, admin_key_sha256=digest)

    async def call(tenant: str) -> None:
        async with world.post(HELD, headers={"Authorization": f"Bearer {tenant}"}) as answer:
            await answer.read()

    tasks = []
    for number, tenant in enumerate(("greedy", "greedy", "light"), 1):
        tasks.append(asyncio.create_task(call(tenant)))
        await soon(lambda number=number: len(world.gateway.scheduler.calls) == number)  # type: ignore[misc]
    return world, tasks


async def test_the_command_asks_a_running_gateway(
    engine: ScriptedEngine, start: Start, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    world, tasks = await world_of(engine, start)

    async def asked(*words: str) -> tuple[int, str, str]:
        code = await asyncio.to_thread(main, ["tenants", "--base-url", world.url, *words])
        return code, *capsys.readouterr()

    code, out, _ = await asked("--api-key", "operator", "--json", "-")
    found = json.loads(out)["tenants"]
    assert code == 0 and list(found) == ["greedy", "light"]
    assert found["greedy"]["shares"] == {"small": 1.0} and found["light"]["waits_for"] == {"greedy": 1.0}
    assert (found["light"]["waiting"], found["greedy"]["running"]) == (1, 2)
    code, _, err = await asked()
    assert code == 2 and "answered 401: give a key of role observe" in err and err.count("\n") == 1
    code, _, err = await asked("--api-key", "greedy")
    assert code == 2 and "answered 403" in err
    monkeypatch.setenv("HOCKET_API_KEY", "operator")
    code, out, _ = await asked()
    assert code == 0 and "greedy" in out and "100.0%" in out and "greedy 100%" in out
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_of_who_is_no_gateway_it_says_so(engine: ScriptedEngine, capsys: pytest.CaptureFixture[str]) -> None:
    assert await asyncio.to_thread(main, ["tenants", "--base-url", engine.url]) == 2
    assert "is this a gateway that runs?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--base-url", "127.0.0.1:8080"], "write it as http://HOST:PORT"),
        (["--base-url", "file:///etc/passwd"], "write it as http://HOST:PORT"),
        (["--base-url", "http://127.0.0.1:x"], "is this a gateway that runs?"),
        (["--base-url", "http://127.0.0.1:8080", "--journal", "j"], "leave out"),
    ],
)
def test_bad_input_is_one_line(capsys: pytest.CaptureFixture[str], words: list[str], told: str) -> None:
    assert main(["tenants", *words]) == 2
    err = capsys.readouterr().err
    assert told in err and err.count("\n") == 1


def test_nobody_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    assert main(["tenants", "--base-url", url]) == 2
    err = capsys.readouterr().err
    assert "is this a gateway that runs?" in err and err.count("\n") == 1
