"""Who is let in, who is refused, who leaves for whom, and what they are told about when to come again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from hocket.core.admission import LAST
from hocket.core.commands import Abort, Command, Dispatch, Refuse, Reject
from hocket.core.events import (
    CallArrived,
    CallCancelled,
    CallFinished,
    CallPreempted,
    CallRevised,
    CallStreamed,
    Event,
    JobClosed,
    JobOpened,
    ReplicaAdded,
    ReplicaRemoved,
    SettingsChanged,
    Tick,
)
from hocket.core.snapshot import restore, save
from hocket.core.spec import AdmissionSpec, EngineSpec, LimitsSpec, TenantSpec
from tests.core.bare import Bare

Make = Callable[..., Bare]


def comes(at: float, job: str, urgency: int = 2, tenant: str = "default", **more: Any) -> list[Event]:
    """A job, opened for its first call, which is named like it."""
    deadline_s = more.pop("deadline_s", None)
    return [
        JobOpened(at, job, more.pop("app", "app"), tenant, urgency, deadline_s),
        CallArrived(at, f"{job}1", job, "s", "m", 10, **more),
    ]


def refused(commands: list[Command]) -> list[tuple[str, int, str]]:
    """Of each call or job that was: its name, status and reason."""
    return [
        (c.call if isinstance(c, Reject) else c.job, c.status, c.reason)
        for c in commands
        if isinstance(c, Reject | Refuse)
    ]


def after(commands: list[Command]) -> float | None:
    """The one `retry_after_s` in them."""
    (found,) = [c.retry_after_s for c in commands if isinstance(c, Reject | Refuse)]
    return found


def limited(core: Make, windows: int = 1, **limits: Any) -> Bare:
    return core("fcfs", jobs="", windows={"r": windows}, limits=AdmissionSpec(**limits))


def of_tenant(core: Make, windows: int = 1, **limits: Any) -> Bare:
    return core("fcfs", jobs="", windows={"r": windows}, tenants=[TenantSpec("t", limits=LimitsSpec(**limits))])


# ---------------------------------------------------------------- numbers


def test_without_limits_nobody_is_refused(core: Make) -> None:
    bare = core("fcfs", jobs="")
    for n in range(200):
        assert not refused(bare.feed(*comes(0.0, f"j{n}", bytes=10**9)))
    assert bare.scheduler.whole.admitted == 200


@pytest.mark.parametrize("own", [True, False])
def test_open_calls_are_limited(core: Make, own: bool) -> None:
    bare, status = (of_tenant(core, calls=2), 429) if own else (limited(core, calls=2), 503)
    bare.feed(*comes(0.0, "a", tenant="t"), *comes(0.0, "b", tenant="t"))
    assert refused(bare.feed(*comes(1.0, "c", tenant="t"))) == [("c1", status, "too_many_calls")]
    assert bool(refused(bare.feed(*comes(1.0, "d", tenant="other")))) is not own
    bare.feed(CallFinished(3.0, "a1", 10, 5), JobClosed(3.0, "a"), JobClosed(3.0, "c", abort=True))
    if own:
        assert not refused(bare.feed(*comes(3.0, "c", tenant="t")))


def test_a_job_that_was_let_in_goes_on_up_to_twice_its_tenants_limit(core: Make) -> None:
    bare = of_tenant(core, calls=2)
    bare.feed(*comes(0.0, "a", tenant="t"), *comes(0.0, "b", tenant="t"))
    more = [CallArrived(1.0, f"a{n}", "a", "s", "m") for n in (2, 3, 4)]
    assert refused(bare.feed(*more)) == [("a4", 429, "too_many_calls")]


def test_a_job_that_was_let_in_passes_the_limits_of_all(core: Make) -> None:
    bare = limited(core, calls=1, queue=1, tokens_per_minute=1.0, wait_s=0.5)
    bare.feed(*comes(0.0, "a"))
    assert not refused(bare.feed(*(CallArrived(9.0, f"a{n}", "a", "s", "m", 10) for n in range(2, 50))))
    assert refused(bare.feed(*comes(9.0, "b")))


@pytest.mark.parametrize("own", [True, False])
def test_open_jobs_are_limited_and_nothing_of_a_refused_one_stays(core: Make, own: bool) -> None:
    bare, status = (of_tenant(core, jobs=1), 429) if own else (limited(core, jobs=1), 503)
    bare.feed(JobOpened(0.0, "a", "app", "t"))
    assert refused(bare.feed(JobOpened(1.0, "b", "app", "t"))) == [("b", status, "too_many_jobs")]
    assert list(bare.scheduler.jobs) == ["a"]
    bare.feed(JobClosed(8.0, "a"))
    assert not refused(bare.feed(JobOpened(8.0, "b", "app", "t")))
    again = bare.feed(JobOpened(9.0, "c", "app", "t"))
    assert after(again) == 8.0, "jobs have been open for 8 s so far, and one is"


def test_when_to_come_again_follows_from_how_long_calls_last(core: Make) -> None:
    bare = of_tenant(core, windows=4, calls=2)
    bare.feed(*comes(0.0, "a", tenant="t"), CallFinished(12.0, "a1"), *comes(12.0, "b", tenant="t"))
    bare.feed(*comes(12.0, "c", tenant="t"))
    assert after(bare.feed(*comes(13.0, "d", tenant="t"))) == 6.0, "12 s a call, and two are open"


# ---------------------------------------------------------------- tokens


def test_tokens_refill_and_the_answer_is_charged_when_it_is_known(core: Make) -> None:
    bare = of_tenant(core, windows=9, tokens_per_minute=60.0)  # one a second, 60 at first
    bare.feed(*comes(0.0, "a", tenant="t"), CallFinished(0.0, "a1", 10, 45))  # 60 - 10 - 45 = 5
    commands = bare.feed(*comes(2.0, "b", tenant="t"))
    assert refused(commands) == [("b1", 429, "too_many_tokens")] and after(commands) == 3.0
    bare.feed(JobClosed(2.0, "b", abort=True))
    assert not refused(bare.feed(*comes(5.0, "b", tenant="t")))


def test_the_engines_own_count_of_the_prompt_is_what_counts(core: Make) -> None:
    bare = of_tenant(core, windows=9, tokens_per_minute=60.0)
    bare.feed(*comes(0.0, "a", tenant="t"), CallFinished(0.0, "a1", 40, 10))
    assert bare.scheduler.tenants["t"].account.bucket.left == 10.0  # type: ignore[union-attr]


def test_a_call_that_never_ran_costs_no_tokens(core: Make) -> None:
    bare = of_tenant(core, tokens_per_minute=60.0)
    bare.feed(*comes(0.0, "a", tenant="t"), *comes(0.0, "b", tenant="t"), CallCancelled(0.0, "b1"))
    assert bare.scheduler.tenants["t"].account.bucket.left == 50.0  # type: ignore[union-attr]
    bare.feed(CallCancelled(0.0, "a1"))
    assert bare.scheduler.tenants["t"].account.bucket.left == 50.0, "it ran: its prompt was computed"  # type: ignore[union-attr]


def test_a_call_whose_engine_goes_before_it_ran_costs_no_tokens(core: Make) -> None:
    """The settings name another one: what waits is told that there is no such model."""
    bare = of_tenant(core, tokens_per_minute=60.0)
    bare.feed(*comes(0.0, "a", tenant="t"), *comes(0.0, "b", tenant="t"))
    gone = msgspec.structs.replace(bare.scheduler.spec, engines=[EngineSpec("f", ["n"])])
    assert refused(bare.feed(SettingsChanged(0.0, gone))) == [("b1", 404, "unknown_model")]
    assert bare.scheduler.tenants["t"].account.bucket.left == 50.0, "what a used"  # type: ignore[union-attr]


def test_what_a_displaced_call_had_made_is_paid_for_if_its_client_goes_while_it_waits(core: Make) -> None:
    bare = of_tenant(core, tokens_per_minute=60.0)
    bare.feed(*comes(0.0, "a", tenant="t", resumable=True), CallStreamed(0.0, "a1", 7))
    bare.feed(ReplicaRemoved(0.0, "e", "r"), CallPreempted(0.0, "a1", 7), CallCancelled(0.0, "a1"))
    assert bare.scheduler.tenants["t"].account.bucket.left == 43.0  # type: ignore[union-attr]


def test_a_job_goes_on_until_its_tenant_is_a_minute_in_debt(core: Make) -> None:
    bare = of_tenant(core, windows=9, tokens_per_minute=60.0)
    bare.feed(*comes(0.0, "a", tenant="t"), CallFinished(0.0, "a1", 10, 100))  # 50 below
    assert not refused(bare.feed(CallArrived(0.0, "a2", "a", "s", "m", 20)))  # 70 below
    commands = bare.feed(CallArrived(0.0, "a3", "a", "s", "m", 10))
    assert refused(commands) == [("a3", 429, "too_many_tokens")] and after(commands) == 10.0


def test_a_prompt_of_more_than_a_minutes_tokens_comes_in_when_the_bucket_is_full(core: Make) -> None:
    bare = of_tenant(core, tokens_per_minute=5.0)
    assert not refused(bare.feed(*comes(0.0, "a", tenant="t")))
    assert refused(bare.feed(*comes(1.0, "b", tenant="t"))) == [("b1", 429, "too_many_tokens")]


# ---------------------------------------------------------------- the queue


def test_a_full_queue_refuses_what_is_no_more_urgent(core: Make) -> None:
    bare = limited(core, queue=2)
    bare.feed(*comes(0.0, "a"), *comes(0.0, "b"), *comes(0.0, "c"))
    assert refused(bare.feed(*comes(1.0, "d"))) == [("d1", 503, "queue_full")]
    assert refused(bare.feed(*comes(1.0, "e", 4))) == [("e1", 503, "queue_full")]


def test_in_a_full_queue_the_least_valuable_job_that_has_not_begun_makes_room(core: Make) -> None:
    bare = limited(core, queue=3)
    bare.feed(*comes(0.0, "a", 4), *comes(0.0, "b", 3), *comes(0.0, "c", 4), *comes(0.0, "d", 4))
    assert refused(bare.feed(*comes(1.0, "e", 1))) == [("d1", 503, "shed")], "the last class, and of it the latest"
    assert refused(bare.feed(*comes(1.0, "f", 1))) == [("c1", 503, "shed")], "not a: it runs"
    assert refused(bare.feed(*comes(1.0, "g", 1))) == [("b1", 503, "shed")]
    assert refused(bare.feed(*comes(1.0, "h", 1))) == [("h1", 503, "queue_full")], "all are as urgent"
    assert not bare.scheduler.jobs["c"].admitted


def test_a_job_that_has_begun_is_not_sent_away(core: Make) -> None:
    bare = limited(core, queue=1)
    bare.feed(*comes(0.0, "a", 4), CallFinished(1.0, "a1"), *comes(1.0, "b", 1))
    assert not refused(bare.feed(CallArrived(1.0, "a2", "a", "s", "m")))
    assert refused(bare.feed(*comes(1.0, "c", 0))) == [("c1", 503, "queue_full")]


def test_a_job_that_waits_again_has_its_place_again(core: Make) -> None:
    bare = limited(core, queue=2)
    bare.feed(*comes(0.0, "a"), *comes(0.0, "b", 4), *comes(0.0, "c", 4), CallCancelled(0.0, "b1"))
    bare.feed(CallArrived(0.0, "b2", "b", "s", "m"))
    assert refused(bare.feed(*comes(1.0, "d", 1))) == [("c1", 503, "shed")]
    assert refused(bare.feed(*comes(1.0, "e", 1))) == [("b2", 503, "shed")]


def test_all_calls_of_the_job_that_makes_room_leave(core: Make) -> None:
    bare = limited(core, queue=3)
    bare.feed(*comes(0.0, "a"), *comes(0.0, "b", 4), CallArrived(0.0, "b2", "b", "s", "m"))
    bare.feed(*comes(0.0, "c", 3))
    assert refused(bare.feed(*comes(1.0, "d", 0))) == [("b1", 503, "shed"), ("b2", 503, "shed")]


def test_a_class_that_is_known_later_counts_for_who_leaves(core: Make) -> None:
    bare = limited(core, queue=2)
    bare.feed(*comes(0.0, "a"), *comes(0.0, "b", 4), *comes(0.0, "c", 3), CallRevised(0.5, "b1", 1))
    assert refused(bare.feed(*comes(1.0, "d", 2))) == [("c1", 503, "shed")]


def test_a_tenants_own_queue_makes_room_among_its_own(core: Make) -> None:
    bare = of_tenant(core, queue=1)
    bare.feed(*comes(0.0, "x", 4, "other"), *comes(0.0, "y", 4, "other"), *comes(0.0, "a", 4, "t"))
    assert refused(bare.feed(*comes(0.0, "b", 3, "t"))) == [("a1", 503, "shed")]
    assert refused(bare.feed(*comes(0.0, "c", 3, "t"))) == [("c1", 429, "queue_full")]


def test_bytes_are_limited_and_room_is_made_for_calls_of_jobs_that_have_begun(core: Make) -> None:
    bare = limited(core, held_bytes=100)
    bare.feed(*comes(0.0, "a", bytes=60), *comes(0.0, "b", bytes=40))
    assert refused(bare.feed(*comes(0.0, "c", bytes=1))) == [("c1", 503, "too_many_bytes")]
    assert not refused(bare.feed(CallArrived(0.0, "a2", "a", "s", "m", bytes=100))), "it may go twice as far"
    assert refused(bare.feed(CallArrived(0.0, "a3", "a", "s", "m", bytes=30))) == [("b1", 503, "shed")]
    assert refused(bare.feed(CallArrived(0.0, "a4", "a", "s", "m", bytes=30))) == [("a4", 503, "too_many_bytes")]


def test_a_request_that_is_larger_than_all_that_may_be_held_comes_in_alone(core: Make) -> None:
    bare = limited(core, held_bytes=100)
    assert not refused(bare.feed(*comes(0.0, "a", bytes=500)))
    assert refused(bare.feed(*comes(0.0, "b", bytes=1))) == [("b1", 503, "too_many_bytes")]


def test_nobody_leaves_for_one_who_is_refused_all_the_same(core: Make) -> None:
    bare = limited(core, held_bytes=100)
    bare.feed(*comes(0.0, "a", bytes=60), *comes(0.0, "b", 4, bytes=40))
    assert refused(bare.feed(*comes(0.0, "c", 0, bytes=90))) == [("c1", 503, "too_many_bytes")]
    assert bare.scheduler.jobs["b"].admitted


def test_sending_away_looks_at_few_jobs_however_many_wait(core: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = limited(core, queue=5_000)
    for n in range(5_001):
        bare.scheduler.handle(comes(0.0, f"j{n}", 3)[0])
        bare.scheduler.handle(comes(0.0, f"j{n}", 3)[1])
    heap = bare.scheduler.whole.unstarted
    looked, ordered = 0, type(heap).ordered

    def counted(this: Any) -> Any:
        nonlocal looked
        for one in ordered(this):
            looked += 1
            yield one

    monkeypatch.setattr(type(heap), "ordered", counted)
    found = refused([c for event in comes(1.0, "urgent", 0) for c in bare.scheduler.handle(event)])
    assert found == [("j50001", 503, "shed")] and looked == 1


def test_that_nobody_can_leave_is_known_without_looking(core: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of small requests wait. Together they hold less than a large one lacks, or are too urgent."""
    bare = limited(core, held_bytes=6_000)
    bare.feed(*comes(0.0, "a", bytes=3_000))
    for n in range(2_000):
        for event in comes(0.0, f"j{n}", 2 + n % 2, bytes=1):
            bare.scheduler.handle(event)
    heap, looks = type(bare.scheduler.whole.unstarted), list[Any]()
    ordered = heap.ordered

    def counted(this: Any) -> Any:
        looks.append(this)
        return ordered(this)

    monkeypatch.setattr(heap, "ordered", counted)
    assert refused(bare.feed(*comes(1.0, "large", 0, bytes=4_000))) == [("large1", 503, "too_many_bytes")]
    assert refused(bare.feed(*comes(1.0, "other", 2, bytes=2_500))) == [("other1", 503, "too_many_bytes")]
    assert not looks
    sent_away = refused(bare.feed(*comes(1.0, "fits", 2, bytes=1_500)))
    assert [name for name, _, _ in sent_away] == [f"j{n}1" for n in range(1_999, 999, -2)], "class 3, the latest first"


