"""What the ledger makes of events and commands."""

from __future__ import annotations

from itertools import count

import msgspec

from hocket.assembly import build
from hocket.core import events as ev
from hocket.core.commands import Abort, Dispatch, Reject
from hocket.core.spec import EngineSpec, SchedulerSpec
from hocket.history.records import CallRecord, JobRecord, Ledger, Record, ToolRecord, is_open


class Kept:
    """A ledger and what it said."""

    def __init__(self, *, prefixed: bool = False) -> None:
        self.began: list[Record] = []
        self.ended: list[Record] = []
        self.ledger = Ledger(7, count(100), self.began.append, self.ended.append, offset=1000.0, prefixed=prefixed)
        self.scheduler = build(SchedulerSpec([EngineSpec("small", ["small"])]))

    def tell(self, *events: ev.Event) -> None:
        """Through a real core, so that the commands are real ones."""
        for event in events:
            self.ledger.seen(event, self.scheduler.handle(event))

    def replica(self, window: int = 1) -> None:
        self.tell(ev.ReplicaAdded(0.0, "small", "small/0", window))

    @property
    def calls(self) -> dict[str, CallRecord]:
        return {record.call: record for record in self.ended if isinstance(record, CallRecord)}

    @property
    def jobs(self) -> dict[str, JobRecord]:
        return {record.job: record for record in self.ended if isinstance(record, JobRecord)}


def test_a_job_of_two_calls_and_a_tool_run_is_told_in_full() -> None:
    kept = Kept(prefixed=True)
    kept.replica()
    kept.tell(
        ev.JobOpened(10.0, "a/j1", "research", "a", 1, 60.0, {"words": 3.0}),
        ev.JobOpened(10.0, "b/j1", "research", "b"),
        ev.CallArrived(10.0, "c0", "b/j1", "x", "small"),
        ev.CallArrived(10.0, "c1", "a/j1", "plan", "small", 20, 64, parent="start", hint_output_tokens=9),
        ev.CallStarted(10.0, "c0"),
        ev.CallFinished(10.5, "c0", 1, 1),
        ev.CallStarted(10.5, "c1"),
        ev.CallStreamed(10.75, "c1"),
        ev.CallStreamed(11.0, "c1", 5),
        ev.CallFinished(11.5, "c1", 22, 8),
        ev.ToolStarted(12.0, "a/j1", "r1", "search", "plan"),
        ev.ToolFinished(13.0, "a/j1", "r1"),
        ev.CallArrived(13.0, "c2", "a/j1", "answer", "small", 30, urgency=3, retry=1),
        ev.CallStarted(13.0, "c2"),
        ev.CallFinished(14.0, "c2", 30, 10),
        ev.JobClosed(20.0, "a/j1"),
    )
    job = kept.jobs["j1"]
    assert (job.tenant, job.app, job.urgency, job.deadline_s, job.run) == ("a", "research", 1, 60.0, 7)
    assert job.arrived_at == 1010.0
    assert msgspec.json.decode(job.features) == {"words": 3.0}
    assert (job.state, job.ended_s) == ("closed", 4.0), "the completion time ends with the last stage"
    assert (job.calls, job.tool_runs, job.prompt_tokens, job.output_tokens, job.wait_s) == (2, 1, 52, 18, 0.5)
    first, second = kept.calls["c1"], kept.calls["c2"]
    assert first == CallRecord(
        job.id, 0, "c1", "plan", "small", 1, "start", 64, 9, 22, 0.0, 8,
        "small", "small/0", 1, 0.5, 0.5, 0.75, 1.5, "finished", "", 0, 0,
    )  # fmt: skip
    assert (second.n, second.urgency, second.retry, second.first_token_s) == (2, 3, 1, None)
    (tool,) = (record for record in kept.ended if isinstance(record, ToolRecord))
    assert tool == ToolRecord(job.id, 1, "r1", "search", "plan", 2.0, 3.0, "finished")
    assert len({id(record) for record in kept.began}) == len(kept.began) == 7 - 1
    assert [record for record in kept.began if is_open(record)] == [kept.began[1]], "b/j1 is open"


