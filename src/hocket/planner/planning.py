"""From a problem to a plan: search by the estimate, rehearse the finalists and climb on, say what bounds it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from hocket.errors import InputError
from hocket.planner.baselines import AMONG, BASELINES
from hocket.planner.demand import Demand, Role
from hocket.planner.estimate import CONSTANTS, Estimate, Fleet
from hocket.planner.finals import Clock, Entry, Judged, Progress, finals
from hocket.planner.goal import MOST_USED
from hocket.planner.inputs import USABLE, Cluster
from hocket.planner.judge import Verdict, rounded
from hocket.planner.moves import Choices
from hocket.planner.placement import PARTS, WIDEST_WINDOW, Choice
from hocket.planner.plan import Plan, check
from hocket.planner.search import Candidate, Problem, Search

FINALISTS = 40
"of a search, that are rehearsed"
SEARCHES, REHEARSED = 0.3, 0.92
"shares of the budget by when searches and rehearsals must be over; the simulator has the rest"
WHOLE, SPLIT, SERIAL = 0.1, 0.05, 0.08
"shares of the budget for searches: among plans that share no device, with a role apart, by a serial pipeline"
SPLITS, SERIALS = 2, 8
"roles that are tried apart; finalists by a serial pipeline, which begins elsewhere and so ends elsewhere"
UNLIKE = 2.0
"times that calls of one role are as long as those of another, for a role to be tried apart"
PROBES = 0.1
"share of the budget for a look at another cluster"


class Planned(NamedTuple):
    """A plan and how it came about."""

    plan: Plan
    candidate: Candidate
    verdict: Verdict
    others: list[tuple[Candidate, Verdict]]
    "the other finalists, the best first"
    search: Search
    estimate: Estimate
    "of the plan, at its rates"


def plan_for(problem: Problem, budget_s: float, clock: Clock, progress: Progress, baseline: str = "") -> Planned:
    """Plan. Raises InputError where nothing can be planned: what is short, by how much, and what would do."""
    start = clock()

    def within(share: float) -> Callable[[], bool]:
        return _after(clock, start + share * budget_s)

    if problem.goal.objective == "cost" and not baseline:
        problem, judged = _cheapest(problem._replace(stacked=False), budget_s, clock, progress)
    elif baseline:
        best = BASELINES[baseline](problem, within(SEARCHES))
        among = problem._replace(whole=True, narrow=AMONG[baseline]) if baseline in AMONG else problem
        search = Search(among)
        entries = [Entry(search, one) for one in (_distinct(best) if baseline in AMONG else best[:1])]
        judged = finals(problem, entries, baseline in AMONG, within(REHEARSED), progress)
    else:
        entries = _searched(problem, within, progress)
        _carries(problem, entries[0], budget_s, clock)
        judged = finals(problem, entries, True, within(REHEARSED), progress)
    (search, candidate), verdict = judged[0]
    estimate = search.estimator.estimate([search.fleet(candidate.plan)], [verdict.scale])
    plan = msgspec.structs.replace(
        candidate.plan,
        predicted=_predicted(problem, candidate, estimate, verdict.scale),
        simulated=verdict.told(),
        bound=bound(search),
        demand=problem.demand.told(),
    )
    check(plan, problem.cluster, problem.models)
    others = [(one.candidate, told) for one, told in judged[1:]]
    return Planned(plan, candidate, verdict, others, search, estimate)


# ---------------------------------------------------------------- searches


def _searched(problem: Problem, within: Callable[[float], Callable[[], bool]], progress: Progress) -> list[Entry]:
    """The finalists of all searches: the best by the estimate, then what simpler planners choose, then the others.

    First among whole devices, where there is less to try: the rest begins from there. The best of those is a finalist:
    where sharing gains little, the estimate may mistake who is ahead.
    """
    alone: list[Candidate] = []
    # A burst of calls slows stacked replicas by one another, which the estimate does not see; one larger does the same.
    unstacked = problem._replace(stacked=False)
    whole, search = Search(problem._replace(whole=True)), Search(unstacked)
    apart = list(_unlike(problem.demand))[:SPLITS]
    ends = SEARCHES - SERIAL - SPLIT * len(apart)
    try:
        alone = whole.run(within(min(WHOLE, ends / 2)), lambda tried, score: progress("searching", tried, score))
    except InputError:
        pass  # nothing has a place on whole devices
    search.tried += whole.tried
    found = search.run(
        within(ends),
        lambda tried, score: progress("searching", tried, score),
        [one.choices for one in alone[:8]],
    )
    entries = [Entry(search, one) for one in _distinct(found)]
    for number, role in enumerate(apart, start=1):
        split = Search(unstacked, [role])
        u = next(index for index, unit in enumerate(search.units) if unit.name == role.model)
        starts = [divided for one in found[:4] for divided in _divided(one.choices, u)]
        best = split.run(within(ends + SPLIT * number), lambda tried, score: None, starts)
        entries += [Entry(split, one) for one in _distinct(best)[:2]]
        search.tried += split.tried
    entries.sort(key=lambda one: one.candidate.score)
    simpler = [Entry(search, one) for one in search.rated(list(_simpler(unstacked, alone, within)))]
    plans = [one.plan for one in simpler]
    ours = [one for one in entries if one.plan not in plans][: FINALISTS - 1]
    # Unlike replicas are estimated by their mean, and may do worse: the best plan without any is a finalist, too.
    even = [one for one in found if not any(choice.also for choice in one.choices)][:1]
    ours += [Entry(search, one) for one in even if one.plan not in [*plans, *(own.plan for own in ours)]]
    first = min([*ours, *simpler], key=lambda one: one.candidate.score)
    return [first, *(one for one in [*simpler, *ours] if one is not first)]


def _simpler(
    problem: Problem, alone: Sequence[Candidate], within: Callable[[float], Callable[[], bool]]
) -> Iterator[tuple[Choices, Plan]]:
    """What people do by hand, and what others compute, is a finalist, too: a plan that is worse has no excuse."""
    plans = list[Plan]()
    for name, ends in (("k8s-default", SEARCHES), ("k8s-best", SEARCHES), ("", 0.0), ("aggregate", SEARCHES)):
        try:
            found = _distinct(BASELINES[name](problem, within(ends)) if name else list(alone))
        except InputError:
            continue  # nothing has a place on whole devices
        for one in found[: SERIALS if name == "aggregate" else 1]:
            if one.plan not in plans:
                plans.append(one.plan)
                yield one.choices, one.plan


def _unlike(demand: Demand) -> Iterator[Role]:
    """Roles of models that have several, of which calls are much shorter than others': they may do better apart.

    Not those whose name a route could not be read from ("application/stage").
    """
    by_model: dict[str, list[Role]] = defaultdict(list)
    for role in demand.roles:
        by_model[role.model].append(role)
    for roles in by_model.values():
        if len(roles) > 1:
            length = [role.prompt_tokens / 20.0 + role.output_tokens for role in roles]
            if max(length) > UNLIKE * min(length):
                shortest = roles[length.index(min(length))]
                if shortest.app and "/" not in shortest.stage:
                    yield shortest


def _divided(choices: Choices, u: int) -> Iterator[Choices]:
    """Choices in which a new unit, next to `u`, has some of its replicas, or part of their shares."""
    degree, replicas, parts, _ = one = choices[u]
    pairs = [
        (one._replace(parts=max(1, parts - less)), Choice(degree, 1, less)) for less in {PARTS // 4, parts // 2} - {0}
    ]
    if replicas > 1:
        less = replicas // 4 or 1
        pairs = [(one._replace(replicas=replicas - less), Choice(degree, less, parts))]
    for main, other in pairs:
        yield (*choices[:u], main, other, *choices[u + 1 :])


def _distinct(best: list[Candidate]) -> list[Candidate]:
    """The finalists: the best of each of the first few kinds, by how wide engines are and how many there are."""
    kinds: dict[tuple[tuple[int, int], ...], Candidate] = {}
    for one in best:
        kind = tuple((group.tensor_parallel, group.replicas) for choice in one.choices for group in choice.groups)
        kinds.setdefault(kind, one)
    return list(kinds.values())[:FINALISTS]


def _predicted(problem: Problem, one: Candidate, estimate: Estimate, scale: float) -> dict[str, Any]:
    apps = {
        app: {"mean_s": float(estimate.mean_s[0, 0, a]), "p95_s": float(estimate.p95_s[0, 0, a])}
        for a, app in enumerate(problem.demand.apps)
    }
    used = {
        engine.name: round(float(value), 3)
        for engine, value in zip(one.plan.engines, estimate.utilisation[0, 0], strict=True)
    }
    told = {"rates": round(scale, 4), "apps": rounded(apps), "utilisation": used}
    if problem.goal.objective == "throughput":
        told["carries"] = round(-one.score.value, 4)
    return told


# ---------------------------------------------------------------- bounds


def bound(search: Search) -> dict[str, Any]:
    """What no plan can beat: work against devices, and the longest path at full width with nothing in the way."""
    problem = search.problem
    busy, constants, largest = 0.0, [], dict[str, float]()
    for node in problem.cluster.nodes:
        largest[node.kind] = max(node.memory_gib, largest.get(node.kind, 0.0))
    for u in range(len(search.units)):
        costs, fastest = [], []
        for kind, memory_gib in largest.items():
            for degree in search.widths[u]:
                latency = search.units[u].model.latency.get(kind, {}).get(degree)
                if latency is not None:
                    row = np.array([getattr(latency, name) for name in CONSTANTS])
                    costs.append((_device_seconds(search, u, row, degree, memory_gib), degree))
                    fastest.append((latency.unloaded(1024, 256), tuple(row)))
        busy += min(costs)[0]
        constants.append(min(fastest)[1])
    count = len(search.units)
    alone = Fleet(
        np.array(constants).T,
        np.full(count, 1e6),
        np.full(count, float(WIDEST_WINDOW)),
        *(np.ones(count), np.zeros((count, count)), np.zeros(count), np.zeros((count, count))),
    )
    estimate = search.estimator.estimate([alone], [1e-9])
    mean_s = estimate.mean_s[0, 0]
    return {
        "device_seconds_a_job": round(busy / float(problem.demand.per_s.sum()), 4),
        "carries": round(len(problem.cluster.devices) / busy, 4),
        "mean_s": {app: round(float(value), 3) for app, value in zip(problem.demand.apps, mean_s, strict=True)},
    }


def _device_seconds(search: Search, u: int, row: Any, degree: int, memory_gib: float) -> float:
    """Device-seconds a second that a unit's calls take at least, in the fullest batches at this width."""
    unit = search.units[u]
    alone = Fleet(
        *(np.tile(row[:, None], len(search.units)), np.ones(len(search.units)), np.ones(len(search.units))),
        *(np.ones(len(search.units)), np.zeros((1, 1)), np.zeros(1), np.zeros((1, 1))),
    )
    shape = search.estimator.shape(alone)
    tokens = (USABLE * memory_gib * degree - unit.model.weights_gib) * 2**30 / unit.model.kv_bytes_per_token
    window = max(1.0, min(WIDEST_WINDOW, tokens / unit.held))
    _, _, _, d0, d1, d2 = row
    step = (d0 + d1 * window + d2 * window * shape.held[u]) / window
    return float(degree * shape.calls[u] * (shape.steps[u] * step + shape.prefill[u]))