def test_what_may_leave_is_counted_while_it_waits(core: Make) -> None:
    """Jobs with several calls, of which some go, and a class that changes. The fixture counts anew."""
    bare = limited(core, queue=4, held_bytes=50)
    bare.feed(*comes(0.0, "a", bytes=9), *comes(0.0, "b", 4, bytes=9), CallArrived(0.0, "b2", "b", "s", "m", bytes=9))
    bare.feed(*comes(0.0, "c", 4, bytes=9), CallCancelled(0.5, "b1"), CallRevised(0.5, "b2", 1))
    bare.feed(SettingsChanged(0.5, bare.scheduler.spec))
    assert refused(bare.feed(*comes(1.0, "d", 2, bytes=32))) == [("c1", 503, "shed")]
    assert refused(bare.feed(*comes(1.0, "e", 2, bytes=9))) == [("e1", 503, "too_many_bytes")]
    assert [name for name, _, _ in refused(bare.feed(*comes(1.0, "f", 0, bytes=30)))] == ["d1"]


# ---------------------------------------------------------------- what is foretold


def busy(core: Make, **limits: Any) -> Bare:
    """Two slots; calls take 4 s each, and both slots are held."""
    bare = limited(core, windows=2, **limits)
    bare.feed(*comes(0.0, "x"), CallFinished(4.0, "x1"), JobClosed(4.0, "x"))
    bare.feed(*comes(4.0, "y"), *comes(4.0, "z"))
    return bare


