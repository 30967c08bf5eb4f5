"""A new process takes over from an old one under load: no call fails, of whatever client."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import openai
import pytest
from msgspec import structs

from hocket.errors import InputError
from hocket.gateway.app import Gateway
from hocket.gateway.handover import accept_rest, inherited, shared
from hocket.gateway.listeners import context_of
from hocket.settings import EngineSettings, Settings, TenantSettings, TlsSettings
from tests.attack.certificates import Authority
from tests.scripted_engine import Script, ScriptedEngine

HOCKET = str(Path(sys.executable).with_name("hocket"))
AS_SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
os.execv(sys.argv[2], sys.argv[2:])
"""
"a supervisor's way: the socket is descriptor 3, and the process is told that it is meant"
MESSAGES: Any = [{"role": "user", "content": "hi"}]


@contextlib.asynccontextmanager
async def serving(config: Path, given: socket.socket | None) -> AsyncIterator[Process]:
    """A process that listens, on its own socket or on the one that it is given."""
    words = (HOCKET, "serve", "--config", str(config))
    if given is None:
        process = await asyncio.create_subprocess_exec(*words, stdout=PIPE, stderr=PIPE)
    else:
        number = given.fileno()
        words = (sys.executable, "-SEc", AS_SYSTEMD, str(number), *words)
        process = await asyncio.create_subprocess_exec(*words, stdout=PIPE, stderr=PIPE, pass_fds=[number])
    try:
        assert process.stdout is not None and process.stderr is not None
        async with asyncio.timeout(30):
            line = await process.stdout.readline()
        assert b"listens on" in line, line + await process.stderr.read()
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


class Load:
    """Clients that call without a pause, and retry nothing."""

    def __init__(self, url: str) -> None:
        self.url, self.over = url, False
        self.counts: Counter[str] = Counter()

    async def official(self, n: int) -> None:
        """OpenAI's client, whose connections stay open; streams and whole answers."""
        async with openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0) as client:
            while not self.over:
                if n % 2:
                    answer = await client.chat.completions.create(model="small", messages=MESSAGES)
                    assert answer.choices[0].message.content
                else:
                    stream = await client.chat.completions.create(model="small", messages=MESSAGES, stream=True)
                    assert [chunk.choices[0].finish_reason async for chunk in stream][-1] == "stop"
                self.counts["official"] += 1

    async def raw(self, n: int) -> None:
        """aiohttp's, which opens a connection for each call; or keeps one, and leaves it idle for a while."""
        connector = aiohttp.TCPConnector(force_close=n % 2 == 0)
        async with aiohttp.ClientSession(connector=connector) as http:
            while not self.over:
                body = {"model": "small", "messages": MESSAGES, "stream": n % 3 == 0}
                async with http.post(f"{self.url}/v1/chat/completions", json=body) as answer:
                    assert answer.status == 200, await answer.text()
                    await answer.read()
                self.counts["raw"] += 1
                await asyncio.sleep(0.0 if n % 2 == 0 else 0.05 * n)

    async def plain(self, n: int) -> None:
        """httpx's."""
        async with httpx.AsyncClient() as http:
            while not self.over:
                answer = await http.post(
                    f"{self.url}/v1/embeddings", json={"model": "small", "input": f"{n}"}, timeout=20
                )
                assert answer.status_code == 200, answer.text
                self.counts["plain"] += 1


@pytest.mark.slow
@pytest.mark.parametrize("how", ["inherited", "reuse_port"])
async def test_a_new_process_takes_over_and_no_call_fails(tmp_path: Path, how: str) -> None:
    engine = ScriptedEngine(Script(gap_s=0.004, chunks=6))
    await engine.start()
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as held:
        port = held.getsockname()[1]
        if how == "reuse_port":
            held.close()
        config = tmp_path / "hocket.yaml"
        config.write_text(
            f"listen: 127.0.0.1:{port}\nreuse_port: {str(how == 'reuse_port').lower()}\n"
            f"engines: [{{name: small, replicas: ['{engine.url}'], max_concurrency: 16}}]\n"
            f"history: {{url: {tmp_path / 'history.db'}}}\n",
            encoding="utf-8",
        )
        given = held if how == "inherited" else None
        load = Load(f"http://127.0.0.1:{port}")
        async with serving(config, given) as old:
            clients = [asyncio.create_task(kind(n)) for kind in (load.official, load.raw, load.plain) for n in range(4)]
            await asyncio.sleep(0.5)
            async with serving(config, given) as new:
                await asyncio.sleep(0.3)
                before = load.counts.total()
                old.terminate()
                async with asyncio.timeout(20):
                    assert await old.wait() == 0
                await asyncio.sleep(0.5)
                load.over = True
                await asyncio.gather(*clients)  # raises what a client met
                assert load.counts.total() > before and min(load.counts.values()) > 10, load.counts
                new.terminate()
                async with asyncio.timeout(20):
                    assert await new.wait() == 0
    await engine.stop()


