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
LASTS = 12
"times the longest SLO that a run should last: a shorter one is over before an overload shows"
MOST_USED = 0.95
"of what an engine can do, in a plan that holds"
LEAST = 0.02
"of the highest rates that can be, from which throughput is looked for where nothing is known"
SECTIONS = np.linspace(0.0, 1.0, 9)
"of a range of rates (their logs), at the ends of which one looks"
WITHIN = 1.02
"at which the range is narrow enough to interpolate"
TOGETHER = 8
"plans whose ranges are looked at in one estimate: more take more memory, and longer"
OVER = 1.05
"times the bound of the rates, to be sure that it is one"
STEEP = 0.25
"more is not told apart where the highest rate is interpolated: an overload is late beyond measure"
UNLOADED = 1e-6
"times the rates"


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
    "multiple of the rates that a plan must be able to carry (latency, cost): no engine overloaded, and all SLOs hold"

    @property
    def lasts_s(self) -> float | None:
        """How long a run should be by which a plan is judged; None where there is no SLO."""
        return LASTS * max(slo.seconds for slo in self.slos) if self.slos else None


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


class Scores(NamedTuple):
    """Of candidates."""

    scores: list[Score]
    used: Floats
    "(candidates, engines): how busy each engine is beside the busiest"
    rough: list[bool]
    "only known to carry less than the floor: such a score is a rank, not a figure"


def scores(goal: Goal, estimator: Estimator, fleets: Sequence[Fleet]) -> list[Score]:
    """Of each candidate."""
    return appraised(goal, estimator, fleets).scores


def appraised(goal: Goal, estimator: Estimator, fleets: Sequence[Fleet], floor: float | None = None) -> Scores:
    """Of each candidate. `floor`: what carries less than that (throughput) is scored roughly, which is much faster.

    A score that is not rough depends on the plan alone, up to the interpolation: a few thousandths.
    """
    if goal.objective == "throughput":
        return _carried(goal, estimator, fleets, floor)
    estimate = estimator.estimate(fleets, [1.0, goal.headroom])
    violation = np.maximum(estimate.utilisation.max(axis=-1)[:, 1] - MOST_USED, 0.0)
    violation += np.maximum(late(goal, estimator.demand, estimate)[:, 1], 0.0)
    values = mean_latency(estimator.demand, estimate.mean_s)[:, 0]
    found = [Score(float(v), float(value)) for v, value in zip(violation, values, strict=True)]
    return Scores(found, _beside(estimate), [False] * len(found))


def _beside(estimate: Estimate) -> Floats:
    used: Floats = estimate.utilisation[:, 0] / estimate.utilisation[:, 0].max(axis=-1, keepdims=True)
    return used


def _carried(goal: Goal, estimator: Estimator, fleets: Sequence[Fleet], floor: float | None) -> Scores:
    scale = UNLOADED if floor is None else floor
    first = estimator.estimate(fleets, [scale])
    # The busier an engine is, the more its neighbours slow it: it carries no more than in proportion.
    most = OVER * MOST_USED * scale / first.utilisation[:, 0].max(axis=-1)
    if floor is None:
        values, rough = carried(goal, estimator, fleets, LEAST * most, most), [False] * len(fleets)
    else:
        missed = _missed(goal, estimator, first)[:, 0]
        rough, short = list(map(bool, missed > 0.0)), np.maximum(missed, 0.0)
        values = floor / (1.0 + short / (1.0 + short))  # a rank: between half of it and all
        above = [index for index, value in enumerate(missed) if value <= 0.0]
        values[above] = carried(goal, estimator, [fleets[i] for i in above], np.full(len(above), floor), most[above])
    return Scores([Score(0.0, -float(value)) for value in values], _beside(first), rough)


def _missed(goal: Goal, estimator: Estimator, estimate: Estimate) -> Floats:
    """By how much it does not hold, 0 and less if it does: (fleets, scales)."""
    used: Floats = estimate.utilisation.max(axis=-1) / MOST_USED - 1.0
    return np.maximum(used, late(goal, estimator.demand, estimate))


def carried(goal: Goal, estimator: Estimator, fleets: Sequence[Fleet], low: Floats, high: Floats) -> Floats:
    """The highest multiple of the rates, of each from `low` to `high`, at which no engine is overloaded and SLOs hold.

    Where that is first missed, in ranges ever narrower. Less than `low` where it is missed there: a rank, no more.
    """
    found = [
        _crossing(goal, estimator, fleets[start:end], low[start:end], high[start:end])
        for start in range(0, len(fleets), TOGETHER)
        for end in [start + TOGETHER]
    ]
    return np.concatenate([np.zeros(0), *found])


def _crossing(goal: Goal, estimator: Estimator, fleets: Sequence[Fleet], low: Floats, high: Floats) -> Floats:
    rows = np.arange(len(fleets))
    while True:
        scales = low[:, None] * (high / low)[:, None] ** SECTIONS
        missed = _missed(goal, estimator, estimator.estimate(fleets, scales))
        over = missed > 0.0
        end = np.where(over.any(axis=1), np.maximum(over.argmax(axis=1), 1), len(SECTIONS) - 1)
        low, high, below, above = scales[rows, end - 1], scales[rows, end], missed[rows, end - 1], missed[rows, end]
        if (high / low).max() <= WITHIN:
            break
    part = np.clip(-below / np.maximum(np.minimum(above, STEEP) - below, 1e-12), 0.0, 1.0)
    return np.asarray(low * (high / low) ** part / (1.0 + np.clip(below, 0.0, 1e6)))