def test_the_wait_is_foretold_by_the_work_ahead_and_how_fast_it_goes(core: Make) -> None:
    bare = busy(core, wait_s=60.0)
    engine = bare.scheduler.engines["e"]
    assert bare.scheduler.wait_s(engine, 4) == 2.0, "two calls of 4 s run: one ends in 2 s, on average"
    for n in range(6):
        bare.feed(*comes(4.0, f"j{n}", 3))
    assert bare.scheduler.wait_s(engine, 4) == (6 + 1) * 4.0 / 2
    assert bare.scheduler.wait_s(engine, 2) == 2.0, "calls of less urgent classes are not ahead"


def test_where_nothing_hangs_on_it_whoever_waits_is_ahead(core: Make) -> None:
    bare = busy(core)
    for n in range(6):
        bare.feed(*comes(4.0, f"j{n}", 3))
    assert bare.scheduler.wait_s(bare.scheduler.engines["e"], 2) == (6 + 1) * 4.0 / 2
    bare.feed(SettingsChanged(4.0, msgspec.structs.replace(bare.scheduler.spec, limits=AdmissionSpec(wait_s=60.0))))
    assert bare.scheduler.wait_s(bare.scheduler.engines["e"], 2) == 2.0, "now it is asked for"


def test_an_engine_that_is_silent_is_slow(core: Make) -> None:
    bare = busy(core)
    bare.feed(Tick(44.0))
    assert bare.scheduler.wait_s(bare.scheduler.engines["e"], 4) == 20.0


