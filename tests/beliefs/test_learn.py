"""Records -> profile: what is kept, what is declared, and that it does not depend on chance."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from hocket.beliefs.declared import Declared
from hocket.beliefs.learn import learn, representative
from hocket.beliefs.profile import MOST_RECORDS, decode_profile, encode_profile
from hocket.beliefs.record import Record, Step, record_of
from hocket.errors import InputError
from hocket.sim.workloads import generate
from hocket.yamlfile import load_yaml, parse_yaml


def records_of(name: str, count: int, seed: int = 1) -> list[Record]:
    return [record_of(job) for job in generate(name, count, 1.0, seed)]


def work(record: Record) -> int:
    return sum(step.prompt_tokens + 50 * step.output_tokens for step in record.steps)


# ---------------------------------------------------------------- what is kept


def test_few_records_are_all_kept() -> None:
    records = records_of("code-generation", 20)
    profile = learn("code", records, network=False)
    assert (profile.app, profile.jobs, profile.records) == ("code", 20, records)


def test_of_many_records_small_and_large_keep_their_shares() -> None:
    records = records_of("code-generation", 5_000)
    kept = representative(records, MOST_RECORDS)
    assert len(kept) == MOST_RECORDS
    for share in (0.05, 0.25, 0.5, 0.75, 0.95):
        of_all, of_kept = (sorted(map(work, some))[int(share * len(some))] for some in (records, kept))
        assert of_kept == pytest.approx(of_all, rel=0.01)
    mean, mean_kept = (sum(map(work, some)) / len(some) for some in (records, kept))
    assert mean_kept == pytest.approx(mean, rel=0.01)
    places = {id(record): index for index, record in enumerate(records)}
    assert [places[id(record)] for record in kept] == sorted(places[id(record)] for record in kept), "the oldest first"


def test_the_same_records_give_the_same_file() -> None:
    files = [encode_profile(learn("w", records_of("llm-compiler", 700), network=False)) for _ in range(2)]
    assert files[0] == files[1]
    read = decode_profile(files[0])
    assert decode_profile(encode_profile(read)) == read


def test_equal_jobs_are_kept_evenly() -> None:
    records = [Record([Step("a", "m", 1, 1, 0.0, [])], {"n": float(n)}) for n in range(100)]
    assert [record.features["n"] for record in representative(records, 4)] == [12.0, 37.0, 62.0, 87.0]


def test_nothing_to_learn_from_is_said() -> None:
    with pytest.raises(InputError, match="no recorded jobs of 'x'"):
        learn("x", [])


def test_the_network_is_learned_from_all_jobs() -> None:
    pytest.importorskip("pyagrum")
    profile = learn("code", records_of("code-generation", 1_500))
    assert profile.network is not None
    assert {variable.stage for variable in profile.network.variables} >= {"write", "test", "reflect", "repair"}
    assert decode_profile(encode_profile(profile)) == profile


@pytest.mark.slow
def test_ten_thousand_jobs_take_less_than_forty_times_five_hundred() -> None:
    """Learning is about linear in the jobs; what it takes is in the benchmarks."""
    pytest.importorskip("pyagrum")

    def seconds(count: int) -> float:
        records = records_of("task-automation", count)
        begin = time.process_time()
        learn("t", records)
        return time.process_time() - begin

    seconds(100)  # imports
    assert min(seconds(10_000) for _ in range(2)) < 40 * min(seconds(500) for _ in range(5)), "its square is 400"


# ---------------------------------------------------------------- declared graphs

GRAPH = """
app: research
stages:
  - name: plan
  - {name: search, kind: tool, needs: [plan], revealed_by: plan, again_after: [read]}
  - {name: read, needs: [search], revealed_by: plan}
  - {name: sums, kind: tool, needs: [plan], revealed_by: plan}
  - {name: answer, needs: [read]}
"""


def research(rounds: int) -> Record:
    steps = [Step("plan", "m", 10, 10, 0.0, [])]
    for _ in range(rounds):
        steps.append(Step("search", None, 0, 0, 1.0, [len(steps) - 1]))
        steps.append(Step("read", "m", 10, 10, 0.0, [len(steps) - 1]))
    return Record([*steps, Step("answer", "m", 10, 10, 0.0, [len(steps) - 1])])


def test_a_declared_graph_takes_its_numbers_from_the_jobs() -> None:
    declared = parse_yaml(GRAPH, Declared, "research.yaml")
    records = [research(1), research(1), research(3), research(0)]
    graph = declared.graph(records)
    assert [(n.name, n.kind, n.present) for n in graph.nodes] == [
        ("plan", "llm", 1.0),
        ("plan/*", "dynamic", 0.75),
        ("search", "tool", 0.75),
        ("read", "llm", 0.75),
        ("answer", "llm", 1.0),
        ("sums", "tool", 0.0),
    ]
    assert [(e.before, e.after, e.share, e.again) for e in graph.edges] == [
        ("plan", "search", 1.0, False),
        ("plan", "sums", 0.0, False),
        ("search", "read", 1.0, False),
        ("read", "search", 0.3333, True),
        ("read", "answer", 1.0, False),
    ]
    choice = next(n for n in graph.nodes if n.kind == "dynamic")
    assert (choice.planner, choice.candidates, choice.shares) == ("plan", ["read", "search", "sums"], [0.75, 0.75, 0.0])
    profile = learn("research", records, graph, network=False)
    assert decode_profile(encode_profile(profile)).nodes == graph.nodes


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("app: research", "app: ''", 2, "app"),
        ("needs: [plan], revealed_by: plan, again_after: [read]", "needs: [plam]", 5, "no stage 'plam'"),
        ("again_after: [read]", "again_after: [raed]", 5, "no stage 'raed'"),
        ("{name: read, needs: [search], revealed_by: plan}", "{name: read, needs: [read]}", 6, "itself"),
        ("{name: read, needs: [search], revealed_by: plan}", "{name: read, needs: [answer]}", 6, "cycle"),
        ("{name: sums, kind: tool, needs: [plan], revealed_by: plan}", "{name: plan}", 7, "twice"),
        ("{name: sums, kind: tool, needs: [plan], revealed_by: plan}", "{name: s, kind: robot}", 7, "robot"),
        ("{name: sums, kind: tool, needs: [plan], revealed_by: plan}", "{name: s, revealed_by: s}", 7, "planner"),
        ("{name: answer, needs: [read]}", "{name: answer, need: [read]}", 8, "unknown field `need`"),
        ("{name: answer, needs: [read]}", "{name: ''}", 8, "empty"),
    ],
)
def test_a_bad_graph_is_refused_with_its_line(tmp_path: Path, old: str, new: str, line: int, said: str) -> None:
    assert old in GRAPH
    file = tmp_path / "graph.yaml"
    file.write_text(GRAPH.replace(old, new))
    with pytest.raises(InputError) as error:
        load_yaml(file, Declared, "docs/guides/learn.md")
    assert str(error.value).startswith(f"{file}:{line}: ")
    assert said in str(error.value)


def test_a_graph_of_other_jobs_is_refused() -> None:
    declared = parse_yaml(GRAPH, Declared, "research.yaml")
    with pytest.raises(InputError, match="a stage 'review', which it lacks"):
        declared.graph([Record([Step("review", "m", 1, 1, 0.0, [])])])
    with pytest.raises(InputError, match="'search' is llm in the jobs"):
        declared.graph([Record([Step("search", "m", 1, 1, 0.0, [])])])
