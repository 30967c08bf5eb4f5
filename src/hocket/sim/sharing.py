"""Replicas that share devices slow each other, by a law.

`ps`: processor sharing. A device gives its speed to those of its replicas that are at work, in proportion to their
shares; while more than one is, a twentieth is lost. What time-slicing does, or MPS without limits. `capped`: each moves
at its share always, whoever else is at work. MPS with percentages. A replica on several devices (tensor parallelism)
moves at the speed of its slowest.

A replica that shares lives by a clock of its own, which runs at the speed that it has; the driver's ticks are turned
into its own and back. So the engine model itself knows nothing of neighbours. (What running calls report, they report
by that clock, too.)
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Generic, Literal

import msgspec

from hocket.sim.engine import R, Replica
from hocket.sim.model import EngineModel

Law = Literal["ps", "capped"]
ROUNDING = 1e-6
"of shares"
LOST = 0.05
"of a device's speed under `ps`, while more than one of its replicas is at work"


class Placement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where one replica is."""

    devices: tuple[str, ...]
    share: float = 1.0
    "of each of them, above 0 to 1"
    model: EngineModel | None = None
    "what it is, where it differs from its engine's other replicas"


class Sharing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which replicas are where, in the order in which a simulation lists them, and how they slow each other."""

    placements: list[Placement]
    law: Law = "ps"

    def __post_init__(self) -> None:
        """Check what types cannot say. An error begins with its key."""
        shares: dict[str, float] = defaultdict(float)
        for i, placement in enumerate(self.placements):
            if not placement.devices or len(set(placement.devices)) < len(placement.devices):
                raise ValueError(f"`placements[{i}].devices`: {list(placement.devices)}; name each device once")
            if not 0.0 < placement.share <= 1.0:
                raise ValueError(f"`placements[{i}].share`: {placement.share}; use a number above 0, to 1")
            for device in placement.devices:
                shares[device] += placement.share
                if shares[device] > 1.0 + ROUNDING:
                    problem = f"shares of '{device}' add up to {shares[device]:.3g}; a device has 1 to give"
                    raise ValueError(f"`placements[{i}].share`: {problem}")


class SharedReplica(Generic[R]):
    """A replica whose clock runs at the speed that its devices have for it. To a driver it is like any other.

    Its clock stands while it rests. Where the clock is counted from moves at boundaries and changes of speed alone: it
    rounds, and a boundary that a driver was told of must not move unsaid.
    """

    def __init__(self, inner: Replica[R], place: int, devices: Devices[R]) -> None:
        self.model, self.name = inner.model, inner.name
        self.running, self.displaced = inner.running, inner.displaced
        self.ends: int | None = None  # the next boundary, in the driver's ticks
        self.at_work = False
        self.speed = 1.0
        self._inner, self._place, self._devices = inner, place, devices
        self._waiting, self._most = inner.waiting, inner.model.max_concurrency
        self._at = self._own = 0  # one moment, in the driver's ticks and in its own

    def paced(self, at: int, speed: float) -> bool:
        """From `at` on it moves at `speed`. Whether its boundary is at another time now."""
        if speed == self.speed:
            return False
        self._own = self._clock(at)
        self._at, self.speed = at, speed
        self._timed()
        return self.ends is not None

    def _clock(self, at: int) -> int:
        """The driver's `at` in its own ticks."""
        ends, shown = self._inner.ends, self.ends
        if ends is None or shown is None:  # no time passes: it rests, or is between two runs
            self._at = at
            return self._own
        if at >= shown:
            return ends  # a boundary is met exactly, and not before
        if at == self._at:
            return self._own
        # up, or what begins now would have ended before
        return min(self._own + math.ceil((at - self._at) * self.speed), ends - 1)

    def _timed(self) -> None:
        """Say in the driver's ticks when the boundary is."""
        ends = self._inner.ends
        self.ends = None if ends is None else self._at + math.ceil((ends - self._own) / self.speed)

    # ---------------------------------------------------------------- as of a `Replica`

    def send(self, request: R, at: int) -> bool:
        """See `Replica.send`."""
        if not self.at_work:
            self.at_work = True
            self._at, self.speed = at, self._devices.speed(self._place)
            self._devices.worked(self._place, at)
        elif self._waiting or len(self.running) >= self._most:
            return self._inner.send(request, 0)  # it must wait, so the time is no matter
        moved = self._inner.send(request, self._clock(at))
        if moved:
            self._timed()
        return moved

    def remove(self, request: R, at: int) -> bool:
        """See `Replica.remove`."""
        moved = self._inner.remove(request, self._clock(at))
        if moved:
            self._timed()
        return moved

    def preempt(self, request: R, at: int) -> bool:
        """See `Replica.preempt`."""
        off = self._inner.preempt(request, self._clock(at))
        self._timed()
        return off

    def tokens(self, request: R, at: int) -> int:
        """See `Replica.tokens`."""
        return self._inner.tokens(request, self._clock(at))

    def credit(self, at: int) -> tuple[list[tuple[R, int]], list[R]]:
        """See `Replica.credit`."""
        self._own = self._clock(at)
        self._at, self.ends = at, None
        credited = self._inner.credit(self._own)
        self.displaced = self._inner.displaced
        return credited

    def ready(self) -> bool:
        """See `Replica.ready`."""
        return self._inner.ready()

    def begin(self, at: int) -> list[R]:
        """See `Replica.begin`."""
        admitted = self._inner.begin(self._clock(at))
        self._timed()
        if not (self.running or self._waiting):
            self.at_work = False
            self._devices.worked(self._place, at)
        return admitted


