"""The tables of the generator, and the jobs that it makes of them, are like the runs that they were learned from."""

import csv
import gzip
import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hocket.sim.workloads import chain, generate, planning, predefined
from hocket.sim.workloads.draws import PROBABILITIES, Draws, one, quantile
from hocket.trace import Job, Stage

DATA = Path(__file__).parents[3] / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"the recorded runs are not at {DATA}")
DECILES = [0.1, 0.25, 0.5, 0.75, 0.9]


def rows(path: str) -> list[dict[str, str]]:
    file = DATA / path
    with gzip.open(file, "rt") if file.suffix == ".gz" else file.open() as lines:
        return list(csv.DictReader(lines))


def at(values: Sequence[float], probabilities: Sequence[float] = DECILES) -> list[float]:
    """Quantiles, between the two nearest values."""
    known = sorted(values)
    found = []
    for probability in probabilities:
        place = probability * (len(known) - 1)
        below = int(place)
        above = min(below + 1, len(known) - 1)
        found.append(known[below] + (place - below) * (known[above] - known[below]))
    return found


def spearman(one_: Sequence[float], other: Sequence[float]) -> float:
    """Rank correlation; ties have the mean of their ranks."""

    def ranks(values: Sequence[float]) -> list[float]:
        places = defaultdict(list)
        for place, value in enumerate(sorted(values)):
            places[value].append(place)
        return [statistics.fmean(places[value]) for value in values]

    return statistics.correlation(ranks(one_), ranks(other))


def made(app: str, count: int = 4000) -> list[Job]:
    return list(generate(app, count, 1.0, 4))


def calls(job: Job, name: str) -> list[Stage]:
    return [stage for stage in job.stages if stage.name == name]


def table(values: Sequence[float]) -> Any:
    return pytest.approx(at(values, PROBABILITIES), abs=1.01, rel=0.02)


def test_linked_scores_have_the_rank_correlation_that_was_asked_for() -> None:
    draws = Draws("1")
    for rho in (-0.5, 0.0, 0.27, 0.66):
        first = [draws.score() for _ in range(4000)]
        assert spearman(first, [draws.linked(score, rho) for score in first]) == pytest.approx(rho, abs=0.04)


def test_a_table_gives_back_its_quantiles_and_counts() -> None:
    assert [quantile(chain.PROBLEM_TOKENS, p) for p in PROBABILITIES] == pytest.approx(list(chain.PROBLEM_TOKENS))
    draws = Draws("1")
    counts = Counter(one(chain.REPAIRS, draws.score()) for _ in range(4000))
    assert counts[4] / 4000 == pytest.approx(chain.REPAIRS[4] / sum(chain.REPAIRS.values()), abs=0.03)


# ---------------------------------------------------------------- code-generation


@pytest.fixture(scope="module")
def reflexion() -> list[dict[str, str]]:
    runs = rows("reflexion_lats_runs/mbpp_py_runs_dev.csv.gz")
    return [row for row in runs if row["run"] == "reflexion_mbpp_py"]


def test_programs(reflexion: list[dict[str, str]]) -> None:
    repairs = Counter(int(row["n_refl"]) for row in reflexion)
    assert dict(repairs) == chain.REPAIRS
    assert table([int(row["prompt_tokens"]) for row in reflexion]) == list(chain.PROBLEM_TOKENS)
    jobs = made("code-generation")
    sizes = at([int(row["solution_tokens"]) for row in reflexion])
    assert at([calls(job, "write")[0].output_tokens for job in jobs]) == pytest.approx(sizes, rel=0.06)
    said = [int(tokens) for row in reflexion if row["refl_tokens"] for tokens in row["refl_tokens"].split("|")]
    assert table(said) == list(chain.REFLECTION_TOKENS)


