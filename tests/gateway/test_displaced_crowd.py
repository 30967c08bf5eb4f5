"""Many calls that displace each other, while much else goes on."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from typing import Any

import msgspec

from hocket.core.spec import PreemptionSpec
from hocket.core.state import CallState
from tests.gateway.conftest import Running, Start, soon
from tests.gateway.test_displaced import WORDS, Stream, kept, serve, writer
from tests.writing_engine import WritingEngine

__all__ = ["writer"]  # the fixture


async def displace(world: Running, draw: random.Random) -> None:
    """More often than the core would."""
    while True:
        await asyncio.sleep(0.02)
        running = [call for call in world.gateway.scheduler.calls.values() if call.state is not CallState.QUEUED]
        if running:
            world.gateway.driver.live[draw.choice(running).id].preempt()


async def test_all_at_once(start: Start, writer: WritingEngine) -> None:
    """Calls of all classes and kinds displace each other; clients go, an engine dies, settings are read again.

    Who gets an answer gets all of it, once. The fixture looks for slots that are held, and replays the journal.
    """
    second, draw = WritingEngine(WORDS, gap_s=0.001), random.Random(3)
    await second.start()
    port = int(second.url.rpartition(":")[2])
    writer.gap_s, writer.split = 0.001, 50
    world = await serve(start, writer, second, window=3, preemption=PreemptionSpec(at_most=5))
    settings = world.gateway.settings
    outcomes: Counter[str] = Counter()

    async def client(number: int) -> None:
        await asyncio.sleep(draw.random() * 3)
        stream, seed = draw.random() < 0.6, draw.random() < 0.2
        body: dict[str, Any] = {"stream": stream, "max_tokens": draw.choice((20, 40, 60))}
        if seed:
            body["seed"] = 1
        headers = {"x-hocket-urgency": str(draw.choice((0, 1, 2, 4, 4, 4)))}
        async with world.post(body, headers=headers) as response:
            if draw.random() < 0.1:
                outcomes["gone"] += 1
                return
            raw = await response.read()
        if response.status != 200:
            outcomes["refused"] += 1
            assert not stream or response.status in {502, 503}
            return
        if not stream:
            text = json.loads(raw)["choices"][0]["message"]["content"]
            assert text == "".join(WORDS if seed else WORDS[: body["max_tokens"]])
        else:
            answer = Stream(response)
            answer.raw = raw
            if "error" in answer.events[-1]:
                outcomes["cut"] += 1
                return
            assert answer.texts == WORDS[: body["max_tokens"]] and raw.count(b"[DONE]") == 1
        outcomes["answered"] += 1

    async def trouble() -> None:
        for n in range(3):
            await asyncio.sleep(0.7)
            await world.gateway.reload(msgspec.structs.replace(settings, queue_timeout=60.0 + n))
        await second.stop()
        await asyncio.sleep(0.2)
        await second.start(port)

    displacing = asyncio.create_task(displace(world, draw))
    await asyncio.gather(trouble(), *(client(number) for number in range(150)))
    displacing.cancel()
    assert outcomes["answered"] > 100, outcomes
    assert sum(tokens > 0 for tokens in kept(world)) > 20
    await soon(lambda: not world.gateway.driver.live)
    await second.stop()
