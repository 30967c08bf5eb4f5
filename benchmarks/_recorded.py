"""Whole recorded jobs, as traces: nothing is redrawn. `recorded_jobs()` reads them from `../shared/data`.

`react` (133 jobs)
    Recorded: the steps; tokens of the question, of each thought with its action, of each observation, so of each
    prompt. Filled in: seconds of a search.
`reflexion` (654)
    Recorded: the repairs; tokens of the problem, of each reflection, of the last program. Filled in: an earlier program
    is as long as the last; tokens of a test's report and of the instructions; seconds of a test.
`tot-game24` (100)
    Tree of Thoughts. Recorded: candidates and kept states of each of four levels; all prompt and all answer tokens of
    the job. Filled in: how they are shared out. A proposal weighs as PROPOSAL_WEIGHT valuations, all prompts are alike,
    the three valuations of a candidate are one call.
`tot-text` (100)
    Recorded: the same, of two levels. Filled in: SHARES of plans, votes, passages and votes. The prompt that several
    answers have in common was counted once, and is that of each of their calls.
`worf-alfworld`, `worf-lumos`, `worf-toolalpaca`, `worf-webshop`, `worf-wikihow` (1,282)
    WorFBench. Recorded: the gold graph; prompt and answer tokens of its planner. Filled in: a node is an agent's answer
    and its action, of sizes from the quantiles of `react`, its prompt the planner's, the plan and what the node needs;
    seconds of the action.

What is filled in stands in hocket.sim.workloads with its source, and is drawn from a generator that is seeded with the
job's name: the same at any time. No job has a recorded arrival: `arriving` gives it one. Two jobs about the same
question or problem are always on the same side of `halves`.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from hocket.sim.workloads import MODELS, chain
from hocket.sim.workloads.draft import SEARCH_SECONDS, Draft
from hocket.sim.workloads.draws import Draws
from hocket.trace import Job, Stage

DATA = Path(__file__).parents[2] / "shared" / "data"
PROPOSAL_WEIGHT = 4
"tokens of a proposal of next steps, which lists several, over those of a valuation, which is a word with its reasons"
SHARES = ((0.1, 0.2, 0.5, 0.2), (0.07, 0.25, 0.08, 0.6))
"of tot-text: how much of the answers, and of the prompts, are plans, votes on them, passages, votes on those"
VOTES = 5
"votes of tot-text at each level; its published run"
GROUP = "recorded"
"name in `Job.extra` of what the job is about: jobs of one group are never divided"


def recorded_jobs(models: str = "three") -> dict[str, list[Job]]:
    """Each application's recorded jobs, all arriving at 0; `models` as for `hocket workload`.

    Raises FileNotFoundError where the folder is absent.
    """
    found: dict[str, list[Job]] = defaultdict(list)
    served = MODELS[models]
    for job in (*_react(), *_reflexion(), *_tree_of_thoughts(), *_worfbench()):
        for stage in job.stages:
            stage.model = served[stage.model] if stage.model else None
        found[job.app].append(job)
    return dict(found)


def halves(jobs: Iterable[Job]) -> tuple[list[Job], list[Job]]:
    """(to learn from, to test on): by a digest of what a job is about, so the same at any time."""
    sides: tuple[list[Job], list[Job]] = [], []
    for job in jobs:
        sides[hashlib.sha256(str(job.extra[GROUP]).encode()).digest()[0] % 2].append(job)
    return sides


def arriving(jobs: Mapping[str, Sequence[Job]], count: int, rate: float, seed: int) -> list[Job]:
    """`count` of the jobs, drawn with replacement, applications equally likely; Poisson, `rate` jobs a second."""
    rng = random.Random(f"arriving {seed}")
    apps, at, drawn = sorted(jobs), 0.0, list[Job]()
    for number in range(count):
        at += rng.expovariate(rate)
        job = rng.choice(jobs[rng.choice(apps)])
        drawn.append(msgspec.structs.replace(job, job=f"{job.job}#{number}", arrival_s=at))
    return drawn


def _draft(app: str, name: str) -> Draft:
    return Draft(app, Draws(f"{app} {name}"))


def _job(draft: Draft, name: str, group: str) -> Job:
    extra = {GROUP: f"{draft.app} {group}"}
    return Job(job=f"{draft.app}-{name}", app=draft.app, stages=draft.stages, features=draft.features, extra=extra)


def _rows(path: str) -> list[dict[str, str]]:
    file = DATA / path
    with gzip.open(file, "rt") if file.suffix == ".gz" else file.open() as lines:
        return list(csv.DictReader(lines))


# ---------------------------------------------------------------- chains


def _react() -> Iterator[Job]:
    trajectories: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    for row in _rows("react_hotpotqa/react_steps_q0-59_dev.csv.gz"):
        trajectories[row["run"], row["q_id"]].append(row)
    for (run, question), rows in trajectories.items():
        draft = _draft("react", f"{run}-{question}")
        before: Stage | None = None
        for number, row in enumerate(rows):
            prompt = chain.FEW_SHOT_TOKENS + int(row["ctx_tokens_before"])
            think = draft.llm(
                *(f"think{number}", "small", draft.stages[-1:], prompt),
                int(row["thought_tokens"]) + int(row["action_tokens"]),
                name="think",
                revealed_by=before,
                common=chain.FEW_SHOT_TOKENS,
                shares=(before, before.prompt_tokens + before.output_tokens) if before else None,
            )
            if row is not rows[-1]:
                draft.tool(f"act{number}", [think], SEARCH_SECONDS, name=row["action"].lower(), revealed_by=think)
            before = think
        yield _job(draft, f"{run}-{question}", question)


def _reflexion() -> Iterator[Job]:
    for row in _rows("reflexion_lats_runs/mbpp_py_runs_dev.csv.gz"):
        name = f"{row['run']}-{row['problem']}"
        draft = _draft("reflexion", name)
        draft.limit = chain.PROGRAM_LIMIT
        problem, program = int(row["prompt_tokens"]), int(row["solution_tokens"])
        reflections = [int(tokens) for tokens in row["refl_tokens"].split("|") if tokens]
        prompt = chain.WRITE_PROMPT + problem
        last = draft.llm("write", "large", [], prompt, program, common=chain.WRITE_PROMPT)
        for turn in range(len(reflections) + 1):
            test = draft.tool(f"test{turn}", [last], name="test")
            if turn < len(reflections):
                last = chain.repaired(draft, turn, test, problem, program, reflections[turn])
        yield _job(draft, name, row["problem"])


# ---------------------------------------------------------------- trees


def _tree_of_thoughts() -> Iterator[Job]:
    for row in _rows("tree_of_thoughts_runs/jobs.csv"):
        app = "tot-game24" if row["family"] == "game24_bfs" else "tot-text"
        draft = _draft(app, row["idx"])
        (_game24 if app == "tot-game24" else _text)(draft, row)
        yield _job(draft, row["idx"], row["idx"])


def _game24(draft: Draft, row: dict[str, str]) -> None:
    """Four levels: each kept state proposes next steps, each candidate is valued, the best are kept."""
    widths = [int(row[f"cand{level}"]) for level in range(int(row["n_steps"]))]
    kept = [1, *(int(row[f"sel{level}"]) for level in range(int(row["n_steps"])))]
    proposals, valuations = sum(kept[:-1]), sum(widths)
    answered, asked = int(row["completion_tokens"]), int(row["prompt_tokens"]) // (proposals + valuations)
    value = answered / (PROPOSAL_WEIGHT * proposals + valuations)
    ends: list[Stage] = []
    for level, width in enumerate(widths):
        proposed = [
            draft.llm(f"propose{level}.{n}", "medium", ends, asked, round(PROPOSAL_WEIGHT * value), name="propose")
            for n in range(kept[level])
        ]
        ends = [
            draft.llm(
                *(f"value{level}.{n}", "small", proposed, asked, round(value)), name="value", revealed_by=proposed[0]
            )
            for n in range(width)
        ]


def _text(draft: Draft, row: dict[str, str]) -> None:
    """Two levels: candidates, then votes on them: plans, then passages."""
    totals = int(row["completion_tokens"]), int(row["prompt_tokens"])
    counts = int(row["cand0"]), VOTES, int(row["cand1"]), VOTES
    ends: list[Stage] = []
    for name, count, answers, prompts in zip(("plan", "vote", "write", "judge"), counts, *SHARES, strict=True):
        answered, asked = round(totals[0] * answers / count), round(totals[1] * prompts)
        model = "large" if name in {"plan", "write"} else "medium"
        ends = draft.samples(name, model, ends, asked, [answered] * count, name=name)


# ---------------------------------------------------------------- graphs


def _worfbench() -> Iterator[Job]:
    with gzip.open(DATA / "worfbench_dags/workflow_dags_dev.jsonl.gz", "rt") as lines:
        for line in lines:
            row = json.loads(line)
            draft = _draft(f"worf-{row['source']}", str(row["i"]))
            _graph(draft, row)
            yield _job(draft, str(row["i"]), str(row["i"]))


def _graph(draft: Draft, row: dict[str, Any]) -> None:
    """A plan, then each node of it, an agent's answer and its action, in the plan's own order."""
    asked, planned = row["plan_prompt_tokens"], row["plan_output_tokens"]
    plan = draft.llm("plan", "large", [], asked, planned)
    needs: dict[int, list[int]] = defaultdict(list)
    for before, after in row["edges"]:
        needs[after].append(before)
    done: dict[int, Stage] = {}
    read: dict[int, int] = {}
    left = list(range(len(row["nodes"])))
    while left:
        node = next(node for node in left if all(need in done for need in needs[node]))
        left.remove(node)
        ready = [done[need] for need in needs[node]] or [plan]
        answer = draft.draws.tokens(chain.LATER_THOUGHT)
        read[node] = answer + draft.draws.tokens(chain.EARLIER_OBSERVATION)
        prompt = asked + planned + sum(read[need] for need in needs[node])
        step = draft.llm(f"step{node}", "small", ready, prompt, answer, name="step", revealed_by=plan)
        done[node] = draft.tool(f"act{node}", [step], name="act", revealed_by=plan)
