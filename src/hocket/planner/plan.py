"""`plan.json`: engines x (parallelism, replicas, share of a device, place), and the checker that every plan passes.

The checker knows the rules and nothing of any search: whatever made a plan, a bad one is not written and not run.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from hocket.core.spec import Route
from hocket.errors import InputError
from hocket.planner.inputs import USABLE, Cluster, Device, Model, Models
from hocket.settings.plan import PlannedFor
from hocket.sim.sharing import ROUNDING

Law = Literal["ps", "capped"]


class ReplicaPlan(Struct, frozen=True):
    """One server process."""

    devices: list[str]
    "as many as `tensor_parallel`, of one fast domain"
    share: float
    "of each of them, above 0 to 1: of its memory for good, of its speed as the law says"
    tensor_parallel: int
    max_concurrency: int
    kv_tokens: int


class EnginePlan(Struct, frozen=True):
    """One engine: a model, or one of its roles."""

    name: str
    model: str
    replicas: list[ReplicaPlan]
    roles: list[str] = []
    "stages that it serves where a model is served in several roles; empty = all that ask for the model"


class Plan(Struct, frozen=True):
    """All of `plan.json`."""

    engines: list[EnginePlan]
    law: Law = "ps"
    "how engines that share a device slow each other"
    predicted: dict[str, Any] = {}
    simulated: dict[str, Any] = {}
    bound: dict[str, Any] = {}
    demand: PlannedFor | None = None
    "what it was made for: arrivals and mean tokens"


def load_plan(path: str | Path) -> Plan:
    """Read `plan.json`, or the one in a folder. Raises InputError."""
    file = Path(path)
    file = file / "plan.json" if file.is_dir() else file
    try:
        return msgspec.json.decode(file.read_bytes(), type=Plan)
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); check the path") from None
    except msgspec.MsgspecError as error:
        raise InputError(f"{file}: not a plan: {error}; make one with `hocket plan`") from None


def as_json(plan: Plan) -> str:
    """The text of `plan.json`."""
    return msgspec.json.format(msgspec.json.encode(plan), indent=1).decode() + "\n"


def check(plan: Plan, cluster: Cluster, models: Models) -> None:
    """Raise InputError, which names every rule that is broken, unless `plan` can be deployed on `cluster`."""
    problems = list(problems_of(plan, cluster, models))
    if problems:
        raise InputError("the plan cannot be deployed: " + "; ".join(problems))


def problems_of(plan: Plan, cluster: Cluster, models: Models) -> Iterator[str]:
    """What is wrong with `plan`, in words; nothing if it can be deployed."""
    if not plan.engines:
        yield "there is no engine"
    names = [engine.name for engine in plan.engines]
    served: dict[str, list[EnginePlan]] = defaultdict(list)
    for i, engine in enumerate(plan.engines):
        served[engine.model].append(engine)
        if engine.name in names[:i]:
            yield f"engine '{engine.name}' is there twice"
        yield from _engine_problems(engine, cluster, models.named)
    for model, engines in served.items():
        yield from _role_problems(model, engines)
    shares: dict[str, float] = defaultdict(float)
    for engine in plan.engines:
        for replica in engine.replicas:
            for name in replica.devices:
                shares[name] += replica.share
    for name, share in shares.items():
        if share > 1 + ROUNDING:
            yield f"{name}: shares add up to {share:.3f}"


def _role_problems(model: str, engines: list[EnginePlan]) -> Iterator[str]:
    """A call has to have one engine: by its role, or the one for all that have none."""
    rest = [engine.name for engine in engines if not engine.roles]
    if not rest:
        yield f"{model}: each of its engines has roles; leave one without, for the calls of other stages"
    if len(rest) > 1:
        yield f"{model}: {', '.join(rest)} have no roles, so one would get all calls; make them replicas of one engine"
    for role, count in Counter(role for engine in engines for role in engine.roles).items():
        if count > 1:
            yield f"{model}: role '{role}' is there twice; give it to one engine"


def routes_of(plan: Plan) -> list[Route]:
    """Which stages go where. The first that matches counts: of a role, "rag/rerank" comes before "rerank".

    An engine without roles gets the other calls of its model: by a route, unless it is the model's first.
    """
    own, shared, rest = list[Route](), list[Route](), list[Route]()
    first: dict[str, str] = {}
    for engine in plan.engines:
        name, model = engine.name, engine.model
        for role in engine.roles:
            app, _, stage = role.rpartition("/")
            (own if app else shared).append(Route(name, app or None, stage, model))
        if first.setdefault(model, name) != name and not engine.roles:
            rest.append(Route(name, model=model))
    return [*own, *shared, *rest]


def _engine_problems(engine: EnginePlan, cluster: Cluster, models: dict[str, Model]) -> Iterator[str]:
    model = models.get(engine.model)
    if model is None:
        yield f"{engine.name}: there is no model '{engine.model}'; there is {', '.join(models)}"
        return
    if not engine.replicas:
        yield f"{engine.name}: no replica"
    for k, replica in enumerate(engine.replicas):
        where = f"{engine.name}, replica {k}"
        unknown = [device for device in replica.devices if device not in cluster.devices]
        if unknown or not replica.devices:
            yield f"{where}: no device {', '.join(unknown)}"
            continue
        devices = [cluster.devices[device] for device in replica.devices]
        for problem in _replica_problems(replica, devices, model):
            yield f"{where}: {problem}"


def _replica_problems(replica: ReplicaPlan, devices: list[Device], model: Model) -> Iterator[str]:
    degree = replica.tensor_parallel
    if len(devices) != degree or len(set(devices)) != len(devices):
        yield f"tensor parallelism {degree} on {len(set(devices))} devices"
        return
    if len({device.domain for device in devices}) > 1:
        yield f"its devices are of several fast domains: {', '.join(sorted({device.domain for device in devices}))}"
    kind = devices[0].kind
    if degree not in model.latency.get(kind, {}):
        yield f"there is no table for {kind} at tensor parallelism {degree}"
    if not 0.0 < replica.share <= 1.0:
        yield f"share {replica.share}; it is above 0, to 1"
    if replica.max_concurrency < 1 or replica.kv_tokens < 1:
        yield f"max_concurrency {replica.max_concurrency} and kv_tokens {replica.kv_tokens}; both are 1 or more"
    needed = model.memory_gib(degree, replica.kv_tokens)
    for device in devices:
        has = USABLE * device.memory_gib * replica.share
        if needed > has * (1 + ROUNDING):
            yield f"needs {needed:.2f} GiB of {device.name}, its share has {has:.2f}"
