"""`carbyne`: slots that a job can do without go to the job that is nearest to its end."""

from __future__ import annotations

from typing import Any, ClassVar

from hocket.core.ordering import Fact, Index, Scope, View
from hocket.core.rng import Rng
from hocket.core.state import Call, Job
from hocket.policies.informed import belief_of
from hocket.policies.orderings import Key


class Carbyne:
    """Altruistic: a job lends its share as long as it can still end when an equal sharing would have ended it.

    A job whose slack is used up goes first; of several the one that would have ended first. Else the slot is leftover,
    and goes to the job with the least expected remaining work. (Grandl et al., Altruistic Scheduling in Multi-Resource
    Clusters, OSDI 2016.) Looks at each waiting job once a decision.
    """

    name: ClassVar[str] = "carbyne"
    scope: ClassVar[Scope] = Scope.JOB
    reads: ClassVar[frozenset[Fact]] = frozenset({Fact.FAIR, Fact.BELIEF})

    def key(self, call: Call, view: View) -> Key:
        """Expected engine seconds that are left of the job: the order in which leftover slots are given."""
        return (belief_of(call.job).remaining_s,)

    def pick(self, index: Index, view: View, rng: Rng) -> Call:
        """A call of a job that has lent all it could, if there is one; else of the one that is nearest to its end."""
        slots = view.slots
        due = [job for job in index.jobs() if slack_s(job, view, slots) <= 0.0]
        if not due:
            return index.first()
        entitled = min(due, key=lambda job: (job.fair_finish, job.number))
        return min(index.calls(entitled), key=lambda call: call.number)

    def save(self) -> Any:
        """Nothing is kept between picks."""

    def restore(self, saved: Any) -> None:
        """Nothing is kept between picks."""


def slack_s(job: Job, view: View, slots: int) -> float:
    """Seconds that the job may still wait and end when an equal sharing would have ended it, if nobody came or left."""
    assert job.fair_finish is not None
    return view.fair.until(job.fair_finish) / slots - belief_of(job).path_s
