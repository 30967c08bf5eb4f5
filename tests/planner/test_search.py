"""The search: sound, the same twice, no worse than trying everything; and the planners that it is compared with."""

from __future__ import annotations

from itertools import count, product
from typing import Any

import msgspec
import numpy as np
import pytest

from hocket.errors import InputError
from hocket.planner import planning
from hocket.planner.baselines import BASELINES
from hocket.planner.demand import App, Rates, demand_of
from hocket.planner.finals import Judged, finals
from hocket.planner.goal import MOST_USED, Goal, appraised, parse_slo, scores
from hocket.planner.inputs import Cluster, Models
from hocket.planner.judge import Judge
from hocket.planner.placement import PARTS, Choice, united
from hocket.planner.plan import problems_of
from hocket.planner.planning import _searched, _unlike, bound, plan_for, resized
from hocket.planner.search import Candidate, Problem, Search
from hocket.trace import Job, Stage
from tests.planner.worlds import cluster, jobs_of, models, problem, random_plans

THROUGHPUT = Goal("throughput", (parse_slo("rag.p95=30s", ["rag"]),))
ALIKE = 0.99
"times a score, from which on another one is no worse"


def searched(asked: Problem, most: int = 800) -> list[Candidate]:
    """Until so many plans were tried: work is what is counted, not time."""
    search = Search(asked)
    return search.run(lambda: search.tried >= most, lambda tried, score: None)


