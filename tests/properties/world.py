"""The world as a driver would see it: which call is where, by commands and events alone.

It knows nothing of the scheduler's inside but at one place: at each dispatch it asks whether a call with a smaller key
waited, with all keys computed anew.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from hocket.assembly import build
from hocket.core import events as ev
from hocket.core.commands import Abort, CloseJob, Command, Dispatch, Preempt, Refuse, Reject, WakeAt
from hocket.core.ordering import Ordering, Scope, View
from hocket.core.queue import MOST_LENT, classes_of
from hocket.core.scheduler import MAX_ATTEMPTS, MAX_DELAYS, Scheduler
from hocket.core.snapshot import restore, save
from hocket.core.spec import AdmissionSpec, EngineSpec, PreemptionSpec, Route, SchedulerSpec, TenantSpec
from hocket.core.state import CLASSES, Call, CallState
from hocket.journal import encode
from hocket.policies import compose
from hocket.policies.orderings import Las
from tests.core.bare import place

Place = tuple[str, str]
"engine, replica"
WAITS = ("", "")
RETRYABLE = {"connect", "reset", "timeout", "garbage"}
REST_S = 1.0
MAX_REST_S = 8.0
FAILURES = 5
MISSES = 2
AT_MOST = 2


class Flaky(Las):
    """`las`, until it is told to raise."""

    broken = False

    def key(self, call: Call, view: View) -> tuple[Any, ...]:
        if self.broken:
            raise RuntimeError("flaky")
        return super().key(call, view)


def spec_of(
    policy: Sequence[str],
    idle_s: float,
    routed: bool,
    both: bool = True,
    timeout_s: float | None = None,
    *,
    routing: str = "least-loaded",
    auto: bool = False,
    observe: bool = False,
    across: Literal["class", "key"] | None = None,
    limits: AdmissionSpec | None = None,
) -> SchedulerSpec:
    """The settings of a world; without `both`, the second engine is gone; with `auto`, windows are searched for."""
    engines = [EngineSpec("e1", ["m1", "both"], auto), EngineSpec("e2", ["m2", "both"], auto)]
    return SchedulerSpec(
        engines if both else engines[:1],
        policy=tuple(policy),
        routing=routing,
        observe=observe,
        preemption=None if across is None else PreemptionSpec("class" if "fair" in policy else across, AT_MOST),
        routes=[Route("e2", stage="long")] if routed and both else [],
        tenants=[TenantSpec("x", 2.0), TenantSpec("y", 0.5, urgent_share=0.1, urgent_burst_s=1.0)],
        job_idle_s=idle_s,
        queue_timeout_s=timeout_s,
        limits=limits or AdmissionSpec(),
    )


def engine_of(spec: SchedulerSpec, stage: str, model: str) -> str | None:
    """Which engine serves this."""
    if spec.routes and stage == "long":
        return "e2"
    return next((engine.name for engine in spec.engines if model in engine.models), None)


class World:
    """A scheduler, its twin that is fed the same, and what must be true of both."""

    def __init__(
        self,
        policy: Sequence[str],
        idle_s: float,
        routed: bool,
        across: Literal["class", "key"] | None = None,
        limits: AdmissionSpec | None = None,
    ) -> None:
        self.spec = spec_of(policy, idle_s, routed, across=across, limits=limits)
        self.flaky = [Flaky(), Flaky()]
        self.scheduler, self.twin = (build(self.spec, {"flaky": flaky}) for flaky in self.flaky)
        self.orderings = compose(policy, {"flaky": Las()})
        self.now = 0.0
        self.open: dict[str, Place] = {}  # calls that have not ended -> where they are
        self.job_of: dict[str, str] = {}
        self.engine_of: dict[str, str] = {}
        self.asked: dict[str, tuple[str, str]] = {}  # call -> its stage and model
        self.since: dict[str, float] = {}  # calls that wait -> since when
        self.ended: dict[str, str] = {}  # calls that have -> how
        self.attempts: dict[str, int] = defaultdict(int)
        self.delays: dict[str, int] = defaultdict(int)
        self.resumable: set[str] = set()
        self.begun: set[str] = set()  # calls of whose answers there is a part
        self.kept: set[str] = set()  # calls of which a part was kept when they were displaced
        self.leaving: set[str] = set()  # calls that the core wants off
        self.displaced: dict[str, int] = defaultdict(int)
        self.passed: dict[str, int] = {}  # calls that went first for their age -> the class that they passed
        self.charged: dict[str, float] = {}
        self.service: dict[str, float] = defaultdict(float)
        self.heard: dict[str, float] = {}
        self.windows: dict[Place, int] = {}  # replicas that are there
        self.rests: dict[Place, float] = {}  # until when, for those that no tick has woken
        self.rested_until: dict[Place, float] = {}
        self.failures: dict[Place, int] = defaultdict(int)  # in a row
        self.trials: dict[Place, int] = defaultdict(int)  # rests for failures since the last success
        self.misses: dict[Place, int] = defaultdict(int)  # health checks without an answer
        self.wakes: list[float] = []
        self.closing: list[str] = []  # jobs that the core wants closed
        self._watch(self.scheduler)

    # ---------------------------------------------------------------- events and their answers

    def tell(self, event: ev.Event) -> list[Command]:
        """Feed both schedulers, and take note of what they order."""
        self.now = max(self.now, event.at)
        commands = self.scheduler.handle(event)
        assert encode(event, commands) == encode(event, self.twin.handle(event)), "the same events, other commands"
        for command in commands:
            self._obey(command)
        self.check()
        return commands

    def _obey(self, command: Command) -> None:
        match command:
            case Dispatch(call, engine, replica):
                where = (engine, replica)
                assert self.open[call] == WAITS, "dispatched twice"
                assert engine == self.engine_of[call]
                assert self.held(where) < self.limit(where), f"{where} is overfilled, or not there"
                assert self.rests.get(where, 0.0) <= self.now, f"{where} rests"
                self.open[call] = where
                self.attempts[call] += 1
                self.charged[call] = self.now
            case Preempt(call):
                self._asked_to_leave(call)
            case Reject(call, 503, "queue_timeout"):
                limit = self.spec.queue_timeout_s
                assert call not in self.kept, "its answer has begun"
                assert limit is not None and self.open[call] == WAITS and self.now - self.since[call] >= limit
                self.end(call, "timed out")
            case Refuse(job):
                assert self.spec.limits.jobs is not None and job not in self.scheduler.jobs
            case Reject(call, 503, "shed"):
                assert self.open[call] == WAITS and not self.attempts[call], "it has begun"
                self.end(call, "shed")
            case Reject(call, status):
                self.end(call, f"rejected {status}")
            case Abort(call):
                self.end(call, "aborted")
            case CloseJob(job):
                assert job not in self.job_of.values(), "idle, with a call that is open"
                assert self.now - self.heard[job] >= self.spec.job_idle_s, "closed too early"
                self.closing.append(job)
            case WakeAt(at):
                self.wakes.append(at)

    def _asked_to_leave(self, name: str) -> None:
        """The call with the largest key leaves, once, for one that goes before it and for which no other leaves."""
        preemption, engine, s = self.spec.preemption, self.engine_of[name], self.scheduler
        assert not self.spec.observe and self.open[name] != WAITS
        if preemption is None:
            self._recalled(s.calls[name])
            return
        orderings = compose(["call-fcfs"]) if s.policy_error else self.orderings
        here = [call for call in s.calls.values() if call.engine.name == engine]

        def key(call: Call) -> tuple[Any, ...]:
            return place(orderings, call, s)

        waiting = sorted((call for call in here if self.open[call.id] == WAITS), key=key)
        slots = [call for call in here if self.open[call.id] != WAITS]
        waiter = waiting[sum(call.id in self.leaving for call in slots)]
        may = [call for call in slots if self._may_leave(call.id) and self._unaged(call, waiter)]
        # of a replica whose rest is over the core may know by a tick, or because it looked at it for another reason
        known = [call for call in may if self.open[call.id] not in self.rests]
        victims = {max(some, key=key).id: max(some, key=key) for some in (may, known) if some}
        assert name in victims, f"{name} leaves, not {', '.join(victims)}"
        victim = victims[name]
        assert key(waiter) < key(victim)
        assert preemption.across == "key" or waiter.urgency < victim.urgency
        self.leaving.add(name)

    def _recalled(self, call: Call) -> None:
        """Without preemption only what has not begun gives way, and only to a more urgent call."""
        assert call.state is CallState.DISPATCHED and call.id not in self.leaving
        rivals = (c for c in self.scheduler.calls.values() if c.engine is call.engine and self.open[c.id] == WAITS)
        wanted = (rival.urgency < call.urgency and self._unaged(call, rival) for rival in rivals)
        assert any(wanted), "nobody needs its slot"
        self.leaving.add(call.id)

    def _unaged(self, call: Call, waiter: Call) -> bool:
        """Whether the call did not go before that one for its age; emergencies that came since were not there then."""
        came_since = waiter.urgency == 0 and waiter.arrived_at > call.sent_at
        return came_since or waiter.urgency < self.passed.get(call.id, CLASSES)

    def _may_leave(self, call: str) -> bool:
        fits = self.held(self.open[call]) <= self.limit(self.open[call]) if self.open[call] in self.windows else False
        rests = self.rests.get(self.open[call], 0.0) > self.now
        begun = call in self.begun and call not in self.resumable
        return fits and not rests and not begun and call not in self.leaving and self.displaced[call] < AT_MOST

    def displace(self, call: str, at: float, kept: int) -> None:
        """A call has been taken off its replica."""
        self.requeue(call)
        self.attempts[call] -= 1
        self.displaced[call] += 1
        self.kept = self.kept | {call} if kept else self.kept - {call}
        self.begun = self.begun | {call} if kept else self.begun - {call}
        self.tell(ev.CallPreempted(at, call, kept))

    def charge(self, call: str) -> None:
        """The slot time of a call that is in one is its job's service."""
        if self.open[call] != WAITS:
            self.service[self.job_of[call]] += self.now - self.charged[call]
            self.charged[call] = self.now

    def requeue(self, call: str) -> None:
        """A call leaves its slot, and waits again."""
        self.charge(call)
        self.open[call] = WAITS
        self.leaving.discard(call)
        self.begun = self.begun - {call} | {call} & self.kept
        self.since[call] = self.now
        self.engine_of[call] = engine_of(self.spec, *self.asked[call]) or ""

    def end(self, call: str, how: str) -> None:
        """A call is over: once."""
        assert call in self.open, f"{call} ended twice: {self.ended.get(call)}, then {how}"
        self.charge(call)
        del self.open[call]
        self.leaving.discard(call)
        self.ended[call] = how
        self.heard[self.job_of.pop(call)] = self.now

    def fail(self, call: str, kind: str, status: int, first_byte: bool, retry_after_s: float | None) -> None:
        """A failure: the rules of retries, said once more in other words."""
        where = self.open[call]
        if self.spec.observe:
            pass
        elif status == 429:
            self.rest(where, retry_after_s or REST_S)
        elif kind != "status" or status >= 500:
            self.failures[where] += 1
            breaks = kind == "connect" or self.failures[where] >= FAILURES or self.trials[where]
            if breaks and self.rested_until.get(where, 0.0) <= self.now:
                self.rest(where, min(REST_S * 2 ** self.trials[where], MAX_REST_S))
                self.trials[where] += 1
        if self.spec.observe:
            again = False
        elif status == 429:
            self.delays[call] += 1
            self.attempts[call] -= 1
            again = self.delays[call] <= MAX_DELAYS
        else:
            again = self.attempts[call] < MAX_ATTEMPTS and (kind in RETRYABLE or status >= 500)
        self.requeue(call)
        commands = self.tell(ev.CallFailed(self.now, call, kind, status, first_byte, retry_after_s))
        rejected = any(isinstance(c, Reject) and c.call == call for c in commands)
        assert rejected == (first_byte or not again or not self.engine_of[call])

    def rest(self, where: Place, seconds: float) -> None:
        """No dispatch to this replica for so long, or longer if it rests for longer already."""
        until = max(self.rested_until.get(where, 0.0), self.now + seconds)
        self.rests[where] = self.rested_until[where] = until

    def finish(self, call: str, at: float) -> None:
        """A call is complete: its replica is well."""
        where = self.open[call]
        assert where != WAITS
        self.failures[where] = self.trials[where] = 0
        self.end(call, "finished")
        self.tell(ev.CallFinished(at, call, 10, 10))

    def tick(self, at: float) -> None:
        """Time has come, for whom it may concern."""
        self.wakes = [wake for wake in self.wakes if wake > at]
        self.rests = {where: until for where, until in self.rests.items() if until > at}
        self.tell(ev.Tick(at))

    def observe(self, where: Place, healthy: bool, running: int | None = None, waiting: int | None = None) -> None:
        """A health check."""
        if where in self.windows:
            self.misses[where] = 0 if healthy else self.misses[where] + 1
        self.tell(ev.ReplicaObserved(self.now, *where, healthy, running, waiting))

    def change(self, spec: SchedulerSpec) -> None:
        """The operator changes the settings; the replicas of an engine that goes are removed first."""
        for where in [where for where in self.windows if where[0] not in {e.name for e in spec.engines}]:
            del self.windows[where]
            self.tell(ev.ReplicaRemoved(self.now, *where))
        self.spec = spec
        self.orderings = compose(spec.policy, {"flaky": Las()})
        for call, where in list(self.open.items()):
            if where == WAITS:
                self.engine_of[call] = engine_of(spec, *self.asked[call]) or ""
                self.since[call] = self.now
        # a window that was found stays until another is given
        self.windows = {where: self.scheduler.engines[where[0]].replicas[where[1]].window for where in self.windows}
        gone = [call for call, where in self.open.items() if where == WAITS and not self.engine_of[call]]
        self.tell(ev.SettingsChanged(self.now, spec))
        assert all(self.ended[call] == "rejected 404" for call in gone)
        kept = {e.name for e in spec.engines} | {where[0] for where in self.open.values()}
        for known in (self.rests, self.rested_until, self.failures, self.trials, self.misses):
            for where in [where for where in known if where[0] not in kept]:
                del known[where]  # an engine that is gone, and holds nothing, is forgotten

    def rotate(self) -> None:
        """The twin becomes one that was restored from the scheduler's snapshot."""
        self.twin = build(self.spec, {"flaky": self.flaky[1]})
        restore(self.twin, msgspec.json.decode(msgspec.json.encode(save(self.scheduler))))

    # ---------------------------------------------------------------- what must be true

    def limit(self, where: Place) -> int:
        """How many calls a replica that does not rest may hold."""
        # a window that is searched for is what the search says; that is tested by itself
        found = self.scheduler.engines[where[0]].replicas[where[1]]
        window = self.windows[where] if found.search is None else found.window
        if self.spec.observe and self.misses[where] < MISSES:
            return 2**31 if window else 0
        return 0 if self.misses[where] >= MISSES else min(window, 1) if self.trials[where] else window

    def held(self, where: Place) -> int:
        """Calls in the slots of a replica."""
        return sum(1 for at in self.open.values() if at == where)

    def check(self) -> None:
        """After every event."""
        s = self.scheduler
        s.check()
        assert s.calls.keys() == self.open.keys(), (s.calls.keys() ^ self.open.keys(), self.ended)
        for call, where in self.open.items():
            known = s.calls[call]
            assert (known.engine.name, known.replica.id if known.replica else "") == (self.engine_of[call], where[1])
            assert known.attempts == self.attempts[call] <= MAX_ATTEMPTS
        for job in s.jobs.values():
            assert job.service_s == self.service[job.id]
        hungry = {self.engine_of[call] for call, where in self.open.items() if where == WAITS}
        for where in self.windows:
            idle = where not in self.rests and self.held(where) < self.limit(where)
            assert not (idle and where[0] in hungry), f"work waits while {where} has room"
        for where, until in self.rests.items():
            assert where not in self.windows or any(wake <= until for wake in self.wakes), f"nobody wakes {where}"
        assert self.wakes or not s.jobs, "nobody looks after idle jobs"
        if self.spec.queue_timeout_s is not None and hungry:
            assert self.wakes, "nobody looks after calls that wait"

    def _aged(self, call: Call, first: Call, rivals: Sequence[Call]) -> bool:
        """Whether `call` goes before `first` for its age: it came first of all that have waited for too long."""
        classes = classes_of(self.orderings)
        assert classes is not None and classes.within_s is not None
        aged = [rival for rival in rivals if rival.urgency and self.now - rival.arrived_at >= classes.within_s]
        assert any(rival.urgency > first.urgency for rival in aged)
        return call is min(aged, key=lambda rival: (rival.arrived_at, rival.number))

    def _first(self, rivals: Sequence[Call], orderings: Sequence[Ordering], *, strict: bool = False) -> Call:
        """The call with the smallest key; where tenants or their applications lend their turns, of those who may."""

        def key(call: Call) -> tuple[Any, ...]:
            return place(orderings, call, self.scheduler)

        first = min(rivals, key=key)
        lenders = [] if strict else [ordering for ordering in orderings if hasattr(ordering, "lends")]
        if not lenders:
            return first
        rest = [ordering for ordering in orderings if ordering.scope > Scope.TENANT_APP]
        classes = [ordering for ordering in orderings if ordering.scope is Scope.CLASS]
        may = [r for r in rivals if all(o.key(r, self.scheduler) == o.key(first, self.scheduler) for o in classes)]
        return min(self._lent(may, lenders), key=lambda rival: place(rest, rival, self.scheduler))

    def _lent(self, rivals: Sequence[Call], lenders: Sequence[Any]) -> list[Call]:
        """Of these, the calls of those that may go first by the first of `lenders`, and inside them by the others."""
        if not lenders:
            return list(rivals)
        ordering, groups = lenders[0], defaultdict[tuple[Any, ...], list[Call]](list)
        for rival in rivals:
            share = rival.job.share
            owner = rival.job.tenant.number if ordering.scope is Scope.TENANT else share.number
            groups[*ordering.key(rival, self.scheduler), owner].append(rival)
        least = min(groups)
        near = [of for key, of in sorted(groups.items()) if ordering.lends(least, key)][:MOST_LENT]
        return [call for of in near for call in self._lent(of, lenders[1:])]

    def _watch(self, scheduler: Scheduler) -> None:
        dispatch = scheduler._dispatch

        def checked(call: Call, out: list[Command]) -> None:
            orderings = compose(["call-fcfs"]) if scheduler.policy_error else self.orderings
            rivals = [c for c in scheduler.calls.values() if c.state is CallState.QUEUED and c.engine is call.engine]
            first = self._first(rivals, orderings)
            self.passed.pop(call.id, None)
            # a slot that one was asked to leave goes to whom it was asked for, whatever may be lent
            if call is not first and call is not self._first(rivals, orderings, strict=True):
                assert self._aged(call, first, rivals), "another was first"
                self.passed[call.id] = first.urgency
            dispatch(call, out)

        scheduler._dispatch = checked  # type: ignore[method-assign]
