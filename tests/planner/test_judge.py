"""The judge: runs that end early say what whole ones say, and time is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from hocket.planner import judge as judging
from hocket.planner.goal import Goal, Slo
from hocket.planner.judge import NEAR, SHORT, Judge, draw, race
from hocket.planner.plan import Plan
from hocket.planner.search import Search
from tests.planner.worlds import problem, random_plans

APP, TARGET_S = "coding-crew", 40.0


@pytest.fixture(scope="module")
def search() -> Search:
    goal = Goal("throughput", (Slo(APP, "p95", TARGET_S), Slo(APP, "mean", 0.7 * TARGET_S)))
    return Search(problem({APP: 0.5}, 4, goal))


@pytest.fixture(scope="module")
def plans(search: Search) -> list[Plan]:
    return random_plans(search, 4, seed=11)


def judge_of(search: Search, **how: Any) -> Judge:
    asked = search.problem
    return Judge(asked.demand, asked.cluster, asked.models, asked.goal, most=300, **how)


def test_a_run_that_ends_early_says_what_the_whole_one_says(search: Search, plans: Sequence[Plan]) -> None:
    judge, seen = judge_of(search), set[bool]()
    for plan in plans:
        for scale in (0.3, 3.0):
            figures, found = judge.figures(plan, scale), judge.holds(plan, scale)
            held = judge.late(figures) <= 0.0
            assert found == (figures if held else None)
            seen.add(held)
    assert seen == {True, False}


def test_a_hopeless_run_ends_at_once(search: Search, plans: Sequence[Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    simulate = judging.simulate
    monkeypatch.setattr(
        judging, "simulate", lambda *args, **how: ended.append(len((out := simulate(*args, **how)).jct_s)) or out
    )
    judge = judge_of(search)
    assert judge.holds(plans[0], 50.0) is None
    assert ended[0] < 0.5 * len(draw(judge.demand, judge.goal, 50.0, judge.seed, judge.most))


def test_two_processes_say_what_one_says(search: Search, plans: Sequence[Plan]) -> None:
    judge = judge_of(search)
    finalists = list(zip(plans[:3], [0.5, 1.0, 2.0], strict=True))
    told: list[Any] = []
    one = race(judge, finalists, told.append, processes=1)
    assert one == race(judge, finalists, processes=2) == told
    assert min(one).figures == judge.figures(plans[one.index(min(one))], min(one).scale)


def test_a_finalist_that_is_beaten_is_looked_at_once(search: Search, plans: Sequence[Plan]) -> None:
    judge = judge_of(search)
    good = judge.sustained(plans[0], 1.0)
    verdict = judge.verdict(plans[0], 1.0, bar=40.0 * good.scale)
    assert not verdict.score.holds
    assert verdict.figures == {} and verdict.scale == pytest.approx(40.0 * NEAR * good.scale)


@pytest.mark.parametrize("objective", ["throughput", "latency"])
def test_time_that_is_over_leaves_one_short_run(
    objective: Any, search: Search, plans: Sequence[Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[tuple[int, int]] = []
    simulate = judging.simulate

    def noted(jobs: Any, *args: Any, **how: Any) -> Any:
        out = simulate(jobs, *args, **how)
        runs.append((len(jobs), len(out.jct_s)))
        return out

    monkeypatch.setattr(judging, "simulate", noted)
    judge = judge_of(search, until=lambda: True)
    judge.goal = judge.goal._replace(objective=objective)
    (verdict,) = race(judge, [(plans[0], 1.0)], processes=1)
    assert verdict.figures[APP]["mean_s"] > 0.0
    *cut, short = runs
    assert all(ended <= 1 for _, ended in cut)
    assert short[0] == short[1] < 2 * SHORT


def test_time_that_runs_out_keeps_what_is_known(search: Search, plans: Sequence[Plan]) -> None:
    """The second run is cut: the first says what the plan sustains at least."""
    whole = len(draw(search.problem.demand, search.problem.goal, 0.3, 1, 300))
    left = [3 * whole]

    def until() -> bool:
        left[0] -= 1
        return left[0] < 0

    verdict = judge_of(search, until=until).sustained(plans[0], 0.3)
    assert verdict.score.holds and verdict.scale == 0.3


@pytest.mark.parametrize("scale", [0.0, float("inf"), float("nan")])
def test_there_is_no_draw_at_no_rate(search: Search, plans: Sequence[Plan], scale: float) -> None:
    with pytest.raises(ValueError, match="no such draw"):
        judge_of(search).figures(plans[0], scale)