def test_nothing_is_foretold_of_an_engine_that_has_not_started(core: Make) -> None:
    bare = core("fcfs", jobs="", windows={}, limits=AdmissionSpec(wait_s=1.0))
    assert not refused(bare.feed(*comes(0.0, "a"), *comes(9.0, "b")))


def test_new_jobs_are_refused_where_the_wait_is_too_long_and_urgent_ones_are_not(core: Make) -> None:
    bare = busy(core, wait_s=7.0)
    letin = [n for n in range(9) if not refused(bare.feed(*comes(4.0, f"j{n}", 3)))]
    assert letin == [0, 1, 2], "with three that wait the next would wait for 8 s"
    commands = bare.feed(*comes(4.0, "late", 3))
    assert refused(commands) == [("late1", 503, "overloaded")] and after(commands) == 1.0
    assert not refused(bare.feed(*comes(4.0, "urgent", 1)))
    bare.feed(Tick(24.0))
    assert after(bare.feed(*comes(24.0, "later", 3))) == (6 - 2 + 1) * 20.0 / 2 - 7.0


def test_who_waits_for_too_long_is_served_before_others_are_let_in(core: Make) -> None:
    """The order may let short jobs pass a long one for ever, however short the queue is that is foretold."""
    bare = core("sjf", jobs="", windows={"r": 2}, limits=AdmissionSpec(wait_s=7.0))
    bare.feed(*comes(0.0, "x", app="long"), CallFinished(4.0, "x1"), JobClosed(4.0, "x"))
    bare.feed(*comes(4.0, "y"), *comes(4.0, "z"), *comes(4.0, "long", app="long"))
    for n in range(6):  # a short one ends every second, and another comes
        at, ends = 5.0 + n, "yz"[n] + "1" if n < 2 else f"j{n - 2}1"
        bare.feed(*comes(at, f"j{n}"), CallFinished(at, ends))
    assert bare.scheduler.calls["long1"].replica is None
    bare.feed(*comes(11.5, "last"))
    assert refused(bare.feed(*comes(11.5, "late"))) == [("late1", 503, "overloaded")]
    assert not refused(bare.feed(*comes(11.5, "urgent", 1))), "less urgent calls that wait are no reason"


