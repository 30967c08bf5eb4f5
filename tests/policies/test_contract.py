"""Every ordering of the catalog keeps the contract; orderings that break a clause are caught by it."""

from __future__ import annotations

from itertools import count
from typing import Any, ClassVar

import pytest

from hocket.core.ordering import Fact, Index, Ordering, Scope, View
from hocket.core.rng import Rng
from hocket.core.state import Call
from hocket.policies import ORDERINGS
from hocket.policies.fair_share import FairApps, FairShare
from tests.policies import contract


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("clause", contract.CLAUSES, ids=lambda clause: clause.__name__)
@pytest.mark.parametrize("name", ORDERINGS)
def test_the_catalog_keeps_the_contract(name: str, clause: Any, seed: int) -> None:
    clause(ORDERINGS[name], seed)


@pytest.mark.parametrize("clause", contract.CLAUSES, ids=lambda clause: clause.__name__)
def test_the_second_level_of_fair_share_keeps_the_contract(clause: Any) -> None:
    clause(lambda: FairApps(FairShare()), 0)


class Broken:
    """The base of orderings that each break one clause."""

    name: ClassVar[str] = "broken"
    scope: ClassVar[Scope] = Scope.CALL
    reads: ClassVar[frozenset[Fact]] = frozenset()

    def key(self, call: Call, view: View) -> tuple[Any, ...]:
        raise NotImplementedError


class NotComparable(Broken):
    def key(self, call: Call, view: View) -> tuple[Any, ...]:
        return (float("nan"),)


class WrongScope(Broken):
    scope = Scope.JOB

    def key(self, call: Call, view: View) -> tuple[Any, ...]:
        return (call.number,)


class Unread(Broken):
    """Its key moves with a fact that it does not declare."""

    scope = Scope.JOB

    def key(self, call: Call, view: View) -> tuple[Any, ...]:
        return (call.job.service_s,)


class WrongEntity(Broken):
    """Reads a fact about the tenant under a key of the job, which the core does not touch then."""

    scope = Scope.JOB
    reads = frozenset({Fact.RUNNING})

    def key(self, call: Call, view: View) -> tuple[Any, ...]:
        return (call.job.tenant.last_served,)


class OfTheClock(Broken):
    def key(self, call: Call, view: View) -> tuple[Any, ...]:
        return (call.arrived_at % 4096.0 if call.arrived_at < 4096.0 else -call.arrived_at,)


_counter = count()


class Remembers(Broken):
    def key(self, call: Call, view: View) -> tuple[Any, ...]:
        return (next(_counter) * 7919 % 101,)


class Meddles(Broken):
    def key(self, call: Call, view: View) -> tuple[Any, ...]:
        call.job.service_s += 1.0
        return (call.number,)


class OldService(Broken):
    """Reads a fact of the job under a key of the call, which is not moved then."""

    reads = frozenset({Fact.SERVICE})

    def key(self, call: Call, view: View) -> tuple[Any, ...]:
        return (call.job.service_s,)


class Chooses(Broken):
    """The base of choosers that break a clause."""

    scope = Scope.JOB

    def key(self, call: Call, view: View) -> tuple[Any, ...]:
        return (call.job.number,)

    def save(self) -> Any:
        return None

    def restore(self, saved: Any) -> None:
        pass


class LastCome(Chooses):
    """Its picks hang on the order in which jobs came to wait."""

    def pick(self, index: Index, view: View, rng: Rng) -> Call:
        job = list(index.jobs())[-1]
        return min(index.calls(job), key=lambda call: call.number)


class TakesTurns(Chooses):
    """Its picks hang on how many there were, which it does not save."""

    def __init__(self) -> None:
        self.picks = 0

    def pick(self, index: Index, view: View, rng: Rng) -> Call:
        self.picks += 1
        jobs = sorted(index.jobs(), key=lambda job: job.number)
        return min(index.calls(jobs[self.picks % len(jobs)]), key=lambda call: call.number)


@pytest.mark.parametrize(
    ("ordering", "clause"),
    [
        (NotComparable, contract.total_order),
        (WrongScope, contract.one_key_a_scope),
        (Remembers, contract.independent_of_candidate_order),
        (Unread, contract.true_to_what_it_reads),
        (Unread, contract.moves_only_with_what_it_reads),
        (WrongEntity, contract.true_to_what_it_reads),
        (OldService, contract.true_to_what_it_reads),
        (LastCome, contract.independent_of_candidate_order),
        (TakesTurns, contract.goes_on_after_a_snapshot),
        (OfTheClock, contract.time_shift_invariant),
        (Remembers, contract.same_twice),
        (Meddles, contract.view_unchanged),
    ],
)
def test_the_contract_bites(ordering: type[Ordering], clause: Any) -> None:
    with pytest.raises(AssertionError):
        clause(ordering, 0)


def test_the_whole_contract_is_one_function() -> None:
    contract.check_contract(ORDERINGS["fcfs"])
    with pytest.raises(AssertionError):
        contract.check_contract(Unread)
