"""What is sent in confidence is found nowhere else: canaries in prompts and in keys, and a search for them afterwards.

They go through answers, errors, requests that cannot be read, engines that crash or talk nonsense, and bugs; then the
log, the journal, the history, the metrics and what other clients were told are searched for them.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from hocket.core import replicas
from hocket.gateway import logs
from hocket.gateway.relay import Relay
from hocket.settings import TenantSettings
from hocket.settings.keys import Key, change_keys, digest_of
from tests.attack.certificates import Authority
from tests.gateway.conftest import Start, soon
from tests.gateway.test_hostile_engines import raw_engine
from tests.gateway.test_serve import HOCKET
from tests.scripted_engine import ScriptedEngine

PROMPT, KEY, BAD_KEY = "canary-in-a-prompt", "hk-canary-in-a-good-key", "hk-canary-in-a-wrong-key"
CANARY = b"canary"
BODY: dict[str, Any] = {
    "model": "small",
    "messages": [
        {"role": "system", "content": f"You know the {PROMPT}."},
        {"role": "user", "content": [{"type": "text", "text": PROMPT}]},
        {"role": "assistant", "tool_calls": [{"id": f"call-{PROMPT}", "function": {"name": PROMPT, "arguments": "x"}}]},
        {"role": "tool", "tool_call_id": f"call-{PROMPT}", "content": PROMPT},
    ],
    "tools": [{"type": "function", "function": {"name": PROMPT}}],
    "metadata": {"note": PROMPT},
    "user": PROMPT,
}  # fmt: skip
SCRIPTS: list[dict[str, Any]] = [
    {}, {"says": PROMPT}, {"do": "reset"}, {"do": "cut"}, {"do": "cut-close"}, {"do": "status", "status": 500},
    {"do": "status", "status": 400}, {"do": "status", "status": 429, "retry_after": "0"}, {"do": "garbage"},
    {"do": "not-json"}, {"do": "not-sse"}, {"do": "empty"}, {"do": "error-event"}, {"do": "hang"}, {"do": "stall"},
]  # fmt: skip
RAW: list[bytes] = [
    f'{{"model": "small", "messages": "{PROMPT}'.encode(),
    f'{{"model": "small", "messages": "{PROMPT}"}}'.encode(),
    f'{{"model": "small", "messages": [], "max_tokens": "{PROMPT}"}}'.encode(),
    f'{{"model": "{PROMPT}", "messages": []}}'.encode(),
    f'{{"model": "small", "messages": [], "metadata": {{"hocket-urgency": "{PROMPT}"}}}}'.encode(),
    b'{"model": "small", "messages": [], "x": "\xff' + PROMPT.encode() + b'"}',
    PROMPT.encode(),
]


def headers(key: str) -> list[dict[str, str]]:
    """The places where people put keys, right and wrong."""
    basic = base64.b64encode(f"{key}:{key}".encode()).decode()
    return [
        {"Authorization": f"Bearer {key}"}, {"Authorization": key}, {"Authorization": f"Basic {key}"},
        {"Authorization": f"Basic {basic}"}, {"x-api-key": key}, {"api-key": key}, {"Cookie": f"key={key}"},
    ]  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


async def play(http: aiohttp.ClientSession, url: str) -> bytes:
    """Everything that can happen to a call. Returns what clients without a good key were told."""
    good = {"Authorization": f"Bearer {KEY}"}
    chat = f"{url}/v1/chat/completions"

    async def sent(at: str = chat, said: dict[str, str] = good, **more: Any) -> bytes:
        try:
            async with http.post(at, headers=said, **more) as response:
                return bytes(await response.read())
        except aiohttp.ClientError:
            return b""

    for raw in RAW:
        await sent(data=raw)
    for path, body in (
        ("/v1/completions", {"model": "small", "prompt": PROMPT}),
        ("/v1/responses", {"model": "small", "input": PROMPT, "instructions": PROMPT}),
        ("/v1/embeddings", {"model": "small", "input": [PROMPT]}),
        ("/tokenize", {"model": "small", "prompt": PROMPT}),
        (f"/v1/chat/completions?prompt={PROMPT}&key={KEY}", BODY),
    ):
        await sent(url + path, json=body)
    gone = asyncio.create_task(sent(json={**BODY, "scripted": {"do": "hang"}}))  # its client leaves
    await asyncio.sleep(0.1)
    gone.cancel()
    await asyncio.gather(*(
        sent(json={**BODY, "scripted": {"after": 1, **script}, "stream": stream})
        for script in SCRIPTS for stream in (False, True)
    ))  # fmt: skip
    told = b""
    for said in [*headers(BAD_KEY), *headers(KEY)[1:], {}]:
        for body in (BODY, {"model": "small"}):
            told += await sent(said=said, json=body)
    for path in ("/metrics", "/admin/jobs", "/health", "/ready", "/v1/models", f"/v1/jobs/{1}", "/openapi.json"):
        for said in ({}, {"Authorization": f"Bearer {BAD_KEY}"}, {"Authorization": "Bearer hk-b"}):
            async with http.get(url + path, headers=said) as response:
                told += await response.read()
    return told


@pytest.mark.parametrize("secured", [pytest.param(False, marks=pytest.mark.slow), True], ids=["plain", "tls"])
async def test_a_served_process_keeps_what_it_hears_to_itself(
    engine: ScriptedEngine, tmp_path: Path, secured: bool
) -> None:
    """`hocket serve` as it is run, on its own event loop; with TLS also its reload."""
    keys = [Key("one", digest_of(KEY), tenant="a"), Key("b", digest_of("hk-b"), tenant="b")]
    change_keys(tmp_path / "keys.yaml", lambda _: keys)
    (tmp_path / "private").mkdir()
    authority = Authority(tmp_path / "private")
    cert, key = authority.issue("gateway")
    settings = {
        "listen": "127.0.0.1:0", "keys": "keys.yaml", "tenants": [{"name": "a"}, {"name": "b"}],
        "engines": [{"name": "small", "replicas": [engine.url], "max_concurrency": 64}],
        "journal": str(tmp_path / "journal.jsonl"), "history": {"url": str(tmp_path / "history.db")},
        "timeouts": {"first_byte": 0.3, "between_chunks": 0.3}, "queue_timeout": 0.5, "shutdown_s": 1,
        **({"tls": {"cert": cert, "key": key}} if secured else {}),
    }  # fmt: skip
    config = tmp_path / "hocket.yaml"
    config.write_text(json.dumps(settings))
    log = (tmp_path / "log").open("wb")
    process = await asyncio.create_subprocess_exec(
        HOCKET, "serve", "--config", str(config), stdout=asyncio.subprocess.PIPE, stderr=log
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(40):
            line = (await process.stdout.readline()).decode()
            url = line.split("listens on ")[1].split("/v1")[0]
            assert url.startswith("https://" if secured else "http://")
            connector = aiohttp.TCPConnector(limit=0, ssl=authority.client())
            async with aiohttp.ClientSession(connector=connector) as http:
                told = await play(http, url)
                if secured:
                    renewed = Authority(tmp_path / "private", "renewed")
                    renewed.issue("gateway")  # in the place of the one before
                    process.send_signal(signal.SIGHUP)
                    await soon(lambda: b"other settings hold now" in (tmp_path / "log").read_bytes(), 5.0)
                    async with http.get(f"{url}/health") as response:  # its connection stays
                        assert response.status == 200
                    async with aiohttp.ClientSession() as late:
                        async with late.get(f"{url}/health", ssl=renewed.client()) as response:
                            assert response.status == 200
                        with pytest.raises(aiohttp.ClientConnectorCertificateError):
                            await late.get(f"{url}/ready", ssl=authority.client())
            process.send_signal(signal.SIGTERM)
            out = await process.stdout.read()
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        log.close()
    assert any(CANARY in seen.raw for seen in engine.seen), "the canaries flew"
    assert not any(KEY in str(seen.headers) for seen in engine.seen), "no tenant's key goes to an engine"
    assert b"invalid_api_key" in told and b"missing_api_key" in told
    kept = contents(tmp_path)
    assert {"journal.jsonl", "history.db", "log", "keys.yaml"} <= kept.keys()
    assert b"CallArrived" in kept["journal.jsonl"] and b"Traceback" not in kept["log"]
    for name, found in {**kept, "other clients": told, "standard output": line.encode() + out}.items():
        at = found.lower().find(CANARY)
        assert at < 0, f"{name}: {found[max(0, at - 200) : at + 100]!r}"


# ---------------------------------------------------------------- bugs


@pytest.fixture
def log() -> Iterator[tuple[io.StringIO, logs.Redacting]]:
    """What `hocket serve` would write on standard error."""
    out, root = io.StringIO(), logging.getLogger()
    level = root.level
    formatter = logs.configure(out)
    handler = root.handlers[-1]
    yield out, formatter
    root.removeHandler(handler)
    root.setLevel(level)


async def test_a_bug_tells_the_operator_where_and_not_what(
    engine: ScriptedEngine, start: Start, log: tuple[io.StringIO, logs.Redacting], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, formatter = log
    world = await start(engine, tenants=[TenantSettings("a", digest_of(KEY))])

    async def broken(self: Relay) -> None:
        try:
            raise KeyError(f"no {PROMPT} in {self._body!r}")
        except KeyError as error:
            raise RuntimeError(PROMPT, KEY, self._body) from error

    monkeypatch.setattr(Relay, "run", broken)
    said = {"Authorization": f"Bearer {KEY}"}
    async with world.post(BODY, path="/v1/chat/completions?x=%0aFAKE", headers=said) as response:
        text = await response.text()
        assert response.status == 500 and "canary" not in text and "Traceback" not in text
    assert "builtins.RuntimeError" in out.getvalue() and "builtins.KeyError" in out.getvalue()
    assert f'File "{__file__}"' in out.getvalue() and "in broken" in out.getvalue(), "where"
    assert "canary" not in out.getvalue().replace(Path(__file__).name, "")
    formatter.shows_text = lambda: True  # log_text: true
    async with world.post(BODY, headers=said):
        pass
    assert PROMPT in out.getvalue() and KEY not in out.getvalue(), "prompts if it is wanted, keys never"
    assert "hk-[hidden]" in out.getvalue()


async def test_what_nobody_awaited_is_told_without_its_words(log: tuple[io.StringIO, logs.Redacting]) -> None:
    out, _ = log
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(logs.unforeseen)

    async def fails() -> None:
        raise ValueError(PROMPT)

    task = asyncio.create_task(fails())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    del task
    loop.set_exception_handler(None)
    assert "never retrieved" in out.getvalue() and "builtins.ValueError" in out.getvalue()
    assert PROMPT not in out.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer {}", "authorization='Bearer {}'", "{{'Authorization': 'Bearer {}'}}", "bearer {}",
        '("Authorization", "Bearer {}")', "Authorization: {}", "Proxy-Authorization: Basic {}", "x-api-key: {}",
        "api_key={}&x=1", '{{"api_key": "{}"}}', "postgresql://user:{}@host/name", "Authorization: Bearer\t{}",
    ],
)  # fmt: skip
def test_no_form_of_a_key_passes_the_log(log: tuple[io.StringIO, logs.Redacting], text: str) -> None:
    out, _ = log
    for key in ("s3cr3t-0123456789", KEY, "sk-s3cr3t-0123456789"):
        logging.getLogger("hocket.gateway").error("it was %s!", text.format(key))
        assert key not in out.getvalue() and "s3cr3t" not in out.getvalue()
    assert out.getvalue().count("[hidden]") >= 3


def test_one_message_is_one_line(log: tuple[io.StringIO, logs.Redacting]) -> None:
    """A line end in a path would else be a line of the log that hocket never wrote."""
    out, _ = log
    logging.getLogger("hocket.gateway").error(
        "GET %s failed", "/v1/x\n2026-01-01 00:00:00,000 INFO all is well\x1b[2J\u2028"
    )
    assert out.getvalue().count("\n") == 1 and "\x1b" not in out.getvalue() and r"\n2026" in out.getvalue()


async def test_what_an_engine_writes_is_not_in_the_log(
    monkeypatch: pytest.MonkeyPatch, start: Start, log: tuple[io.StringIO, logs.Redacting]
) -> None:
    """Its status line, headers and types could quote the prompt."""
    monkeypatch.setattr(replicas, "REST_S", 0.001)  # else it would be asked only every few seconds
    out, _ = log
    heads = [
        b"HTTP/1.1 200 " + PROMPT.encode() + b"\r\nContent-Type: " + PROMPT.encode() + b"\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 500 " + PROMPT.encode() + b"\r\nContent-Length: 6\r\n\r\n" + CANARY,
        PROMPT.encode() + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + PROMPT.encode() + b"\r\n\r\n",
    ]

    async def garbage(writer: asyncio.StreamWriter) -> None:
        writer.write(heads[0])
        heads.append(heads.pop(0))
        await writer.drain()

    async with raw_engine(garbage) as url:
        world = await start(url, queue_timeout=0.5)
        for stream in (False, True) * 4:
            async with world.post({"stream": stream}) as response:
                await response.read()
    assert "canary" not in out.getvalue()