def test_each_way_a_call_can_end_has_its_outcome() -> None:
    kept = Kept()
    kept.replica(window=2)
    kept.tell(
        ev.JobOpened(0.0, "j", "app"),
        ev.CallArrived(0.0, "gone", "j", "s", "small"),
        ev.CallArrived(0.0, "retried", "j", "s", "small"),
        ev.CallStarted(0.0, "retried"),
        ev.CallCancelled(1.0, "gone"),
        ev.CallFailed(1.0, "retried", "reset"),
        ev.CallStarted(1.5, "retried"),
        ev.CallFinished(2.0, "retried", 5, 5),
        ev.CallArrived(2.0, "unknown", "j", "s", "none"),
        ev.CallArrived(2.0, "refused", "j", "s", "small"),
        ev.CallFailed(2.5, "refused", "status", 400),
        ev.CallArrived(3.0, "killed", "j", "s", "small"),
        ev.ToolStarted(3.0, "j", "r", "slow"),
        ev.JobClosed(4.0, "j", abort=True, reason="aborted"),
    )
    found = {name: (call.outcome, call.status, call.reason, call.attempts) for name, call in kept.calls.items()}
    assert found == {
        "gone": ("cancelled", 0, "", 1),
        "retried": ("finished", 0, "reset", 2),
        "unknown": ("rejected", 404, "unknown_model", 0),
        "refused": ("rejected", 400, "upstream_status", 1),
        "killed": ("aborted", 0, "aborted", 1),
    }
    retried = kept.calls["retried"]
    assert (retried.dispatched_s, retried.started_s) == (0.0, 1.5), "the first dispatch, the last start"
    assert kept.jobs["j"].state == "aborted"
    assert [record.outcome for record in kept.ended if isinstance(record, ToolRecord)] == ["unfinished"]
    assert isinstance(kept.ended[-1], JobRecord), "a job ends after all that is in it"


def test_a_job_that_is_closed_ends_with_its_last_call() -> None:
    kept = Kept()
    kept.replica()
    kept.tell(ev.JobOpened(0.0, "j", "app"), ev.CallArrived(0.0, "c", "j", "s", "small"), ev.JobClosed(0.0, "j"))
    assert not kept.ended
    assert all(is_open(record) for record in kept.began)
    kept.tell(ev.CallFinished(3.0, "c", 1, 1))
    assert (kept.jobs["j"].state, kept.jobs["j"].ended_s) == ("closed", 3.0)


def test_what_is_open_at_the_end_is_interrupted_and_finished_work_stays_finished() -> None:
    kept = Kept()
    kept.replica()
    kept.tell(
        ev.JobOpened(0.0, "j", "app"),
        ev.CallArrived(0.0, "done", "j", "s", "small"),
        ev.CallFinished(1.0, "done", 1, 1),
        ev.CallArrived(1.0, "running", "j", "s", "small"),
        ev.CallArrived(1.0, "queued", "j", "s", "small"),
        ev.ToolStarted(1.0, "j", "r", "t"),
    )
    kept.ledger.interrupt(2.0)
    assert {name: call.outcome for name, call in kept.calls.items()} == {
        "done": "finished", "running": "interrupted", "queued": "interrupted"
    }  # fmt: skip
    assert kept.jobs["j"].state == "interrupted"
    kept.ledger.interrupt(3.0)
    assert len(kept.ended) == 5, "nothing is told twice"


def test_a_job_is_recorded_in_the_class_that_it_came_to_have() -> None:
    kept = Kept()
    kept.replica()
    kept.tell(
        ev.JobOpened(0.0, "read", "app"),
        ev.CallArrived(0.0, "a", "read", "s", "small"),
        ev.CallRevised(0.0, "a", 3),
        ev.CallArrived(1.0, "b", "read", "s", "small"),
        ev.JobOpened(1.0, "said", "app"),
        ev.CallArrived(1.0, "c", "said", "s", "small", urgency=1),
        ev.CallArrived(1.0, "d", "said", "s", "small", urgency=4),
        ev.CallArrived(1.0, "e", "said", "s", "small"),
    )
    kept.ledger.interrupt(2.0)
    assert {name: job.urgency for name, job in kept.jobs.items()} == {"read": 3, "said": 1}
    assert {name: call.urgency for name, call in kept.calls.items()} == {"a": 3, "b": 3, "c": 1, "d": 4, "e": 1}


def test_news_of_what_it_has_not_seen_begin_is_passed_over() -> None:
    kept = Kept()
    for event in (
        ev.CallArrived(0.0, "c", "nobody", "s", "m"),
        ev.CallStarted(0.0, "c"),
        ev.CallStreamed(0.0, "c"),
        ev.CallFinished(0.0, "c"),
        ev.CallFailed(0.0, "c", "reset"),
        ev.CallRevised(0.0, "c", 1),
        ev.ToolFinished(0.0, "nobody", "r"),
        ev.JobClosed(0.0, "nobody"),
    ):
        kept.ledger.seen(event, [Dispatch("c", "e", "r"), Reject("c", 500, "x"), Abort("c", "x")])
    assert kept.began == kept.ended == []


def test_without_tenants_a_slash_belongs_to_the_clients_id() -> None:
    kept = Kept(prefixed=False)
    kept.tell(ev.JobOpened(0.0, "default/x", "app", "default"), ev.JobClosed(1.0, "default/x"))
    assert list(kept.jobs) == ["default/x"]
