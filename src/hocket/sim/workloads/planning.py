"""Applications whose graph is unknown until a planner has answered."""

from __future__ import annotations

from hocket.sim.workloads.draft import SEARCH_SECONDS, Draft
from hocket.sim.workloads.draws import one, quantile, rank, tokens
from hocket.trace import Stage

DOMAINS = {"huggingface": 7546, "multimedia": 5584, "dailylifeapis": 4320}
"whose tools are offered. TaskBench (microsoft/JARVIS, taskbench), requests"
TOOLS = {"huggingface": 23, "multimedia": 40, "dailylifeapis": 40}
"tools on offer; same source, tool_desc.json"
TASK_PROMPT = {"huggingface": 1683, "multimedia": 1891, "dailylifeapis": 1464}
"instructions and the descriptions of the tools; counted in inference.py and tool_desc.json (cl100k_base)"
TASK_LIMIT = 2000
"`max_tokens` of the planner; inference.py"
TYPES = {
    "huggingface": {"single": 3059, "chain": 3108, "dag": 1379},
    "multimedia": {"single": 2037, "chain": 2420, "dag": 1127},
    "dailylifeapis": {"single": 1256, "chain": 2386, "dag": 678},
}
"shape of the plan, requests; same source"
REQUEST_TOKENS = {
    ("huggingface", "single"): (8, 14, 16, 21, 27, 36, 53, 90, 174, 309),
    ("huggingface", "chain"): (9, 27, 31, 40, 50, 63, 77, 86, 108, 200),
    ("huggingface", "dag"): (12, 28, 32, 38, 47, 58, 69, 78, 99, 168),
    ("multimedia", "single"): (6, 13, 15, 19, 25, 34, 51, 74, 141, 269),
    ("multimedia", "chain"): (13, 27, 31, 41, 51, 64, 78, 88, 117, 217),
    ("multimedia", "dag"): (14, 27, 31, 39, 47, 58, 71, 81, 115, 227),
    ("dailylifeapis", "single"): (5, 8, 9, 12, 15, 19, 24, 26, 33, 54),
    ("dailylifeapis", "chain"): (13, 26, 31, 41, 54, 68, 83, 93, 115, 165),
    ("dailylifeapis", "dag"): (19, 26, 29, 34, 40, 47, 55, 62, 76, 98),
}
"a request; same source, 17,450"
STEPS = {
    "single": {1: 1},
    "chain": {2: 216, 3: 414, 4: 393, 5: 258, 6: 101, 7: 59, 8: 18, 9: 5, 10: 2},
    "dag": {2: 69, 3: 250, 4: 118, 5: 35, 6: 10, 7: 4, 8: 1, 10: 2},
}
"""steps of a plan. Plans of CodeLlama-13b and Mistral-7b for TaskBench (WxxShirley/GNN4TaskPlan, prediction), 1,971 in
two domains; `single` is one by definition"""
REQUEST_STEPS = {"single": 0.0, "chain": 0.5, "dag": 0.29}
"rank correlation of a request's tokens with the steps of its plan; same source"
PLAN_TOKENS = (21.1, 42.05)
"tokens of a plan: so many, and so many a step; same source"
PLAN_RATIO = (0.666, 0.771, 0.795, 0.845, 0.938, 1.111, 1.277, 1.384, 1.669, 2.39)
"a plan over that; same source"
REQUEST_PLAN = 0.27
"rank correlation of PLAN_RATIO with the request's tokens; same source"
LEVELS: dict[int, dict[tuple[int, ...], int]] = {
    2: {(2,): 5},
    3: {(2, 1): 31, (1, 2): 14, (3,): 13},
    4: {(2, 1, 1): 16, (4,): 14, (1, 2, 1): 13, (1, 3): 9, (3, 1): 8, (1, 1, 2): 4, (2, 2): 1},
    5: {
        (1, 2, 1, 1): 6,
        (5,): 6,
        (1, 4): 5,
        (2, 1, 1, 1): 4,
        (3, 1, 1): 4,
        (4, 1): 3,
        (1, 1, 3): 2,
        (1, 3, 1): 1,
        (1, 1, 2, 1): 1,
        (1, 1, 1, 2): 1,
    },
    6: {
        (2, 2, 1, 1): 3,
        (2, 1, 1, 1, 1): 3,
        (1, 2, 1, 1, 1): 3,
        (1, 5): 3,
        (5, 1): 2,
        (1, 1, 1, 2, 1): 2,
        (6,): 2,
        (3, 1, 1, 1): 1,
        (1, 4, 1): 1,
        (1, 1, 4): 1,
    },
    7: {
        (7,): 2,
        (1, 1, 1, 1, 1, 2): 2,
        (1, 2, 1, 1, 1, 1): 2,
        (1, 5, 1): 1,
        (2, 1, 2, 1, 1): 1,
        (1, 1, 1, 3, 1): 1,
        (5, 1, 1): 1,
        (3, 1, 3): 1,
        (2, 1, 1, 1, 1, 1): 1,
        (3, 3, 1): 1,
        (1, 2, 1, 2, 1): 1,
        (1, 1, 1, 4): 1,
        (1, 1, 1, 1, 2, 1): 1,
    },
    8: {
        (1, 1, 1, 1, 1, 2, 1): 2,
        (1, 1, 1, 1, 1, 3): 1,
        (8,): 1,
        (1, 7): 1,
        (3, 1, 1, 1, 1, 1): 1,
        (1, 1, 1, 1, 3, 1): 1,
        (1, 1, 1, 1, 2, 1, 1): 1,
    },
    10: {(1, 6, 1, 1, 1): 1, (6, 3, 1): 1, (1, 9): 1},
}
"""steps at each depth of a plan that is no chain, by its steps. Gold graphs of WorFBench (zjunlp/WorFBench: lumos,
toolalpaca, wikihow), those with a width above 1"""
SELECT_PROMPT, SELECT_TOKENS = 360, 45
"""the call that selects a model for a step (HuggingGPT, Shen et al., NeurIPS 2023; microsoft/JARVIS, hugginggpt):
instructions and five candidates of 100 characters, counted; its answer, an id with a reason: no source"""
RESULT_TOKENS = 60
"no source: what a step leaves for the answer"
RESPOND_PROMPT = 128
"instructions of the answer; counted, as SELECT_PROMPT"
ANSWER_TOKENS = (7, 41, 54, 85, 129, 395, 424, 451, 601, 1000)
"an answer to a user. Azure LLM inference trace 2023, conversation (Azure/AzurePublicDataset), 19,366 requests"