def quiet(what: str, done: int, score: object) -> None:
    pass


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches and climbs that end soon, whatever the time."""
    monkeypatch.setattr("hocket.planner.search.IDLE_STARTS", 1)
    monkeypatch.setattr("hocket.planner.search.STARTS", 2)
    monkeypatch.setattr("hocket.planner.finals.SHAKES", 8)
    monkeypatch.setattr("hocket.planner.finals.MOST_AROUND", 60)
    monkeypatch.setattr("hocket.planner.rehearsal.MOST_CALLS", 30_000)
    monkeypatch.setattr("hocket.planner.rehearsal.IN_ALL", 400)


@pytest.mark.parametrize("law", ["ps", "capped"])
@pytest.mark.parametrize("goal", [Goal(), THROUGHPUT])
def test_every_candidate_can_be_deployed_and_the_search_is_the_same_twice(goal: Goal, law: str) -> None:
    asked = problem({"rag": 1.0}, 4, goal, law=law)
    best = searched(asked, 300)
    assert best[0].score.holds and best == sorted(best, key=lambda one: (one.score, one.choices))
    assert not [told for one in best for told in problems_of(one.plan, asked.cluster, asked.models)]
    assert searched(asked, 300)[:20] == best[:20]


def test_replicas_that_become_alike_are_counted_together() -> None:
    search = Search(problem({"rag": 2.0}, 4))
    mixed = (Choice(1, 2, 4), Choice(1, 3, 2, (Choice(1, 1, 3),)), Choice(2, 1, 4))
    for move in search.moves.around(mixed, [1.0, 0.5, 0.2]):
        assert move.choices == tuple(united(choice.groups) for choice in move.choices), move


@pytest.mark.parametrize("slo", ["rag.p95=30s", "rag.p95=11s"])
def test_a_plan_has_one_score_whatever_was_scored_before(slo: str) -> None:
    """One at a time, among others, and beside any floor: what carries less than that is known to, and no more."""
    goal = Goal("throughput", (parse_slo(slo, ["rag"]),))
    search = Search(problem({"rag": 1.0}, 4, goal))
    fleets = [search.fleet(plan) for plan in random_plans(search, 10, 3)]
    alone = np.array([-appraised(goal, search.estimator, [one]).scores[0].value for one in fleets])
    assert [-score.value for score in scores(goal, search.estimator, fleets)] == pytest.approx(alone, rel=2e-3)
    for floor in alone.max() * np.array([0.1, 0.3, 0.6, 0.9]):
        found = appraised(goal, search.estimator, fleets[::-1], float(floor))
        for score, rough, value in zip(found.scores, found.rough, alone[::-1], strict=True):
            if rough:
                assert value <= 1.002 * floor
            else:
                assert -score.value == pytest.approx(value, rel=2e-3)


def test_the_figures_of_a_score_miss_a_little_above_it_and_hold_a_little_below() -> None:
    search = Search(problem({"rag": 1.0}, 4, THROUGHPUT))
    fleets = [search.fleet(plan) for plan in random_plans(search, 10, 4)]
    for one, score in zip(fleets, scores(THROUGHPUT, search.estimator, fleets), strict=True):
        found = search.estimator.estimate([one], list(-score.value * np.array([0.1, 0.5, 0.9, 0.99, 1.01, 1.1, 2.0])))
        holds = (found.utilisation.max(axis=-1) <= MOST_USED) & (found.p95_s[..., 0] <= 30.0)
        assert holds[0].tolist() == [True] * 4 + [False] * 3


@pytest.mark.parametrize("less", ["whole", "narrow"])
def test_a_search_among_fewer_plans_does_not_find_a_better_one(less: str) -> None:
    asked = problem({"rag": 1.0}, 4, THROUGHPUT)
    full, fewer = searched(asked), searched(asked._replace(**{less: True}), 300)
    assert not full[0].rough and not fewer[0].rough
    assert -fewer[0].score.value <= -full[0].score.value / ALIKE
    exact, fresh = [one for one in (*full[:20], *fewer[:20]) if not one.rough], Search(asked)
    anew = scores(THROUGHPUT, fresh.estimator, [fresh.fleet(one.plan) for one in exact])
    assert [one.score.value for one in exact] == pytest.approx([score.value for score in anew], rel=2e-3)


def test_replicas_on_cores_stay_alike() -> None:
    """One process model, one number of threads: what `hocket up` serves."""
    asked = problem({"rag": 2.0}, 4)
    tables = [{"name": name, "table": "qwen3-8b"} for name in asked.demand.models]
    constants = {"d0": 0.01, "q2": 1e-4}
    cpus = [{**one, "latency": {"cpu": {1: constants, 2: {"d0": 0.006, "q2": 6e-5}}}} for one in tables]
    on_cores = asked._replace(cluster=cluster(4, kind="cpu"), models=msgspec.convert({"models": cpus}, Models))
    moves = Search(on_cores).moves
    every = moves.around((Choice(1, 3, 2), Choice(1, 2, 2), Choice(2, 1, 4)), [1.0, 0.5, 0.2])
    assert every and not any(choice.also for move in every for choice in move.choices)


def everything(asked: Problem) -> Search:
    """All equal replicas, of all widths, up to two, of all shares, scored."""
    every = Search(asked)
    ranges = [
        [Choice(t, r, p) for t in widths if t <= 2 for r in (1, 2) for p in range(every.least(u, t), PARTS + 1)]
        for u, widths in enumerate(every.widths)
    ]
    every.take(list(product(*ranges)))
    assert every.tried > 100
    return every


@pytest.mark.slow
@pytest.mark.parametrize("goal", [Goal(), THROUGHPUT])
@pytest.mark.parametrize("law", ["ps", "capped"])
def test_trying_everything_on_a_small_cluster_is_no_better(goal: Goal, law: str) -> None:
    asked = problem({"rag": 0.8}, 2, goal, law=law)
    best, every = searched(asked)[0].score.value, everything(asked).best[0].score.value
    assert best <= every + 0.02 * abs(every)


@pytest.mark.slow
def test_simulating_everything_that_the_estimate_does_not_rule_out_is_no_better(brief: None) -> None:
    """Plans far behind by the estimate are left out: it is not as wrong as that."""
    asked = problem({"rag": 0.8}, 2)
    planned = plan_for(asked, 60.0, lambda: 0.0, quiet)
    judge = Judge(asked.demand, asked.cluster, asked.models, asked.goal, seed=11)
    near = [one for one in everything(asked).best if one.score.value < 1.3 * planned.candidate.score.value]
    found = {judge.mean(judge.figures(one.plan, 1.0)) for one in near[:25]}
    assert len(near) > 10 and judge.mean(judge.figures(planned.plan, 1.0)) <= 1.02 * min(found)


def test_more_work_finds_better_plans() -> None:
    asked = problem({"rag": 0.5, "coding-crew": 0.1}, 8, Goal("throughput"))
    little, more = searched(asked, 60)[0].score, searched(asked, 600)[0].score
    assert more < little


@pytest.mark.slow
def test_a_plan_for_latency_carries_simulated_what_it_must(brief: None) -> None:
    asked = problem({"rag": 1.0}, 4, Goal("latency", (parse_slo("rag.p95=40s", ["rag"]),), headroom=1.5))
    planned = plan_for(asked, 60.0, lambda: 0.0, quiet)
    judge = Judge(asked.demand, asked.cluster, asked.models, asked.goal)
    assert planned.verdict.score.holds and judge.late(judge.figures(planned.plan, 1.5)) <= 0.0


def test_a_role_whose_calls_are_short_beside_others_of_its_model_is_tried_apart() -> None:
    jobs = jobs_of({"rag": 1.0})
    for job in jobs:
        for stage in job.stages:
            stage.model = "generator" if stage.model == "reranker" else stage.model
    asked = demand_of(jobs, Rates([App("rag", 1.0)]))
    (apart,) = _unlike(asked)
    assert apart.name == "rag/rerank"
    split = Search(problem({"rag": 1.0}, 4)._replace(demand=asked), [apart])
    best = split.run(lambda: split.tried >= 100, lambda tried, score: None)[0]
    assert [engine.roles for engine in best.plan.engines] == [[], [], ["rag/rerank"]]
    assert not list(problems_of(best.plan, split.problem.cluster, split.problem.models))


@pytest.mark.slow
def test_a_role_whose_name_is_no_route_is_not_tried_apart() -> None:
    """The same stage in two applications, of which one has short calls; and a stage whose name has a slash."""
    short, long = ([Stage(id="0", name="ask", kind="llm", model="m", output_tokens=n)] for n in (5, 500))
    rates = Rates([App("a", 1.0), App("b", 1.0)])
    jobs = [Job(job="1", app="a", stages=short), Job(job="2", app="b", stages=long)]
    assert [role.name for role in _unlike(demand_of(jobs, rates))] == ["a/ask"]
    short[0].name = "ask/again"
    assert not list(_unlike(demand_of(jobs, rates)))


@pytest.mark.slow
def test_planners_by_name_and_the_plan_is_ahead_of_them(brief: None) -> None:
    asked = problem({"rag": 1.0}, 4, THROUGHPUT)
    found = {name: planner(asked, lambda: False)[0] for name, planner in BASELINES.items()}
    for name, one in found.items():
        assert not list(problems_of(one.plan, asked.cluster, asked.models))
        if name in {"k8s-default", "k8s-best", "per-model"}:
            assert all(choice.parts == PARTS and choice.tensor_parallel == 1 for choice in one.choices)
    assert found["k8s-best"].score <= found["k8s-default"].score
    assert -found["whole-best"].score.value >= -ALIKE * found["k8s-best"].score.value
    best, ours = found["k8s-best"], searched(asked)[0]
    judge = Judge(asked.demand, asked.cluster, asked.models, asked.goal, seed=9)
    scale = 1.3 * -best.score.value
    assert judge.late(judge.figures(ours.plan, scale)) <= 0.0 < judge.late(judge.figures(best.plan, scale))


def test_what_simpler_planners_choose_is_a_finalist() -> None:
    asked = problem({"rag": 1.0}, 4, THROUGHPUT)
    plans = [one.plan for one in _searched(asked, lambda share: lambda: True, quiet)]
    for name in ("k8s-default", "k8s-best", "whole-best", "aggregate"):
        assert BASELINES[name](asked._replace(stacked=False), lambda: True)[0].plan in plans


def test_the_first_finalist_is_the_best_though_a_simpler_planner_chose_all_that_was_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the first of them it is told whether the rates are too high, and how long rehearsals last."""
    asked = problem({"rag": 1.0}, 4, Goal("latency", THROUGHPUT.slos))
    best = BASELINES["aggregate"](asked, lambda: True)[:1]
    monkeypatch.setattr(Search, "run", lambda *args: best)
    entries = _searched(asked, lambda share: lambda: True, quiet)
    assert len(entries) > 1
    assert entries[0].candidate.score == min(one.candidate.score for one in entries)


