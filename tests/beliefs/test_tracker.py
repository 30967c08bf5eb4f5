"""What the core tells the beliefs, what they learn from jobs that close, and that a snapshot holds it all."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from hocket.assembly import build
from hocket.beliefs.profile import MOST_RECORDS
from hocket.beliefs.tracker import RECENT, Tracker
from hocket.core import events as ev
from hocket.core.commands import Command
from hocket.core.scheduler import Scheduler
from hocket.core.snapshot import restore, save
from hocket.core.spec import EngineSpec, SchedulerSpec
from hocket.errors import InputError
from hocket.sim.driver import FOREVER_S, Simulation
from hocket.sim.model import EngineModel
from hocket.sim.workloads import generate
from tests.beliefs.worlds import TOKEN, Live, chain, profile

SHORT, LONG = chain(("ask", 10, 11)), chain(("ask", 500, 11), ("work", 10, 201))


def tracker(live: Live) -> Tracker:
    assert isinstance(live.scheduler.beliefs, Tracker)
    return live.scheduler.beliefs


def test_the_job_that_is_expected_to_end_sooner_goes_first() -> None:
    live = Live(profiles={"app": profile([SHORT, LONG] * 50)})
    for job in ("first", "big", "small"):
        live.open(job)
    live.call("first", "ask")
    live.call("big", "ask", 500)
    live.call("small", "ask", 10)
    live.finish(live.order[0], 11)
    assert [call.split(".")[0] for call in live.order] == ["first", "small"]


def test_a_new_application_is_useful_after_ten_jobs() -> None:
    live = Live(window=10)
    for number in range(10):
        live.run(f"j{number}", [("ask", 500 + number, 11), ("work", 10, 201)] if number % 2 else [("ask", 10, 11)])
    live.open("long")
    live.call("long", "ask", 505)
    live.open("short")
    live.call("short", "ask", 10)
    assert live.remaining("long") > 3.0 * live.remaining("short")


def test_open_jobs_go_by_a_lesson_that_tells_much_more_than_theirs() -> None:
    """A thousand jobs of a new application came at once: what the first ones teach must not come too late for them."""
    live = Live()
    live.open("first")
    first = live.call("first", "ask", 10)
    for number in range(40):
        live.open(f"j{number}")
        live.call(f"j{number}", "ask", 10 if number % 2 else 500)
    live.finish(first, 11)
    live.close("first")
    done = 0
    while done < 30:
        call = live.order[-1]
        job = call.split(".")[0]
        live.at += 1.0
        if int(job[1:]) % 2 or ".work" in call:
            live.finish(call, 201 if ".work" in call else 11)
            live.close(job)
            done += 1
        else:
            live.call(job, "work")
            live.finish(call, 11)
    assert not any(int(job[1:]) % 2 for job in live.scheduler.jobs), "all short ones are done, and the long ones wait"


def test_a_job_that_was_cut_short_teaches_nothing() -> None:
    live = Live(window=10)
    live.open("j")
    live.finish(live.call("j", "ask"), 11)
    live.close("j", abort=True)
    assert not tracker(live)._apps["app"].records


def test_old_records_are_forgotten_when_the_application_changes() -> None:
    """A new version answers ten times as long: after a few dozen jobs the old ones no longer count."""
    live = Live(window=10, profiles={"app": profile([chain(("ask", 10, 101), ("work", 10, 101))] * 400)})
    for number in range(3 * RECENT):
        live.run(f"j{number}", [("ask", 10, 1001), ("work", 10, 1001)], asked=True)
    live.open("now")
    live.call("now", "ask")
    assert live.remaining("now") > 1500.0
    assert len(tracker(live)._apps["app"].records) < 4 * RECENT


def test_an_application_that_does_not_change_is_not_forgotten() -> None:
    rng = random.Random(1)
    live = Live(window=10)
    for number in range(200):
        answer = round(rng.lognormvariate(4, 1)) + 1
        live.run(f"j{number}", [("ask", 10, answer)] * rng.randrange(1, 6), asked=True)
    assert len(tracker(live)._apps["app"].records) == 200


def test_a_profile_is_of_so_many_records() -> None:
    live = Live(profiles={"app": profile([SHORT] * (MOST_RECORDS + 88))})
    assert tracker(live)._apps["app"].lesson.samples.rows == MOST_RECORDS


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not a profile"),
        ("{}", "not a profile"),
        (profile([SHORT]).replace('"v":1', '"v":9'), "version 9"),
        (profile([LONG]).replace("[0]", "[7]"), "must name earlier steps"),
        (profile([LONG]).replace("500", "-500"), "0 or more"),
    ],
)
def test_what_is_no_profile_is_refused(text: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        Live(profiles={"app": text})


def test_without_an_ordering_that_asks_nothing_is_believed() -> None:
    live = Live("las", profiles={"app": profile([SHORT])})
    live.open("j")
    assert live.scheduler.beliefs is None
    assert live.scheduler.jobs["j"].belief is None


def test_beliefs_that_raise_cost_the_order_not_the_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    live = Live()
    live.open("a")
    first, second = live.call("a", "ask"), live.call("a", "ask")
    monkeypatch.setattr(Tracker, "finished", lambda *_: 1 / 0)
    live.finish(first, 5)
    assert live.scheduler.policy_error == "ZeroDivisionError: division by zero"
    live.finish(second, 5)
    live.open("b")
    assert live.order == [first, second]


def test_jobs_that_were_open_before_the_policy_asked_are_believed_in_from_now_on() -> None:
    live = Live("las")
    live.open("a")
    first = live.call("a", "ask")
    spec = msgspec.structs.replace(live.scheduler.spec, policy=("hocket",))
    live.tell(ev.SettingsChanged(live.at, spec))
    second = live.call("a", "ask")
    live.finish(first, 5)
    live.finish(second, 5)
    live.close("a")
    assert live.scheduler.policy_error is None
    assert live.order == [first, second]


def test_engines_with_another_pace_are_believed_in_anew() -> None:
    live = Live(profiles={"app": profile([SHORT] * 100)})
    live.open("a")
    live.call("a", "ask")
    before = live.remaining("a")
    engines = [EngineSpec("e", ["m"], latency=msgspec.structs.replace(TOKEN, d0=10.0))]
    live.tell(ev.SettingsChanged(live.at, msgspec.structs.replace(live.scheduler.spec, engines=engines)))
    assert live.remaining("a") == pytest.approx(10.0 * before, rel=0.01)


def through_json(scheduler: Scheduler) -> Any:
    return msgspec.json.decode(msgspec.json.encode(save(scheduler)))


def test_a_restored_scheduler_believes_the_same() -> None:
    """Half of a simulated day of jobs, a snapshot through JSON, and the other half: the same commands."""
    engine = EngineModel(name="e", models=["small", "large", "medium"], max_concurrency=4, latency=TOKEN)
    spec = SchedulerSpec([EngineSpec("e", engine.models, latency=TOKEN)], policy=("hocket",), job_idle_s=FOREVER_S)
    told: list[tuple[ev.Event, list[Command]]] = []
    jobs = [msgspec.structs.replace(job, arrival_s=job.arrival_s) for job in generate("mixed", 60, 0.02, 3)]
    Simulation(jobs, [engine], build(spec), observe=lambda event, commands: told.append((event, commands))).run()
    half, first, second = len(told) // 2, build(spec), build(spec)
    for event, _ in told[:half]:
        first.handle(event)
    restore(second, through_json(first))
    assert any(job.waiting for job in second.jobs.values())
    assert through_json(second) == through_json(first)
    for event, commands in told[half:]:
        assert second.handle(event) == commands
    second.check()
