"""`max_concurrency: auto` on real sockets, with engines of three shapes that are processes of their own."""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hocket.settings import EngineSettings, Health
from tests.gateway.conftest import Running, Start, soon
from tests.shaped_engine import ShapedEngine

BEST = {"steep": 32, "flat": 4, "cliff": 20}
"shape of tests/shaped_engine.py -> its best window"


@pytest.fixture
async def engines() -> AsyncIterator[dict[str, str]]:
    """Shape -> URL."""
    command = [sys.executable, str(Path(__file__).parents[1] / "shaped_engine.py"), "--shape"]
    processes = {
        shape: await asyncio.create_subprocess_exec(*command, shape, stdout=asyncio.subprocess.PIPE) for shape in BEST
    }
    urls = {}
    for shape, process in processes.items():
        assert process.stdout is not None
        urls[shape] = (await process.stdout.readline()).decode().strip()
    yield urls
    for process in processes.values():
        process.kill()
        await process.wait()


class Load:
    """64 clients an engine: each sends the next call when it has its answer. One in four does not stream."""

    def __init__(self, world: Running) -> None:
        self.tokens = dict.fromkeys(BEST, 0)
        self._world = world
        self._tasks = [asyncio.create_task(self._client(shape, i)) for shape in BEST for i in range(64)]

    async def _client(self, shape: str, number: int) -> None:
        rng = random.Random(number)
        while True:
            size = rng.randint(5, 15)
            body = {"model": shape, "max_tokens": size, "stream": number % 4 > 0}
            async with self._world.post(body) as response:
                await response.read()
                assert response.status == 200
            self.tokens[shape] += size

    async def rates(self, seconds: float) -> dict[str, float]:
        """Tokens per second of each engine over the next seconds."""
        before, began = dict(self.tokens), time.monotonic()
        await asyncio.sleep(seconds)
        passed = time.monotonic() - began
        return {shape: (self.tokens[shape] - before[shape]) / passed for shape in BEST}

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        for result in await asyncio.gather(*self._tasks, return_exceptions=True):
            assert isinstance(result, asyncio.CancelledError), result


@pytest.mark.slow
async def test_auto_is_nearly_as_good_as_the_best_window(engines: dict[str, str], start: Start) -> None:
    """After half a minute, on a machine that tests share: nine tenths. benchmarks/windows.py asks for more."""
    worlds = {
        auto: await start(
            policy="call-fcfs",  # calls of one size: what an order costs must not count as what a window costs
            engines=[
                EngineSettings(name=shape, replicas=[url], max_concurrency="auto" if auto else BEST[shape])
                for shape, url in engines.items()
            ],
        )
        for auto in (False, True)
    }

    async def rates(auto: bool, after: float, seconds: float) -> dict[str, float]:
        load = Load(worlds[auto])
        await asyncio.sleep(after)
        found = await load.rates(seconds)
        await load.stop()
        return found

    found = await rates(True, 32.0, 8.0)
    for left in (2, 1, 0):  # what one of them suffers alone, the other need not beat
        best = await rates(False, 2.0, 5.0)
        if not left or all(found[shape] >= 0.9 * best[shape] for shape in BEST):
            break
        found = await rates(True, 2.0, 8.0)
    for shape in BEST:
        assert found[shape] >= 0.9 * best[shape], (shape, found, best)
    world, homes = worlds[True], {}
    for shape in BEST:
        (replica,) = world.gateway.scheduler.engines[shape].replicas.values()
        assert replica.search is not None
        homes[shape] = replica.search.home
    assert 28 <= homes["steep"] <= 64 and homes["flat"] <= 16 and 17 <= homes["cliff"] <= 20, homes


async def test_what_a_replica_says_of_itself_cuts_its_window(start: Start) -> None:
    """The engine runs 8 calls and keeps the rest waiting: so its /metrics say as soon as 16 are tried."""
    engine = ShapedEngine("narrow", metrics=True)
    url = await engine.start()
    settings = EngineSettings(name="m", kind="vllm", replicas=[url], max_concurrency="auto")
    world = await start(engines=[settings], health=Health(interval_s=0.1))
    (replica,) = world.gateway.scheduler.engines["m"].replicas.values()
    search = replica.search
    assert search is not None

    async def client() -> None:
        for _ in itertools.count():
            async with world.post({"model": "m", "max_tokens": 20, "stream": True}) as response:
                await response.read()

    clients = [asyncio.create_task(client()) for _ in range(80)]
    try:
        await soon(lambda: search.cap == 10, within_s=30.0)  # 8 run and two in reserve
        await soon(lambda: replica.window == 10)
    finally:
        for task in clients:
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        await engine.stop()
