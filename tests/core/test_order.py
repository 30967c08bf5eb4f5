"""Which call is next: each policy, and what moves a key while calls wait."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hocket.core.events import CallFinished, CallRevised, CallStreamed, JobClosed, JobOpened, ReplicaAdded
from hocket.core.spec import EngineSpec, TenantSpec
from tests.core.bare import Bare, arrive, sent

Make = Callable[..., Bare]


def test_a_free_slot_is_used_at_once(core: Make) -> None:
    """Nobody else is there: the call must not wait for anything."""
    assert core().feed(*arrive(1.0, "a1")) == sent("a1")


def test_a_full_replica_lets_calls_wait_and_the_end_of_one_sends_the_next(core: Make) -> None:
    """Late binding: the choice is made when the slot frees, not when the call comes."""
    bare = core()
    assert bare.feed(*arrive(1.0, "a1", "b1")) == sent("a1")
    assert bare.scheduler.engines["e"].queued == 1
    assert bare.feed(CallFinished(2.0, "a1")) == sent("b1")


@pytest.mark.parametrize(
    ("policy", "order"),
    [
        # arrivals: a1 (takes the slot), c1, b1, c2, a2; b1 and c2 are emergencies, and so c1 is one when c2 is there
        ("fcfs", ["a2", "b1", "c1", "c2"]),
        ("call-fcfs", ["c1", "b1", "c2", "a2"]),
        ("urgency", ["b1", "c1", "c2", "a2"]),
        ("fair", ["a2", "b1", "c1", "c2"]),
        ("las", ["b1", "c1", "c2", "a2"]),
        ("sjf", ["a2", "b1", "c1", "c2"]),
        ("default", ["b1", "c1", "c2", "a2"]),  # inside a class, of which nothing is known goes by arrival
    ],
)
def test_each_policy_on_the_same_queue(core: Make, policy: str, order: list[str]) -> None:
    """One slot, three jobs, one tenant. Each policy differs where it should: `las` sends a2 last, as a was served."""
    bare = core(policy)
    bare.feed(*arrive(1.0, "a1", "c1"), *arrive(1.0, "b1", "c2", urgency=0), *arrive(1.0, "a2"))
    assert bare.feed(CallFinished(2.0, "a1")) == sent(order[0])
    assert bare.drain(2.0) == order[1:]


def test_las_counts_what_a_running_call_has_used_when_it_streams(core: Make) -> None:
    """A long call runs beside: its job's next call must not count as new until it ends."""
    bare = core("las", windows={"r": 2})
    bare.feed(*arrive(0.0, "a1"), *arrive(5.0, "b1"), *arrive(5.0, "a2"), *arrive(5.0, "b2"))
    bare.feed(CallStreamed(9.0, "a1", 100))
    # a has 10 s by now, b only 5 s, though a's one call has not ended
    assert bare.feed(CallFinished(10.0, "b1")) == sent("b2")


def test_las_wants_progress_and_fcfs_does_not(core: Make) -> None:
    """A driver may spare itself 4 events a second for each stream where no policy asks."""
    assert core("las").scheduler.wants_progress
    assert core("urgency", "las").scheduler.wants_progress
    assert not core("fcfs").scheduler.wants_progress


def test_sjf_learns_when_a_job_closes_and_moves_the_calls_that_wait(core: Make) -> None:
    """Two applications are unknown; then one proves to be small, the other big, while calls of both wait."""
    bare = core("sjf", windows={"r": 2}, jobs="abcd", apps={"a": "big", "b": "small", "c": "big", "d": "small"})
    bare.feed(*arrive(0.0, "a1", "b1", "c1", "d1"))
    # closing before the calls end: the jobs are forgotten, and their size learned, when these do
    assert bare.feed(JobClosed(0.0, "a"), JobClosed(0.0, "b")) == []
    # small is known (1 s), big is not and counts as 0: c1 goes first, which is how big becomes known
    assert bare.feed(CallFinished(1.0, "b1")) == sent("c1")
    assert bare.feed(CallFinished(8.0, "a1")) == sent("d1")
    assert {app.name: app.mean_service_s for app in bare.scheduler.apps.values()} == {"big": 8.0, "small": 1.0}


def test_fair_gives_slots_by_weight_over_all_tenants(core: Make) -> None:
    """A team that pays for twice the share holds twice the slots while both have work."""
    owners = {"a": "gold", "b": "basic", "c": "basic"}
    bare = core("fair", windows={"r": 3}, owners=owners, tenants=[TenantSpec("gold", 2.0)])
    bare.feed(*arrive(0.0, "c1", "c2", "c3", "c4", "a1", "a2", "a3", "b1"))
    assert bare.feed(*(CallFinished(1.0, f"c{i}") for i in (1, 2, 3))) == sent("a1", "a2", "b1")
    assert {t.name: t.running for t in bare.scheduler.tenants.values()} == {"gold": 2, "basic": 1, "default": 0}


def test_a_call_that_becomes_an_emergency_overtakes(core: Make) -> None:
    """The classifier of texts answers late: the call waits already, and moves to its class."""
    bare = core("urgency", "fcfs")
    bare.feed(*arrive(0.0, "a1", "b1", "c1"))
    assert bare.feed(CallRevised(1.0, "c1", urgency=0)) == []
    assert bare.feed(CallFinished(2.0, "a1")) == sent("c1")


def test_a_revision_of_a_running_call_counts_when_it_is_retried(core: Make) -> None:
    """It cannot overtake where it is; but if its replica dies it queues as what it has become."""
    bare = core("urgency", "fcfs")
    bare.feed(*arrive(0.0, "b1", "a1"), CallRevised(0.5, "b1", urgency=4))
    assert bare.scheduler.calls["b1"].urgency == 4
    assert bare.feed(CallRevised(0.5, "nobody", urgency=0)) == []


def test_features_of_a_revision_do_not_write_into_the_event_that_opened_the_job(core: Make) -> None:
    """Events are facts: the journal, the trace or a second scheduler may still read them."""
    bare = core(jobs="")
    opened = JobOpened(0.0, "a", "app", features={"x": 1.0})
    bare.feed(opened, *arrive(0.0, "a1"), CallRevised(1.0, "a1", features={"y": 2.0}))
    assert bare.scheduler.jobs["a"].features == {"x": 1.0, "y": 2.0}
    assert opened.features == {"x": 1.0}


def test_a_class_empties_and_fills_again(core: Make) -> None:
    """Emergencies come and go; the class's place in the queue must not be stale when the next one comes."""
    bare = core("urgency", "las")
    bare.feed(*arrive(0.0, "a1", "b1"), *arrive(0.0, "c1", urgency=0))
    assert bare.feed(CallFinished(1.0, "a1")) == sent("c1")
    bare.feed(*arrive(1.0, "d1", urgency=0))
    assert bare.feed(CallFinished(2.0, "c1")) == sent("d1")
    assert bare.feed(CallFinished(3.0, "d1")) == sent("b1")


def test_a_job_waits_on_two_engines_and_both_queues_hear_of_its_service(core: Make) -> None:
    """A job fans out to a small and a large model; what it uses on one counts on the other."""
    bare = core("las", engines=[EngineSpec("e", ["m"]), EngineSpec("big", ["n"])])
    bare.feed(ReplicaAdded(0.0, "big", "q", 1), *arrive(0.0, "b1", "a1"), *arrive(0.0, "c1", "b2", "d1", model="n"))
    # b waits on both; it has used nothing until b1 ends
    bare.feed(CallFinished(4.0, "b1"))
    assert bare.feed(CallFinished(5.0, "c1")) == sent("d1", to="q", engine="big")
