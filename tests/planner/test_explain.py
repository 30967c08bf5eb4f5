"""Explanations of plans in which a role has an engine of its own."""

from __future__ import annotations

import pytest

from hocket.planner.demand import App, Demand, Rates, demand_of
from hocket.planner.explain import one_more, paths
from hocket.planner.goal import Goal
from hocket.planner.judge import Verdict
from hocket.planner.placement import units_of
from hocket.planner.planning import Planned
from hocket.planner.search import Problem, Search
from hocket.trace import Job, Stage
from tests.planner.worlds import cluster, models


def stage(name: str, model: str, tokens: tuple[int, int], *needs: str) -> Stage:
    prompt, output = tokens
    return Stage(
        id=f"{name}-{model}", name=name, kind="llm", model=model, needs=list(needs), prompt_tokens=prompt,
        output_tokens=output,
    )  # fmt: skip


@pytest.fixture(scope="module")
def demand() -> Demand:
    """One stage asks two models, and one model has a long and a short role."""
    stages = [stage("ask", "rewriter", (2000, 400)), stage("ask", "generator", (2000, 400))]
    check = stage("check", "rewriter", (300, 4), "ask-rewriter", "ask-generator")
    jobs = [Job(job=f"j{i}", app="a", arrival_s=float(i), stages=[*stages, check]) for i in range(8)]
    return demand_of(jobs, Rates([App("a", 0.5)]))


@pytest.fixture(scope="module")
def planned(demand: Demand) -> Planned:
    """As if the best plan were one with the short role apart."""
    problem = Problem(demand, cluster(4), models(demand.models), Goal())
    (short,) = [role for role in demand.roles if role.stage == "check"]
    search = Search(problem, [short])
    best = search.run(lambda: search.tried > 100, lambda tried, score: None)[0]
    estimate = search.estimator.estimate([search.fleet(best.plan)], [1.0])
    return Planned(best.plan, best, Verdict(best.score, 1.0, {}), [], search, estimate)


def test_a_role_apart_is_one_of_one_model(demand: Demand) -> None:
    """Two roles may have one name: those of a stage that asks two models."""
    twice = [role for role in demand.roles if role.name == "a/ask"]
    assert [role.model for role in twice] == ["rewriter", "generator"]
    units = units_of(demand, models(demand.models), twice[:1])
    assert [unit.name for unit in units] == ["rewriter", "rewriter-a-ask", "generator"]


def test_paths_are_told_of_plans_with_other_engines(planned: Planned) -> None:
    told = paths(planned)
    assert {"rewriter-a-check", "generator"} <= told["plan"]["a"].keys(), "the first two overlap: one may be on no path"
    assert "rewriter-a-check" not in told["k8s-default"]["a"]
    assert sum(told["plan"]["a"].values()) == pytest.approx(float(planned.estimate.mean_s[0, 0, 0]), rel=0.01)


def test_one_more_device_may_gain_nothing(planned: Planned) -> None:
    """The quick look may find less than the plan that is there: that is told as what it is."""
    told = one_more(planned, -1.0, lambda: 0.0)
    before, after = (float(told[key].split()[0]) for key in ("before", "after"))
    assert told["gain"] == pytest.approx(1 - after / before, abs=0.002)
