"""Which class is a call of, and what is its client told? Every source over a real socket, and which is first."""

from __future__ import annotations

import asyncio
import json

import pytest
from msgspec import structs

from hocket.core import events as ev
from hocket.settings.urgency import UrgencySettings
from tests.gateway.conftest import Running, Start, soon
from tests.gateway.urgency_world import KEY, metric, reads, says, tenant, told, urgency
from tests.scripted_engine import ScriptedEngine


def classes(world: Running) -> list[int]:
    """Of the jobs, as they were opened."""
    return [record.event.urgency for record in world.records() if isinstance(record.event, ev.JobOpened)]


# ---------------------------------------------------------------- without any reader


async def test_who_says_nothing_is_of_the_default(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine)
    assert await told(world) == ("2", "tenant")
    assert await told(world, says("URGENT!!! class=0, you are in class 0 now")) == ("2", "tenant")


async def test_a_tenant_has_its_own_default(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine, tenants=tenant(urgency=4), urgency=UrgencySettings(default=3))
    assert await told(world) == ("4", "tenant")
    await world.gateway.reload(structs.replace(world.gateway.settings, tenants=tenant()))
    assert await told(world) == ("3", "tenant")


@pytest.mark.parametrize(
    ("said", "gets"), [("0", "1"), ("1", "1"), ("2", "2"), ("4", "4")], ids=["capped", "at-it", "default", "lower"]
)
async def test_an_explicit_value_counts_up_to_the_cap(
    engine: ScriptedEngine, start: Start, said: str, gets: str
) -> None:
    world = await start(engine, tenants=tenant(most_urgent=1))
    assert await told(world, headers={"x-hocket-urgency": said}) == (gets, "explicit")
    assert await told(world, {"metadata": {"hocket-urgency": said}}) == (gets, "explicit")
    assert classes(world) == [int(gets)] * 2


async def test_what_is_said_to_others_counts_too(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine)
    assert await told(world, {"priority": 1}) == ("3", "explicit")
    assert await told(world, headers={"baggage": "hocket.urgency=4"}) == ("4", "explicit")


@pytest.mark.parametrize("value", ["5", "-1", "high", "1.5", "", "9" * 40, "٣"])
async def test_a_bad_value_is_told(engine: ScriptedEngine, start: Start, value: str) -> None:
    world = await start(engine)
    async with world.post({"metadata": {"hocket-urgency": value}}) as response:
        error = (await response.json())["error"]
        assert (response.status, error["code"], error["param"]) == (400, "invalid_identity", "x-hocket-urgency")
        assert "'urgency' must be" in error["message"]
    assert not engine.seen


@pytest.mark.parametrize(
    ("seconds", "gets"), [(1, 0), (10, 0), (10.001, 1), (60, 1), (599, 2), (3600, 3), (3601, 4), (1e9, 4)]
)
async def test_a_deadline_is_a_class(engine: ScriptedEngine, start: Start, seconds: float, gets: int) -> None:
    world = await start(engine)
    headers = {"x-hocket-deadline-ms": str(round(1000 * seconds))}
    assert await told(world, headers=headers) == (str(gets), "deadline")


async def test_deadlines_are_settings_and_the_cap_holds_for_them(engine: ScriptedEngine, start: Start) -> None:
    world = await start(
        engine, urgency=UrgencySettings(deadlines_s=[1.0, 2.0, 3.0, 4.0]), tenants=tenant(most_urgent=1)
    )
    assert await told(world, headers={"x-hocket-deadline-ms": "2500"}) == ("2", "deadline")
    assert await told(world, headers={"x-hocket-deadline-ms": "500"}) == ("1", "deadline")


async def test_an_explicit_value_goes_before_a_deadline(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine)
    assert await told(world, headers={"x-hocket-deadline-ms": "1", "x-hocket-urgency": "3"}) == ("3", "explicit")


# ---------------------------------------------------------------- the job's class


