"""What is said to other systems, and names a job all the same: W3C trace context, session headers, body fields.

Each source is one function that answers a `Claim`. None of them ever fails a call: what is malformed is ignored, and an
id that hocket cannot use is hashed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from multidict import MultiMapping

from hocket.gateway.identity.claim import NOTHING, Claim, merge, seconds_of, tamed, tokens_of, urgency_of
from hocket.gateway.openai import Request

# ---------------------------------------------------------------- W3C trace context and baggage

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")
_MAX_BAGGAGE = 8192
"bytes, from W3C baggage; what is longer is not read"


def trace(headers: MultiMapping[str], request: Request) -> Claim:
    """`traceparent`: the trace is the job, the parent span what caused this. `baggage` may say more.

    W3C Trace Context, level 1; W3C Baggage; the names in it are OpenTelemetry's, or hocket's own.
    """
    given = headers.get("traceparent")
    said = _baggage(headers) if "baggage" in headers else {}
    found = _TRACEPARENT.fullmatch(given.strip()) if given is not None else None
    span = None
    if found is not None:
        version, trace_id, span, more = found.groups()
        if version == "ff" or (version == "00" and more) or not trace_id.strip("0") or not span.strip("0"):
            found = span = None
    if found is None and not said:
        return NOTHING
    job = said.get("hocket.job") or (found.group(2) if found is not None else None)
    return Claim(
        app=said.get("hocket.app") or said.get("gen_ai.workflow.name"),
        stage=said.get("hocket.stage") or said.get("gen_ai.agent.name"),
        parent=said.get("hocket.parent"),
        span=span,
        urgency=_urgency(said.get("hocket.urgency")),
        deadline_s=_milliseconds(said.get("hocket.deadline-ms")),
        job=job,
        session=None if job else said.get("session.id") or said.get("gen_ai.conversation.id"),
    )


_BAGGAGE = frozenset(
    {"session.id", "gen_ai.conversation.id", "gen_ai.workflow.name", "gen_ai.agent.name"}
    | {f"hocket.{key}" for key in ("app", "job", "stage", "parent", "urgency", "deadline-ms")}
)


def _baggage(headers: MultiMapping[str]) -> dict[str, str]:
    """The members that hocket reads, decoded."""
    said: dict[str, str] = {}
    for member in ",".join(headers.getall("baggage"))[:_MAX_BAGGAGE].split(","):
        key, equals, value = member.partition(";")[0].partition("=")
        name = key.strip()
        if equals and name in _BAGGAGE and (text := tamed(unquote(value.strip()))) is not None:
            said.setdefault(name, text)
    return said


def _urgency(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch("[0-4]", text) else None


def _milliseconds(text: str | None) -> float | None:
    number = seconds_of(text)
    return None if number is None else number / 1000


# ---------------------------------------------------------------- headers of clients and gateways

SESSIONS = (
    "x-session-id",
    "session-id",
    "session_id",
    "x-session-affinity",
    "x-claude-code-session-id",
    "x-opencode-session",
    "x-dynamo-session-id",
    "x-litellm-session-id",
    "x-litellm-trace-id",
    "agent-session-id",
    "x-conversation-id",
    "x-grok-conv-id",
)
"one conversation of one agent, or one run"
PARENT_SESSIONS = ("x-parent-session-id", "x-dynamo-parent-session-id")
FINALS = ("x-dynamo-session-final", "x-dynamo-trajectory-final")
AGENTS = ("x-claude-code-agent-id", "x-dynamo-trajectory-id", "thread-id")
"one agent inside a session"
PARENT_AGENTS = ("x-claude-code-parent-agent-id", "x-dynamo-parent-trajectory-id")
PRIORITIES = {"x-dynamo-request-priority": True, "x-request-priority": False}
"and whether the higher number goes first"

READ = frozenset((*SESSIONS, *PARENT_SESSIONS, *FINALS, *AGENTS, *PARENT_AGENTS, *PRIORITIES))


def client_headers(headers: MultiMapping[str], request: Request) -> Claim:
    """Headers that agents, their libraries and other gateways send without being asked."""
    said = {name: value for given, value in headers.items() if (name := given.lower()) in READ}
    if not said:
        return NOTHING
    session, parent = _first(said, SESSIONS), _first(said, PARENT_SESSIONS)
    agent, parent_agent = _first(said, AGENTS), _first(said, PARENT_AGENTS)
    job = None
    if session is None:
        session, parent = agent, parent or parent_agent
    elif agent is not None and agent != session:
        # one session holds several agents: each is a conversation of its own, all are one job
        job, parent = session, parent or (f"{session}/{parent_agent}" if parent_agent else session)
        session = f"{session}/{agent}"
    urgency = None
    for name, higher_first in PRIORITIES.items():
        if urgency is None and name in said:
            urgency = urgency_of(said[name], higher_first=higher_first)
    return Claim(
        urgency=urgency,
        job=job,
        session=session,
        parent_session=parent if parent != session else None,
        final=any(said.get(name, "").strip().lower() in {"true", "1"} for name in FINALS),
    )


def _first(said: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    for name in names:
        if (value := tamed(said.get(name))) is not None:
            return value
    return None


# ---------------------------------------------------------------- body fields


def body_fields(headers: MultiMapping[str], request: Request) -> Claim:
    """Fields that pass where headers are dropped: vLLM's and Dynamo's extensions, and OpenAI's own."""
    claim = NOTHING
    for said in _said(request):
        claim = merge(claim, said)
    return claim