def test_a_tenant_that_fills_the_queue_is_refused_and_the_others_are_not(core: Make) -> None:
    bare = limited(core, windows=2, wait_s=10.0)
    bare.feed(*comes(0.0, "x"), CallFinished(4.0, "x1"), JobClosed(4.0, "x"))
    letin = [n for n in range(40) if not refused(bare.feed(*comes(4.0, f"g{n}", tenant="greedy")))]
    assert len(letin) == 7, "two run, and five wait for 10 s"
    assert not refused(bare.feed(*comes(4.0, "a", tenant="light"), *comes(4.0, "b", tenant="light")))
    assert bare.scheduler.wait_s(bare.scheduler.engines["e"], 2, bare.scheduler.tenants["light"]) == 8.0
    assert not refused(bare.feed(*comes(4.0, "c", tenant="light")))
    assert refused(bare.feed(*comes(4.0, "d", tenant="light"))), "half of the slots would do its own in 12 s"


def test_a_job_is_let_in_while_a_slot_is_free_whatever_is_foretold(core: Make) -> None:
    bare = limited(core, windows=2, wait_s=0.1)
    bare.feed(*comes(0.0, "x"), CallFinished(400.0, "x1"), *comes(400.0, "y"))
    assert not refused(bare.feed(*comes(400.0, "z")))
    assert refused(bare.feed(*comes(400.0, "w")))


