"""Settings that change while calls run: nothing is dropped, and a mistake changes nothing."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from msgspec import structs

from hocket.cli.serve import _reload_whenever
from hocket.core.commands import Dispatch
from hocket.engines.embedded import EmbeddedSpec
from hocket.errors import InputError
from hocket.settings import EngineSettings, Settings, TenantSettings
from tests.gateway.conftest import Running, Start, soon
from tests.gateway.test_serve import serving
from tests.gateway.test_serve import settings as file_of
from tests.scripted_engine import ScriptedEngine

SLOW = {"scripted": {"chunks": 20, "gap_s": 0.02}, "stream": True}
KEY = {"Authorization": "Bearer operator"}


def engines(*replicas: ScriptedEngine, **more: Any) -> list[EngineSettings]:
    return [EngineSettings(name="small", replicas=[engine.url for engine in replicas], **more)]


async def change(world: Running, **more: Any) -> None:
    await world.gateway.reload(structs.replace(world.gateway.settings, **more))


async def stream(world: Running, body: dict[str, Any] = SLOW) -> bytes:
    async with world.post(body) as response:
        assert response.status == 200, await response.text()
        return bytes(await response.read())


async def test_a_replica_that_is_added_takes_what_waits(
    engine: ScriptedEngine, engine2: ScriptedEngine, start: Start
) -> None:
    world = await start(engine, window=1)
    calls = [asyncio.create_task(stream(world)) for _ in range(4)]
    await soon(lambda: world.gateway.scheduler.engines["small"].queued == 3)
    await change(world, engines=engines(engine, engine2, max_concurrency=2))
    await soon(lambda: world.inflight == 4)
    assert all(b"[DONE]" in answer for answer in await asyncio.gather(*calls))
    assert (len(engine.seen), len(engine2.seen)) == (2, 2)


async def test_replicas_may_have_windows_of_their_own(
    engine: ScriptedEngine, engine2: ScriptedEngine, start: Start
) -> None:
    world = await start(engine, window=1)
    calls = [asyncio.create_task(stream(world)) for _ in range(4)]
    await soon(lambda: world.gateway.scheduler.engines["small"].queued == 3)
    await change(world, engines=engines(engine2, engine, max_concurrency=[3, 1]))
    await soon(lambda: world.inflight == 4)
    assert all(b"[DONE]" in answer for answer in await asyncio.gather(*calls))
    assert (len(engine.seen), len(engine2.seen)) == (1, 3)


async def test_a_replica_that_is_removed_ends_its_calls_and_gets_no_more(
    engine: ScriptedEngine, engine2: ScriptedEngine, start: Start
) -> None:
    world = await start(engine, engine2, window=1)
    calls = [asyncio.create_task(stream(world)) for _ in range(4)]
    await soon(lambda: world.inflight == 2)
    await change(world, engines=engines(engine2, max_concurrency=1))
    assert all(b"[DONE]" in answer for answer in await asyncio.gather(*calls))
    assert (len(engine.seen), len(engine2.seen)) == (1, 3)
    assert not engine.aborted


async def test_an_engine_that_is_renamed_keeps_its_waiting_calls(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine, window=1)
    calls = [asyncio.create_task(stream(world)) for _ in range(3)]
    await soon(lambda: world.gateway.scheduler.engines["small"].queued == 2)
    renamed = EngineSettings(name="tiny", models=["small"], upstream_model="org/small", replicas=[engine.url])
    await change(world, engines=[renamed])
    assert all(b"[DONE]" in answer for answer in await asyncio.gather(*calls))
    assert [seen.body["model"] for seen in engine.seen] == ["small", "org/small", "org/small"]


async def test_calls_for_a_model_that_nobody_serves_any_more_are_told(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine, window=1)
    running = asyncio.create_task(stream(world))
    await soon(lambda: world.inflight == 1)
    waiting = asyncio.create_task(world.post({}))
    await soon(lambda: world.gateway.scheduler.engines["small"].queued == 1)
    await change(world, engines=[EngineSettings(name="large", replicas=[engine.url])])
    assert await world.error(await waiting) == (404, "unknown_model")
    assert b"[DONE]" in await running


async def test_another_policy_orders_what_waits_already(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine, window=1, policy="fcfs")
    calls = [asyncio.create_task(stream(world))]
    await soon(lambda: world.inflight == 1)
    for urgency in (3, 1):
        headers = {"x-hocket-urgency": str(urgency)}
        calls.append(asyncio.create_task(world.http.post(world.url + "/v1/completions", headers=headers, json={
            "model": "small", "prompt": "hi"})))  # fmt: skip
        await soon(lambda: world.gateway.scheduler.engines["small"].queued == len(calls) - 1)
    await change(world, policy=["urgency", "fcfs"])
    await asyncio.gather(*calls)
    order = [c.call for record in world.records() for c in record.commands if isinstance(c, Dispatch)]
    assert order == [order[0], max(order[1:]), min(order[1:])]


async def test_a_bad_file_changes_nothing(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine)
    spec = world.gateway.scheduler.spec
    for bad in ({"listen": "127.0.0.1:9"}, {"journal": "elsewhere"}):
        with pytest.raises(InputError, match="cannot change while the gateway runs"):
            await change(world, **bad)
    with pytest.raises(InputError, match="NO_SUCH_KEY is not set"):
        await change(world, engines=engines(engine, api_key_env="NO_SUCH_KEY"), policy="fcfs")
    assert world.gateway.scheduler.spec is spec
    assert b"[DONE]" in await stream(world)


class Processes:
    """Stand for those of an embedded engine; tests say what happens to them."""

    made: list[Processes] = []

    def __init__(self, name: str, spec: EmbeddedSpec, up: Callable[[str, str], None], down: Callable[[str], None]):
        self.up, self.down = up, down
        self.made.append(self)

    async def start(self) -> None:
        await asyncio.sleep(0.3)

    def begin(self, path: Path) -> None:
        pass

    async def stop(self) -> None:
        pass


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[Processes]:
    monkeypatch.setattr("hocket.gateway.fleet.EmbeddedEngine", Processes)
    monkeypatch.setattr("hocket.engines.weights.pull", Path)
    monkeypatch.setattr(Processes, "made", [])
    return Processes.made


async def test_processes_that_end_their_last_calls_speak_for_nobody(
    engine: ScriptedEngine, engine2: ScriptedEngine, start: Start, processes: list[Processes]
) -> None:
    """One that dies, or starts again, while it is let go must not take the place of the one that came after it."""
    settings = EngineSettings(name="small", kind="embedded")
    world = await start(engines=[settings])
    processes[0].up("small-0", engine.url)
    call = asyncio.create_task(stream(world))
    await soon(lambda: world.inflight == 1)
    await change(world, engines=[structs.replace(settings, context=1024)])
    processes[1].up("small-0", engine2.url)
    processes[0].down("small-0")
    processes[0].up("small-0", engine.url)
    assert b"[DONE]" in await call
    await stream(world)
    assert (len(engine.seen), len(engine2.seen)) == (1, 1)
    await change(world, engines=[EngineSettings(name="other", models=["small"], replicas=[engine.url])])
    processes[1].down("small-0")
    processes[1].up("small-0", engine2.url)
    await stream(world)
    assert (len(engine.seen), len(engine2.seen)) == (2, 1)


async def test_an_embedded_engine_that_cannot_be_changes_nothing(
    engine: ScriptedEngine, start: Start, processes: list[Processes]
) -> None:
    world = await start(engine)
    with pytest.raises(InputError, match="context"):
        await change(world, engines=[EngineSettings(name="small", kind="embedded", context=1)])
    assert not processes
    assert b"[DONE]" in await stream(world)


async def test_an_operator_who_does_not_wait_for_the_end_of_a_reload(
    engine: ScriptedEngine, engine2: ScriptedEngine, start: Start, processes: list[Processes]
) -> None:
    """All of the new settings hold, not half of them."""
    world = await start(engine)
    late = EngineSettings(name="late", replicas=[engine2.url])
    new = structs.replace(world.gateway.settings, engines=[EngineSettings(name="small", kind="embedded"), late])
    world.gateway.reread = lambda: new
    with suppress(TimeoutError):
        await world.http.post(f"{world.url}/admin/reload", timeout=aiohttp.ClientTimeout(0.2))
    await soon(lambda: world.gateway.settings is new)
    assert b"[DONE]" in await stream(world, {**SLOW, "model": "late"})


async def test_tenants_come_and_go(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine)
    team = TenantSettings("team", sha256(b"key").hexdigest(), most_urgent=1)
    await change(world, tenants=[team])
    assert await world.error(await world.post({})) == (401, "missing_api_key")
    async with world.post({}, headers={"Authorization": "Bearer key"}) as response:
        assert response.status == 200
    await change(world, tenants=[])
    assert b"[DONE]" in await stream(world)


async def test_200_calls_while_the_settings_change_all_the_time(
    engine: ScriptedEngine, engine2: ScriptedEngine, start: Start
) -> None:
    world = await start(engine, window=4)
    quick = {"scripted": {"chunks": 3, "gap_s": 0.005}, "stream": True}
    calls = [asyncio.create_task(stream(world, quick)) for _ in range(200)]
    turns = 0
    while not all(call.done() for call in calls):
        turns += 1
        replicas = [[engine], [engine2], [engine, engine2]][turns % 3]
        await change(
            world, engines=engines(*replicas, max_concurrency=1 + turns % 5), policy=["las", "fcfs"][turns % 2]
        )
        await asyncio.sleep(0.01)
    assert turns > 10
    assert all(b"[DONE]" in answer for answer in await asyncio.gather(*calls))
    assert len(engine.seen) + len(engine2.seen) == 200


# ---------------------------------------------------------------- how it is asked for


async def test_admin_reload_reads_the_file(engine: ScriptedEngine, engine2: ScriptedEngine, tmp_path: Path) -> None:
    path = file_of(tmp_path, engine, history="off")
    async with serving("--config", str(path)) as (_, url), aiohttp.ClientSession() as http:
        path.write_text(path.read_text().replace(engine.url, engine2.url))
        async with http.post(f"{url}/admin/reload") as response:
            assert (response.status, await response.json()) == (200, {"status": "reloaded", "engines": ["small"]})
        chat = {"model": "small", "messages": [{"role": "user", "content": "hi"}]}
        async with http.post(f"{url}/v1/chat/completions", json=chat) as response:
            assert response.status == 200
        assert (len(engine.seen), len(engine2.seen)) == (0, 1)
        path.write_text("engines: [{name: small, replica: x}]")
        async with http.post(f"{url}/admin/reload") as response:
            error = (await response.json())["error"]
            assert (response.status, error["code"]) == (400, "invalid_settings")
            assert "nothing has changed" in error["message"] and "hocket.yaml:1" in error["message"]
        async with http.post(f"{url}/v1/chat/completions", json=chat) as response:
            assert response.status == 200


async def test_sighup_reads_the_file(engine: ScriptedEngine, engine2: ScriptedEngine, tmp_path: Path) -> None:
    path = file_of(tmp_path, engine, history="off")
    async with serving("--config", str(path)) as (process, url), aiohttp.ClientSession() as http:
        assert process.stderr is not None
        path.write_text("policy: best")
        process.send_signal(signal.SIGHUP)
        assert b"nothing has changed" in await process.stderr.readline()
        path.write_text(file_of(tmp_path, engine2, history="off").read_text())
        process.send_signal(signal.SIGHUP)
        assert b"other settings hold now" in await process.stderr.readline()
        chat = {"model": "small", "messages": [{"role": "user", "content": "hi"}]}
        async with http.post(f"{url}/v1/chat/completions", json=chat) as response:
            assert response.status == 200
    assert (len(engine.seen), len(engine2.seen)) == (0, 1)


async def test_a_reload_that_fails_does_not_end_all_to_come(caplog: pytest.LogCaptureFixture) -> None:
    asked = asyncio.Queue[Settings]()

    class Gateway:
        async def reload(self, settings: Settings) -> None:
            asked.put_nowait(settings)
            raise RuntimeError("a bug")

    again = asyncio.Event()
    task = asyncio.create_task(_reload_whenever(again, Gateway(), Settings))  # type: ignore[arg-type]
    for number in (1, 2):
        again.set()
        await asyncio.wait_for(asked.get(), 5)
        await soon(lambda number=number: caplog.text.count("the settings were not read again") == number)
    task.cancel()


async def test_admin_is_for_operators(engine: ScriptedEngine, start: Start) -> None:
    reload = "/admin/reload"
    team = TenantSettings("team", sha256(b"key").hexdigest())
    closed = await start(engine, tenants=[team])
    as_team = {"Authorization": "Bearer key"}
    assert await closed.error(await closed.http.post(closed.url + reload, headers=as_team)) == (403, "wrong_role")
    admin = sha256(b"operator").hexdigest()
    world = await start(engine, tenants=[team], admin_key_sha256=admin)
    none = {"Authorization": "Basic operator"}
    wrong = {"Authorization": "Bearer operators"}
    for headers, refused in (
        ({}, (401, "missing_api_key")),
        (none, (401, "missing_api_key")),
        (wrong, (401, "invalid_api_key")),
        (as_team, (403, "wrong_role")),
    ):
        assert await world.error(await world.http.post(world.url + reload, headers=headers)) == refused
    # started by hand, without a file
    assert await world.error(await world.http.post(world.url + reload, headers=KEY)) == (409, "no_settings")
    assert await world.error(await world.http.get(world.url + reload, headers=KEY)) == (405, "method_not_allowed")


async def test_an_open_gateway_is_not_for_web_pages(engine: ScriptedEngine, start: Start) -> None:
    """A page of evil.example, open in a browser on this machine, sends requests here, or its name leads here."""
    world = await start(engine)
    for headers, code in (
        ({"Host": "evil.example:8080"}, "foreign_host"),
        ({"Origin": "https://evil.example"}, "foreign_origin"),
        ({"Origin": "null"}, "foreign_origin"),
        ({"Host": "127.0.0.1.evil.example"}, "foreign_host"),
        ({"Host": "["}, "foreign_host"),
    ):
        assert await world.error(await world.post({}, headers=headers)) == (403, code)
    assert not engine.seen
    for headers in ({"Host": "localhost:1"}, {"Host": "[::1]:80"}, {"Origin": "http://localhost:3000"}):
        async with world.post({}, headers=headers) as response:
            assert response.status == 200
    team = TenantSettings("team", sha256(b"key").hexdigest())
    closed = await start(engine, tenants=[team])
    headers = {"Host": "llm.example", "Authorization": "Bearer key"}
    async with closed.post({}, headers=headers) as response:
        assert response.status == 200