# ---------------------------------------------------------------- other clusters


def _carries(problem: Problem, entry: Entry, budget_s: float, clock: Clock) -> None:
    """Raise InputError where the rates overload even the best plan: by how much, and what would do."""
    search, best = entry.search, entry.candidate
    if problem.goal.objective == "throughput" or best.score.holds:
        return
    estimate = search.estimator.estimate([search.fleet(best.plan)], [1.0])
    used = float(estimate.utilisation.max())
    if used <= MOST_USED:
        return
    devices = len(problem.cluster.devices)
    wanted = smallest(problem, budget_s, clock)
    remedy = f"the smallest cluster found that could has {wanted} devices like these" if wanted else "give more devices"
    raise InputError(
        f"the rates are too high for this cluster: the best plan found for its {devices} devices would have to be "
        f"{used:.2f} times as fast (no plan carries more than {bound(search)['carries']:.2f} times the rates); {remedy}"
    )


def resized(cluster: Cluster, devices: int) -> Cluster:
    """The first so many devices; more than there are: with further nodes like the last."""
    nodes, left = [], devices
    for node in cluster.nodes:
        if left > 0:
            nodes.append(msgspec.structs.replace(node, devices=min(node.devices, left)))
            left -= node.devices
    last = cluster.nodes[-1]
    while left > 0:
        name = f"{last.name}+{len(nodes)}"
        nodes.append(msgspec.structs.replace(last, name=name, domain=None, devices=min(last.devices, left)))
        left -= last.devices
    return Cluster(nodes)