def test_calls_that_a_job_will_still_send_are_ahead(core: Make) -> None:
    bare = limited(core, windows=1, wait_s=10.0)
    for n in range(3):  # jobs of four calls of 1 s each
        job, at = f"x{n}", 10.0 * n
        bare.feed(*comes(at, job, app="four"), CallFinished(at + 1, f"{job}1"))
        for k in (2, 3, 4):
            bare.feed(CallArrived(at + k - 1, f"{job}{k}", job, "s", "m"), CallFinished(at + k, f"{job}{k}"))
        bare.feed(JobClosed(at + 4, job))
    letin = [n for n in range(9) if not refused(bare.feed(*comes(40.0, f"j{n}", app="four")))]
    assert letin == [0, 1, 2], "twelve calls, of which one runs"
    bare.feed(CallFinished(41.0, "j01"), CallCancelled(41.0, "j11"))
    assert bare.scheduler.wait_s(bare.scheduler.engines["e"], 4) == pytest.approx(4.0), "of idle jobs nobody knows"


# ---------------------------------------------------------------- deadlines


def test_a_job_that_would_wait_past_its_deadline_is_told_at_once(core: Make) -> None:
    bare = busy(core, deadlines="refuse")
    for n in range(6):
        bare.feed(*comes(4.0, f"j{n}"))
    commands = bare.feed(*comes(4.0, "late", deadline_s=10.0))
    assert refused(commands) == [("late1", 503, "deadline_unmeetable")] and after(commands) == 4.0
    assert not refused(bare.feed(*comes(4.0, "fine", deadline_s=16.0)))
    assert not refused(bare.feed(Tick(99.0), CallArrived(99.0, "fine2", "fine", "s", "m"))), "not in the middle"


def test_a_job_that_takes_longer_than_its_deadline_need_not_come_again(core: Make) -> None:
    bare = core("hocket", jobs="", windows={"r": 4}, limits=AdmissionSpec(deadlines="refuse"))
    for n in range(30):  # each takes 1000 tokens, some 10 s by the default pace
        bare.feed(
            *comes(20.0 * n, f"x{n}"), CallFinished(20.0 * n + 9, f"x{n}1", 10, 1000), JobClosed(20.0 * n + 9, f"x{n}")
        )
    commands = bare.feed(*comes(900.0, "late", deadline_s=2.0))
    assert refused(commands) == [("late1", 503, "deadline_unmeetable")] and after(commands) is None
    assert not refused(bare.feed(*comes(900.0, "fine", deadline_s=60.0)))


def test_a_job_that_cannot_meet_its_deadline_may_be_put_last_instead(core: Make) -> None:
    bare = busy(core, deadlines="demote")
    for n in range(6):
        bare.feed(*comes(4.0, f"j{n}"))
    assert not refused(bare.feed(*comes(4.0, "late", deadline_s=10.0, urgency=2)))
    assert bare.scheduler.jobs["late"].urgency == LAST == bare.scheduler.calls["late1"].urgency