def _said(request: Request) -> Iterator[Claim]:
    if isinstance(request.vllm_xargs, dict):
        yield _agentic_context(request.vllm_xargs.get("agentic_context"))
    if isinstance(request.nvext, dict):
        yield _agent_context(request.nvext.get("agent_context"))
        yield _agent_hints(request.nvext.get("agent_hints"))
    if request.session_id is not None:
        yield _session(request.session_id)
    if request.metadata:
        yield _session(request.metadata.get("session_id"))
    if request.litellm_session_id is not None:
        yield _session(request.litellm_session_id)
    if request.conversation is not None:
        held = request.conversation
        yield _session(held.get("id") if isinstance(held, dict) else held)
    if request.priority is not None:
        # vLLM's and LiteLLM's own
        yield Claim(urgency=urgency_of(request.priority, higher_first=False))


def _session(value: object) -> Claim:
    session = tamed(value)
    return NOTHING if session is None else Claim(session=session)


def _agentic_context(said: Any) -> Claim:
    """vllm-router's `vllm_xargs.agentic_context`: programs that may start others."""
    if not isinstance(said, dict):
        return NOTHING
    root, program = tamed(said.get("root_program_id")), tamed(said.get("program_id"))
    parent, session, agent = (tamed(said.get(key)) for key in ("parent_program_id", "session_id", "agent_id"))
    program = program or session
    if agent is not None and program is not None and agent != program:
        root, program = root or program, f"{program}/{agent}"
    return Claim(
        stage=tamed(said.get("agent_role")) or tamed(said.get("step_id")),
        urgency=urgency_of(said.get("priority"), higher_first=True),
        deadline_s=seconds_of(said.get("deadline_seconds")),
        hint_output_tokens=tokens_of(said.get("expected_output_length")),
        job=root,
        session=program,
        parent_session=parent if parent != program else None,
    )


def _agent_context(said: Any) -> Claim:
    """Dynamo's `nvext.agent_context`: trajectories of one session, of a class of sessions."""
    if not isinstance(said, dict):
        return NOTHING
    session, trajectory = tamed(said.get("session_id")), tamed(said.get("trajectory_id"))
    parent = tamed(said.get("parent_trajectory_id")) or tamed(said.get("parent_session_id"))
    return Claim(
        app=tamed(said.get("session_type_id")),
        job=session if trajectory is not None else None,
        session=trajectory or session,
        parent_session=parent,
        final=said.get("trajectory_final") is True or said.get("session_final") is True,
    )


def _agent_hints(said: Any) -> Claim:
    """Dynamo's `nvext.agent_hints`; negative priorities are 0 there."""
    if not isinstance(said, dict):
        return NOTHING
    return Claim(
        urgency=urgency_of(said.get("priority"), higher_first=True),
        hint_output_tokens=tokens_of(said.get("osl")),
    )
