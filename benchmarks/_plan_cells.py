"""What the benchmarks of plans plan for: five workloads, their models and rates, and clusters of H100s in domains of 8.

RAG with a 32B and with a 70B generator, beam search with a reward model, a crew of coding agents, RAG and beam search
together. The p95 target of each application is TARGET times its unloaded p95 under `k8s-default`.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from hocket.planner.baselines import BASELINES
from hocket.planner.demand import App, Demand, Rates, demand_of
from hocket.planner.goal import Goal, Slo
from hocket.planner.inputs import Cluster, Models
from hocket.planner.judge import Judge
from hocket.planner.search import Problem
from hocket.sim.workloads import generate

RAG = {"rewriter": "qwen2.5-7b", "reranker": "qwen3-8b"}
BEAM = {"beam-generator": "llama-3.1-8b", "reward": "qwen2.5-7b"}
CREW = {"planner": "qwen3-32b", "coder": "qwen3-32b", "critic": "qwen3-8b"}
CELLS: dict[str, tuple[dict[str, float], dict[str, str]]] = {
    "rag-32b": ({"rag": 1.0}, RAG | {"generator": "qwen3-32b"}),
    "rag-70b": ({"rag": 0.4}, RAG | {"generator": "llama-3.1-70b"}),
    "beam": ({"beam-search": 0.1}, BEAM),
    "crew": ({"coding-crew": 0.3}, CREW),
    "rag+beam": ({"rag": 0.4, "beam-search": 0.04}, RAG | BEAM | {"generator": "qwen3-32b"}),
}
"name -> arrivals a second, tables of its models"
TARGET = 3.0
PLANNED_ON, MEASURED_ON = 7, 1007
"seeds"
RECORDED = 2000
"jobs of each application"
UNLOADED = 1e-4
"of the rates"


def demand(apps: Mapping[str, float], seed: int, count: int = RECORDED) -> Demand:
    """Jobs of each application, and its rate."""
    jobs = [
        msgspec.structs.replace(job, job=f"{app}-{job.job}")
        for app, rate in apps.items()
        for job in generate(app, count, rate, seed)
    ]
    return demand_of(jobs, Rates([App(app, rate) for app, rate in apps.items()]))


def cluster(devices: int) -> Cluster:
    """So many H100s, 8 to a node."""
    nodes = [
        {"name": f"node{i}", "devices": min(8, devices - 8 * i), "kind": "h100", "memory_gib": 80}
        for i in range(-(-devices // 8))
    ]
    return msgspec.convert({"nodes": nodes}, Cluster)


def models(name: str) -> Models:
    """Of a cell."""
    return msgspec.convert({"models": [{"name": m, "table": t} for m, t in CELLS[name][1].items()]}, Models)


def targets(problem: Problem, fresh: Demand) -> tuple[Slo, ...]:
    """The p95 target of each application, by `fresh` jobs that nobody plans on."""
    default = BASELINES["k8s-default"](problem, lambda: False)[0].plan
    alone = Judge(fresh, problem.cluster, problem.models, Goal(), MEASURED_ON).figures(default, UNLOADED)
    return tuple(Slo(app, "p95", TARGET * own["p95_s"]) for app, own in alone.items())
