"""Identity that is said to other systems: each source, their order, and that none of them ever fails a call."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict

from hocket.core.events import JobClosed, JobOpened
from hocket.gateway.identity.claim import is_name
from hocket.gateway.identity.foreign import AGENTS, FINALS, PARENT_AGENTS, PARENT_SESSIONS, PRIORITIES, SESSIONS
from hocket.gateway.identity.sources import FOREIGN, claim_of, retry_of
from hocket.gateway.openai import Request
from hocket.settings import TenantSettings
from tests.gateway.identity_world import World, answer, assistant, inferring, system

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{SPAN}-01"


def run(headers: dict[str, str] | None = None, **body: Any) -> tuple[str | None, Any]:
    """The job's name and what else was claimed."""
    world = World()
    turn = world.ask({"messages": [{"role": "user", "content": "x"}]}, headers or {}, **body).end()
    return (turn.job if turn.place.named else None), turn


@pytest.mark.parametrize("name", [*SESSIONS, "X-Session-Id", "X-Dynamo-Session-ID", "X-LiteLLM-Trace-Id"])
async def test_a_session_header_names_the_job(name: str) -> None:
    world = World()
    one, two = world.chat("a", headers={name: "s-1"}).end(), world.chat("b", headers={name: "s-1"}).end()
    assert one.job == two.job == "s-1" and world.open == {"s-1"}
    assert world.chat("a", headers={name: "s-2"}).end().job == "s-2"


@pytest.mark.parametrize(
    "body",
    [
        {"session_id": "s-1"},
        {"metadata": {"session_id": "s-1"}},
        {"litellm_session_id": "s-1"},
        {"conversation": "s-1"},
        {"conversation": {"id": "s-1"}},
        {"vllm_xargs": {"agentic_context": {"program_id": "s-1"}}},
        {"vllm_xargs": {"agentic_context": {"session_id": "s-1"}}},
        {"vllm_xargs": {"agentic_context": {"program_id": "p-2", "root_program_id": "s-1"}}},
        {"nvext": {"agent_context": {"session_id": "s-1", "trajectory_id": "t"}}},
        {"nvext": {"agent_context": {"session_id": "s-1"}}},
    ],
)
async def test_a_body_field_names_the_job(body: dict[str, Any]) -> None:
    assert run(**body)[0] == "s-1"


async def test_trace_context() -> None:
    job, turn = run({"traceparent": TRACEPARENT, "tracestate": "a=b"})
    assert (job, turn.parent) == (TRACE, SPAN)
    said = "hocket.app=code, gen_ai.agent.name = the%20planner;prop=1 ,other=x,hocket.urgency=3,hocket.deadline-ms=1500"
    job, turn = run({"traceparent": TRACEPARENT, "baggage": said})
    assert (job, turn.place.app, turn.stage, turn.parent) == (TRACE, "code", "the planner", SPAN)
    (opened,) = turn.world.of(JobOpened)
    assert (opened.urgency, opened.deadline_s) == (3, 1.5)


async def test_a_stage_is_a_better_parent_than_a_span() -> None:
    world = World()
    headers = {"traceparent": TRACEPARENT}
    one = world.chat(system("A"), "q", headers=headers).end(answer(assistant("a")))
    two = world.chat(system("A"), "q", assistant("a"), "q2", headers=headers).end()
    assert (one.parent, two.parent, two.job) == (SPAN, one.stage, TRACE)


@pytest.mark.parametrize(
    ("baggage", "job"),
    [
        ("hocket.job=j1", "j1"),
        ("hocket.job=j1,session.id=s1", "j1"),
        ("gen_ai.conversation.id=c1,session.id=s1", "s1"),
        ("gen_ai.conversation.id=c1", "c1"),
        ("session.id=caf%C3%A9", "id-5777a2bd3192d7e3"),
        ("session.id=", None),
        ("session.id", None),
        ("=,;,==,%,session.id=%", "%"),
    ],
)
async def test_baggage_names_the_job_where_there_is_no_trace(baggage: str, job: str | None) -> None:
    assert run({"baggage": baggage})[0] == job
    assert run({"traceparent": TRACEPARENT, "baggage": baggage})[0] == ("j1" if "hocket.job" in baggage else TRACE)


