"""A plan is checked rule by rule, and runs in the simulator as what it says."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hocket.assembly import build
from hocket.cli import main
from hocket.errors import InputError
from hocket.planner.demand import App, Rates, demand_of
from hocket.planner.estimate import engines_of
from hocket.planner.inputs import Cluster, Models, load_cluster, load_models, tables
from hocket.planner.plan import Plan, load_plan, problems_of
from hocket.planner.simulated import setup_of
from hocket.sim.experiment import scheduler_spec, simulate
from hocket.sim.workloads import generate
from hocket.trace import Job, Stage
from tests.docs.pages import ROOT, block

CLUSTER = {
    "nodes": [
        {"name": "n0", "devices": 4, "kind": "h100", "memory_gib": 80},
        {"name": "n1", "devices": 1, "kind": "a100", "memory_gib": 40},
    ]
}
MODELS = {"models": [{"name": "small", "table": "llama-3.1-8b"}, {"name": "big", "table": "qwen3-32b"}]}
ONE, OTHER = (f"devices: 1, kind: {kind}, memory_gib: 1" for kind in "xy")
FAST = {"d0": 0.01, "q2": 1e-4}


def replica(*devices: str, **changes: Any) -> dict[str, Any]:
    whole = {
        "devices": list(devices),
        "share": 1.0,
        "tensor_parallel": len(devices),
        "max_concurrency": 8,
        "kv_tokens": 1000,
    }
    return whole | changes


def plan(*engines: dict[str, Any], law: str = "ps") -> Plan:
    return msgspec.convert({"law": law, "engines": list(engines)}, Plan)


def engine(
    name: str, *replicas: dict[str, Any], model: str | None = None, roles: tuple[str, ...] = ()
) -> dict[str, Any]:
    return {"name": name, "model": model or name, "roles": list(roles), "replicas": list(replicas)}


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    return msgspec.convert(CLUSTER, Cluster)


@pytest.fixture(scope="module")
def models() -> Models:
    return msgspec.convert(MODELS, Models)


GOOD = [engine("small", replica("n0/gpu0", share=0.5)), engine("big", replica("n0/gpu2", "n0/gpu3"))]


def test_a_good_plan_has_no_problems(cluster: Cluster, models: Models) -> None:
    assert list(problems_of(plan(*GOOD), cluster, models)) == []


@pytest.mark.parametrize(
    ("engines", "problem"),
    [
        ([], "there is no engine"),
        ([GOOD[0], GOOD[0]], "engine 'small' is there twice"),
        ([engine("x", replica("n0/gpu0"))], "x: there is no model 'x'; there is small, big"),
        ([engine("small")], "small: no replica"),
        ([engine("small", replica("n9/gpu0"))], "small, replica 0: no device n9/gpu0"),
        ([engine("small", replica("n0/gpu0", tensor_parallel=2))], "small, replica 0: tensor parallelism 2 on 1"),
        ([engine("small", replica("n0/gpu0", "n0/gpu0"))], "small, replica 0: tensor parallelism 2 on 1"),
        ([engine("small", replica("n0/gpu0", "n1/gpu0"))], "several fast domains: n0, n1"),
        ([engine("small", replica("n0/gpu0", "n0/gpu1", "n0/gpu2"))], "no table for h100 at tensor"),
        ([engine("small", replica("n0/gpu0", share=0.0))], "small, replica 0: share 0.0; it is above 0, to 1"),
        ([engine("small", replica("n0/gpu0", kv_tokens=0))], "both are 1 or more"),
        ([engine("big", replica("n1/gpu0"))], "big, replica 0: needs 61.26 GiB of n1/gpu0, its share has 36.00"),
        ([engine("big", replica("n0/gpu0", kv_tokens=50_000))], "needs 73.23 GiB of n0/gpu0, its share has 72.00"),
        (
            [engine("small", replica("n0/gpu0", share=0.6), replica("n0/gpu0", share=0.5))],
            "n0/gpu0: shares add up to 1.100",
        ),
        ([engine("small", replica("n0/gpu0"), roles=("rag/rerank",))], "each of its engines has roles"),
        (
            [engine("a", replica("n0/gpu0"), model="small"), engine("b", replica("n0/gpu1"), model="small")],
            "small: a, b have no roles, so one would get all calls",
        ),
        (
            [
                engine("small", replica("n0/gpu0")),
                engine("a", replica("n0/gpu1"), model="small", roles=("judge",)),
                engine("b", replica("n0/gpu2"), model="small", roles=("rag/judge", "judge")),
            ],
            "small: role 'judge' is there twice",
        ),
    ],
)
def test_each_rule_is_told(engines: list[dict[str, Any]], problem: str, cluster: Cluster, models: Models) -> None:
    assert any(problem in told for told in problems_of(plan(*engines), cluster, models))
    with pytest.raises(InputError, match="cannot be deployed"):
        setup_of(plan(*engines), cluster, models)


def test_roles_become_routes_and_replicas_may_differ(cluster: Cluster, models: Models) -> None:
    engines = (
        engine("small", replica("n0/gpu0"), replica("n0/gpu1", max_concurrency=4)),
        engine("rerank", replica("n0/gpu2"), model="small", roles=("rag/rerank", "judge")),
    )
    setup = setup_of(plan(*engines, law="capped"), cluster, models)
    assert [(r.engine, r.app, r.stage, r.model) for r in setup.routes] == [
        ("rerank", "rag", "rerank", "small"),
        ("rerank", None, "judge", "small"),
    ]
    assert setup.sharing is not None and setup.sharing.law == "capped"
    own = [place.model and place.model.max_concurrency for place in setup.sharing.placements]
    assert own == [None, 4, None] and [e.replicas for e in setup.engines] == [2, 1]


def test_shares_that_are_rounded_up_run(cluster: Cluster, models: Models) -> None:
    thirds = plan(engine("small", *[replica("n0/gpu0", share=0.3333334, kv_tokens=9) for _ in range(3)]))
    assert setup_of(thirds, cluster, models).sharing is not None


def test_calls_go_where_the_estimate_thinks_whatever_the_order_of_engines(cluster: Cluster, models: Models) -> None:
    engines = [
        engine("judges", replica("n0/gpu0"), model="small", roles=("judge",)),
        engine("rag-judge", replica("n0/gpu1"), model="small", roles=("rag/judge",)),
        engine("rest", replica("n0/gpu2"), model="small"),
    ]
    asked = [("rag", "judge", "rag-judge"), ("beam", "judge", "judges"), ("rag", "answer", "rest")]
    jobs = [
        Job(job=app + stage, app=app, stages=[Stage(id="0", name=stage, kind="llm", model="small", output_tokens=9)])
        for app, stage, _ in asked
    ]
    demand = demand_of(jobs, Rates([App("rag", 1.0), App("beam", 1.0)]))
    for order in permutations(engines):
        what = plan(*order)
        scheduler = build(scheduler_spec(setup_of(what, cluster, models), "fcfs"))
        serving = engines_of(demand, what.engines)
        found = {(role.app, role.stage): what.engines[u].name for role, u in zip(demand.roles, serving, strict=False)}
        for app, stage, name in asked:
            assert scheduler.engine_for(app, stage, "small") == name == found[app, stage]


# ---------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("nodes: []", ":1: `nodes`: empty; list at least one"),
        ("nodes:\n- {name: a, devices: 0, kind: x, memory_gib: 1}", ":2: nodes[0].devices: Expected `int` >= 1"),
        (f"nodes:\n- {{name: a, {ONE}}}\n- {{name: a, {ONE}}}", "'a' is there already"),
        (f"nodes:\n- {{name: a, {ONE}, domain: d}}\n- {{name: b, {OTHER}, domain: d}}", "'d' holds devices of kind x"),
        ("nodes:\n- {name: a, gpus: 1}", "unknown field `gpus`"),
        ("nodes:\n- {name: '', devices: 1, kind: x, memory_gib: 1}", "nodes[0].name: Expected `str` of length >= 1"),
        ("nodes:\n- {name: a, devices: 1, kind: x, memory_gib: .inf}", "memory_gib: Expected `float` <="),
    ],
)
def test_a_bad_cluster_is_told_by_line_and_key(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError) as error:
        load_cluster(str(tmp_path / "c.yaml"))
    assert told in str(error.value) and "docs/reference/plan.md" in str(error.value)


def table(**degrees: dict[str, float]) -> str:
    return json.dumps({"h100": {int(name[1:]): FAST | constants for name, constants in degrees.items()}}).replace(
        '"', ""
    )


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("table: gpt-9", "no table 'gpt-9'; there is"),
        ("weights_gib: 1", "`models[0].kv_bytes_per_token`: missing"),
        ("weights_gib: 1, kv_bytes_per_token: 1", "`models[0].latency`: empty"),
        (f"weights_gib: 1, kv_bytes_per_token: 1, latency: {table(_3={})}", "`models[0].latency.h100.3`: tensor"),
        (f"weights_gib: 1, kv_bytes_per_token: 1, latency: {table(_1={'d0': 0.0})}", "a hole"),
        (f"weights_gib: 1, kv_bytes_per_token: 1, latency: {table(_1={'q2': -1.0})}", "use seconds, 0 or more"),
        (
            f"weights_gib: 1, kv_bytes_per_token: 1, latency: {table(_1={}, _2={'d0': 0.02})}",
            "latency.h100.2`: slower than degree 1: ",
        ),
        (
            f"weights_gib: 1, kv_bytes_per_token: 1, latency: {table(_1={}, _2={'d0': 0.004, 'q2': 1.5e-4})}",
            "for a prompt of 1024 tokens, not ",
        ),
        (
            f"weights_gib: 1, kv_bytes_per_token: 1, latency: {table(_1={'q2': 9e-3}, _2={'d0': 0.015, 'q2': 1e-3})}",
            "for 256 tokens after a short prompt, not ",
        ),
        (f"weights_gib: 1, kv_bytes_per_token: 1, latency: {table(_1={'d9': 1.0})}", "unknown field `d9`"),
        (f"weights_gib: 1, kv_bytes_per_token: 1, latency: {table(_1={}).replace('0.01', '.nan')}", "d0: nan; use sec"),
        (
            "weights_gib: 1, kv_bytes_per_token: 1, latency: {h100: {one: {d0: 1e-2, q2: 1e-4}}}",
            "a key: Expected `int`",
        ),
        (
            "weights_gib: 1, kv_bytes_per_token: 1, latency: {h100: {}}",
            "`models[0].latency.h100`: empty; give at least",
        ),
        ("weights_gib: .inf, kv_bytes_per_token: 1", "weights_gib: Expected `float` <="),
        ("table: qwen3-8b, speed: 3", "unknown field `speed`"),
    ],
)
def test_a_bad_model_is_told(tmp_path: Path, entry: str, told: str) -> None:
    (tmp_path / "m.yaml").write_text(f"models:\n- {{name: a, {entry}}}")
    with pytest.raises(InputError) as error:
        load_models(str(tmp_path / "m.yaml"))
    assert told in str(error.value)


def test_numbers_without_a_dot_are_numbers(tmp_path: Path) -> None:
    """As everyone writes them; YAML 1.1 takes 1e-4 for a word."""
    entry = "weights_gib: 1, kv_bytes_per_token: 1e5, latency: {h100: {1: {d0: 1e-2, q2: +1E-04}}}"
    (tmp_path / "m.yaml").write_text(f"models:\n- {{name: a, {entry}}}")
    model = load_models(str(tmp_path / "m.yaml")).named["a"]
    assert model.kv_bytes_per_token == 1e5 and model.latency["h100"][1].q2 == 1e-4


def test_the_page_shows_what_can_be_read(tmp_path: Path) -> None:
    page = ROOT / "docs" / "reference" / "plan.md"
    for name in ("cluster.yaml", "models.yaml"):
        (tmp_path / name).write_text(block(page, name))
    assert len(load_cluster(str(tmp_path / "cluster.yaml")).devices) == 16
    assert set(load_models(str(tmp_path / "models.yaml")).named) == {"small", "large"}
    for name in tables():
        assert f"`{name}`" in page.read_text()


def test_bundled_tables_are_whole() -> None:
    """As strict as a user's own: monotone, no holes; on each kind of device."""
    for name in tables():
        (model,) = msgspec.convert({"models": [{"name": name, "table": name}]}, Models).named.values()
        assert set(model.latency) == {"a100", "h100", "h200"}
        assert all({1, 2, 4} <= set(degrees) for degrees in model.latency.values())


