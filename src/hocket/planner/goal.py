"""What a plan is to be good at, and how candidates are scored by the estimate."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from hocket.errors import InputError
from hocket.planner.demand import Demand, Floats
from hocket.planner.estimate import Estimate, Estimator, Fleet

Objective = Literal["latency", "throughput", "cost"]
MOST_USED = 0.95
"of what an engine can do, in a plan that holds"
SCALES = np.geomspace(0.1, 12.0, 20)
"multiples of the rates at which throughput is looked for"


class Slo(NamedTuple):
    """A bound on the latency of an application."""

    app: str
    figure: Literal["mean", "p95"]
    seconds: float


class Goal(NamedTuple):
    """What a plan is to be good at. A lower score is better; below 0 is no plan that holds."""

    objective: Objective = "latency"
    slos: tuple[Slo, ...] = ()
    headroom: float = 1.2
    "multiple of the rates that a plan must be able to carry (latency, cost)"


def parse_slo(text: str, apps: Sequence[str]) -> Slo:
    """`APP.p95=30s`. Raises InputError."""
    found = re.fullmatch(r"(.+)\.(p95|mean)=([0-9.]+)(ms|s|)", text)
    seconds = 0.0
    if found:
        try:
            seconds = float(found[3]) * (1e-3 if found[4] == "ms" else 1.0)
        except ValueError:
            found = None
    if not found or seconds <= 0.0:
        raise InputError(f"--slo {text}: write APP.p95=30s or APP.mean=800ms, with seconds above 0")
    if found[1] not in apps:
        raise InputError(f"--slo {text}: no application '{found[1]}' in the rates; there is {', '.join(apps)}")
    return Slo(found[1], "mean" if found[2] == "mean" else "p95", seconds)


class Score(NamedTuple):
    """Of a candidate: compared in order, lower is better."""

    violation: float
    "how far it is from holding; 0 holds"
    value: float
    "seconds (latency, cost), or less the multiple of the rates that it carries (throughput)"

    @property
    def holds(self) -> bool:
        return self.violation <= 0.0


def mean_latency(demand: Demand, mean_s: Floats) -> Floats:
    """Over all jobs: of the applications' means, by their rates."""
    shares: Floats = demand.per_s / demand.per_s.sum()
    return mean_s @ shares


def late(goal: Goal, demand: Demand, estimate: Estimate) -> Floats:
    """By how much the worst SLO is missed, as a share of it: (fleets, scales)."""
    worst = np.full(estimate.mean_s.shape[:2], -1.0)
    for slo in goal.slos:
        figures = estimate.p95_s if slo.figure == "p95" else estimate.mean_s
        worst = np.maximum(worst, figures[..., demand.apps.index(slo.app)] / slo.seconds - 1.0)
    return worst


def scores(goal: Goal, estimator: Estimator, fleets: Sequence[Fleet], scale: float | None = None) -> list[Score]:
    """Of each candidate. `scale`: about what the best carries so far (throughput), where to look closely."""
    demand = estimator.demand
    if goal.objective == "throughput":
        scales = SCALES if scale is None else scale * np.geomspace(0.35, 2.2, 12)
        return [Score(0.0, -value) for value in carried(goal, estimator, fleets, scales)]
    estimate = estimator.estimate(fleets, [1.0])
    over = np.maximum(estimate.utilisation[:, 0].max(axis=-1) * goal.headroom - MOST_USED, 0.0)
    violation = over + np.maximum(late(goal, demand, estimate)[:, 0], 0.0)
    values = mean_latency(demand, estimate.mean_s)[:, 0]
    return [Score(float(v), float(value)) for v, value in zip(violation, values, strict=True)]


def carried(goal: Goal, estimator: Estimator, fleets: Sequence[Fleet], scales: Floats) -> list[float]:
    """The highest multiple of the rates, between `scales`, at which no engine is overloaded and all SLOs hold."""
    estimate = estimator.estimate(fleets, list(scales))
    missed = np.maximum(estimate.utilisation.max(axis=-1) / MOST_USED - 1.0, late(goal, estimator.demand, estimate))
    found = []
    for row in missed:
        over = np.flatnonzero(row > 0.0)
        if not len(over):
            found.append(float(scales[-1]))
        elif over[0] == 0:
            found.append(float(scales[0] / (1.0 + min(row[0], 1e6))))
        else:
            low, high = over[0] - 1, over[0]
            part = row[low] / (row[low] - row[high])
            found.append(float(scales[low] * (scales[high] / scales[low]) ** part))
    return found