async def test_baggage_names_application_and_stage() -> None:
    _, turn = run({"baggage": "gen_ai.workflow.name=triage,gen_ai.agent.name=nurse,hocket.parent=desk"})
    assert (turn.place.app, turn.stage, turn.parent, turn.place.named) == ("triage", "nurse", "desk", False)


@pytest.mark.parametrize(
    "traceparent",
    ["", "00", "junk", f"00-{TRACE}-{SPAN}", f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01",
     f"ff-{TRACE}-{SPAN}-01", f"00-{TRACE.upper()}-{SPAN}-01", f"00-{TRACE}-{SPAN}-01-more", f"00-{TRACE}x-{SPAN}-01"],
)  # fmt: skip
async def test_a_bad_traceparent_is_not_there(traceparent: str) -> None:
    assert run({"traceparent": traceparent, "x-session-id": "s-1"})[0] == "s-1"
    assert run({"traceparent": traceparent})[0] is None


async def test_a_later_version_of_traceparent_is_read() -> None:
    assert run({"traceparent": f"cc-{TRACE}-{SPAN}-01-what-the-future-brings"})[0] == TRACE


async def test_the_first_source_that_knows_counts_and_the_rest_fill_in() -> None:
    headers = {
        "x-hocket-job": "explicit",
        "traceparent": TRACEPARENT,
        "x-session-id": "session",
        "x-opencode-session": "open",
    }
    body = {"session_id": "body", "nvext": {"agent_hints": {"priority": 1, "osl": 70}}}
    expected = ["explicit", TRACE, "session", "open", "body"]
    for name, job in zip([*headers, ""], expected, strict=True):
        got, turn = run(headers, **body)
        assert got == job
        assert (turn.arrived.hint_output_tokens, turn.world.of(JobOpened)[0].urgency) == (70, 1)
        headers.pop(name, None)


async def test_sources_can_be_left_out_and_put_in_another_order() -> None:
    headers = {"traceparent": TRACEPARENT, "x-session-id": "s-1"}
    for sources, job in ((("headers", "trace"), "s-1"), (("trace",), TRACE), (("headers",), "s-1"), (("body",), None)):
        turn = World(identity=inferring(*sources)).chat("x", headers=headers).end()
        assert (turn.job if turn.place.named else None) == job, sources


# ---------------------------------------------------------------- agents that start others


def both(parent: dict[str, Any], child: dict[str, Any]) -> tuple[Any, Any, World]:
    """A parent's call, then one of the agent that it started; and one more of that agent, which names nobody."""
    world = World()
    one = world.ask({"messages": [system("You lead."), {"role": "user", "content": "a"}], **parent}, parent["headers"])
    one.end(answer(assistant("Go.")))
    two = world.ask({"messages": [system("You dig."), {"role": "user", "content": "b"}], **child}, child["headers"])
    two.end(answer(assistant("Done.")))
    return one, two, world


def in_headers(**headers: str) -> dict[str, Any]:
    return {"headers": {name.replace("_", "-"): value for name, value in headers.items()}}


def in_body(**body: Any) -> dict[str, Any]:
    return {"headers": {}, **body}


def agentic(**said: Any) -> dict[str, Any]:
    return in_body(vllm_xargs={"agentic_context": said})


def nvext(**said: Any) -> dict[str, Any]:
    return in_body(nvext={"agent_context": said})


