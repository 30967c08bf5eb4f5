"""TLS at the gateway's own listeners, with certificates made here and real clients."""

from __future__ import annotations

import asyncio
import ssl
import warnings
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from msgspec import structs

from hocket.errors import InputError
from hocket.settings import TlsSettings
from tests.attack.certificates import Authority
from tests.gateway.conftest import Running, Start
from tests.scripted_engine import ScriptedEngine

CHAT = {"model": "small", "messages": [{"role": "user", "content": "hi"}]}


async def get(url: str, client: ssl.SSLContext, path: str = "/health") -> int:
    async with aiohttp.ClientSession() as http, http.get(url + path, ssl=client) as response:
        return response.status


async def secured(start: Start, engine: ScriptedEngine, authority: Authority, **more: Any) -> Running:
    client_ca = more.pop("client_ca", None)
    tls = TlsSettings(*authority.issue("gateway"), client_ca)
    return await start(engine, tls=tls, **more)


async def test_calls_and_operators_are_encrypted(engine: ScriptedEngine, start: Start, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    world = await secured(start, engine, authority, admin_listen="127.0.0.1:0")
    assert all(url.startswith("https://127.0.0.1:") for url in world.gateway.listeners.urls)
    main, apart = world.gateway.listeners.urls
    client = authority.client()
    assert await get(main, client) == await get(apart, client, "/metrics") == 200
    async with aiohttp.ClientSession() as http:
        async with http.post(f"{main}/v1/chat/completions", json={**CHAT, "stream": True}, ssl=client) as response:
            assert response.status == 200 and (await response.read()).endswith(b"data: [DONE]\n\n")
        for url in (main, apart):  # who does not speak TLS is cut off, and told nothing
            with pytest.raises(aiohttp.ClientError):
                await http.get(url.replace("https", "http") + "/health")
    with pytest.raises(aiohttp.ClientConnectorCertificateError):
        await get(main, ssl.create_default_context())


async def test_the_official_client_calls_over_tls(engine: ScriptedEngine, start: Start, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    world = await secured(start, engine, authority)
    http = openai.DefaultAsyncHttpxClient(verify=authority.client())
    async with openai.AsyncOpenAI(base_url=f"{world.url}/v1", api_key="none", http_client=http) as client:
        answer = await client.chat.completions.create(**CHAT)  # type: ignore[call-overload]
        assert answer.choices[0].message.content


async def test_old_versions_are_refused(engine: ScriptedEngine, start: Start, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    world = await secured(start, engine, authority)
    old = authority.client()
    old.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of what is tried here
        old.minimum_version = ssl.TLSVersion.TLSv1
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(aiohttp.ClientConnectorError):
        await get(world.url, old)
    assert await get(world.url, authority.client()) == 200


async def test_a_client_without_a_certificate_gets_no_answer(
    engine: ScriptedEngine, start: Start, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    (tmp_path / "others").mkdir()
    others = Authority(tmp_path / "others")
    world = await secured(start, engine, authority, client_ca=str(authority.path))
    assert await get(world.url, authority.client("client")) == 200
    stranger = authority.client()
    stranger.load_cert_chain(*others.issue("client"))
    for client in (authority.client(), stranger):
        with pytest.raises((aiohttp.ClientError, OSError)):
            await get(world.url, client)
    assert not engine.seen


async def test_a_renewed_certificate_needs_no_restart(engine: ScriptedEngine, start: Start, tmp_path: Path) -> None:
    """Those who are connected stay so; who comes then sees the new one, and must be known to its authorities."""
    old, folder = Authority(tmp_path), tmp_path / "new"
    folder.mkdir()
    new = Authority(folder, "other")
    world = await secured(start, engine, old)
    async with aiohttp.ClientSession() as http:
        slow = {**CHAT, "stream": True, "scripted": {"chunks": 20, "gap_s": 0.02}}
        stream = await http.post(f"{world.url}/v1/chat/completions", json=slow, ssl=old.client())
        settings = world.gateway.settings
        await world.gateway.reload(structs.replace(settings, tls=TlsSettings(*new.issue("gateway"), str(new.path))))
        assert (await stream.read()).endswith(b"data: [DONE]\n\n")
    assert await get(world.url, new.client("client")) == 200
    for client in (old.client(), new.client()):
        with pytest.raises((aiohttp.ClientError, OSError)):
            await get(world.url, client)


async def test_a_certificate_that_cannot_be_read_changes_nothing(
    engine: ScriptedEngine, start: Start, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    world = await secured(start, engine, authority)
    settings = world.gateway.settings
    cert, key = authority.issue("one")
    _, other = authority.issue("two")
    for tls, why in (
        (TlsSettings("none.pem", key), "none.pem: cannot be read"),
        (TlsSettings(cert, other), "no certificate and its key"),
        (TlsSettings(key, key), "no certificate and its key"),
        (TlsSettings(cert, key, key), "client_ca.*holds no certificate"),
        (None, "turned on or off"),
    ):
        with pytest.raises(InputError, match=why):
            await world.gateway.reload(structs.replace(settings, tls=tls, policy="fcfs"))
        assert world.gateway.settings is settings
        assert await get(world.url, authority.client()) == 200


async def test_a_handshake_that_never_ends_keeps_nobody_out(
    engine: ScriptedEngine, start: Start, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    world = await secured(start, engine, authority)
    port = int(world.url.rpartition(":")[2])
    crowd = [await asyncio.open_connection("127.0.0.1", port) for _ in range(100)]
    for _, writer in crowd:
        writer.write(b"\x16\x03\x01")
    assert await asyncio.wait_for(get(world.url, authority.client()), 5) == 200
    for _, writer in crowd:
        writer.transport.abort()
