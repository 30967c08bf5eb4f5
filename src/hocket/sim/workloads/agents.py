"""Coding agents: few requests are long, and those are most of the work. TraceLab (uw-syfi/TraceLab).

Of the quantiles in its tables, the median, the 90 % and the 99 % are published; those between are from its 19 example
rounds of two sessions.
"""

from __future__ import annotations

from hocket.sim.workloads.draft import Draft
from hocket.trace import Stage

SYSTEM_TOKENS = {6912: 1, 27217: 1}
"the part of a session's first prompt that was cached: system prompt and tools; the two example sessions"
FIRST_TOKENS = (1200, 1300, 1500, 2000, 3500, 4500, 5500, 6000, 7500, 9000)
"the rest of it; no source but those sessions (2412 and 5055)"
STEPS = (1, 1, 1, 1, 2, 7, 21, 41, 87, 200)
"calls of a request; session_internal_counts.tex: 1 + the steps that tools initiated (0, 1, 20, 86; mean 7.8)"
OUTPUT_TOKENS = (49, 59, 85, 130, 214, 700, 1700, 2200, 3500, 6000)
"an answer with its reasoning; paper_macros.tex and token_length_distribution"
RESULT_TOKENS = (12, 35, 40, 66, 146, 820, 1800, 2100, 2500, 8000)
"what a tool's result adds to the prompt; growth of the prompt in the example rounds"
STEP_SECONDS = (0.01, 0.02, 0.03, 0.06, 0.1, 1.0, 10.0, 30.0, 192.0, 600.0)
"the tools of a step; session_timing_distribution.tex"
CONTEXT_TOKENS = 200_000
"no source: the longest prompt; a request ends there"


def agent(draft: Draft) -> None:
    """A coding agent: call, tools, call again; prompts of 8,000 to 200,000 tokens (TraceLab)."""
    draws = draft.draws
    system = draws.one(SYSTEM_TOKENS)
    prompt = system + draws.tokens(FIRST_TOKENS)
    before: Stage | None = None
    for number in range(draws.tokens(STEPS)):
        needs = (
            [draft.tool(f"tools{number}", [before], STEP_SECONDS, name="tools", revealed_by=before)] if before else []
        )
        output = draws.tokens(OUTPUT_TOKENS)
        before = draft.llm(
            *(f"step{number}", "large", needs, prompt, output),
            name="step",
            revealed_by=before,
            common=system,
            shares=(before, before.prompt_tokens + before.output_tokens) if before else None,
        )
        prompt += output + draws.tokens(RESULT_TOKENS)
        if prompt > CONTEXT_TOKENS:
            break