@pytest.mark.slow
async def test_while_nobody_accepts_connections_wait(tmp_path: Path) -> None:
    """A restart of one after the other: calls that come in between wait for the next process."""
    engine = ScriptedEngine()
    await engine.start()
    with socket.create_server(("127.0.0.1", 0)) as held:
        config = tmp_path / "hocket.yaml"
        config.write_text(f"engines: [{{name: small, replicas: ['{engine.url}']}}]\nhistory: off\n", encoding="utf-8")
        url = f"http://127.0.0.1:{held.getsockname()[1]}/v1/chat/completions"
        async with aiohttp.ClientSession() as http:
            body = {"model": "small", "messages": MESSAGES}
            waits = [asyncio.create_task(http.post(url, json=body)) for _ in range(3)]
            async with serving(config, held) as process:
                assert [(await wait).status for wait in waits] == [200] * 3
                process.terminate()
                await process.wait()
            waits = [asyncio.create_task(http.post(url, json=body)) for _ in range(3)]
            async with serving(config, held):
                assert [(await wait).status for wait in waits] == [200] * 3
    await engine.stop()


@pytest.mark.parametrize("pid", ["", "1", "no number"])
def test_sockets_that_were_meant_for_another_process_are_left_alone(pid: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", pid)
    monkeypatch.setenv("LISTEN_FDS", "1")
    assert inherited(Settings()) == []


def test_a_socket_that_others_reach_is_refused_without_tenants(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the parent's to bind, but not to open the engines to everyone."""
    given = socket.create_server(("0.0.0.0", 0))
    monkeypatch.setattr("hocket.gateway.handover.FIRST", given.detach())
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "1")
    with pytest.raises(InputError, match=r"0\.0\.0\.0, which others reach, and no tenants are set"):
        inherited(Settings())


def test_what_is_no_tcp_socket_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = socket.socket(socket.AF_UNIX)
    given.bind(str(tmp_path / "socket"))
    monkeypatch.setattr("hocket.gateway.handover.FIRST", given.detach())
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "1")
    with pytest.raises(InputError, match="no TCP socket"):
        inherited(Settings())


@pytest.mark.parametrize("count", ["two", "1"])
def test_descriptors_that_are_not_there_are_told(count: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hocket.gateway.handover.FIRST", 987)
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", count)
    with pytest.raises(InputError, match="LISTEN_FDS"):
        inherited(Settings())


def test_operators_socket_that_others_reach_is_refused_where_being_here_is_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The settings say loopback, so no key is asked for: the socket must not be another."""
    first, second = socket.create_server(("0.0.0.0", 0)), socket.create_server(("0.0.0.0", 0))
    os.dup2(first.detach(), 700)
    os.dup2(second.detach(), 701)
    monkeypatch.setattr("hocket.gateway.handover.FIRST", 700)
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "2")
    tenants = [TenantSettings(name="ann", key_sha256="0" * 64)]
    with pytest.raises(InputError, match=r"0\.0\.0\.0, which others reach, and admin_listen is"):
        inherited(Settings(tenants=tenants, admin_listen="127.0.0.1:8081"))


async def test_a_socket_that_others_reach_needs_tenants_after_a_reload_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the settings alone `listen` is loopback; the socket is not."""
    monkeypatch.setattr("hocket.gateway.handover.FIRST", socket.create_server(("0.0.0.0", 0)).detach())
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "1")
    closed = Settings(
        engines=[EngineSettings(name="small", replicas=["http://127.0.0.1:9"])],
        tenants=[TenantSettings(name="ann", key_sha256="0" * 64)],
    )
    gateway = Gateway(closed)
    await gateway.start()
    try:
        with pytest.raises(InputError, match=r"0\.0\.0\.0, which others reach"):
            await gateway.reload(structs.replace(closed, tenants=[]))
        assert not gateway.tenants.open
        await gateway.reload(structs.replace(closed, body_limit_mib=1))
    finally:
        await gateway.stop(0)


async def test_a_handshake_that_does_not_come_does_not_hold_up_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hocket.gateway.handover.HANDSHAKE_S", 0.2)
    tls = context_of(TlsSettings(*Authority(tmp_path).issue("server")))
    listening = shared("127.0.0.1", 0, 8)
    with socket.create_connection(listening.getsockname()):
        async with asyncio.timeout(10):
            await accept_rest(listening, asyncio.Protocol, tls)
