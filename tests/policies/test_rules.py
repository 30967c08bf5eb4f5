"""Each policy's rule, and the trade-off that its page names: what it is good for, and who pays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from hocket.core.commands import Dispatch
from hocket.core.events import CallArrived, CallFinished, JobClosed, JobOpened
from hocket.core.spec import TenantSpec
from hocket.errors import InputError
from hocket.policies import compose, parse_policy, routing
from tests.core.bare import Bare, arrive, sent

Make = Callable[..., Bare]


def steady(bare: Bare, turns: int, **newcomer: object) -> list[str]:
    """One slot, calls of 1 s, and with each end a new job of one call. Returns who got the slot, in order."""
    order = []
    for turn in range(turns):
        at, job = float(turn), f"new-{turn}"
        bare.feed(JobOpened(at, job, str(newcomer.get("app", "app")), str(newcomer.get("tenant", "default"))))
        urgency = newcomer.get("urgency")
        assert urgency is None or isinstance(urgency, int)
        bare.feed(CallArrived(at, f"{job}.1", job, "s", "m", urgency=urgency), JobClosed(at, job))
        running = next(call.id for call in bare.scheduler.calls.values() if call.replica is not None)
        order += [c.call for c in bare.feed(CallFinished(at + 1.0, running)) if isinstance(c, Dispatch)]
    return order


# ---------------------------------------------------------------- fcfs and call-fcfs


def test_fcfs_a_jobs_late_stage_does_not_queue_again_behind_later_jobs(core: Make) -> None:
    """An agent's tenth step: under `call-fcfs` it would wait for the whole queue once more."""
    for policy, order in (("fcfs", ["a2", "b1", "c1"]), ("call-fcfs", ["b1", "c1", "a2"])):
        bare = core(policy)
        bare.feed(*arrive(0.0, "a1", "b1", "c1"), *arrive(0.5, "a2"))
        assert bare.drain() == order


def test_fcfs_a_long_job_at_the_head_holds_up_every_short_one(core: Make) -> None:
    """Its price: the batch of a hundred calls that came first goes first."""
    bare = core("fcfs")
    bare.feed(*arrive(0.0, *(f"a{n}" for n in range(100)), "b1"))
    assert bare.drain()[-1] == "b1"


@pytest.mark.parametrize("policy", ["fcfs", "call-fcfs"])
def test_nobody_starves_in_order_of_arrival(core: Make, policy: str) -> None:
    """Whatever keeps coming, what waits now goes before it."""
    bare = core(policy)
    bare.feed(*arrive(0.0, "a1", "b1", "c1"))
    assert steady(bare, 20)[:2] == ["b1", "c1"]


# ---------------------------------------------------------------- urgency


def test_urgency_an_emergency_waits_for_the_next_slot_not_for_the_queue(core: Make) -> None:
    """A hundred background calls queue; the emergency starts when the first slot frees."""
    bare = core("urgency")
    bare.feed(*arrive(0.0, *(f"a{n}" for n in range(100)), urgency=4), *arrive(1.0, "b1", urgency=0))
    assert bare.feed(CallFinished(2.0, "a0")) == sent("b1")


def test_urgency_starves_the_lower_classes(core: Make) -> None:
    """Strict, and said so on its page: while urgent calls fill the engine, background work never runs."""
    bare = core("urgency")
    bare.feed(*arrive(0.0, "b1"), *arrive(0.0, "a1", urgency=4))
    assert "a1" not in steady(bare, 200, urgency=1)


# ---------------------------------------------------------------- fair


def test_fair_does_not_starve_a_tenant_even_with_one_slot(core: Make) -> None:
    """One team queues a thousand calls. With one slot nobody runs anything when it frees: turns decide."""
    bare = core("fair", owners={"a": "crowd", "b": "quiet"})
    bare.feed(*arrive(0.0, *(f"a{n}" for n in range(1000))), *arrive(1.0, "b1", "b2", "b3"))
    order = [bare.feed(CallFinished(2.0, call))[0].call for call in ("a0", "b1", "a1", "b2", "a2", "b3")]
    assert order == ["b1", "a1", "b2", "a2", "b3", "a3"]