class Devices(Generic[R]):
    """What the replicas of one simulation run on, and how fast each may move."""

    def __init__(self, replicas: Sequence[Replica[R]], sharing: Sharing, moved: Callable[[int], None]) -> None:
        """`moved` is told the place of a replica whose boundary is at another time now."""
        self._placements, self._law, self._moved = sharing.placements, sharing.law, moved
        self._on: dict[str, list[int]] = defaultdict(list)
        for place, placement in enumerate(sharing.placements):
            for device in placement.devices:
                self._on[device].append(place)
        self.replicas = [SharedReplica(replica, place, self) for place, replica in enumerate(replicas)]
        near = [
            sorted({other for device in placement.devices for other in self._on[device] if other != place})
            for place, placement in enumerate(sharing.placements)
        ]
        #: of each replica, those whose speed it moves
        self._near = near if sharing.law == "ps" else [[] for _ in near]
        # Sets of replicas are bits of a number: few of them recur, so a speed is looked up.
        self._beside = [sum(1 << other for other in others) for others in near]
        self._working = 0
        self._speeds: list[dict[int, float]] = [{} for _ in near]
        for place, shared in enumerate(self.replicas):
            shared.speed = self.speed(place)

    def worked(self, place: int, at: int) -> None:
        """A replica has begun to work, or has nothing more to do: that moves its neighbours."""
        self._working ^= 1 << place
        for near in self._near[place]:
            replica = self.replicas[near]
            if replica.at_work and replica.paced(at, self.speed(near)):
                self._moved(near)

    def speed(self, place: int) -> float:
        """How fast a replica moves while it is at work, as a share of one that has its devices to itself."""
        if self._law == "capped":
            return self._placements[place].share
        beside = self._working & self._beside[place]
        found = self._speeds[place].get(beside)
        if found is None:
            found = min(self._part(device, place) for device in self._placements[place].devices)
            self._speeds[place][beside] = found
        return found

    def _part(self, device: str, place: int) -> float:
        rivals = [other for other in self._on[device] if other == place or self._working >> other & 1]
        if len(rivals) == 1:
            return 1.0
        return (1.0 - LOST) * self._placements[place].share / sum(self._placements[other].share for other in rivals)


def replicas_of(
    engines: Sequence[EngineModel], report: bool, sharing: Sharing | None, moved: Callable[[int], None]
) -> Sequence[Replica[R] | SharedReplica[R]]:
    """All replicas of `engines`, in their order. See `Replica` for `report`, `Devices` for `moved`."""
    listed = [(engine, f"{engine.name}/{i}") for engine in engines for i in range(engine.replicas)]
    if sharing is None:
        return [Replica(engine, name, report) for engine, name in listed]
    placed = zip(listed, sharing.placements, strict=True)
    replicas: list[Replica[R]] = [Replica(own.model or engine, name, report) for (engine, name), own in placed]
    return Devices(replicas, sharing, moved).replicas
