"""An analytic estimate of plans: how much they carry, and how long jobs take at a rate. Milliseconds for many plans.

Mean values, by Little's law. A replica's step lasts as its batch and its neighbours on the device make it last; its
batch is what arrives in so many steps: a fixed point, found from below, so that it is the stable one. What a job then
sees is that background and its own parallel calls. Its latency is the longest path over its graph, for each of a sample
of recorded jobs. Queueing: calls that find no room in the window (an Allen-Cunneen formula for many servers), prompts
that find others ahead (Pollaczek-Khinchine, whole groups arriving at once).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from hocket.core.latency import Latency
from hocket.planner.demand import Demand, Floats, Ints
from hocket.planner.inputs import Cluster, Models
from hocket.planner.plan import EnginePlan, Plan
from hocket.planner.shape import Shape, Shapes, held_by
from hocket.sim.sharing import LOST

ROUNDS = 40
"of the fixed point"
LEAST = 0.1
"of its calls that a run has at least"
LONG_S = 1e4
"of a load that lasts"
AT_WORK, BATCH = 0.7, 16.0
"of the time that neighbours work, and calls in a batch: taken for granted where replicas are weighed by their speed"
NO_TOKENS = 1e-9
"held by a call of an engine that nobody calls: its window is bounded by its slots alone"
CONSTANTS = ("q0", "q1", "q2", "d0", "d1", "d2")


class Fleet(NamedTuple):
    """The engines of one plan, as arrays over engines."""

    constants: Floats
    "(6, engines): of the engine model, mean over replicas, each by the calls that it takes; so are all the others"
    replicas: Floats
    window: Floats
    "calls that a replica runs at once: by its KV cache and its max_concurrency, mean"
    apart: Floats
    "how much slower replicas are with their devices to themselves: 1, or 1 / share where speeds are capped"
    rivals: Floats
    "(engines, engines): speed that the neighbours of one engine take while they work, as a multiple of its own"
    most: Floats
    "what they take on the worst of an engine's devices when all of them work: a replica is as slow as its slowest one"
    near: Floats
    "(engines, engines): on how many of its devices there are such neighbours, each another one"


class Estimate(NamedTuple):
    """Of one plan at one rate."""

    utilisation: Floats
    "of each engine: 1 and more is overload"
    batch: Floats
    "calls that a replica decodes, mean while it works"
    step_s: Floats
    "of a decode step of each engine"
    slow: Floats
    "how much slower its neighbours make each engine"
    wait_s: Floats
    "of a call for room in a window, by engine"
    times: Floats
    "seconds of each group"
    mean_s: Floats
    "latency of each application"
    p95_s: Floats


def engines_of(demand: Demand, engines: Sequence[EnginePlan]) -> Ints:
    """Which engine serves each role (-1: none), as routes do: a stage of an application, a stage, else the model's."""
    own: dict[tuple[str, str], int] = {}
    for index, engine in enumerate(engines):
        for role in engine.roles or [""]:
            own[engine.model, role] = index
    found = [
        next((own[role.model, key] for key in (role.name, role.stage, "") if (role.model, key) in own), -1)
        for role in demand.roles
    ]
    return np.array([*found, -1], dtype=np.int64)


def fleet_of(plan: Plan, cluster: Cluster, models: Models, demand: Demand) -> Fleet:
    """The arrays of a plan that `problems_of` finds nothing wrong with."""
    serving, count = engines_of(demand, plan.engines), len(plan.engines)
    held = held_by(demand, serving[demand.groups.role], count)
    listed = [(u, engine, replica) for u, engine in enumerate(plan.engines) for replica in engine.replicas]
    place = {name: number for number, name in enumerate(cluster.devices)}
    engine = np.array([u for u, _, _ in listed])
    share = np.array([replica.share for _, _, replica in listed])
    whose = np.repeat(np.arange(len(listed)), [len(replica.devices) for _, _, replica in listed])
    device = np.array([place[name] for _, _, replica in listed for name in replica.devices])
    rows = np.array(
        [
            _row(models.named[own.model].latency[cluster.devices[replica.devices[0]].kind][replica.tensor_parallel])
            for _, own, replica in listed
        ]
    )
    room = np.array([(replica.max_concurrency, replica.kv_tokens) for _, _, replica in listed], dtype=float)
    window = np.maximum(1.0, np.minimum(room[:, 0], room[:, 1] / np.maximum(held[engine], NO_TOKENS)))
    there = np.zeros((len(listed), len(place)))  # 1 where a replica is
    there[whose, device] = 1.0
    of = (engine == np.arange(count)[:, None]).astype(float)  # (engines, replicas): 1 where a replica is an engine's
    beside, worst, stacked, met = _beside(of, there, share, whose, device)
    slow = 1.0 / share if plan.law == "capped" else 1.0 + AT_WORK * worst
    speed = 1.0 / ((rows[:, 3] / BATCH + rows[:, 4]) * slow)
    parts = of * (speed / (of @ speed)[engine])  # of its engine's calls: the least loaded is asked, so by their speed
    replicas, none = of.sum(axis=1), np.zeros((count, count))
    if plan.law == "capped":
        return Fleet((parts @ rows).T, replicas, parts @ window, parts @ (1.0 / share), none, np.zeros(count), none)
    rivals, near = parts @ beside.T, parts @ (met / stacked).T
    return Fleet((parts @ rows).T, replicas, parts @ window, np.ones(count), rivals, parts @ worst, near)


