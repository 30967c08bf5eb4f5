"""What the calls of each engine look like, for given replicas: how many, how long, how they come together.

All of it follows from the sampled graphs and the engine model's constants, not from the load; so it is worked out once
for each engine, number of replicas and width, and looked up from then on.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hocket.planner.demand import Demand, Floats, Ints

STEPS_A_PROMPT = 20
"that it takes as long as, about"
AMONG = 32
"calls in the batch by which work of decoding is weighed against prompts"


class Shape(NamedTuple):
    """What the calls of each engine look like: arrays over engines, for given replicas."""

    calls: Floats
    "a second"
    steps: Floats
    "decode steps of a call, mean"
    longest: Floats
    "decode steps of a group"
    held: Floats
    "KV tokens of a decoding call"
    prefill: Floats
    "seconds of a prompt"
    burst: Floats
    "seconds of a group's prompts on one replica: second moment over first"
    own: Floats
    "calls of its own group that a call meets on its replica, itself among them"
    groups: Floats
    "that come to a replica, a second"
    bunch: Floats
    "calls of a group: second moment over first"
    kin: Floats
    "chance that another replica works on the same group"
    visits: Floats
    "groups a job: how often it comes back"
    uneven: Floats
    "decode steps of a call: variance over squared mean"
    flock: Floats
    "seconds of all prompts of a group on one replica, one after the other or not: second moment over first"
    biased: Floats
    "how much longer than the mean job the ones are that most of its work is for"


def held_by(demand: Demand, unit: Ints, count: int) -> Floats:
    """KV tokens of a running call, by engine. `unit`: the engine of each group."""
    groups = demand.groups
    llm = unit >= 0
    weight = (demand.weights * groups.calls)[llm]
    steps = np.maximum(groups.steps, 1e-9)[llm]
    tokens = np.where(groups.steps[llm] > 0, groups.held[llm] / groups.calls[llm], (groups.prompt[llm] + 1) * steps)
    over = np.bincount(unit[llm], weight * steps, count)
    return np.bincount(unit[llm], weight * tokens, count) / np.maximum(over, 1e-300)


class Shapes:
    """The shapes of the engines that serve a demand. `unit`: the engine of each group, -1 for a tool's."""

    def __init__(self, demand: Demand, unit: Ints, engines: int) -> None:
        groups = self._groups = demand.groups
        self._weights, self._unit = demand.weights, unit
        self._held = held_by(demand, unit, engines)
        # Of each sampled job: arrivals a second that it stands for, and about how long it is.
        self._rates = np.zeros(len(demand.shares))
        self._rates[groups.job] = demand.weights
        self._lengths = np.bincount(groups.job, (unit >= 0) * (groups.most_steps + STEPS_A_PROMPT))
        self._known: dict[tuple[int, float, bytes], Floats] = {}

    def of(self, constants: Floats, replicas: Floats) -> Shape:
        """`constants`: (6, engines), of the engine model; `replicas`: of each."""
        columns = []
        for u, count in enumerate(map(float, replicas)):
            own = constants[:, u]
            key = u, count, own.tobytes()
            if key not in self._known:
                self._known[key] = self._column(u, count, own)
            columns.append(self._known[key])
        return Shape(*np.array(columns).T)

    def _column(self, u: int, replicas: float, constants: Floats) -> Floats:
        groups, here = self._groups, self._unit == u
        weight, calls = self._weights[here], groups.calls[here]
        rate = float((weight * calls).sum())
        if not rate:
            return np.array([0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
        steps, longest, together = groups.steps[here], groups.most_steps[here], groups.together[here]
        times = weight * (calls / together) * np.minimum(1.0, together / replicas)  # that a replica is come to
        comes = float(times.sum())
        prefill = constants[1] * groups.prompt2[here] + constants[2] * groups.prompt[here]
        work = np.maximum(1.0, together / replicas) * prefill
        a_step = constants[3] / AMONG + constants[4] + constants[5] * self._held[u]
        flock = np.maximum(1.0, calls / replicas) * prefill
        part = np.divide(steps, longest, out=np.ones_like(steps), where=longest > 0)
        beside = np.maximum(1.0, calls / replicas) * part
        decoded = weight * calls * np.maximum(steps, 1e-9)
        return np.array(
            [
                rate,
                float((weight * calls * steps).sum()) / rate,
                float((times * longest).sum()) / comes,
                float(self._held[u]),
                float((weight * calls * prefill).sum()) / rate,
                float((times * work**2).sum() / max((times * work).sum(), 1e-300)),
                float((decoded * beside).sum() / decoded.sum()),
                comes,
                float((weight * calls * together).sum()) / rate,
                float((times * np.clip((together - 1.0) / max(replicas - 1.0, 1.0), 0.0, 0.99)).sum()) / comes,
                float(weight.sum() / weight[np.unique(groups.job[here], return_index=True)[1]].sum()),
                self._uneven(weight * calls, steps),
                float((weight * flock**2).sum() / max((weight * flock).sum(), 1e-300)),
                self._biased(here, calls * (steps * a_step + prefill)),
            ]
        )

    @staticmethod
    def _uneven(weight: Floats, steps: Floats) -> float:
        mean = float((weight * steps).sum() / weight.sum())
        return float((weight * steps**2).sum() / weight.sum()) / mean**2 - 1.0 if mean else 0.0

    def _biased(self, here: NDArray[np.bool_], work: Floats) -> float:
        own = self._rates * np.bincount(self._groups.job[here], work, len(self._rates))
        mean = (self._rates * self._lengths).sum() / self._rates.sum()
        return float((own * self._lengths).sum() / max(own.sum() * mean, 1e-300))
