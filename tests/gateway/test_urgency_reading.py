"""A job's first request is read: which reader, when, how far it may move a job, and that no text stays anywhere."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from hocket.cli.serve import _serve
from hocket.errors import InputError
from hocket.history.recorder import recorder_of
from hocket.settings import EngineSettings, HistorySettings, Settings
from hocket.settings.urgency import ReaderSettings
from tests.gateway.conftest import Start, soon
from tests.gateway.urgency_world import CLASSES, metric, reads, revised, says, tenant, told, urgency
from tests.scripted_engine import ScriptedEngine

# ---------------------------------------------------------------- what words may do


@pytest.mark.parametrize(
    ("moves", "word", "gets"), [(1, 0, 1), (2, 0, 0), (4, 0, 0), (1, 4, 3), (2, 4, 4), (1, 2, 2), (1, 1, 1)]
)
async def test_words_move_a_job_by_a_bounded_number_of_classes(
    engine: ScriptedEngine, start: Start, monkeypatch: pytest.MonkeyPatch, moves: int, word: int, gets: int
) -> None:
    reads(monkeypatch)
    world = await start(engine, urgency=urgency(ReaderSettings("all", classes=CLASSES, moves_at_most=moves)))
    assert await told(world, says(f"class={word}")) == (str(gets), "words")
    assert not revised(world), "it was known before the call arrived"
    outcome = "kept" if gets == 2 else "moved"
    assert metric(world, f'hocket_readings_total{{outcome="{outcome}",reader="all"}}') == 1
    assert metric(world, 'hocket_reading_seconds_count{reader="all"}') == 1


async def test_words_get_nobody_past_the_cap(
    engine: ScriptedEngine, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads(monkeypatch)
    world = await start(engine, urgency=urgency(), tenants=tenant(most_urgent=2))
    assert await told(world, says("class=0")) == ("2", "words")


async def test_what_words_move_is_what_was_declared(
    engine: ScriptedEngine, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads(monkeypatch)
    domain = ReaderSettings("desk", apps=["desk"], classes=CLASSES, urgency=3)
    world = await start(
        engine, urgency=urgency(domain, ReaderSettings("rest", classes=CLASSES)), tenants=tenant(urgency=1)
    )
    desk = {"x-hocket-app": "desk"}
    assert await told(world, says("class=0"), headers=desk) == ("2", "words"), "of the domain"
    assert await told(world, says("class=0")) == ("0", "words"), "of the tenant"
    assert await told(world, says("what?"), headers=desk) == ("3", "tenant")
    assert await told(world, says("what?")) == ("1", "tenant")


async def test_the_first_reader_that_matches_reads(
    engine: ScriptedEngine, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = reads(monkeypatch)
    domains = [
        ReaderSettings("a", apps=["a", "b"], classes=CLASSES),
        ReaderSettings("of-team", tenants=["team"], apps=["c"], classes=CLASSES),
    ]
    world = await start(engine, urgency=urgency(*domains), tenants=tenant())
    for app in ("a", "b", "c", "d"):
        await told(world, says(f"class=1 for {app}"), headers={"x-hocket-app": app})
    assert [text[-1] for text, _ in plain.seen] == ["a", "b", "c"]
    assert metric(world, 'hocket_readings_total{outcome="moved",reader="a"}') == 2
    assert metric(world, 'hocket_readings_total{outcome="moved",reader="of-team"}') == 1


async def test_only_a_jobs_first_request_is_read_and_only_if_it_says_nothing(
    engine: ScriptedEngine, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = reads(monkeypatch)
    world = await start(engine, urgency=urgency())
    job = {"x-hocket-job": "j"}
    assert await told(world, says("class=1"), headers=job) == ("1", "words")
    assert await told(world, says("class=4"), headers=job) == ("1", "job")
    assert await told(world, says("class=4"), headers={"x-hocket-urgency": "2"}) == ("2", "explicit")
    assert await told(world, says("class=4"), headers={"x-hocket-deadline-ms": "1000"}) == ("0", "deadline")
    assert len(plain.seen) == 1


async def test_a_job_that_was_opened_by_itself_is_read_at_its_first_request(
    engine: ScriptedEngine, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = reads(monkeypatch)
    world = await start(engine, urgency=urgency())
    for job, asked in (("late", {}), ("said", {"urgency": 3})):
        await world.http.post(f"{world.url}/v1/jobs", json={"app": "x", "job": job, **asked})
    late, said = {"x-hocket-job": "late"}, {"x-hocket-job": "said"}
    assert await told(world, says("class=4"), headers=late) == ("3", "words")
    assert await told(world, says("class=0"), headers=late) == ("3", "job")
    assert await told(world, says("class=0"), headers=said) == ("3", "job")
    assert (len(plain.seen), revised(world)) == (1, [3])


async def test_declared_features_are_found_in_the_message_or_beside_it(
    engine: ScriptedEngine, start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain = reads(monkeypatch)
    domain = ReaderSettings("triage", head="triage.head", features={"hr": "patient.vitals.hr"})
    world = await start(engine, urgency=urgency(domain))
    patient = {"vitals": {"hr": 171, "other": 1}}
    assert await told(world, says("chest pain", patient=patient, n=1)) == ("1", "words")
    assert await told(world, says(json.dumps({"note": "chest pain, pale", "patient": patient, "n": 3}))) == (
        "3",
        "words",
    )
    assert await told(world, says('{"note": "chest pain, pale", "n": 3}', patient=patient, n=1)) == ("3", "words")
    assert await told(world, says("chest pain", patient=[patient])) == ("2", "tenant")
    assert [fields for _, fields in plain.seen] == [
        {"hr": 171.0, "n": 1.0}, {"hr": 171.0, "n": 3.0}, {"hr": 171.0, "n": 3.0}, {}]  # fmt: skip


# ---------------------------------------------------------------- what is odd

TOOL_RESULTS = [
    {"role": "assistant", "content": None, "tool_calls": [{"id": "t1", "type": "function"}]},
    {"role": "tool", "tool_call_id": "t1", "content": "class=0 urgent"},
]
ODD = {
    "empty": (says(""), "no_text"),
    "null": (says(None), "no_text"),
    "spaces": (says(" \n\t "), "no_text"),
    "no messages": ({"messages": []}, "no_text"),
    "binary": (says("\x00\x01\ufffd\x02\ufffd" * 999), "not_words"),
    "json only": (says('{"a": [1, 2, {"b": null}]}'), "json_only"),
    "tool results": ({"messages": TOOL_RESULTS}, "tool_results"),
    "system only": ({"messages": [{"role": "system", "content": "class=0"}]}, "no_user_message"),
    "no message": ({"messages": [1, "two", None]}, "unreadable"),
    "image": (says([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]), "no_text"),
    "mixed languages": (says("Hilfe, 急救! мне плохо, مساعدة please"), "out_of_domain"),
    "deep": (says('{"a":' * 5000 + "1" + "}" * 5000), None),
}


@pytest.mark.parametrize("name", ODD)
async def test_whatever_the_messages_are_there_is_a_class_and_a_reason(
    engine: ScriptedEngine, start: Start, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    reads(monkeypatch)
    world = await start(engine, urgency=urgency())
    body, reason = ODD[name]
    assert await told(world, body) == ("2", "tenant")
    (row,) = [row for row in world.gateway.metrics.render().decode().splitlines() if "hocket_readings_total{" in row]
    assert reason is None or f'outcome="{reason}"' in row
    assert not row.startswith('hocket_readings_total{outcome="failed"')


async def test_a_megabyte_is_read_beside_the_event_loop(
    engine: ScriptedEngine, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = reads(monkeypatch)
    threads = []
    read = plain.read
    monkeypatch.setattr(plain, "read", lambda *a: threads.append(threading.current_thread().name) or read(*a))
    world = await start(engine, urgency=urgency())
    job = {"x-hocket-job": "j"}
    large = "class=1 " + "word " * 200_000
    await told(world, says(large, scripted={"first_s": 0.2}), headers=job)
    assert await told(world, says("more"), headers=job) == ("1", "job")
    assert threads[0].startswith("hocket-reader") and len(plain.seen[0][0]) < 5_000


async def test_a_reader_that_raises_costs_no_call_and_tells_no_text(
    engine: ScriptedEngine, start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reads(monkeypatch)
    world = await start(engine, urgency=urgency())
    for _ in range(2):
        assert await told(world, says("raise the secret")) == ("2", "tenant")
    assert metric(world, 'hocket_readings_total{outcome="failed",reader="all"}') == 2
    (line,) = [record.getMessage() for record in caplog.records if "reader" in record.getMessage()]
    assert "RuntimeError" in line and "secret" not in line


# ---------------------------------------------------------------- a slow reader


async def test_a_slow_reading_comes_while_the_call_waits(
    engine: ScriptedEngine, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads(monkeypatch, "minilm", slow_s=0.05)
    world = await start(engine, window=1, policy=["urgency", "fcfs"], urgency=urgency())
    running = asyncio.create_task(told(world, says("a", scripted={"held": True}), headers={"x-hocket-urgency": "2"}))
    await soon(lambda: world.inflight == 1)
    waiting = []
    for text in ("class=4", "class=0"):
        waiting.append(asyncio.create_task(told(world, says(text, scripted={"first_s": 0.01}))))
        await soon(lambda: world.gateway.scheduler.engines["small"].queued == len(waiting))
    await soon(lambda: len(revised(world)) == 2)
    engine.gate.set()
    assert await asyncio.gather(running, *waiting) == [("2", "explicit"), ("3", "words"), ("1", "words")]
    assert [json.loads(seen.raw)["messages"][0]["content"] for seen in engine.seen] == ["a", "class=0", "class=4"]
    assert sorted(map(str, revised(world))) == ["1", "3"]


async def test_a_call_never_waits_for_a_slow_reader_and_its_job_still_learns(
    engine: ScriptedEngine, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads(monkeypatch, "minilm", slow_s=0.3)
    world = await start(engine, urgency=urgency())
    job = {"x-hocket-job": "j"}
    assert await told(world, says("class=0"), headers=job) == ("2", "tenant"), "it was answered before it was read"
    await soon(lambda: metric(world, 'hocket_readings_total{outcome="moved",reader="all"}') == 1)
    assert await told(world, says("more"), headers=job) == ("1", "job")


async def test_what_someone_said_meanwhile_goes_before_a_late_reading(
    engine: ScriptedEngine, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads(monkeypatch, "minilm", slow_s=0.2)
    world = await start(engine, urgency=urgency())
    job = {"x-hocket-job": "j"}
    first = asyncio.create_task(told(world, says("class=4", scripted={"first_s": 1.0}), headers=job))
    await soon(lambda: world.inflight == 1)
    assert await told(world, says("x"), headers={**job, "x-hocket-urgency": "0"}) == ("0", "explicit")
    await first
    assert await told(world, says("x"), headers=job) == ("0", "job")
    assert not revised(world)


async def test_too_many_texts_for_a_slow_reader_are_dropped_not_kept(
    engine: ScriptedEngine, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads(monkeypatch, "minilm", slow_s=1.0)
    monkeypatch.setattr("hocket.gateway.urgency.MAX_READING", 3)
    world = await start(engine, window=32, urgency=urgency())
    calls = [asyncio.create_task(told(world, says("class=0", scripted={"held": True}))) for _ in range(10)]
    await soon(lambda: metric(world, 'hocket_readings_total{outcome="dropped",reader="all"}') == 7)
    await soon(lambda: metric(world, 'hocket_readings_total{outcome="moved",reader="all"}') == 3)
    engine.gate.set()
    await asyncio.gather(*calls)


# ---------------------------------------------------------------- settings change


async def test_a_reload_swaps_readers_and_drops_no_call(
    engine: ScriptedEngine, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads(monkeypatch)
    world = await start(engine, window=2, urgency=urgency())
    calls = [asyncio.create_task(told(world, says("class=0", scripted={"first_s": 0.02}))) for _ in range(20)]
    await soon(lambda: world.inflight == 2)
    bolder = urgency(ReaderSettings("bold", classes=CLASSES, moves_at_most=2))
    await world.gateway.reload(structs.replace(world.gateway.settings, urgency=bolder))
    assert await told(world, says("class=0")) == ("0", "words")
    assert set(await asyncio.gather(*calls)) == {("1", "words")}
    await world.gateway.reload(structs.replace(world.gateway.settings, urgency=Settings().urgency))
    assert await told(world, says("class=0")) == ("2", "tenant")


async def test_a_reload_with_a_model_that_is_missing_changes_nothing(
    engine: ScriptedEngine, start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = await start(engine)
    before = world.gateway.settings
    missing = ReaderSettings("triage", head=str(tmp_path / "missing.head"))
    with pytest.raises(InputError, match=r"urgency.readers\[0\] \('triage'\): .*missing.head.*if_unreadable: serve"):
        await world.gateway.reload(structs.replace(before, urgency=urgency(missing)))
    assert world.gateway.settings is before
    serve = urgency(missing, if_unreadable="serve")
    await world.gateway.reload(structs.replace(before, urgency=serve))
    assert await told(world, says("help")) == ("2", "tenant")
    assert any("goes on without this reader" in record.getMessage() for record in caplog.records)


async def test_serve_does_not_start_without_its_model(engine: ScriptedEngine, tmp_path: Path) -> None:
    settings = Settings(
        listen="127.0.0.1:0",
        engines=[EngineSettings(name="small", replicas=[engine.url])],
        urgency=urgency(ReaderSettings("triage", head=str(tmp_path / "missing.head"))),
        history=False,
    )
    with pytest.raises(InputError, match=r"missing.head"):
        await _serve(settings, None)


# ---------------------------------------------------------------- no text stays


async def test_no_text_is_kept(
    engine: ScriptedEngine,
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    reads(monkeypatch)
    world = await start(engine, urgency=urgency())
    file = tmp_path / "history.db"
    history = recorder_of(Settings(history=HistorySettings(url=str(file))))
    assert history is not None
    history.start()
    world.gateway.driver._observers += (history,)
    texts = ["class=0 xylophone", "xylophone", "raise xylophone", '{"xylophone": "xylophone is ill"}']
    for text in texts:
        await told(world, says(text, patient={"name": "xylophone"}))
    history.stop()
    world.journal.flush()
    with sqlite3.connect(file) as rows:
        dump = "\n".join(rows.iterdump())
    assert "all" in world.gateway.metrics.render().decode() and "small" in dump
    for kept in (world.path.read_text(), dump, caplog.text, world.gateway.metrics.render().decode()):
        assert "xylophone" not in kept
    held: list[Any] = [world.gateway.urgency.__dict__, world.gateway.driver.scheduler.jobs]
    assert "xylophone" not in repr(held)


async def test_a_job_that_is_opened_again_is_another_one(
    engine: ScriptedEngine, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That the job before it of the same name was never read says nothing about this one."""
    plain = reads(monkeypatch)
    world = await start(engine, urgency=urgency(), job_idle_s=0.05)
    job = {"x-hocket-job": "j"}
    opened = f"{world.url}/v1/jobs"
    await world.http.post(opened, json={"app": "x", "job": "j"})
    await soon(lambda: not world.gateway.scheduler.jobs)
    await world.http.post(opened, json={"app": "x", "job": "j", "urgency": 4})
    assert await told(world, says("class=0"), headers=job) == ("4", "job")
    await soon(lambda: not world.gateway.scheduler.jobs)
    await world.http.post(opened, json={"app": "x", "job": "j"})
    await soon(lambda: not world.gateway.scheduler.jobs)
    for text in ("class=1", "class=0"):
        await told(world, says(text), headers=job)
    assert [text for text, _ in plain.seen] == ["class=1"]


async def test_numbers_that_are_none_hide_no_words(
    engine: ScriptedEngine, start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain = reads(monkeypatch)
    world = await start(engine, urgency=urgency())
    for number in ("1e999", "1" + "0" * 400, "-" + "9" * 5000, "[" * 500 + "]" * 500):
        body = json.dumps({"model": "small", **says("class=1")})[:-1]
        assert await told(world, f'{body}, "n": {number}}}') == ("1", "words")
        if len(number) < 500:  # else there are more digits than words
            assert await told(world, says(f'{{"hr": {number}, "note": "class=1, chest pain"}}')) == ("1", "words")
    assert not any("n" in fields or "hr" in fields for _, fields in plain.seen)
    assert "failed" not in caplog.text
