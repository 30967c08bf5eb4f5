"""What can be told to beliefs and go wrong: they raise, numbers are absurd, jobs are huge. No call is lost for it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from hocket.assembly import build
from hocket.beliefs import samples as samples_module
from hocket.beliefs.belief import JobBelief
from hocket.beliefs.samples import Samples
from hocket.beliefs.tracker import Tracker
from hocket.core import events as ev
from hocket.core.scheduler import Scheduler
from hocket.core.snapshot import restore, save
from hocket.core.spec import EngineSpec, SchedulerSpec
from tests.beliefs.networks import variable
from tests.beliefs.test_posterior import Told, bound, two_stages
from tests.beliefs.worlds import TOKEN, Live, chain, pace


def broken(*_: Any, **__: Any) -> Any:
    raise ZeroDivisionError("broken")


def resettle(live: Live) -> None:
    live.tell(ev.SettingsChanged(live.at, msgspec.structs.replace(live.scheduler.spec, job_idle_s=99.0)))


HAPPENINGS: dict[str, Callable[[Live], object]] = {
    "arrives": lambda live: live.call("a", "ask"),
    "finishes": lambda live: live.finish("a.ask1", 5),
    "is cancelled as it waits": lambda live: live.tell(ev.CallCancelled(live.at, "a.ask2")),
    "is cancelled as it runs": lambda live: live.tell(ev.CallCancelled(live.at, "a.ask1")),
    "waits again": lambda live: live.tell(ev.CallPreempted(live.at, "a.ask1")),
    "is of a job that closes": lambda live: live.close("a", abort=True),
    "meets new settings": resettle,
}


@pytest.mark.parametrize("policy", ["hocket", "justitia", "llmsched"])
@pytest.mark.parametrize("what", HAPPENINGS)
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *((Tracker, name) for name in ("arrived", "finished", "lost", "closed", "served")),
        *((JobBelief, name) for name in ("_work_out", "began", "finished", "lost")),
    ],
)
def test_whatever_raises_and_whenever_each_call_is_dispatched(
    monkeypatch: pytest.MonkeyPatch, kind: type, name: str, what: str, policy: str
) -> None:
    live = Live(policy)
    live.open("a")
    live.open("b")
    for job in "aabb":
        live.call(job, "ask")
    monkeypatch.setattr(kind, name, broken)
    HAPPENINGS[what](live)
    live.scheduler.check()
    for _ in range(9):
        running = [call for call in live.scheduler.calls.values() if call.replica is not None]
        assert bool(running) == bool(live.scheduler.calls)
        for call in running:
            live.finish(call.id, 5)
        live.scheduler.check()
    assert not live.scheduler.calls
    assert live.scheduler.policy_error in (None, "ZeroDivisionError: broken")


def test_a_call_that_arrives_at_a_free_slot_as_beliefs_break_is_dispatched_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    live = Live(window=2)
    live.open("a")
    monkeypatch.setattr(Tracker, "arrived", broken)
    call = live.call("a", "ask")
    live.scheduler.check()
    live.finish(call, 5)
    assert live.order == [call]


def test_facts_that_are_no_numbers_are_no_facts() -> None:
    live = Live(window=99)
    for number in range(40):
        live.run(f"j{number}", [("ask", 10 * number + 1, 10 * number + 1)])
    live.open("odd", features={"nan": math.nan, "huge": math.inf, "fine": 1.0})
    live.call("odd", "ask")
    assert math.isfinite(live.remaining("odd"))
    live.close("odd")
    assert live.scheduler.policy_error is None


@pytest.mark.parametrize(("prompt", "output"), [(-5, -5), (10**30, 10**30)])
def test_what_an_engine_says_is_believed_within_reason(prompt: int, output: int) -> None:
    live = Live("justitia", window=99)
    for number in range(20):
        live.open(f"j{number}")
        live.finish(live.call(f"j{number}", "ask", number), output if number % 2 else number, prompt)
        live.close(f"j{number}")
    live.open("a")
    live.finish(live.call("a", "ask"), output, prompt)
    belief = live.scheduler.jobs["a"].belief
    assert belief is not None and 0.0 <= belief.attained_s < math.inf
    assert live.scheduler.policy_error is None
    assert live.scheduler.fair.now >= 0.0


def test_of_a_job_that_got_no_answer_nothing_is_learned() -> None:
    """While all engines are down, jobs end soon. That does not make them small."""
    live = Live(window=99)
    live.run("good", [("ask", 10, 11)])
    for number in range(30):
        live.open(f"j{number}")
        live.tell(ev.CallCancelled(live.at, live.call(f"j{number}", "ask")))
        live.close(f"j{number}")
    assert isinstance(live.scheduler.beliefs, Tracker)
    assert [job[1] for job in live.scheduler.beliefs.report()] == [1]


def test_stages_with_ever_new_names_cost_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    records = [chain(*[(f"{job} {step}", 10, 11) for step in range(5)]) for job in range(20)]
    whole = Samples(records, pace)
    monkeypatch.setattr(samples_module, "MOST_COLUMNS", 30)
    monkeypatch.setattr(samples_module, "MOST_ENDED", 3)
    some = Samples(records, pace)
    assert whole.work.shape == (100, 20) and some.work.shape == (30, 20)
    assert some.visible.shape == (3, 20)
    assert some.total.tolist() == whole.total.tolist() == [50.0] * 20
    assert some.column("5 4", 0) is not None and some.column("6 0", 0) is None


def test_the_prompt_that_counts_does_not_depend_on_when_somebody_looked() -> None:
    """It is estimated at first, then its engine has counted: a restored job is looked at once, at the end."""
    size = variable("prompt_tokens", [10.0, 100.0], [0.5, 0.5, 0.0], fact="feature", stage="")
    size.name = "feature prompt_tokens"
    network = bound(size, *two_stages())
    early, late = Told(network), Told(network)
    for told in (early, late):
        call = told.begin("write", prompt=10)
        if told is early:
            assert told.posterior.evidence[0] == (0, 0)
        told.record.steps[call].prompt_tokens = 100
        told.end(call, 11)
    assert early.posterior.evidence == late.posterior.evidence
    assert late.posterior.evidence[0] == (1, 1)


# ---------------------------------------------------------------- choosers


class Explorer(Live):
    """`llmsched` that always explores, in a composition."""

    def __init__(self, *policy: str) -> None:
        super().__init__(*policy, window=1)
        parameters = {"llmsched": {"epsilon": 1.0, "sample": 0.01}}
        self.spec = SchedulerSpec([EngineSpec("e", ["m"], latency=TOKEN)], policy=policy, parameters=parameters)
        self.scheduler = build(self.spec)
        self.order.clear()
        self.tell(ev.ReplicaAdded(0.0, "e", "r", 2))

    def arrive(self, call: str, job: str, stage: str, urgency: int | None = None) -> None:
        self.tell(ev.CallArrived(self.at, call, job, stage, "m", 10, urgency=urgency))

    def twin(self) -> Scheduler:
        """The same, after a restart."""
        twin = build(self.spec)
        restore(twin, msgspec.json.decode(msgspec.json.encode(save(self.scheduler))))
        return twin


def test_a_call_that_waits_again_is_seen_by_a_chooser() -> None:
    """Both stages of `two` tell as much; the first by name is explored, also after it was in a slot."""
    live = Explorer("llmsched")
    for job in ("one", "two"):
        live.open(job)
    live.arrive("filler", "one", "x")
    live.arrive("two.a", "two", "a")
    live.arrive("two.b", "two", "b")
    live.arrive("one.x", "one", "x")
    live.finish("filler", 5)
    assert live.order[-1] == "one.x"
    event, twin = ev.CallPreempted(live.at, "two.a"), live.twin()
    live.tell(event)
    twin.handle(event)
    assert live.order[-1] == "two.a"
    assert live.scheduler.calls["two.a"].state == twin.calls["two.a"].state


def test_a_restarted_chooser_sees_a_job_of_two_classes_as_before() -> None:
    live = Explorer("urgency", "llmsched")
    for job in ("one", "two", "three"):
        live.open(job)
    live.arrive("filler", "one", "x", 0)
    live.arrive("filler2", "one", "x", 0)
    live.arrive("three.a", "three", "a", 3)
    live.arrive("three.b", "three", "b", 1)
    live.arrive("two.c", "two", "c", 3)
    live.arrive("one.d", "one", "d", 1)
    live.finish("filler", 5)
    assert live.order[-1] == "one.d"
    twin = live.twin()
    for done in ("filler2", "one.d", "three.b", "two.c", "three.a"):
        if done in live.scheduler.calls and live.scheduler.calls[done].replica is not None:
            event = ev.CallFinished(live.at, done, 10, 5)
            assert live.scheduler.handle(event) == twin.handle(event)


def test_a_class_keeps_its_place_when_the_call_that_it_began_with_leaves_it() -> None:
    """Every node is keyed anew when a batch has doubled."""
    live = Live("urgency", "llmsched")
    for job in ("one", "two", "three", "four"):
        live.open(job)
    live.call("one", "x")
    for call, job, urgency in (("first", "two", 1), ("second", "four", 1), ("third", "three", 2)):
        live.tell(ev.CallArrived(live.at, call, job, "x", "m", urgency=urgency))
    live.tell(ev.CallRevised(live.at, "first", urgency=4))
    live.scheduler.engines["e"].queue.touch_all()
    live.finish("one.x1", 5)
    assert live.order[-1] == "second"