def test_more_models_than_devices_share_one_by_default() -> None:
    asked = problem({"rag": 0.2, "coding-crew": 0.05}, 5)
    one = BASELINES["k8s-default"](asked, lambda: False)[0]
    assert len(one.plan.engines) == 6 and sum(choice.parts == PARTS for choice in one.choices) == 4
    assert not list(problems_of(one.plan, asked.cluster, asked.models))


def test_a_plan_tells_what_was_predicted_and_simulated_and_what_bounds_it(brief: None) -> None:
    planned = plan_for(problem({"rag": 1.0}, 4), 60.0, lambda: 0.0, quiet)
    predicted, simulated = planned.plan.predicted["apps"]["rag"], planned.plan.simulated["apps"]["rag"]
    assert predicted["mean_s"] == pytest.approx(simulated["mean_s"], rel=0.15)
    assert planned.plan.bound["mean_s"]["rag"] < min(predicted["mean_s"], simulated["mean_s"])
    assert planned.verdict.score <= planned.others[0][1].score
    assert planned.plan.simulated["differs"] == 0.0, "what was rehearsed is what the simulator says"


def test_no_plan_carries_more_than_the_bound() -> None:
    best = searched(problem({"rag": 1.0}, 4, Goal("throughput")))[0]
    search = Search(problem({"rag": 1.0}, 4))
    assert -best.score.value < bound(search)["carries"]


