"""Why a plan is as it is: engines, predicted and simulated figures, the critical path, what one more device buys."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from hocket.errors import InputError
from hocket.planner.baselines import k8s_default
from hocket.planner.demand import Floats
from hocket.planner.estimate import Estimator, engines_of, fleet_of
from hocket.planner.finals import Clock
from hocket.planner.moves import Choices
from hocket.planner.placement import PARTS, Choice
from hocket.planner.plan import EnginePlan, Plan
from hocket.planner.planning import Planned, resized
from hocket.planner.search import Problem, Search

NUDGE = 1.01
"by which an engine's times are stretched to see how much of a job's latency they are"


def explain(planned: Planned, budget_s: float, clock: Clock) -> dict[str, Any]:
    """All of it, as plain data. `budget_s`: what is left of it is for the look at a cluster with one device more."""
    start = clock()
    return {
        "engines": engines(planned),
        "apps": apps(planned),
        "critical_path": paths(planned),
        "one_more_device": one_more(planned, budget_s - (clock() - start), clock),
        "runner_up": runner_up(planned),
        "bound": planned.plan.bound,
        "tried": planned.search.tried,
    }


def engines(planned: Planned) -> list[dict[str, Any]]:
    """What each engine is, does, and why it is so wide."""
    estimate, demand, search = planned.estimate, planned.search.problem.demand, planned.search
    share = critical(search.estimator, estimate.times[0, 0])
    told = []
    for u, engine in enumerate(planned.plan.engines):
        roles = [role for i, role in enumerate(demand.roles) if search.serving[i] == u]
        devices = {device for replica in engine.replicas for device in replica.devices}
        beside = sorted(
            other.name
            for other in planned.plan.engines
            if other is not engine and any(devices & set(replica.devices) for replica in other.replicas)
        )
        told.append(
            {
                "engine": engine.name,
                "model": engine.model,
                "tensor_parallel": sorted({replica.tensor_parallel for replica in engine.replicas}),
                "replicas": len(engine.replicas),
                "shares": sorted({replica.share for replica in engine.replicas}),
                "devices": sorted(devices),
                "beside": beside,
                "calls_a_job": {role.name: round(role.calls, 2) for role in roles},
                "utilisation": round(float(estimate.utilisation[0, 0, u]), 3),
                "batch": round(float(estimate.batch[0, 0, u]), 1),
                "step_ms": round(1e3 * float(estimate.step_s[0, 0, u]), 2),
                "slowed_by_neighbours": round(float(estimate.slow[0, 0, u]), 2),
                "critical_share": round(float((share[:, u] * demand.per_s).sum() / demand.per_s.sum()), 3),
                "why": _why(search, planned.candidate.choices, u),
            }
        )
    return told


def _why(search: Search, choices: Choices, u: int) -> str:
    """What the estimate says of the next narrower and wider choice, all else the same."""
    widths, now = search.widths[u], choices[u]
    told = []
    for degree in widths:
        if degree == now.tensor_parallel:
            continue
        parts = PARTS if search.problem.whole else max(now.parts, search.least(u, degree))
        other = Choice(degree, max(1, now.replicas * now.tensor_parallel // degree), parts)
        score = search.score((*choices[:u], other, *choices[u + 1 :]))
        holds = "" if score is None or score.holds else ", which does not hold"
        found = "no place" if score is None else _value(search.problem, score.value) + holds
        told.append(f"{other.replicas} x {degree} instead: {found}")
    return "; ".join(told) or "the only width that it fits in"


def critical(estimator: Estimator, times: Floats) -> Floats:
    """(applications, engines): how much of mean latency lies on each engine; what is missing from 1 are tools.

    The elasticity of latency to the engine's times: by how many hundredths latency grows when they grow by one. That is
    both the engine's share of the critical path and what a faster one would buy.
    """
    base = times[:, None, None]
    stretched = np.where((estimator.unit[:, None] == np.arange(estimator.engines))[:, None, :], base * NUDGE, base)
    mean, _ = estimator.latency(np.concatenate([base, stretched], axis=2))
    shares: Floats = ((mean[0, 1:] / mean[0, :1] - 1.0) / (NUDGE - 1.0)).T
    return shares


def apps(planned: Planned) -> dict[str, dict[str, float]]:
    """Predicted against simulated latency, and the bound, at the rates of the simulation."""
    predicted, bound = planned.plan.predicted["apps"], planned.plan.bound["mean_s"]
    return {
        app: {
            "predicted_mean_s": predicted[app]["mean_s"],
            "simulated_mean_s": round(own["mean_s"], 3),
            "predicted_p95_s": predicted[app]["p95_s"],
            "simulated_p95_s": round(own["p95_s"], 3),
            "bound_mean_s": bound[app],
        }
        for app, own in planned.verdict.figures.items()
    }


def paths(planned: Planned) -> dict[str, Any]:
    """Of each application, seconds of its critical path on each engine, under `k8s-default` and under the plan."""
    problem, scale = planned.search.problem, planned.verdict.scale
    told: dict[str, Any] = {"plan": _path(problem, planned.plan, scale)}
    try:
        default = k8s_default(problem, lambda: False)[0]
    except InputError:
        return told
    return {"k8s-default": _path(problem, default.plan, scale), **told}


def _path(problem: Problem, plan: Plan, scale: float) -> dict[str, dict[str, float]]:
    """Of any plan: another may have other engines than the search that is explained."""
    demand = problem.demand
    estimator = Estimator(demand, engines_of(demand, plan.engines), len(plan.engines), problem.goal.lasts_s)
    estimate = estimator.estimate([fleet_of(plan, problem.cluster, problem.models, demand)], [scale])
    shares = critical(estimator, estimate.times[0, 0])
    told = {}
    for a, app in enumerate(demand.apps):
        total = float(estimate.mean_s[0, 0, a])
        seconds = {engine.name: round(float(shares[a, u]) * total, 3) for u, engine in enumerate(plan.engines)}
        tools = total * (1.0 - float(shares[a].sum()))
        told[app] = {name: value for name, value in seconds.items() if value} | {"tools": round(max(tools, 0.0), 3)}
    return told


def one_more(planned: Planned, budget_s: float, clock: Clock) -> dict[str, Any]:
    """What the estimate says of a plan for one device more."""
    problem = planned.search.problem
    more = problem._replace(cluster=resized(problem.cluster, len(problem.cluster.devices) + 1))
    start = clock()
    search = Search(more)
    alike = search.serving.tolist() == planned.search.serving.tolist()
    starts = [planned.candidate.choices] if alike else []
    best = search.run(lambda: clock() - start > budget_s, lambda tried, score: None, starts)[0]
    before, after = planned.candidate.score.value, best.score.value
    return {
        "before": _value(problem, before),
        "after": _value(problem, after),
        "gain": round((abs(after) - abs(before)) / abs(before) * (1 if before < 0 else -1), 3),
    }


def runner_up(planned: Planned) -> dict[str, Any] | None:
    """The second best in the rehearsal, and how it differs."""
    if not planned.others:
        return None
    one, verdict = planned.others[0]
    ours, theirs = ({engine.name: _text(engine) for engine in each.engines} for each in (planned.plan, one.plan))
    none = "no engine of its own"
    differs = [
        f"{name}: {theirs.get(name, none)}, not {ours.get(name, none)}"
        for name in {**ours, **theirs}
        if theirs.get(name) != ours.get(name)
    ]
    return {"simulated": _value(planned.search.problem, verdict.score.value), "differs": differs or ["places alone"]}


def _text(engine: EnginePlan) -> str:
    counts = Counter((replica.tensor_parallel, replica.share) for replica in engine.replicas)
    return " and ".join(
        f"{count} x tensor parallelism {degree} at {share:g} of a device"
        for (degree, share), count in sorted(counts.items())
    )


def _value(problem: Problem, value: float) -> str:
    return f"{-value:.3f} times the rates" if problem.goal.objective == "throughput" else f"{value:.3f} s mean latency"


# ---------------------------------------------------------------- text


def lines(told: dict[str, Any]) -> list[str]:
    """The explanation as text; the engines and applications are tables of their own."""
    found = [f"{one['engine']}: {one['why']}." for one in told["engines"]]
    found.append("Critical path, mean seconds:")
    for planner, own in told["critical_path"].items():
        for app, path in own.items():
            parts = ", ".join(f"{name} {seconds:.2f}" for name, seconds in path.items())
            found.append(f"  {planner:12} {app}: {parts}")
    bound = told["bound"]
    found.append(
        f"Bound: {bound['device_seconds_a_job']:.3g} device-seconds a job, {bound['carries']:.3g} times the rates."
    )
    more = told["one_more_device"]
    found.append(f"One more device: {more['before']} -> {more['after']} ({more['gain']:.1%}), by the estimate.")
    if told["runner_up"]:
        found.append(f"Runner-up: {told['runner_up']['simulated']}; {'; '.join(told['runner_up']['differs'])}.")
    return found
