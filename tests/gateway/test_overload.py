"""Refusals on real sockets: what a client is told, what is left of a refused job, and that it may come again."""

from __future__ import annotations

import asyncio
from functools import partial
from hashlib import sha256
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from hocket.core import events as ev
from hocket.core.commands import Refuse, Reject
from hocket.history.records import JobRecord, Ledger, Record
from hocket.settings import Settings, TenantSettings
from hocket.settings.limits import LimitsSettings, TenantLimits
from tests.gateway.conftest import Running, Start, soon
from tests.scripted_engine import Script, ScriptedEngine

KEY = "sk-overload"
HELD = {"scripted": {"do": "hang", "hang_s": 60.0}}


def tenant(**limits: Any) -> dict[str, Any]:
    digest = sha256(KEY.encode()).hexdigest()
    return {"tenants": [TenantSettings("team", digest, limits=TenantLimits(**limits))]}


def by(job: str | None = None, **more: str) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {KEY}", **more}
    return {"headers": headers if job is None else headers | {"x-hocket-job": job}}


async def held(world: Running, engine: ScriptedEngine, *jobs: str, **more: str) -> list[asyncio.Task[Any]]:
    """Calls that are not answered until they are cancelled."""
    tasks: list[asyncio.Task[Any]] = []
    for job in jobs:
        before = _open(world, job)
        tasks.append(asyncio.create_task(_read(world, job, **more)))
        await soon(partial(_more, world, job, before))
    return tasks


def _open(world: Running, job: str) -> int:
    return sum(call.job.id.endswith(job) for call in world.gateway.scheduler.calls.values())


def _more(world: Running, job: str, than: int) -> bool:
    return _open(world, job) > than


async def _read(world: Running, job: str, **more: str) -> tuple[int, bytes]:
    async with world.post(HELD, **by(job, **more)) as answer:
        return answer.status, await answer.read()