def test_a_job_that_was_put_last_stays_there(core: Make) -> None:
    """Whatever its later requests claim, and however soon they would be served: it is decided once."""
    bare = busy(core, deadlines="demote")
    for n in range(6):
        bare.feed(*comes(4.0, f"j{n}"))
    bare.feed(*comes(4.0, "late", deadline_s=10.0, urgency=2), CallRevised(4.5, "late1", 0))
    job = bare.scheduler.jobs["late"]
    assert (job.urgency, job.claimed, bare.scheduler.calls["late1"].urgency) == (LAST, LAST, LAST)
    bare.feed(*(CallCancelled(5.0, call) for call in list(bare.scheduler.calls)))
    bare.feed(CallArrived(5.0, "late2", "late", "s", "m", urgency=0))
    assert (job.urgency, bare.scheduler.calls["late2"].urgency) == (LAST, LAST)
    twin = core("fcfs", jobs="", windows={}, limits=bare.scheduler.spec.limits)
    restore(twin.scheduler, msgspec.json.decode(msgspec.json.encode(save(bare.scheduler))))
    twin.feed(CallArrived(5.0, "late3", "late", "s", "m", urgency=0))
    assert twin.scheduler.calls["late3"].urgency == LAST


def test_deadlines_are_ignored_unless_asked(core: Make) -> None:
    bare = busy(core)
    bare.feed(*comes(4.0, "a"), Tick(500.0))
    assert not refused(bare.feed(*comes(500.0, "late", deadline_s=0.1)))


# ---------------------------------------------------------------- settings, observers, snapshots


def test_who_only_observes_refuses_nobody(core: Make) -> None:
    bare = core("fcfs", jobs="", observe=True, limits=AdmissionSpec(calls=1, jobs=1, queue=1, held_bytes=1, wait_s=0.1))
    for n in range(9):
        assert not refused(bare.feed(*comes(0.0, f"j{n}", bytes=10)))


def test_other_limits_hold_for_who_comes_next(core: Make) -> None:
    bare = of_tenant(core, calls=2, tokens_per_minute=60.0)
    bare.feed(*comes(0.0, "a", tenant="t"), *comes(0.0, "b", tenant="t"))
    narrower = TenantSpec("t", limits=LimitsSpec(calls=1, tokens_per_minute=30.0))
    bare.feed(SettingsChanged(0.0, msgspec.structs.replace(bare.scheduler.spec, tenants=[narrower])))
    account = bare.scheduler.tenants["t"].account
    assert account is not None and account.calls == 2
    assert account.bucket is not None and account.bucket.left == 30.0, "40 were left, and 30 may be saved up"
    assert refused(bare.feed(*comes(0.0, "c", tenant="t")))
    bare.feed(SettingsChanged(0.0, msgspec.structs.replace(bare.scheduler.spec, tenants=[])))
    assert not refused(bare.feed(*comes(0.0, "d", tenant="t")))


def test_jobs_go_on_at_another_engine_and_are_counted_there(core: Make) -> None:
    bare = limited(core, queue=9)
    bare.feed(*comes(0.0, "a"), *comes(0.0, "b"), *comes(0.0, "c"))
    spec = msgspec.structs.replace(bare.scheduler.spec, engines=[EngineSpec("f", ["m"])])
    bare.feed(SettingsChanged(1.0, spec), ReplicaAdded(1.0, "f", "q", 1))
    assert bare.scheduler.engines["f"].load.ahead == [0.0, 0.0, 2.0, 0.0, 0.0]


def test_a_restored_scheduler_decides_alike(core: Make) -> None:
    tenants = [TenantSpec("t", limits=LimitsSpec(calls=9, tokens_per_minute=100.0, queue=2))]
    spec = {"limits": AdmissionSpec(queue=4, wait_s=6.0, held_bytes=99), "tenants": tenants}
    bare = core("urgency", "fcfs", jobs="", windows={"r": 2}, **spec)
    bare.feed(*comes(0.0, "x", tenant="t"), CallFinished(1.0, "x1", 12, 30), JobClosed(1.3, "x"))
    for n in range(5):
        bare.feed(*comes(2.0 + n / 8, f"j{n}", n % 5, "t" if n % 2 else "u", bytes=7))
    twin = core("urgency", "fcfs", jobs="", windows={}, **spec)
    restore(twin.scheduler, msgspec.json.decode(msgspec.json.encode(save(bare.scheduler))))
    for n in range(9):
        events = comes(3.0 + n / 8, f"k{n}", n % 5, "t" if n % 2 else "u", bytes=9)
        assert bare.feed(*events) == twin.feed(*events)
    assert bare.scheduler.whole.refused and save(bare.scheduler) == save(twin.scheduler)


