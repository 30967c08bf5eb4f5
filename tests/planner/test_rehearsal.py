"""The rehearsal: to the tick what the simulator says; and what follows from its runs."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from hocket.planner import rehearsal as rehearsing
from hocket.planner.compiled import COMPILED
from hocket.planner.engines import play
from hocket.planner.goal import Goal, Slo
from hocket.planner.judge import Judge
from hocket.planner.plan import Plan
from hocket.planner.rehearsal import BETTER, NEAR, Draw, Rehearsal
from hocket.planner.search import Problem, Search
from tests.planner.worlds import problem, random_plans

APPS = {"rag": {"rag": 1.0}, "beam": {"beam-search": 0.1}, "both": {"coding-crew": 0.1, "rag": 0.5}}
CALLS = 6000
MORE = 1.0 + (NEAR - 1.0) * np.linspace(0.1, 1.0, 10)
"times what is sustained, to the width of the bisection"
SLOS = (Slo("rag", "p95", 30.0), Slo("rag", "mean", 15.0))


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsing, "MOST_CALLS", 2 * CALLS)


def stage_of(asked: Problem, first: Plan, about: float = 1.0, **how: Any) -> Rehearsal:
    return Rehearsal(asked.demand, asked.cluster, asked.models, asked.goal, first, about, **how)


def plans_of(asked: Problem, count: int, seed: int = 5) -> list[Plan]:
    return random_plans(Search(asked), count, seed)


@pytest.mark.parametrize("law", ["ps", "capped"])
@pytest.mark.parametrize("name", [*APPS])
def test_it_says_what_the_simulator_says(name: str, law: Any) -> None:
    """Replicas side by side and stacked, of one device and of several, unlike ones; from no load to far too much."""
    asked = problem(APPS[name], 4, law=law)
    plans = plans_of(asked, 6)
    stage = stage_of(asked, plans[0])
    judge = Judge(asked.demand, asked.cluster, asked.models, asked.goal)
    for plan in plans:
        for scale in (0.1, 3.0, 30.0):
            jobs = stage.jobs(0, scale, CALLS)
            simulated, rehearsed = judge.played(plan, jobs), stage.told(plan, 0, scale, len(jobs))
            assert len(jobs) > 20
            for app, own in rehearsed.items():
                assert own == pytest.approx(simulated[app], rel=1e-12)


def test_calls_that_are_thrown_off_for_want_of_memory_are_those_of_the_simulator() -> None:
    """Windows larger than the KV cache has room for: of thousands of calls, many are begun twice."""
    asked = problem({"rag": 2.0}, 4)
    (plan,) = plans_of(asked, 1)
    tight, roomy = with_memory(plan, 6000), with_memory(plan, 10**7)
    stage = stage_of(asked, tight)
    jobs = stage.jobs(0, 20.0, CALLS)
    simulated = Judge(asked.demand, asked.cluster, asked.models, asked.goal).played(tight, jobs)
    rehearsed = stage.told(tight, 0, 20.0, len(jobs))
    assert rehearsed["rag"] == pytest.approx(simulated["rag"], rel=1e-12)
    assert stage.told(roomy, 0, 20.0, len(jobs))["rag"]["mean_s"] < 0.95 * rehearsed["rag"]["mean_s"]


def with_memory(plan: Plan, kv_tokens: int) -> Plan:
    engines = [
        msgspec.structs.replace(
            engine,
            replicas=[msgspec.structs.replace(one, kv_tokens=kv_tokens, max_concurrency=64) for one in engine.replicas],
        )
        for engine in plan.engines
    ]
    return msgspec.structs.replace(plan, engines=engines)


@pytest.mark.skipif(not COMPILED, reason="numba is not installed: all of this file is interpreted")
def test_compiled_and_interpreted_are_the_same() -> None:
    asked = problem({"rag": 1.0}, 4)
    (plan,) = plans_of(asked, 1)
    stage = stage_of(asked, plan)
    draw = stage.draws[0]
    some = (rehearsing._ticks(draw.arrivals[:60] / 4.0), draw.drawn[:60])
    never = np.full(1, rehearsing.NEVER)
    took, missed = play(stage._book, stage.fleet(plan), *some, never, draw.most)
    again, also = play.py_func(stage._book, stage.fleet(plan), *some, never, draw.most)  # type: ignore[attr-defined]
    assert took.tolist() == again.tolist() and not missed and not also


def test_a_run_that_is_given_up_is_one_that_misses() -> None:
    asked = problem({"rag": 1.0}, 4, Goal("throughput", SLOS))
    seen = set[bool]()
    for plan in plans_of(asked, 4):
        stage = stage_of(asked, plan)
        fleet = stage.fleet(plan)
        for draw in (stage.sketch, stage.draws[0]):
            for scale in (0.3, 1.0, 3.0):
                whole, found = stage.figures(fleet, draw, scale), stage.figures(fleet, draw, scale, ends_early=True)
                assert whole is not None
                held = stage.late(whole) <= 0.0
                assert stage.holds(fleet, draw, scale) == (held and (draw.tail or scale <= stage._most))
                assert found == whole if held else found in (None, whole)
                seen.add(held)
    assert seen == {True, False}


def test_what_is_sustained_holds_and_a_little_more_does_not() -> None:
    asked = problem({"rag": 1.0}, 4, Goal("throughput", SLOS))
    for plan in plans_of(asked, 3):
        stage = stage_of(asked, plan, 3.0)
        for about in (0.1, 1.0, 50.0):
            outcome = stage.outcome(plan, about)
            for draw, score in zip(stage.draws, outcome.each, strict=True):
                assert stage.holds(stage.fleet(plan), draw, -score.value)
                assert not all(stage.holds(stage.fleet(plan), draw, more * -score.value) for more in MORE)
            assert outcome.sustained == min(-one.value for one in outcome.each)


def test_a_draw_is_the_same_jobs_at_any_rate_and_another_with_another_seed() -> None:
    asked = problem({"rag": 2.0, "coding-crew": 0.5}, 5, Goal("throughput", (Slo("rag", "p95", 30.0),)))
    (plan,) = plans_of(asked, 1)
    stage, same, other = stage_of(asked, plan), stage_of(asked, plan), stage_of(asked, plan, seed=12)
    slow, fast = stage.jobs(0, 1.0), stage.jobs(0, 2.0)
    assert [job.stages for job in slow] == [job.stages for job in fast] == [job.stages for job in same.jobs(0, 1.0)]
    assert [job.arrival_s for job in slow] == [2.0 * job.arrival_s for job in fast]
    assert [job.stages for job in slow] != [job.stages for job in other.jobs(0, 1.0)]
    per_s = [sum(job.app == app for job in slow) / slow[-1].arrival_s for app in asked.demand.apps]
    assert per_s == pytest.approx(list(asked.demand.per_s), rel=0.25)


def test_a_run_too_short_to_show_an_overload_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue that only grows is short at first: the whole of a short run may be within the SLO."""
    monkeypatch.setattr(rehearsing, "MOST_CALLS", 1000)
    asked = problem({"rag": 1.0}, 4, Goal("throughput", (Slo("rag", "p95", 1e4),)))
    (plan,) = plans_of(asked, 1)
    stage = stage_of(asked, plan, 2.0)
    fleet, draw = stage.fleet(plan), stage.draws[0]
    figures = stage.figures(fleet, draw, 200.0)
    assert figures is not None and stage.late(figures) <= 0.0, "overloaded many times over, and nothing to be seen"
    assert stage.outcome(plan, 200.0).sustained <= 2.2


