"""Admission: which jobs are let in, who is sent away again for whom, and when they may come back.

Whole jobs are refused, not calls in the middle: it is the first call of a job that is asked about. Once it was let in,
overload refuses none of the job's later calls; of limits only its tenant's own and the bytes that are held still count,
twice as high. What is bounded is the wait that is foretold for a new job (`hocket.core.accounts.Load`), and not only
numbers of calls: an engine that slows down lets fewer in at once. Where calls or bytes are too many, jobs that have not
begun are sent away for more urgent ones, and for calls of jobs that have. docs/concepts/admission.md tells the rules,
docs/decisions/admission.md why they are so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import inf

from hocket.core import events as ev
from hocket.core.accounts import BEYOND, Account, Bucket, Load, Refusal, Seat, bounded
from hocket.core.commands import Command, Refuse, Reject
from hocket.core.jobs import Jobs
from hocket.core.slots import QUEUED, Policy
from hocket.core.spec import LimitsSpec, SchedulerSpec
from hocket.core.state import CLASSES, Call, Engine, Job, Tenant

LAST = CLASSES - 1
"the class of jobs that cannot meet their deadline, where `deadlines: demote`"
TYPICAL = 50
"closed jobs of an application beyond which each new one counts as much as the one before"


class Whole(Account):
    """The account of all tenants together, and what became of those that came. The counts are the operator's alone."""

    __slots__ = ("admitted", "fits", "forecasts", "metered", "refused")

    def __init__(self, spec: SchedulerSpec) -> None:
        limits = spec.limits
        super().__init__(limits)
        self.admitted = 0
        self.refused: Counter[tuple[str, int]] = Counter()
        #: whether anything hangs on how long a call would wait: then it is counted who is ahead
        everybodys = [limits, *(tenant.limits for tenant in spec.tenants)]
        self.forecasts = (
            limits.wait_s is not None
            or limits.deadlines != "ignore"
            or spec.queue_timeout_s is not None
            or any(own.queue is not None for own in everybodys)
        )
        #: whether anybody's tokens are counted
        self.metered = any(own.tokens_per_minute is not None for own in everybodys)
        #: bytes below which nothing is to be asked about a call whose tenant has no limits: the usual case, made fast
        self.fits = inf if limits.held_bytes is None else float(limits.held_bytes)
        if limits.calls is not None or limits.tokens_per_minute is not None or self.forecasts:
            self.fits = -1.0


