"""Classes: they are the job's, may be weighed instead of strict, age, and cost their tenant's budget."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import msgspec
import pytest

from hocket.assembly import build
from hocket.core.events import CallCancelled, CallFinished, CallRevised, JobOpened, SettingsChanged
from hocket.core.patience import Patience
from hocket.core.snapshot import restore, save
from hocket.core.spec import EngineSpec, TenantSpec
from hocket.core.state import Call
from tests.core.bare import Bare, arrive, sent

Make = Callable[..., Bare]


def opened(at: float, *jobs: str, urgency: int, tenant: str = "default") -> list[JobOpened]:
    return [JobOpened(at, job, "app", tenant, urgency) for job in jobs]


# ---------------------------------------------------------------- a class is the job's


def test_a_job_is_of_the_class_of_its_most_urgent_request(core: Make) -> None:
    """On all engines: what waits already moves with it, and what comes later needs no class of its own."""
    bare = core("urgency", "fcfs", engines=[EngineSpec("e", ["m"]), EngineSpec("f", ["n"])])
    bare.feed(*arrive(0.0, "a1", "b1", "c1"), *arrive(0.0, "b2", "c2", model="n"), *arrive(0.0, "c3", urgency=0))
    assert [bare.scheduler.calls[call].urgency for call in ("b1", "c1", "c2", "c3")] == [2, 0, 0, 0]
    bare.feed(*arrive(1.0, "c4"))
    assert bare.scheduler.calls["c4"].urgency == 0
    assert bare.feed(CallFinished(2.0, "a1")) == sent("c1")


def test_a_call_may_be_less_urgent_than_its_job(core: Make) -> None:
    """A job that does something in the background lowers that call alone; the job's own rise leaves it there."""
    bare = core("urgency", "fcfs")
    bare.feed(*arrive(0.0, "a1"), *arrive(0.0, "b1", urgency=4), *arrive(0.0, "b2"), *arrive(0.0, "b3", urgency=1))
    calls = bare.scheduler.calls
    assert [(calls[call].urgency, calls[call].own_class) for call in ("b1", "b2", "b3")] == [
        (4, True),
        (1, False),
        (1, False),
    ]
    bare.feed(CallRevised(1.0, "b1", urgency=3))
    assert calls["b1"].urgency == 3 and bare.scheduler.jobs["b"].urgency == 1
    bare.feed(CallRevised(1.0, "b1", urgency=0))
    assert {calls[call].urgency for call in ("b1", "b2", "b3")} == {0}


def test_a_late_reading_moves_the_job_either_way(core: Make) -> None:
    bare = core("urgency", "fcfs")
    bare.feed(*arrive(0.0, "a1", "b1", "b2", "c1"), CallRevised(1.0, "b1", urgency=4))
    assert [bare.scheduler.calls[call].urgency for call in ("b1", "b2")] == [4, 4]
    assert bare.feed(CallFinished(2.0, "a1")) == sent("c1")


# ---------------------------------------------------------------- strict, or weighed


def serve(bare: Bare, opened: Sequence[tuple[str, int]] = (), **service_s: float) -> None:
    """Open jobs of these classes; give each job so much attained service: a call of it holds the slot for so long."""
    bare.feed(*(JobOpened(0.0, job, "app", "default", urgency) for job, urgency in opened))
    at = 0.0
    for job, seconds in service_s.items():
        bare.feed(*arrive(at, f"{job}0"), CallFinished(at + seconds, f"{job}0"))
        at += seconds


@pytest.mark.parametrize(
    ("policy", "order"),
    [
        ("urgency", ["e1", "b1", "c1", "d1"]),
        ("urgency:strict=0", ["e1", "d1", "c1", "b1"]),  # 1: 17/8, 2: 4/4, 4: 0.5/1
        ("urgency:strict=0:ratio=8", ["e1", "b1", "c1", "d1"]),  # 17/512, 4/64 and 0.5
        ("urgency:strict=0+2", ["e1", "c1", "b1", "d1"]),  # 1 and 2 together, 3 and 4 behind them
        ("urgency:ratio=1:strict=3", ["c1", "b1", "e1", "d1"]),  # all but 4, by service alone
    ],
)
def test_boundaries_are_strict_or_a_matter_of_weight(core: Make, policy: str, order: list[str]) -> None:
    """`las` inside a group divides the service by the class's weight."""
    bare = core(policy, "las", jobs="a")
    for job, urgency in {"b": 1, "c": 2, "d": 4, "e": 0}.items():
        bare.feed(*opened(0.0, job, urgency=urgency))
    serve(bare, b=17.0, c=4.0, d=0.5, e=32.0)
    bare.feed(*arrive(60.0, "a1", "d1", "c1", "b1", "e1"))
    bare.feed(CallRevised(60.0, "a1", urgency=4))
    assert [c.call for c in bare.feed(CallFinished(60.0, "a1"))] + bare.drain(61.0) == order  # type: ignore[union-attr]