def test_fair_shares_many_slots_by_weight(core: Make) -> None:
    """Three teams with work for hours and weights 4, 2 and 1: they hold slots in that proportion."""
    owners = dict(zip("abc", ["big", "middle", "small"], strict=True))
    tenants = [TenantSpec("big", 4.0), TenantSpec("middle", 2.0), TenantSpec("small", 1.0)]
    bare = core("fair", windows={"r": 14}, owners=owners, tenants=tenants)
    bare.feed(*arrive(0.0, *(f"{job}{n}" for job in "cba" for n in range(99))))
    for turn in range(60):
        calls = [call for call in bare.scheduler.calls.values() if call.replica is not None]
        bare.feed(CallFinished(float(turn), min(calls, key=lambda call: call.charged_at).id))
    held = Counter(call.job.tenant.name for call in bare.scheduler.calls.values() if call.replica is not None)
    assert held == {"big": 8, "middle": 4, "small": 2}


def test_fair_looks_at_the_present_only(core: Make) -> None:
    """Its price: who was away for an hour has saved nothing up; from now on it is one turn each."""
    bare = core("fair", owners={"a": "busy", "b": "back"})
    bare.feed(*arrive(0.0, *(f"a{n}" for n in range(10))))
    for n in range(4):
        bare.feed(CallFinished(900.0 * n, f"a{n}"))
    bare.feed(*arrive(3600.0, "b1", "b2", "b3"))
    assert bare.drain()[:6] == ["b1", "a5", "b2", "a6", "b3", "a7"]


# ---------------------------------------------------------------- fair-jobs


def test_fair_jobs_each_job_holds_as_many_slots(core: Make) -> None:
    """Six slots for three jobs of many calls, whenever they came. Under `fcfs` the first would hold all six."""
    for policy, held in (("fair-jobs", {"a": 2, "b": 2, "c": 2}), ("fcfs", {"a": 6})):
        bare = core(policy, windows={"r": 6})
        bare.feed(*arrive(0.0, *(f"{job}{n}" for job in "abc" for n in range(50))))
        for turn in range(30):
            calls = [call for call in bare.scheduler.calls.values() if call.replica is not None]
            bare.feed(CallFinished(float(turn), min(calls, key=lambda call: call.charged_at).id))
        assert Counter(call.job.id for call in bare.scheduler.calls.values() if call.replica is not None) == held


def test_fair_jobs_takes_turns_where_slots_are_few(core: Make) -> None:
    """Nobody holds a slot when the one frees: whoever was not served for longest has it. So no job starves."""
    bare = core("fair-jobs")
    bare.feed(*arrive(0.0, "a1", "a2", "a3", "b1", "b2", "c1", "c2"))
    assert bare.drain() == ["b1", "c1", "a2", "b2", "c2", "a3"]


def test_fair_jobs_ends_equal_jobs_all_late(core: Make) -> None:
    """Its price: three jobs of three calls; under `fcfs` they end after 3, 6 and 9 calls, here after 7, 8 and 9."""
    for policy, ends in (("fair-jobs", [7, 8, 9]), ("fcfs", [3, 6, 9])):
        bare = core(policy)
        bare.feed(*arrive(0.0, *(f"{job}{n}" for job in "abc" for n in range(3))))
        order = ["a0", *bare.drain()]
        assert [order.index(max(c for c in order if c[0] == job)) + 1 for job in "abc"] == ends


# ---------------------------------------------------------------- plas and atlas


def used(bare: Bare, at: float, job: str, *seconds: float) -> None:
    """Calls of `job`, all in slots from `at` on, that last so long."""
    calls = [f"{job}-{at}-{n}" for n in range(len(seconds))]
    bare.feed(*arrive(at, *calls))
    bare.feed(*(CallFinished(at + s, call) for s, call in sorted(zip(seconds, calls, strict=True))))


def test_plas_a_level_is_twice_the_one_before(core: Make) -> None:
    """1.75 s and 1 s are one level: who came first goes first, where `las` would send the lesser. 4 s is another."""
    for policy, order in (("plas", ["b2", "c2", "a2"]), ("las", ["c2", "b2", "a2"])):
        bare = core(policy)
        for at, job, seconds in ((0.0, "a", 4.0), (10.0, "b", 1.75), (20.0, "c", 1.0)):
            used(bare, at, job, seconds)
        bare.feed(*arrive(30.0, "f1", "a2", "b2", "c2"))
        assert bare.drain(31.0) == order


