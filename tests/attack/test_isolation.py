"""One tenant can neither join, read, end nor delay another's job: not by its ids, nor by replaying its messages.

Every way in which a call can say where it belongs is tried twice: by the tenant itself, which must come to its own job
(else the test would show nothing), and by another with the very same bytes, which must not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from hocket.core import events as ev
from hocket.gateway.identity import HEADERS, foreign
from hocket.gateway.responses import Responses
from hocket.settings import TenantSettings
from hocket.settings.keys import digest_of
from tests.gateway.conftest import Running, Start, soon
from tests.gateway.identity_world import RESPONSES, TEXT, Turn, World, answer, assistant, tool
from tests.scripted_engine import Script, ScriptedEngine

A, B = TENANTS = [TenantSettings(name, digest_of(f"hk-{name}"), most_urgent=1) for name in ("a", "b")]
HELLO = {"role": "user", "content": "Tell me of the moon."}
CHAT = {"messages": [HELLO]}
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

Said = tuple[dict[str, str], dict[str, Any]]
"headers, and what is in the body"

SAYING: dict[str, Said] = {
    HEADERS["job"]: ({HEADERS["job"]: "j1", HEADERS["app"]: "x"}, {}),
    "metadata hocket-job": ({}, {"metadata": {"hocket-job": "j1"}}),
    "metadata x-hocket-job": ({}, {"metadata": {"x-hocket-job": "j1"}}),
    "traceparent": ({"traceparent": TRACE}, {}),
    "baggage hocket.job": ({"baggage": "hocket.job=j1"}, {}),
    "baggage session.id": ({"baggage": "session.id=s1"}, {}),
    "baggage gen_ai.conversation.id": ({"baggage": "gen_ai.conversation.id=s1"}, {}),
    **{name: ({name: "s1"}, {}) for name in (*foreign.SESSIONS, *foreign.PARENT_SESSIONS, *foreign.AGENTS)},
    **{f"{name} in a session": ({"x-session-id": "s1", name: "agent"}, {}) for name in foreign.AGENTS},
    **{name: ({name: "s0", "x-dynamo-trajectory-id": "t1"}, {}) for name in foreign.PARENT_AGENTS},
    "body session_id": ({}, {"session_id": "s1"}),
    "metadata session_id": ({}, {"metadata": {"session_id": "s1"}}),
    "body litellm_session_id": ({}, {"litellm_session_id": "s1"}),
    "conversation": ({}, {"conversation": {"id": "conv_1"}}),
    "vllm_xargs": ({}, {"vllm_xargs": {"agentic_context": {"root_program_id": "r1", "program_id": "p1"}}}),
    "nvext": ({}, {"nvext": {"agent_context": {"session_id": "s1", "trajectory_id": "t1"}}}),
}
FINAL = {"x-dynamo-session-final": "true", "x-dynamo-trajectory-final": "true"}


def ask(world: World, tenant: TenantSettings, headers: Mapping[str, str] | None = None, **more: Any) -> Turn:
    return world.ask({**CHAT, **more}, headers, more.pop("path", "/v1/chat/completions"), tenant)


def untouched(world: World, mine: Turn, before: int) -> None:
    """The job is open as it was, and nothing was told of it since."""
    assert mine.place.key in world.open
    told = [event for event in world.events[before:] if getattr(event, "job", None) == mine.place.key]
    assert told == []


def test_every_header_that_is_read_is_tried() -> None:
    tried = {name for headers, _ in SAYING.values() for name in headers} | set(FINAL)
    # what says how urgent or how long, but not which job
    assert foreign.READ | {HEADERS["job"], "traceparent", "baggage"} <= tried | set(foreign.PRIORITIES)


@pytest.mark.parametrize("source", SAYING)
async def test_an_id_is_of_the_tenant_that_said_it(source: str) -> None:
    world = World(tenants=TENANTS)
    headers, body = SAYING[source]
    mine = ask(world, A, headers, **body)
    before = len(world.events)
    urgent = {HEADERS["urgency"]: "4", HEADERS["deadline-ms"]: "1"}
    other = ask(world, B, {**headers, **urgent}, **body)
    assert other.place.key != mine.place.key and other.place.key.startswith("b/")
    last = ask(world, B, {**headers, **FINAL}, **body)
    other.end(answer(assistant("No.")))
    last.end(answer(assistant("No.")))
    untouched(world, mine, before)
    again = ask(world, A, headers, **body)
    assert again.place.key == mine.place.key and mine.place.key.startswith("a/")


async def test_messages_that_are_replayed_lead_to_no_other_tenants_job() -> None:
    """Whole histories, what an answer said, ids of tool calls, retries, prompts and their beginnings."""
    world = World(tenants=TENANTS)
    said = [HELLO, assistant("It is round.", "call_1"), tool("call_1")]
    mine = ask(world, A).end(answer(assistant("It is round.", "call_1")))
    prompt = "A text that is long enough to be known again, as prompts of completions are. " * 3
    text = world.ask({"prompt": prompt}, path=TEXT, tenant=A).end({"choices": [{"text": "Yes."}]})
    stored = world.ask({"input": "Look."}, path=RESPONSES, tenant=A)
    stored.end({"id": "resp_1", "output": [{"type": "message", "role": "assistant", "content": "Seen."}]})
    before = len(world.events)
    retry = {"x-stainless-retry-count": "1"}
    replays: list[tuple[Turn, dict[str, Any]]] = [
        (mine, {"body": {"messages": [*said, HELLO]}}),
        (mine, {"body": {"messages": said}}),
        (mine, {"body": {"messages": [HELLO, tool("call_1")]}}),
        (mine, {"body": CHAT, "headers": retry}),
        (text, {"body": {"prompt": prompt + "And more."}, "path": TEXT}),
        (stored, {"body": {"input": "Go on.", "previous_response_id": "resp_1"}, "path": RESPONSES}),
    ]
    for turn, request in replays:
        other = world.ask(**request, tenant=B).end(answer(assistant("No.")))
        assert other.place.key.startswith("b/") and other.job != turn.job, request
    for turn in (mine, text, stored):
        untouched(world, turn, before)
    for turn, request in replays:
        assert world.ask(**request, tenant=A).end().job == turn.job, request


async def test_the_same_words_of_many_tenants_hide_nobodys_job() -> None:
    """Were hashes shared, twins of other tenants would make a conversation ambiguous: a new job for each turn."""
    crowd = [TenantSettings(f"t{i}", digest_of(f"k{i}")) for i in range(20)]
    world = World(tenants=[A, *crowd])
    mine = ask(world, A).end(answer(assistant("It is round.")))
    for tenant in crowd:
        ask(world, tenant).end(answer(assistant("It is round.")))
    more = ask(world, A, messages=[HELLO, assistant("It is round."), HELLO])
    assert more.job == mine.job


# ---------------------------------------------------------------- over HTTP


def key(tenant: str, **more: str) -> dict[str, str]:
    return {"Authorization": f"Bearer hk-{tenant}", **{f"x-hocket-{name}": value for name, value in more.items()}}


async def asked(world: Running, tenant: str, method: str, path: str) -> tuple[int, dict[str, Any]]:
    async with world.http.request(method, world.url + path, headers=key(tenant)) as response:
        return response.status, await response.json()


async def test_another_tenants_job_cannot_be_told_from_one_that_is_not_there(
    engine: ScriptedEngine, start: Start
) -> None:
    """Read, closed, aborted, its tools begun or ended: each is refused in the words for an id that nobody has."""
    world = await start(engine, tenants=TENANTS)
    slow = {"stream": True, "scripted": {"chunks": 30, "gap_s": 0.02}}
    stream = await world.post(slow, headers=key("a", job="mine", app="x"))
    tools = "/v1/jobs/mine/tools/search:"
    assert (await asked(world, "a", "POST", f"{tools}start"))[0] == 200
    for method, path in (
        ("GET", "/v1/jobs/mine"),
        ("DELETE", "/v1/jobs/mine"),
        ("DELETE", "/v1/jobs/mine?abort=true"),
        ("POST", f"{tools}start"),
        ("POST", f"{tools}end"),
        ("GET", "/v1/jobs/a%2Fmine"),
        ("DELETE", "/v1/jobs/..%2Fa%2Fmine"),
    ):
        status, body = await asked(world, "b", method, path)
        nobody = await asked(world, "b", method, path.replace("mine", "none"))
        assert (status, body["error"]["code"]) == (404, "unknown_job"), (method, path)
        assert nobody == (
            status,
            {"error": {**body["error"], "message": body["error"]["message"].replace("mine", "none")}},
        )
    # a job of the same id is another job
    async with world.post({}, headers=key("b", job="mine", app="y")) as response:
        assert response.status == 200
    assert (await asked(world, "b", "DELETE", "/v1/jobs/mine"))[0] == 200
    status, job = await asked(world, "a", "GET", "/v1/jobs/mine")
    assert (status, job["state"], job["app"], job["open_calls"], job["open_tools"]) == (200, "open", "x", 1, 1)
    assert (await stream.read()).endswith(b"data: [DONE]\n\n")
    assert (await asked(world, "a", "POST", f"{tools}end"))[0] == 200


async def test_another_tenants_stored_response_is_nobodys(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine, tenants=TENANTS)
    async with world.post({"input": "secret"}, "/v1/responses", headers=key("a")) as response:
        stored = (await response.json())["id"]
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/cancel")):
        for name in (stored, "resp_of_nobody"):
            status, body = await asked(world, "b", method, f"/v1/responses/{name}{path}")
            assert (status, body["error"]["code"]) == (404, "unknown_response")
    for name in (stored, "resp_of_nobody", 7, [stored], {"id": stored}):
        body = {"input": "Go on.", "previous_response_id": name}
        async with world.post(body, "/v1/responses", headers=key("b")) as response:
            assert await world.error(response) == (404, "unknown_response")
    assert len(engine.seen) == 1
    assert (await asked(world, "a", "GET", f"/v1/responses/{stored}"))[0] == 200


async def test_a_repeated_requests_key_is_of_its_tenant(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine, tenants=TENANTS)
    engine.plan += [Script(says="for a alone"), Script(says="for b alone")]
    texts = []
    for tenant in ("a", "b", "a", "b"):
        async with world.post({}, headers={**key(tenant), "Idempotency-Key": "guessed"}) as response:
            texts.append((await response.json())["choices"][0]["message"]["content"])
    assert texts == ["for a alone", "for b alone"] * 2 and len(engine.seen) == 2


async def test_a_tenant_is_who_its_key_says_whatever_else_is_said(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine, tenants=TENANTS)
    claims: list[tuple[dict[str, str], dict[str, Any]]] = [
        ({"x-hocket-tenant": "a", "x-tenant": "a", "OpenAI-Organization": "a", "OpenAI-Project": "a"}, {}),
        ({"Cookie": "tenant=a", "x-api-key": "hk-a", "api-key": "hk-a", "Proxy-Authorization": "Bearer hk-a"}, {}),
        ({}, {"user": "a", "tenant": "a", "metadata": {"hocket-tenant": "a", "tenant": "a"}}),
        ({"baggage": "hocket.tenant=a"}, {}),
    ]
    for headers, body in claims:
        async with world.post(body, headers={**key("b"), **headers}) as response:
            assert response.status == 200
        async with world.post(body, headers=headers) as response:
            assert (await world.error(response))[0] == 401
    assert {event.tenant for event in opened(world)} == {"b"}
    # two keys in one request are no way to be both
    both = [("Authorization", "Bearer hk-b"), ("Authorization", "Bearer hk-a")]
    async with world.http.get(f"{world.url}/v1/jobs/mine", headers=both) as response:
        assert response.status in {400, 404}


def opened(world: Running) -> list[ev.JobOpened]:
    return [record.event for record in world.records() if isinstance(record.event, ev.JobOpened)]


# ---------------------------------------------------------------- room


def test_no_tenant_pushes_anothers_responses_out() -> None:
    responses = Responses(limit=100)
    for i in range(10):
        responses.remember("a", f"a{i}", "small", "r")
    for i in range(1000):
        responses.remember("b", f"b{i}", "small", "r")
    assert len(responses) == 100
    assert all(responses.find("a", f"a{i}") for i in range(10))
    assert [responses.find("b", f"b{i}") is not None for i in (0, 909, 910, 999)] == [False, False, True, True]
    responses.forget("b", "b999")
    responses.forget("b", "b999")
    responses.forget("nobody", "b998")
    assert len(responses) == 99


async def test_no_tenant_pushes_anothers_conversations_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hocket.gateway.places.MAX_LINGERING", 100)
    monkeypatch.setattr("hocket.gateway.places.MIN_LINGERING", 10)
    monkeypatch.setattr("hocket.gateway.places.MIN_HASHES", 200)
    monkeypatch.setattr("hocket.gateway.places.MAX_HASHES", 400)
    world = World(tenants=TENANTS)
    mine = ask(world, A).end(answer(assistant("It is round.")))
    for i in range(1000):
        ask(world, B, messages=[{"role": "user", "content": f"Flood {i}."}]).end(answer(assistant(f"{i}")))
    assert len(world.open) <= 51, "the flood is bounded"
    assert mine.place.key in world.open, "and it is the flood's own jobs that end"
    assert ask(world, A, messages=[HELLO, assistant("It is round."), HELLO]).job == mine.job


async def test_an_aborted_job_costs_its_tenant_alone(engine: ScriptedEngine, start: Start) -> None:
    """A tenant that opens and kills without end holds no slot, and its neighbour's call goes through."""
    world = await start(engine, tenants=TENANTS, window=2)
    for i in range(20):
        task = asyncio.create_task(
            world.http.post(
                f"{world.url}/v1/chat/completions",
                json={"model": "small", **CHAT, "scripted": {"do": "hang"}},
                headers=key("b", job=f"j{i}"),
            )
        )
        await soon(lambda i=i: f"b/j{i}" in world.gateway.scheduler.jobs)
        assert (await asked(world, "b", "DELETE", f"/v1/jobs/j{i}?abort=true"))[0] == 200
        assert (await task).status == 409
    await soon(lambda: world.inflight == 0)
    async with asyncio.timeout(10), world.post({}, headers=key("a")) as response:
        assert response.status == 200