def _holding(problem: Problem, devices: int, seconds: float, clock: Clock) -> list[Candidate] | None:
    """Candidates on so many devices, if the best holds."""
    start = clock()
    try:
        search = Search(problem._replace(cluster=resized(problem.cluster, devices)))
        best = search.run(lambda: clock() - start > seconds, lambda tried, score: None)
    except InputError:
        return None
    return best if best[0].score.holds else None


def smallest(problem: Problem, budget_s: float, clock: Clock) -> int | None:
    """The fewest devices, more than there are, on which a quick search finds a plan that holds."""
    low, high = len(problem.cluster.devices), 2 * len(problem.cluster.devices)
    while _holding(problem, high, PROBES * budget_s, clock) is None:
        low, high = high, 2 * high
        if high > 64 * len(problem.cluster.devices):
            return None
    while high - low > max(1, low // 16):
        middle = (low + high) // 2
        if _holding(problem, middle, PROBES * budget_s, clock) is None:
            low = middle
        else:
            high = middle
    return high


def _cheapest(problem: Problem, budget_s: float, clock: Clock, progress: Progress) -> tuple[Problem, list[Judged]]:
    """The fewest devices on which the best plan holds: by the estimate, then more while the rehearsal says it does not.

    All of them if none does. Each look has half of the time that is left for rehearsals; once there is none, twice as
    many devices are looked at each time, or a large cluster would take many looks more.
    """
    start, there, over = clock(), problem.cluster, SEARCHES
    problem, best = _fewest(problem, SEARCHES * budget_s, clock)
    search = Search(problem)
    _carries(problem, Entry(search, best[0]), budget_s, clock)
    while True:
        devices = len(problem.cluster.devices)
        over = REHEARSED if devices == len(there.devices) else (over + REHEARSED) / 2
        entries = [Entry(search, one) for one in _distinct(best)]
        judged = finals(problem, entries, True, _after(clock, start + over * budget_s), progress)
        if judged[0][1].score.holds or devices == len(there.devices):
            return problem, judged
        more = devices + max(1, devices // 16) if clock() < start + REHEARSED * budget_s else 2 * devices
        problem = problem._replace(cluster=resized(there, min(more, len(there.devices))))
        search = Search(problem)
        best = search.run(_after(clock, clock() + PROBES * (REHEARSED - over) * budget_s), lambda tried, score: None)


def _after(clock: Clock, end: float) -> Callable[[], bool]:
    return lambda: clock() > end


def _fewest(problem: Problem, seconds: float, clock: Clock) -> tuple[Problem, list[Candidate]]:
    """The fewest devices on which the best candidate holds by the estimate, and candidates there; all if none does."""
    low, high = 0, len(problem.cluster.devices)
    best = _holding(problem, high, seconds / 4, clock)
    if best is None:
        return problem, Search(problem).run(lambda: True, lambda tried, score: None)
    while high - low > 1:
        middle = (low + high) // 2
        found = _holding(problem, middle, seconds / 8, clock)
        if found is None:
            low = middle
        else:
            best, high = found, middle
    return problem._replace(cluster=resized(problem.cluster, high)), best


def missed(planned: Planned) -> list[str]:
    """SLOs that the plan does not hold in the rehearsal, in words."""
    told = []
    for slo in planned.search.problem.goal.slos:
        seconds = planned.verdict.figures[slo.app][f"{slo.figure}_s"]
        if seconds > slo.seconds:
            told.append(f"{slo.app}.{slo.figure} is {seconds:.3g} s, not {slo.seconds:g} s")
    return told


def without_room(planned: Planned) -> str:
    """That the plan carries the rates but not `headroom` times as much, in words; empty if it does."""
    goal = planned.search.problem.goal
    held = planned.verdict.score.holds or not goal.slos  # what stands for SLOs only helps to choose
    if goal.objective == "throughput" or (planned.candidate.score.holds and held):
        return ""
    used = float(planned.estimate.utilisation.max())
    return (
        f"no plan was found that carries {goal.headroom:g} times the rates and holds (--headroom); this one is for the "
        f"rates as they are, where its busiest engine is used {used:.0%}"
    )
