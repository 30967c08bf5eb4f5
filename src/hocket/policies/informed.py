"""The orderings that read what is believed of a job's rest. One small object each, as in `orderings`.

Beliefs come from profiles and from the jobs that closed; for an application without either they go by the job's age,
so that these orderings then work like `las`.
"""

from __future__ import annotations

from typing import ClassVar

from hocket.core.belief import Belief
from hocket.core.ordering import Fact, Scope, View
from hocket.core.state import Call, Job
from hocket.policies.orderings import Key

BELIEF: frozenset[Fact] = frozenset({Fact.BELIEF})
WEIGHED: frozenset[Fact] = frozenset({Fact.BELIEF, Fact.CLASS})


def belief_of(job: Job) -> Belief:
    """What is believed of its rest. Each job has a belief while an ordering reads Fact.BELIEF."""
    assert job.belief is not None
    return job.belief


class Srtf:
    """The job with the least expected remaining work first: shortest remaining time by the posterior's mean.

    With true sizes it would be optimal for the mean on one server (Schrage, Operations Research 16, 1968); LLMSched
    (arXiv 2504.03444) exploits by it.
    """

    name: ClassVar[str] = "srtf"
    scope: ClassVar[Scope] = Scope.JOB
    reads: ClassVar[frozenset[Fact]] = WEIGHED

    def key(self, call: Call, view: View) -> Key:
        """Expected engine seconds that are left of the job, over the weight of its class (Smith's rule)."""
        return (belief_of(call.job).remaining_s / view.weight(call.job),)


class Gittins:
    """The job with the smallest Gittins rank first: what pays most per second invested, were it dropped at will.

    Optimal for the mean on one server where sizes are known by their distributions only (Gittins, 1979; Scully and
    Harchol-Balter, SOAP, 2018). Hermes (arXiv 2506.14851) orders LLM applications by it.
    """

    name: ClassVar[str] = "gittins"
    scope: ClassVar[Scope] = Scope.JOB
    reads: ClassVar[frozenset[Fact]] = WEIGHED

    def key(self, call: Call, view: View) -> Key:
        """The rank, in engine seconds: least over quanta q of E[min(left, q)] / P(left <= q); over the job's weight."""
        return (belief_of(call.job).gittins_s / view.weight(call.job),)


class Justitia:
    """The job that an equal sharing of all slots would be done with first goes first, with all the slots it can use.

    Fair queuing by virtual time over jobs, their sizes as believed at the first call (Justitia, arXiv 2510.17015).
    """

    name: ClassVar[str] = "justitia"
    scope: ClassVar[Scope] = Scope.JOB
    reads: ClassVar[frozenset[Fact]] = frozenset({Fact.FAIR, Fact.BELIEF})

    def key(self, call: Call, view: View) -> Key:
        """Its virtual finish under an equal sharing; settled by its first call, whatever is learned later."""
        return (call.job.fair_finish,)


class Argus:
    """The call of the stage whose end lets the most of its job begin first: what is deep, and what fans out.

    Made to keep slots busy on a cluster that has some to spare (Argus, IPDPS 2021). Where all are taken it sends first
    who has the most ahead, the opposite of `srtf`.
    """

    name: ClassVar[str] = "argus"
    scope: ClassVar[Scope] = Scope.CALL
    reads: ClassVar[frozenset[Fact]] = BELIEF

    def key(self, call: Call, view: View) -> Key:
        """The stage's influence, largest first; then the call's arrival number."""
        return (-belief_of(call.job).influence(call.stage), call.number)