@pytest.mark.parametrize(
    ("parent", "child"),
    [
        (in_headers(x_session_id="root"), in_headers(x_session_id="kid", x_parent_session_id="root")),
        (in_headers(x_opencode_session="root"), in_headers(x_opencode_session="kid", x_parent_session_id="root")),
        (in_headers(x_session_affinity="root"), in_headers(x_session_affinity="kid", x_parent_session_id="root")),
        (
            in_headers(x_dynamo_session_id="root"),
            in_headers(x_dynamo_session_id="kid", x_dynamo_parent_session_id="root"),
        ),
        (
            in_headers(x_claude_code_session_id="root"),
            in_headers(x_claude_code_session_id="root", x_claude_code_agent_id="a1"),
        ),
        (
            in_headers(x_claude_code_session_id="root", x_claude_code_agent_id="a1"),
            in_headers(
                x_claude_code_session_id="root", x_claude_code_agent_id="a2", x_claude_code_parent_agent_id="a1"
            ),
        ),
        (in_headers(session_id="root", thread_id="root"), in_headers(session_id="root", thread_id="t2")),
        (agentic(program_id="root"), agentic(program_id="kid", parent_program_id="root")),
        (
            agentic(program_id="lead", root_program_id="root"),
            agentic(program_id="kid", parent_program_id="lead", root_program_id="root"),
        ),
        (
            nvext(session_id="root", trajectory_id="t1"),
            nvext(session_id="root", trajectory_id="t2", parent_trajectory_id="t1"),
        ),
    ],
)
async def test_an_agent_that_another_started_is_a_stage_of_its_job(parent: Any, child: Any) -> None:
    one, two, world = both(parent, child)
    assert one.job == two.job == "root" and world.open == {"root"}
    assert two.parent == one.stage != two.stage
    child["headers"].pop("x-parent-session-id", None)
    child["headers"].pop("x-dynamo-parent-session-id", None)
    more = [system("You dig."), {"role": "user", "content": "b"}, assistant("Done."), {"role": "user", "content": "c"}]
    three = world.ask({"messages": more, **child}, child["headers"]).end()
    assert (three.job, three.parent, three.stage) == ("root", two.stage, two.stage), "it goes on from itself"


async def test_of_agents_of_agents_the_first_is_the_job() -> None:
    world = World()
    for kid, parent in (("a", None), ("b", "a"), ("c", "b"), ("d", "c")):
        headers = {"x-session-id": kid} | ({"x-parent-session-id": parent} if parent else {})
        assert world.chat(kid, headers=headers).end().job == "a"
    assert world.chat("x", headers={"x-session-id": "kid", "x-parent-session-id": "unseen"}).end().job == "unseen"


async def test_a_role_names_the_stage() -> None:
    _, turn = run(**agentic(program_id="p", agent_role="critic", step_id=3))
    assert turn.stage == "critic"
    assert run(**agentic(program_id="p", step_id="s-3"))[1].stage == "s-3"
    _, turn = run(**nvext(session_type_id="research", session_id="s", trajectory_id="t"))
    assert turn.place.app == "research"


async def test_a_session_that_says_it_is_over_is_a_job_that_ended() -> None:
    world = World()
    world.chat("a", headers={"x-dynamo-session-id": "s"}).end()
    kid = {"x-dynamo-session-id": "kid", "x-dynamo-parent-session-id": "s", "x-dynamo-session-final": "true"}
    world.chat("b", headers=kid).end()
    assert world.open == {"s"}, "only a part of it is over"
    world.chat("c", headers={"x-dynamo-session-id": "s", "x-dynamo-session-final": "true"}).end()
    assert not world.open and [event.reason for event in world.of(JobClosed)] == ["closed"]
    assert world.chat("d", headers={"x-dynamo-session-id": "s"}).end().job == "s", "it may come back"


async def test_parents_are_known_within_named_sessions_too() -> None:
    world = World()
    headers = {"x-session-id": "s"}
    one = world.chat(system("A"), "q", headers=headers).end(answer(assistant("a")))
    other = world.chat(system("B"), "title?", headers=headers).end()
    two = world.chat(system("A"), "q", assistant("a"), "q2", headers=headers).end()
    elsewhere = world.chat(system("A"), "q", assistant("a"), "q2", headers={"x-session-id": "t"}).end()
    assert (one.parent, other.parent, two.parent, elsewhere.parent) == (None, None, one.stage, None)


# ---------------------------------------------------------------- urgency, deadline, length


