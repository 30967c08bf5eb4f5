"""A gateway on a real socket in front of scripted engines. Every test ends with the same proofs: no slot is held, the
core's invariants hold, and the journal replays through a fresh core to the same commands."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from hocket.assembly import replay_journal
from hocket.gateway.app import Gateway
from hocket.journal import JournalWriter, Record, read_journal
from hocket.settings import EngineSettings, Settings
from tests.scripted_engine import ScriptedEngine


@dataclass
class Running:
    """A gateway that runs, and a client of it."""

    gateway: Gateway
    url: str
    http: aiohttp.ClientSession
    journal: JournalWriter
    path: Path

    def records(self) -> list[Record]:
        """The journal so far."""
        self.journal.flush()
        return [record for _, record in read_journal(self.path)[1]]

    def post(self, body: Any, path: str = "/v1/chat/completions", **more: Any) -> Any:
        """A request; a dict is filled up to a good chat request, anything else is sent as it is."""
        if isinstance(body, dict):
            chat = {"model": "small", "messages": [{"role": "user", "content": "hi"}]}
            return self.http.post(self.url + path, json={**chat, **body}, **more)
        return self.http.post(self.url + path, data=body, **more)

    @staticmethod
    async def error(response: Any) -> tuple[int, str]:
        """Status and code of an answer in OpenAI's error shape."""
        error = (await response.json())["error"]
        assert set(error) == {"message", "type", "param", "code"} and error["message"] and error["type"], error
        return response.status, error["code"]

    @property
    def inflight(self) -> int:
        """Slots that are held, by the core's count."""
        engines = self.gateway.scheduler.engines.values()
        return sum(replica.inflight for engine in engines for replica in engine.replicas.values())


async def soon(condition: Callable[[], bool], within_s: float = 10.0) -> float:
    """Wait until `condition()` holds, even on a busy machine; returns the seconds that took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < within_s, "did not happen in time"
        await asyncio.sleep(0.002)
    return time.monotonic() - began


Start = Callable[..., Awaitable[Running]]


@pytest.fixture
async def engine() -> AsyncIterator[ScriptedEngine]:
    engine = ScriptedEngine()
    await engine.start()
    yield engine
    await engine.stop()


@pytest.fixture
async def engine2() -> AsyncIterator[ScriptedEngine]:
    engine = ScriptedEngine()
    await engine.start()
    yield engine
    await engine.stop()


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Start a gateway: `await start(engine, ..., window=2, policy="las")`; engines are replicas of one model, small."""
    running: list[Running] = []

    async def start(*engines: ScriptedEngine | str, window: int = 8, **more: Any) -> Running:
        if engines:
            urls = [engine if isinstance(engine, str) else engine.url for engine in engines]
            more["engines"] = [EngineSettings(name="small", replicas=urls, max_concurrency=window)]
        settings = Settings(**{"listen": "127.0.0.1:0", "shutdown_s": 2.0, **more})
        path = tmp_path / f"journal-{len(running)}.jsonl"
        journal = JournalWriter(path, settings.to_spec())
        gateway = Gateway(settings, journal)
        url = await gateway.start()
        http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        running.append(Running(gateway, url, http, journal, path))
        return running[-1]

    yield start
    for world in running:
        await world.http.close()
        await world.gateway.stop()
        world.journal.close()
    for world in running:
        world.gateway.scheduler.check()
        assert world.inflight == 0, "a slot is still held"
        assert not world.gateway.scheduler.calls and not world.gateway.driver.live
        assert replay_journal(world.path) is None