@pytest.mark.slow
def test_the_cheapest_plan_takes_fewer_devices_and_holds(brief: None) -> None:
    goal = Goal("cost", (parse_slo("rag.p95=25s", ["rag"]),))
    planned = plan_for(problem({"rag": 0.3}, 5, goal), 60.0, lambda: 0.0, quiet)
    devices = {d for engine in planned.plan.engines for replica in engine.replicas for d in replica.devices}
    assert len(devices) <= 3 and planned.verdict.score.holds


@pytest.mark.slow
def test_too_few_devices_by_the_estimate_are_made_more(brief: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is too kind: the rehearsal has the last word, and other devices are idle."""
    goal = Goal("cost", (parse_slo("rag.p95=7s", ["rag"]),))

    def too_few(asked: Problem, *_: object) -> tuple[Problem, list[Candidate]]:
        asked = asked._replace(cluster=resized(asked.cluster, 2))
        return asked, searched(asked)

    monkeypatch.setattr(planning, "_fewest", too_few)
    planned = plan_for(problem({"rag": 0.3}, 5, goal), 60.0, lambda: 0.0, quiet)
    devices = {d for engine in planned.plan.engines for replica in engine.replicas for d in replica.devices}
    assert 2 < len(devices) < 5 and planned.verdict.score.holds


def test_a_cost_that_nothing_reaches_takes_few_looks_once_time_is_over(
    brief: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    goal, looks, now = Goal("cost", (parse_slo("rag.p95=1ms", ["rag"]),)), list[int](), count()

    def too_few(asked: Problem, *_: object) -> tuple[Problem, list[Candidate]]:
        asked = asked._replace(cluster=resized(asked.cluster, 2))
        return asked, searched(asked)

    def counted(asked: Problem, *rest: Any) -> list[Judged]:
        looks.append(len(asked.cluster.devices))
        return finals(asked, *rest)

    monkeypatch.setattr(planning, "_fewest", too_few)
    monkeypatch.setattr(planning, "finals", counted)
    plan_for(problem({"rag": 0.3}, 12, goal), 5.0, lambda: float(next(now)), quiet)
    assert looks == [2, 4, 8, 12]


def test_memory_that_differs_from_node_to_node_bounds_nothing_below_what_it_may_do() -> None:
    asked = problem({"rag": 1.0}, 2)
    nodes = [asked.cluster.nodes[0], *cluster(2, name="n1", memory_gib=60).nodes]
    large, mixed = ({"nodes": each} for each in ([nodes[0], *cluster(2, name="n1").nodes], nodes))
    alike, unlike = (bound(Search(asked._replace(cluster=msgspec.convert(one, Cluster)))) for one in (large, mixed))
    assert unlike["carries"] == alike["carries"]


# ---------------------------------------------------------------- what cannot be


@pytest.mark.slow
def test_rates_that_no_plan_carries_are_told_with_what_would_do() -> None:
    asked, seconds = problem({"rag": 6.0}, 3), count()
    with pytest.raises(InputError, match=r"rates are too high .* times as fast .* has (\d+) devices") as error:
        plan_for(asked, 40.0, lambda: float(next(seconds)), quiet)
    wanted = int(str(error.value).split(" has ")[1].split()[0])
    assert wanted > 3 and searched(asked._replace(cluster=resized(asked.cluster, wanted)))[0].score.holds


def with_tables(asked: Problem, **tables: str) -> Problem:
    entries = [{"name": name, "table": tables.get(name, "qwen3-8b")} for name in asked.demand.models]
    return asked._replace(models=msgspec.convert({"models": entries}, Models))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"cluster": cluster(1)}, "generator' fits nowhere: .* has 2 such devices in one fast domain"),
        ({"cluster": cluster(2, kind="cpu")}, "no table for cpu, only for a100, h100, h200"),
        ({"models": models(["rewriter", "reranker"])}, "'generator' is asked for, and not listed"),
    ],
)
def test_what_fits_nowhere_is_told(changes: dict[str, object], told: str) -> None:
    asked = with_tables(problem({"rag": 1.0}, 4), generator="llama-3.1-70b")._replace(**changes)
    with pytest.raises(InputError, match=told):
        Search(asked)


def test_models_that_do_not_fit_together_are_told() -> None:
    asked = with_tables(problem({"rag": 1.0}, 4), **dict.fromkeys(["rewriter", "reranker", "generator"], "qwen3-32b"))
    with pytest.raises(InputError, match="do not fit the cluster together"):
        searched(asked._replace(cluster=cluster(2)))


@pytest.mark.parametrize("text", ["rag=30", "rag.p99=3s", "rag.p95=0s", "rag.p95=..s", "chat.p95=3s"])
def test_a_bad_slo_is_told(text: str) -> None:
    with pytest.raises(InputError, match="--slo"):
        parse_slo(text, ["rag"])