@pytest.mark.parametrize("objective", ["latency", "throughput"])
@pytest.mark.parametrize("slos", [(), SLOS])
def test_who_beats_another_has_the_better_score_on_the_sketch(objective: Any, slos: tuple[Slo, ...]) -> None:
    asked = problem({"rag": 1.0}, 4, Goal(objective, slos))
    plans = plans_of(asked, 8)
    stage = stage_of(asked, plans[0])
    scores = [stage.sketched(plan, 1.0) for plan in plans]
    for bar in scores:
        for plan, score in zip(plans, scores, strict=True):
            if stage.beats(plan, bar):
                assert score <= bar
            elif score.violation == bar.violation:
                assert score.value > bar.value - 1.1 * (NEAR * BETTER - 1.0) * abs(bar.value)


def test_where_no_slo_is_given_three_times_the_unloaded_p95_stands_for_it() -> None:
    asked = problem({"rag": 1.0}, 4)
    (plan,) = plans_of(asked, 1)
    stage = stage_of(asked, plan)
    alone = stage.told(plan, 0, 1e-3)
    assert stage.slos == (Slo("rag", "p95", pytest.approx(3.0 * alone["rag"]["p95_s"], rel=0.05)),)


def test_fewer_draws_are_the_first_of_all() -> None:
    asked = problem({"rag": 1.0}, 4, Goal("throughput", SLOS))
    (plan,) = plans_of(asked, 1)
    stage = stage_of(asked, plan)
    assert len(stage.draws) > 1
    fewer = stage_of(asked, plan)
    fewer.draws = fewer.draws[:1]
    assert fewer.outcome(plan, 1.0).each == stage.outcome(plan, 1.0).each[:1]


