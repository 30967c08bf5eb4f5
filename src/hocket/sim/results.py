"""What runs come to: the figures that `hocket simulate --json` writes. docs/reference/simulate-json.md has the form."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from hocket.sim.compare import Ratio, paired
from hocket.sim.driver import Outcome
from hocket.trace import Job


class Run(msgspec.Struct):
    """One policy on one draw of the jobs."""

    policy: str
    seed: int
    outcome: Outcome
    wall_s: float


def quantile(ordered: Sequence[float], q: float) -> float:
    """Of sorted numbers, with linear interpolation between neighbours."""
    place = q * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """Mean and quantiles in seconds, rounded to a nanosecond; None where there is nothing."""
    if not values:
        return {"mean": None, "p50": None, "p95": None, "p99": None}
    ordered = sorted(values)
    mean = math.fsum(ordered) / len(ordered)
    marks = {"p50": quantile(ordered, 0.5), "p95": quantile(ordered, 0.95), "p99": quantile(ordered, 0.99)}
    return {name: round(value, 9) for name, value in {"mean": mean, **marks}.items()}


def report(draws: Sequence[Sequence[Job]], runs: Sequence[Run]) -> dict[str, Any]:
    """The block of one policy, pooled over its `runs`, each on draws[its seed]. Of several, jobs are named SEED:JOB."""
    rows = [
        _Row(name if len(runs) == 1 else f"{run.seed}:{name}", job, run.outcome.jct_s[name], run.outcome.waits_s[name])
        for run in runs
        for job in draws[run.seed]
        if (name := job.job) in run.outcome.jct_s
    ]
    errors = [run.outcome.policy_error for run in runs if run.outcome.policy_error]
    return {
        **_spreads(rows),
        "by_urgency": _by(rows, lambda job: job.urgency),
        "by_tenant": _by(rows, lambda job: job.tenant),
        "by_app": _by(rows, lambda job: job.app),
        "jobs": {row.name: round(row.jct_s, 9) for row in rows},
        "rejected": {
            name if len(runs) == 1 else f"{run.seed}:{name}": why
            for run in runs
            for name, why in run.outcome.rejected.items()
        },
        "preemptions": sum(run.outcome.preemptions for run in runs),
        "makespan_s": round(max(run.outcome.makespan_s for run in runs), 9),
        "wall_s": round(sum(run.wall_s for run in runs), 3),
        **({"policy_error": errors[0]} if errors else {}),
    }


def ratios(runs: Sequence[Run], to: str) -> dict[str, Ratio | None]:
    """Of each policy, mean JCT over that under `to`: a ratio a draw, of the jobs that both completed.

    None where there is no such job, or none that took time.
    """
    base = {run.seed: run.outcome.jct_s for run in runs if run.policy == to}
    found: dict[str, list[float]] = {}
    for run in runs:
        ours, theirs = run.outcome.jct_s, base[run.seed]
        both = [job for job in ours if job in theirs]
        total, other = (math.fsum(jct_s[job] for job in both) for jct_s in (ours, theirs))
        found.setdefault(run.policy, []).append(total / other if other else 0.0)
    return {policy: paired(one) if all(one) else None for policy, one in found.items()}


class _Row(NamedTuple):
    """A job that completed."""

    name: str
    job: Job
    jct_s: float
    waits_s: list[float]


def _by(rows: Sequence[_Row], value: Callable[[Job], Any]) -> dict[str, Any]:
    groups: dict[Any, list[_Row]] = {}
    for row in rows:
        groups.setdefault(value(row.job), []).append(row)
    return {str(group): _spreads(groups[group]) for group in sorted(groups)}


def _spreads(rows: Sequence[_Row]) -> dict[str, Any]:
    waits = [wait for row in rows for wait in row.waits_s]
    return {"jct_s": spread([row.jct_s for row in rows]), "wait_s": spread(waits)}
