"""The finals: what is rehearsed better wins, and more time only finds better plans."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest

from hocket.planner import finals as finishing
from hocket.planner.baselines import BASELINES
from hocket.planner.finals import Entry, finals
from hocket.planner.goal import Goal, Slo
from hocket.planner.judge import Judge
from hocket.planner.plan import problems_of
from hocket.planner.planning import plan_for
from hocket.planner.rehearsal import Rehearsal
from hocket.planner.search import Problem, Search
from tests.planner.worlds import problem

GOALS = [Goal("throughput", (Slo("rag", "p95", 30.0),)), Goal("latency"), Goal("throughput")]


def quiet(what: str, done: int, score: object) -> None:
    pass


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hocket.planner.rehearsal.MOST_CALLS", 150_000)
    monkeypatch.setattr("hocket.planner.rehearsal.IN_ALL", 400)
    monkeypatch.setattr(finishing, "SHAKES", 12)


def looks(most: int) -> Callable[[], bool]:
    """Says that time is over when it has been asked so often."""
    asked: Iterator[int] = count()
    return lambda: next(asked) >= most


def entries_of(asked: Problem) -> list[Entry]:
    search = Search(asked)
    return [Entry(search, one) for one in BASELINES["k8s-default"](asked, lambda: True)]


@pytest.mark.parametrize("goal", GOALS)
def test_climbing_finds_a_better_plan_and_more_of_it_none_that_is_worse(goal: Goal) -> None:
    asked = problem({"rag": 1.0}, 4, goal)
    scores = []
    for most in (0, 20, 80):
        ((entry, verdict), *others) = finals(asked, entries_of(asked), True, looks(most), quiet)
        scores.append(verdict.score)
        assert verdict.differs < 1e-12 and verdict.figures.keys() == {"rag"}
        assert not list(problems_of(entry.plan, asked.cluster, asked.models))
        assert len(others) <= finishing.TOLD - 1
    assert scores[0] >= scores[1] >= scores[2] < scores[0]


def test_the_same_twice_and_on_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = problem({"rag": 1.0}, 4, GOALS[0])
    found: list[Any] = []
    for threads in (1, 2, 2):
        monkeypatch.setattr(finishing, "THREADS", threads)
        (entry, verdict), *_ = finals(asked, entries_of(asked), True, looks(25), quiet)
        found.append((entry.plan, verdict))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("most", [0, 1, 5, 40])
def test_no_plan_is_told_twice_and_all_are_of_as_many_draws(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    asked, measured = problem({"rag": 1.0}, 4, GOALS[0]), list[tuple[Any, int]]()
    search = Search(asked)
    entries = [Entry(search, one) for one in search.run(looks(6), lambda tried, score: None)[:6]]
    over = Rehearsal.over

    def counted(stage: Rehearsal, each: Any) -> Any:
        measured.append((stage, len(each)))
        return over(stage, each)

    monkeypatch.setattr(Rehearsal, "over", counted)
    judged = finals(asked, entries, True, looks(most), quiet)
    plans = [entry.plan for entry, _ in judged]
    assert all(one not in plans[:place] for place, one in enumerate(plans))
    assert len({count for _, count in measured}) == 1 and len(measured) >= len(judged)
    assert len(judged) > 1 or most < 40


def test_who_does_not_climb_is_who_was_given() -> None:
    asked = problem({"rag": 1.0}, 4, GOALS[0])
    entries = entries_of(asked)
    ((entry, _),) = finals(asked, entries, False, lambda: False, quiet)
    assert entry.plan == entries[0].plan


def test_the_best_of_a_kind_is_one_of_that_kind() -> None:
    asked = problem({"rag": 1.0}, 4, GOALS[0])
    found = {
        name: plan_for(asked, 4.0, clock(), quiet, name).plan for name in ("k8s-default", "k8s-best", "whole-best")
    }
    replicas = {name: [r for engine in plan.engines for r in engine.replicas] for name, plan in found.items()}
    assert all(one.share == 1.0 for own in replicas.values() for one in own)
    assert {one.tensor_parallel for name in ("k8s-default", "k8s-best") for one in replicas[name]} == {1}


def clock() -> Callable[[], float]:
    """A second passes every twentieth look."""
    looked: Iterator[int] = count()
    return lambda: next(looked) / 20.0


def test_what_is_told_is_what_the_simulator_says_of_the_jobs_of_a_draw() -> None:
    asked = problem({"rag": 1.0}, 4, GOALS[0])
    (entry, verdict), *_ = finals(asked, entries_of(asked), True, looks(10), quiet)
    judge = Judge(asked.demand, asked.cluster, asked.models, asked.goal)
    assert judge.late(verdict.figures) <= 0.0
    assert judge.late(judge.figures(entry.plan, 1.5 * verdict.scale)) > 0.0