def _beside(
    of: Floats, there: Floats, share: Floats, whose: Ints, device: Ints
) -> tuple[Floats, Floats, Floats, Floats]:
    """Each replica's neighbours, by engine: shares over its own on the worst of its devices (and what all of them come
    to there); how many are on one device at most, and how many there are.

    `whose`, `device`: the devices of all replicas in a row.
    """
    first = np.searchsorted(whose, np.arange(len(share)))
    shares = ((of * share) @ there)[:, device] - of[:, whose] * share[whose]
    counts = (of @ there)[:, device] - of[:, whose]
    worst = np.maximum.reduceat(shares.sum(axis=0), first) / share
    stacked = np.maximum(1.0, np.maximum.reduceat(counts, first, axis=1))
    met = of @ ((there @ there.T > 0.0) & ~np.eye(len(share), dtype=bool))
    return np.maximum.reduceat(shares, first, axis=1) / share, worst, stacked, met


@lru_cache(maxsize=1 << 12)
def _row(latency: Latency) -> tuple[float, ...]:
    return tuple(getattr(latency, name) for name in CONSTANTS)


def _between(step: Floats, filled: Floats, most: Floats) -> Floats:
    """Seconds of a step with the prompts between steps, which take a share `filled` of the time; `most` seconds."""
    return np.asarray(step + np.minimum(step * filled / np.maximum(1.0 - filled, 1e-9), most))


def _quantile(values: Floats, shares: Floats, q: float) -> Floats:
    """Along the first axis, of values that stand for such shares; between two of them by how near each is."""
    order = np.argsort(values, axis=0)
    found, weight = np.take_along_axis(values, order, 0), shares[order]
    places = np.cumsum(weight, axis=0) - weight / 2.0
    high = np.clip((places < q).sum(axis=0), 1, len(values) - 1)[None]
    (low_at, at), (low, up) = ([np.take_along_axis(one, k, 0)[0] for k in (high - 1, high)] for one in (places, found))
    part = np.clip((q - low_at) / np.maximum(at - low_at, 1e-12), 0.0, 1.0)
    return np.asarray(low + part * (up - low))


