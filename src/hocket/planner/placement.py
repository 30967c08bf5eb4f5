"""From choices (how wide, how many, which share) to a plan with places: deterministic packing, the widest first."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from math import ceil
from typing import Literal, NamedTuple

from hocket.errors import InputError
from hocket.planner.demand import Demand, Role
from hocket.planner.inputs import USABLE, Cluster, Device, Model, Models
from hocket.planner.plan import EnginePlan, Law, Plan, ReplicaPlan

PARTS = 16
"shares are multiples of one over this"
WIDEST_WINDOW = 256
"calls that a replica runs at once at most: what engines are started with"
Mode = Literal["pack", "spread"]
MODES: tuple[Mode, ...] = ("pack", "spread")


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
    also: tuple[Choice, ...] = ()
    "replicas of another width or share"

    @property
    def groups(self) -> tuple[Choice, ...]:
        """Replicas of one width and share each."""
        return (self._replace(also=()), *self.also)

    @property
    def taken(self) -> int:
        """Parts of devices in all."""
        return sum(one.tensor_parallel * one.replicas * one.parts for one in self.groups)


def united(groups: Sequence[Choice]) -> Choice:
    """One choice of these groups: the largest first, equal ones counted together."""
    counts: dict[tuple[int, int], int] = defaultdict(int)
    for one in groups:
        counts[one.tensor_parallel, one.parts] += one.replicas
    alike = [Choice(degree, count, parts) for (degree, parts), count in counts.items()]
    first, *rest = sorted(alike, key=lambda one: (-one.taken, one))
    return first._replace(also=tuple(rest))


def units_of(demand: Demand, models: Models, split: Sequence[Role] = ()) -> list[Unit]:
    """A unit for each model that is asked for, and one for each role in `split`. Raises InputError: no such model."""
    units = []
    for name in demand.models:
        if name not in models.named:
            raise InputError(f"models: '{name}' is asked for, and not listed; there is {', '.join(models.named)}")
        roles = [role for role in demand.roles if role.model == name]
        apart = [role for role in roles if role in split][: len(roles) - 1]
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
    pool: int
    devices: tuple[int, ...]
    "of its pool"
    parts: int


class Packer:
    """Finds places for choices on one cluster. A domain whose devices differ is taken apart: pools of equal ones."""

    def __init__(self, units: Sequence[Unit], cluster: Cluster, law: Law = "ps", stacked: bool = True) -> None:
        """`stacked`: whether two replicas of one unit may share a device, where there is no other room."""
        self.units, self.law, self._stacked = units, law, stacked
        pools: dict[tuple[str, float], list[Device]] = defaultdict(list)
        for device in cluster.devices.values():
            pools[device.domain, device.memory_gib].append(device)
        self.pools = list(pools.values())
        self.parts = PARTS * len(cluster.devices)
        "that there are in all"
        self._least: dict[tuple[int, int], list[int]] = {}
        self._room: dict[tuple[int, int, int, int], tuple[int, int]] = {}

    def least(self, u: int, degree: int) -> list[int]:
        """The least parts at which a replica so wide fits, of each pool; above PARTS: not at all."""
        if (u, degree) not in self._least:
            self._least[u, degree] = [
                self.units[u].parts(pool[0].kind, degree, pool[0].memory_gib) if degree <= len(pool) else PARTS + 1
                for pool in self.pools
            ]
        return self._least[u, degree]

    def plans(self, choices: Sequence[Choice]) -> list[Plan]:
        """All different packings; none if there is no place."""
        found = [plan for mode in MODES if (plan := self.place(choices, mode)) is not None]
        return found[:1] if len(found) > 1 and found[0] == found[1] else found

    def place(self, choices: Sequence[Choice], mode: Mode = "pack") -> Plan | None:
        """A plan in which all replicas have a place; None if this packing finds none.

        `pack` fills devices one by one, `spread` takes the emptiest. What is left over of a device goes to who is
        there.
        """
        if sum(choice.taken for choice in choices) > self.parts:
            return None
        free = [(PARTS,) * len(pool) for pool in self.pools]
        sign = 1 if mode == "pack" else -1
        here = [[0] * len(self.pools) for _ in choices]  # bits of the devices that one of a unit's replicas is on
        placed: list[Placed] = []
        wanted = [
            (-one.tensor_parallel, -one.parts, u, one.replicas) for u, own in enumerate(choices) for one in own.groups
        ]
        for degree, parts, u, replicas in sorted(wanted):
            devices = list(self._replicas(u, Choice(-degree, replicas, -parts), sign, free, here[u]))
            placed += devices
            if len(devices) < replicas:
                return None
        return self._plan(_grown(placed, [list(own) for own in free]))

    def _replicas(
        self, u: int, choice: Choice, sign: int, free: list[tuple[int, ...]], here: list[int]
    ) -> Iterator[Placed]:
        """Each in the best pool; as many as have a place. Only the pool that one went to has to be ranked anew."""
        degree, replicas, parts, _ = choice
        ranks = []
        for pool, least in enumerate(self.least(u, degree)):
            found = self._best(free[pool], here[pool], degree, parts, sign) if least <= parts else None
            if found is not None:
                ranks.append((*found[:3], pool, found[3]))
        heapq.heapify(ranks)
        for _ in range(replicas):
            if not ranks:
                return
            *_, pool, taken = ranks[0]
            left = list(free[pool])
            for device in taken:
                left[device] -= parts
                here[pool] |= 1 << device
            free[pool] = tuple(left)
            yield Placed(u, pool, taken, parts)
            found = self._best(free[pool], here[pool], degree, parts, sign)
            if found is None:
                heapq.heappop(ranks)
            else:
                heapq.heapreplace(ranks, (*found[:3], pool, found[3]))

    def _best(
        self, free: tuple[int, ...], here: int, degree: int, parts: int, sign: int
    ) -> tuple[int, int, int, tuple[int, ...]] | None:
        """See `_best` of the module; none where replicas would be stacked and may not."""
        found = _best(free, here, degree, parts, sign)
        return found if found is None or self._stacked or not found[0] else None

    def _plan(self, placed: Sequence[Placed]) -> Plan:
        replicas: list[list[ReplicaPlan]] = [[] for _ in self.units]
        for u, pool, devices, parts in placed:
            names = [self.pools[pool][index].name for index in devices]
            window, tokens = self.room(u, pool, len(devices), parts)
            replicas[u].append(ReplicaPlan(names, parts / PARTS, len(devices), window, tokens))
        engines = [
            EnginePlan(unit.name, unit.model.name, own, list(unit.roles))
            for unit, own in zip(self.units, replicas, strict=True)
        ]
        return Plan(engines, self.law)

    def room(self, u: int, pool: int, degree: int, parts: int) -> tuple[int, int]:
        """The window of a replica that fills its share, and its KV tokens: what the weights leave is KV cache."""
        key = u, pool, degree, parts
        if key not in self._room:
            unit = self.units[u]
            memory = USABLE * parts / PARTS * self.pools[pool][0].memory_gib * degree - unit.model.weights_gib
            tokens = int(memory * 2**30 / unit.model.kv_bytes_per_token * (1 - 1e-9))
            self._room[key] = max(1, min(WIDEST_WINDOW, int(tokens / unit.held))), tokens
        return self._room[key]


def place(
    units: Sequence[Unit], choices: Sequence[Choice], cluster: Cluster, mode: Mode = "pack", law: Law = "ps"
) -> Plan | None:
    """See `Packer.place`."""
    return Packer(units, cluster, law).place(choices, mode)


@lru_cache(maxsize=1 << 16)
def _best(
    free: tuple[int, ...], here: int, degree: int, parts: int, sign: int
) -> tuple[int, int, int, tuple[int, ...]] | None:
    """The devices of a pool for one replica, behind what they are ranked by: lower is better. None: no room.

    `free` parts of each device; `here`: bits of those that have a replica of the same unit already.
    """
    fitting = [device for device, left in enumerate(free) if left >= parts]
    if len(fitting) < degree:
        return None
    fitting.sort(key=lambda device: (here >> device & 1, sign * free[device]))
    taken = tuple(sorted(fitting[:degree]))
    twice = sum(here >> device & 1 for device in taken)
    return twice, sign * sum(free[device] for device in taken), sign * sum(free), taken


def _grown(placed: Sequence[Placed], free: list[list[int]]) -> list[Placed]:
    """Hand out what is left over of the devices to who is there, a part at a time."""
    parts, growing = [one.parts for one in placed], list(range(len(placed)))
    while growing:
        still = []
        for index in growing:
            left = free[placed[index].pool]
            if all(left[device] for device in placed[index].devices):
                parts[index] += 1
                still.append(index)
                for device in placed[index].devices:
                    left[device] -= 1
        growing = still
    return [one._replace(parts=own) for one, own in zip(placed, parts, strict=True)]