def test_programs_go_with_problems_and_with_repairs(reflexion: list[dict[str, str]]) -> None:
    def links(cases: list[tuple[int, int, list[int]]]) -> list[float]:
        """Problem with program, problem with repairs, program with repairs, program with reflections, among these."""
        problems, programs, said = zip(*cases, strict=True)
        repairs = [len(of) for of in said]
        pairs = [(program, tokens) for program, of in zip(programs, said, strict=True) for tokens in of]
        first = [(of[0], of[1]) for of in said if len(of) > 1]
        return [
            spearman(problems, programs),
            spearman(problems, repairs),
            spearman(programs, repairs),
            spearman(*zip(*pairs, strict=True)),
            spearman(*zip(*first, strict=True)),
        ]

    recorded = [
        (int(r["prompt_tokens"]), int(r["solution_tokens"]), [int(t) for t in r["refl_tokens"].split("|") if t])
        for r in reflexion
    ]
    drawn = [
        (
            calls(job, "write")[0].prompt_tokens,
            calls(job, "write")[0].output_tokens,
            [s.output_tokens for s in calls(job, "reflect")],
        )
        for job in made("code-generation")
    ]
    assert links(drawn) == pytest.approx(links(recorded), abs=0.08)


# ---------------------------------------------------------------- web-search


def test_searches() -> None:
    found: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    for row in rows("react_hotpotqa/react_steps_q0-59_dev.csv.gz"):
        found[row["run"], row["q_id"]].append(row)
    recorded = list(found.values())
    assert dict(sorted(Counter(map(len, recorded)).items())) == chain.SEARCH_STEPS
    questions = [int(steps[0]["ctx_tokens_before"]) for steps in recorded]
    thoughts = [[int(row["thought_tokens"]) + int(row["action_tokens"]) for row in steps] for steps in recorded]
    assert table(questions) == list(chain.QUESTION_TOKENS)
    assert table([of[0] for of in thoughts]) == list(chain.FIRST_THOUGHT)
    seen = [[int(row["obs_tokens"]) for row in steps[:-1]] for steps in recorded]
    assert table([tokens for of in seen for tokens in of[:-1]]) == list(chain.EARLIER_OBSERVATION)
    assert table([of[-1] for of in seen]) == list(chain.LAST_OBSERVATION)
    assert table([of[0] for of in seen]) == list(planning.FOUND_TOKENS)
    jobs = made("web-search")
    asked = [calls(job, "think")[0].prompt_tokens for job in jobs]
    answered = [[stage.output_tokens for stage in calls(job, "think")] for job in jobs]
    assert spearman(asked, [of[0] for of in answered]) == pytest.approx(
        spearman(questions, [of[0] for of in thoughts]), abs=0.06
    )
    assert spearman(asked, [sum(of) for of in answered]) == pytest.approx(
        spearman(questions, [sum(of) for of in thoughts]), abs=0.1
    )
    last = [steps[-1] for steps in recorded]
    sums = at([int(row["ctx_tokens_before"]) for row in last])
    assert at([calls(job, "think")[-1].prompt_tokens - chain.FEW_SHOT_TOKENS for job in jobs]) == pytest.approx(
        sums, rel=0.12
    ), "the last prompt holds all that was found"


# ---------------------------------------------------------------- planning


def test_requests_and_their_shapes() -> None:
    sizes: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row in rows("taskbench/user_requests.csv.gz"):
        sizes[row["domain"], row["type"]].append(int(row["tokens"]))
    for domain, shapes in planning.TYPES.items():
        assert planning.DOMAINS[domain] == sum(shapes.values())
        for shape, count in shapes.items():
            assert len(sizes[domain, shape]) == count
            assert table(sizes[domain, shape]) == list(planning.REQUEST_TOKENS[domain, shape])
    tools = {
        domain: len(json.loads((DATA / f"taskbench/tool_desc_{domain}.json").read_text())["nodes"])
        for domain in planning.TOOLS
    }
    assert tools == planning.TOOLS


def test_what_a_request_says_of_its_shape() -> None:
    """A longer request has more often several steps: the data says so, and the jobs no more than that."""
    recorded = rows("taskbench/user_requests.csv.gz")
    jobs = made("task-automation")
    of_domain = [job for job in jobs if job.features["tools"] == planning.TOOLS["huggingface"]]
    said = [row for row in recorded if row["domain"] == "huggingface"]
    assert spearman(
        [job.stages[0].prompt_tokens for job in of_domain], [len(calls(job, "run")) > 1 for job in of_domain]
    ) == pytest.approx(spearman([int(r["tokens"]) for r in said], [r["type"] != "single" for r in said]), abs=0.05)