class Estimator:
    """Estimates plans whose engines serve the same roles. `serving`: see `engines_of`."""

    def __init__(self, demand: Demand, serving: Ints, engines: int, horizon_s: float | None = None) -> None:
        """`horizon_s`: how long the load lasts; by then an overloaded engine's queue is so long, and no longer."""
        self.demand, self.engines, self.horizon_s = demand, engines, horizon_s
        self.unit = serving[demand.groups.role]
        self._llm = self.unit >= 0
        self._at = np.where(self._llm, self.unit, 0)
        self._jobs = [np.unique(demand.groups.job[demand.groups.app == app]) for app in range(len(demand.apps))]
        self._by_job = np.argsort(demand.groups.job, kind="stable")
        self._first = np.unique(demand.groups.job[self._by_job], return_index=True)[1]
        self._shapes = Shapes(demand, self.unit, engines)

    def shape(self, fleet: Fleet) -> Shape:
        """What the calls of each engine look like."""
        return self._shapes.of(fleet.constants, fleet.replicas)

    # ---------------------------------------------------------------- the fixed point

    def estimate(self, fleets: Sequence[Fleet], scales: Sequence[float] | Floats) -> Estimate:
        """Of each fleet at `scales` times the rates of the demand: arrays (fleets, scales, ...).

        `scales`: the same for all, or of each fleet its own (fleets, scales).
        """
        stack = Fleet(*(np.stack(column)[:, None] for column in zip(*fleets, strict=True)))
        shape = Shape(*(np.stack(column)[:, None, :] for column in zip(*map(self.shape, fleets), strict=True)))
        scale = np.atleast_2d(np.asarray(scales, dtype=float))[..., None]
        state = self._settle(stack, shape, scale)
        times = self._times(stack, shape, scale, state)
        mean_s, p95_s = self.latency(times)
        return Estimate(
            state["utilisation"],
            state["batch"],
            state["step"],
            state["slow"],
            state["wait"],
            np.moveaxis(times, 0, -1),
            mean_s,
            p95_s,
        )

    def _settle(self, fleet: Fleet, shape: Shape, scale: Floats) -> dict[str, Floats]:
        q0, _, _, d0, d1, d2 = np.moveaxis(fleet.constants, 2, 0)
        calls = shape.calls / fleet.replicas * scale  # a second to a replica
        window, own = fleet.window, np.minimum(shape.own, fleet.window)
        slow = np.broadcast_to(fleet.apart, calls.shape)
        coming = np.ones_like(calls)  # of the calls: a run begins without those of jobs that would be under way
        seen, busy = np.zeros_like(calls), np.zeros_like(calls)  # decoding calls of other jobs; share of time at work
        own_kin, lasting = np.eye(self.engines), np.zeros_like(calls)
        mean_seen, left = np.zeros_like(calls), np.ones_like(calls)  # over the run so far; what share is left of it
        # Replicas that work on the same group work at the same time: on several devices, and no more often than on one.
        apart = fleet.near / (1.0 + shape.kin[..., None, :] * np.maximum(fleet.near - 1.0, 0.0))
        for _ in range(ROUNDS):
            others = busy[..., None, :] + own_kin * np.maximum(shape.kin - busy, 0.0)[..., None, :]
            idle = np.log1p(-others) * apart  # log of the chance that no such neighbour is at work
            taken = fleet.rivals * -np.expm1(idle)
            stretch = (taken * (lasting / (1.0 - busy))[..., None, :]).sum(axis=-1) / np.maximum(
                taken.sum(axis=-1), 1e-9
            )
            slow = self._slowed(fleet.most, np.minimum(taken.sum(axis=-1), fleet.most), lasting / slow, stretch)
            slow = fleet.apart * slow * (1.0 - np.expm1(idle.sum(axis=-1)) * LOST / (1.0 - LOST))
            rate, groups = calls * coming, shape.groups * scale * coming
            filled = rate * shape.prefill * slow
            most = window / np.maximum(shape.steps, 1.0) * shape.prefill * slow  # prompts a step, in a full window
            prompts = rate * shape.prefill / np.maximum(groups, 1e-300)
            first = (q0 + prompts) * slow
            step = _between((d0 + (d1 + d2 * shape.held) * np.minimum(seen + own, window)) * slow, filled, most)
            lasting = first + np.maximum(1.0, shape.own / window) * shape.longest * step
            behind = self._behind(shape, filled, slow, window)
            if self.horizon_s is not None:
                now = np.minimum(left, shape.visits * lasting / self.horizon_s)
                mean_seen, left = mean_seen + now * seen, left - now
                utilisation = rate * self._full(fleet, shape, slow)
                queued = self._wait(fleet, shape, utilisation, slow)
                took = (shape.visits * (lasting + behind + queued)).sum(axis=-1, keepdims=True)
                coming = 0.5 * coming + 0.5 * np.maximum(1.0 - 0.5 * shape.biased * took / self.horizon_s, LEAST)
            seen = np.minimum(rate * (shape.steps * step), window)
            # Prompts follow one another: they take their share of the time. Groups that decode do so side by side.
            rests = np.maximum(1.0 - filled, 0.0) * np.exp(-groups * (lasting - prompts * slow))
            busy = np.minimum(1.0 - rests, 1.0 - 1e-9)
        if self.horizon_s is not None:
            seen = mean_seen + left * seen
        batch = np.minimum(seen + own, window)
        step = _between((d0 + (d1 + d2 * shape.held) * batch) * slow, filled, most)
        utilisation = rate * self._full(fleet, shape, slow)
        return {
            "utilisation": calls * self._full(fleet, shape, slow),
            "seen": seen,
            "batch": batch,
            "slow": slow,
            "filled": filled,
            "most": most,
            "behind": behind,
            "step": step,
            "busy": busy,
            "wait": self._wait(fleet, shape, utilisation, slow),
        }

    @staticmethod
    def _full(fleet: Fleet, shape: Shape, slow: Floats) -> Floats:
        """Seconds of a call in a full window, over its calls."""
        q0, _, _, d0, d1, d2 = np.moveaxis(fleet.constants, 2, 0)
        step = d0 + (d1 + d2 * shape.held) * fleet.window
        took = shape.steps * step + fleet.window * shape.prefill + q0 * (shape.steps == 0)
        return np.asarray(took * slow / fleet.window)

    def _behind(self, shape: Shape, filled: Floats, slow: Floats, window: Floats) -> Floats:
        """Seconds of others' prompts ahead of a call. The more is to do, the more it matters that groups flock."""
        burst = shape.burst + np.minimum(filled, 1.0) * (shape.flock - shape.burst)
        return np.minimum(self._work(filled, filled * burst * slow), window * shape.prefill * slow)

    @staticmethod
    def _slowed(most: Floats, taken: Floats, service: Floats, stretch: Floats) -> Floats:
        """How much longer a service takes beside neighbours that take `taken` on average, `most` if all work.

        A short one meets its neighbours as they are: the mean of the slowdown. A long one sees them come and go: one
        over the mean of the speed. `service`, alone, and `stretch`, for which neighbours work, are seconds.
        """
        works = np.divide(taken, most, out=np.zeros_like(taken), where=most > 0.0)
        speed = 1.0 - works + works / (1.0 + most)
        long = 0.5 * service / np.maximum(service + stretch, 1e-12)
        return long / speed + (1.0 - long) * (1.0 + taken)

    def _wait(self, fleet: Fleet, shape: Shape, load: Floats, slow: Floats) -> Floats:
        """Seconds until there is room in a window.

        How likely it is that a call waits: Sakasegawa's formula, the servers of which slow each other here. What it
        then waits for is work of jobs, each of which comes back so often.
        """
        _, _, _, d0, d1, d2 = np.moveaxis(fleet.constants, 2, 0)
        each = d1 + d2 * shape.held
        slowed = (d0 + each * fleet.window) / (d0 + each + 1e-300)
        slots = np.maximum(fleet.window * fleet.replicas, 1.0)
        likely = np.minimum(load, 1.0) ** (np.sqrt(2.0 * (slots + 1.0) * np.maximum(slowed, 1.0)) - 1.0)
        a_call = self._full(fleet, shape, slow) / fleet.replicas
        varied = load * a_call * (np.maximum(1.0, shape.bunch) + shape.uneven)
        work = self._work(load, varied * shape.visits) / shape.visits
        return np.asarray(likely * work / np.maximum(load, 1e-9))

    def _work(self, load: Floats, varied: Floats) -> Floats:
        """Seconds of work that wait, on average over a run that begins with none. `varied`: of what comes a second.

        A reflected Brownian motion, dR = (load - 1) dt + varied / 2R dt: in the long run its mean is Kingman's, at load
        1 it grows as the root of time, and with time above. Half of a run is how old it is on average.
        """
        half = (LONG_S if self.horizon_s is None else self.horizon_s) / 2.0
        drift = (1.0 - load) * half
        root = np.sqrt(drift**2 + 2.0 * varied * half)
        steady = varied * half / np.maximum(drift + root, 1e-300)  # the same without cancellation
        return np.asarray(np.where(drift > 0.0, steady, (root - drift) / 2.0))

    # ---------------------------------------------------------------- a job's latency

    def _times(self, fleet: Fleet, shape: Shape, scale: Floats, state: dict[str, Floats]) -> Floats:
        """(groups, fleets, scales): seconds of each group."""
        demand, at = self.demand.groups, self._at

        def of(values: Floats) -> Floats:  # what does not depend on the rate is not repeated for each
            return np.moveaxis(values, 2, 0)[at]

        q0, q1, q2, d0, d1, d2 = (of(row) for row in np.moveaxis(fleet.constants, 2, 0))
        column = (slice(None), None, None)
        calls, steps, longest = demand.calls[column], demand.steps[column], demand.most_steps[column]
        each = np.maximum(1.0, calls / of(fleet.replicas))
        window, slow, filled = of(fleet.window), of(state["slow"]), of(state["filled"])
        share = np.divide(steps, longest, out=np.ones_like(steps), where=longest > 0)
        batch = np.minimum(of(state["seen"]) + each * share, window)
        step = _between((d0 + d1 * batch + d2 * batch * of(shape.held)) * slow, filled, of(state["most"]))
        prefill = q1 * demand.prompt2[column] + q2 * demand.prompt[column]
        come = np.maximum(1.0, demand.together[column] / of(fleet.replicas))
        first = (q0 + come * prefill) * slow
        waves = np.maximum(1.0, each / window)
        took = of(state["wait"]) + of(state["behind"]) + first + longest * step * waves
        return np.where(self._llm[column], took, demand.tool_s[column])

    def latency(self, times: Floats) -> tuple[Floats, Floats]:
        """Mean and 95 % of the jobs of each application: (fleets, scales, applications)."""
        whole = np.maximum.reduceat(self.ends(times)[self._by_job], self._first)
        shares = self.demand.shares
        mean = np.stack([np.tensordot(shares[jobs], whole[jobs], 1) for jobs in self._jobs], axis=-1)
        p95 = np.stack([_quantile(whole[jobs], shares[jobs], 0.95) for jobs in self._jobs], axis=-1)
        return mean, p95

    def ends(self, times: Floats) -> Floats:
        """When each group ends after its job's arrival; groups first, as `times`."""
        groups = self.demand.groups
        ends = np.zeros((len(times) + 1, *times.shape[1:]))
        for level in groups.levels:
            ends[:-1][level] = ends[groups.needs[level]].max(axis=1) + times[level]
        return ends[:-1]
