"""The judge: what it draws, and what it says of jobs that are given."""

from __future__ import annotations

import pytest

from hocket.planner.goal import Goal, Slo
from hocket.planner.judge import JOBS, Judge, draw
from hocket.planner.search import Search
from tests.planner.worlds import problem, random_plans

APP = "coding-crew"


@pytest.fixture(scope="module")
def search() -> Search:
    goal = Goal("throughput", (Slo(APP, "p95", 40.0), Slo(APP, "mean", 28.0)))
    return Search(problem({APP: 0.5}, 4, goal))


def test_figures_are_those_of_the_jobs_that_are_drawn_and_the_worst_slo_counts(search: Search) -> None:
    asked = search.problem
    judge = Judge(asked.demand, asked.cluster, asked.models, asked.goal, most=300)
    for plan in random_plans(search, 3, seed=11):
        figures = judge.figures(plan, 1.0)
        assert figures == judge.played(plan, draw(asked.demand, asked.goal, 1.0, judge.seed, 300))
        assert judge.mean(figures) == pytest.approx(figures[APP]["mean_s"])
        worst = max(figures[APP]["p95_s"] / 40.0, figures[APP]["mean_s"] / 28.0) - 1.0
        assert judge.late(figures) == pytest.approx(worst)


def test_a_run_lasts_twelve_times_the_slo_if_it_may(search: Search) -> None:
    demand, goal = search.problem.demand, search.problem.goal
    assert draw(demand, goal, 4.0, 1, 10_000)[-1].arrival_s == pytest.approx(12 * 40.0, rel=0.02)
    assert len(draw(demand, goal, 4.0, 1, 300)) == pytest.approx(300, rel=0.2)
    assert len(draw(demand, Goal(), 4.0, 1)) == pytest.approx(JOBS, rel=0.2)


@pytest.mark.parametrize("scale", [0.0, float("inf"), float("nan")])
def test_there_is_no_draw_at_no_rate(search: Search, scale: float) -> None:
    with pytest.raises(ValueError, match="no such draw"):
        draw(search.problem.demand, search.problem.goal, scale, 1)
