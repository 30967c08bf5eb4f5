"""`fair-share`: whose turn it is, by what each tenant has had of all engines. docs/concepts/fairness.md tells more."""

from __future__ import annotations

from collections.abc import Sequence
from math import log2
from typing import ClassVar

from hocket.core.ordering import Fact, Ordering, Scope, View
from hocket.core.shares import Share
from hocket.core.state import Call
from hocket.policies.orderings import Key

SHARE: frozenset[Fact] = frozenset({Fact.SHARE})
UNITS = 1 << 20
"of a key, in a doubling: what differs by less is equal"


class FairShare:
    """The tenant with the least dominant share of the engines first, over its weight; near ties go by what follows.

    Dominant resource fairness (Ghodsi et al., NSDI 2011), the engines being the resources, over a fading past: so that
    nobody is owed for long (memoryless, as dominant resource fair queueing: Ghodsi et al., SIGCOMM 2012).
    """

    name: ClassVar[str] = "fair-share"
    scope: ClassVar[Scope] = Scope.TENANT
    reads: ClassVar[frozenset[Fact]] = SHARE

    def __init__(self, tolerance: float = 0.02, half_life_s: float = 30.0, applications: float = 1) -> None:
        """`tolerance`: how much more than the least a tenant may have had and still go first with a better job, as a
        part of it, 0 (nothing) or more. `half_life_s`: seconds in which what was used counts half. `applications`: 1 if
        those of one tenant share its part equally, 0 if its jobs go by what follows. Raises ValueError.
        """
        if not 0.0 <= tolerance <= 1e6:
            raise ValueError(f"tolerance: {tolerance}; use 0 (shares decide) or more (0.02: two percent more is a tie)")
        if not 1e-3 <= half_life_s <= 1e9:
            raise ValueError(f"half_life_s: {half_life_s}; use seconds, 0.001 to 1e9")
        if applications not in (0, 1):
            raise ValueError(f"applications: {applications}; use 1 (each has a share of its tenant's) or 0")
        self.tolerance = tolerance
        self.half_life_s = half_life_s
        self._slack = round(log2(1.0 + tolerance) * UNITS)
        #: orderings of a finer scope that come with this one
        self.within: Sequence[Ordering] = [FairApps(self)] if applications else []

    def key(self, call: Call, view: View) -> Key:
        """The level of the tenant's dominant share."""
        share = _share_of(call)
        while share.tenant is None and share.parent is not None:
            share = share.parent
        return (round(share.level * UNITS),)

    def lends(self, least: Key, other: Key) -> bool:
        """Whether both have had nearly the same."""
        return bool(other[0] - least[0] <= self._slack)


class FairApps:
    """The second level of `fair-share`: the application of a tenant that has had the least of the tenant's."""

    name: ClassVar[str] = "fair-share"
    scope: ClassVar[Scope] = Scope.TENANT_APP
    reads: ClassVar[frozenset[Fact]] = SHARE

    def __init__(self, tenants: FairShare) -> None:
        self.tolerance = tenants.tolerance
        self.half_life_s = tenants.half_life_s
        self.lends = tenants.lends

    def key(self, call: Call, view: View) -> Key:
        """The level of the application's dominant share inside its tenant."""
        return (round(_share_of(call).level * UNITS),)


def _share_of(call: Call) -> Share:
    """What its slots are charged to. Each job has a share while an ordering reads Fact.SHARE."""
    assert call.job.share is not None
    return call.job.share
