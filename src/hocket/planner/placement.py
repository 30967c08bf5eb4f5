"""From choices (how wide, how many, which share) to a plan with places: deterministic packing, the widest first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from math import ceil
from typing import Literal, NamedTuple

from hocket.errors import InputError
from hocket.planner.demand import Demand
from hocket.planner.inputs import USABLE, Cluster, Device, Model, Models
from hocket.planner.plan import EnginePlan, Law, Plan, ReplicaPlan

PARTS = 8
"shares are multiples of one over this"
WIDEST_WINDOW = 256
"calls that a replica runs at once at most: what engines are started with"
Mode = Literal["pack", "spread"]


class Unit(NamedTuple):
    """What is to be served by one engine: a model, or some roles of it."""

    name: str
    model: Model
    roles: tuple[str, ...]
    held: float
    "KV tokens of a call, mean"
    longest: int
    "KV tokens of the longest call: less memory and it could not run"

    def parts(self, kind: str, degree: int, memory_gib: float) -> int:
        """The least parts of each of `degree` devices that hold the weights and the longest call. Above PARTS: none."""
        if degree not in self.model.latency.get(kind, {}):
            return PARTS + 1
        return max(1, ceil(self.model.memory_gib(degree, self.longest) / (USABLE * memory_gib) * PARTS - 1e-9))


class Choice(NamedTuple):
    """How one unit is served."""

    tensor_parallel: int
    replicas: int
    parts: int
    "of each device, of PARTS"


def units_of(demand: Demand, models: Models, split: Sequence[str] = ()) -> list[Unit]:
    """A unit for each model that is asked for, and one for each role in `split`. Raises InputError: no such model."""
    units = []
    for name in demand.models:
        if name not in models.named:
            raise InputError(f"models: '{name}' is asked for, and not listed; there is {', '.join(models.named)}")
        roles = [role for role in demand.roles if role.model == name]
        apart = [role for role in roles if role.name in split][: len(roles) - 1]
        for index, group in enumerate([[role for role in roles if role not in apart], *([role] for role in apart)]):
            tokens = sum(role.calls * role.output_tokens for role in group)
            held = sum(role.calls * role.output_tokens * role.kv_tokens for role in group) / tokens
            own = () if not index else (group[0].name,)
            title = name if not index else f"{name}-{group[0].app}-{group[0].stage}"
            units.append(Unit(title, models.named[name], own, held, max(role.longest_tokens for role in group)))
    return units


class Placed(NamedTuple):
    """A replica with its devices."""

    unit: int
    devices: tuple[int, ...]


def place(
    units: Sequence[Unit], choices: Sequence[Choice], cluster: Cluster, mode: Mode = "pack", law: Law = "ps"
) -> Plan | None:
    """A plan in which all replicas have a place; None if this packing finds none.

    `pack` fills devices one by one, `spread` takes the emptiest. What is left over of a device goes to who is there.
    """
    devices = list(cluster.devices.values())
    domains: dict[str, list[int]] = defaultdict(list)
    for index, device in enumerate(devices):
        domains[device.domain].append(index)
    free = [PARTS] * len(devices)
    here: list[set[int]] = [set() for _ in devices]
    placed: list[Placed] = []
    wanted = [(-choice.tensor_parallel, -choice.parts, unit) for unit, choice in enumerate(choices)]
    for _, _, unit in sorted(wanted):
        choice = choices[unit]
        for _ in range(choice.replicas):
            found = _find(units[unit], unit, choice, devices, domains, free, here, mode)
            if found is None:
                return None
            for index in found:
                free[index] -= choice.parts
                here[index].add(unit)
            placed.append(Placed(unit, found))
    parts = _grow(placed, [choices[one.unit].parts for one in placed], free)
    return _plan(units, placed, parts, devices, law)


def _find(
    unit: Unit,
    number: int,
    choice: Choice,
    devices: Sequence[Device],
    domains: dict[str, list[int]],
    free: Sequence[int],
    here: Sequence[set[int]],
    mode: Mode,
) -> tuple[int, ...] | None:
    """The best devices of one domain."""
    sign = 1 if mode == "pack" else -1
    best: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    for own in domains.values():
        device = devices[own[0]]
        if unit.parts(device.kind, choice.tensor_parallel, device.memory_gib) > choice.parts:
            continue
        fitting = [index for index in own if free[index] >= choice.parts]
        if len(fitting) < choice.tensor_parallel:
            continue
        fitting.sort(key=lambda index: (number in here[index], sign * free[index], index))
        taken = tuple(sorted(fitting[: choice.tensor_parallel]))
        twice = sum(number in here[index] for index in taken)
        rank = (twice, sign * sum(free[index] for index in taken), sign * sum(free[index] for index in own), own[0])
        if best is None or rank < best[0]:
            best = rank, taken
    return None if best is None else best[1]


def _grow(placed: Sequence[Placed], parts: list[int], free: list[int]) -> list[int]:
    """Hand out what is left over, a part at a time."""
    grown = True
    while grown:
        grown = False
        for index, one in enumerate(placed):
            if all(free[device] for device in one.devices):
                parts[index] += 1
                grown = True
                for device in one.devices:
                    free[device] -= 1
    return parts


def _plan(
    units: Sequence[Unit], placed: Sequence[Placed], parts: Sequence[int], devices: Sequence[Device], law: Law
) -> Plan:
    replicas: dict[int, list[ReplicaPlan]] = defaultdict(list)
    for one, share in zip(placed, parts, strict=True):
        on = [devices[index] for index in one.devices]
        replicas[one.unit].append(replica_plan(units[one.unit], on, share / PARTS))
    engines = [
        EnginePlan(unit.name, unit.model.name, replicas[index], list(unit.roles)) for index, unit in enumerate(units)
    ]
    return Plan(engines, law)


def replica_plan(unit: Unit, devices: Sequence[Device], share: float) -> ReplicaPlan:
    """A replica that fills its share: what the weights leave is KV cache, and the window is what that holds."""
    degree = len(devices)
    memory = USABLE * share * min(device.memory_gib for device in devices) * degree - unit.model.weights_gib
    tokens = int(memory * 2**30 / unit.model.kv_bytes_per_token * (1 - 1e-9))
    window = max(1, min(WIDEST_WINDOW, int(tokens / unit.held)))
    return ReplicaPlan([device.name for device in devices], share, degree, window, tokens)
