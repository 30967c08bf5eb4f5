"""Requests with an `Idempotency-Key`: the work is done once, and whoever asks again gets the first one's answer."""

from __future__ import annotations

import asyncio
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from hocket.core import events as ev
from hocket.gateway import idempotency
from hocket.gateway.app import Gateway
from hocket.history.recorder import recorder_of
from hocket.settings import EngineSettings, HistorySettings, Settings, TenantSettings
from hocket.settings.limits import LimitsSettings
from tests.gateway.conftest import Running, Start, soon
from tests.scripted_engine import Script, ScriptedEngine

KEY = {"Idempotency-Key": "8e03978e-40d5-43dd-bc93-6894a57f9324"}
CHAT = "/v1/chat/completions"


async def ask(world: Running, body: dict[str, Any] | None = None, **headers: str) -> tuple[int, bytes, Any]:
    async with world.post(body or {}, headers={**KEY, **headers}) as answer:
        return answer.status, await answer.read(), answer.headers


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [CHAT, "/v1/responses", "/v1/embeddings"])
async def test_the_same_request_again_gets_the_same_answer_and_the_engine_works_once(
    engine: ScriptedEngine, start: Start, stream: bool, path: str
) -> None:
    world = await start(engine)
    body = {"model": "small", "input": "hi", "messages": [{"role": "user", "content": "hi"}], "stream": stream}

    async def post(coding: str) -> tuple[int, bytes, Any]:
        headers = {**KEY, "Accept-Encoding": coding}
        async with world.http.post(world.url + path, json=body, headers=headers) as answer:
            return answer.status, await answer.read(), answer.headers

    first, again = await post("gzip"), await post("identity")
    assert first[:2] == again[:2] and first[0] == 200 and len(engine.seen) == 1
    assert "Idempotent-Replayed" not in first[2] and again[2]["Idempotent-Replayed"] == "true"
    kept = ("Content-Type", "x-engine", "x-hocket-job", "x-hocket-call")
    assert [first[2].get(name) for name in kept] == [again[2].get(name) for name in kept]
    arrived = [record.event for record in world.records() if isinstance(record.event, ev.CallArrived)]
    assert len(arrived) == 1 and arrived[0].idempotency, "the core heard of one call, and of a hash of its key"
    assert KEY["Idempotency-Key"] not in world.path.read_text()


async def test_who_asks_while_it_runs_joins_and_gets_the_stream_from_its_start(
    engine: ScriptedEngine, start: Start
) -> None:
    world = await start(engine)
    engine.default = Script(chunks=10, gap_s=0.02)
    first = asyncio.create_task(ask(world, {"stream": True}))
    await soon(lambda: bool(engine.seen) and len(engine.seen[0].sent) > 4)
    others = await asyncio.gather(*(ask(world, {"stream": True}) for _ in range(3)))
    assert {other[1] for other in others} == {(await first)[1]} and len(engine.seen) == 1
    assert b'"t0"' in others[0][1] and others[0][1].endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_lost_its_connection_comes_again_and_misses_nothing(
    engine: ScriptedEngine, start: Start, stream: bool
) -> None:
    world = await start(engine)
    engine.default = Script(chunks=6, gap_s=0.03, first_s=0.1)
    lost = asyncio.create_task(ask(world, {"stream": stream}))
    await soon(lambda: engine.inflight == 1)
    await asyncio.sleep(0.05)
    lost.cancel()
    await asyncio.sleep(0.05)
    status, _, headers = await ask(world, {"stream": stream})
    assert status == 200 and headers["Idempotent-Replayed"] == "true"
    assert len(engine.seen) == 1 and not engine.aborted


async def test_a_call_that_nobody_waits_for_any_more_ends_after_a_while(
    engine: ScriptedEngine, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "GRACE_S", 0.05)
    world = await start(engine)
    engine.plan.append(Script(do="hang"))
    lost = asyncio.create_task(ask(world))
    await soon(lambda: engine.inflight == 1)
    lost.cancel()
    await soon(lambda: len(engine.aborted) == 1)
    assert world.inflight == 0
    status, _, headers = await ask(world)
    assert status == 200 and "Idempotent-Replayed" not in headers, "it was not answered, so it may be made again"


async def test_another_request_with_the_same_key_is_refused(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine)
    await ask(world)
    for body, path in (({"max_tokens": 3}, CHAT), ({}, CHAT + "?other=1")):
        async with world.post(body, path, headers=KEY) as answer:
            assert await world.error(answer) == (422, "idempotency_key_reused")
    assert len(engine.seen) == 1


@pytest.mark.parametrize("key", ["", "x" * 256, "caf\u00e9", '""'])
async def test_a_bad_key_is_refused(engine: ScriptedEngine, start: Start, key: str) -> None:
    world = await start(engine)
    async with world.post({}, headers={"Idempotency-Key": key}) as answer:
        assert await world.error(answer) == (400, "invalid_idempotency_key")


