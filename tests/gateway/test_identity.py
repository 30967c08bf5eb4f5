"""Which job and stage a call belongs to, what may be claimed, and what is refused."""

from __future__ import annotations

import asyncio
from hashlib import sha256
from typing import Any

import pytest

from hocket.core.events import CallArrived, JobClosed, JobOpened, ToolFinished, ToolStarted
from hocket.settings import TenantSettings
from hocket.settings.identity import IdentitySettings
from tests.gateway.conftest import Running, Start, soon
from tests.scripted_engine import Script, ScriptedEngine

KEYS = {"a": "key-of-a", "b": "key-of-b"}
TENANTS = [
    TenantSettings(name="a", key_sha256=sha256(b"key-of-a").hexdigest(), weight=2, most_urgent=1),
    TenantSettings(name="b", key_sha256=sha256(b"key-of-b").hexdigest().upper(), most_urgent=3),
]


def key(tenant: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {KEYS[tenant]}"}


def identity(**values: Any) -> dict[str, str]:
    return {f"x-hocket-{name.replace('_', '-')}": str(value) for name, value in values.items()}


def events(world: Running, kind: type[Any]) -> list[Any]:
    return [record.event for record in world.records() if isinstance(record.event, kind)]


async def call(world: Running, headers: dict[str, str] | None = None, **body: Any) -> tuple[int, str, dict[str, str]]:
    """Status, the error's code (or ''), and the answer's headers."""
    async with world.post(body, headers=headers or {}) as response:
        answer = await response.json()
        return response.status, answer.get("error", {}).get("code", ""), dict(response.headers)


async def test_headers_say_it_all(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine)
    headers = identity(app="code", job="j 1/x:y", stage="plan", parent="root", urgency=1, deadline_ms=2500)
    status, _, answer = await call(world, headers, max_tokens=77)
    assert (status, answer["x-hocket-job"]) == (200, "j 1/x:y")
    (opened,), (arrived,) = events(world, JobOpened), events(world, CallArrived)
    assert (opened.job, opened.app, opened.urgency, opened.deadline_s) == ("j 1/x:y", "code", 1, 2.5)
    assert (arrived.job, arrived.stage, arrived.parent, arrived.max_tokens) == ("j 1/x:y", "plan", "root", 77)
    assert answer["x-hocket-call"] == arrived.call


@pytest.mark.parametrize("prefix", ["hocket-", "x-hocket-"])
async def test_metadata_says_the_same(engine: ScriptedEngine, start: Start, prefix: str) -> None:
    world = await start(engine)
    said = {"app": "code", "job": "j1", "stage": "plan", "urgency": 3, "deadline-ms": "2500"}
    metadata = {prefix + name: value for name, value in said.items()} | {"other": "kept"}
    status, _, _ = await call(world, metadata=metadata)
    assert status == 200
    (opened,), (arrived,) = events(world, JobOpened), events(world, CallArrived)
    assert (opened.job, opened.app, opened.urgency, opened.deadline_s) == ("j1", "code", 3, 2.5)
    assert arrived.stage == "plan"
    assert engine.seen[0].body["metadata"] == metadata


async def test_calls_of_one_job_share_it_and_a_call_may_differ_in_urgency(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine)
    await call(world, identity(job="j1", app="code", urgency=3))
    await call(world, identity(job="j1"))
    await call(world, identity(job="j1", urgency=0))
    assert len(events(world, JobOpened)) == 1
    assert [event.urgency for event in events(world, CallArrived)] == [None, None, 0]


async def test_a_call_without_identity_is_a_job_of_its_own(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine, identity=IdentitySettings(idle_s=1.0))
    answers = [await call(world) for _ in range(3)]
    jobs = {headers["x-hocket-job"] for _, _, headers in answers}
    assert jobs == world.gateway.scheduler.jobs.keys() and len(jobs) == 3
    await soon(lambda: not world.gateway.scheduler.jobs)
    assert [event.app for event in events(world, JobOpened)] == ["default"] * 3


async def test_an_application_without_a_job_is_a_job_of_its_own_too(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine)
    await call(world, identity(app="chat"))
    await call(world, identity(app="chat"))
    assert [event.app for event in events(world, JobOpened)] == ["chat"] * 2


@pytest.mark.parametrize("stream", [False, True])
async def test_a_conversation_that_names_nothing_is_one_job(engine: ScriptedEngine, start: Start, stream: bool) -> None:
    world = await start(engine)
    said = [{"role": "system", "content": "You count."}]
    jobs = []
    for turn in range(4):
        said.append({"role": "user", "content": f"And {turn}?"})
        async with world.post({"messages": said, "stream": stream}) as response:
            await response.read()
            jobs.append(response.headers["x-hocket-job"])
        text = "".join(f"t{i}" for i in range(8)) if stream else "x" * 8
        said.append({"role": "assistant", "content": text})
    assert len(set(jobs)) == 1
    arrived = events(world, CallArrived)
    assert [event.parent for event in arrived] == [None, *[arrived[0].stage] * 3]


@pytest.mark.parametrize("stream", [False, True])
async def test_two_clients_that_say_the_same_are_told_apart(engine: ScriptedEngine, start: Start, stream: bool) -> None:
    world = await start(engine)
    ask = {"role": "user", "content": "Throw a die."}

    async def say(*messages: dict[str, str], chunks: int) -> str:
        body = {"messages": messages, "stream": stream, "scripted": {"chunks": chunks}}
        async with world.post(body) as response:
            await response.read()
            return str(response.headers["x-hocket-job"])

    def answer(chunks: int) -> dict[str, str]:
        return {"role": "assistant", "content": "".join(f"t{i}" for i in range(chunks)) if stream else "x" * chunks}

    one, two = await asyncio.gather(say(ask, chunks=3), say(ask, chunks=4))
    again = {"role": "user", "content": "Again."}
    assert one != two
    assert await say(ask, answer(4), again, chunks=2) == two
    assert await say(ask, answer(3), again, chunks=2) == one
    third, fourth = await say(ask, chunks=5), await say(ask, chunks=5)
    unclear = await say(ask, answer(5), again, chunks=2)
    assert len({one, two, third, fourth, unclear}) == 5


@pytest.mark.parametrize(
    ("headers", "metadata", "status", "code"),
    [
        (identity(job="j1", app="other"), None, 409, "job_of_another_app"),
        (identity(job="closed"), None, 409, "job_closed"),
        (identity(job="j1"), {"hocket-job": "j2"}, 400, "invalid_identity"),
        ({}, {"hocket-job": "j1", "x-hocket-job": "j2"}, 400, "invalid_identity"),
        (identity(urgency="9"), None, 400, "invalid_identity"),
        (identity(urgency="-1"), None, 400, "invalid_identity"),
        (identity(urgency="soon"), None, 400, "invalid_identity"),
        (identity(urgency="1.5"), None, 400, "invalid_identity"),
        (identity(urgency="--1"), None, 400, "invalid_identity"),
        (identity(deadline_ms="0"), None, 400, "invalid_identity"),
        (identity(deadline_ms="1e3"), None, 400, "invalid_identity"),
        (identity(job="x" * 201), None, 400, "invalid_identity"),
        (identity(job=""), None, 400, "invalid_identity"),
        (identity(app="caf\u00e9"), None, 400, "invalid_identity"),
        ({}, {"hocket-app": ["a"]}, 400, "invalid_identity"),
        ({}, {"hocket-urgency": True}, 400, "invalid_identity"),
        ({}, "text", 400, "invalid_type"),
    ],
)
async def test_what_contradicts_or_makes_no_sense(
    engine: ScriptedEngine, start: Start, headers: dict[str, str], metadata: Any, status: int, code: str
) -> None:
    world = await start(engine)
    await call(world, identity(job="j1", app="code"))
    await call(world, identity(job="closed", app="code"))
    async with world.http.delete(f"{world.url}/v1/jobs/closed") as response:
        assert response.status == 200
    before = len(engine.seen)
    body: dict[str, Any] = {} if metadata is None else {"metadata": metadata}
    async with world.post(body, headers=headers) as response:
        assert await world.error(response) == (status, code)
    assert len(engine.seen) == before, "nothing reached the engine"
    assert (await call(world, identity(job="j1", app="code")))[0] == 200, "nothing else is affected"


async def test_a_header_that_is_sent_twice_must_agree(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine)
    async with world.post({}, headers=[("x-hocket-job", "j"), ("x-hocket-job", "k")]) as response:
        assert await world.error(response) == (400, "invalid_identity")
    async with world.post({}, headers=[("x-hocket-job", "j"), ("x-hocket-job", "j")]) as response:
        assert response.status == 200


async def test_equal_values_in_both_places_are_fine(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine)
    assert (await call(world, identity(job="j1", urgency=1), metadata={"hocket-job": "j1", "x-hocket-urgency": 1}))[
        0
    ] == 200


@pytest.mark.parametrize(
    ("headers", "job"),
    [
        ({"session_id": "s-1"}, "s-1"),
        ({"X-Session-Id": "s-1"}, "s-1"),
        (
            {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
            "0af7651916cd43dd8448eb211c80319c",
        ),
        ({"baggage": "hocket.job=j1"}, "j1"),
        ({"x-session-id": b"caf\xe9".decode("latin-1")}, "id-"),
        ({"x-session-id": "x" * 5000}, "id-"),
    ],
)
async def test_what_is_said_to_others_counts_over_a_socket_too(
    engine: ScriptedEngine, start: Start, headers: dict[str, str], job: str
) -> None:
    world = await start(engine)
    status, _, answer = await call(world, headers)
    assert status == 200 and answer["x-hocket-job"].startswith(job)
    assert (await call(world, headers))[2]["x-hocket-job"] == answer["x-hocket-job"]


# ---------------------------------------------------------------- tenants


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "missing_api_key"),
        ({"Authorization": "Bearer"}, "missing_api_key"),
        ({"Authorization": "Basic a2V5"}, "missing_api_key"),
        ({"Authorization": "Bearer nobody"}, "invalid_api_key"),
        ({"Authorization": b"Bearer \xff\xfe".decode("latin-1")}, "invalid_api_key"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/jobs", "/v1/nothing"])
async def test_without_a_known_key_nothing_works(
    engine: ScriptedEngine, start: Start, headers: dict[str, str], code: str, path: str
) -> None:
    world = await start(engine, tenants=TENANTS)
    async with world.post({}, path, headers=headers) as response:
        assert await world.error(response) == (401, code)
        assert response.headers["WWW-Authenticate"] == "Bearer"
    assert not engine.seen
    async with world.http.get(f"{world.url}/health") as response:
        assert response.status == 200


async def test_a_key_is_a_tenant_and_stays_here(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine, tenants=TENANTS)
    for tenant in ("a", "b"):
        assert (await call(world, key(tenant)))[0] == 200
    assert [event.tenant for event in events(world, JobOpened)] == ["a", "b"]
    assert all("authorization" not in seen.headers for seen in engine.seen)
    assert "key-of" not in "".join(str(record) for record in world.records())


async def test_urgency_goes_no_further_than_the_tenant_may(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine, tenants=TENANTS)
    for tenant, asked in (("a", 0), ("a", 4), ("b", 0), ("b", None)):
        await call(world, key(tenant) | ({} if asked is None else identity(urgency=asked)))
    assert [event.urgency for event in events(world, JobOpened)] == [1, 4, 3, 3]
    async with world.http.post(
        f"{world.url}/v1/jobs", json={"app": "x", "job": "j", "urgency": 0}, headers=key("a")
    ) as response:
        assert response.status == 200
    await call(world, key("a") | identity(job="j", urgency=0))
    assert events(world, JobOpened)[-1].urgency == events(world, CallArrived)[-1].urgency == 1


async def test_no_tenant_reaches_anothers_job(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine, tenants=TENANTS)
    jobs = f"{world.url}/v1/jobs"
    await call(world, key("a") | identity(job="j1", app="code"))
    async with world.http.get(f"{jobs}/j1", headers=key("b")) as response:
        assert await world.error(response) == (404, "unknown_job")
    async with world.http.delete(f"{jobs}/j1?abort=true", headers=key("b")) as response:
        assert response.status == 404
    async with world.http.post(f"{jobs}/j1/tools/t:start", headers=key("b")) as response:
        assert response.status == 404
    status, _, _ = await call(world, key("b") | identity(job="j1", app="other"))
    assert status == 200, "the same id is another job for another tenant"
    assert {event.job for event in events(world, JobOpened)} == {"a/j1", "b/j1"}
    status, _, _ = await call(world, key("b") | identity(job="a/j1", app="other"))
    assert status == 200
    assert world.gateway.scheduler.jobs.keys() == {"a/j1", "b/j1", "b/a/j1"}


# ---------------------------------------------------------------- /v1/jobs


async def test_the_life_of_a_job(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine)
    jobs = f"{world.url}/v1/jobs"

    async def ask(method: str, path: str = "", **more: Any) -> tuple[int, dict[str, Any]]:
        async with world.http.request(method, jobs + path, **more) as response:
            return response.status, await response.json()

    status, opened = await ask("POST", json={"app": "code", "urgency": 1, "deadline_ms": 1500})
    job = opened["id"]
    assert status == 200 and opened["app"] == "code"
    status, whole = await ask("POST", json={"app": "code", "urgency": 2.0, "deadline_ms": 1500.0})
    assert (status, (await ask("GET", f"/{whole['id']}"))[1]["urgency"]) == (200, 2), "JSON knows one kind of number"
    for body in ({"urgency": 1.5}, {"deadline_ms": 0.5}, {"urgency": 1e300}):
        status, refused = await ask("POST", json={"app": "code", **body})
        assert (status, refused["error"]["code"]) == (400, "invalid_identity"), body
    assert (await ask("POST", json={"app": "code", "job": job}))[0] == 200, "opening it again changes nothing"
    assert (await ask("POST", json={"app": "other", "job": job}))[0] == 409
    await call(world, identity(job=job))
    status, run = await ask("POST", f"/{job}/tools/run%2Ftests:start", json={"parent": "plan"})
    assert status == 200 and run["name"] == "run/tests"
    assert (await ask("POST", f"/{job}/tools/run%2Ftests:start", json={"run": run["run"]}))[0] == 409
    second = (await ask("POST", f"/{job}/tools/run%2Ftests:start", json={"run": "mine"}))[1]
    assert second["run"] == "mine"
    state = (await ask("GET", f"/{job}"))[1]
    assert (state["state"], state["open_tools"], state["open_calls"], state["urgency"]) == ("open", 2, 0, 1)
    assert state["service_s"] > 0 and state["age_s"] > 0
    assert (await ask("POST", f"/{job}/tools/run%2Ftests:end"))[1]["run"] == "mine", "the latest of that name"
    assert (await ask("POST", f"/{job}/tools/run%2Ftests:end", json={"run": run["run"]}))[0] == 200
    assert (await ask("POST", f"/{job}/tools/run%2Ftests:end"))[0] == 404
    assert (await ask("POST", f"/{job}/tools/run%2Ftests:stop"))[0] == 404
    assert (await ask("DELETE", f"/{job}?abort=perhaps"))[0] == 400
    assert await ask("DELETE", f"/{job}") == (200, {"id": job, "object": "job", "state": "closed"})
    assert (await ask("DELETE", f"/{job}"))[0] == 200, "closing twice is no error"
    assert (await ask("GET", f"/{job}"))[1]["state"] == "closed"
    assert (await ask("POST", json={"app": "code", "job": job}))[0] == 409
    assert (await ask("POST", f"/{job}/tools/t:start"))[0] == 409
    assert (await ask("GET", "/never"))[0] == (await ask("DELETE", "/never"))[0] == 404
    started, ended = events(world, ToolStarted), events(world, ToolFinished)
    assert [event.parent for event in started] == ["plan", None] and len(ended) == 2


async def test_a_job_has_a_bounded_number_of_open_tool_runs(
    engine: ScriptedEngine, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hocket.gateway.jobs.OPEN_TOOLS", 2)
    world = await start(engine)

    async def tool(verb: str, **body: str) -> tuple[int, dict[str, Any]]:
        async with world.http.post(f"{world.url}/v1/jobs/many/tools/t:{verb}", json=body) as response:
            return response.status, await response.json()

    async with world.http.post(f"{world.url}/v1/jobs", json={"app": "code", "job": "many"}) as response:
        assert response.status == 200
    assert [(await tool("start", run=run))[0] for run in ("1", "2", "3")] == [200, 200, 429]
    assert (await tool("start"))[1]["error"]["code"] == "too_many_tool_runs"
    assert (await tool("end"))[1]["run"] == "2"
    assert [(await tool(verb, run="3"))[0] for verb in ("start", "end", "end")] == [200, 200, 404]


async def test_closing_lets_open_calls_end_and_abort_kills_them(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine, window=2)
    engine.default = Script(chunks=200, gap_s=0.05)

    async def close(job: str, query: str = "") -> None:
        async with world.http.delete(f"{world.url}/v1/jobs/{job}{query}") as response:
            assert response.status == 200

    engine.plan.append(Script(held=True))
    kept = asyncio.create_task(call(world, identity(job="kept")))
    await soon(lambda: engine.inflight == 1)
    await close("kept")
    assert (await call(world, identity(job="kept")))[:2] == (409, "job_closed")
    engine.gate.set()
    assert (await kept)[0] == 200

    headers = identity(job="doomed")
    streaming = await world.post({"stream": True}, headers=headers)
    await streaming.content.readany()
    whole = asyncio.create_task(call(world, headers, scripted={"do": "hang"}))
    await soon(lambda: engine.inflight == 2)
    waiting = asyncio.create_task(call(world, headers))
    await soon(lambda: world.gateway.scheduler.engines["small"].queued == 1)
    await close("doomed", "?abort=true")
    async with asyncio.timeout(10):
        assert (await whole)[:2] == (await waiting)[:2] == (409, "job_aborted")
        rest = await streaming.read()
    assert b'"code":"job_aborted"' in rest and b"[DONE]" not in rest
    await soon(lambda: engine.inflight == 0 and len(engine.aborted) == 2)
    metrics = world.gateway.metrics.render().decode()
    assert 'hocket_jobs_total{app="default",reason="aborted"} 1.0' in metrics


async def test_a_job_that_nobody_closes_ends_and_may_come_back(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine, job_idle_s=0.2)
    await call(world, identity(job="j1", app="one"))
    await soon(lambda: not world.gateway.scheduler.jobs)
    assert [event.reason for event in events(world, JobClosed)] == ["idle"]
    assert (await call(world, identity(job="j1", app="two")))[0] == 200
    assert [event.app for event in events(world, JobOpened)] == ["one", "two"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"[]", "invalid_type"),
        (b"{}", "invalid_type"),
        (b'{"app": 3}', "invalid_type"),
        (b'{"app": "a", "deadline_s": 3}', "invalid_type"),
        (b'{"app": ""}', "invalid_identity"),
        (b'{"app": "a", "urgency": 7}', "invalid_identity"),
        (b'{"app": "a", "deadline_ms": -5}', "invalid_identity"),
        (b'{"app": "a", "job": "\\n"}', "invalid_identity"),
        (b'{"app": "\xff"}', "invalid_utf8"),
        (b'{"app":' + b"[" * 100_000, "invalid_type"),
    ],
)
async def test_a_bad_job_is_refused(engine: ScriptedEngine, start: Start, body: bytes, code: str) -> None:
    world = await start(engine)
    async with world.http.post(f"{world.url}/v1/jobs", data=body) as response:
        assert await world.error(response) == (400, code)
    assert not world.gateway.scheduler.jobs