@pytest.mark.parametrize("rate", [1e-7, 0.01])
def test_a_job_a_month_has_an_end(rate: float) -> None:
    """Ticks end: a run without load is no longer than they count."""
    asked = problem({"rag": rate}, 4)
    (plan,) = plans_of(asked, 1)
    figures = stage_of(asked, plan).told(plan, 0, 1e-3)["rag"]
    busier = problem({"rag": 0.1}, 4)
    assert figures["p95_s"] == pytest.approx(stage_of(busier, plan).told(plan, 0, 1e-3)["rag"]["p95_s"], rel=0.1)


def test_an_slo_that_no_rate_holds_is_told_at_a_low_one() -> None:
    asked = problem({"rag": 1.0}, 4, Goal("throughput", (Slo("rag", "p95", 0.001),)))
    (plan,) = plans_of(asked, 1)
    assert stage_of(asked, plan).outcome(plan, 3.0).sustained == pytest.approx(3.0 * rehearsing.UNLOADED)


def test_an_application_of_few_jobs_has_a_tail() -> None:
    asked = problem({"rag": 0.01, "coding-crew": 2.0}, 5, Goal("throughput", (Slo("rag", "p95", 60.0),)))
    (plan,) = plans_of(asked, 1)
    stage = stage_of(asked, plan)
    assert np.sum(stage.sketch.app == 0) < 5
    assert -stage.sketched(plan, 1.0).value > 0.01
    for count in range(1, 60):
        tail = rehearsing._tail(count)
        assert 0 <= tail.start < tail.stop <= count


def test_the_tail_is_one_number_of_many_jobs() -> None:
    """On the sketch: the mean of the jobs from the ninetieth to the ninety-eighth in a hundred."""
    asked = problem({"rag": 1.0}, 4, Goal("throughput", SLOS))
    (plan,) = plans_of(asked, 1)
    stage = stage_of(asked, plan)
    whole: Draw = stage.sketch._replace(tail=False)
    tail, one = (stage.figures(stage.fleet(plan), draw, 0.5) for draw in (stage.sketch, whole))
    assert tail is not None and one is not None
    assert tail["rag"]["p95_s"] != one["rag"]["p95_s"]
    assert tail["rag"]["p95_s"] == pytest.approx(one["rag"]["p95_s"], rel=0.2)