async def test_the_drafts_quotes_do_not_make_another_key(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine)
    await ask(world)
    await ask(world, **{"Idempotency-Key": f'"{KEY["Idempotency-Key"]}"'})
    assert len(engine.seen) == 1


@pytest.mark.parametrize("do", ["status", "cut", "error-event"])
async def test_what_failed_may_be_tried_again_with_its_key(engine: ScriptedEngine, start: Start, do: str) -> None:
    world = await start(engine)
    bad = Script(do=do, status=500, after=3)
    engine.plan.extend([bad, bad] if do == "status" else [bad])
    status, text, _ = await ask(world, {"stream": True})
    assert status == 500 or b"error" in text
    status, text, headers = await ask(world, {"stream": True})
    assert status == 200 and text.endswith(b"[DONE]\n\n") and "Idempotent-Replayed" not in headers


async def test_an_error_reaches_all_who_wait_for_it(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine)
    engine.plan.append(Script(do="status", status=400, held=True))
    calls = [asyncio.create_task(ask(world)) for _ in range(3)]
    await asyncio.sleep(0.5)
    engine.gate.set()
    answers = await asyncio.gather(*calls)
    assert [answer[0] for answer in answers] == [400] * 3 and len(engine.seen) == 1
    async with world.post({"model": "nobody"}, headers=KEY) as answer:
        assert (await world.error(answer))[0] == 404


async def test_tenants_have_keys_of_their_own(engine: ScriptedEngine, start: Start) -> None:
    tenants = [TenantSettings(name=name, key_sha256=sha256(name.encode()).hexdigest()) for name in ("ann", "bob")]
    world = await start(engine, tenants=tenants)
    for name in ("ann", "bob", "ann"):
        assert (await ask(world, Authorization=f"Bearer {name}"))[0] == 200
    assert len(engine.seen) == 2
    hashes = [r.event.idempotency for r in world.records() if isinstance(r.event, ev.CallArrived)]
    assert len(set(hashes)) == 2


async def test_answers_are_kept_for_ten_minutes_and_in_so_many_bytes(
    engine: ScriptedEngine, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "MAX_BYTES", 20_000)
    monkeypatch.setattr(idempotency, "MIN_BYTES", 0)
    world = await start(engine)
    engine.default = Script(pad=6_000)

    async def key(n: int) -> int:
        return (await ask(world, **{"Idempotency-Key": f"key-{n}"}))[0]

    assert [await key(n) for n in (0, 1, 2, 3)] == [200] * 4
    assert [await key(n) for n in (3, 2)] == [200, 200] and len(engine.seen) == 4
    async with world.post({}, headers={"Idempotency-Key": "key-0"}) as answer:
        assert await world.error(answer) == (409, "idempotency_answer_gone")
        assert answer.headers["x-should-retry"] == "false"
    kept = world.gateway.idempotency
    (shelf,) = kept._shelves.values()
    assert 0 < shelf.bytes <= 20_000 and len(shelf.full) == 2 and len(shelf.all) == 4
    now = kept._now()
    kept._now = lambda: now + idempotency.KEEP_S + 1
    assert [await key(0), await key(3)] == [200, 200]
    assert len(engine.seen) == 6 and len(shelf.all) == 2, "after that a key is new"


async def test_a_hundred_clients_and_ten_keys_over_replicas_that_fail(
    engine: ScriptedEngine, engine2: ScriptedEngine, start: Start
) -> None:
    world = await start(engine, engine2, window=4)
    for one in (engine, engine2):
        one.plan.extend(Script(do=do, gap_s=0.001) for do in ("reset", "answer", "answer", "cut", "answer") * 3)

    async def client(n: int) -> tuple[int, bytes]:
        while True:
            status, text, _ = await ask(world, {"stream": True, "n": n % 10}, **{"Idempotency-Key": f"k{n % 10}"})
            if status == 200 and text.endswith(b"[DONE]\n\n"):
                return n % 10, text

    answers = await asyncio.gather(*(client(n) for n in range(100)))
    assert len(set(answers)) <= 10
    complete = [seen for one in (engine, engine2) for seen in one.seen if seen.script.do == "answer"]
    assert len(complete) == 10, "each key was answered by one execution"