def test_plans_that_are_no_chains() -> None:
    counts: dict[int, Counter[tuple[int, ...]]] = defaultdict(Counter)
    with gzip.open(DATA / "worfbench_dags/workflow_dags_dev.jsonl.gz", "rt") as lines:
        for row in map(json.loads, lines):
            depth = dict.fromkeys(range(len(row["nodes"])), 0)
            for _ in row["nodes"]:
                for before, after in row["edges"]:
                    depth[after] = max(depth[after], depth[before] + 1)
            widths = tuple(count for _, count in sorted(Counter(depth.values()).items()))
            if row["source"] in {"lumos", "toolalpaca", "wikihow"} and max(widths) > 1:
                counts[len(depth)][widths] += 1
    for steps, levels in planning.LEVELS.items():
        assert all(sum(widths) == steps and counts[steps][widths] == count for widths, count in levels.items())
        assert sum(levels.values()) == counts[steps].total()


def test_questions_to_the_compiler() -> None:
    asked = json.loads((DATA / "llmcompiler/parallelqa_dataset.json").read_text())
    assert dict(sorted(Counter(int(row["branch"]) for row in asked).items())) == planning.BRANCHES


# ---------------------------------------------------------------- predefined


def test_the_widths_of_the_graphs_of_operations() -> None:
    shapes = json.loads((DATA / "got_examples/operation_shapes.json").read_text())
    by_length: dict[int, Counter[str]] = {}
    for job in generate("sequence-sorting", 30, 1.0, 1):
        names = Counter(stage.name.rstrip("0123456789") for stage in job.stages if stage.kind == "llm")
        by_length[int(job.features["prompt_tokens"])] = names
    for length, prompt in predefined.SPLIT_PROMPT.items():
        published: Counter[str] = Counter()
        for name, width, answers in shapes[f"sorting_{length:03}"]:
            published[name.partition("_")[0]] += width * answers
        assert by_length[prompt + predefined.TOKENS_PER_NUMBER * length] == published
    job = next(generate("document-merging", 1, 1.0, 1))
    published = Counter(width * answers for _, width, answers in shapes["doc_merge_got"])
    names = Counter(stage.name for stage in job.stages if stage.kind == "llm")
    assert Counter(names.values()) == published


def test_documents_are_as_long_as_those_that_were_merged() -> None:
    """In tokens here, in characters there: their quantiles stand in one ratio."""
    sizes = [len(row[f"document{n}"]) for row in rows("got_examples/doc_merge_documents.csv.gz") for n in (1, 2, 3, 4)]
    tokens = [quantile(predefined.DOCUMENT_TOKENS, p) for p in DECILES]
    ratios = [size / size_in_tokens for size, size_in_tokens in zip(at(sizes), tokens, strict=True)]
    assert max(ratios) / min(ratios) < 1.1 and 4 < statistics.fmean(ratios) < 6


# ---------------------------------------------------------------- whole jobs


@pytest.mark.parametrize(("app", "recorded_as"), [("code-generation", "reflexion"), ("web-search", "react")])
def test_whole_jobs_are_as_long_and_as_foreseeable_as_recorded_ones(
    app: str, recorded_as: str, recorded: ModuleType
) -> None:
    """Work of a job, and what its first prompt and its first answer say of it: no more and no less."""

    def told(jobs: list[Job]) -> tuple[list[float], list[float]]:
        llm = [[stage for stage in job.stages if stage.kind == "llm"] for job in jobs]
        work = [[stage.prompt_tokens + 20 * stage.output_tokens for stage in stages] for stages in llm]
        all_work = [sum(of) for of in work]
        first = spearman([stages[0].output_tokens for stages in llm], [sum(of[1:]) for of in work])
        return at(all_work), [spearman([job.features["prompt_tokens"] for job in jobs], all_work), first]

    real, drawn = told(recorded.recorded_jobs()[recorded_as]), told(made(app))
    assert drawn[0] == pytest.approx(real[0], rel=0.1)
    assert drawn[1] == pytest.approx(real[1], abs=0.12)
