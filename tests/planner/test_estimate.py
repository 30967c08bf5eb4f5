"""The estimate, against the simulator; and what it is made of."""

from __future__ import annotations

import math
from itertools import combinations

import msgspec
import numpy as np
import pytest

from hocket.errors import InputError
from hocket.planner.demand import App, Rates, demand_of
from hocket.planner.explain import critical
from hocket.planner.goal import Goal, Slo
from hocket.planner.judge import draw
from hocket.planner.placement import PARTS, Choice, place
from hocket.planner.plan import problems_of
from hocket.planner.search import Search
from hocket.planner.simulated import setup_of
from hocket.sim.experiment import simulate
from tests.planner.worlds import demand, jobs_of, problem, random_plans


def kendall(one: list[float], other: list[float]) -> float:
    signs = [np.sign((a - b) * (c - d)) for (a, c), (b, d) in combinations(zip(one, other, strict=True), 2)]
    return float(np.mean(signs))


# ---------------------------------------------------------------- what is asked for


def test_roles_and_groups_are_those_of_the_jobs() -> None:
    asked = demand({"rag": 2.0})
    assert [(role.name, role.model) for role in asked.roles] == [
        ("rag/rewrite", "rewriter"),
        ("rag/rerank", "reranker"),
        ("rag/answer", "generator"),
    ]
    groups = asked.groups
    assert len(groups.levels) == 4  # rewrite, search, all reranks at once, answer
    rerank = groups.role == 1
    assert set(groups.calls[rerank]) <= {16.0, 32.0, 48.0} and (groups.together == groups.calls)[rerank].all()
    recorded = np.mean([sum(stage.name == "rerank" for stage in job.stages) for job in asked.jobs])
    assert (asked.weights * groups.calls)[rerank].sum() / 2.0 == pytest.approx(recorded, rel=0.1)


def test_calls_that_each_follow_a_call_of_their_own_do_not_come_together() -> None:
    groups = demand({"beam-search": 1.0}, count=12).groups
    score = groups.role == 1
    assert (groups.calls[score] > 1).all() and (groups.together[score] == 1).all()


@pytest.mark.parametrize(
    ("apps", "told"),
    [
        (["rag", "chat"], "no job of 'chat' is recorded; there are jobs of rag"),
        (["idle"], "calls a model"),
        (["unsized"], "no call of 'unsized' has tokens; record `prompt_tokens`"),
    ],
)
def test_what_cannot_be_asked_for(apps: list[str], told: str) -> None:
    jobs = jobs_of({"rag": 1.0}, count=3)
    if "idle" in apps:
        for job in jobs:
            job.app, job.stages = "idle", [stage for stage in job.stages if stage.kind == "tool"]
    if "unsized" in apps:
        sizes = {"prompt_tokens": 0, "output_tokens": 0}
        for job in jobs:
            job.app, job.stages = "unsized", [msgspec.structs.replace(stage, **sizes) for stage in job.stages]
    with pytest.raises(InputError, match=told):
        demand_of(jobs, Rates([App(app, 1.0) for app in apps]))


# ---------------------------------------------------------------- against the simulator


@pytest.mark.parametrize("app", ["rag", "coding-crew"])
def test_without_load_it_is_the_longest_path(app: str) -> None:
    search = Search(problem({app: 1e-4}, 4))
    plan = place(search.units, [Choice(1, 1, PARTS)] * 3, search.problem.cluster)
    assert plan is not None
    jobs = jobs_of({app: 1e-4}, count=60)
    outcome = simulate(jobs, setup_of(plan, search.problem.cluster, search.problem.models), "fcfs")
    estimate = search.estimator.estimate([search.fleet(plan)], [1.0])
    assert estimate.mean_s[0, 0, 0] == pytest.approx(np.mean(list(outcome.jct_s.values())), rel=0.08)


def test_it_ranks_random_plans_as_the_simulator_does() -> None:
    search = Search(problem({"rag": 1.2}, 4))
    plans = random_plans(search, 30, seed=3)
    cluster, models = search.problem.cluster, search.problem.models
    assert not [told for plan in plans for told in problems_of(plan, cluster, models)]
    estimate = search.estimator.estimate([search.fleet(plan) for plan in plans], [1.0])
    jobs = draw(search.problem.demand, search.problem.goal, 1.0, seed=5)
    simulated = []
    for plan in plans:
        outcome = simulate(jobs, setup_of(plan, cluster, models), "fcfs")
        assert len(outcome.jct_s) == len(jobs)
        simulated.append(float(np.mean(list(outcome.jct_s.values()))))
    assert kendall(list(estimate.mean_s[:, 0, 0]), simulated) > 0.75


