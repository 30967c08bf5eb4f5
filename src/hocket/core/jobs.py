"""Jobs: who opened them, what tools they run, and what is learned when they are over.

The middle of the scheduler. It knows jobs, tenants and applications, and lets the beliefs (where the policy reads any)
take in what is seen of a job. What becomes of its calls is told in `hocket.core.scheduler`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from hocket.core import events as ev
from hocket.core.budget import URGENT
from hocket.core.commands import Abort, Command
from hocket.core.ordering import Fact
from hocket.core.replicas import Replicas
from hocket.core.slots import QUEUED, Policy
from hocket.core.spec import SchedulerSpec
from hocket.core.state import Application, Call, Job, Tenant

MAX_IDLE_APPS = 10_000
"applications without an open job that are remembered: their names come from clients, who may send any number"


class Jobs(Replicas):
    """The scheduler's knowledge of jobs."""

    def __init__(self, spec: SchedulerSpec, policy: Policy) -> None:
        super().__init__(spec, policy)
        self.jobs: dict[str, Job] = {}
        self.tenants: dict[str, Tenant] = {}
        self.apps: dict[str, Application] = {}
        self._jobs_seen = 0

    def _job_opened(self, event: ev.JobOpened, out: list[Command]) -> None:
        if event.job in self.jobs:
            raise ValueError(f"job {event.job!r} was opened twice")
        self._jobs_seen += 1
        deadline = None if event.deadline_s is None else event.at + event.deadline_s
        job = Job(
            event.job,
            self._jobs_seen,
            self._application(event.app),
            self._tenant(event.tenant),
            event.urgency,
            event.at,
            deadline,
            event.features,
            event.urgency,
            heard_at=event.at,
        )
        past = event.past
        if past is not None:
            job.number, job.arrived_at = past.number, event.at - past.age_s
            job.service_s, job.path_s = past.service_s, past.path_s
        self.jobs[event.job] = job
        if job.tenant.budget is not None:
            self._classify(job, out)
        if self.shares.wanted:
            self._share_in(job)
        if self.beliefs is not None:
            self._believe(job, self.beliefs.opened, job)
            if past is not None and self.beliefs is not None:  # the first may have raised
                self._believe(job, self.beliefs.resumed, job, past.steps)
        wake = self._timers.idle.opened(job, len(self.jobs))
        if wake is not None:
            self._wake_at(wake, out)

    def _job_closed(self, event: ev.JobClosed, out: list[Command]) -> None:
        job = self.jobs.get(event.job)
        if job is None:
            return
        job.closed = True
        job.aborted = event.abort
        if event.abort and job.calls:
            touched = {call.engine.name: call.engine for call in job.calls.values()}
            for call in list(job.calls.values()):
                self._end(call, out)
                out.append(Abort(call.id, event.reason))
            for engine in touched.values():
                self._fill(engine, out)
        elif not job.calls:
            self._forget(job)

    def _forget(self, job: Job) -> None:
        """A closed job without open calls: its application learns its size, unless it was cut short."""
        del self.jobs[job.id]
        job.gone = True
        self._timers.idle.closed(job)
        if job.share is not None:
            self.shares.closed(job.share)
        if self.beliefs is not None:
            self._believe(job, self.beliefs.closed, job)
        if job.aborted:
            return
        app = job.app
        app.jobs_closed += 1
        app.mean_service_s += (job.service_s - app.mean_service_s) / app.jobs_closed
        if Fact.SIZE in self._reads:
            self._touch(Fact.SIZE, app)

    def _tool_started(self, event: ev.ToolStarted, out: list[Command]) -> None:
        job = self.jobs.get(event.job)
        if job is not None:
            job.tools[event.run] = event.name
            job.heard_at = self.now
            if self.beliefs is not None:
                self._believe(job, self.beliefs.tool_started, job, event.run, event.name)

    def _tool_finished(self, event: ev.ToolFinished, out: list[Command]) -> None:
        job = self.jobs.get(event.job)
        if job is not None and job.tools.pop(event.run, None) is not None:
            job.heard_at = self.now
            if self.beliefs is not None:
                self._believe(job, self.beliefs.tool_finished, job, event.run)

    # ---------------------------------------------------------------- classes

    def _take_in(self, job: Job, urgency: int | None, out: list[Command]) -> None:
        """A request has come that may claim a class for itself; the job is of its most urgent request's."""
        self._claim(job, job.claimed if urgency is None else min(urgency, job.claimed), out)

    def _claim(self, job: Job, urgency: int, out: list[Command]) -> None:
        """One of its requests claims this class, or is known to be of it. Of a late one that is decided."""
        if not job.late:
            job.claimed = urgency
            self._classify(job, out)

    def _classify(self, job: Job, out: list[Command]) -> None:
        """The class that a job claims, or the next one while its tenant is over its budget of urgent work."""
        urgency, budget = job.claimed, job.tenant.budget
        if budget is not None and urgency < URGENT and budget.spent(self.now, self.slots):
            urgency += 1
        if urgency == job.urgency:
            return
        job.urgency = urgency
        for call in list(job.calls.values()):
            call.own_class = call.own_class and call.urgency > urgency
            if not call.own_class and call.urgency != urgency:
                self._reclass(call, urgency, out)
        if job.waiting or self._displaces:
            self._touch(Fact.CLASS, job)

    def _reclass(self, call: Call, urgency: int, out: list[Command]) -> None:
        """An open call is of another class now. O(log n)."""
        waits, budget = call.state is QUEUED, call.job.tenant.budget
        if waits:
            self._dequeue(call)
        if budget is not None and call.replica is not None:
            budget.hold((urgency < URGENT) - (call.urgency < URGENT), self.now, self.slots)
        call.urgency = urgency
        if waits:
            self._enqueue(call, out)
        elif call.engine.holders is not None:
            self._ask(call.engine.holders.moved, call)

    def _end(self, call: Call, out: list[Command]) -> None:
        raise NotImplementedError  # by the half above, which knows where calls are

    # ---------------------------------------------------------------- beliefs

    def _believe(self, job: Job, take_in: Callable[..., Any], *facts: Any) -> None:
        """Let the beliefs take in a fact about `job`; jobs whose beliefs that moves are ordered anew."""
        belief, keyed = job.belief, job.waiting or self._displaces
        before = belief.moves if keyed and belief is not None else None
        try:
            others: Iterable[Job] | None = take_in(*facts)
        except Exception as error:  # noqa: BLE001  as for orderings: no estimate may stop a call
            self.beliefs = None
            self._fall_back(error)
            return
        if keyed and (belief is None or belief.moves != before):
            self._touch(Fact.BELIEF, job)
        for other in others or ():
            if other.waiting or self._displaces:
                self._touch(Fact.BELIEF, other)
                for call in other.calls.values():  # each may have a key of its own
                    self._touch(Fact.BELIEF, call)

    def _believe_anew(self, policy: Policy) -> None:
        """The settings are new: begin to believe, go on, or stop, as the policy asks."""
        if policy.beliefs is None:
            self.beliefs = None
            return
        try:
            if self.beliefs is not None:
                self.beliefs.served()
            else:
                self.beliefs = policy.beliefs(self)
                for job in self.jobs.values():  # their past is not known, and need not be
                    self.beliefs.opened(job)
        except Exception as error:  # noqa: BLE001  as in _believe
            self.beliefs = None
            self._fall_back(error)

    def _answered(self, call: Call, prompt_tokens: int, output_tokens: int) -> None:
        """A call is complete: an equal sharing has done as much work by now."""
        assert self.beliefs is not None
        belief = call.job.belief if self.fair.wanted else None
        if belief is None:  # nobody asks: an answer costs no more than to note it
            self.beliefs.finished(call, prompt_tokens, output_tokens)
            return
        before_s = belief.attained_s
        self.beliefs.finished(call, prompt_tokens, output_tokens)
        self.fair.give(belief.attained_s - before_s)

    def _join(self, job: Job) -> None:
        """Its first call is here, and tells of its size: from now on an equal sharing would serve it, too."""
        work_s = 0.0 if job.belief is None else job.belief.total_s
        job.fair_finish = self.fair.join(work_s)

    def engine_for(self, app: str, stage: str, model: str) -> str | None:
        raise NotImplementedError  # by the half above, which knows the routes

    def _profile_replaced(self, event: ev.ProfileReplaced, out: list[Command]) -> None:
        """An application was learned anew; open jobs keep what they began with. Raises ValueError for no profile."""
        if self.beliefs is not None:
            self.beliefs.replaced(event.app, event.profile)

    # ---------------------------------------------------------------- tenants and applications

    def _share_in(self, job: Job) -> None:
        """Its slots are charged to its tenant's share from now on."""
        job.share = self.shares.of(job, self.now)
        for rival in self.shares.opened(job.share):
            self._touch(Fact.SHARE, rival.tenant or rival)

    def _share_anew(self) -> None:
        """The settings are new: shares go on, by the tenants' weights of now, begin or end. O(open jobs and calls)."""
        shares = self.shares
        if shares.wanted and shares.root.below:
            for share in shares.root.below.values():
                assert share.tenant is not None, "below the root there are tenants"
                shares.weigh(share, share.tenant.weight)
            return
        shares.clear()
        for job in self.jobs.values():
            job.share = None
            if shares.wanted:
                self._share_in(job)
        for call in self.calls.values():
            if call.job.share is not None:
                shares.came(call.job.share, call.engine, self.now)
                if call.replica is not None:
                    shares.take(call.job.share, call.engine, self.now)

    def _tenant(self, name: str) -> Tenant:
        tenant = self.tenants.get(name)
        if tenant is None:
            tenant = self.tenants[name] = Tenant(name, len(self.tenants))
        return tenant

    def _application(self, name: str) -> Application:
        app = self.apps.get(name)
        if app is None:
            if len(self.apps) > 2 * len(self.jobs) + MAX_IDLE_APPS:
                self._drop_applications()
            app = self.apps[name] = Application(name, self._jobs_seen)  # no job brings two
        return app

    def _drop_applications(self) -> None:
        """Forget half of those without an open job: the ones of which the fewest jobs have closed, the oldest first."""
        busy = {job.app.name for job in self.jobs.values()}
        idle = [app for app in self.apps.values() if app.name not in busy]
        idle.sort(key=lambda app: (app.jobs_closed, app.number))
        for app in idle[: len(idle) // 2]:
            del self.apps[app.name]