KINDS = {"compare": 1, "recommend": 1, "calculate": 1}
"""no source: as many questions of each of LLMCompiler's three sets (SqueezeAILab/LLMCompiler, datasets: hotpotqa
comparison, movie recommendation, parallelqa)"""
COMPARE_SEARCHES, RECOMMEND_SEARCHES = 2, 8
"searches that such a question takes; the published examples of plans"
COMPILER_TOOLS = 2
"search and math"
COMPARE_TOKENS = (8, 11, 12, 13, 16, 18, 21, 24, 30, 40)
"a question that compares two things; same source, 1,487"
RECOMMEND_TOKENS = (32, 38, 40, 43, 46, 51, 55, 57, 63, 72)
"a question for one of four films that is like four others; same source, 500"
BRANCHES = {2: 21, 3: 31, 4: 31, 5: 30}
"things that a question of parallelqa is about (`branch`); same source, 113"
CALCULATE_TOKENS = {
    2: (25, 26, 27, 31, 34, 38, 44, 45, 57, 60),
    3: (23, 29, 32, 36, 41, 46, 51, 57, 60, 61),
    4: (25, 39, 40, 44, 49, 58, 62, 63, 69, 72),
    5: (28, 44, 45, 51, 60, 68, 72, 73, 82, 86),
}
"such a question, by branch; same source"
COMPILER_PROMPT = 1820
"instructions, tools (search, math) and the examples of the three sets; counted in src/llm_compiler and configs"
COMPARE_PLAN, RECOMMEND_PLAN = 18, 74
"tokens of a plan beyond the question's, whose names it repeats; the published examples of plans (2 and 1)"
CALCULATE_PLAN = (13.3, 16.8)
"least and most tokens a step of such a plan, whose last is a `join`; the published examples (5)"
COMBINED = {"each": 2, "each-only": 1, "pairs": 1, "all": 1}
"""how a plan calculates; the published examples (5). each: for each thing, then over all; each-only: without the
latter; pairs: for two things each, then over all; all: once"""
FOUND_TOKENS = (18, 46, 64, 83, 96, 163, 411, 638, 724, 724)
"what a search brings back: the first searches of ReAct on HotpotQA (noahshinn/reflexion), 133; the same search tool"
MATH_PROMPT, MATH_TOKENS = 730, 35
"the call that calculates: instructions and examples, counted; its answer, an expression, as in those examples"
MATH_EXAMPLES = 342
"what all prompts of that call begin with; counted"
SUM_TOKENS = 10
"no source: a result with its name"
JOIN_PROMPT = {"compare": 487, "recommend": 1439, "calculate": 3121}
"instructions and examples of the answer; counted"
JOIN_TOKENS = {"compare": 46, "recommend": 33, "calculate": 20}
"a thought with the answer; mean of the published examples (2, 1 and 4)"


