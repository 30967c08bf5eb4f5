"""The rules of policies that read beliefs, and the trade-off that each page names.

One slot, on which a call takes a second for each token of its answer after the first. Applications are known by
profiles of many equal jobs, so that what is believed is nearly what they say.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from hocket.beliefs.influence import influence
from hocket.beliefs.record import Record, Step
from hocket.core.events import SettingsChanged
from tests.beliefs.worlds import Live, chain, profile

SHORT = [chain(("ask", 10, 3))]
"2 s"
LONG = [chain(("read", 10, 7), ("write", 10, 7))]
"12 s, in two calls"


def known(*policy: str, **apps: Sequence[Record]) -> Live:
    """Applications by the ways in which their jobs go, each as often as it is named, 240 jobs in all."""
    profiles = {app: profile(list(ways) * (240 // len(ways)), app) for app, ways in apps.items()}
    return Live(*policy, profiles=profiles)


def blocked(live: Live) -> str:
    """The slot is taken by a call of a job that is no part of the story."""
    live.open("x", "other")
    return live.call("x", "s")


def drain(live: Live) -> list[str]:
    """End one call after the other; the jobs in the order in which their waiting calls then got the slot."""
    before = len(live.order)
    while live.scheduler.calls:
        running = next(call for call in live.scheduler.calls.values() if call.replica is not None)
        live.at += 1.0
        live.finish(running.id, 2)
    return [call.split(".")[0] for call in live.order[before:]]


def steady(live: Live, turns: int) -> list[str]:
    """A short job comes with each end of a call: who gets the slot."""
    before = len(live.order)
    for turn in range(turns):
        live.at += 2.0
        live.open(f"new{turn}", "short")
        live.call(f"new{turn}", "ask")
        running = next(call for call in live.scheduler.calls.values() if call.replica is not None)
        job = running.job.id
        live.finish(running.id, 7 if job == "big" else 3)
        if running.stage == "read":
            live.call("big", "write")
        else:
            live.close(job)
    return [call.split(".")[0] for call in live.order[before:]]


# ---------------------------------------------------------------- srtf


def test_srtf_the_job_with_the_least_expected_rest_goes_first() -> None:
    """A question asked after a long report was; under `fcfs` it would wait for the report."""
    for policy, order in (("srtf", ["b", "a"]), ("fcfs", ["a", "b"])):
        live = known(policy, short=SHORT, long=LONG)
        blocked(live)
        for job, app, stage in (("a", "long", "read"), ("b", "short", "ask")):
            live.open(job, app)
            live.call(job, stage)
        assert drain(live)[:2] == order


def test_srtf_sees_how_far_a_job_has_come() -> None:
    """The last 4 s of a big job go before the 20 s of a middle one, which `sjf` cannot tell."""
    nearly = [chain(("read", 10, 41), ("close", 10, 5))]
    live = known("srtf", big=nearly, middle=[chain(("ask", 10, 21))])
    live.open("a", "big")
    live.finish(live.call("a", "read"), 41)
    blocked(live)
    live.open("b", "middle")
    live.call("b", "ask")
    live.call("a", "close")
    assert drain(live) == ["a", "b"]


def test_srtf_without_a_profile_goes_by_arrival() -> None:
    """Nothing is known of the application: no job is risked for another, as under `fcfs`."""
    live = Live("srtf")
    for job, output in (("a", 31), ("b", 3)):
        live.open(job, "new")
        live.finish(live.call(job, "s"), output)
    blocked(live)
    live.call("b", "s")
    live.call("a", "s")
    assert drain(live) == ["a", "b"]


def test_srtf_starves_a_big_job_while_short_ones_keep_coming() -> None:
    """Said so on its page."""
    live = known("srtf", short=SHORT, long=LONG)
    blocked(live)
    live.open("big", "long")
    live.call("big", "read")
    assert "big" not in steady(live, 200)


# ---------------------------------------------------------------- gittins


def test_gittins_tries_what_is_probably_short() -> None:
    """Nine of ten jobs of `gamble` need 1 s, one needs 200 s: 20.9 s on average, but 1.1 s invested an end.

    `srtf` goes by the mean and sends the job first that needs 5 s for certain.
    """
    gamble = [chain(("s", 10, 2))] * 9 + [chain(("s", 10, 201))]
    for policy, order in (("gittins", ["b", "a"]), ("srtf", ["a", "b"])):
        live = known(policy, certain=[chain(("s", 10, 6))], gamble=gamble)
        blocked(live)
        for job, app in (("a", "certain"), ("b", "gamble")):
            live.open(job, app)
            live.call(job, "s")
        assert drain(live) == order


# ---------------------------------------------------------------- justitia and carbyne


@pytest.mark.parametrize("policy", ["justitia", "carbyne"])
def test_who_would_end_first_in_an_equal_sharing_goes_first(policy: str) -> None:
    """With half of the slot each the short job would be done long before the report: it gets the slot whole."""
    live = known(policy, short=SHORT, long=LONG)
    blocked(live)
    for job, app, stage in (("a", "long", "read"), ("b", "short", "ask")):
        live.open(job, app)
        live.call(job, stage)
    assert drain(live)[:2] == ["b", "a"]


@pytest.mark.parametrize("policy", ["justitia", "carbyne"])
def test_nobody_ends_much_later_than_an_equal_sharing_would_have_ended_him(policy: str) -> None:
    """Short jobs keep coming, as many as the slot can serve; the big one has its turn, as under `srtf` it never has."""
    live = known(policy, short=SHORT, long=LONG)
    blocked(live)
    live.open("big", "long")
    live.call("big", "read")
    order = steady(live, 200)
    assert order[0] != "big"
    assert order.count("big") == 2


def test_justitia_settles_a_jobs_place_when_it_comes() -> None:
    """Its price: what the job shows later changes nothing. Two jobs of 2 or 40 s; the first turns out to be short."""
    ways = [chain(("plan", 10, 2), ("ask", 10, 3)), chain(("plan", 10, 12), ("ask", 10, 41))]
    for policy, order in (("justitia", ["a", "b"]), ("srtf", ["b", "a"])):
        live = known(policy, app=ways)
        for job in "ab":
            live.open(job, "app")
        plans = [live.call(job, "plan") for job in "ab"]
        live.finish(plans[0], 12)  # a will be long
        live.finish(plans[1], 2)  # b will be short
        blocked(live)
        for job in "ab":
            live.call(job, "ask")
        assert drain(live) == order


def test_carbyne_lends_while_there_is_time_and_takes_back_when_there_is_not() -> None:
    """The big job's slot is lent to short ones, then it is due and goes before all of them, however short."""
    live = known("carbyne", short=SHORT, long=LONG)
    blocked(live)
    live.open("big", "long")
    live.call("big", "read")
    order = steady(live, 200)
    first = order.index("big")
    assert first > 10, "it lends for some time"
    assert "big" in order[first + 1 : first + 3], "its second call is due at once"


