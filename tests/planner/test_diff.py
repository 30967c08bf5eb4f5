"""From one plan to another: what changes, in words, and what it gains."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from hocket.planner import diff
from hocket.planner.baselines import k8s_default
from hocket.planner.goal import Goal, Score, Slo
from hocket.planner.judge import Verdict
from hocket.planner.plan import Plan
from hocket.planner.search import Problem, Search
from tests.planner.test_plan import engine, plan, replica
from tests.planner.worlds import demand, problem

BEFORE = [
    engine("small", replica("n0/gpu0", share=0.5)),
    engine("judge", replica("n0/gpu0", share=0.5), model="small", roles=("judge",)),
    engine("big", replica("n0/gpu1"), replica("n0/gpu2")),
]


def told(*after: dict[str, Any]) -> dict[str, tuple[list[str], str]]:
    found = diff.changes(plan(*BEFORE), plan(*after))
    return {one["engine"]: (one["what"], one["words"]) for one in found}


def test_nothing_changes() -> None:
    assert told(*BEFORE) == {}


ELSEWHERE, MORE = [replica(f"n0/gpu{i}") for i in (1, 3)], [replica(f"n0/gpu{i}") for i in (1, 2, 3)]
WIDER = ["wider", "replicas", "moves"]


@pytest.mark.parametrize(
    ("after", "what", "words"),
    [
        (engine("big", replica("n0/gpu1", "n0/gpu2")), WIDER, "wider: tensor parallelism 1 -> 2; 2 -> 1 replicas"),
        (engine("big", *ELSEWHERE), ["moves"], "moves from n0/gpu2 to n0/gpu3"),
        (engine("big", *MORE), ["replicas", "moves"], "2 -> 3 replicas; moves to n0/gpu3"),
        (engine("big", replica("n0/gpu1", share=0.5), replica("n0/gpu2")), ["share"], "share of its devices 1 -> 0.5"),
        (engine("big", replica("n0/gpu1", max_concurrency=4), replica("n0/gpu2")), ["window"], "window 8 -> 4/8"),
        (engine("renamed", *BEFORE[2]["replicas"], model="big"), [], ""),
    ],
)
def test_each_change_has_its_word(after: dict[str, Any], what: list[str], words: str) -> None:
    found = told(*BEFORE[:2], after)
    assert found.get(after["name"], ([], ""))[0] == what
    assert words in found.get(after["name"], ([], ""))[1]


def test_shares_that_change_places_are_a_change() -> None:
    """As sets of shares and of places both are the same."""
    halves = [replica(f"n0/gpu{k}", share=share) for k, share in enumerate((0.5, 0.5, 0.25))]
    quarters = [replica(f"n0/gpu{k}", share=share) for k, share in enumerate((0.5, 0.25, 0.25))]
    running = plan(engine("a", *halves))
    (one,), none = (list(diff.changes(running, plan(engine("a", *new)))) for new in (quarters, halves))
    assert one["what"] == ["replicas"] and "single replicas" in one["words"] and not none


def test_engines_of_several_widths_are_told_with_all() -> None:
    both = engine("both", replica("n0/gpu0"), replica("n0/gpu1", "n0/gpu2"))
    wide = engine("both", replica("n0/gpu1", "n0/gpu2"))
    (fresh,) = diff.changes(plan(), plan(both))
    assert fresh["words"].startswith("starts: 2 x tensor parallelism 1/2, on")
    (kept,) = diff.changes(plan(both), plan(wide))
    assert kept["words"].startswith("wider: tensor parallelism 1/2 -> 2; 2 -> 1 replicas")


def test_engines_start_and_end() -> None:
    found = told(BEFORE[0], BEFORE[2], engine("fresh", replica("n0/gpu3"), model="fresh"))
    assert found == {
        "fresh": (["starts"], "starts: 1 x tensor parallelism 1, on n0/gpu3"),
        "judge": (["ends"], "ends: 1 x tensor parallelism 1, was on n0/gpu0"),
    }


# ---------------------------------------------------------------- gain


@pytest.fixture(scope="module")
def asked() -> Problem:
    return problem({"rag": 1.0}, 4)


@pytest.fixture(scope="module")
def default(asked: Problem) -> Plan:
    return k8s_default(asked, lambda: False)[0].plan


@pytest.fixture(scope="module")
def ours(asked: Problem) -> Plan:
    """The best of the first few hundred that the search tries."""
    search = Search(asked)
    return search.run(lambda: search.tried > 300, lambda tried, score: None)[0].plan


@pytest.fixture(scope="module")
def better(asked: Problem, default: Plan, ours: Plan) -> dict[str, Any]:
    return diff.against(default, ours, asked)


def test_a_better_plan_is_worth_it(better: dict[str, Any]) -> None:
    assert better["worth"] and better["predicted"]["gain"] > 0.05 and better["simulated"]["gain"] > 0.05
    assert better["apps"]["rag"]["after_mean_s"] < better["apps"]["rag"]["before_mean_s"]
    assert better["replicas_kept"] < better["replicas"] and better["changes"]
    said = diff.lines(better, "old.json")
    assert said[0].startswith("Against old.json: ") and said[-1].startswith("Worth it; ")


def test_a_worse_plan_is_not(asked: Problem, default: Plan, ours: Plan) -> None:
    worse = diff.against(ours, default, asked)
    assert not worse["worth"] and worse["simulated"]["gain"] < 0 and "less than 5%" in worse["why"]
    assert diff.lines(worse, "old.json")[-1].startswith("Not worth it: keep what runs; ")


def test_the_same_plan_gains_nothing(asked: Problem, ours: Plan) -> None:
    found = diff.against(ours, ours, asked)
    assert not found["worth"] and found["why"] == "nothing would change"
    assert found["predicted"]["gain"] == found["simulated"]["gain"] == 0.0


def test_another_law_is_a_change(asked: Problem, ours: Plan) -> None:
    found = diff.against(msgspec.structs.replace(ours, law="capped"), ours, asked)
    assert not found["changes"] and found["why"] != "nothing would change"


def test_an_engine_that_nobody_asks_for_any_more() -> None:
    """Its calls hold nothing, and nothing is divided by that."""
    both = problem({"rag": 0.5, "beam-search": 0.01}, 5)
    one = both._replace(demand=demand({"rag": 0.5}))
    running, new = (k8s_default(asked, lambda: False)[0].plan for asked in (both, one))
    told = diff.against(running, new, one)
    assert {"beam-generator": ["ends"], "reward": ["ends"]}.items() <= {
        change["engine"]: change["what"] for change in told["changes"]
    }.items()


def test_a_model_without_an_engine_is_reason_enough(asked: Problem, ours: Plan) -> None:
    without = msgspec.structs.replace(ours, engines=ours.engines[1:])
    found = diff.against(without, ours, asked)
    assert found["worth"] and "has no engine for " in found["why"]


def test_holding_the_slos_comes_first(asked: Problem, default: Plan, ours: Plan, better: dict[str, Any]) -> None:
    """With a bound between what both reach; and the least gain is a choice."""
    figures = better["apps"]["rag"]
    bound = (figures["before_mean_s"] * figures["after_mean_s"]) ** 0.5
    strict = asked._replace(goal=Goal(slos=(Slo("rag", "mean", bound),)))
    assert "does not hold the SLOs" in diff.against(default, ours, strict, least=0.99)["why"]
    assert not diff.against(default, ours, asked, least=0.99)["worth"]


@pytest.mark.slow
def test_throughput_is_what_is_carried(asked: Problem, default: Plan, ours: Plan) -> None:
    goal = asked._replace(goal=Goal("throughput", (Slo("rag", "p95", 60.0),)))
    forth, back = (diff.against(*both, goal)["simulated"] for both in ((ours, default), (default, ours)))
    assert forth["before"] == pytest.approx(back["after"], rel=0.03) and forth["before"] != forth["after"]
    assert forth["gain"] == pytest.approx(forth["after"] / forth["before"] - 1.0, abs=1e-3)
    assert forth["gain"] * back["gain"] < 0.0


@pytest.mark.parametrize(("slos", "worth"), [(True, True), (False, False)])
def test_only_slos_that_were_given_come_first(slos: bool, worth: bool) -> None:
    """What stands for them helps to choose a plan, and is no promise."""

    def told(violation: float, mean_s: float) -> diff.Figures:
        return diff.Figures(Score(0.0, mean_s), Verdict(Score(violation, mean_s), 1.0, {}), 4)

    assert diff._worth(told(0.1, 5.0), told(0.0, 5.5), -0.1, 0.05, slos)[0] is worth