def test_plas_jobs_of_one_level_do_not_take_turns(core: Make) -> None:
    """Unlike under `las`: the first goes on until it sinks to the next level."""
    bare = core("plas")
    bare.feed(*arrive(0.0, *(f"{job}{n}" for job in "ab" for n in range(6))))
    order, running = [], "a0"
    for turn in range(1, 8):
        (command,) = bare.feed(CallFinished(turn / 4, running))
        assert isinstance(command, Dispatch)
        running = command.call
        order.append(running)
    assert order == ["a1", "a2", "a3", "b0", "b1", "b2", "b3"]


def test_atlas_does_not_hold_a_job_to_be_big_for_its_width(core: Make) -> None:
    """Four calls of 1 s side by side are a chain of 1 s; `plas` sees 4 s, more than the 3 s of the chain beside it."""
    for policy, first in (("atlas", "a2"), ("plas", "b2")):
        bare = core(policy, windows={"r": 4})
        used(bare, 0.0, "b", 3.0)
        used(bare, 10.0, "a", 1.0, 1.0, 1.0, 1.0)
        bare.feed(*arrive(20.0, "c1", "c2", "c3", "c4", "b2", "a2"))
        assert bare.feed(CallFinished(21.0, "c1")) == sent(first)


def test_atlas_a_call_keeps_the_place_that_it_came_with(core: Make) -> None:
    """Siblings wait as equals: that one of them has ended does not send the others back."""
    bare = core("atlas")
    bare.feed(*arrive(0.0, "a1", "a2", "a3"), *arrive(1.0, "b1"))
    assert bare.feed(CallFinished(9.0, "a1")) == sent("a2")
    bare.feed(*arrive(10.0, "a4"))  # comes after a chain of 9 s
    assert bare.drain(11.0) == ["a3", "b1", "a4"]


@pytest.mark.parametrize("policy", ["plas", "atlas"])
def test_a_big_job_starves_in_its_level(core: Make, policy: str) -> None:
    """Nothing lifts it again: the papers' rule against starvation is left out, as their pages say."""
    bare = core(policy)
    used(bare, 0.0, "a", 5.0)
    bare.feed(*arrive(10.0, "b1", "a2"))
    assert "a2" not in steady(bare, 200)


# ---------------------------------------------------------------- las


def test_las_lets_a_new_job_overtake(core: Make) -> None:
    """A question asked while a long report is being written step by step."""
    bare = core("las")
    bare.feed(*arrive(0.0, "a1", "a2"), *arrive(9.0, "b1"))
    assert bare.feed(CallFinished(10.0, "a1")) == sent("b1")
    assert bare.feed(CallFinished(11.0, "b1")) == sent("a2")


def test_las_takes_turns_among_jobs_of_one_age(core: Make) -> None:
    """Its price: jobs of equal size advance together and all end late."""
    bare = core("las")
    bare.feed(*arrive(0.0, "a1", "a2", "a3", "b1", "b2", "b3"))
    order, running = [], "a1"
    for turn in range(1, 6):
        (command,) = bare.feed(CallFinished(float(turn), running))
        assert isinstance(command, Dispatch)
        running = command.call
        order.append(running)
    assert order == ["b1", "a2", "b2", "a3", "b3"]


def test_las_starves_a_big_job_while_new_ones_keep_coming(core: Make) -> None:
    """Said so on its page; only the number of new jobs protects a big one."""
    bare = core("las")
    bare.feed(*arrive(0.0, "a1"))
    bare.feed(*arrive(0.0, "a2"))
    assert "a2" not in steady(bare, 200)


# ---------------------------------------------------------------- sjf


def closed(bare: Bare, app: str, size: float, at: float) -> None:
    """A job of one call of `size` seconds comes and goes on an idle scheduler."""
    job = f"past-{app}-{at}"
    bare.feed(JobOpened(at, job, app), CallArrived(at, f"{job}.1", job, "s", "m"))
    bare.feed(CallFinished(at + size, f"{job}.1"), JobClosed(at + size, job))


