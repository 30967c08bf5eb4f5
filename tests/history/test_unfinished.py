"""Jobs of a process that died: they go on under the next, as if it had never been away; so does their row."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hocket.assembly import build
from hocket.core import events as ev
from hocket.core.commands import Dispatch
from hocket.core.scheduler import Scheduler
from hocket.core.spec import EngineSpec, SchedulerSpec
from hocket.history import writer as writer_module
from hocket.history.read import named
from hocket.history.recorder import HistoryRecorder
from hocket.history.store import Store
from hocket.history.traces import Recorded, to_jobs
from hocket.history.unfinished import Unfinished

SPEC = SchedulerSpec([EngineSpec("e", ["m"])], policy=("hocket",))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "GATHER_S", 0.01)


class Process:
    """A core and its history, of which `die` leaves what a killed process leaves."""

    def __init__(self, url: str) -> None:
        self.recorder = HistoryRecorder(Store(url))
        self.unfinished = self.recorder.unfinished(300.0)
        self.recorder.start()
        self.core: Scheduler = build(SPEC)
        self.began = time.monotonic()
        self.tell(ev.ReplicaAdded(self.began, "e", "r", 1))

    def tell(self, *events: ev.Event) -> None:
        for event in events:
            self.recorder.seen(event, self.core.handle(event))

    def call(self, name: str, job: str, stage: str, after_s: float, lasts_s: float | None) -> None:
        at = self.began + after_s
        self.tell(ev.CallArrived(at, name, job, stage, "m", 10), ev.CallStarted(at, name))
        if lasts_s is not None:
            self.tell(ev.CallFinished(at + lasts_s, name, 12, 34))

    def resume(self, job: str, age_s: float) -> Unfinished:
        """As the gateway does it when a client names the job."""
        one = self.unfinished.pop(job)
        past = one.past(one.job.arrived_at + age_s)
        self.tell(ev.JobOpened(self.began, job, one.job.app, one.job.tenant, one.job.urgency, past=past))
        return one

    def flush(self) -> None:
        soon(lambda: not self.recorder.writer._inbox and not self.recorder.writer.waiting)
        time.sleep(0.05)

    def die(self) -> None:
        """Without a word of farewell."""
        self.flush()
        self.recorder.writer._ledger._calls.clear()
        self.recorder.writer._ledger._jobs.clear()
        self.recorder.writer._store.write = lambda *_: None  # type: ignore[method-assign]
        self.recorder.stop()


def soon(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.005)


def found(url: str, job: str) -> list[Recorded]:
    with Store(url, reading=True).connect() as connection:
        return named(connection, job)


def first_life(url: str) -> None:
    """A job of two stages, a tool run that ended and one that did not; its third call is cut."""
    process = Process(url)
    assert process.unfinished == {}
    at = process.began
    process.tell(ev.JobOpened(at, "j", "research", urgency=1, features={"words": 3.0}))
    process.call("c1", "j", "plan", 0.0, 2.0)
    process.tell(ev.ToolStarted(at + 2.5, "j", "t1", "fetch"), ev.ToolFinished(at + 3.5, "j", "t1"))
    process.tell(ev.ToolStarted(at + 3.5, "j", "t2", "fetch"))
    process.call("c2", "j", "search", 4.0, 3.0)
    process.call("c3", "j", "answer", 7.5, None)
    process.tell(ev.JobOpened(at + 8, "done", "research"), ev.JobClosed(at + 8, "done"))
    process.die()


def test_a_job_goes_on_with_its_age_its_service_its_belief_and_its_row(url: str) -> None:
    first_life(url)
    (before,) = found(url, "j")
    second = Process(url)
    assert set(second.unfinished) == {"j"}
    one = second.resume("j", age_s=20.0)
    job = second.core.jobs["j"]
    assert (job.service_s, job.path_s) == pytest.approx((5.0, 5.0), abs=1e-3)
    assert second.began - job.arrived_at == pytest.approx(20.0, abs=1e-6)
    assert job.number < 0 and (job.app.name, job.urgency) == ("research", 1)
    assert [tool.run for tool in one.tools] == ["t2"]
    told = job.belief.told  # type: ignore[union-attr]
    assert [fact[1] for fact in told if len(fact) == 6] == ["plan", "fetch", "search", "answer"]
    assert [fact[2:] for fact in told if len(fact) == 4] == [(34, 0.0), (0, pytest.approx(1.0)), (34, 0.0)]
    assert job.belief is not None and job.belief.attained_s > 0
    second.call("d1", "j", "answer", 1.0, 2.0)
    second.tell(ev.JobClosed(second.began + 3.0, "j"))
    second.recorder.stop()
    (after,) = found(url, "j")
    assert (after.job.id, after.job.state) == (before.job.id, "closed") and after.job.run != before.job.run
    assert [(c.n, c.stage, c.outcome) for c in after.calls] == [
        (0, "plan", "finished"),
        (3, "search", "finished"),
        (4, "answer", "interrupted"),
        (5, "answer", "finished"),
    ]
    assert [(t.n, t.outcome) for t in after.tools] == [(1, "finished"), (2, "interrupted")]
    assert (after.job.calls, after.job.tool_runs) == (4, 2)
    assert after.calls[-1].arrived_s == pytest.approx(21.0, abs=1e-3) and after.job.ended_s == pytest.approx(
        23.0, abs=1e-3
    )
    assert list(to_jobs([after])) == [], "nothing is learned of a job that was cut"


def test_after_an_orderly_end_as_well_and_again_and_again(url: str) -> None:
    for n in range(3):
        process = Process(url)
        if n:
            process.resume("j", age_s=10.0 * n)
        else:
            process.tell(ev.JobOpened(process.began, "j", "app"))
        process.call(f"c{n}", "j", f"s{n}", 0.0, 1.0)
        process.flush()
        process.recorder.stop()
    (after,) = found(url, "j")
    assert [(c.n, c.stage) for c in after.calls] == [(0, "s0"), (1, "s1"), (2, "s2")]
    assert after.job.state == "interrupted" and after.job.calls == 3


def test_what_was_silent_for_too_long_or_belongs_to_a_living_process(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first does not go on. The second does, but has its row from its own process still: it gets another."""
    first = Process(url)
    first.tell(ev.JobOpened(first.began, "j", "app"))
    first.call("c1", "j", "s", 0.0, 1.0)
    first.flush()
    second = HistoryRecorder(Store(url))
    assert second.unfinished(silent_s=-10.0) == {}
    monkeypatch.setattr("hocket.history.unfinished.is_dead", lambda run, own: False)
    process = Process(url)
    process.resume("j", age_s=5.0)
    process.call("c2", "j", "s2", 0.0, 1.0)
    process.tell(ev.JobClosed(process.began + 1, "j"))
    process.flush()
    process.recorder.stop()
    first.tell(ev.JobClosed(first.began + 2, "j"))
    first.recorder.stop()
    rows = sorted(found(url, "j"), key=lambda one: one.calls[0].n)
    assert [[c.n for c in one.calls] for one in rows] == [[0], [1]] and len({one.job.id for one in rows}) == 2
    assert [job.job for job in to_jobs(rows)] == ["j"], "a part of a job is no job to learn from"


