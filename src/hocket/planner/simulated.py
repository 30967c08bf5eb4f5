"""A plan as the simulator's engines: what `hocket simulate --plan` runs, and what a search is judged by."""

from __future__ import annotations

from hocket.planner.inputs import Cluster, Models
from hocket.planner.plan import EnginePlan, Plan, ReplicaPlan, check, routes_of
from hocket.sim.experiment import Setup
from hocket.sim.model import EngineModel
from hocket.sim.sharing import Placement, Sharing


def setup_of(plan: Plan, cluster: Cluster, models: Models) -> Setup:
    """The engines of a plan. Raises InputError, which names every rule that is broken, for one that cannot be."""
    check(plan, cluster, models)
    engines, placements = [], []
    for engine in plan.engines:
        own = [_model(engine, replica, cluster, models) for replica in engine.replicas]
        engines.append(_alike(own[0], len(own)))
        for replica, model in zip(engine.replicas, own, strict=True):
            placements.append(Placement(tuple(replica.devices), replica.share, None if model == own[0] else model))
    return Setup(engines, routes=routes_of(plan), sharing=Sharing(placements, plan.law))


def _model(engine: EnginePlan, replica: ReplicaPlan, cluster: Cluster, models: Models) -> EngineModel:
    kind = cluster.devices[replica.devices[0]].kind
    return EngineModel(
        name=engine.name,
        models=[engine.model],
        max_concurrency=replica.max_concurrency,
        kv_tokens=replica.kv_tokens,
        latency=models.named[engine.model].latency[kind][replica.tensor_parallel],
    )


def _alike(model: EngineModel, replicas: int) -> EngineModel:
    return EngineModel(
        name=model.name,
        models=model.models,
        replicas=replicas,
        max_concurrency=model.max_concurrency,
        kv_tokens=model.kv_tokens,
        latency=model.latency,
    )