async def let_go(world: Running, *tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await soon(lambda: not world.gateway.scheduler.calls)


async def counted(world: Running, name: str) -> dict[tuple[str, ...], float]:
    async with world.http.get(f"{world.url}/metrics") as answer:
        text = await answer.text()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    return {tuple(sample.labels.values()): sample.value for sample in families[name].samples}


async def test_a_tenants_limit_is_429_and_nothing_of_the_job_is_left(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine, **tenant(calls=1))
    tasks = await held(world, engine, "a")
    async with world.post({}, **by("b")) as answer:
        assert await world.error(answer) == (429, "too_many_calls")
        assert int(answer.headers["Retry-After"]) >= 1
        assert (await answer.json())["error"]["type"] == "rate_limit_error"
    await soon(lambda: list(world.gateway.scheduler.jobs) == ["team/a"])
    closed = [record.event for record in world.records() if isinstance(record.event, ev.JobClosed)]
    assert [(event.job, event.reason, event.abort) for event in closed] == [("team/b", "refused", True)]
    await let_go(world, *tasks)
    assert world.gateway.scheduler.whole.refused == {("too_many_calls", 429): 1}


async def test_who_was_refused_comes_again_under_the_same_name(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine, **tenant(calls=1))
    tasks = await held(world, engine, "a")
    async with world.post({}, **by("b")) as answer:
        assert answer.status == 429
    await let_go(world, *tasks)
    async with world.post({}, **by("b", **{"x-stainless-retry-count": "1"})) as answer:
        assert answer.status == 200 and answer.headers["x-hocket-job"] == "b"
    opened = [r.event.job for r in world.records() if isinstance(r.event, ev.JobOpened)]
    assert opened == ["team/a", "team/b", "team/b"]


async def test_a_job_whose_last_call_is_refused_waits_for_it(engine: ScriptedEngine, start: Start) -> None:
    """A session is over with the call that says so. If that was refused it comes again, and the job goes on."""
    world = await start(engine, **tenant(calls=1))
    last = by(**{"x-dynamo-session-id": "s", "x-dynamo-session-final": "true"})
    async with world.post({}, **by(**{"x-dynamo-session-id": "s"})) as answer:
        assert answer.status == 200
    tasks = await held(world, engine, "a", "a")
    async with world.post({}, **last) as answer:
        assert await world.error(answer) == (429, "too_many_calls")
    await let_go(world, *tasks)
    job = world.gateway.scheduler.jobs["team/s"]
    async with world.post({}, **last) as answer:
        assert answer.status == 200
    await soon(lambda: "team/s" not in world.gateway.scheduler.jobs)
    assert job.gone, "it is the same one that was over then"


async def test_a_conversation_that_nobody_named_comes_again_as_one_job(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine, **tenant(calls=1))
    tasks = await held(world, engine, "a")
    turn = {"messages": [{"role": "user", "content": "one of its kind"}]}
    async with world.post(turn, **by()) as answer:
        assert answer.status == 429
    await let_go(world, *tasks)
    async with world.post(turn, **by(**{"x-stainless-retry-count": "1"})) as answer:
        assert answer.status == 200
        job, said = answer.headers["x-hocket-job"], (await answer.json())["choices"][0]["message"]
    more = {"messages": [*turn["messages"], said, {"role": "user", "content": "and then?"}]}
    async with world.post(more, **by()) as answer:
        assert answer.status == 200 and answer.headers["x-hocket-job"] == job


async def test_calls_of_a_job_that_was_let_in_are_not_refused(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine, window=1, limits=LimitsSettings(calls=1, queue=1, wait_s=0.001))
    tasks = await held(world, engine, *("a" * 9))
    async with world.post({}, **by("b")) as answer:
        assert answer.status == 503 and (await world.error(answer))[1] == "too_many_calls"
    await let_go(world, *tasks)
    assert await counted(world, "hocket_refusals") == {("too_many_calls", "503"): 1.0}
    assert await counted(world, "hocket_jobs_admitted") == {(): 1.0}
    assert (await counted(world, "hocket_jobs"))["default", "refused"] == 1.0


async def test_a_more_urgent_call_takes_the_place_of_one_that_waits(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine, window=1, limits=LimitsSettings(queue=1), policy="urgency")
    tasks = await held(world, engine, "a", "b", **{"x-hocket-urgency": "4"})
    urgent = await held(world, engine, "c", **{"x-hocket-urgency": "0"})
    status, body = await tasks[1]
    assert status == 503 and b'"shed"' in body
    await soon(lambda: sorted(world.gateway.scheduler.jobs) == ["a", "c"])
    await let_go(world, tasks[0], *urgent)


async def test_an_open_stream_that_waits_is_told_so_too(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine, window=1, limits=LimitsSettings(queue=1), policy="urgency", heartbeat_s=0.02)
    tasks = await held(world, engine, "a", **{"x-hocket-urgency": "4"})
    async with world.post({"stream": True}, **by("b", **{"x-hocket-urgency": "4"})) as answer:
        assert (await answer.content.readline()).startswith(b":")
        urgent = await held(world, engine, "c", **{"x-hocket-urgency": "0"})
        rest = await answer.read()
    assert b'"shed"' in rest and b"[DONE]" not in rest
    await let_go(world, *tasks, *urgent)


async def test_requests_hold_no_more_bytes_than_allowed(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine, window=1, limits=LimitsSettings(held_mib=0.25))
    tasks = await held(world, engine, "a")
    large = {"messages": [{"role": "user", "content": "x" * 300_000}]}
    async with world.post(large, **by("b")) as answer:
        assert await world.error(answer) == (503, "too_many_bytes")
    assert (await counted(world, "hocket_held_bytes"))[()] < 1_000
    await let_go(world, *tasks)


async def test_a_job_that_is_opened_by_itself_is_refused_there(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine, **tenant(jobs=1))
    opened, body = f"{world.url}/v1/jobs", {"app": "a"}
    async with world.http.post(opened, json={**body, "job": "a"}, **by()) as answer:
        assert answer.status == 200
    async with world.http.post(opened, json={**body, "job": "b"}, **by()) as answer:
        assert await world.error(answer) == (429, "too_many_jobs") and "Retry-After" in answer.headers
    async with world.post({}, **by("c")) as answer:
        assert await world.error(answer) == (429, "too_many_jobs")
    assert list(world.gateway.scheduler.jobs) == ["team/a"]
    async with world.post({}, **by("a")) as answer:
        assert answer.status == 200


async def test_a_job_that_was_opened_by_itself_stays_when_its_first_call_is_refused(
    engine: ScriptedEngine, start: Start
) -> None:
    world = await start(engine, **tenant(calls=1))
    tasks = await held(world, engine, "a")
    async with world.http.post(
        f"{world.url}/v1/jobs", json={"app": "mine", "job": "b", "urgency": 1}, **by()
    ) as answer:
        assert answer.status == 200
    async with world.post({}, **by("b")) as answer:
        assert answer.status == 429
    await let_go(world, *tasks)
    async with world.post({}, **by("b")) as answer:
        assert answer.status == 200 and answer.headers["x-hocket-urgency"] == "1"
    assert world.gateway.scheduler.jobs["team/b"].app.name == "mine"


async def test_a_deadline_that_cannot_be_met_is_told_at_once(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine, window=1, limits=LimitsSettings(deadlines="refuse"))
    engine.default = Script(first_s=0.05)
    async with world.post({}, **by("warm")) as answer:
        assert answer.status == 200
    tasks = await held(world, engine, *(f"j{n}" for n in range(9)))
    async with world.post({}, **by("late", **{"x-hocket-deadline-ms": "10"})) as answer:
        assert await world.error(answer) == (503, "deadline_unmeetable")
    await let_go(world, *tasks)


async def test_nobody_is_refused_by_default(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine, window=2)
    statuses = await asyncio.gather(*(_status(world, f"j{n}") for n in range(200)))
    assert set(statuses) == {200}


async def _status(world: Running, job: str) -> int:
    async with world.post({}, **by(job)) as answer:
        return int(answer.status)


def test_the_history_says_that_a_job_was_refused() -> None:
    ended: list[Record] = []
    ledger = Ledger(1, iter(range(9)), lambda _: None, ended.append, offset=0.0, prefixed=False)
    ledger.seen(ev.JobOpened(0.0, "a", "app"), [Refuse("a", 429, "too_many_jobs", 1.0)])
    ledger.seen(ev.JobOpened(1.0, "b", "app"), [])
    ledger.seen(ev.CallArrived(1.0, "b1", "b", "s", "m"), [Reject("b1", 503, "overloaded", 1.0)])
    ledger.seen(ev.JobClosed(1.0, "b", True, "refused"), [])
    assert [(r.job, r.state) for r in ended if isinstance(r, JobRecord)] == [("a", "refused"), ("b", "refused")]


@pytest.mark.parametrize("limits", [{"calls": 0}, {"wait_s": 0}, {"deadlines": "maybe"}, {"held_mib": -1}, {"x": 1}])
def test_limits_that_are_none_are_refused(limits: dict[str, Any]) -> None:
    import msgspec

    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"limits": limits}, Settings)