def test_las_and_fcfs_know_their_place_again() -> None:
    """The older job first by arrival, and the one with less service by that, whoever names it first after a restart."""
    for policy, expected in (("fcfs", ["old", "new", "later"]), ("las", ["later", "new", "old"])):
        core = build(SchedulerSpec([EngineSpec("e", ["m"])], policy=(policy,)))
        core.handle(ev.JobOpened(0.0, "new", "app", past=ev.Past(-1, 10.0, 5.0)))
        core.handle(ev.JobOpened(0.0, "later", "app"))
        core.handle(ev.JobOpened(0.0, "old", "app", past=ev.Past(-2, 20.0, 50.0)))
        for job in core.jobs:
            core.handle(ev.CallArrived(0.0, job, job, "s", "m"))
        out = core.handle(ev.ReplicaAdded(0.0, "e", "r", 3))
        assert [command.call for command in out if isinstance(command, Dispatch)] == expected
        core.check()


def test_a_tenants_job_goes_on_for_that_tenant_alone(url: str) -> None:
    first = HistoryRecorder(Store(url), prefixed=True)
    first.start()
    for tenant in ("ann", "bob"):
        first.seen(ev.JobOpened(time.monotonic(), f"{tenant}/j", "app", tenant), [])
    soon(lambda: not first.writer._inbox and not first.writer.waiting)
    first.stop()
    again = HistoryRecorder(Store(url), prefixed=True).unfinished(300.0)
    assert {key: one.job.tenant for key, one in again.items()} == {"ann/j": "ann", "bob/j": "bob"}
    assert HistoryRecorder(Store(url)).unfinished(300.0) == {}, "no tenants are set: whoever comes is none of them"


def test_a_history_that_is_away_keeps_nobody_from_starting(tmp_path: Path) -> None:
    (tmp_path / "history.db").write_text("this is no database, and much too short for one")
    recorder = HistoryRecorder(Store(str(tmp_path / "history.db")))
    assert recorder.unfinished(300.0) == {} and recorder.called_before("x", 600.0, "call-") is None


def test_of_two_processes_that_go_on_with_a_job_neither_writes_over_the_other(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first died. The second runs when the third starts to take over from it, and a client reaches both."""
    first_life(url)
    second = Process(url)
    second.flush()
    monkeypatch.setattr("hocket.history.unfinished.is_dead", lambda run, own: run.id != second.recorder.writer.run.id)
    third = Process(url)
    for process, name in ((second, "second"), (third, "third")):
        process.resume("j", age_s=20.0)
        process.call(name, "j", name, 0.5, 1.0)
        process.flush()
        process.recorder.stop()
    calls = [call for one in found(url, "j") for call in one.calls]
    assert sorted(call.call for call in calls) == ["c1", "c2", "c3", "second", "third"]
    assert [call.outcome for call in calls if call.call == "c3"] == ["interrupted"]
    fourth = HistoryRecorder(Store(url))
    (whole,) = fourth.unfinished(300.0).values()
    assert [step.stage for step in whole.steps if step.model] == ["plan", "search", "answer", "second", "third"]
    assert whole.service_s == pytest.approx(7.0, abs=1e-3)
    fifth = Process(url)
    fifth.resume("j", age_s=30.0)
    fifth.tell(ev.JobClosed(fifth.began + 31.0, "j"))
    fifth.recorder.stop()
    assert HistoryRecorder(Store(url)).unfinished(300.0) == {}, "it has ended, whatever became of its other rows"


def test_keys_are_not_looked_up_in_a_database_that_is_known_to_be_away(tmp_path: Path) -> None:
    """Each look would wait for its connection, in one of a few threads: calls go on without."""
    recorder = HistoryRecorder(Store(str(tmp_path / "history.db")))
    looks: list[int] = []
    recorder._store.reader = lambda: looks.append(1) or Store(str(tmp_path / "history.db"))  # type: ignore[method-assign, func-returns-value]
    assert recorder.called_before("x", 600.0, "call-") is None and len(looks) == 1
    recorder.writer.trouble = "no connection"
    assert recorder.called_before("x", 600.0, "call-") is None and len(looks) == 1
