"""Jobs and plans as arrays: what compiled engines read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hocket.planner.demand import Demand, Floats, Ints
from hocket.planner.estimate import CONSTANTS, engines_of
from hocket.planner.inputs import Cluster, Models
from hocket.planner.plan import Plan
from hocket.sim.engine import ticks

NEVER = 1 << 62
"ticks: no time; to it one may add"


class Book(NamedTuple):
    """Recorded jobs: arrays over jobs, stages, and the stages that wait for each stage."""

    first: Ints
    "(jobs + 1): where the stages of each job begin"
    app: Ints
    role: Ints
    "of each stage: who asks; -1: a tool"
    prompt: Ints
    output: Ints
    "tokens, one at least"
    tool: Ints
    "ticks that it runs"
    needs: Ints
    "stages that each waits for"
    after_first: Ints
    "(stages + 1): where its dependents begin"
    after: Ints
    "dependents, counted from the first stage of the job"


class Fleet(NamedTuple):
    """The replicas of one plan, engine by engine, and who shares a device with whom."""

    serving: Ints
    "of each role: its engine; the last: -1, for a tool"
    first: Ints
    "(engines + 1): where the replicas of each begin"
    engine: Ints
    "of each replica; and so are the next four"
    window: Ints
    kv_tokens: Ints
    constants: Floats
    "(replicas, 6): of the engine model"
    share: Floats
    devices_first: Ints
    devices: Ints
    on_first: Ints
    on: Ints
    "replicas on each device"
    near_first: Ints
    near: Ints
    "replicas whose speed each replica moves: none under `capped`"
    capped: bool


def book_of(demand: Demand) -> Book:
    """The recorded jobs."""
    roles = {(role.app, role.stage, role.model): place for place, role in enumerate(demand.roles)}
    first, app, rows, after = [0], list[int](), list[tuple[int, ...]](), list[list[int]]()
    for job in demand.jobs:
        places = {stage.id: place for place, stage in enumerate(job.stages)}
        dependents: list[list[int]] = [[] for _ in job.stages]
        for place, stage in enumerate(job.stages):
            for need in set(stage.needs):
                dependents[places[need]].append(place)
            role = roles[job.app, stage.name, stage.model or ""] if stage.kind == "llm" else -1
            tokens = stage.prompt_tokens, max(stage.output_tokens, 1)
            rows.append((role, *tokens, ticks(stage.duration_s or 0.0), len(set(stage.needs))))
        after += dependents
        first.append(len(rows))
        app.append(demand.apps.index(job.app))
    role_of, prompt, output, tool, needs = np.array(rows, dtype=np.int64).T.copy()
    return Book(np.array(first), np.array(app), role_of, prompt, output, tool, needs, *_lists(after))


def fleet_of(plan: Plan, demand: Demand, cluster: Cluster, models: Models) -> Fleet:
    """The replicas of a plan."""
    devices = {name: place for place, name in enumerate(cluster.devices)}
    listed = [(u, engine, replica) for u, engine in enumerate(plan.engines) for replica in engine.replicas]
    own = [[devices[name] for name in replica.devices] for _, _, replica in listed]
    on: list[list[int]] = [[] for _ in devices]
    for r, taken in enumerate(own):
        for device in taken:
            on[device].append(r)
    near = [sorted({other for device in taken for other in on[device]} - {r}) for r, taken in enumerate(own)]
    capped = plan.law == "capped"
    latencies = [
        models.named[engine.model].latency[cluster.devices[replica.devices[0]].kind][replica.tensor_parallel]
        for _, engine, replica in listed
    ]
    return Fleet(
        engines_of(demand, plan.engines),
        np.cumsum([0, *(len(engine.replicas) for engine in plan.engines)]),
        np.array([u for u, _, _ in listed]),
        np.array([replica.max_concurrency for _, _, replica in listed]),
        np.array([replica.kv_tokens for _, _, replica in listed]),
        np.array([[getattr(latency, name) for name in CONSTANTS] for latency in latencies], dtype=np.float64),
        np.array([replica.share for _, _, replica in listed], dtype=np.float64),
        *_lists(own),
        *_lists(on),
        *_lists([[] for _ in near] if capped else near),
        capped,
    )


def _lists(lists: Sequence[Sequence[int]]) -> tuple[Ints, Ints]:
    """Where each begins, and all of them in a row."""
    flat = [item for own in lists for item in own]
    return np.cumsum([0, *map(len, lists)]), np.array(flat, dtype=np.int64)