def test_sjf_goes_by_the_mean_of_closed_jobs(core: Make) -> None:
    """It learns by itself: (2 + 4) / 2 s is smaller than 8 s, though the last small job was not."""
    bare = core("sjf", apps={"b": "chat", "c": "report"})
    for at, (app, size) in enumerate([("chat", 2.0), ("report", 8.0), ("chat", 4.0)]):
        closed(bare, app, size, 10.0 * at)
    assert {n: a.mean_service_s for n, a in bare.scheduler.apps.items() if a.jobs_closed} == {
        "chat": 3.0,
        "report": 8.0,
    }
    bare.feed(*arrive(50.0, "a1", "c1", "b1"))
    assert bare.drain(60.0) == ["b1", "c1"]


def test_sjf_sends_the_unknown_first(core: Make) -> None:
    """So it becomes known. And who names a new application for each job always goes first: put `fair` before it."""
    owners = {"a": "honest", "b": "honest", "c": "trickster", "d": "trickster"}
    settings = {"apps": {"a": "known", "b": "known", "c": "new-1", "d": "new-2"}, "owners": owners}
    for policy, order in ((("sjf",), ["c1", "d1", "b1"]), (("fair", "sjf"), ["c1", "b1", "d1"])):
        bare = core(*policy, **settings)
        closed(bare, "known", 1.0, 0.0)
        bare.feed(*arrive(10.0, "a1", "b1", "c1", "d1"))
        assert bare.drain(20.0) == order


def test_sjf_does_not_see_how_far_a_job_has_come(core: Make) -> None:
    """Its price: a huge job of a usually small application goes before the last call of a usually big one."""
    bare = core("sjf", apps={"b": "chat", "c": "report"})
    closed(bare, "chat", 1.0, 0.0)
    closed(bare, "report", 9.0, 10.0)
    bare.feed(*arrive(30.0, "a1", "c1"), *arrive(30.0, *(f"b{n}" for n in range(50))))
    assert bare.drain(40.0)[-1] == "c1"


# ---------------------------------------------------------------- compositions


def test_urgency_then_fair_then_las(core: Make) -> None:
    """Class first; inside it the tenant whose turn it is; inside that the job that has used the least."""
    owners = {"a": "x", "b": "x", "c": "y", "d": "x", "e": "x"}
    bare = core("urgency", "fair", "las", owners=owners)
    # b has used 3 s, and x was served last
    bare.feed(*arrive(0.0, "b1"), CallFinished(3.0, "b1"), *arrive(3.0, "a1"))
    bare.feed(*arrive(4.0, "b2", "d1", "c1", "a2"), *arrive(4.0, "e1", urgency=0))
    # the emergency; then y's turn; then x's jobs: d has used nothing, a and b have, b the most
    assert bare.feed(CallFinished(5.0, "a1")) == sent("e1")
    ends = [(5.0, "e1"), (6.0, "c1"), (6.0, "d1"), (6.0, "a2")]
    assert bare.feed(*(CallFinished(at, call) for at, call in ends)) == sent("c1", "d1", "a2", "b2")


def test_a_recipe_is_what_it_stands_for(core: Make) -> None:
    """`default` may be part of a composition like the orderings that it spells."""
    assert [o.name for o in compose(["default"])] == ["urgency", "fair-share", "hocket"]
    assert [o.name for o in compose(["urgency", "default"])] == ["urgency", "urgency", "fair-share", "hocket"]


def test_the_command_line_writes_compositions_with_a_sign() -> None:
    """As users type them, with or without spaces."""
    assert parse_policy("urgency > fair>las") == ("urgency", "fair", "las")


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["fifo"], "unknown policy 'fifo'; known: fcfs, call-fcfs,"),
        (["urgency:every=inf", "fcfs"], "every: inf; use 1"),
        (["default:within_s=60"], "'default' is a recipe and has no parameters; write it out: urgency:"),
        ([], "at least one ordering"),
        (["las", "urgency"], "'urgency' (class) cannot follow 'las' (job)"),
        (["default", "fair"], "policy default > fair: 'fair' (tenant) cannot follow 'hocket' (job)"),
    ],
)
def test_what_cannot_be_composed_is_told(names: list[str], says: str) -> None:
    """An operator's mistake in `hocket.yaml`."""
    with pytest.raises(InputError) as error:
        compose(names)
    assert says in str(error.value)


def test_an_unknown_routing_is_told() -> None:
    """As an unknown policy."""
    with pytest.raises(InputError, match="unknown routing 'random'; known: least-loaded"):
        routing("random")
