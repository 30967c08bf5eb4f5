"""Every routing of the catalog keeps the contract; routings that break a clause are caught; what `affinity` does."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from hocket.core.commands import Dispatch
from hocket.core.events import CallArrived, CallFailed, CallFinished, JobClosed, JobOpened, ReplicaRemoved
from hocket.core.routing import HOLDERS, PREFIXES, Affinity, LeastLoaded, _load
from hocket.core.state import Call, Replica
from hocket.policies import ROUTINGS
from tests.core.bare import Bare
from tests.policies import routing_contract as contract

Make = Callable[..., Bare]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("clause", contract.CLAUSES, ids=lambda clause: clause.__name__)
@pytest.mark.parametrize("name", ROUTINGS)
def test_the_catalog_keeps_the_contract(name: str, clause: Any, seed: int) -> None:
    clause(ROUTINGS[name], seed)


class FirstListed(LeastLoaded):
    """The first with room, however full."""

    def pick(self, call: Call) -> Replica:
        return min(self._open, key=lambda replica: replica.index)


class Stubborn(LeastLoaded):
    """Remembers who served the job, and goes there whatever it holds."""

    def pick(self, call: Call) -> Replica:
        return call.job.places.setdefault("e", super().pick(call))


class Insistent(LeastLoaded):
    """Does not care who failed a call."""

    def pick(self, call: Call) -> Replica:
        first = self._open.first()
        assert first is not None
        return first


class Dice(LeastLoaded):
    def pick(self, call: Call) -> Replica:
        return random.choice(sorted(self._open, key=_load))


class Forgets(Affinity):
    """Saves nothing."""

    def save(self) -> Any:
        return []


class Scans(LeastLoaded):
    def __init__(self) -> None:
        super().__init__()
        self._all: list[Replica] = []

    def changed(self, replica: Replica) -> None:
        super().changed(replica)
        if replica not in self._all:
            self._all.append(replica)

    def pick(self, call: Call) -> Replica:
        return min((replica for replica in self._all if replica.free), key=_load)


@pytest.mark.parametrize(
    ("routing", "clause"),
    [
        (Stubborn, contract.picks_what_has_room),
        (Insistent, contract.a_retry_goes_elsewhere),
        (FirstListed, contract.nobody_starves),
        (Dice, contract.same_twice),
        (Forgets, contract.survives_a_snapshot),
        (Scans, contract.costs_no_more_with_many_replicas),
    ],
)
def test_the_contract_bites(routing: type[LeastLoaded], clause: Any) -> None:
    def on_three_stories() -> None:
        for seed in range(3):
            clause(routing, seed)

    with pytest.raises(AssertionError):
        on_three_stories()


def test_the_whole_contract_is_one_function() -> None:
    contract.check_contract(LeastLoaded)
    with pytest.raises(AssertionError):
        contract.check_contract(Stubborn)


# ---------------------------------------------------------------- affinity


WINDOWS = {"p": 8, "q": 8, "r": 8}


def near(core: Make, **more: Any) -> Bare:
    return core("call-fcfs", routing="affinity", windows=more.pop("windows", WINDOWS), **more)


def to(bare: Bare, call: str, prefix: str | None = None, at: float = 1.0) -> str:
    """Where a call of the job that is its first letter goes."""
    (sent,) = bare.feed(CallArrived(at, call, call[0], "s", "m", 10, prefix=prefix))
    assert isinstance(sent, Dispatch)
    return sent.replica


def test_a_jobs_next_call_goes_where_its_last_one_was(core: Make) -> None:
    bare = near(core)
    assert [to(bare, "a1"), to(bare, "b1"), to(bare, "c1")] == ["p", "q", "r"]
    bare.feed(*(CallFinished(2.0, call) for call in ("a1", "b1", "c1")))
    assert [to(bare, "c2"), to(bare, "b2"), to(bare, "a2")] == ["r", "q", "p"]


def test_a_new_job_goes_where_its_prefix_is(core: Make) -> None:
    bare = near(core)
    assert to(bare, "a1") == "p" and to(bare, "b1", "agent") == "q"
    assert to(bare, "c1", "agent") == "q", "one call more than the least loaded is within the slack"


def test_its_own_conversation_comes_before_the_prefix(core: Make) -> None:
    bare = near(core)
    assert to(bare, "a1") == "p" and to(bare, "b1", "agent") == "q"
    bare.feed(CallFinished(2.0, "a1"), CallFinished(2.0, "b1"))
    assert to(bare, "a2", "agent") == "p"


def test_a_hot_prefix_spreads_before_it_burdens_one_replica(core: Make) -> None:
    """A window of 8 and a slack of a quarter: at most two calls more than the least loaded, then the next replica."""
    bare = near(core, jobs="abcdefghijkl")
    for job in "abcdefghijkl":
        to(bare, f"{job}1", "agent")
        inflight = [replica.inflight for replica in bare.scheduler.engines["e"].replicas.values()]
        assert max(inflight) - min(inflight) <= 3
    assert min(inflight) >= 3


def test_it_does_not_wait_for_a_replica_that_is_full(core: Make) -> None:
    bare = near(core, windows={"p": 1, "q": 1})
    assert to(bare, "a1", "agent") == "p"
    assert to(bare, "a2", "agent") == "q"


def test_it_leaves_a_replica_that_failed_or_went(core: Make) -> None:
    bare = near(core)
    assert to(bare, "a1", "agent") == "p"
    (again,) = (c for c in bare.feed(CallFailed(2.0, "a1", "reset")) if isinstance(c, Dispatch))
    assert again.replica != "p"
    bare.feed(ReplicaRemoved(3.0, "e", again.replica))
    assert to(bare, "a2", "agent", at=4.0) != again.replica


def test_what_is_remembered_is_bounded(core: Make) -> None:
    """Prefixes come from clients, who may send any number; jobs are forgotten with their end."""
    bare = near(core, windows={f"r{i}": 2 for i in range(2 * HOLDERS)})
    s = bare.scheduler
    for number in range(PREFIXES + 50):
        s.handle(JobOpened(1.0, f"j{number}", "app"))
        s.handle(CallArrived(1.0, f"c{number}", f"j{number}", "s", "m", 10, prefix=f"p{number % (PREFIXES + 20)}"))
        s.handle(JobClosed(1.0, f"j{number}"))
        s.handle(CallFinished(1.0, f"c{number}"))
    routing = s.engines["e"].routing
    assert isinstance(routing, Affinity)
    assert len(routing._prefixes) == PREFIXES
    for number in range(4 * HOLDERS):
        s.handle(CallArrived(2.0, f"d{number}", "a", "s", "m", 10, prefix="hot"))
    assert len(routing._prefixes["hot"]) == HOLDERS
