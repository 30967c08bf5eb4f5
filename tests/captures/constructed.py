"""Write constructed.jsonl: requests with the session headers and fields that clients and other gateways document.

    python tests/captures/constructed.py

Nothing here was recorded. These clients speak another API (Claude Code), need an engine or a gateway of their own
(vllm-router, Dynamo, LiteLLM), or stand for several that share a header. In each case two jobs of the same words take
turns; where the scheme knows sub-agents, each job starts one.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

Said = tuple[dict[str, str], dict[str, Any]]
"headers and fields of the body"

MAIN, SUB = "main", "sub"
SYSTEM = {MAIN: "You are the main agent.", SUB: "You are a sub-agent: search the project, and report."}
TURNS = 3


def header(*names: str) -> dict[str, Any]:
    """A scheme that says the session only."""
    return {"main": lambda run: (dict.fromkeys(names, f"ses-{run}"), {})}


SCHEMES: dict[str, dict[str, Any]] = {
    "x-session-id": header("x-session-id"),
    "session-id": header("session-id"),
    "x-session-affinity": header("x-session-affinity"),
    "opencode with x-opencode-session": header("x-opencode-session"),
    "x-dynamo-session-id": header("x-dynamo-session-id"),
    "litellm session": header("x-litellm-session-id"),
    "litellm trace": header("x-litellm-trace-id"),
    "envoy agent-session-id": header("agent-session-id"),
    "opencode sub-agent": {
        "main": lambda run: ({"x-session-affinity": f"ses-{run}", "x-session-id": f"ses-{run}"}, {}),
        "sub": lambda run: ({"x-session-id": f"sub-{run}", "x-parent-session-id": f"ses-{run}"}, {}),
    },
    "claude-code": {
        "main": lambda run: ({"x-claude-code-session-id": f"ses-{run}"}, {}),
        "sub": lambda run: ({"x-claude-code-session-id": f"ses-{run}", "x-claude-code-agent-id": f"agent-{run}"}, {}),
    },
    "codex": {"main": lambda run: ({"session-id": f"ses-{run}", "thread-id": f"ses-{run}"}, {})},
    "body session_id": {"main": lambda run: ({}, {"session_id": f"ses-{run}"})},
    "litellm_session_id": {"main": lambda run: ({}, {"litellm_session_id": f"ses-{run}"})},
    "vllm-router": {
        "main": lambda run: ({}, {"vllm_xargs": {"agentic_context": {"program_id": f"p-{run}"}}}),
        "sub": lambda run: (
            {},
            {"vllm_xargs": {"agentic_context": {"program_id": f"q-{run}", "parent_program_id": f"p-{run}"}}},
        ),
    },
    "dynamo": {
        "main": lambda run: (
            {},
            {"nvext": {"agent_context": {"session_id": f"ses-{run}", "trajectory_id": f"t-{run}"}}},
        ),
        "sub": lambda run: (
            {},
            {
                "nvext": {
                    "agent_context": {
                        "session_id": f"ses-{run}",
                        "trajectory_id": f"u-{run}",
                        "parent_trajectory_id": f"t-{run}",
                    }
                }
            },
        ),
    },
}


def conversation(case: str, run: int, agent: str, said: Said) -> Iterator[dict[str, Any]]:
    """One agent's turns: it calls a tool until it has its answer."""
    headers, fields = said
    tool = {"type": "function", "function": {"name": f"{agent}_search", "parameters": {}}}
    messages: list[Any] = [{"role": "system", "content": SYSTEM[agent]}, {"role": "user", "content": "Find the note."}]
    for turn in range(TURNS):
        call = {
            "id": f"call_{sha256(repr((case, run, agent, turn)).encode()).hexdigest()[:24]}",
            "type": "function",
            "function": {"name": f"{agent}_search", "arguments": "{}"},
        }
        last = turn == TURNS - 1
        answer = {"role": "assistant", "content": "Here." if last else None} | ({} if last else {"tool_calls": [call]})
        line = {
            "client": "constructed",
            "case": case,
            "headers": {"content-type": "application/json", **headers},
            "path": "/v1/chat/completions",
            "body": {"model": "small", "messages": list(messages), "tools": [tool], **fields},
            "answer": {"object": "chat.completion", "choices": [{"index": 0, "message": answer}]},
            "expect": {
                "job": f"job-{run}",
                "stage": agent,
                "parent": agent if turn else (MAIN if agent == SUB else None),
                "retry": False,
            },
        }
        if agent == SUB:
            line["inferred"] = {"job": f"job-{run}, sub-agent"} | ({} if turn else {"parent": None})
        yield line
        messages += [answer, {"role": "tool", "tool_call_id": call["id"], "content": "Nothing yet."}]


def main() -> None:
    """Write the file."""
    lines = []
    for case, scheme in SCHEMES.items():
        streams = [conversation(case, run, agent, said(run)) for agent, said in scheme.items() for run in (0, 1)]
        turns = {"job-0": 0, "job-1": 0}
        for line in itertools.chain.from_iterable(zip(*streams, strict=True)):
            turns[line["expect"]["job"]] += 1
            lines.append({"turn": turns[line["expect"]["job"]], **line})
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    (Path(__file__).parent / "constructed.jsonl").write_text(text)
    print(f"{len(lines)} requests, {len(text) / 1000:.0f} kB")


if __name__ == "__main__":
    main()
