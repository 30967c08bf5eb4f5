"""The one decision core: `Scheduler.handle(event) -> list[Command]`.

Both drivers, the gateway and the simulator, run this very object. It keeps the jobs that are open, lets calls wait in
one ready queue an engine, and dispatches the first of them whenever a replica has room. It knows no clock: time is what
the events say. Events about calls and jobs that have ended are ignored, because a driver's news can cross a command on
its way; an event that could never be true raises ValueError, because it is a bug of the driver.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hocket.core import events as ev
from hocket.core.accounts import bounded
from hocket.core.admission import Admission
from hocket.core.budget import URGENT, Budget
from hocket.core.commands import CloseJob, Command, Reject
from hocket.core.ordering import Fact
from hocket.core.slots import DISPATCHED, QUEUED, RUNNING, Policy
from hocket.core.spec import SchedulerSpec
from hocket.core.state import CLASSES, Call

MAX_ATTEMPTS = 2
"dispatches of one call: a failure before the first byte is retried once"
MAX_DELAYS = 5
"429s of one call before the replica's own answer is passed on"
RETRYABLE = frozenset({"connect", "reset", "timeout", "garbage"})


class Scheduler(Admission):
    """Events in, commands out. Build one with `hocket.assembly.build`.

    `policy_of` says what the names in a spec stand for, now and whenever the settings change. Drivers may read every
    public attribute and must write none.
    """

    def __init__(self, spec: SchedulerSpec, policy_of: Callable[[SchedulerSpec], Policy]) -> None:
        policy = policy_of(spec)
        super().__init__(spec, policy)
        self.policy_of = policy_of
        self._calls_seen = 0
        self._serve(spec)
        self._limit()
        self._believe_anew(policy)
        self._handlers: dict[type[ev.Event], Callable[[Any, list[Command]], None]] = {
            ev.JobOpened: self._job_opened,
            ev.JobClosed: self._job_closed,
            ev.CallArrived: self._call_arrived,
            ev.CallStarted: self._call_started,
            ev.CallStreamed: self._call_streamed,
            ev.CallFinished: self._call_finished,
            ev.CallFailed: self._call_failed,
            ev.CallCancelled: self._call_cancelled,
            ev.CallPreempted: self._call_preempted,
            ev.CallRevised: self._call_revised,
            ev.ToolStarted: self._tool_started,
            ev.ToolFinished: self._tool_finished,
            ev.ReplicaAdded: self._replica_added,
            ev.ReplicaRemoved: self._replica_removed,
            ev.ReplicaObserved: self._replica_observed,
            ev.ProfileReplaced: self._profile_replaced,
            ev.SettingsChanged: self._settings_changed,
            ev.Tick: self._tick,
        }

    def handle(self, event: ev.Event) -> list[Command]:
        """Take in one event; return what is to be done about it, in order."""
        at = event.at
        if at > self.now:
            self.now = at
        out: list[Command] = []
        self._handlers[type(event)](event, out)
        if self._displaces:
            self._displace(out)
        return out

    # ---------------------------------------------------------------- what drivers may ask

    @property
    def models(self) -> list[str]:
        """The names that clients may ask for."""
        return list(dict.fromkeys(model for engine in self.spec.engines for model in engine.models))

    def engine_for(self, app: str, stage: str, model: str) -> str | None:
        """The engine that serves this: the first route that matches, else the first engine of the model; or None."""
        for route in self.spec.routes:
            if route.app in (None, app) and route.stage in (None, stage) and route.model in (None, model):
                return route.engine
        engine = self._by_model.get(model)
        return None if engine is None else engine.name

    def touch_job(self, job: str) -> None:
        """What an ordering reads about this job outside of the core has changed (Fact.OUTSIDE)."""
        if job in self.jobs:
            self._touch(Fact.OUTSIDE, self.jobs[job])

    def check(self) -> None:
        """Raise AssertionError if an invariant is broken. For tests."""
        from hocket.core.invariants import check

        check(self)

    # ---------------------------------------------------------------- calls

    def _call_arrived(self, event: ev.CallArrived, out: list[Command]) -> None:
        name, job = event.call, self.jobs.get(event.job)
        if job is None or name in self.calls:
            raise ValueError(f"call {name!r}: its job {event.job!r} is not open, or its id was used before")
        engine = self._by_model.get(event.model)
        if self.spec.routes:
            engine = self.engines.get(self.engine_for(job.app.name, event.stage, event.model) or "")
        if engine is None:
            job.heard_at = self.now
            out.append(Reject(name, 404, "unknown_model"))
            return
        number = self._calls_seen = self._calls_seen + 1
        if event.urgency is not None or job.tenant.budget is not None:
            self._take_in(job, event.urgency, out)
        urgency, own_class = job.urgency, False
        if event.urgency is not None and event.urgency > urgency:
            urgency, own_class = event.urgency, True
        call = Call(
            name,
            number,
            job,
            event.stage,
            event.model,
            engine,
            urgency,
            event.at,
            event.prompt_tokens,
            event.max_tokens,
            event.parent,
            event.hint_output_tokens,
            event.prefix,
            job.path_s,
            own_class,
            resumable=event.resumable,
            size=event.bytes,
        )
        if self.beliefs is not None:
            self._believe(job, self.beliefs.arrived, call)
        if not self._admit(call, out):
            return
        if self.fair.wanted and job.fair_finish is None:
            self._believe(job, self._join, job)
        if job.share is not None:
            self.shares.came(job.share, engine, self.now)
        self.calls[name] = job.calls[name] = call  # from here on a fallback would let it wait
        if engine.room:
            # room means that nobody waits: the call need not pass through the queue
            self._dispatch(call, out)
        else:
            self._enqueue(call, out)
            if engine.unbegun:
                self._recall(engine.unbegun, call, out)

    def _call_started(self, event: ev.CallStarted, out: list[Command]) -> None:
        call = self.calls.get(event.call)
        if call is None or call.state is QUEUED:
            _stray(call)
            return
        call.state = RUNNING
        if call.engine.unbegun:
            call.engine.unbegun.pop(call.id, None)

    def _call_streamed(self, event: ev.CallStreamed, out: list[Command]) -> None:
        call = self.calls.get(event.call)
        if call is None or call.state is QUEUED:
            _stray(call)
            return
        replica, holders, tokens = call.replica, call.engine.holders, event.tokens
        if not tokens:  # it cannot be taken off: so it is like one that has begun and cannot be continued
            call.resumable = False
        call.tokens = tokens or max(call.tokens, 1)
        if holders is not None:
            self._ask(holders.streamed, call)
        elif call.leaving and not call.resumable:
            call.leaving, call.state = False, RUNNING  # it has begun, whether or not that was said
        if not tokens:
            return
        if replica is not None and replica.search is not None:
            self._learn(call, replica, tokens)
            self._fill(call.engine, out)
        self._charge(call)
        if self.beliefs is not None:
            self._believe(call.job, self.beliefs.streamed, call, tokens)

    def _call_finished(self, event: ev.CallFinished, out: list[Command]) -> None:
        call = self.calls.get(event.call)
        if call is None or call.state is QUEUED:
            _stray(call)
            return
        replica, engine = call.replica, call.engine
        assert replica is not None, "the call is in no slot"
        if replica.failures:
            self._delivered(replica, engine)
        if replica.search is not None:
            self._learn(call, replica, event.output_tokens or 1)  # an embedding is an answer, too
            self._charge(call)
        self._leave_slot(call)  # what _end does; this is where most calls end
        engine.load.ended(self.now - call.sent_at, self.now)
        if self.whole.metered:
            self._spend(call, event.output_tokens + (event.prompt_tokens or call.prompt_tokens) - call.prompt_tokens)
        job, path_s = call.job, call.path_s + self.now - call.sent_at
        if path_s > job.path_s:
            job.path_s = path_s
        if self.beliefs is not None:
            self._believe(job, self._answered, call, event.prompt_tokens, event.output_tokens)
        self._forget_call(call)
        self._fill(engine, out)

    def _call_failed(self, event: ev.CallFailed, out: list[Command]) -> None:
        call = self.calls.get(event.call)
        if call is None or call.state is QUEUED:
            _stray(call)
            return
        replica = call.replica
        assert replica is not None, "the call is in no slot"
        if not self.spec.observe:
            self._failed_on(replica, call, event, out)
        if not event.first_byte and self._deserves_another(call, event):
            call.failed_on = replica
            self._wait_again(call, out)
            return
        self._end(call, out)
        reason = "upstream_status" if event.kind == "status" else f"upstream_{event.kind}"
        status = event.status if event.kind == "status" else 503 if call.attempts >= MAX_ATTEMPTS else 502
        out.append(Reject(call.id, status, reason))
        self._fill(call.engine, out)

    def _deserves_another(self, call: Call, event: ev.CallFailed) -> bool:
        """One retry; a 429 is no attempt, but its replica rests, and there is an end to that too."""
        if self.spec.observe:
            return False
        if event.status == 429:
            call.delays += 1
            call.attempts -= 1
            return call.delays <= MAX_DELAYS
        return call.attempts < MAX_ATTEMPTS and (event.kind in RETRYABLE or event.status >= 500)

    def _call_cancelled(self, event: ev.CallCancelled, out: list[Command]) -> None:
        call = self.calls.get(event.call)
        if call is not None:
            self._end(call, out)
            self._fill(call.engine, out)

    def _call_preempted(self, event: ev.CallPreempted, out: list[Command]) -> None:
        call = self.calls.get(event.call)
        if call is None or call.state is QUEUED:
            _stray(call)
            return
        call.attempts -= 1
        call.preempted += 1
        call.kept_tokens = event.tokens_kept
        call.path_s += self.now - call.sent_at
        self._wait_again(call, out, displaced=True)

    def _call_revised(self, event: ev.CallRevised, out: list[Command]) -> None:
        call = self.calls.get(event.call)
        if call is None:
            return
        job, urgency = call.job, event.urgency
        if urgency is not None:
            call.own_class = call.own_class and urgency > job.urgency
            if call.own_class:
                self._reclass(call, urgency, out)
            else:
                self._claim(job, urgency, out)
                self._reclass(call, job.urgency, out)
        job.features = {**job.features, **event.features}  # the old ones belong to an event

    def _wait_again(self, call: Call, out: list[Command], *, displaced: bool = False) -> None:
        """A call that is in a slot goes back to the queue."""
        before, job = call.engine, call.job
        self._leave_slot(call)
        call.leaving, call.tokens, call.passed = False, call.kept_tokens, CLASSES
        if job.waiting:  # a chooser may have to look at the job again: another of its calls waits
            self._touch(Fact.BELIEF, job)
        self._place(call, out)
        self._fill(before, out, displacing=displaced)
        if call.engine is not before:
            self._fill(call.engine, out)

    def _place(self, call: Call, out: list[Command]) -> None:
        """A call that is in no slot and no queue waits, for the engine that serves it now."""
        engine = self.engines.get(self.engine_for(call.job.app.name, call.stage, call.model) or "")
        if engine is None:
            if self.beliefs is not None:
                self._believe(call.job, self.beliefs.lost, call)
            self._settle(call)
            self._forget_call(call)
            out.append(Reject(call.id, 404, "unknown_model"))
        else:
            if engine is not call.engine:
                if call.engine.load.wanted:
                    call.engine.load.closed(call)
                    engine.load.opened(call)
                call.engine, call.failed_on = engine, None
            if self.fair.wanted and call.job.fair_finish is None:  # the settings did not ask before
                self._believe(call.job, self._join, call.job)
            self._enqueue(call, out)

    def _end(self, call: Call, out: list[Command]) -> None:
        """`call` is over: take it from wherever it is, and forget it."""
        if self.beliefs is not None:  # first, for a fallback lets every call wait anew that is not in a slot
            self._believe(call.job, self.beliefs.lost, call)
        self._settle(call)
        if call.state is QUEUED:
            self._dequeue(call)
            self._waits.ended(call)
        else:
            self._leave_slot(call)
        self._forget_call(call)

    def _forget_call(self, call: Call) -> None:
        name, job = call.id, call.job
        if job.share is not None:
            self.shares.went(job.share)
        del self.calls[name]
        del job.calls[name]
        self._discount(call)
        job.heard_at = self.now
        if job.closed and not job.calls:
            self._forget(job)

    # ---------------------------------------------------------------- settings and time

    def _serve(self, spec: SchedulerSpec) -> None:
        """Who may call, and which engine serves what."""
        self.spec = spec
        self._by_model = {m: self.engines[e.name] for e in reversed(spec.engines) for m in e.models}
        budgets = {tenant.name: tenant.budget for tenant in self.tenants.values()}
        for tenant in self.tenants.values():
            tenant.weight, tenant.budget = 1.0, None
        for named in spec.tenants:
            tenant = self._tenant(named.name)
            tenant.weight = named.weight
            if named.urgent_share is not None:
                before = budgets.get(named.name)
                left_s = named.urgent_burst_s if before is None else min(before.left_s, named.urgent_burst_s)
                at = self.now if before is None else before.at
                tenant.budget = Budget(named.urgent_share, named.urgent_burst_s, left_s, at)
        for call in self.calls.values():
            budget = call.job.tenant.budget
            if budget is not None and call.replica is not None and call.urgency < URGENT:
                budget.held += 1

    def _settings_changed(self, event: ev.SettingsChanged, out: list[Command]) -> None:
        """Every waiting call is placed anew: its engine may be gone, and its order another. What runs runs on."""
        spec, waiting = event.spec, [call for call in self.calls.values() if call.state is QUEUED]
        policy = self.policy_of(spec)
        for call in waiting:  # it is in no queue until it is placed: a fallback must not find it before
            call.state, call.node = DISPATCHED, None
            call.job.waiting -= 1
        self._rebuild(spec, policy)
        self._serve(spec)
        self._share_anew()
        for job in self.jobs.values():  # its tenant may have another budget, or none
            self._classify(job, out)
        self._believe_anew(policy)
        self._hold(spec)
        self._timers.idle.idle_s = spec.job_idle_s
        for call in sorted(waiting, key=lambda call: call.number):
            since = call.queued_at
            self._place(call, out)
            call.queued_at = since  # it has waited all along
        for engine in self.engines.values():
            for replica in engine.listed.values():
                self._set_window(engine, replica, replica.window)
                self._refresh(engine, replica)
            self._relist(engine)
            self._fill(engine, out)
        self._limit()

    def _tick(self, event: ev.Tick, out: list[Command]) -> None:
        self._timers.woken(self.now)
        for engine, replica in self._timers.due(self.now):
            self._refresh(engine, replica)
            self._fill(engine, out)
        for call in self._waits.due(self.now):
            self._end(call, out)
            wait_s = self.wait_s(call.engine, call.urgency, call.job.tenant)
            out.append(Reject(call.id, 503, "queue_timeout", bounded(wait_s)))
        out.extend(CloseJob(job.id) for job in self._timers.idle.due(self.now))
        for at in (self._timers.idle.next_at(), self._timers.next_at(), self._waits.next_at()):
            if at is not None:
                self._wake_at(at, out)


def _stray(call: Call | None) -> None:
    """News of a call that has ended may cross a command on its way; news of one that waits cannot be true."""
    if call is not None:
        raise ValueError(f"call {call.id!r} is waiting: it cannot start, stream, finish or fail")