# ---------------------------------------------------------------- argus


def test_argus_sends_what_lets_the_most_begin() -> None:
    """A plan that four others hang on goes before the last call of a job that came first."""
    fork = Record(
        [Step("plan", "m", 10, 5, 0.0, [])]
        + [Step(f"part{i}", "m", 10, 5, 0.0, [0]) for i in range(4)]
        + [Step("join", "m", 10, 5, 0.0, [1, 2, 3, 4])]
    )
    for policy, order in (("argus", ["b", "a"]), ("fcfs", ["a", "b"])):
        live = known(policy, chain=LONG, fork=[fork])
        live.open("a", "chain")
        live.finish(live.call("a", "read"), 7)
        blocked(live)
        live.call("a", "write")
        live.open("b", "fork")
        live.call("b", "plan")
        assert drain(live)[:2] == order


def test_influence_is_assessed_as_in_the_paper() -> None:
    """1 for the last; else the largest of those that need it, plus their number; a stage's tasks are one.

    plan -> four maps -> merge -> check, and plan -> look -> check.
    """
    steps = [Step("plan", "m", 1, 1, 0.0, [])]
    steps += [Step("map", "m", 1, 1, 0.0, [0]) for _ in range(4)]
    steps += [Step("look", None, 0, 0, 1.0, [0]), Step("merge", "m", 1, 1, 0.0, [1, 2, 3, 4])]
    steps += [Step("check", "m", 1, 1, 0.0, [5, 6])]
    assert influence([Record(steps)]) == {"check": 1.0, "merge": 2.0, "map": 3.0, "look": 2.0, "plan": 5.0}


def test_influence_is_a_mean_over_recorded_jobs() -> None:
    """A stage that is sometimes the last; and of a stage that no job had, nothing is known."""
    assert influence([chain(("a", 1, 1)), chain(("a", 1, 1), ("b", 1, 1), ("a", 1, 1))]) == {
        "a": pytest.approx((1 + 3 + 1) / 3),
        "b": 2.0,
    }
    assert influence([]) == {}


def test_argus_without_a_profile_is_first_come_first_served() -> None:
    live = Live("argus")
    blocked(live)
    for job in "abc":
        live.open(job, "new")
        live.call(job, "s")
    assert drain(live) == ["a", "b", "c"]


# ---------------------------------------------------------------- settings that change


@pytest.mark.parametrize("policy", ["srtf", "gittins", "justitia", "carbyne", "argus"])
def test_settings_may_begin_to_ask_for_beliefs_while_calls_wait(policy: str) -> None:
    """An operator tries another policy on a busy gateway: nothing that waits is lost, or has no place."""
    live = Live("fcfs")
    blocked(live)
    for job in "abc":
        live.open(job, "new")
        live.call(job, "s")
    spec = msgspec.structs.replace(live.scheduler.spec, policy=(policy,))
    live.tell(SettingsChanged(live.at, spec))
    live.open("d", "new")
    live.call("d", "s")
    assert sorted(drain(live)) == ["a", "b", "c", "d"]
    assert live.scheduler.policy_error is None
