"""A waiting call takes the slot of a running one, where that pays: events in, `Preempt` out."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

from hocket.assembly import build, replay_journal
from hocket.core import events as ev
from hocket.core.commands import Abort, Command, Dispatch, Preempt, Reject, WakeAt
from hocket.core.latency import Latency
from hocket.core.ordering import Fact, Scope, View
from hocket.core.snapshot import restore, save
from hocket.core.spec import EngineSpec, PreemptionSpec, SchedulerSpec
from hocket.core.state import Call
from hocket.errors import InputError
from hocket.journal import JournalWriter, encode
from tests.core.bare import NEVER, Bare, sent
from tests.core.test_snapshot import random_event

CLASS, KEY = PreemptionSpec("class"), PreemptionSpec("key")


def bare(*policy: str, preemption: PreemptionSpec | None = CLASS, slots: int = 2, **more: Any) -> Bare:
    """Jobs a0 to e4: the digit is the class. Engine `e`, one replica `r`."""
    jobs = [f"{letter}{urgency}" for letter in "abcde" for urgency in range(5)]
    made = Bare(*(policy or ("urgency", "call-fcfs")), preemption=preemption, windows={"r": slots}, jobs=(), **more)
    made.feed(*(ev.JobOpened(0.0, job, "app", urgency=int(job[1])) for job in jobs))
    return made


def come(at: float, *calls: str, resumable: bool = True, **more: Any) -> list[ev.CallArrived]:
    """Calls of the jobs that are their first two letters."""
    return [ev.CallArrived(at, call, call[:2], "s", "m", 10, resumable=resumable, **more) for call in calls]


def begun(at: float, *calls: str, **more: Any) -> list[ev.Event]:
    """Calls that come, and that their replicas begin to work on."""
    return [*come(at, *calls, **more), *(ev.CallStarted(at, call) for call in calls)]


def preempt(*calls: str) -> list[Command]:
    return [Preempt(call) for call in calls]


class Weighed:
    """Shortest prompt first, of weighed tokens."""

    name: ClassVar[str] = "weighed"
    scope: ClassVar[Scope] = Scope.CALL
    reads: ClassVar[frozenset[Fact]] = frozenset()

    def key(self, call: Call, view: View) -> tuple[Any, ...]:
        return (call.prompt_tokens / view.weight(call.job),)


def sized(at: float, call: str, prompt_tokens: int) -> ev.CallArrived:
    return ev.CallArrived(at, call, call, "s", "m", prompt_tokens, resumable=True)


# ---------------------------------------------------------------- who leaves


def test_the_least_urgent_class_leaves_and_in_it_the_largest_key() -> None:
    core = bare(slots=4)
    core.feed(*come(0.0, "a4", "a3", "b4", "b2"))
    assert core.feed(*come(1.0, "a0")) == preempt("b4")
    assert core.feed(ev.CallPreempted(1.1, "b4", 3)) == sent("a0")
    assert core.feed(*come(2.0, "b0", "c0")) == preempt("a4", "a3")
    assert core.feed(ev.CallPreempted(2.1, "a3"), ev.CallPreempted(2.2, "a4")) == sent("b0", "c0")
    assert core.drain(3.0) == ["a3", "a4", "b4"], "those that were displaced wait in their order"


def test_a_class_displaces_less_urgent_classes_alone() -> None:
    core = bare()
    core.feed(*come(0.0, "a1", "a2"))
    assert core.feed(*come(1.0, "b2", "b3", "b4")) == []
    assert core.feed(*come(1.0, "b1")) == preempt("a2")
    assert core.feed(*come(1.0, "c1")) == [], "its like runs already, and the other is leaving"


def test_nobody_is_displaced_whom_the_policy_would_put_first() -> None:
    """Classes that weigh, and are not strict: a call of a less urgent class may go before, so it stays."""
    prompts = {"a4": 1, "b4": 30, "a2": 16, "b2": 2}
    core = bare("urgency:strict=0:ratio=2", "weighed", slots=2, extra={"weighed": Weighed()})
    assert core.feed(*(sized(0.0, call, prompts[call]) for call in ("a4", "b4"))) == sent("a4", "b4")
    assert core.feed(sized(1.0, "b2", prompts["b2"])) == preempt("b4"), "2 tokens count as half a one, 30 as 30"
    core.feed(ev.CallPreempted(1.0, "b4"))
    assert core.feed(sized(1.0, "a2", prompts["a2"])) == [], "16 count as 4, more than the 1 of a4"
    assert core.feed(*come(1.0, "a0")) == preempt("a4"), "class 0 always goes first"


def test_across_keys_any_call_with_a_larger_key_leaves() -> None:
    core = bare("weighed", preemption=KEY, extra={"weighed": Weighed()})
    calls = [(5, "a2"), (9, "b2"), (7, "c2"), (1, "d2")]
    arrivals = [sized(1.0, call, prompt) for prompt, call in calls]
    assert core.feed(*arrivals) == [*sent("a2", "b2"), *preempt("b2")], "d2 gets the slot; c2 is not before a2"
    assert core.feed(ev.CallPreempted(1.0, "b2")) == sent("d2")
    assert core.drain(2.0) == ["c2", "b2"]


def test_keys_that_move_while_calls_run_are_up_to_date() -> None:
    """Least attained service: who has run for long is displaced by who has not."""
    core = bare("las", preemption=KEY, engines=[EngineSpec("e", ["m"], swap_s_per_token=0.0)])
    core.feed(*come(0.0, "a2", "b2"), ev.CallStreamed(4.0, "a2", 5), ev.CallStreamed(5.0, "b2", 5))
    assert core.feed(*come(6.0, "c2")) == preempt("b2")
    core.feed(ev.CallPreempted(6.0, "b2", 5))
    assert core.feed(ev.CallStreamed(20.0, "a2", 9)) == preempt("a2"), "by now b2 has had less"


@pytest.mark.parametrize("urgency", [0, 1])
def test_a_slot_that_is_left_goes_to_whom_it_was_left_for(urgency: int) -> None:
    """Not back to the one that left, or to another that is overdue: such wait for slots that free by themselves."""
    core = bare("urgency:within_s=300", "call-fcfs")
    core.feed(*begun(0.0, "a4", "b4"), *come(0.0, "c4", "d4"))
    assert core.feed(*come(400.0, f"a{urgency}")) == preempt("b4")
    assert core.feed(ev.CallPreempted(400.5, "b4", 5)) == sent(f"a{urgency}")
    assert core.feed(ev.CallFinished(401.0, "a4")) == sent("b4"), "the first to have come"


def test_who_went_first_for_its_age_is_displaced_by_none_that_it_passed() -> None:
    core = bare("urgency:within_s=300", "call-fcfs", slots=1)
    core.feed(*begun(0.0, "a1"), *come(0.0, "c4", "d4"), *come(400.0, "b1", "c1"))
    assert core.feed(ev.CallFinished(400.0, "a1")) == sent("c4")
    twin = build(core.scheduler.spec)
    restore(twin, msgspec.json.decode(msgspec.json.encode(save(core.scheduler))))
    assert core.feed(*come(401.0, "d1")) == twin.handle(*come(401.0, "d1")) == []
    assert core.feed(*come(402.0, "a0")) == preempt("c4"), "it did not pass class 0"
    assert core.feed(ev.CallPreempted(402.0, "c4")) == sent("a0")
    core.feed(*come(403.0, "b0", "c0"))
    assert core.feed(ev.CallFinished(404.0, "a0")) == sent("b0"), "one in four turns is for the overdue"
    assert core.feed(ev.CallFinished(405.0, "b0")) == sent("c0")
    core.feed(*come(405.0, "d0", "e0"), ev.CallFinished(406.0, "c0"))
    assert core.feed(ev.CallFinished(407.0, "d0")) == sent("c4"), "and no class 0 takes that turn back"
    core.feed(ev.CallCancelled(408.0, "e0"))
    assert core.feed(*come(409.0, "a0")) == preempt("c4"), "but one that comes now was not passed"


def test_nobody_is_displaced_twice_at_once_nor_for_one_that_profits_already() -> None:
    core = bare(slots=3)
    core.feed(*come(0.0, "a4", "b4", "c4"))
    assert core.feed(*come(1.0, "a0")) == preempt("c4")
    assert core.feed(ev.Tick(1.1), *come(1.2, "d4")) == [], "the one that waits has its slot under way"
    assert core.feed(*come(1.3, "b0", "c0", "d0")) == preempt("b4", "a4")
    assert core.feed(ev.CallFinished(2.0, "a4", 5, 5)) == sent("a0")
    assert core.feed(ev.CallPreempted(2.1, "b4"), ev.CallPreempted(2.2, "c4")) == sent("b0", "c0")


def test_a_call_is_displaced_so_often_and_no_more() -> None:
    core = bare(slots=1, preemption=PreemptionSpec(at_most=2))
    core.feed(*come(0.0, "a4"))
    for round_ in range(2):
        assert core.feed(*come(1.0, f"a0{round_}")) == preempt("a4")
        core.feed(ev.CallPreempted(1.0, "a4", 3))
        assert core.feed(ev.CallFinished(1.0, f"a0{round_}", 5, 5)) == sent("a4")
    assert core.feed(*come(1.0, "b0")) == []


def test_what_cannot_be_continued_is_displaced_before_its_first_byte_only() -> None:
    core = bare(slots=1)
    core.feed(*come(0.0, "a4", resumable=False), ev.CallStarted(0.0, "a4"))
    assert core.feed(*come(1.0, "a0")) == preempt("a4")
    core = bare(slots=1)
    core.feed(*come(0.0, "a4", resumable=False), ev.CallStreamed(0.5, "a4"))
    assert core.feed(*come(1.0, "a0")) == []


def test_a_replica_that_holds_too_many_gives_no_slot_away() -> None:
    """It is removed, or rests: then the call with the largest key on another one leaves."""
    core = bare(slots=1)
    core.feed(ev.ReplicaAdded(0.0, "e", "q", 1), *come(0.0, "a3", "a4"), ev.ReplicaRemoved(0.5, "e", "q"))
    assert core.scheduler.calls["a4"].replica.id == "q"
    assert core.feed(*come(1.0, "a0")) == preempt("a3")


# ---------------------------------------------------------------- what pays

PACE = Latency(q2=0.1)
"a second for ten tokens of prompt or answer"


def slots_take(core: Bare, seconds: float) -> None:
    """Calls of class 4 have been seen to hold a slot for so long."""
    for number in range(40):
        core.feed(
            *come(core.scheduler.now, f"d4{number}"), ev.CallFinished(core.scheduler.now + seconds, f"d4{number}")
        )


@pytest.mark.parametrize(
    ("engine", "resumable", "tokens", "profits"),
    [
        # 10 slot-seconds a call and two slots: one frees in 5 s. Displaced after 4 s, with `tokens` made.
        ({}, True, 30, True),  # nothing is known of the engine: all of the 4 s, less than 5
        ({"latency": PACE}, True, 30, True),  # 10 + 30 tokens are prefilled again: 4 s
        ({"latency": PACE}, True, 45, False),  # 5.5 s
        ({"latency": PACE}, False, 0, True),  # not begun: what was done in 4 s is lost
        ({"latency": PACE, "swap_s_per_token": 0.05}, True, 45, True),  # brought back in 2.75 s
        ({"latency": PACE, "swap_s_per_token": 0.2}, True, 45, False),  # computed again in less time
        ({"swap_s_per_token": 0.0}, True, 9000, True),  # free
    ],
)
def test_waiting_saved_is_weighed_against_work_lost(
    engine: dict[str, Any], resumable: bool, tokens: int, profits: bool
) -> None:
    core = bare("urgency:ratio=1", "call-fcfs", engines=[EngineSpec("e", ["m"], **engine)])
    slots_take(core, 10.0)
    at = core.scheduler.now
    core.feed(*begun(at, "a3", "a4", resumable=resumable))
    if tokens:
        core.feed(ev.CallStreamed(at + 1.0, "a4", tokens))
    assert core.feed(*come(at + 4.0, "a0")) == (preempt("a4") if profits else [])


def test_both_count_by_their_class() -> None:
    """One frees in 5 s, 12 s would be lost: worth it to a call that weighs 16 times as much, not to one of twice."""
    for urgency, profits in (("0", True), ("3", False)):
        core = bare()
        slots_take(core, 10.0)
        at = core.scheduler.now
        core.feed(*begun(at, "a0", "a4"))
        assert core.feed(*come(at + 12.0, f"b{urgency}")) == (preempt("a4") if profits else [])


def test_one_that_has_not_begun_loses_nothing() -> None:
    core = bare("urgency:ratio=1", "call-fcfs")
    slots_take(core, 10.0)
    at = core.scheduler.now
    core.feed(*begun(at, "a3"), *come(at, "a4", resumable=False))
    assert core.feed(*come(at + 100.0, "a0")) == preempt("a4")


def test_what_did_not_pay_may_pay_later() -> None:
    core = bare("urgency:ratio=1", "call-fcfs", engines=[EngineSpec("e", ["m"], latency=PACE)], slots=1)
    slots_take(core, 2.0)
    at = core.scheduler.now
    core.feed(*begun(at, "a4"), ev.CallStreamed(at + 1.0, "a4", 30))
    assert core.feed(*come(at + 1.0, "a0")) == [], "4 s are lost, 2 s are saved"
    calm = SchedulerSpec([EngineSpec("e", ["m"], latency=Latency(q2=0.01))], ("urgency",), preemption=CLASS)
    assert core.feed(ev.SettingsChanged(at + 1.1, calm)) == preempt("a4"), "0.4 s are"


# ---------------------------------------------------------------- while a call is leaving


def leaving() -> Bare:
    """b4 was asked to leave for a0; b4 has made five tokens. One more urgent call waits behind."""
    core = bare()
    core.feed(*come(0.0, "a4", "b4"), ev.CallStreamed(0.5, "b4", 5), ev.CallStreamed(0.5, "a4", 5))
    assert core.feed(*come(1.0, "a0")) == preempt("b4")
    return core


@pytest.mark.parametrize(
    ("end", "answer"),
    [
        (ev.CallFinished(1.5, "b4", 5, 9), sent("a0")),
        (ev.CallCancelled(1.5, "b4"), sent("a0")),
        (ev.CallFailed(1.5, "b4", "reset", first_byte=True), [Reject("b4", 502, "upstream_reset"), *sent("a0")]),
        (ev.JobClosed(1.5, "b4", abort=True, reason="aborted"), [Abort("b4", "aborted"), *sent("a0")]),
    ],
)
def test_one_that_ends_before_it_was_taken_off_has_ended(end: ev.Event, answer: list[Command]) -> None:
    core = leaving()
    assert core.feed(end) == answer
    assert core.feed(ev.CallPreempted(1.6, "b4", 7)) == [], "this news came late"
    assert core.feed(*come(2.0, "b0")) == preempt("a4")


def test_one_that_fails_meanwhile_waits_again_and_may_be_displaced_again() -> None:
    core = leaving()
    assert core.feed(ev.CallFailed(1.5, "b4", "reset")) == sent("a0")
    assert core.feed(ev.CallFinished(2.0, "a4")) == sent("b4")
    assert core.feed(*come(3.0, "b0")) == preempt("b4")


def test_one_that_cannot_be_continued_and_has_begun_meanwhile_runs_on() -> None:
    """Its driver could not obey; another leaves instead."""
    core = bare()
    core.feed(*come(0.0, "a4"), *come(0.0, "b4", resumable=False))
    assert core.feed(*come(1.0, "a0")) == preempt("b4")
    assert core.feed(ev.CallStreamed(1.1, "b4", 1)) == preempt("a4")
    assert core.feed(ev.CallPreempted(1.2, "a4", 1), ev.CallFinished(2.0, "b4")) == sent("a0", "a4")


def test_one_that_cannot_be_taken_off_stays_and_is_not_asked_again() -> None:
    core = leaving()
    assert core.feed(ev.CallStreamed(1.2, "b4", 0)) == preempt("a4"), "another leaves instead"
    assert core.feed(*come(1.3, "b0")) == []
    assert core.scheduler.calls["b4"].tokens == 5


def test_who_waited_for_it_may_be_gone() -> None:
    core = leaving()
    core.feed(ev.CallCancelled(1.2, "a0"))
    assert core.feed(ev.CallPreempted(1.5, "b4", 5)) == sent("b4"), "it goes on at once"


def test_a_displaced_call_has_lost_no_attempt_and_is_charged_for_what_it_held() -> None:
    core = leaving()
    core.feed(ev.CallPreempted(2.0, "b4", 7))
    call = core.scheduler.calls["b4"]
    assert (call.attempts, call.preempted, call.kept_tokens, call.tokens) == (0, 1, 7, 7)
    core.feed(ev.CallFinished(5.0, "a0"), ev.CallFinished(8.0, "b4", 10, 9))
    job = core.scheduler.jobs["b4"]
    assert job.service_s == job.path_s == 2.0 + 3.0


def test_a_displaced_call_is_not_refused_for_waiting() -> None:
    core = bare(queue_timeout_s=3.0, slots=1)
    core.feed(*come(0.0, "a4"))
    core.feed(*come(1.0, "a0"))
    assert core.feed(ev.CallPreempted(1.0, "a4", 3), *come(1.5, "b4"))[0] == sent("a0")[0]
    assert [c for c in core.feed(ev.Tick(9.0)) if not isinstance(c, WakeAt)] == [
        Reject("b4", 503, "queue_timeout", 16.0)  # a slot has been held for 8 s, and two calls are ahead of one
    ]
    assert core.feed(ev.CallFinished(10.0, "a0")) == sent("a4")


# ---------------------------------------------------------------- classes that change


def test_a_waiting_call_whose_class_is_raised_displaces() -> None:
    core = bare(slots=1)
    core.feed(*come(0.0, "a3", "b4"))
    assert core.feed(ev.CallRevised(1.0, "b4", 0)) == preempt("a3")


def test_a_running_call_whose_class_is_raised_is_displaced_no_more() -> None:
    core = bare()
    core.feed(*come(0.0, "a3", "b4"), ev.CallRevised(0.5, "b4", 0))
    assert core.feed(*come(1.0, "a0")) == preempt("a3")


def test_a_job_that_becomes_more_urgent_takes_its_running_calls_along() -> None:
    core = bare(slots=3)
    core.feed(*come(0.0, "a3", "b4", "b4+"))
    assert core.feed(*come(1.0, "b4!", urgency=0)) == preempt("a3"), "b4 and b4+ are of class 0 now"


# ---------------------------------------------------------------- never


@pytest.mark.parametrize(
    "how",
    [
        {"preemption": None},
        {"observe": True},
        {"engines": [EngineSpec("e", ["m"], preempts=True)]},
    ],
)
def test_never(how: dict[str, Any]) -> None:
    core = bare(**how)
    core.feed(*begun(0.0, "a4", "b4"))
    assert not any(isinstance(command, Preempt) for command in core.feed(*come(1.0, "a0", "b0", "c0")))


def test_across_keys_needs_keys_that_tell_the_order() -> None:
    for policy in ("fair", "fair-jobs", "carbyne", "llmsched"):
        with pytest.raises(InputError, match=rf"'{policy}' gives turns, or picks"):
            build(SchedulerSpec([EngineSpec("e", ["m"])], (policy,), preemption=KEY))
        build(SchedulerSpec([EngineSpec("e", ["m"])], ("urgency", policy), preemption=CLASS))


def test_bad_settings_say_what_is_wrong() -> None:
    with pytest.raises(msgspec.ValidationError, match="`at_most`: 0; use 1 or more"):
        msgspec.convert({"at_most": 0}, PreemptionSpec)
    with pytest.raises(msgspec.ValidationError, match="Invalid enum value 'all'"):
        msgspec.convert({"across": "all"}, PreemptionSpec)


# ---------------------------------------------------------------- settings, policies that raise, snapshots


def spec(**more: Any) -> SchedulerSpec:
    base: dict[str, Any] = {
        "engines": [EngineSpec("e", ["m"])],
        "policy": ("urgency", "call-fcfs"),
        "job_idle_s": NEVER,
    }
    return SchedulerSpec(**{**base, **more})


def test_settings_turn_it_on_and_off() -> None:
    core = bare(preemption=None)
    core.feed(*begun(0.0, "a4", "b4"), *come(0.5, "a0"))
    assert core.feed(ev.SettingsChanged(1.0, spec(preemption=CLASS))) == preempt("b4")
    assert core.feed(ev.SettingsChanged(1.1, spec())) == []
    assert core.feed(*come(1.2, "b0"), ev.CallPreempted(1.3, "b4", 5)) == sent("a0"), "it was under way"
    assert core.feed(ev.SettingsChanged(2.0, spec(preemption=CLASS))) == preempt("a4")


def test_settings_change_while_a_call_is_leaving() -> None:
    core = leaving()
    assert core.feed(ev.SettingsChanged(1.1, spec(preemption=PreemptionSpec(at_most=1)))) == []
    assert core.feed(ev.CallPreempted(1.2, "b4", 5)) == sent("a0")


@pytest.mark.parametrize("when", ["key", "compare"])
def test_a_policy_that_raises_loses_no_call(when: str) -> None:
    class Moody:
        name: ClassVar[str] = "moody"
        scope: ClassVar[Scope] = Scope.CALL
        reads: ClassVar[frozenset[Fact]] = frozenset()
        bad = False

        def key(self, call: Call, view: View) -> tuple[Any, ...]:
            if self.bad and when == "key":
                raise RuntimeError("moody")
            return (f"{call.number}" if self.bad else call.number,)

    moody = Moody()
    core = bare("urgency", "moody", extra={"moody": moody})
    core.feed(*come(0.0, "a4", "b4", "c4"))
    moody.bad = True
    core.feed(ev.CallFinished(1.0, "a4"))
    core.feed(*come(1.5, "d4"))
    assert core.scheduler.policy_error
    assert core.feed(*come(2.0, "a0")) == [], "first come, first served: d4 would get the slot"
    assert core.drain(3.0) == ["d4", "a0"]


def test_a_snapshot_knows_who_is_leaving() -> None:
    core = leaving()
    again = build(core.scheduler.spec)
    restore(again, msgspec.json.decode(msgspec.json.encode(save(core.scheduler))))
    again.check()
    for event in (*come(1.1, "c4", "b0", "c0"), ev.CallPreempted(1.2, "b4", 5), ev.CallFinished(3.0, "a0")):
        assert encode(event, core.scheduler.handle(event)) == encode(event, again.handle(event))
    assert save(core.scheduler) == save(again)


SHORT = EngineSpec("e2", ["m2"], latency=Latency(q2=0.001), swap_s_per_token=0.0)


@pytest.mark.parametrize(
    ("policy", "preemption"),
    [(("urgency", "fcfs"), CLASS), (("las",), KEY), (("urgency:strict=0:within_s=1", "hocket"), CLASS)],
)
def test_an_incident_with_preemptions_replays(
    policy: tuple[str, ...], preemption: PreemptionSpec, tmp_path: Path
) -> None:
    """From each file of a rotated journal alone."""
    chosen = SchedulerSpec([EngineSpec("e1", ["m1"]), SHORT], policy, preemption=preemption, job_idle_s=2.0)
    scheduler, rng, at, asked = build(chosen), random.Random(1), 0.0, 0
    journal = JournalWriter(tmp_path / "j", chosen, max_bytes=60_000, keep=3)
    for number in range(1500):
        at += rng.expovariate(10)
        event = random_event(rng, scheduler, at, number)
        going = [call.id for call in scheduler.calls.values() if call.leaving]
        if isinstance(event, ev.CallArrived):
            event = msgspec.structs.replace(event, resumable=rng.random() < 0.7)
        elif going and rng.random() < 0.5:
            event = ev.CallPreempted(at, rng.choice(going), 5)
        commands = scheduler.handle(event)
        asked += sum(isinstance(command, Preempt) for command in commands)
        scheduler.check()
        journal.write(event, commands)
        if journal.full:
            journal.rotate(save(scheduler), chosen)
    journal.close()
    assert asked > 30
    files = sorted(tmp_path.iterdir())
    assert len(files) > 1
    for file in files:
        assert replay_journal(file) is None


# ---------------------------------------------------------------- speed


def test_a_scheduler_has_few_enough_attributes_to_find_them_fast() -> None:
    """From 30 on CPython gives an object a dictionary of its own, and each look-up takes a sixth longer."""
    assert len(vars(bare().scheduler)) < 30


def test_a_decision_looks_at_few_calls_however_many_there_are() -> None:
    """Keys made, and keys compared, for an urgent call that finds 200 slots taken and 5,000 calls waiting."""

    class Counted(float):
        compared = 0

        def __lt__(self, other: float) -> bool:
            Counted.compared += 1
            return float.__lt__(self, other)

    class Prompt:
        name: ClassVar[str] = "prompt"
        scope: ClassVar[Scope] = Scope.JOB
        reads: ClassVar[frozenset[Fact]] = frozenset({Fact.OUTSIDE})
        made = 0

        def key(self, call: Call, view: View) -> tuple[Any, ...]:
            Prompt.made += 1
            return (Counted(call.job.number % 97),)

    core = build(spec(policy=("urgency", "prompt"), preemption=CLASS), {"prompt": Prompt()})
    core.handle(ev.ReplicaAdded(0.0, "e", "r", 200))
    for number in range(5200):
        core.handle(ev.JobOpened(0.0, f"j{number}", "app", urgency=4))
        core.handle(ev.CallArrived(0.0, f"c{number}", f"j{number}", "s", "m", resumable=True))
    core.handle(ev.JobOpened(1.0, "urgent", "app", urgency=0))
    Prompt.made = Counted.compared = 0
    for number in range(100):
        commands = core.handle(ev.CallArrived(1.0, f"u{number}", "urgent", "s", "m"))
        assert isinstance(commands[0], Preempt)
        freed = core.handle(ev.CallPreempted(1.0, commands[0].call))
        assert freed == [Dispatch(f"u{number}", "e", "r")]
    assert Prompt.made <= 100 * 5
    assert Counted.compared <= 100 * 60


# ---------------------------------------------------------------- without preemption


def test_what_was_sent_and_has_not_begun_gives_way_to_more_urgent_calls() -> None:
    """No work is lost by it, so no setting is asked: the batch that an engine begins is made of the most urgent."""
    core = bare(preemption=None)
    assert core.feed(*come(0.0, "a4", "b3")) == sent("a4", "b3")
    assert core.feed(*come(1.0, "a0")) == preempt("a4")
    assert core.feed(*come(1.0, "b4")) == []
    assert core.feed(ev.CallPreempted(1.0, "a4")) == sent("a0")
    assert core.feed(*come(1.0, "a1")) == preempt("b3")
    assert core.feed(ev.CallPreempted(1.0, "b3")) == sent("a1")
    assert core.feed(*come(1.0, "b0"), ev.CallStarted(1.0, "a0")) == preempt("a1")


def test_what_has_begun_stays_without_preemption() -> None:
    core = bare(preemption=None)
    core.feed(*come(0.0, "a4", "b4"), ev.CallStarted(0.0, "a4"), ev.CallFinished(0.5, "b4"), *come(0.6, "c4"))
    assert core.feed(ev.CallStarted(0.6, "c4"), *come(1.0, "a0")) == []


def test_where_classes_say_nothing_what_was_sent_stays() -> None:
    core = bare("call-fcfs", preemption=None)
    core.feed(*come(0.0, "a4", "b4"))
    assert core.feed(*come(1.0, "a0")) == []


def test_a_restored_core_knows_what_has_not_begun() -> None:
    core = bare(preemption=None)
    core.feed(*come(0.0, "a4", "b4"), ev.CallStarted(0.0, "a4"))
    again = build(core.scheduler.spec)
    restore(again, msgspec.json.decode(msgspec.json.encode(save(core.scheduler))))
    assert again.handle(come(1.0, "a0")[0]) == preempt("b4")
