"""How much of the engines each tenant has had of late, and each of its applications: what `fair-share` orders by.

A tenant's share of an engine is the part of its slots that its calls hold, averaged over the past with a half-life; its
**dominant share** is the largest of these, over its weight (dominant resource fairness: Ghodsi et al., NSDI 2011).
Because what was used fades, nobody owes or is owed for longer than a few half-lives.

All shares fade alike, so their order stands still while nobody uses anything. It is kept as a **level**: the binary
logarithm of the share, plus the time in half-lives. A level only ever rises, and only where slots were held; so a key
made of it is right until its own tenant's calls have held slots for longer, and nothing must be touched as time passes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import expm1, inf, log, log2
from typing import TYPE_CHECKING, Any

from hocket.core.ordering import Fact, Ordering, Scope, Sharing

if TYPE_CHECKING:
    from hocket.core.state import Engine, Job, Tenant

NOTHING = -64.0
"log2 of the share of somebody new: small, but with a logarithm"
ROUNDED = 1e-9
"a sum of weights that went up and down is nothing below this"
_LN2 = log(2.0)


@dataclass(slots=True, eq=False, repr=False)
class Share:
    """What a tenant has of the engines, or one of its applications; at the root: what all have."""

    name: str
    number: int
    "unique among tenants, or among applications of tenants: of the job that brought it"
    weight: float
    parent: Share | None
    level: float
    "of its dominant share, over its weight"
    floor: float
    "the level to which it was lifted last: what it has had of any engine counts for no less"
    tenant: Tenant | None = None
    "whose it is; None: of an application, or the root"
    calls: int = 0
    "that are open"
    jobs: int = 0
    "that are open; counted for applications"
    on: dict[str, Hold] = field(default_factory=dict)
    "engine -> what it has of it"
    below: dict[str, Share] = field(default_factory=dict)
    "the tenants of the root, the applications of a tenant"
    busy: float = 0.0
    "weights of those below that have open calls"
    served: dict[str, float] = field(default_factory=dict)
    "engine -> the highest level at which it has taken a call of one below"


@dataclass(slots=True, eq=False, repr=False)
class Hold:
    """What a share has had of one engine."""

    share: Share
    engine: Engine | None
    "None only after a restart, of an engine that the settings no longer name"
    level: float
    calls: int = 0
    "in slots"
    at: float = 0.0
    "until when they have been counted"


class Shares:
    """The tree of shares: tenants, and where an ordering asks for them, their applications. O(1) an event."""

    __slots__ = ("_slack", "due", "half_life_s", "of_apps", "root", "wanted")

    def __init__(self) -> None:
        #: whether an ordering reads them: else no job that opens is given one
        self.wanted = False
        #: seconds in which what was used counts half
        self.half_life_s = 1.0
        #: whether applications have shares of their own, inside their tenant's
        self.of_apps = False
        self._slack = 0.0
        self.root = Share("", 0, 1.0, None, 0.0, 0.0)
        #: who holds slots, the one that was counted the longest ago first; with applications, they alone
        self.due: OrderedDict[Hold, None] = OrderedDict()

    def use(self, orderings: Sequence[Ordering]) -> None:
        """Keep what these read. If that is something else than before, the tree is empty then."""
        sharing, wanted = sharing_of(orderings), self.wanted
        self.wanted = sharing is not None
        if sharing is None:
            return
        self._slack = log2(1.0 + sharing.tolerance)
        before = self.half_life_s, self.of_apps
        self.half_life_s = sharing.half_life_s
        self.of_apps = any(ordering.scope is Scope.TENANT_APP for ordering in orderings)
        if not wanted or before != (self.half_life_s, self.of_apps):
            self.clear()

    def clear(self) -> None:
        """Nobody has had anything."""
        self.root = Share("", 0, 1.0, None, 0.0, 0.0)
        self.due.clear()

    def of(self, job: Job, now: float) -> Share:
        """The share that a job is charged to."""
        tenant, app = job.tenant, job.app
        share = self.root.below.get(tenant.name)
        if share is None:
            share = self._new(tenant.name, tenant.number, tenant.weight, self.root, now)
            share.tenant = tenant
        if not self.of_apps:
            return share
        return share.below.get(app.name) or self._new(app.name, job.number, 1.0, share, now)

    def _new(self, name: str, number: int, weight: float, parent: Share, now: float) -> Share:
        level = NOTHING + now / self.half_life_s
        share = parent.below[name] = Share(name, number, weight, parent, level, level)
        return share

    def opened(self, share: Share) -> Iterator[Share]:
        """A job of it is open. Yields who was alone so far, and so was not ordered anew each time that it should be."""
        share.jobs += 1
        while share.parent is not None:
            if len(share.parent.below) == 2:
                yield from share.parent.below.values()
            share = share.parent

    def closed(self, share: Share) -> None:
        """A job of it is over. An application without one is forgotten: clients may send any number of names."""
        share.jobs -= 1
        if share.tenant is None and not share.jobs:
            assert share.parent is not None
            del share.parent.below[share.name]

    def weigh(self, share: Share, weight: float) -> None:
        """Its weight is another from now on: what it has had is as much, and counts for more or less."""
        if weight == share.weight:
            return
        assert share.parent is not None
        if share.calls:
            share.parent.busy += weight - share.weight
        shift = log2(share.weight / weight)
        share.weight = weight
        share.level += shift
        share.floor += shift
        for hold in share.on.values():
            hold.level += shift

    # ---------------------------------------------------------------- calls

    def came(self, share: Share, engine: Engine, now: float) -> None:
        """A call of it is open, for `engine`."""
        while share.parent is not None:
            share.calls += 1
            if share.calls == 1:
                self._join(share, share.parent, engine, now)
            share = share.parent

    def went(self, share: Share) -> None:
        """A call of it, in no slot, is open no longer."""
        while share.parent is not None:
            share.calls -= 1
            parent = share.parent
            if not share.calls:
                busy = parent.busy - share.weight
                parent.busy = busy if busy > ROUNDED else 0.0
            share = parent

    def _join(self, share: Share, parent: Share, engine: Engine, now: float) -> None:
        """It was idle, and is not now: it has no credit for that beyond the tolerance.

        It is taken for one that has had as much as those whose calls the engine took, but for no more than an equal
        share of all who are there: one of them may have had an engine to itself that nobody else wants.
        """
        alone = not parent.busy
        parent.busy += share.weight
        if alone:
            return
        whole = now / self.half_life_s if parent.parent is None else parent.level + log2(parent.weight)
        lift = min(parent.served.get(engine.name, -inf), whole - log2(parent.busy)) - self._slack
        if lift > share.level:
            share.level = share.floor = lift

    def take(self, share: Share, engine: Engine, now: float) -> None:
        """A call of it gets a slot of `engine`."""
        while share.parent is not None:
            served = share.parent.served
            if served.get(engine.name, -inf) < share.level:
                served[engine.name] = share.level
            hold = share.on.get(engine.name)
            if hold is None:
                hold = share.on[engine.name] = Hold(share, engine, share.floor)
            self._count(hold, now)
            hold.engine = engine  # the settings may have dropped it and named it again
            hold.calls += 1
            if not share.below:
                self.due[hold] = None
            share = share.parent

    def give(self, share: Share, engine: Engine, now: float) -> None:
        """A call of it leaves its slot."""
        while share.parent is not None:
            hold = share.on[engine.name]
            self._count(hold, now)
            hold.calls -= 1
            if not hold.calls:
                self.due.pop(hold, None)
            share = share.parent

    def moved(self, share: Share, now: float) -> Iterator[Share]:
        """Who is to be ordered anew after a call of `share` took a slot or left it, where some compete.

        Itself, and as their slots count by the second, whoever was counted the longest ago: so nobody's share is older
        than as many events as there are holders.
        """
        hold = next(iter(self.due), None)
        if hold is not None:
            self.due.move_to_end(hold)
            assert hold.engine is not None, "slots of no engine"
            yield from self._counted(hold.share, hold.engine.name, now)
        while share.parent is not None:
            if len(share.parent.below) > 1:
                yield share
            share = share.parent

    def _counted(self, share: Share, engine: str, now: float) -> Iterator[Share]:
        """Count it, and what it is a part of; yields those that compete."""
        while share.parent is not None:
            self._count(share.on[engine], now)
            if len(share.parent.below) > 1:
                yield share
            share = share.parent

    def _count(self, hold: Hold, now: float) -> None:
        """Add the slot time of a holder up to now. O(1)."""
        passed = (now - hold.at) / self.half_life_s
        hold.at = now
        if not hold.calls or passed <= 0.0:
            return
        assert hold.engine is not None, "slots of no engine"
        slots, share = hold.engine.slots, hold.share
        if not slots:  # its replicas rest: nobody else could have had them
            return
        part = min(hold.calls / slots, 1.0) / share.weight
        gained = log2(-part * expm1(-passed * _LN2)) + now / self.half_life_s
        hold.level = _sum(max(hold.level, share.floor), gained)
        share.level = max(share.level, hold.level)

    # ---------------------------------------------------------------- what one may ask

    def dominant(self, share: Share, now: float) -> float:
        """Its dominant share over its weight, up to now, 0 to 1 / weight. Changes nothing."""
        seen = replace(share)
        for hold in share.on.values():
            self._count(replace(hold, share=seen), now)
        return float(2.0 ** (seen.level - now / self.half_life_s))

    # ---------------------------------------------------------------- a snapshot

    def save(self) -> Any:
        """As JSON-able data."""
        due = [[path_of(hold.share), hold.engine.name] for hold in self.due if hold.engine is not None]
        return {"half_life_s": self.half_life_s, "of_apps": self.of_apps, "root": _plain(self.root), "due": due}

    def restore(self, saved: Any, tenants: dict[str, Tenant], engines: dict[str, Engine]) -> None:
        """What `save` gave."""
        self.half_life_s, self.of_apps = saved["half_life_s"], saved["of_apps"]
        self.root = _share(saved["root"], None, engines)
        for share in self.root.below.values():
            share.tenant = tenants[share.name]
        for path, engine in saved["due"]:
            self.due[self.at(path).on[engine]] = None

    def at(self, path: Sequence[str]) -> Share:
        """The share of this tenant, or of an application of it."""
        share = self.root
        for name in path:
            share = share.below[name]
        return share


def sharing_of(orderings: Sequence[Ordering]) -> Sharing | None:
    """The ordering of a composition that says how shares are counted; its first, if there are several."""
    found: Any = next((o for o in orderings if Fact.SHARE in o.reads), None)
    return found  # type: ignore[no-any-return]


def _sum(one: float, other: float) -> float:
    """The level of two amounts together."""
    high, low = (one, other) if one > other else (other, one)
    return high + log2(1.0 + 2.0 ** (low - high))


def path_of(share: Share) -> list[str]:
    """Its tenant's name, and its own if that is another."""
    return [] if share.parent is None else [*path_of(share.parent), share.name]


_FIELDS = ("name", "number", "weight", "level", "floor", "calls", "jobs", "busy", "served")


def _plain(share: Share) -> dict[str, Any]:
    return {field: getattr(share, field) for field in _FIELDS} | {
        "on": {name: [hold.level, hold.calls, hold.at] for name, hold in share.on.items()},
        "below": [_plain(one) for one in share.below.values()],
    }


def _share(saved: dict[str, Any], parent: Share | None, engines: dict[str, Engine]) -> Share:
    on, below = saved.pop("on"), saved.pop("below")
    share = Share(parent=parent, **saved)
    share.on = {name: Hold(share, engines.get(name), *hold) for name, hold in on.items()}
    share.below = {one["name"]: _share(one, share, engines) for one in below}
    return share