def test_a_refused_job_teaches_nothing(core: Make) -> None:
    bare = limited(core, queue=1)
    bare.feed(*comes(0.0, "a"), *comes(0.0, "b"))
    commands = bare.feed(*comes(0.0, "c"), JobClosed(0.0, "c", abort=True, reason="refused"))
    assert refused(commands) and not any(isinstance(c, Dispatch | Abort) for c in commands)
    assert "c" not in bare.scheduler.jobs and bare.scheduler.apps["app"].jobs_closed == 0
    assert not refused(bare.feed(CallFinished(1.0, "a1"), *comes(1.0, "c"))), "it may come again under its name"


def test_what_a_tenants_jobs_will_send_to_another_engine_is_ahead_of_its_own_calls(core: Make) -> None:
    """Its jobs begin at e and go on at f. There it has no call yet, or one: what is to come counts in both cases."""
    two = [EngineSpec("e", ["m"]), EngineSpec("f", ["n"])]
    bare = core("fcfs", jobs="", engines=two, limits=AdmissionSpec(wait_s=1000.0))
    bare.feed(ReplicaAdded(0.0, "f", "q", 1), *comes(0.0, "z"), CallFinished(1.0, "z1"))
    bare.feed(*(CallArrived(1.0, f"z{n}", "z", "s", "n") for n in range(2, 6)))
    for n in range(2, 6):
        bare.feed(CallFinished(float(n), f"z{n}"))
    bare.feed(JobClosed(5.0, "z"))
    for n in range(8):
        bare.feed(*comes(5.0, f"j{n}"))
    bare.feed(CallArrived(5.0, "j0f", "j0", "s", "n"))
    engine, (tenant,) = bare.scheduler.engines["f"], bare.scheduler.tenants.values()
    assert bare.scheduler.wait_s(engine, 2, tenant) == bare.scheduler.wait_s(engine, 2) > 30.0


def test_jobs_that_were_refused_do_not_make_others_seem_short(core: Make) -> None:
    """Their process closes each of them in the moment in which it was opened."""
    bare = limited(core, jobs=2, queue=1)
    bare.feed(*comes(0.0, "a"), CallFinished(60.0, "a1"), JobClosed(60.0, "a"), *comes(60.0, "b"))
    bare.feed(CallArrived(60.0, "b2", "b", "s", "m"))
    for n in range(200):
        assert refused(bare.feed(*comes(60.0, f"j{n}"))) == [(f"j{n}1", 503, "queue_full")]
        bare.feed(JobClosed(60.0, f"j{n}", abort=True, reason="refused"))
    bare.feed(JobOpened(60.0, "c", "app"))
    assert after(bare.feed(JobOpened(60.0, "d", "app"))) == 30.0, "one of two that are open for a minute each"


def test_debts_of_a_time_in_which_nobody_was_refused_end_within_a_minute(core: Make) -> None:
    settings = {"tenants": [TenantSpec("t", limits=LimitsSpec(tokens_per_minute=60.0))]}
    bare = core("fcfs", jobs="", observe=True, **settings)
    for n in range(100):
        bare.feed(*comes(0.0, f"j{n}", tenant="t"), CallFinished(0.0, f"j{n}1", 10, 100))
    bare.feed(SettingsChanged(0.0, msgspec.structs.replace(bare.scheduler.spec, observe=False)))
    assert refused(bare.feed(*comes(60.0, "x", tenant="t"))) == [("x1", 429, "too_many_tokens")]
    assert not refused(bare.feed(CallArrived(70.0, "x2", "x", "s", "m", 10)))


def test_settings_that_are_read_anew_do_not_make_waits_shorter(core: Make) -> None:
    bare = limited(core, wait_s=5.0)
    bare.feed(*comes(0.0, "a"), CallArrived(0.0, "a2", "a", "s", "m"), SettingsChanged(9.0, bare.scheduler.spec))
    assert bare.scheduler.engines["e"].load.seen_s(2, 9.0, bare.scheduler.tenants["default"]) == 9.0
