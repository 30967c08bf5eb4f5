"""Simulate what was recorded: as it was ordered, to see how true the simulation is, and as it could have been."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any, NamedTuple

import msgspec

from hocket.errors import InputError
from hocket.history.traces import Recorded, to_jobs
from hocket.shadow.estimate import Estimate, estimate, intervals
from hocket.shadow.source import Past
from hocket.sim.driver import Outcome
from hocket.sim.experiment import Setup, simulate
from hocket.sim.model import EngineModel
from hocket.sim.results import Run, quantile, report
from hocket.trace import Job

RECORDED, AS_OBSERVED = "recorded", "as observed"


class Shadow(NamedTuple):
    """What came of it."""

    blocks: dict[str, dict[str, Any]]
    "`recorded`, `as observed` and each policy -> figures in the form of `hocket simulate --json`"
    policy: str
    "what `as observed` was simulated under"
    off: dict[str, float]
    "how far the simulation as observed is off what was recorded"
    engines: list[EngineModel]
    fits: dict[str, Estimate]
    "of the engines that were estimated from the calls"
    left_out: int
    "jobs that were recorded and could not be simulated"


def shadow(
    past: Past,
    policies: Sequence[str],
    *,
    engines: Sequence[EngineModel] | None = None,
    windows: Mapping[str, int] | None = None,
) -> Shadow:
    """Simulate `past` as it was and under each of `policies`. Raises InputError where there is nothing to simulate.

    `engines` are known ones, by name; without, they are estimated. `windows`: what each replica of an engine works on
    at once; where it does not say, as many calls as were seen in one.
    """
    recorded, jobs, models, fits = simulable(past, engines=engines, windows=windows)
    setup = Setup(engines=models)
    blocks = {RECORDED: report([jobs], [Run(RECORDED, 0, _recorded(jobs, recorded), 0.0)])}
    for name, policy in ((AS_OBSERVED, past.policy), *((policy, policy) for policy in policies)):
        began = time.perf_counter()
        outcome = simulate(jobs, setup, policy)
        blocks[name] = report([jobs], [Run(name, 0, outcome, time.perf_counter() - began)])
    off = _off(blocks[RECORDED]["jobs"], blocks[AS_OBSERVED]["jobs"])
    return Shadow(blocks, past.policy, off, models, fits, len(past.jobs) - len(jobs))


class Simulable(NamedTuple):
    """A past that can be simulated."""

    recorded: list[Recorded]
    jobs: list[Job]
    "the same, as the simulator takes them"
    engines: list[EngineModel]
    fits: dict[str, Estimate]
    "of the engines that were estimated from the calls"


def simulable(
    past: Past, *, engines: Sequence[EngineModel] | None = None, windows: Mapping[str, int] | None = None
) -> Simulable:
    """The jobs of `past` that have ended, and the engines that they ran on. As `shadow` otherwise."""
    whole = [one for one in past.jobs if one.job.ended_s is not None]
    seen = intervals(whole)
    if not seen:
        raise InputError("no call has run in that time; choose a longer one with --last")
    fits: dict[str, Estimate] = {}
    models = _estimated(seen, windows or {}, fits) if engines is None else _known(seen, engines)
    pairs = [(one, job) for one in whole for job in to_jobs([one])]
    first = min(one.job.arrived_at for one, _ in pairs)
    jobs = [_placed(job, one, number, one.job.arrived_at - first) for number, (one, job) in enumerate(pairs)]
    return Simulable([one for one, _ in pairs], jobs, models, fits)


def _estimated(seen: Mapping[str, Any], windows: Mapping[str, int], fits: dict[str, Estimate]) -> list[EngineModel]:
    for name, replicas in seen.items():
        found = estimate(name, replicas, windows.get(name))
        if found is None:
            raise InputError(
                f"engine {name}: no call of it finished in that time, so nothing is known of its speed; "
                "measure it with `hocket engine profile` and give the result as --engines"
            )
        fits[name] = found
    return [found.model for found in fits.values()]


def _known(seen: Mapping[str, Any], engines: Sequence[EngineModel]) -> list[EngineModel]:
    by_name = {engine.name: engine for engine in engines}
    missing = [name for name in seen if name not in by_name]
    if missing:
        raise InputError(f"--engines: no engine '{missing[0]}'; calls ran on {', '.join(seen)}")
    return [msgspec.structs.replace(by_name[name], models=[name]) for name in seen]


def _placed(job: Job, one: Recorded, number: int, arrival_s: float) -> Job:
    """With the engine that took each call as its model (so that routes need not be known), and an id of its own."""
    # of an imported job, the calls have the ids of its stages
    took = {name: call.engine for call in one.calls for name in (f"s{call.n}", call.call)}
    stages = [
        msgspec.structs.replace(stage, model=took.get(stage.id) or stage.model) if stage.kind == "llm" else stage
        for stage in job.stages
    ]
    return msgspec.structs.replace(job, job=f"{number}:{job.job}", arrival_s=arrival_s, stages=stages)


def _recorded(jobs: Sequence[Job], whole: Sequence[Recorded]) -> Outcome:
    """What happened, as if it were a simulation's outcome."""
    jct = {job.job: one.job.ended_s or 0.0 for job, one in zip(jobs, whole, strict=True)}
    waits = {
        job.job: [call.dispatched_s - call.arrived_s for call in one.calls if call.dispatched_s is not None]
        for job, one in zip(jobs, whole, strict=True)
    }
    makespan = max(job.arrival_s + jct[job.job] for job in jobs)
    return Outcome(jct, waits, {}, makespan, [])


def _off(recorded: Mapping[str, float], simulated: Mapping[str, float]) -> dict[str, float]:
    """Relative differences of simulated to recorded job completion times: of the mean, of p95, and job by job."""
    both = [name for name in recorded if name in simulated and recorded[name] > 0]
    if not both:
        raise InputError("no recorded job runs to its end in the simulator; is an engine's kv_tokens too small?")
    real, model = sorted(recorded[name] for name in both), sorted(simulated[name] for name in both)
    return {
        "mean": fmean(model) / fmean(real) - 1,
        "p95": quantile(model, 0.95) / quantile(real, 0.95) - 1,
        "job": median(abs(simulated[name] / recorded[name] - 1) for name in both),
    }