def task_automation(draft: Draft) -> None:
    """Plan, select a model and run a tool for each step in the plan's order, answer (HuggingGPT on TaskBench)."""
    draws = draft.draws
    domain = draws.one(DOMAINS)
    shape = draws.one(TYPES[domain])
    asked = draws.score()
    request = tokens(REQUEST_TOKENS[domain, shape], asked)
    count = one(STEPS[shape], draws.linked(asked, REQUEST_STEPS[shape]))
    ratio = quantile(PLAN_RATIO, rank(draws.linked(asked, REQUEST_PLAN)))
    planned = round(ratio * (PLAN_TOKENS[0] + PLAN_TOKENS[1] * count))
    draft.tools, draft.limit = TOOLS[domain], TASK_LIMIT
    plan = draft.llm("plan", "large", [], TASK_PROMPT[domain] + request, planned)
    draft.limit = None
    ends = _steps(draft, plan, draws.one(LEVELS[count]) if shape == "dag" else (1,) * count, SELECT_PROMPT + request)
    prompt = RESPOND_PROMPT + request + planned + count * (SELECT_TOKENS + RESULT_TOKENS)
    draft.llm("respond", "medium", ends, prompt, draws.tokens(ANSWER_TOKENS))


def _steps(draft: Draft, plan: Stage, levels: tuple[int, ...], prompt: int) -> list[Stage]:
    """The steps of a plan, so many at each depth; returns those that nothing waits for.

    A step that is alone at its depth needs all of the depth before, another one of them: joins and forks.
    """
    before, ends = [plan], list[Stage]()
    number = 0
    for width in levels:
        level = []
        for place in range(width):
            needs = before if width == 1 else [before[place % len(before)]]
            select = draft.llm(
                f"select{number}", "small", needs, prompt, SELECT_TOKENS, name="select", revealed_by=plan
            )
            level.append(draft.tool(f"run{number}", [select], name="run", revealed_by=plan))
            number += 1
        ends += before[width:] if width > 1 else []
        before = level
    return ends + before


def llm_compiler(draft: Draft) -> None:
    """Plan searches and sums, run them side by side where it can be, answer (LLMCompiler, Kim et al., ICML 2024)."""
    draws = draft.draws
    kind = draws.one(KINDS)
    groups, over_all = list[range](), False
    if kind == "calculate":
        searched = draws.one(BRANCHES)
        question = draws.tokens(CALCULATE_TOKENS[searched])
        groups, over_all = _sums(searched, draws.one(COMBINED))
        planned = round((searched + len(groups) + over_all + 1) * draws.uniform(*CALCULATE_PLAN))
    elif kind == "recommend":
        searched, question = RECOMMEND_SEARCHES, draws.tokens(RECOMMEND_TOKENS)
        planned = question + RECOMMEND_PLAN
    else:
        searched, question = COMPARE_SEARCHES, draws.tokens(COMPARE_TOKENS)
        planned = question + COMPARE_PLAN
    draft.tools = COMPILER_TOOLS
    plan = draft.llm("plan", "large", [], COMPILER_PROMPT + question, planned, common=COMPILER_PROMPT)
    searches = [
        draft.tool(f"search{number}", [plan], SEARCH_SECONDS, name="search", revealed_by=plan)
        for number in range(searched)
    ]
    found = [draws.tokens(FOUND_TOKENS) for _ in searches]
    sums = [
        _math(draft, f"math{number}", plan, [searches[index] for index in group], sum(found[index] for index in group))
        for number, group in enumerate(groups)
    ]
    known = sum(found) + len(sums) * SUM_TOKENS
    ends = [_math(draft, "math", plan, sums, len(sums) * SUM_TOKENS)] if over_all else sums or searches
    draft.llm("join", "medium", ends, JOIN_PROMPT[kind] + question + planned + known, JOIN_TOKENS[kind])


def _sums(searched: int, how: str) -> tuple[list[range], bool]:
    """Which searches each sum reads, and whether one more is made over all sums."""
    size = {"each": 1, "each-only": 1, "pairs": 2, "all": searched}[how]
    groups = [range(start, min(start + size, searched)) for start in range(0, searched, size)]
    return groups, how in {"each", "pairs"} and len(groups) > 1


def _math(draft: Draft, id_: str, plan: Stage, needs: list[Stage], read: int) -> Stage:
    prompt = MATH_PROMPT + read
    return draft.llm(id_, "small", needs, prompt, MATH_TOKENS, name="math", revealed_by=plan, common=MATH_EXAMPLES)