@pytest.mark.parametrize(
    ("body", "headers", "urgency"),
    [
        ({"priority": 0}, {}, 2),
        ({"priority": -1}, {}, 1),
        ({"priority": -10}, {}, 0),
        ({"priority": 5}, {}, 4),
        ({"priority": "1"}, {}, 3),
        ({"nvext": {"agent_hints": {"priority": 1}}}, {}, 1),
        ({"nvext": {"agent_hints": {"priority": 9}}}, {}, 0),
        ({"vllm_xargs": {"agentic_context": {"priority": 1}}}, {}, 1),
        ({"vllm_xargs": {"agentic_context": {"priority": -2.5}}}, {}, 4),
        ({}, {"x-dynamo-request-priority": "1"}, 1),
        ({}, {"x-request-priority": "1"}, 3),
        ({"priority": 3}, {"x-hocket-urgency": "1"}, 1),
        ({"priority": True}, {}, 2),
        ({"priority": "high"}, {}, 2),
        ({"priority": float("1e300")}, {}, 2),
        ({"priority": 10**300}, {}, 2),
        ({"priority": [1]}, {}, 2),
    ],
)
async def test_other_systems_priorities_are_turned_the_right_way(
    body: dict[str, Any], headers: dict[str, str], urgency: int
) -> None:
    assert run(headers, **body)[1].world.of(JobOpened)[0].urgency == urgency


async def test_no_claim_goes_further_than_the_tenant_may() -> None:
    world = World()
    world.tenant = TenantSettings(name="t", key_sha256="1" * 64, most_urgent=1)
    for priority, urgency in ((-5, 1), (5, 4)):
        world.chat("x", priority=priority, headers={"x-session-id": str(priority)}).end()
        assert world.of(JobOpened)[-1].urgency == urgency
    turn = world.chat("x", headers={"x-session-id": "5"}, nvext={"agent_hints": {"priority": 4}}).end()
    assert turn.arrived.urgency == 1, "of the call, in a job that is open"


async def test_deadline_and_length_are_read() -> None:
    _, turn = run(**agentic(program_id="p", deadline_seconds=12.5, expected_output_length=300))
    assert turn.world.of(JobOpened)[0].deadline_s == 12.5 and turn.arrived.hint_output_tokens == 300
    for odd in (-1, 0, "x", None, [], 1e300, True):
        _, turn = run(**agentic(program_id="p", deadline_seconds=odd, expected_output_length=odd))
        assert turn.world.of(JobOpened)[0].deadline_s is None and turn.arrived.hint_output_tokens is None, odd


async def test_retries_are_counted_as_the_client_counts_them() -> None:
    for text, retry in (("0", 0), ("2", 2), ("", 0), ("-1", 0), ("x", 0), ("9" * 30, 0), ("²", 0)):
        assert retry_of(CIMultiDict({"x-stainless-retry-count": text})) == retry


# ---------------------------------------------------------------- nothing of it fails a call

ODD = st.one_of(st.text(max_size=300), st.sampled_from([TRACEPARENT, "é", "a" * 201, "\x7f", " ", "\udcff", "a/b"]))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=6,
)
NAMES = [*SESSIONS, *PARENT_SESSIONS, *FINALS, *AGENTS, *PARENT_AGENTS, *PRIORITIES, "traceparent", "baggage"]
CONTEXT = st.dictionaries(
    st.sampled_from(
        [
            "program_id",
            "root_program_id",
            "parent_program_id",
            "session_id",
            "agent_id",
            "agent_role",
            "step_id",
            "priority",
            "osl",
            "deadline_seconds",
            "expected_output_length",
            "trajectory_id",
            "parent_trajectory_id",
            "session_type_id",
            "id",
        ]
    ),
    JSON,
)


@settings(max_examples=300, deadline=None)
@given(
    headers=st.dictionaries(st.sampled_from(NAMES), ODD),
    xargs=JSON | st.fixed_dictionaries({"agentic_context": JSON | CONTEXT}),
    nvext=JSON | st.fixed_dictionaries({"agent_context": JSON | CONTEXT, "agent_hints": JSON | CONTEXT}),
    more=st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("session_id", "litellm_session_id", "conversation", "priority"), JSON)
    ),
)
def test_whatever_others_say_is_a_usable_claim(
    headers: dict[str, str], xargs: Any, nvext: Any, more: dict[str, Any]
) -> None:
    request = Request(model="small", vllm_xargs=xargs, nvext=nvext, **more)
    claim = claim_of(CIMultiDict(headers), request, list(FOREIGN))
    names = (claim.app, claim.stage, claim.parent, claim.job, claim.session, claim.parent_session)
    # a part of a session is two ids and a slash
    assert all(name is None or is_name(name) or all(map(is_name, name.split("/", 1))) for name in names)
    assert claim.urgency is None or 0 <= claim.urgency <= 4
    assert not claim.explicit