def test_a_job_that_changes_its_class_inside_a_group_is_weighed_anew(core: Make) -> None:
    """Its node stays where it is; its key does not."""
    bare = core("urgency:strict=0", "las")
    serve(bare, b=1.0, c=3.0)
    bare.feed(
        *arrive(4.0, "a1", "b1", "c1", "c2"), CallRevised(4.0, "c1", urgency=1), CallRevised(4.0, "b1", urgency=3)
    )
    assert bare.feed(CallFinished(5.0, "a1")) == sent("c1")  # 3/8 against 1/2


# ---------------------------------------------------------------- ageing


def test_a_call_that_waited_for_too_long_goes_before_more_urgent_ones(core: Make) -> None:
    """A steady stream of class 1 would keep class 4 waiting for ever."""
    bare = core("urgency:within_s=8", "fcfs", jobs="")
    bare.feed(*opened(0.0, "a", "b", urgency=1), *opened(0.0, "d", urgency=4), *arrive(0.0, "a1", "d1", "a2"))
    order = []
    for second in range(1, 12):
        running = next(call.id for call in bare.scheduler.calls.values() if call.replica is not None)
        arrival = arrive(float(second), f"b{second}")
        order += [c.call for c in bare.feed(*arrival, CallFinished(float(second), running))]  # type: ignore[union-attr]
    assert order.index("d1") == 7, "it went at the first decision after 8 s"