async def test_openais_client_repeats_with_its_key(engine: ScriptedEngine, start: Start) -> None:
    """It sends the header where it is asked to, with its own retries, too."""
    world = await start(engine)
    engine.plan.extend([Script(do="status", status=503), Script(do="status", status=503)])
    async with openai.AsyncOpenAI(base_url=f"{world.url}/v1", api_key="none", max_retries=2) as client:

        async def create() -> str:
            messages: Any = [{"role": "user", "content": "hi"}]
            answer = await client.chat.completions.create(model="small", messages=messages, extra_headers=KEY)
            return answer.model_dump_json()

        first = await create()
        assert await create() == first and json.loads(first)["choices"]
    assert [seen.script.do for seen in engine.seen] == ["status", "status", "answer"]


async def test_a_call_that_was_sent_away_after_its_stream_had_begun_is_not_kept(
    engine: ScriptedEngine, start: Start
) -> None:
    world = await start(engine, window=1, limits=LimitsSettings(queue=1), policy="urgency", heartbeat_s=0.02)
    engine.plan.append(Script(do="hang"))
    holds = asyncio.create_task(ask(world, **{"Idempotency-Key": "a", "x-hocket-urgency": "4"}))
    await soon(lambda: engine.inflight == 1)
    waits = asyncio.create_task(ask(world, {"stream": True}, **{"x-hocket-job": "b", "x-hocket-urgency": "4"}))
    await soon(lambda: "b" in world.gateway.scheduler.jobs)
    await asyncio.sleep(0.05)
    urgent = asyncio.create_task(ask(world, **{"Idempotency-Key": "c", "x-hocket-urgency": "0"}))
    status, text, _ = await waits
    assert status == 200 and b'"shed"' in text
    async with world.http.delete(f"{world.url}/v1/jobs/{next(iter(world.gateway.scheduler.jobs))}?abort=true"):
        await asyncio.gather(holds, urgent)
    status, text, headers = await ask(world, {"stream": True}, **{"x-hocket-job": "b", "x-hocket-urgency": "4"})
    assert status == 200 and text.endswith(b"[DONE]\n\n") and "Idempotent-Replayed" not in headers


async def test_each_loss_of_its_client_gives_a_call_the_whole_time_again(
    engine: ScriptedEngine, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "GRACE_S", 3.0)
    world = await start(engine)
    engine.default = Script(held=True)

    async def lose_after(seconds: float) -> None:
        lost = asyncio.create_task(ask(world))
        await asyncio.sleep(seconds)
        lost.cancel()

    await lose_after(0.1)
    await lose_after(1.6)
    await asyncio.sleep(2.0)  # longer than the first loss gave, shorter than the second
    engine.gate.set()
    assert (await ask(world))[0] == 200 and len(engine.seen) == 1 and not engine.aborted


@pytest.mark.parametrize("stream", [False, True])
async def test_a_replay_does_not_have_the_first_requests_id(engine: ScriptedEngine, start: Start, stream: bool) -> None:
    world = await start(engine)
    first = await ask(world, {"stream": stream}, **{"x-request-id": "the-first"})
    again = await ask(world, {"stream": stream})
    third = await ask(world, {"stream": stream}, **{"x-request-id": "the-third"})
    assert first[2]["x-request-id"] == "the-first" and third[2]["x-request-id"] == "the-third"
    assert again[2]["x-request-id"] == again[2]["x-hocket-call"]


async def test_an_answer_tells_that_its_connection_ends(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine, reuse_port=True)
    await ask(world)
    stops = asyncio.create_task(world.gateway.stop())
    await soon(lambda: world.gateway.stopping)
    status, text, headers = await ask(world, {"stream": True}, **{"Idempotency-Key": "other"})
    assert status == 200 and text.endswith(b"[DONE]\n\n") and headers["Connection"] == "close"
    await stops


async def test_what_failed_in_this_process_is_not_what_an_earlier_one_did(
    engine: ScriptedEngine, start: Start, tmp_path: Path
) -> None:
    """The history hears of the failure only a moment after the client, who tries again at once."""
    settings = Settings(
        listen="127.0.0.1:0",
        engines=[EngineSettings(name="small", replicas=[engine.url])],
        history=HistorySettings(url=str(tmp_path / "history.db")),
    )
    body = {"model": "small", "messages": [{"role": "user", "content": "hi"}]}
    async with aiohttp.ClientSession() as http:

        async def life(*statuses: int) -> None:
            recorder = recorder_of(settings)
            assert recorder is not None
            gateway = Gateway(settings, observers=[recorder], earlier=recorder)
            recorder.start()
            url = await gateway.start()
            try:
                for status in statuses:
                    async with http.post(url + CHAT, json=body, headers=KEY) as answer:
                        assert answer.status == status, await answer.text()
            finally:
                await gateway.stop()
                recorder.stop()

        # what fails does so after its row was written, and before that says how it ended
        engine.plan.append(Script(do="status", status=400, first_s=1.2))
        await life(400, 200, 200)
        assert len(engine.seen) == 2
        await life(409, 409)
        assert len(engine.seen) == 2
