"""On real sockets, with a history: engines slow down tenfold, run out of memory and lie about their health, besides all
that `tests/gateway/test_chaos.py` has; the database is locked, then the disk is full. The history says in the end what
the clients say.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from hocket.assembly import replay_journal
from hocket.gateway.app import Gateway
from hocket.history.recorder import HistoryRecorder, recorder_of
from hocket.journal import JournalWriter
from hocket.settings import EngineSettings, Health, HistorySettings, Settings, TenantSettings
from tests.gateway.conftest import Running, soon
from tests.gateway.test_chaos import SLOW, TENANTS, Outcome, Unruly, call, check, executions, sha256

SEED = int(os.environ.get("HOCKET_CHAOS_SEED", "1"))
CALLS, CLIENTS = 900, 48
OOM = b'{"error": {"message": "CUDA out of memory. Tried to allocate 2.00 GiB", "type": "internal_error", "code": 500}}'
LOCKED_S, FULL_S = 1.5, 1.0


class Worse(Unruly):
    """A replica that goes through worse: it answers its health checks all the while."""

    trouble = ""

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "POST" and self.trouble == "slow":
            await asyncio.sleep(0.3)
        elif request.method == "POST" and self.trouble == "hang":
            await asyncio.sleep(30.0)
        elif request.method == "POST" and self.trouble == "oom":
            await request.read()
            return web.Response(status=500, body=OOM, headers={"Content-Type": "application/json"})
        return await super()._serve(request)


@contextlib.asynccontextmanager
async def running(replicas: list[Worse], folder: Path) -> AsyncIterator[tuple[Running, HistoryRecorder]]:
    urls = [replica.url for replica in replicas]
    settings = Settings(
        listen="127.0.0.1:0",
        shutdown_s=2.0,
        engines=[
            EngineSettings(name="small", replicas=urls[:4], max_concurrency=6),
            EngineSettings(name="large", replicas=urls[4:], max_concurrency=8),
        ],
        tenants=[TenantSettings(name=name, key_sha256=sha256(name.encode()).hexdigest()) for name in TENANTS],
        timeouts=SLOW,
        health=Health(interval_s=0.5),
        history=HistorySettings(url=str(folder / "history.db")),
    )
    recorder, journal = recorder_of(settings), JournalWriter(folder / "journal.jsonl", settings.to_spec())
    assert recorder is not None
    gateway = Gateway(settings, journal, observers=[recorder], earlier=recorder)
    recorder.start()
    http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
    try:
        yield Running(gateway, await gateway.start(), http, journal, folder / "journal.jsonl"), recorder
    finally:
        await http.close()
        await gateway.stop()
        recorder.stop(20.0)
        with contextlib.suppress(OSError):
            journal.close()
    assert replay_journal(folder / "journal.jsonl") is None, f"HOCKET_CHAOS_SEED={SEED}"


async def twice(world: Running, number: int) -> None:
    """Two requests with one key, at once: what is a repetition says what the first says."""
    headers = {"Authorization": f"Bearer {TENANTS[number % 3]}", "Idempotency-Key": f"key-{number}"}
    body = {"model": "small", "messages": [{"role": "user", "content": f"k{number}-"}], "stream": number % 2 == 0}

    async def ask() -> tuple[bool, int, bytes]:
        async with world.http.post(f"{world.url}/v1/chat/completions", json=body, headers=headers) as answer:
            return "Idempotent-Replayed" in answer.headers, answer.status, await answer.read()

    first, second = await asyncio.gather(ask(), ask())
    if first[0] or second[0]:
        assert first[1:] == second[1:], f"HOCKET_CHAOS_SEED={SEED}: {first} {second}"


async def lock(database: Path) -> None:
    """Somebody else holds the history."""
    other = sqlite3.connect(database, isolation_level=None, timeout=10.0, check_same_thread=False)
    await asyncio.to_thread(other.execute, "BEGIN EXCLUSIVE")
    await asyncio.sleep(LOCKED_S)
    other.execute("ROLLBACK")
    other.close()


async def fill_the_disk() -> None:
    """No file of this process grows any more."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        await asyncio.sleep(FULL_S)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def expected(outcome: Outcome) -> set[str]:
    """What the history may say of a call of which its client says this."""
    if outcome.gone:
        return {"cancelled", "finished", "rejected"}
    return {"rejected", "aborted"} if outcome.code else {"finished"}


def compare(calls: list[Outcome], database: Path) -> None:
    """Each call that a client heard of is in the history, once, with its own end."""
    with contextlib.closing(sqlite3.connect(database)) as found:
        rows: Any = found.execute("SELECT call, outcome, reason FROM calls").fetchall()
    told = {name: outcome for name, outcome, _ in rows}
    assert len(told) == len(rows), "a call is there twice"
    for outcome in calls:
        if outcome.call:
            assert told.get(outcome.call) in expected(outcome), (told.get(outcome.call), outcome)


@pytest.mark.slow
async def test_the_history_says_what_the_clients_say(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rng = random.Random(SEED)
    replicas = [Worse(rng) for _ in range(6)]
    for replica in replicas:
        await replica.start()
    calls: list[Outcome] = []
    numbers, over = iter(range(CALLS)), asyncio.Event()
    async with running(replicas, tmp_path) as (world, recorder):

        async def client() -> None:
            for number in numbers:
                async with asyncio.timeout(40):
                    if number % 9 == 0:
                        await twice(world, number)
                    else:
                        calls.append(await call(world, rng, number))

        async def trouble(some: list[Worse]) -> None:
            while not over.is_set():
                replica = rng.choice(some)
                replica.trouble = rng.choice(("slow", "slow", "hang", "oom"))
                await asyncio.sleep(rng.uniform(0.3, 1.0))
                if replica.trouble == "oom":  # it had to come to this
                    await replica.die_and_return(0.2)
                replica.trouble = ""

        async def disk() -> None:
            await asyncio.sleep(0.5)
            await lock(tmp_path / "history.db")
            await fill_the_disk()

        async with asyncio.TaskGroup() as group:
            beside = [*(group.create_task(trouble(replicas[n::2])) for n in range(2)), group.create_task(disk())]
            await asyncio.gather(*(client() for _ in range(CLIENTS)))
            over.set()
            await asyncio.gather(*beside)
        await soon(lambda: world.inflight == 0 and not world.gateway.driver.live, 5.0)
        world.gateway.scheduler.check()
        ran = executions(replicas)
        for outcome in calls:
            check(outcome, ran[outcome.marker])
        await asyncio.to_thread(lambda: soon_written(recorder))
    assert recorder.writer.lost == 0 and recorder.writer.trouble is None
    compare(calls, tmp_path / "history.db")
    assert "history cannot be written" in caplog.text and "written again" in caplog.text, "the disk was not full"
    ends = Counter(f"{outcome.status} {outcome.code or 'complete'}" for outcome in calls if not outcome.gone)
    assert ends["200 complete"] > 0.6 * len(calls), ends
    for replica in replicas:
        await replica.stop()
    await asyncio.sleep(0.05)


def soon_written(recorder: HistoryRecorder) -> None:
    """Wait until the writer has nothing left: it pauses between its tries."""
    from tests.history.test_writer import soon as wait

    wait(lambda: not recorder.writer.waiting and recorder.writer.trouble is None, 20.0)
