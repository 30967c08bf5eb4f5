"""`hocket serve` as a process: what it prints, what it refuses, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from hocket.assembly import replay_journal
from tests.scripted_engine import Script, ScriptedEngine

HOCKET = str(Path(sys.executable).with_name("hocket"))
BODY = {"model": "small", "messages": [{"role": "user", "content": "hi"}]}


def settings(folder: Path, engine: ScriptedEngine, **more: object) -> Path:
    lines = ["listen: 127.0.0.1:0", "engines:", f"  - {{name: small, replicas: ['{engine.url}'], max_concurrency: 1}}"]
    path = folder / "hocket.yaml"
    path.write_text("\n".join([*lines, *(f"{key}: {value}" for key, value in more.items())]), encoding="utf-8")
    return path


@contextlib.asynccontextmanager
async def serving(*words: str) -> AsyncIterator[tuple[Process, str]]:
    """A gateway process and its base URL."""
    command = (HOCKET, "serve", *words)
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            line = (await process.stdout.readline()).decode()
        found = re.search(r"http://\S+?(?=/v1)", line)
        assert found, f"{line} {await process.stderr.read() if process.stderr else ''}"
        yield process, found.group()
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def queued(http: aiohttp.ClientSession, url: str) -> None:
    """Until a call waits in the other process."""
    async with asyncio.timeout(10):
        while True:
            async with http.get(f"{url}/metrics") as page:
                if 'hocket_queue_depth{engine="small"} 1.0' in await page.text():
                    return
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_what_runs_may_end_and_new_calls_are_told(
    engine: ScriptedEngine, tmp_path: Path, number: signal.Signals
) -> None:
    journal = tmp_path / "journal.jsonl"
    engine.default = Script(chunks=60, gap_s=0.05)
    config = str(settings(tmp_path, engine, journal=journal))
    async with serving("--config", config) as (process, url), aiohttp.ClientSession() as http:
        chat = f"{url}/v1/chat/completions"
        running = await http.post(chat, json={**BODY, "stream": True})
        waiting = asyncio.create_task(http.post(chat, json=BODY))
        await queued(http, url)
        process.send_signal(number)
        assert (await running.read()).endswith(b"data: [DONE]\n\n")
        assert (await waiting).status == 200
        async with asyncio.timeout(20):
            assert await process.wait() == 0
        assert process.stderr is not None
        assert b"Traceback" not in await process.stderr.read()
    assert replay_journal(journal) is None


async def test_what_takes_too_long_is_cut_with_an_error(engine: ScriptedEngine, tmp_path: Path) -> None:
    engine.default = Script(chunks=1000, gap_s=0.05)
    async with serving("--config", str(settings(tmp_path, engine, shutdown_s=0.3))) as (process, url):
        async with aiohttp.ClientSession() as http:
            chat = f"{url}/v1/chat/completions"
            running = await http.post(chat, json={**BODY, "stream": True})
            waiting = asyncio.create_task(http.post(chat, json=BODY))
            await queued(http, url)
            process.terminate()
            assert b'"code":"shutdown"' in await running.read()
            assert (await waiting).status == 503
        async with asyncio.timeout(20):
            assert await process.wait() == 0


async def refused(*words: str) -> str:
    command = (HOCKET, "serve", *words)
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE)
    async with asyncio.timeout(20):
        _, err = await process.communicate()
    assert process.returncode == 2 and err.count(b"\n") == 1, err
    return err.decode()


async def test_what_cannot_start_says_why(engine: ScriptedEngine, tmp_path: Path) -> None:
    config = str(settings(tmp_path, engine))
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = str(held.getsockname()[1])
        assert "in use" in await refused("--config", config, "--port", port)
    assert "unknown policy" in await refused("--config", config, "--policy", "lass")
    assert "journal" in await refused("--config", config, "--journal", str(tmp_path / "no" / "where"))
    assert "cannot be read" in await refused("--config", str(tmp_path / "none.yaml"))


@pytest.mark.slow
async def test_without_a_configuration_it_is_the_embedded_engine_and_it_comes_back_when_killed() -> None:
    async with serving("--port", "0") as (process, url), aiohttp.ClientSession() as http:

        async def status() -> int:
            async with (
                asyncio.timeout(60),
                http.post(f"{url}/v1/chat/completions", json={**BODY, "max_tokens": 4}) as it,
            ):
                return it.status

        assert await status() == 200, "the call waited until the engine was up"
        (child,) = children(process.pid)
        os.kill(child, signal.SIGKILL)
        await asyncio.sleep(0.3)
        assert await status() == 200
        process.terminate()
        async with asyncio.timeout(10):
            assert await process.wait() == 0


def children(pid: int) -> list[int]:
    """The processes that `pid` has started."""
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
