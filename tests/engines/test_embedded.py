"""The embedded engine itself: a real llama.cpp process on a real socket."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
from typing import Any

import aiohttp
import pytest

from hocket.engines import weights
from hocket.engines.embedded import EmbeddedSpec, command
from hocket.errors import InputError


def session() -> aiohttp.ClientSession:
    # llama.cpp closes a connection after a streamed answer although it announces keep-alive.
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True, limit=0))


def body(text: str, tokens: int, **more: Any) -> dict[str, Any]:
    return {
        "model": "small",
        "messages": [{"role": "user", "content": text}],
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        **more,
    }


async def events(http: aiohttp.ClientSession, url: str, request: dict[str, Any]) -> list[tuple[float, dict[str, Any]]]:
    options = {"stream": True, "stream_options": {"include_usage": True}}
    async with http.post(f"{url}/v1/chat/completions", json={**request, **options}) as response:
        assert response.status == 200, await response.text()
        lines = [(time.monotonic(), line) async for line in response.content]
    return [(at, json.loads(line[6:])) for at, line in lines if line.startswith(b"data: {")]


async def metric(http: aiohttp.ClientSession, url: str, name: str) -> float:
    async with http.get(f"{url}/metrics") as response:
        lines = (await response.text()).splitlines()
    return float(next(line for line in lines if line.startswith(f"llamacpp:{name} ")).split()[1])


async def test_streams_the_tokens_asked_for_and_the_usage(small_engine: str) -> None:
    async with session() as http:
        found = await events(http, small_engine, body("Tell me about rivers.", 12))
    usage = found[-1][1]["usage"]
    assert usage["completion_tokens"] == 12
    assert usage["prompt_tokens"] > 5
    texts = [e["choices"][0]["delta"].get("content") for _, e in found if e["choices"]]
    assert len([text for text in texts if text]) >= 10
    assert found[-2][0] > found[1][0]


async def test_greedy_answers_repeat(small_engine: str) -> None:
    async with session() as http:
        answers = []
        for _ in range(2):
            async with http.post(f"{small_engine}/v1/chat/completions", json=body("Count to five.", 16)) as response:
                answers.append((await response.json())["choices"][0]["message"]["content"])
    assert answers[0] == answers[1]


async def test_eight_calls_share_batches(small_engine: str) -> None:
    async with session() as http:
        before = await metric(http, small_engine, "n_decode_total")
        runs = await asyncio.gather(*[events(http, small_engine, body(f"{k} word", 24)) for k in range(8)])
        decodes = await metric(http, small_engine, "n_decode_total") - before
    # Counted, not timed: how much a batch saves, and when a test may read, depends on what else the machine does.
    assert all(run[-1][1]["usage"]["completion_tokens"] == 24 for run in runs)
    assert decodes < 8 * 24 / 2, "one after another they are 192"


async def test_a_disconnect_frees_the_slot(small_engine: str) -> None:
    async with session() as http:
        before = await metric(http, small_engine, "tokens_predicted_total")
        async with http.post(
            f"{small_engine}/v1/chat/completions", json=body("Never stop.", 900, stream=True)
        ) as response:
            await response.content.readline()
            assert await metric(http, small_engine, "requests_processing") == 1
        left = time.monotonic()
        while await metric(http, small_engine, "requests_processing") > 0:
            assert time.monotonic() < left + 30
            await asyncio.sleep(0.02)
        assert await metric(http, small_engine, "tokens_predicted_total") < before + 450, "it wrote on for nobody"


async def test_a_repeated_prefix_is_not_computed_again(small_engine: str) -> None:
    text = "In the beginning there was a river, and the river had a name. " * 6
    async with session() as http:
        first = (await events(http, small_engine, body(text + "One.", 2)))[-1][1]
        again = (await events(http, small_engine, body(text + "Two.", 2)))[-1][1]
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 0.8 * first["usage"]["prompt_tokens"]


async def test_a_prompt_beyond_the_context_is_refused(small_engine: str) -> None:
    request = body("word " * 2000, 4)
    async with session() as http, http.post(f"{small_engine}/v1/chat/completions", json=request) as response:
        assert response.status == 400
        assert "context" in (await response.text())


async def test_no_web_page_may_talk_to_it(small_engine: str) -> None:
    headers = {"Origin": "https://example.org"}
    async with session() as http, http.get(f"{small_engine}/v1/models", headers=headers) as response:
        assert response.headers.get("Access-Control-Allow-Origin") not in ("*", "https://example.org")


async def test_the_base_model_gets_a_plain_template(large_engine: str) -> None:
    async with session() as http:
        found = await events(http, large_engine, body("Hello", 4))
        async with http.post(
            f"{large_engine}/apply-template", json={"messages": [{"role": "user", "content": "Hello"}]}
        ) as response:
            prompt = (await response.json())["prompt"]
    assert found[-1][1]["usage"]["completion_tokens"] == 4
    assert prompt == "User: Hello\n\nAssistant:"


def start(spec: EmbeddedSpec) -> subprocess.Popen[bytes]:
    words = command(spec, weights.pull(spec.weights))
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


@pytest.mark.parametrize("way", ["eof", "term"])
def test_it_ends_at_once(way: str) -> None:
    with start(EmbeddedSpec(parallel=1, context=128)) as process:
        assert process.stdin is not None and process.stdout is not None
        assert json.loads(process.stdout.readline())["pid"] == process.pid
        if way == "eof":
            process.stdin.close()
        else:
            process.send_signal(signal.SIGTERM)
        assert process.wait(30) == (0 if way == "eof" else -signal.SIGTERM)


def test_an_interrupt_is_left_to_the_parent() -> None:
    with start(EmbeddedSpec(parallel=1, context=128)) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        assert process.poll() is None
        process.stdin.close()
        assert process.wait(30) == 0


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no CPU affinity on this system")
def test_it_is_pinned() -> None:
    cpu = max(os.sched_getaffinity(0))
    with start(EmbeddedSpec(parallel=1, context=128, cpus=[cpu])) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdout.readline()
        assert os.sched_getaffinity(process.pid) == {cpu}
        process.stdin.close()


def test_broken_weights_end_in_one_line(tmp_path: Any) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(100))
    with subprocess.Popen(
        command(EmbeddedSpec(), broken),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        out, err = process.communicate(timeout=20)
    assert process.returncode == 2
    assert not out
    assert "Traceback" not in err
    # llama.cpp's own log thread writes around it, and lines piece by piece: ours may follow the beginning of one
    told = [line for line in err.splitlines() if f"embedded engine: {broken}: " in line and line.endswith("?")]
    assert len(told) == 1, err


@pytest.mark.parametrize(
    "spec",
    [
        EmbeddedSpec(replicas=0),
        EmbeddedSpec(parallel=0),
        EmbeddedSpec(context=3),
        EmbeddedSpec(chat_template="fancy"),
        EmbeddedSpec(cpus=[]),
        EmbeddedSpec(cpus=[100_000]),
    ],
)
def test_senseless_specs_are_refused(spec: EmbeddedSpec) -> None:
    with pytest.raises(InputError):
        spec.check()