# ---------------------------------------------------------------- the command


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    job = {"v": 1, "job": "j", "app": "a", "arrival_s": 0}
    sizes = {"kind": "llm", "needs": [], "prompt_tokens": 100, "output_tokens": 50}
    stages = [
        sizes | {"id": "a", "name": "a", "model": "small"},
        sizes | {"id": "b", "name": "b", "model": "big"},
    ]
    (tmp_path / "jobs.jsonl").write_text(json.dumps(job | {"stages": stages}) + "\n")
    (tmp_path / "cluster.yaml").write_text(json.dumps(CLUSTER))
    (tmp_path / "models.yaml").write_text(json.dumps(MODELS))
    (tmp_path / "plan.json").write_bytes(msgspec.json.encode(plan(*GOOD)))
    given = {"plan": "plan.json", "models": "models.yaml", "cluster": "cluster.yaml"}
    options = [part for key, name in given.items() for part in (f"--{key}", str(tmp_path / name))]
    return ["simulate", str(tmp_path / "jobs.jsonl"), *options, "--policy", "fcfs", "--json", "-"]


def test_a_plan_is_simulated(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(files) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["inputs"]["plan"].endswith("plan.json") and figures["policies"]["fcfs"]["jct_s"]["mean"] > 0


def test_what_is_missing_or_wrong_is_told_in_one_line(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*files[:2], *files[4:]]) == 2
    assert "--plan" in capsys.readouterr().err
    assert main([*files, "--engines", "x"]) == 2
    assert "give one of them" in capsys.readouterr().err
    Path(files[3]).write_text('{"engines": [{"name": 1}]}')
    assert main(files) == 2
    assert "not a plan" in capsys.readouterr().err
    with pytest.raises(InputError, match="cannot be read"):
        load_plan("/nowhere/plan.json")


def test_no_call_is_lost_where_replicas_slow_each_other_all_the_time() -> None:
    """Speeds change in the middle of steps: no boundary may move by a rounding unsaid."""
    cluster = msgspec.convert({"nodes": [{"name": "n0", "devices": 4, "kind": "h100", "memory_gib": 80}]}, Cluster)
    tables = {"rewriter": "qwen2.5-7b", "reranker": "qwen3-8b", "generator": "qwen3-32b"}
    models = msgspec.convert({"models": [{"name": name, "table": own} for name, own in tables.items()]}, Models)
    half = {"share": 0.5, "max_concurrency": 256, "kv_tokens": 100_000}
    engines = (
        engine("rewriter", replica("n0/gpu0", "n0/gpu1")),
        engine("reranker", replica("n0/gpu2", **half), replica("n0/gpu3", **half)),
        engine("generator", replica("n0/gpu2", "n0/gpu3", **half | {"max_concurrency": 22, "kv_tokens": 44_000})),
    )
    jobs = list(generate("rag", 150, 1.5, 8))
    outcome = simulate(jobs, setup_of(plan(*engines), cluster, models), "fcfs")
    assert len(outcome.jct_s) == len(jobs)
