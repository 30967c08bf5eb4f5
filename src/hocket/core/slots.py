"""Queues and slots: which calls wait, which hold a slot of a replica, and what moves them from one to the other.

The lower half of the scheduler. It knows engines, replicas and the policy; what an event means is told in
`hocket.core.scheduler`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from hocket.core.belief import Beliefs, World
from hocket.core.budget import URGENT
from hocket.core.commands import Command, Dispatch, Preempt, WakeAt
from hocket.core.fairclock import FairClock
from hocket.core.ordering import Fact, Ordering
from hocket.core.preemption import Holders, yields
from hocket.core.queue import ReadyQueue, classes_of
from hocket.core.rng import Rng
from hocket.core.routing import Routing
from hocket.core.shares import Share, Shares
from hocket.core.spec import SchedulerSpec
from hocket.core.state import CLASSES, Application, Call, CallState, Engine, Job, Replica, Tenant
from hocket.core.timers import Timers, Waits

# bound once: looking a member up in its enum costs more than most of what follows
QUEUED, DISPATCHED, RUNNING = CallState.QUEUED, CallState.DISPATCHED, CallState.RUNNING


class Policy(NamedTuple):
    """What the names in a spec stand for. `hocket.assembly` makes it, for the core knows no catalog."""

    orderings: Sequence[Ordering]
    "which call next, coarse scope first"
    fallback: Sequence[Ordering]
    "what takes over when an ordering raises"
    routing: Callable[[], Routing]
    "which replica; one an engine"
    beliefs: Callable[[World], Beliefs] | None = None
    "what is expected of jobs, where an ordering reads it"


class Slots:
    """Dispatches the first waiting call of an engine whenever one of its replicas has room."""

    spec: SchedulerSpec

    def __init__(self, spec: SchedulerSpec, policy: Policy) -> None:
        self.now = 0.0
        self.rng = Rng(spec.seed)
        self.fair = FairClock()
        self.shares = Shares()
        self.engines = {
            e.name: Engine(
                e.name, e.models, ReadyQueue(policy.orderings, self), policy.routing(), auto_window=e.auto_window
            )
            for e in spec.engines
        }
        #: engines that the settings no longer name, while they hold calls
        self.gone: dict[str, Engine] = {}
        #: set once an ordering raised and the fallback took over: what it said
        self.policy_error: str | None = None
        self.calls: dict[str, Call] = {}
        self._fallback = tuple(policy.fallback)
        self._dispatches = 0
        self._timers = Timers(spec.job_idle_s)
        self._waits = Waits(spec.queue_timeout_s)
        self._use(policy.orderings)
        self._hold(spec)
        #: what is expected of jobs; None where no ordering reads it
        self.beliefs: Beliefs | None = None

    def _rebuild(self, spec: SchedulerSpec, policy: Policy) -> None:
        """Engines and queues as `spec` says; the queues are empty. Engines that stay keep their replicas."""
        known = self.gone | self.engines
        self.engines = {}
        for e in spec.engines:
            engine = known.pop(e.name, None) or Engine(e.name, e.models, ReadyQueue((), self), policy.routing())
            engine.models, engine.auto_window = e.models, e.auto_window
            engine.queue = ReadyQueue(policy.orderings, self)
            engine.routing = policy.routing()
            for replica in engine.listed.values():
                replica.key = None  # it was one of the old routing's
            self.engines[e.name] = engine
        self.gone = {name: engine for name, engine in known.items() if any(r.inflight for r in engine.listed.values())}
        for engine in self.gone.values():
            engine.queue = ReadyQueue((), self)  # nobody waits there any more
        self._timers.keep({*self.engines.values(), *self.gone.values()})
        self.policy_error = None
        self._fallback = tuple(policy.fallback)
        self._waits = Waits(spec.queue_timeout_s)
        self._use(policy.orderings)

    # ---------------------------------------------------------------- calls

    def _enqueue(self, call: Call, out: list[Command]) -> None:
        call.state = QUEUED
        call.replica = None
        call.job.waiting += 1
        if call.engine.load.wanted:
            call.queued_at = self.now
            call.engine.load.waits(call, self.now)
        if self._waits.limit_s is not None and not call.kept_tokens:  # a part of an answer is not refused for waiting
            self._wake_at(self._waits.began(call, self.now), out)
        try:
            call.engine.queue.push(call)
        except Exception as error:  # noqa: BLE001  a policy may raise anything
            self._fall_back(error)

    def _dequeue(self, call: Call) -> None:
        try:
            call.engine.queue.remove(call)
        except Exception as error:  # noqa: BLE001  keys that do not compare may show late
            self._fall_back(error)
            call.engine.queue.remove(call)
        call.job.waiting -= 1
        if call.engine.load.wanted:
            call.engine.load.waits_no_more(call)

    def _fill(self, engine: Engine, out: list[Command], *, displacing: bool = False) -> None:
        """Dispatch while a replica has room and a call waits. `displacing`: where one was asked to leave."""
        while engine.room:
            try:
                call = engine.queue.pop(displacing=displacing)
            except Exception as error:  # noqa: BLE001  keys that do not compare may show late
                self._fall_back(error)
                continue
            if call is None:
                return
            call.job.waiting -= 1
            if engine.load.wanted:
                engine.load.waits_no_more(call)
            if self._waits.entries:
                self._waits.ended(call)
            self._dispatch(call, out)

    def _dispatch(self, call: Call, out: list[Command]) -> None:
        engine = call.engine
        only = engine.only
        replica = only or engine.routing.pick(call)
        call.state = DISPATCHED
        call.replica = replica
        call.attempts += 1
        call.sent_at = call.charged_at = self.now
        replica.inflight += 1
        replica.free -= 1
        engine.room -= 1
        if only is None:
            engine.routing.changed(replica)
        engine.load.moved_at = self.now
        job = call.job
        job.running += 1
        job.started = True
        if job.seats:
            self._unseat(job)
        tenant = job.tenant
        tenant.running += 1
        if tenant.budget is not None and call.urgency < URGENT:
            tenant.budget.hold(1, self.now, self.slots)
        if self._reads_slots:
            self._dispatches += 1
            tenant.last_served = job.last_served = self._dispatches
            self._slots_moved(job, engine)
        if job.share is not None:
            self.shares.take(job.share, engine, self.now)
            self._share_moved(job.share)
        out.append(Dispatch(call.id, engine.name, replica.id))
        if engine.holders is not None:
            self._ask(engine.holders.entered, call)
        elif engine.unbegun is not None:
            engine.unbegun[call.id] = call

    def _unseat(self, job: Job) -> None:
        raise NotImplementedError  # by the half above, which knows who may be sent away again

    def _leave_slot(self, call: Call) -> None:
        replica, now, job = call.replica, self.now, call.job
        assert replica is not None, "the call is in no slot"
        if self._displaces:
            self._let_go(call)
        elif call.engine.unbegun:
            call.engine.unbegun.pop(call.id, None)
        if replica.search is not None:
            self._learn(call, replica, ended=True)
        # what _charge does, written out: the call would cost more than the work
        job.service_s += now - call.charged_at
        if job.tenant.budget is not None and call.urgency < URGENT:
            job.tenant.budget.hold(-1, now, self.slots)
        if self._reads_service and (job.waiting or self._displaces):
            self._touch(Fact.SERVICE, job)
        inflight = replica.inflight = replica.inflight - 1
        if inflight < replica.limit:
            engine = call.engine
            replica.free += 1
            engine.room += 1
            if engine.only is None:
                engine.routing.changed(replica)
        job.running -= 1
        job.tenant.running -= 1
        if self._reads_slots:
            self._slots_moved(job, call.engine)
        if job.share is not None:
            self.shares.give(job.share, call.engine, now)
            self._share_moved(job.share)

    def _share_moved(self, share: Share) -> None:
        """A call of `share` took a slot, or left it. O(log n)."""
        shares = self.shares
        if len(shares.root.below) < 2 and not shares.of_apps:  # nobody competes
            return
        for moved in shares.moved(share, self.now):
            self._touch(Fact.SHARE, moved.tenant or moved)

    def _slots_moved(self, job: Job, engine: Engine) -> None:
        """A call of `job` took a slot of `engine`, or left it."""
        if Fact.RUNNING in self._reads:
            self._touch(Fact.RUNNING, job.tenant)
        if Fact.SLOTS in self._reads:
            self._touch(Fact.SLOTS, job)
        if Fact.BATCH in self._reads:
            self._weigh(engine)

    def _weigh(self, engine: Engine) -> None:
        """Note its batch size, once it has doubled or halved: then everybody's expectations move. O(replicas)."""
        held, count = sum(replica.inflight for replica in engine.replicas.values()), len(engine.replicas) or 1
        if engine.batch * count < 2 * held < 4 * engine.batch * count:
            return
        batch = max(1, 1 << (held // count).bit_length() >> 1)
        if batch != engine.batch:
            engine.batch = batch
            try:
                for other in self.engines.values():
                    if Fact.BATCH in other.queue.reads:
                        other.queue.touch_all()
                        if other.holders is not None:
                            other.holders.touch_all()
            except Exception as error:  # noqa: BLE001  a policy may raise anything
                self._fall_back(error)

    @property
    def slots(self) -> int:
        """Calls that all replicas together may hold now. O(engines)."""
        return sum(engine.slots for engine in self.engines.values())

    def weight(self, job: Job) -> float:
        """What a second of its waiting counts, by its class."""
        return self._weights[job.urgency]

    def _learn(self, call: Call, replica: Replica, tokens: int = 0, *, ended: bool = False) -> None:
        raise NotImplementedError  # by the half above, which knows what a window is

    def _charge(self, call: Call) -> None:
        """Add the slot time since the last charge to the job's attained service."""
        job = call.job
        job.service_s += self.now - call.charged_at
        call.charged_at = self.now
        if self._reads_service and (job.waiting or self._displaces):
            self._touch(Fact.SERVICE, job)

    def _touch(self, fact: Fact, entity: Tenant | Share | Application | Job | Call) -> None:
        try:
            for engine in self.engines.values():
                if fact in engine.queue.reads:
                    engine.queue.touch(entity)
                    if engine.holders is not None:
                        engine.holders.touch(entity)
        except Exception as error:  # noqa: BLE001  a policy may raise anything
            self._fall_back(error)

    def _use(self, orderings: Sequence[Ordering]) -> None:
        self._orderings = tuple(orderings)
        classes = classes_of(orderings)
        self._weights = (1.0,) * CLASSES if classes is None else tuple(classes.weights)
        reads = self._reads = frozenset[Fact]().union(*(o.reads for o in orderings))
        # asked at each call. (An object of 30 attributes or more has slower ones, in CPython 3.11 to 3.13.)
        self._reads_service = Fact.SERVICE in reads
        self._reads_slots = not reads.isdisjoint((Fact.RUNNING, Fact.SLOTS, Fact.BATCH))
        self.fair.wanted = Fact.FAIR in reads
        self.shares.use(orderings)

    @property
    def wants_progress(self) -> bool:
        """Whether `CallStreamed` after the first token is of use: to the policy, or to the search for a window."""
        return self._reads_service or self._displaces or any(engine.auto_window for engine in self.engines.values())

    @property
    def wants_news(self) -> bool:
        """Whether any decision hangs on it when calls start, and when their first tokens come."""
        recalls = any(engine.unbegun is not None for engine in self.engines.values())
        return self.wants_progress or recalls or self.beliefs is not None or Fact.SIZE in self._reads

    def _fall_back(self, error: Exception) -> None:
        """An ordering raised, or its keys do not compare: order by the fallback from now on, and lose no call.

        The queues may have been left in any state, so they are made anew from the calls that are to wait.
        """
        self.policy_error = f"{type(error).__name__}: {error}"
        self._use(self._fallback)
        for engine in self.engines.values():
            engine.queue = ReadyQueue(self._fallback, self)
        for call in self.calls.values():
            if call.state is QUEUED:
                call.engine.queue.push(call)
        self._hold(self.spec)

    # ---------------------------------------------------------------- preemption

    def _hold(self, spec: SchedulerSpec) -> None:
        """Who may be displaced, by the orderings in use. O(open calls)."""
        preemption = None if spec.observe else spec.preemption
        self._displaces = preemption is not None
        recalls = not (self._displaces or spec.observe) and classes_of(self._orderings) is not None
        for engine in (*self.engines.values(), *self.gone.values()):
            before, engine.holders = engine.holders, None
            engine.unbegun = {} if recalls else None
            one = next((e for e in spec.engines if e.name == engine.name), None)
            if preemption is not None and one is not None and not one.preempts:
                engine.holders = Holders(preemption, one, self._orderings, self, before)
        try:
            for call in self.calls.values():
                if call.replica is not None:
                    call.node = call.key = None
                    if call.engine.holders is not None:
                        call.engine.holders.entered(call)
                    elif call.engine.unbegun is not None and call.state is DISPATCHED and not call.leaving:
                        call.engine.unbegun[call.id] = call
        except Exception as error:  # noqa: BLE001  a policy may raise anything
            self._fall_back(error)  # which comes here again

    def _recall(self, unbegun: dict[str, Call], waiter: Call, out: list[Command]) -> None:
        """A less urgent call than `waiter` that was sent, and has not begun, gives way to it. No work is lost.

        O(calls that have not begun): none in a gateway, where a replica has its call at once; few in the simulator.
        """
        may = (call for call in unbegun.values() if call.urgency > waiter.urgency and yields(call, waiter))
        last = max(may, key=lambda call: (call.urgency, call.number), default=None)
        if last is not None:
            del unbegun[last.id]
            last.leaving = True
            out.append(Preempt(last.id))

    def _displace(self, out: list[Command]) -> None:
        """Where calls wait, let them take the slots of running ones, if that pays. O(log n) a call."""
        for engine in self.engines.values():
            while engine.holders is not None and len(engine.holders) and len(engine.queue):
                call = self._ask(engine.holders.displace, engine.queue, self._weights, self.now)
                if call is None:
                    break
                out.append(Preempt(call.id))

    def _let_go(self, call: Call) -> None:
        """`call` leaves its slot: whatever happens from here on, it holds none."""
        call.replica = None
        holders = call.engine.holders
        if holders is not None:
            self._ask(holders.left, call, self.now)

    def _ask(self, about: Callable[..., Call | None], *what: Any) -> Call | None:
        """Keys are made or compared, and a policy may raise anything: then the fallback takes over."""
        try:
            return about(*what)
        except Exception as error:  # noqa: BLE001
            self._fall_back(error)
            return None

    def _wake_at(self, at: float, out: list[Command]) -> None:
        if self._timers.ask(at):
            out.append(WakeAt(at))
