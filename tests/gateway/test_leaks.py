"""What goes wrong in a way that nobody foresaw may cost its own call; it may not cost a slot, nor the gateway's end."""

from __future__ import annotations

import asyncio
import gc
import time

import pytest

from hocket.gateway.driver import LiveCall
from hocket.gateway.upstream import Replica
from tests.gateway.conftest import Start, soon
from tests.scripted_engine import Script, ScriptedEngine


async def test_a_bug_in_the_relay_costs_no_slot(
    engine: ScriptedEngine, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await start(engine, window=1)
    with monkeypatch.context() as broken:

        async def post(*_: object) -> None:
            raise RuntimeError("a bug")

        broken.setattr(Replica, "post", post)
        async with world.post({}) as response:
            assert await world.error(response) == (500, "internal_error")
    assert world.inflight == 0
    async with asyncio.timeout(10), world.post({}) as response:
        assert response.status == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_that_is_over_leaves_nothing_to_the_garbage_collector(
    engine: ScriptedEngine, start: Start, stream: bool
) -> None:
    world = await start(engine)
    gc.collect()
    gc.disable()
    try:
        for _ in range(5):
            async with world.post({"stream": stream}) as response:
                assert response.status == 200
                await response.read()
        await soon(lambda: not world.gateway.driver.live)
        await asyncio.sleep(0)
        left = [one for one in gc.get_objects() if isinstance(one, LiveCall)]
        assert len(left) <= 1, "of the latest, whose connection is open, the task may know"
    finally:
        gc.enable()


async def test_a_replica_that_is_taken_out_may_finish_what_it_has_not_begun_to_answer(
    engine: ScriptedEngine, start: Start
) -> None:
    world = await start(engine)
    engine.default = Script(first_s=0.3)
    call = asyncio.create_task(world.post({}).__aenter__())
    await soon(lambda: engine.inflight == 1)
    world.gateway.fleet.remove("small", engine.url, died=False)
    async with asyncio.timeout(10):
        response = await call
    assert response.status == 200
    assert len(engine.seen) == 1


async def test_a_client_that_never_ends_its_request_does_not_hold_up_the_end(
    engine: ScriptedEngine, start: Start
) -> None:
    world = await start(engine)
    host, port = world.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    await asyncio.sleep(0.1)
    began = time.monotonic()
    async with asyncio.timeout(8):
        await world.gateway.stop()
    assert time.monotonic() - began < 6
    writer.close()
