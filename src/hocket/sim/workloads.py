"""Generated jobs of a few applications, in the shape of real ones.

Sizes and structure are drawn from quantiles and probabilities that were learned from published runs; each constant
names its source. What no source tells (the tokens of a fixed instruction, which model a stage asks for) is a round
number and says so. Two models are asked for, `small` and `large`; one engine may serve both.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TypeVar

from hocket.trace import CommonPrefix, Job, Prefix, Stage

T = TypeVar("T")

PROBABILITIES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
"at which the tables below give quantiles"

PROBLEM_TOKENS = (24, 29, 34, 40, 48, 59, 80, 110)
"a programming problem. Reflexion on MBPP (noahshinn/reflexion, programming_runs), 397 problems"
SOLUTION_TOKENS = (31, 49, 65, 84, 112, 148, 257, 303)
"its program; same source"
REFLECTION_TOKENS = (29, 44, 49, 57, 66, 74, 87, 113)
"what the model says of a failed test; same source, 478 reflections"
REPAIR_ROUNDS = {0: 0.6247, 1: 0.0957, 2: 0.0025, 3: 0.005, 4: 0.2721}
"repairs after the first attempt; same source. Bimodal: most need none, many hit the cap of 4 unsolved"
UNSOLVED_AT_CAP = 0.84
"share of the jobs with 4 repairs that end unsolved: 1 - 0.771 solved in all, over 0.2721"

CONVERSATION_TOKENS = (2, 207, 396, 1020, 1189, 2734, 4142, 14050)
"a prompt. Azure LLM inference trace 2023, conversation (Azure/AzurePublicDataset), 19,366 requests"
ANSWER_TOKENS = (7, 54, 85, 129, 395, 424, 601, 1000)
"its answer; same source"

PLAN_PROMPT_TOKENS = (286, 326, 344, 366, 404, 460, 642, 1169)
"a request to plan. WorFBench wikihow (zjunlp/WorFBench, gold_traj), 255 graphs"
PLAN_TOKENS = (33, 59, 73, 98, 144, 207, 483, 863)
"the plan; same source"
PLAN_STEPS = {2: 3, 3: 52, 4: 65, 5: 41, 6: 30, 7: 30, 8: 11, 9: 8, 10: 5, 11: 4, 12: 3, 13: 2, 14: 1}
"steps of a plan, graphs with as many; same source"
PLAN_SHAPES = {"chain": 0.4549, "parallel": 0.1451, "levels": 0.4}
"width 1; no edge; the rest; same source"

SEARCH_STEPS = {2: 11, 3: 80, 4: 29, 5: 9, 6: 4}
"steps of a question. ReAct on HotpotQA (ysymyth/ReAct), 133 trajectories"
THOUGHT_TOKENS = (20, 28, 33, 40, 48, 56, 96, 203)
"a thought with its action; same source, 447 steps"
OBSERVATION_TOKENS = (8, 10, 11, 85, 183, 387, 806, 1097)
"what a search brings back; same source"
FEW_SHOT_TOKENS = 1476
"six examples ahead of every question; same source"

TOOL_SECONDS = (0.008, 0.02, 0.025, 0.03, 0.13, 2.5, 19.0, 22.0)
"a tool run: median 0.03 s, 1 in 100 above 19 s. TraceLab (uw-syfi/TraceLab), its quantiles and example rounds"
TENANT_SHARES = {"tenant-0": 0.523, "tenant-1": 0.14, "tenant-2": 0.123, "tenant-3": 0.214}
"the first client's share of all requests, nine more, the rest. ServeGen m-mid (alibaba/ServeGen): 52.3 %, 78.6 %"
URGENCIES = {0: 0.02, 1: 0.08, 2: 0.7, 3: 0.1, 4: 0.1}
"no source: most work is ordinary"

INSTRUCTION_TOKENS = 120
"no source: a system prompt"
CHUNK_TOKENS = 400
"no source: how much of a document one map call reads"
MERGED_AT_ONCE = 8
"no source: summaries that one reduce call reads"


def generate(name: str, count: int, rate: float, seed: int) -> Iterator[Job]:
    """`count` jobs of an application, or MIXED, arriving as a Poisson process of `rate` jobs a second.

    Same seed, same jobs.
    """
    rng = random.Random(seed)
    at = 0.0
    for number in range(count):
        at += rng.expovariate(rate)
        app, tenant, urgency = name, "default", 2
        if name == MIXED:
            app = rng.choice(list(APPLICATIONS))
            tenant, urgency = _one(rng, TENANT_SHARES), _one(rng, URGENCIES)
        stages = APPLICATIONS[app](rng)
        yield Job(job=f"j{number}", app=app, tenant=tenant, urgency=urgency, arrival_s=round(at, 6), stages=stages)


def code_generation(rng: random.Random) -> list[Stage]:
    """Write a program, test it; while the test fails, reflect and repair (Reflexion)."""
    problem = INSTRUCTION_TOKENS + _tokens(rng, PROBLEM_TOKENS)
    solution = _tokens(rng, SOLUTION_TOKENS)
    rounds = _one(rng, REPAIR_ROUNDS)
    solved = rounds < max(REPAIR_ROUNDS) or rng.random() > UNSOLVED_AT_CAP
    stages = [_llm("write", "write", "large", [], problem, solution)]
    for turn in range(rounds + 1):
        passed = turn == rounds and solved
        test = _tool(rng, f"test{turn}", "test", [stages[-1].id])
        test.outcome = "passed" if passed else "failed"
        stages.append(test)
        if turn == rounds:
            break
        shown = problem + solution
        reflection = _tokens(rng, REFLECTION_TOKENS)
        reflect = _llm(f"reflect{turn}", "reflect", "small", [test.id], shown, reflection, test.id)
        solution = _tokens(rng, SOLUTION_TOKENS)
        repair = _llm(f"repair{turn}", "repair", "large", [reflect.id], shown + reflection, solution, test.id)
        repair.shares_prefix = Prefix("write", problem)
        stages += [reflect, repair]
    return stages


def map_reduce(rng: random.Random) -> list[Stage]:
    """Summarise the parts of a document side by side, then merge the summaries, a few at a time."""
    document = _tokens(rng, CONVERSATION_TOKENS)
    parts = [min(CHUNK_TOKENS, document - start) for start in range(0, document, CHUNK_TOKENS)]
    level = []
    for number, part in enumerate(parts):
        summary = max(1, min(part, _tokens(rng, ANSWER_TOKENS)) // 2)
        stage = _llm(f"map{number}", "map", "small", [], INSTRUCTION_TOKENS + part, summary)
        if number:
            stage.shares_prefix = Prefix("map0", INSTRUCTION_TOKENS)
        level.append(stage)
    stages = list(level)
    while len(level) > MERGED_AT_ONCE:
        groups = [level[start : start + MERGED_AT_ONCE] for start in range(0, len(level), MERGED_AT_ONCE)]
        level = [_merge(rng, f"merge{len(stages) + i}", "merge", "small", group) for i, group in enumerate(groups)]
        stages += level
    return [*stages, _merge(rng, "reduce", "reduce", "large", level)]


def planner(rng: random.Random) -> list[Stage]:
    """Plan, run the plan's steps (calls and tools, with the plan's own order), answer."""
    plan = _llm("plan", "plan", "large", [], _tokens(rng, PLAN_PROMPT_TOKENS), _tokens(rng, PLAN_TOKENS))
    count = _one(rng, PLAN_STEPS)
    shape = _one(rng, PLAN_SHAPES)
    steps: list[Stage] = []
    for number in range(count):
        if not steps or shape == "parallel":
            needs = ["plan"]
        elif shape == "chain":
            needs = [steps[-1].id]
        else:
            needs = rng.sample([step.id for step in steps[-3:]], min(len(steps), rng.choice((1, 1, 2))))
            needs = ["plan"] if rng.random() < 0.3 else needs
        if rng.random() < 0.5:
            step = _tool(rng, f"step{number}", "act", needs, "plan")
        else:
            prompt = INSTRUCTION_TOKENS + plan.output_tokens + 40 * len(needs)
            step = _llm(f"step{number}", "work", "small", needs, prompt, _tokens(rng, ANSWER_TOKENS), "plan")
        steps.append(step)
    needed = {need for step in steps for need in step.needs}
    ends = [step for step in steps if step.id not in needed]
    read = plan.prompt_tokens + plan.output_tokens
    prompt = read + sum(step.output_tokens or 40 for step in steps)
    answer = _llm("answer", "answer", "large", [step.id for step in ends], prompt, _tokens(rng, ANSWER_TOKENS))
    answer.shares_prefix = Prefix("plan", read)
    return [plan, *steps, answer]


def web_search(rng: random.Random) -> list[Stage]:
    """Think, search, read, think again (ReAct): each prompt holds all that was said before."""
    prompt = FEW_SHOT_TOKENS + _tokens(rng, PROBLEM_TOKENS)
    stages: list[Stage] = []
    steps = _one(rng, SEARCH_STEPS)
    for number in range(steps):
        thought = _tokens(rng, THOUGHT_TOKENS)
        before = stages[-2] if stages else None
        needs = [stages[-1].id] if stages else []
        think = _llm(f"think{number}", "think", "small", needs, prompt, thought, before.id if before else None)
        think.common_prefix = CommonPrefix("web-search examples", FEW_SHOT_TOKENS)
        if before is not None:
            think.shares_prefix = Prefix(before.id, before.prompt_tokens + before.output_tokens)
        stages.append(think)
        if number < steps - 1:
            stages.append(_tool(rng, f"search{number}", "search", [think.id], think.id))
            prompt += thought + _tokens(rng, OBSERVATION_TOKENS)
    return stages


APPLICATIONS: dict[str, Callable[[random.Random], list[Stage]]] = {
    "code-generation": code_generation,
    "map-reduce": map_reduce,
    "planner": planner,
    "web-search": web_search,
}
"name -> the stages of a job"

MIXED = "mixed"
"all of them, four tenants of very different size, five classes of urgency"


def _llm(
    id_: str, name: str, model: str, needs: list[str], prompt: int, output: int, revealed_by: str | None = None
) -> Stage:
    return Stage(
        id=id_,
        name=name,
        kind="llm",
        model=model,
        needs=needs,
        prompt_tokens=prompt,
        output_tokens=output,
        revealed_by=revealed_by,
    )


def _tool(rng: random.Random, id_: str, name: str, needs: list[str], revealed_by: str | None = None) -> Stage:
    seconds = round(_quantile(TOOL_SECONDS, rng.random()), 6)
    return Stage(id=id_, name=name, kind="tool", needs=needs, duration_s=seconds, revealed_by=revealed_by)


def _merge(rng: random.Random, id_: str, name: str, model: str, parts: Sequence[Stage]) -> Stage:
    prompt = INSTRUCTION_TOKENS + sum(part.output_tokens for part in parts)
    return _llm(id_, name, model, [part.id for part in parts], prompt, _tokens(rng, ANSWER_TOKENS))


def _tokens(rng: random.Random, table: Sequence[float]) -> int:
    return round(_quantile(table, rng.random()))


def _quantile(table: Sequence[float], probability: float) -> float:
    """Geometric between the quantiles that `table` gives: the tails are long."""
    for (low, high), (start, end) in zip(pairwise(PROBABILITIES), pairwise(table), strict=True):
        if probability <= high:
            return float(start * (end / start) ** ((probability - low) / (high - low)))
    return table[-1]


def _one(rng: random.Random, weights: Mapping[T, float]) -> T:
    return rng.choices(list(weights), list(weights.values()))[0]
