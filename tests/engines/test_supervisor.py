"""The supervisor: real processes, really killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest

from hocket.engines import supervisor
from hocket.engines.embedded import EmbeddedSpec
from hocket.engines.supervisor import EmbeddedEngine
from hocket.errors import InputError

SLEEP = asyncio.sleep
SPEC = EmbeddedSpec(weights="small", parallel=1, context=128, threads=1)


class Reports:
    """What an engine told, in order."""

    def __init__(self) -> None:
        self.told: list[tuple[str, ...]] = []

    def up(self, replica: str, url: str) -> None:
        self.told.append(("up", replica, url))

    def down(self, replica: str) -> None:
        self.told.append(("down", replica))

    async def until(self, count: int) -> None:
        await until(lambda: len(self.told) >= count)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await SLEEP(0.01)


def pid_at(url: str) -> int:
    """The process that listens at `url`."""
    port = int(url.rsplit(":", 1)[1])
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it ended meanwhile
            pid = int(path.parent.name)
            if b"hocket.engines.embedded" in path.read_bytes() and port in listening(pid):
                return pid
    raise AssertionError(f"nobody listens at {url}")


def listening(pid: int) -> set[int]:
    sockets = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            sockets.add(entry.readlink().name)
        except OSError:
            continue
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return {int(row[1].split(":")[1], 16) for row in rows if f"socket:[{row[9]}]" in sockets and row[3] == "0A"}


async def healthy(url: str) -> bool:
    async with aiohttp.ClientSession() as http, http.get(f"{url}/health") as response:
        return response.status == 200


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def test_replicas_come_up_and_go() -> None:
    reports = Reports()
    async with EmbeddedEngine(
        "e", EmbeddedSpec(replicas=2, parallel=1, context=128), reports.up, reports.down
    ) as engine:
        assert set(engine.urls) == {"e-0", "e-1"}
        assert len(set(engine.urls.values())) == 2
        assert all([await healthy(url) for url in engine.urls.values()])
        pids = [pid_at(url) for url in engine.urls.values()]
    assert all(gone(pid) for pid in pids)
    assert sorted(told[:2] for told in reports.told) == [("up", "e-0"), ("up", "e-1")], "stopping is not dying"


async def test_a_killed_replica_is_reported_and_comes_back() -> None:
    reports = Reports()
    async with EmbeddedEngine("e", SPEC, reports.up, reports.down) as engine:
        first = engine.urls["e-0"]
        os.kill(pid_at(first), signal.SIGKILL)
        started = time.monotonic()
        await reports.until(2)
        assert time.monotonic() - started < 2.0, "the gateway must not send calls to a dead replica"
        assert engine.urls == {}
        await reports.until(3)
        assert [told[:2] for told in reports.told] == [("up", "e-0"), ("down", "e-0"), ("up", "e-0")]
        assert engine.urls["e-0"] == reports.told[2][2]
        assert await healthy(engine.urls["e-0"])
        assert engine.restarts == 1


async def test_pauses_between_restarts_double(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [sys.executable, "-c", "raise SystemExit(7)"]
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await SLEEP(0)

    monkeypatch.setattr(supervisor, "command", lambda spec, path, replica: words)
    monkeypatch.setattr(supervisor.asyncio, "sleep", sleep)
    engine = EmbeddedEngine("e", SPEC)
    await engine.start()
    await until(lambda: len(pauses) >= 8)
    await engine.stop()
    assert pauses[:8] == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]


async def test_a_process_that_cannot_be_started_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    async def create(*words: str, **options: object) -> object:
        tries.append(words)
        raise OSError("no memory")

    monkeypatch.setattr(supervisor, "FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr(supervisor.asyncio, "create_subprocess_exec", create)
    engine = EmbeddedEngine("e", SPEC)
    await engine.start()
    await until(lambda: len(tries) >= 3)
    await engine.stop()


async def test_loading_does_not_block_the_loop() -> None:
    """By the best of three: a machine that holds up the test holds up its loop."""

    async def longest() -> float:
        gaps, last = [0.0], time.monotonic()

        async def watch() -> None:
            nonlocal last
            while True:
                await asyncio.sleep(0.005)
                gaps.append(time.monotonic() - last)
                last = time.monotonic()

        watcher = asyncio.create_task(watch())
        async with EmbeddedEngine("e", SPEC):
            watcher.cancel()
        return max(gaps)

    assert min([await longest() for _ in range(3)]) < 0.25


async def test_cancelling_leaves_no_process() -> None:
    pids: list[int] = []

    async def body() -> None:
        async with EmbeddedEngine("e", SPEC) as engine:
            pids.append(pid_at(engine.urls["e-0"]))
            await asyncio.sleep(60)

    task = asyncio.create_task(body())
    await until(lambda: pids)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert gone(pids[0])


async def test_stopping_while_loading_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    real = asyncio.create_subprocess_exec

    async def create(*words: str, **options: object) -> object:
        process = await real(*words, **options)  # type: ignore[arg-type]
        started.append(process)
        return process

    monkeypatch.setattr(supervisor.asyncio, "create_subprocess_exec", create)
    engine = EmbeddedEngine("e", SPEC)
    await engine.start()
    await until(lambda: started)
    await engine.stop()
    assert started[0].returncode is not None


async def test_weights_that_cannot_be_served_are_an_error(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(100))
    engine = EmbeddedEngine("e", EmbeddedSpec(weights=str(broken)))
    with pytest.raises(InputError, match=r"broken\.gguf"):
        await engine.__aenter__()


def test_engines_die_with_a_parent_that_is_killed() -> None:
    script = """
import asyncio
from hocket.engines.embedded import EmbeddedSpec
from hocket.engines.supervisor import EmbeddedEngine
async def main():
    async with EmbeddedEngine("e", EmbeddedSpec(parallel=1, context=128, replicas=2)) as engine:
        print(*engine.urls.values(), flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        urls = parent.stdout.readline().split()
        assert len(urls) == 2
        pids = [pid_at(url) for url in urls]
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 30
    while not all(gone(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.02)
