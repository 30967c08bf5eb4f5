"""Applications that go step by step, for as long as it takes."""

from __future__ import annotations

from hocket.sim.workloads.draft import SEARCH_SECONDS, Draft
from hocket.sim.workloads.draws import one, tokens
from hocket.trace import Stage

PROBLEM_TOKENS = (24, 28, 29, 34, 40, 48, 59, 68, 80, 110)
"a programming problem. Reflexion on MBPP (noahshinn/reflexion, programming_runs), 397 problems"
REPAIRS = {0: 248, 1: 38, 2: 1, 3: 2, 4: 108}
"repairs after the first attempt, problems with as many; same source. Most need none, many hit the cap of 4"
SOLVED = {0: 0.891, 1: 0.553, 2: 0.0, 3: 0.0, 4: 0.593}
"share of them that is solved in the end; same source"
PROGRAM_TOKENS = {
    0: (31, 39, 45, 59, 73, 95, 124, 148, 221, 255),
    1: (38, 46, 53, 68, 87, 112, 137, 150, 225, 251),
    4: (44, 56, 68, 84, 112, 142, 191, 239, 295, 303),
}
"the program, by the repairs that it took (1 stands for 1 to 3); same source, 248, 41 and 108 problems"
REFLECTION_TOKENS = (29, 42, 44, 49, 57, 66, 74, 79, 87, 113)
"what the model says of a failed test; same source, 478 reflections"
PROBLEM_REPAIRS, PROBLEM_PROGRAM, PROGRAM_REFLECTION = 0.07, 0.57, 0.14
"rank correlations; same source. The second is that among problems with equally many repairs"
REFLECTION_REFLECTION = 0.24
"rank correlation of two reflections of a job; same source"
WRITE_PROMPT, REFLECT_PROMPT, REPAIR_PROMPT = 63, 1081, 298
"instructions with examples; counted in generators/py_generate.py (cl100k_base)"
FEEDBACK_TOKENS = 60
"no source: the report of the failed tests"
PROGRAM_LIMIT = 1024
"`max_tokens` of every call; generators/model.py"

QUESTION_TOKENS = (12, 13, 15, 18, 21, 25, 32, 37, 40, 40)
"a question. ReAct on HotpotQA (ysymyth/ReAct, noahshinn/reflexion), 133 trajectories of 60 questions"
SEARCH_STEPS = {2: 11, 3: 80, 4: 29, 5: 9, 6: 4}
"steps of a question; same source"
FIRST_THOUGHT = (29, 33, 34, 38, 42, 45, 51, 53, 64, 67)
"a thought with its action; same source"
LATER_THOUGHT = (21, 26, 29, 34, 39, 47, 55, 66, 94, 94)
"as FIRST_THOUGHT, of the steps between"
LAST_THOUGHT = (24, 26, 28, 31, 38, 49, 59, 65, 85, 203)
"as FIRST_THOUGHT, with the answer"
QUESTION_FIRST, QUESTION_LATER = 0.66, 0.3
"rank correlations of the question with the first and with a later thought; same source"
FIRST_STEPS = 0.12
"of the first thought with the steps: between 0.19, as measured, and what 0.08 for the question with the steps allows"
EARLIER_OBSERVATION = (8, 21, 48, 74, 89, 135, 264, 554, 724, 724)
"what a search brings back that is not the last; same source, 181"
LAST_OBSERVATION = (23, 48, 75, 139, 233, 384, 546, 744, 1050, 1097)
"""what the last search brings back; same source, 133. Little found, another search: whether an observation is the last
goes with its length (rho 0.46)"""
FEW_SHOT_TOKENS = 1476
"six examples ahead of every question; same source"


def code_generation(draft: Draft) -> None:
    """Write a program, test it; while the test fails, reflect and repair (Reflexion, Shinn et al., NeurIPS 2023)."""
    draws = draft.draws
    asked = draws.score()
    problem = tokens(PROBLEM_TOKENS, asked)
    repairs = one(REPAIRS, draws.linked(asked, PROBLEM_REPAIRS))
    written = draws.linked(asked, PROBLEM_PROGRAM)
    program = tokens(PROGRAM_TOKENS[repairs if repairs in PROGRAM_TOKENS else 1], written)
    manner = draws.linked(written, PROGRAM_REFLECTION / REFLECTION_REFLECTION**0.5)
    solved = draws.random() < SOLVED[repairs]
    draft.limit = PROGRAM_LIMIT
    last = draft.llm("write", "large", [], WRITE_PROMPT + problem, program, common=WRITE_PROMPT)
    for turn in range(repairs + 1):
        test = draft.tool(f"test{turn}", [last], name="test")
        stopped = turn == repairs and (solved or repairs < max(REPAIRS))
        test.outcome = "passed" if stopped else "failed"
        if turn < repairs:
            reflection = tokens(REFLECTION_TOKENS, draws.linked(manner, REFLECTION_REFLECTION**0.5))
            last = repaired(draft, turn, test, problem, program, reflection)


def repaired(draft: Draft, turn: int, test: Stage, problem: int, program: int, reflection: int) -> Stage:
    """Say what went wrong, then write the program again; as long as it was."""
    shown = program + FEEDBACK_TOKENS
    reflect = draft.llm(
        *(f"reflect{turn}", "medium", [test], REFLECT_PROMPT + shown, reflection),
        name="reflect",
        revealed_by=test,
        common=REFLECT_PROMPT,
    )
    return draft.llm(
        *(f"repair{turn}", "large", [reflect], REPAIR_PROMPT + shown + reflection + problem, program),
        name="repair",
        revealed_by=test,
        common=REPAIR_PROMPT,
    )


def web_search(draft: Draft) -> None:
    """Think, search, read, think again (ReAct, Yao et al., ICLR 2023): each prompt holds all that was said before."""
    draws = draft.draws
    asked = draws.score()
    thought = draws.linked(asked, QUESTION_FIRST)
    steps = one(SEARCH_STEPS, draws.linked(thought, FIRST_STEPS))
    prompt = FEW_SHOT_TOKENS + tokens(QUESTION_TOKENS, asked)
    before = None
    for number in range(steps):
        table = LAST_THOUGHT if number == steps - 1 else LATER_THOUGHT if number else FIRST_THOUGHT
        think = draft.llm(
            *(f"think{number}", "small", draft.stages[-1:], prompt, tokens(table, thought)),
            name="think",
            revealed_by=before,
            common=FEW_SHOT_TOKENS,
            shares=(before, before.prompt_tokens + before.output_tokens) if before else None,
        )
        if number < steps - 1:
            draft.tool(f"search{number}", [think], SEARCH_SECONDS, name="search", revealed_by=think)
            prompt += think.output_tokens + draws.tokens(
                LAST_OBSERVATION if number == steps - 2 else EARLIER_OBSERVATION
            )
            thought = draws.linked(asked, QUESTION_LATER)
            before = think
