"""From the plan that runs to a new one: what changes, engine by engine, and whether it is worth it.

Both are estimated, and rehearsed on the same jobs: not those that the new plan was chosen on, which flatter it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from hocket.planner.estimate import Estimator, engines_of, fleet_of
from hocket.planner.finals import verdict
from hocket.planner.goal import Score, appraised, scores
from hocket.planner.judge import Judge, Verdict
from hocket.planner.plan import EnginePlan, Plan, ReplicaPlan
from hocket.planner.rehearsal import Rehearsal
from hocket.planner.search import NEARLY, Problem

SEED = 101
"of the jobs that both plans are rehearsed on"
WORTH = 0.05
"gain for which engines are started anew, unless another is asked for"


class Figures(NamedTuple):
    """Of one plan."""

    predicted: Score
    verdict: Verdict
    devices: int
    "that it uses"

    @property
    def simulated(self) -> Score:
        return self.verdict.score


def against(running: Plan, new: Plan, problem: Problem, least: float = WORTH) -> dict[str, Any]:
    """What changes from `running` to `new`, and what it gains, as plain data.

    `problem`: what `new` was planned for. `least`: the gain (0.05: a twentieth) from which on it is worth it.
    """
    steps, law = list(changes(running, new)), running.law != new.law
    kept = sum((_replicas(running) & _replicas(new)).values())
    told: dict[str, Any] = {
        "changes": steps,
        "replicas": sum(len(engine.replicas) for engine in new.engines),
        "replicas_kept": kept,
        "least_gain": least,
    }
    missing = unserved(running, problem)
    if missing:
        return told | {"worth": True, "why": f"the running plan has no engine for {', '.join(missing)}"}
    before, after = _figures(problem, running, new)
    told |= {
        "measure": MEASURES[problem.goal.objective],
        "predicted": _gain(problem, before, after, "predicted"),
        "simulated": _gain(problem, before, after, "simulated"),
        "apps": _apps(problem, before, after),
    }
    gain, slos = told["simulated"]["gain"], bool(problem.goal.slos)
    worth, why = _worth(before, after, gain, least, slos) if steps or law else (False, "nothing would change")
    return told | {"worth": worth, "why": why}


# ---------------------------------------------------------------- what changes


def _replicas(plan: Plan) -> Counter[tuple[Any, ...]]:
    """Those that need not be started anew, if they are in both plans."""
    return sum(map(_kept, plan.engines), Counter[tuple[Any, ...]]())


def _kept(engine: EnginePlan) -> Counter[tuple[Any, ...]]:
    return Counter(
        (engine.model, tuple(replica.devices), replica.share, replica.max_concurrency, replica.kv_tokens)
        for replica in engine.replicas
    )


def changes(running: Plan, new: Plan) -> Iterator[dict[str, Any]]:
    """Of each engine that is another: what it does (`what`), and in words. Engines go by their model and its roles."""
    for before, after in _pairs(running, new):
        what = list(_differences(before, after))
        if what:
            name = after.name if after is not None else before.name if before is not None else ""
            yield {"engine": name, "what": [kind for kind, _ in what], "words": "; ".join(words for _, words in what)}


def _pairs(running: Plan, new: Plan) -> Iterator[tuple[EnginePlan | None, EnginePlan | None]]:
    left = {(engine.model, frozenset(engine.roles)): engine for engine in running.engines}
    for engine in new.engines:
        yield left.pop((engine.model, frozenset(engine.roles)), None), engine
    for engine in left.values():
        yield engine, None


def _differences(before: EnginePlan | None, after: EnginePlan | None) -> Iterator[tuple[str, str]]:
    """(kind, in words)."""
    told = list(_told(before, after))
    yield from told
    if not told and before is not None and after is not None and _kept(before) != _kept(after):
        yield "replicas", "shares, windows or KV caches of single replicas are others"


def _told(before: EnginePlan | None, after: EnginePlan | None) -> Iterator[tuple[str, str]]:
    """What of an engine as a whole is another."""
    if before is None or after is None:
        kind, one = ("starts", after) if before is None else ("ends", before)
        assert one is not None
        width = _or(_widths(one))
        on = f"on {_places(one.replicas)}" if before is None else f"was on {_places(one.replicas)}"
        yield kind, f"{kind}: {len(one.replicas)} x tensor parallelism {width}, {on}"
        return
    old, new = _widths(before), _widths(after)
    if old != new:
        kind = "wider" if (max(new), min(new)) > (max(old), min(old)) else "narrower"
        yield kind, f"{kind}: tensor parallelism {_or(old)} -> {_or(new)}"
    if len(before.replicas) != len(after.replicas):
        yield "replicas", f"{len(before.replicas)} -> {len(after.replicas)} replicas"
    shares = [sorted({replica.share for replica in one.replicas}) for one in (before, after)]
    if shares[0] != shares[1]:
        yield "share", f"share of its devices {_or(shares[0])} -> {_or(shares[1])}"
    places = [Counter(tuple(replica.devices) for replica in one.replicas) for one in (before, after)]
    if places[0] != places[1]:
        left, taken = _listed(places[0] - places[1]), _listed(places[1] - places[0])
        words = [f"from {left}"] * bool(left) + [f"to {taken}"] * bool(taken)
        yield "moves", f"moves {' '.join(words)}"
    windows = [sorted({replica.max_concurrency for replica in one.replicas}) for one in (before, after)]
    if windows[0] != windows[1]:
        yield "window", f"window {_or(windows[0])} -> {_or(windows[1])}"


def _widths(engine: EnginePlan) -> list[int]:
    return sorted({replica.tensor_parallel for replica in engine.replicas})


def _or(values: list[Any]) -> str:
    return "/".join(f"{value:g}" for value in values)


def _places(replicas: list[ReplicaPlan]) -> str:
    return _listed(Counter(tuple(replica.devices) for replica in replicas))


def _listed(places: Counter[tuple[str, ...]]) -> str:
    return ", ".join("+".join(devices) for devices in sorted(places.elements()))


def unserved(plan: Plan, problem: Problem) -> list[str]:
    """Models that are asked for, and that the plan has no engine for."""
    found = engines_of(problem.demand, plan.engines)
    return list(dict.fromkeys(role.model for role, u in zip(problem.demand.roles, found, strict=False) if u < 0))


# ---------------------------------------------------------------- whether it is worth it

MEASURES = {
    "latency": "mean latency, seconds",
    "throughput": "multiple of the rates that is carried",
    "cost": "devices",
}


def _figures(problem: Problem, *plans: Plan) -> list[Figures]:
    """Of each, on the same jobs."""
    predicted = [_predicted(problem, plan) for plan in plans]
    about = -min(predicted).value
    stage = Rehearsal(problem.demand, problem.cluster, problem.models, problem.goal, plans[-1], about, SEED)
    judge = Judge(problem.demand, problem.cluster, problem.models, problem.goal)
    found = []
    for plan, score in zip(plans, predicted, strict=True):
        told = verdict(judge, stage, plan, stage.outcome(plan, about))
        devices = {device for engine in plan.engines for replica in engine.replicas for device in replica.devices}
        found.append(Figures(score, told, len(devices)))
    return found


def _predicted(problem: Problem, plan: Plan) -> Score:
    demand, goal = problem.demand, problem.goal
    estimator = Estimator(demand, engines_of(demand, plan.engines), len(plan.engines), goal.lasts_s)
    fleet = fleet_of(plan, problem.cluster, problem.models, demand)
    score = scores(goal, estimator, [fleet])[0]
    return (
        appraised(goal, estimator, [fleet], NEARLY * -score.value).scores[0]
        if goal.objective == "throughput"
        else score
    )


def _gain(problem: Problem, before: Figures, after: Figures, which: str) -> dict[str, Any]:
    """Of the objective, before and after; `gain` is a share: above 0 is better."""
    objective = problem.goal.objective
    if objective == "cost":
        old, new = float(before.devices), float(after.devices)
    else:
        old, new = (abs(getattr(one, which).value) for one in (before, after))
    gain = new / old - 1.0 if objective == "throughput" else 1.0 - new / old
    holds = [getattr(one, which).holds for one in (before, after)]
    return {"before": round(old, 4), "after": round(new, 4), "gain": round(gain, 4), "holds": holds}


def _apps(problem: Problem, before: Figures, after: Figures) -> dict[str, dict[str, float]]:
    """Simulated latency of each application."""
    return {
        app: {
            f"{when}_{figure}": round(one.verdict.figures[app][figure], 3)
            for figure in ("mean_s", "p95_s")
            for when, one in (("before", before), ("after", after))
        }
        for app in problem.demand.apps
    }


def _worth(before: Figures, after: Figures, gain: float, least: float, slos: bool) -> tuple[bool, str]:
    """By what the simulator says; holding the SLOs that were given counts before anything else."""
    if slos and before.simulated.holds != after.simulated.holds:
        if after.simulated.holds:
            return True, "the running plan does not hold the SLOs, the new one does"
        return False, "the running plan holds the SLOs, the new one does not"
    if gain < least:
        return False, f"it gains less than {least:.0%}"
    return True, f"it gains {least:.0%} or more"


# ---------------------------------------------------------------- text


def lines(told: dict[str, Any], name: str) -> list[str]:
    """The same as text. `name` of the running plan."""
    kept = f"{told['replicas_kept']} of {told['replicas']} replicas stay as they are"
    found = [f"Against {name}: {kept}."]
    found += [f"  {step['engine']}: {step['words']}" for step in told["changes"]]
    for which in ("predicted", "simulated"):
        if which in told:
            one = told[which]
            found.append(
                f"  {told['measure']}, {which}: {one['before']:.4g} -> {one['after']:.4g} ({one['gain']:+.1%} gained)"
            )
    return [*found, f"{'Worth it' if told['worth'] else 'Not worth it: keep what runs'}; {told['why']}."]