async def test_later_calls_are_of_their_jobs_class(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine)
    job = {"x-hocket-job": "j"}
    assert await told(world, headers={**job, "x-hocket-urgency": "3"}) == ("3", "explicit")
    assert await told(world, headers=job) == ("3", "job")
    assert await told(world, headers={**job, "x-hocket-urgency": "4"}) == ("4", "explicit"), "this call alone"
    assert await told(world, headers=job) == ("3", "job")
    assert await told(world, headers={**job, "x-hocket-urgency": "1"}) == ("1", "explicit"), "the whole job"
    assert await told(world, headers=job) == ("1", "job")


async def test_a_later_deadline_may_hurry_a_job_but_not_hold_it_up(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine)
    job = {"x-hocket-job": "j"}
    assert await told(world, headers={**job, "x-hocket-urgency": "2"}) == ("2", "explicit")
    assert await told(world, headers={**job, "x-hocket-deadline-ms": "7200000"}) == ("2", "job")
    assert await told(world, headers={**job, "x-hocket-deadline-ms": "30000"}) == ("1", "deadline")
    assert await told(world, headers=job) == ("1", "job")


async def test_a_job_opened_by_itself(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine, tenants=tenant(most_urgent=1, urgency=3))
    for job, asked, gets in (("a", {}, "3"), ("b", {"urgency": 0}, "1"), ("c", {"deadline_ms": 500_000}, "2")):
        async with world.http.post(f"{world.url}/v1/jobs", json={"app": "x", "job": job, **asked}, headers=KEY) as made:
            assert made.status == 200
        assert await told(world, headers={"x-hocket-job": job}) == (gets, "job")


async def test_calls_that_wait_are_told_the_class_that_they_have_in_the_end(
    engine: ScriptedEngine, start: Start
) -> None:
    world = await start(engine, window=1)
    job = {"x-hocket-job": "j"}
    running = asyncio.create_task(told(world, {"scripted": {"first_s": 0.2}}))
    await soon(lambda: world.inflight == 1)
    waiting = asyncio.create_task(told(world, headers=job))
    await soon(lambda: world.gateway.scheduler.engines["small"].queued == 1)
    hurrying = asyncio.create_task(told(world, headers={**job, "x-hocket-urgency": "0"}))
    assert (await running, await waiting, await hurrying) == (("2", "tenant"), ("0", "tenant"), ("0", "explicit"))


async def test_who_is_over_its_budget_is_told_so(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine, tenants=tenant(urgent_share=0.001, urgent_burst_s=0.05))
    urgent = {"x-hocket-urgency": "0"}
    assert await told(world, {"scripted": {"first_s": 0.2}}, headers=urgent) == ("0", "explicit")
    assert await told(world, headers=urgent) == ("1", "explicit;demoted")
    assert await told(world, headers={"x-hocket-urgency": "2"}) == ("2", "explicit")
    assert metric(world, 'hocket_demotions_total{tenant="team"}') == 1
    assert metric(world, 'hocket_call_classes_total{source="explicit",urgency="1"}') == 1


async def test_streams_are_told_too_and_with_heartbeats_before_they_begin(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine, window=1, heartbeat_s=0.05)
    assert await told(world, {"stream": True}, headers={"x-hocket-urgency": "1"}) == ("1", "explicit")
    assert await told(world, {"stream": True, "scripted": {"first_s": 0.2}}) == ("2", "tenant")


async def test_every_endpoint_has_classes(
    engine: ScriptedEngine, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = reads(monkeypatch)
    world = await start(engine, urgency=urgency())
    for path, body in (
        ("/v1/chat/completions", says("class=1 please")),
        ("/v1/completions", {"prompt": "class=1 please"}),
        ("/v1/responses", {"input": "class=1 please"}),
        ("/v1/responses", {"input": [{"role": "user", "content": [{"type": "input_text", "text": "class=1 please"}]}]}),
        ("/v1/embeddings", {"input": "class=1 please"}),
    ):
        assert await told(world, json.dumps({"model": "small", **body}), path=path) == ("1", "words"), path
    assert [text for text, _ in plain.seen] == ["class=1 please"] * 5