class Admission(Jobs):
    """The scheduler's knowledge of who may come in."""

    def __init__(self, spec: SchedulerSpec, policy: Policy) -> None:
        super().__init__(spec, policy)
        #: what all have in hand
        self.whole = Whole(spec)

    def wait_s(self, engine: Engine, urgency: int, tenant: Tenant | None = None) -> float:
        """Seconds until one more call of this class would get a slot. See `Load.wait_s`."""
        return engine.load.wait_s(engine, urgency, self.now, tenant)

    # ---------------------------------------------------------------- jobs

    def _job_opened(self, event: ev.JobOpened, out: list[Command]) -> None:
        accounts = () if event.job in self.jobs else self._accounts(self._tenant(event.tenant))
        if event.past is None and not self.spec.observe:
            for account in accounts:
                refusal = account.opens()
                if refusal is not None:
                    self.whole.refused[refusal.reason, refusal.status] += 1
                    out.append(Refuse(event.job, refusal.status, refusal.reason, refusal.retry_after_s))
                    return
        super()._job_opened(event, out)
        for account in accounts:
            account.jobs += 1
        if event.past is not None:  # it was let in before its process ended
            job = self.jobs[event.job]
            job.admitted = job.started = True

    def _forget(self, job: Job) -> None:
        super()._forget(job)
        if job.seats:
            self._unseat(job)
        for account in self._accounts(job.tenant):
            account.closed(None if job.aborted and not job.admitted else self.now - job.arrived_at)
        if job.seen and job.started and not job.aborted and job.number > 0:  # of one of before not all was seen
            self._learn_calls(job)

    @staticmethod
    def _learn_calls(job: Job) -> None:
        """How many calls a job of this application makes at each engine."""
        app = job.app
        if app.mean_calls == job.seen:
            return
        share = 1.0 / min(app.jobs_closed, TYPICAL)
        before = app.mean_calls
        app.mean_calls = {
            name: before.get(name, 0.0) + share * (job.seen.get(name, 0) - before.get(name, 0.0))
            for name in {**before, **job.seen}
        }

    def _classify(self, job: Job, out: list[Command]) -> None:
        before = job.urgency
        super()._classify(job, out)
        if job.urgency == before:
            return
        if job.calls:
            self._expect(job, before, -1.0)
            self._expect(job, job.urgency, 1.0)
        if job.seats:
            self._unseat(job)
            self._seat(job, _size(job))

    def _expect(self, job: Job, urgency: int, times: float) -> None:
        """Count what `job` will still send, `times` once, or take it back. Of jobs without open calls nobody knows."""
        for name, calls in job.expected.items():
            engine = self.engines.get(name)
            if engine is not None:
                engine.load.count(job.tenant, urgency, times * calls)

    def _accounts(self, tenant: Tenant) -> tuple[Account, ...]:
        """A tenant's own first: who has used up its share is told so."""
        return (self.whole,) if tenant.account is None else (tenant.account, self.whole)

    # ---------------------------------------------------------------- calls

    def _admit(self, call: Call, out: list[Command]) -> bool:
        """Whether a call that has arrived, and is in no queue yet, is let in. If not, it has been refused."""
        job, whole = call.job, self.whole
        passes = self.spec.observe or (whole.size + call.size <= whole.fits and job.tenant.account is None)
        refusal = None if passes else self._refusal(call, out)
        if refusal is not None:
            self.whole.refused[refusal.reason, refusal.status] += 1
            job.heard_at = self.now
            if self.beliefs is not None:
                self._believe(job, self.beliefs.lost, call)
            out.append(Reject(call.id, refusal.status, refusal.reason, refusal.retry_after_s))
            return False
        if not job.admitted:
            job.admitted = True
            whole.admitted += 1
            if whole.forecasts:
                job.expected = dict(job.app.mean_calls)
        if whole.forecasts:
            self._count(call)
        whole.size += call.size
        if job.tenant.account is not None:
            job.tenant.account.came(call)
        if whole.metered:
            self._spend(call, call.prompt_tokens)
        if not (job.started or job.seats or call.engine.room):
            self._seat(job, call.size)
        for one in job.seats:
            one.count(1, call.size)
        return True

    def _refusal(self, call: Call, out: list[Command]) -> Refusal | None:
        """Why `call` may not come in. If it may, and others have to leave for it, they have left."""
        job, limits, accounts = call.job, self.spec.limits, self._accounts(call.job.tenant)
        self.whole.calls = len(self.calls)  # nobody else asks
        for account in accounts:
            refusal = account.admits(job, call.prompt_tokens, self.now)
            if refusal is not None:
                return refusal
        wait_s = 0.0
        if not job.admitted:
            wait_s, most_s = self.wait_s(call.engine, call.urgency, job.tenant), limits.wait_s
            if most_s is not None and wait_s > most_s:
                return Refusal(503, "overloaded", bounded(wait_s - most_s))
            if most_s is not None and self._seen_s(call) > most_s:
                return Refusal(503, "overloaded", bounded(wait_s))
        if job.deadline_at is not None and limits.deadlines != "ignore":
            refusal = self._late(call, wait_s, out)
            if refusal is not None:
                return refusal
        return self._full(call, accounts, out)

    def _full(self, call: Call, accounts: Sequence[Account], out: list[Command]) -> Refusal | None:
        """Whether too many calls or bytes wait for `call` to come in, and nobody may leave for it. Else they have left.

        O(k log k) for k jobs that leave: it is known beforehand what all that may leave hold together.
        """
        job, lacking = call.job, list[tuple[Account, int, int]]()
        least = job.urgency if job.started else call.urgency + 1
        for account in accounts:
            calls, size = account.lacks(job, call.size, self._waiting(account) if not call.engine.room else -1)
            if (calls > 0 or size > 0) and not account.spares(calls, size, least):
                reason = "queue_full" if calls > 0 else "too_many_bytes"
                return account.refusal(reason, self.wait_s(call.engine, call.urgency, job.tenant))
            lacking.append((account, calls, size))
        for victim in dict.fromkeys(victim for one, calls, size in lacking for victim in one.victims(calls, size)):
            self._send_away(victim, out)
        return None

    def _late(self, call: Call, wait_s: float, out: list[Command]) -> Refusal | None:
        """What becomes of a call whose job has a deadline that it cannot meet even if all goes well."""
        job = call.job
        assert job.deadline_at is not None, "there is nothing to be late for"
        refuses = self.spec.limits.deadlines == "refuse"
        if job.late or (refuses and job.admitted):
            return None
        least_s = self._least_s(job)
        left_s = job.deadline_at - self.now
        if wait_s + least_s <= left_s:
            return None
        if not refuses:
            self._claim(job, LAST, out)
            job.late = True
            call.urgency, call.own_class = job.urgency, False
            return None
        # with less to wait it might do: then it may come again once that much of the queue is gone
        return Refusal(503, "deadline_unmeetable", None if least_s > left_s else bounded(wait_s + least_s - left_s))

    def _least_s(self, job: Job) -> float:
        """Seconds that `job` takes from now on if all goes well: its path, by the least work that it may have left."""
        if job.belief is None:
            return 0.0
        try:
            rest_s, path_s = job.belief.remaining_s, job.belief.path_s
            return path_s * min(job.belief.interval_s[0] / rest_s, 1.0) if rest_s > 0.0 else 0.0
        except Exception as error:  # noqa: BLE001  as for orderings: no estimate may stop a call
            self.beliefs = None
            self._fall_back(error)
            return 0.0

    def _seen_s(self, call: Call) -> float:
        """Seconds that others of its tenant have waited by now, at most; 0 where nobody could have been served."""
        load = call.engine.load
        return load.seen_s(call.urgency, self.now, call.job.tenant) if call.engine.slots else 0.0

    def _waiting(self, account: Account) -> int:
        """Calls of an account that wait."""
        if account.tenant is not None:
            return account.calls - account.tenant.running
        return sum(len(engine.queue) for engine in self.engines.values())

    def _send_away(self, job: Job, out: list[Command]) -> None:
        """`job`, of which every call waits, makes room: as if it had been refused at first."""
        after_s = bounded(max(self.wait_s(call.engine, call.urgency, job.tenant) for call in job.calls.values()))
        job.admitted, job.aborted = False, job.closed
        for call in list(job.calls.values()):
            self._end(call, out)
            out.append(Reject(call.id, 503, "shed", after_s))
        job.expected = {}
        self.whole.refused["shed", 503] += 1

    # ---------------------------------------------------------------- counts

    def _count(self, call: Call) -> None:
        """`call` is ahead of others, and one of those that its job was to send."""
        job, name = call.job, call.engine.name
        job.seen[name] = job.seen.get(name, 0) + 1
        call.engine.load.opened(call)
        if job.expected:
            if job.calls:
                self._expect(job, job.urgency, -1.0)
            if name in job.expected:  # one of those that were to come has come
                job.expected[name] = max(job.expected[name] - 1.0, 0.0)
            self._expect(job, job.urgency, 1.0)

    def _discount(self, call: Call) -> None:
        """`call` is open no more."""
        job, load = call.job, call.engine.load
        if load.wanted:
            if not job.calls:
                self._expect(job, job.urgency, -1.0)
            load.closed(call)
        if job.seats and not job.calls:
            self._unseat(job)
        for one in job.seats:
            one.count(-1, -call.size)
        self.whole.size -= call.size
        if self.whole.limits.calls is not None:
            self.whole.ended(self.now - call.arrived_at)
        if job.tenant.account is not None:
            job.tenant.account.went(call, self.now)

    def _settle(self, call: Call) -> None:
        """`call` ends without an answer: it has used its prompt and what was made, or nothing if it never ran."""
        if self.whole.metered:
            self._spend(call, call.tokens if call.attempts or call.tokens else -call.prompt_tokens)

    def _spend(self, call: Call, tokens: int) -> None:
        """So many more tokens are used by `call`; below 0: less."""
        for account in self._accounts(call.job.tenant):
            if account.bucket is not None:
                account.bucket.take(tokens, self.now)

    def _reclass(self, call: Call, urgency: int, out: list[Command]) -> None:
        load = call.engine.load
        if load.wanted:
            load.count(call.job.tenant, call.urgency, -1.0)
            load.count(call.job.tenant, urgency, 1.0)
        super()._reclass(call, urgency, out)

    def _seat(self, job: Job, size: int) -> None:
        job.seats = [Seat(account, job) for account in self._accounts(job.tenant) if account.makes_room(size)]

    def _unseat(self, job: Job) -> None:
        for one in job.seats:
            one.leave()
        job.seats = ()

    # ---------------------------------------------------------------- settings

    def _limit(self) -> None:
        """The limits may be others now, and engines come or gone: open everybody's account anew. O(jobs and calls)."""
        self._open_accounts()
        self._load_anew()
        for job in self.jobs.values():
            waits = not job.started and any(call.state is QUEUED for call in job.calls.values())
            job.seats = ()
            if waits:
                self._seat(job, _size(job))
            for account in self._accounts(job.tenant):
                account.jobs += 1
        for call in self.calls.values():
            for account in self._accounts(call.job.tenant):
                account.came(call)

    def _load_anew(self) -> None:
        """Count who is ahead at each engine, or do not, if nothing hangs on it now."""
        forecasts = self.whole.forecasts
        for engine in (*self.engines.values(), *self.gone.values()):
            load = engine.load
            engine.load = Load([0.0] * CLASSES, load.held_s, load.ends, load.moved_at, wanted=forecasts)
        if not forecasts:
            for job in self.jobs.values():
                job.seen, job.expected = {}, {}
            return
        for call in self.calls.values():
            call.engine.load.opened(call)
        waiting = [call for call in self.calls.values() if call.state is QUEUED]
        for call in waiting:
            call.queued_at = max(call.queued_at, call.arrived_at)  # it was not noted while nobody asked
        for call in sorted(waiting, key=lambda call: call.queued_at):
            call.engine.load.waits(call, call.queued_at)
        for job in self.jobs.values():
            if job.calls:
                self._expect(job, job.urgency, 1.0)

    def _open_accounts(self) -> None:
        before, self.whole = self.whole, Whole(self.spec)
        self.whole.admitted, self.whole.refused = before.admitted, before.refused
        self._go_on(self.whole, before)
        limits = {named.name: named.limits for named in self.spec.tenants}
        for tenant in self.tenants.values():
            own, known = limits.get(tenant.name, LimitsSpec()), tenant.account
            tenant.account = None if own == LimitsSpec() else Account(own, tenant)
            if tenant.account is not None:
                self._go_on(tenant.account, known)

    def _go_on(self, account: Account, before: Account | None) -> None:
        """What was known goes on to be; a bucket is full at first, never fuller than it may be, nor as deep in debt."""
        if before is not None:
            account.call_s, account.job_s = before.call_s, before.job_s
        most = account.limits.tokens_per_minute
        if most is not None:
            known = None if before is None else before.bucket
            left, at = (most, self.now) if known is None else (known.left, known.at)
            account.bucket = Bucket(most / 60.0, most, min(max(left, (1.0 - BEYOND) * most), most), at)


def _size(job: Job) -> int:
    """Bytes that the requests of its open calls take."""
    return sum(call.size for call in job.calls.values())