@pytest.mark.parametrize("urgency", [0, 1, 3])
@pytest.mark.parametrize("every", [1, 4])
def test_a_backlog_that_has_aged_gets_its_turns_and_no_more(core: Make, urgency: int, every: int) -> None:
    """A nightly batch that came at once is overdue at once; what is more urgent still gets most slots."""
    bare = core(f"urgency:within_s=8:every={every}", "fcfs", jobs="")
    bare.feed(*opened(0.0, "a", urgency=urgency), *opened(0.0, "d", urgency=4))
    bare.feed(*arrive(0.0, *(f"d{i}" for i in range(20))), *arrive(90.0, *(f"a{i}" for i in range(20))))
    order = bare.drain(92.0)
    turns = [i for i, call in enumerate(order) if call.startswith("d")][: 20 // every]
    assert turns[0] == 0 and {b - a for a, b in itertools.pairwise(turns)} == {every}


def test_of_those_that_have_aged_the_first_goes_whatever_its_class(core: Make) -> None:
    """Else a call of class 1 that waits behind shorter ones of class 2 would be passed by those of class 4."""
    bare = core("urgency:strict=0:within_s=8", "las", jobs="")
    serve(bare, opened=[("b", 1), ("c", 2), ("d", 4)], b=64.0, d=32.0)
    bare.feed(*arrive(96.0, "c1", "b1", "d1", "d2"), *arrive(103.0, "c2", "c3"))
    assert bare.scheduler.engines["e"].queue.first().id == "c2"  # type: ignore[union-attr]
    assert bare.feed(CallFinished(105.0, "c1")) == sent("b1")


def test_age_counts_against_other_classes_only(core: Make) -> None:
    """Inside its class a call waits as the other orderings say: to bound that would cost the mean."""
    bare = core("urgency:within_s=8", "las")
    serve(bare, b=32.0)
    bare.feed(*arrive(40.0, "a1", "b1"), *arrive(60.0, "c1"))
    assert bare.feed(CallFinished(61.0, "a1")) == sent("c1")


def test_calls_that_left_cost_no_memory_beside_one_that_waits() -> None:
    """Their entries lie behind its own, so they never surface."""
    patience, queue = Patience(1e9, 4), Bare("urgency", "fcfs")
    queue.feed(*arrive(0.0, "a1", "b1"))
    old = queue.scheduler.calls["b1"]
    patience.add(old)
    for number in range(10_000):
        left = Call(f"c{number}", number, old.job, "s", "m", old.engine, 2, 1.0, 1, None)
        patience.add(left)
        patience.sweep(1)
    assert sum(map(len, patience._heaps)) < 64


def test_a_call_that_waits_in_one_class_again_and_again_counts_once_in_a_sweep() -> None:
    """Or each event would sweep: the entries that count would outnumber the calls for good."""
    patience, queue = Patience(1e9, 4), Bare("urgency", "fcfs", windows={"r": 1})
    queue.feed(*arrive(0.0, "a1", "b1"))
    waits = queue.scheduler.calls["b1"]
    for _ in range(100):
        patience.add(waits)
        patience.sweep(1)
    assert sum(map(len, patience._heaps)) <= 18


# ---------------------------------------------------------------- the budget of urgent work

BUDGET = TenantSpec("x", urgent_share=0.25, urgent_burst_s=8.0)


def test_a_tenant_over_its_budget_is_demoted_by_one_class(core: Make) -> None:
    """Work counts, not requests; what is left of it grows with time, and the job gets its class back."""
    bare = core("urgency", "fcfs", tenants=[BUDGET], jobs="")
    bare.feed(*opened(0.0, "a", "b", urgency=0, tenant="x"), *arrive(0.0, "a1"), CallFinished(16.0, "a1"))
    # 8 saved; nothing is added to that while it is full, and 16 s were used: a debt of 8
    bare.feed(*arrive(16.0, "a2", "b1"))
    calls = bare.scheduler.calls
    assert [(calls[call].urgency, calls[call].demoted) for call in ("a2", "b1")] == [(1, True), (1, True)]
    bare.feed(CallCancelled(16.0, "a2"), CallCancelled(16.0, "b1"), *arrive(16.0 + 33.0, "a3"))  # a quarter of a slot
    assert (calls["a3"].urgency, calls["a3"].demoted) == (0, False)


def test_a_debt_has_an_end_and_calm_work_is_free(core: Make) -> None:
    bare = core("urgency", "fcfs", tenants=[BUDGET], jobs="")
    bare.feed(*opened(0.0, "a", urgency=2, tenant="x"), *opened(0.0, "b", urgency=0, tenant="x"))
    bare.feed(*arrive(0.0, "a1"), CallFinished(4096.0, "a1"))
    budget = bare.scheduler.tenants["x"].budget
    assert budget is not None and budget.left_s == 8.0
    bare.feed(*arrive(4096.0, "b1"), CallFinished(8192.0, "b1"))
    assert budget.left_s == -8.0


@pytest.mark.parametrize(("calls", "share", "demoted"), [(10, 0.1, True), (1, 0.1, False), (2, 0.1, False)])
def test_a_budget_is_counted_as_time_passes(core: Make, calls: int, share: float, demoted: bool) -> None:
    """20 slots, a tenth of them: two urgent calls at once are within it however long they run, ten are not."""
    spec = TenantSpec("x", urgent_share=share, urgent_burst_s=60.0)
    bare = core("urgency", "fcfs", tenants=[spec], jobs="", windows={"r": 20})
    bare.feed(*opened(0.0, "a", urgency=0, tenant="x"), *arrive(0.0, *(f"a{i}" for i in range(calls))))
    bare.feed(*opened(100.0, "b", urgency=0, tenant="x"))
    assert (bare.scheduler.jobs["b"].urgency == 1) == demoted, "while they run"
    bare.feed(*(CallFinished(100.0, f"a{i}") for i in range(calls)), *opened(100.0, "c", urgency=0, tenant="x"))
    assert (bare.scheduler.jobs["c"].urgency == 1) == demoted, "when they have ended"


def test_a_call_costs_the_budget_while_it_is_urgent(core: Make) -> None:
    bare = core("urgency", "fcfs", tenants=[BUDGET], jobs="")
    bare.feed(*opened(0.0, "a", urgency=2, tenant="x"), *arrive(0.0, "a1"), CallRevised(64.0, "a1", urgency=0))
    budget = bare.scheduler.tenants["x"].budget
    assert budget is not None
    bare.feed(CallFinished(68.0, "a1"))
    assert budget.left_s == 8.0 - 4.0 * 0.75, "not for the minute in which it was not"
    bare.feed(*arrive(68.0, "a2"), SettingsChanged(69.0, bare.scheduler.spec))
    assert bare.scheduler.tenants["x"].budget is not budget, "and what runs runs on under new settings"


def test_settings_may_lift_a_budget(core: Make) -> None:
    """What waits goes back to the class that it claimed."""
    bare = core("urgency", "fcfs", tenants=[BUDGET], jobs="")
    bare.feed(*opened(0.0, "a", "b", urgency=0, tenant="x"), *arrive(0.0, "a1"), CallFinished(32.0, "a1"))
    bare.feed(*arrive(32.0, "a2", "b1"))
    assert bare.scheduler.calls["b1"].demoted
    bare.feed(SettingsChanged(33.0, msgspec.structs.replace(bare.scheduler.spec, tenants=[])))
    assert bare.scheduler.calls["b1"].urgency == 0 and not bare.scheduler.calls["b1"].demoted


def test_budgets_and_turns_survive_a_snapshot(core: Make) -> None:
    bare = core("urgency:strict=0:within_s=8", "fcfs", tenants=[BUDGET], jobs="")
    bare.feed(*opened(0.0, "a", urgency=0, tenant="x"), *opened(0.0, "d", urgency=4))
    bare.feed(*arrive(0.0, *(f"d{i}" for i in range(9))), *arrive(0.0, *(f"a{i}" for i in range(9))))
    bare.feed(CallFinished(9.0, "d0"), CallFinished(10.0, "d1"))
    twin = build(bare.scheduler.spec)
    restore(twin, msgspec.json.decode(msgspec.json.encode(save(bare.scheduler))))
    at = 11.0
    while bare.scheduler.calls:
        running = next(call.id for call in bare.scheduler.calls.values() if call.replica is not None)
        event = CallFinished(at := at + 1.0, running)
        assert twin.handle(event) == bare.feed(event)
    assert save(twin) == save(bare.scheduler)
