"""Small planning problems."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from hocket.planner.demand import App, Demand, Rates, demand_of
from hocket.planner.goal import Goal
from hocket.planner.inputs import Cluster, Models
from hocket.planner.placement import PARTS, Choice, place
from hocket.planner.plan import Plan
from hocket.planner.search import Problem, Search
from hocket.sim.workloads import generate
from hocket.trace import Job

TABLES = {
    "rewriter": "qwen2.5-7b",
    "reranker": "qwen3-8b",
    "generator": "qwen3-32b",
    "planner": "qwen3-32b",
    "coder": "qwen2.5-7b",
    "critic": "llama-3.1-8b",
    "beam-generator": "llama-3.1-8b",
    "reward": "qwen2.5-7b",
}


def cluster(devices: int, **changes: Any) -> Cluster:
    node = {"name": "n0", "devices": devices, "kind": "h100", "memory_gib": 80} | changes
    return msgspec.convert({"nodes": [node]}, Cluster)


def models(names: Sequence[str]) -> Models:
    return msgspec.convert({"models": [{"name": name, "table": TABLES[name]} for name in names]}, Models)


def jobs_of(apps: Mapping[str, float], count: int = 120, seed: int = 7) -> list[Job]:
    return [
        msgspec.structs.replace(job, job=f"{app}-{job.job}")
        for app, rate in apps.items()
        for job in generate(app, count, rate, seed)
    ]


def demand(apps: Mapping[str, float], **how: Any) -> Demand:
    return demand_of(jobs_of(apps, **how), Rates([App(name, rate) for name, rate in apps.items()]))


def problem(apps: Mapping[str, float], devices: int, goal: Goal | None = None, **changes: Any) -> Problem:
    asked = demand(apps)
    return Problem(asked, cluster(devices), models(asked.models), goal or Goal(), **changes)


def random_plans(search: Search, count: int, seed: int) -> list[Plan]:
    """Plans that have a place, of any widths, shares and numbers."""
    rng, found = random.Random(seed), list[Plan]()
    while len(found) < count:
        choices = []
        for u in range(len(search.units)):
            degree = rng.choice(search.widths[u])
            choices.append(Choice(degree, rng.choice([1, 1, 2, 3]), rng.randint(search.least(u, degree), PARTS)))
        plan = place(search.units, choices, search.problem.cluster, rng.choice(["pack", "spread"]), search.problem.law)
        if plan is not None:
            found.append(plan)
    return found