@pytest.mark.parametrize("law", ["ps", "capped"])
def test_a_replica_with_a_device_to_itself_takes_more_calls(law: str) -> None:
    search = Search(problem({"rag": 1.0}, 4, law=law))
    rerankers = Choice(1, 1, PARTS, (Choice(1, 1, PARTS // 2),))
    plan = place(
        search.units,
        [Choice(1, 1, PARTS // 2), rerankers, Choice(2, 1, PARTS)],
        search.problem.cluster,
        law=search.problem.law,
    )
    assert plan is not None
    u = next(index for index, engine in enumerate(plan.engines) if engine.name == "reranker")
    fleet = search.fleet(plan)
    taken = fleet.most[u] if law == "ps" else fleet.apart[u] - 1.0  # 0 of the one, 1 of the other
    assert 0.2 < taken < 0.45


def test_more_load_is_never_faster_and_capped_is_slower_than_ps() -> None:
    search = Search(problem({"rag": 1.0}, 4))
    plans = random_plans(search, 5, seed=1)
    estimate = search.estimator.estimate([search.fleet(plan) for plan in plans], [0.1, 0.5, 1.0, 2.0])
    assert (np.diff(estimate.mean_s[:, :, 0], axis=1) > 0).all()
    assert (np.diff(estimate.utilisation.max(axis=-1), axis=1) > 0).all()
    fleets = [search.fleet(msgspec.structs.replace(plan, law="capped")) for plan in plans]
    capped = search.estimator.estimate(fleets, [0.1])
    assert (capped.mean_s[:, 0, 0] >= estimate.mean_s[:, 0, 0] - 1e-9).all()


def test_shares_of_the_critical_path_and_of_tools_are_the_whole() -> None:
    search = Search(problem({"rag": 0.2}, 4))
    plan = place(search.units, [Choice(1, 1, PARTS)] * 3, search.problem.cluster)
    assert plan is not None
    estimate = search.estimator.estimate([search.fleet(plan)], [1.0])
    shares = critical(search.estimator, estimate.times[0, 0])
    tools = np.mean(
        [stage.duration_s for job in search.problem.demand.jobs for stage in job.stages if stage.duration_s]
    )
    assert shares.shape == (1, 3) and shares[0, 2] > 0.5
    assert math.isclose(1 - shares.sum(), tools / estimate.mean_s[0, 0, 0], rel_tol=0.15)


def test_a_sample_has_the_load_of_all_jobs() -> None:
    """Few long jobs are much of the work: a sample that missed one would mistake the load by as much."""
    asked = demand({"beam-search": 1.0}, count=200)
    groups, llm = asked.groups, asked.groups.role >= 0
    stages = [stage for job in asked.jobs for stage in job.stages if stage.kind == "llm"]
    calls = (asked.weights * groups.calls)[llm]
    assert len(asked.shares) < len(asked.jobs) and (asked.shares > 0.0).all()
    assert calls.sum() == pytest.approx(len(stages) / len(asked.jobs), rel=1e-3)
    prompts = sum(stage.prompt_tokens for stage in stages) / len(asked.jobs)
    assert (calls * groups.prompt[llm]).sum() == pytest.approx(prompts, rel=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_a_run_has_the_work_that_is_to_be_expected(seed: int) -> None:
    asked = demand({"beam-search": 1.0}, count=200)
    jobs = draw(asked, Goal("latency", (Slo("rag", "p95", 1e9),)), 1.0, seed, 1000)
    recorded, run = (
        np.mean([sum(stage.prompt_tokens for stage in job.stages) for job in some]) for some in (asked.jobs, jobs)
    )
    assert run == pytest.approx(recorded, rel=0.03)
    assert len({job.job for job in jobs}) == len(jobs)


def test_in_a_short_run_an_overload_has_not_grown_far() -> None:
    search = Search(problem({"rag": 40.0}, 4))
    fleets = [search.fleet(plan) for plan in random_plans(search, 5, seed=2)]
    means = []
    for horizon_s in (30.0, 300.0, 3000.0, None):
        search.estimator.horizon_s = horizon_s
        estimate = search.estimator.estimate(fleets, [1.0])
        assert (estimate.utilisation.max(axis=-1) > 1.0).all()
        means.append(estimate.mean_s[:, 0, 0])
    assert (np.diff(means, axis=0) > 0.0).all()
