"""The queue is here, not in the engine: what is most urgent goes to the next slot that frees."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from hocket.core.commands import Dispatch
from hocket.core.events import CallArrived, CallFinished
from tests.gateway.conftest import Running, Start, soon

BACKGROUND = 100


async def long_call(world: Running) -> None:
    body = {"stream": True, "max_tokens": 128, "ignore_eos": True, "temperature": 0}
    async with world.post(body, headers={"x-hocket-urgency": "3"}) as response:
        await response.read()


async def test_the_smallest_key_starts_when_the_next_slot_frees(small_engine: str, start: Start) -> None:
    world = await start(small_engine, window=4, policy="urgency")
    core = world.gateway.scheduler.engines["small"]
    background = [asyncio.create_task(long_call(world)) for _ in range(BACKGROUND)]
    await soon(lambda: core.queued == BACKGROUND - 4, 60)

    arrived = time.monotonic()
    urgent = {"stream": True, "max_tokens": 2}
    async with world.post(urgent, headers={"x-hocket-urgency": "0", "x-hocket-app": "alarm"}) as response:
        await response.content.readany()
        waited = time.monotonic() - arrived
        still_waiting = core.queued
        await response.read()
        call = response.headers["x-hocket-call"]
    for task in background:
        task.cancel()
    await asyncio.gather(*background, return_exceptions=True)

    assert still_waiting >= BACKGROUND - 12, f"{still_waiting} of {BACKGROUND} still wait; it started after {waited} s"
    records = world.records()
    came = _index(records, lambda r: isinstance(r.event, CallArrived) and r.event.call == call)
    sent = _index(records, lambda r: any(isinstance(c, Dispatch) and c.call == call for c in r.commands))
    between = records[came + 1 : sent + 1]
    assert sum(isinstance(c, Dispatch) for record in between for c in record.commands) == 1, "nobody went before it"
    assert sum(isinstance(record.event, CallFinished) for record in between) == 1, "the first slot that freed was its"


def _index(records: list[Any], wanted: Any) -> int:
    return next(i for i, record in enumerate(records) if wanted(record))
