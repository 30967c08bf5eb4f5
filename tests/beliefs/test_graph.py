"""The graph that is found in recorded jobs is the one that made them, also from times alone, also with slips."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal

import pytest

from benchmarks._recorded import recorded_jobs
from hocket.beliefs.graph import MOST_STAGES, Graph, find_graph
from hocket.beliefs.profile import Node
from hocket.beliefs.record import Record, Step, record_of
from hocket.sim.workloads import APPLICATIONS, generate
from hocket.trace import Job, Stage
from tests.beliefs.observed import observed

DATA = Path(__file__).parents[3] / "shared" / "data"

# ---------------------------------------------------------------- by hand


def call(stage: str, *after: int, revealed_by: int | None = None) -> Step:
    return Step(stage, "m", 10, 10, 0.0, list(after), revealed_by)


def tool(stage: str, *after: int, revealed_by: int | None = None) -> Step:
    return Step(stage, None, 0, 0, 1.0, list(after), revealed_by)


def job(*steps: Step) -> Record:
    return Record(list(steps))


def edges(graph: Graph) -> dict[tuple[str, str], float]:
    return {(edge.before, edge.after): edge.share for edge in graph.edges}


def node(graph: Graph, name: str) -> Node:
    return next(node for node in graph.nodes if node.name == name)


def dynamic(graph: Graph) -> dict[str, list[str]]:
    return {node.planner: node.candidates for node in graph.nodes if node.kind == "dynamic" and node.planner}


def test_a_chain() -> None:
    graph = find_graph([job(call("a"), tool("b", 0), call("c", 1))] * 3)
    assert [(node.name, node.kind, node.models, node.present, node.rounds) for node in graph.nodes] == [
        ("a", "llm", ["m"], 1.0, [1.0]),
        ("b", "tool", [], 1.0, [1.0]),
        ("c", "llm", ["m"], 1.0, [1.0]),
    ]
    assert [list(vars_of(edge)) for edge in graph.edges] == [["a", "b", 1.0, False], ["b", "c", 1.0, False]]


def vars_of(edge: object) -> tuple[object, ...]:
    return tuple(getattr(edge, name) for name in ("before", "after", "share", "again"))


def test_parallel_tasks_are_fan_out_and_a_loop_is_rounds() -> None:
    def jobs(wide: int, long: int) -> Record:
        steps = [call("map") for _ in range(wide)]
        steps.append(call("reduce", *range(wide)))
        for _ in range(long):
            steps.append(call("improve", len(steps) - 1))
        return job(*steps)

    graph = find_graph([jobs(2, 0), jobs(3, 1), jobs(3, 3), jobs(3, 3)])
    assert node(graph, "map").fan_out == {2: 0.25, 3: 0.75}
    assert node(graph, "map").tasks == pytest.approx(2.75)
    assert node(graph, "improve").rounds == [0.75, 0.5, 0.5]
    assert node(graph, "improve").present == 0.75
    assert node(graph, "improve").fan_out == {1: 1.0}
    assert {(e.before, e.after): e.again for e in graph.edges} == {
        ("map", "reduce"): False,
        ("reduce", "improve"): False,
        ("improve", "improve"): True,
    }


def test_what_a_chain_says_already_is_no_edge() -> None:
    assert edges(find_graph([job(call("a"), call("b", 0), call("c", 0, 1))])) == {("a", "b"): 1.0, ("b", "c"): 1.0}


def test_time_that_nobody_reported_is_no_stage() -> None:
    def stage(name: str, kind: Literal["llm", "tool"], *needs: str) -> Stage:
        return Stage(id=name, name=name.strip("12"), kind=kind, model="m", duration_s=1.0, needs=list(needs))

    stages = [stage("a", "llm"), stage("gap1", "tool", "a"), stage("gap2", "tool", "gap1"), stage("b", "llm", "gap2")]
    record = record_of(Job(job="j", app="a", stages=[stage("gap", "tool"), *stages]))
    assert [(step.stage, step.after) for step in record.steps] == [("a", []), ("b", [0])]
    assert edges(find_graph([record])) == {("a", "b"): 1.0}


def test_names_that_are_made_up_for_every_job_do_no_harm() -> None:
    jobs = [job(call("a"), call(f"b-{n}", 0), call(f"c-{n}", 1), call("d", 2), call("e", 0)) for n in range(3_000)]
    graph = find_graph(jobs)
    assert sum(node.kind != "dynamic" for node in graph.nodes) == MOST_STAGES
    assert edges(graph)["a", "e"] == 1.0
    assert edges(graph)["a", "d"] > 0.9, "what waits for a stage that is passed over waits for what that waits for"
    assert {node.name for node in graph.nodes} >= {"a", "d", "e"}


def test_a_slip_in_one_job_of_500_is_no_edge() -> None:
    sound = job(call("a"), call("b", 0), call("c", 0), call("d", 1, 2))
    slip = job(call("a"), call("b", 0), call("c", 1), call("d", 2))
    graph = find_graph([sound] * 499 + [slip])
    assert set(edges(graph)) == {("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")}
    assert not dynamic(graph)


@pytest.mark.parametrize("chance", [0.1, 0.5, 0.9])
def test_an_order_that_is_only_frequent_is_no_edge(chance: float) -> None:
    """Two branches; in many jobs the first step of one has ended before the second of the other begins."""
    rng = random.Random(1)

    def branches() -> Record:
        after = [2, 1] if rng.random() < chance else [2]
        return job(call("a"), call("short", 0), call("long", 0), call("next", *after), call("end", 1, 3))

    graph = find_graph([branches() for _ in range(300)])
    assert ("short", "next") not in edges(graph)
    assert {("a", "short"), ("a", "long"), ("long", "next"), ("next", "end")} <= set(edges(graph))


def test_needs_that_were_recorded_between_others_are_kept() -> None:
    """a > b and a > c; c often begins when b has ended, so a is then no direct need of c: still an edge."""
    apart = job(call("a"), call("b", 0), call("c", 0), call("d", 1, 2))
    chained = job(call("a"), call("b", 0), call("c", 1), call("d", 2))
    graph = find_graph([apart] * 60 + [chained] * 40)
    assert edges(graph)["a", "c"] == 0.6
    assert ("b", "c") not in edges(graph)


# ---------------------------------------------------------------- dynamic stages


def planned(*names: str, told: bool) -> Record:
    steps = [call("plan")]
    for name in names:
        steps.append(tool(name, len(steps) - 1, revealed_by=0 if told else None))
    steps.append(call("answer", len(steps) - 1))
    return job(*steps)


@pytest.mark.parametrize("told", [True, False])
def test_a_planner_and_what_it_chooses_from(told: bool) -> None:
    sets = [("search",)] * 5 + [("search", "read")] * 3 + [("sums",)] * 2
    graph = find_graph([planned(*names, told=told) for names in sets])
    assert [(n.name, n.kind) for n in graph.nodes][:2] == [("plan", "llm"), ("plan/*", "dynamic")]
    found = node(graph, "plan/*")
    assert (found.planner, found.candidates, found.shares) == ("plan", ["search", "read", "sums"], [0.8, 0.3, 0.2])
    assert [(choice.stages, choice.share) for choice in found.choices] == [
        (["search"], 0.5),
        (["read", "search"], 0.3),
        (["sums"], 0.2),
    ]
    assert found.present == 1.0


def test_how_many_tasks_is_a_choice_where_the_trace_says_so() -> None:
    jobs = [("search",) * number for number in (1, 2, 2, 4)]
    assert dynamic(find_graph([planned(*names, told=True) for names in jobs])) == {"plan": ["search"]}
    assert dynamic(find_graph([planned(*names, told=False) for names in jobs])) == {}


@pytest.mark.parametrize("told", [True, False])
def test_a_loop_is_no_choice(told: bool) -> None:
    def turns(count: int) -> Record:
        steps = [call("write"), tool("test", 0)]
        for _ in range(count):
            test = len(steps) - 1
            by = test if told else None
            steps += [call("reflect", test, revealed_by=by), call("repair", test + 1, revealed_by=by)]
            steps.append(tool("test", test + 2))
        return job(*steps)

    graph = find_graph([turns(count) for count in (0, 0, 0, 1, 4)])
    assert not dynamic(graph)
    assert {(e.before, e.after) for e in graph.edges if e.again} == {("repair", "test")}


def test_the_last_llm_stage_before_a_choice_is_its_planner() -> None:
    def nested(*names: str) -> Record:
        steps = [call("plan"), call("refine", 0), *(tool(name, 1) for name in names)]
        return job(*steps, call("end", *range(2, len(steps))))

    assert dynamic(find_graph([nested("x"), nested("y"), nested("x", "y")] * 5)) == {"refine": ["x", "y"]}


def test_an_odd_job_makes_no_dynamic_stage() -> None:
    plain, odd = planned("search", told=True), planned("search", "retry", told=True)
    assert not dynamic(find_graph([plain] * 499 + [odd]))


def test_a_dynamic_stage_never_takes_the_name_of_a_stage() -> None:
    jobs = [job(call("plan"), tool("plan/*", 0), tool(name, 1), call("end", 2)) for name in ("x", "y")]
    assert [n.name for n in find_graph(jobs).nodes if n.kind == "dynamic"] == ["plan/**"]


# ---------------------------------------------------------------- what the generators make

GENERATED: dict[str, tuple[set[tuple[str, str]], set[tuple[str, str]], dict[str, set[str]]]] = {
    "document-merging": (
        {
            (a, b)
            for a, b in pairwise(f"{s}{t}" for t in ("write", "combine", "refine") for s in ("", "score-", "best-"))
        },
        set(),
        {},
    ),
    "code-generation": ({("write", "test"), ("test", "reflect"), ("reflect", "repair")}, {("repair", "test")}, {}),
    "web-search": ({("think", "search")}, {("search", "think")}, {}),
    "task-automation": (
        {("plan", "select"), ("select", "run"), ("run", "respond")},
        {("run", "select")},
        {"plan": {"select", "run"}},
    ),
    "llm-compiler": (
        {("plan", "search"), ("search", "math"), ("search", "join"), ("math", "join")},
        {("math", "math")},
        {"plan": {"search", "math"}},
    ),
    "agent": ({("step", "tools")}, {("tools", "step")}, {}),
}
"application -> edges, edges that close a loop, planners with their candidates; as the generator's code says"


def jobs_of(name: str, count: int) -> Sequence[Record]:
    return [record_of(job) for job in generate(name, count, 1.0, seed=3)]


@pytest.mark.parametrize("name", GENERATED)
def test_the_graph_is_the_generators(name: str) -> None:
    graph = find_graph(jobs_of(name, 300))
    forward, loops, planners = GENERATED[name]
    assert {(e.before, e.after) for e in graph.edges if not e.again} == forward
    assert {(e.before, e.after) for e in graph.edges if e.again} == loops
    assert {planner: set(candidates) for planner, candidates in dynamic(graph).items()} == planners
    assert {n.name for n in graph.nodes if n.kind != "dynamic"} == {stage for pair in forward | loops for stage in pair}


@pytest.mark.skipif(not DATA.is_dir(), reason=f"the recorded runs are not at {DATA}")
def test_the_graph_of_recorded_runs() -> None:
    graphs = {app: find_graph([record_of(job) for job in jobs]) for app, jobs in recorded_jobs().items()}
    assert dynamic(graphs["react"]) == {"think": ["search", "lookup"]}
    assert {(e.before, e.after) for e in graphs["react"].edges if e.again} == {("search", "think"), ("lookup", "think")}
    forward, loops, _ = GENERATED["code-generation"]
    assert {(e.before, e.after) for e in graphs["reflexion"].edges if not e.again} == forward
    assert {(e.before, e.after) for e in graphs["reflexion"].edges if e.again} == loops
    for app in ("worf-lumos", "worf-wikihow"):
        assert {planner: set(found) for planner, found in dynamic(graphs[app]).items()} == {"plan": {"step", "act"}}


def test_every_application_is_found_the_same_twice_and_without_reveals_has_the_same_edges() -> None:
    for name in APPLICATIONS:
        records = jobs_of(name, 60)
        graph = find_graph(records)
        assert find_graph(records) == graph
        for record in records:
            for step in record.steps:
                step.revealed_by = None
        assert edges(find_graph(records)) == edges(graph), name


@pytest.mark.parametrize("name", [name for name in GENERATED if name != "agent"])
def test_the_graph_is_found_from_times_alone(name: str, tmp_path: Path) -> None:
    """The jobs share an engine, so that what ends before what is much a matter of chance."""
    jobs = list(generate(name, 120, {"document-merging": 0.2}.get(name, 2.0), seed=4))
    graph = find_graph([record_of(job) for job in observed(jobs, tmp_path)], timed=True)
    forward, loops, _ = GENERATED[name]
    assert {(e.before, e.after) for e in graph.edges if not e.again} == forward
    found = {(e.before, e.after) for e in graph.edges if e.again}
    # whether parallel tasks of one stage wait for each other, times cannot tell: short tool runs rarely overlap
    assert found ^ loops <= {("run", "run"), ("math", "math")}
