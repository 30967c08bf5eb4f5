"""Where a call belongs, from its arrival to its end: its claim and its tenant's past make its place in a job."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

import msgspec
from multidict import MultiMapping

from hocket.core import events as ev
from hocket.core.state import Job
from hocket.gateway.answers import Meter
from hocket.gateway.driver import Driver, LiveCall
from hocket.gateway.identity.answers import Listener, Trail
from hocket.gateway.identity.claim import DEFAULT_APP, DEFAULT_STAGE, Claim
from hocket.gateway.identity.conversation import Chain, Reader
from hocket.gateway.identity.follow import Past
from hocket.gateway.identity.memory import Memory, Turn
from hocket.gateway.identity.sources import claim_of, retry_of
from hocket.gateway.identity.tenants import Tenants
from hocket.gateway.openai import ApiError, Request, refusal
from hocket.gateway.tape import Tape
from hocket.gateway.urgency import Decided, Urgency
from hocket.settings import Settings, TenantSettings

if TYPE_CHECKING:
    from hocket.history.unfinished import Unfinished

MAX_HASHES = 65_536
"remembered over all tenants; about 40 MB when full"
MIN_HASHES = 4_096
"of one tenant, however many there are"
MAX_LINGERING = 4_096
"jobs that wait for a call that may never come, over all tenants; of a tenant that has its part the oldest one ends"
MIN_LINGERING = 64
"of one tenant, however many there are"


class Place(msgspec.Struct):
    """Where a call belongs."""

    key: str
    "the job's id in the core"
    job: str
    "the job's id as its client knows it"
    app: str
    stage: str
    fresh: bool
    "the job is not open yet"
    named: bool
    "someone named the job: it ends when they say so, or after job_idle_s"
    decided: Decided
    "its class, and who says so"
    parent: str | None
    prefix: str | None
    retry: int
    claim: Claim
    tenant: TenantSettings
    chain: Chain | None
    trail: Trail | None = None
    "where its answer is remembered; None = nobody will go on from it"
    tape: Tape | None = None
    "what its answer goes onto, where it may be asked for again"

    def heard(self, body: bytes) -> None:
        """The answer, whole."""
        if self.trail is not None:
            self.trail.whole(body)

    def answered(self) -> None:
        """The answer, whole or a stream, is complete."""
        if self.trail is not None:
            self.trail.complete()

    def listen(self, meter: Meter) -> Meter:
        """A meter of the answer's stream that hears what has to be remembered of it."""
        trail = self.trail
        return Listener(meter, trail) if trail is not None and (trail.reads_text or trail.reads_tools) else meter


class Places:
    """Finds the place of each call, opens jobs for them, and ends those jobs that nobody named."""

    def __init__(self, driver: Driver, tenants: Tenants, settings: Settings, urgency: Urgency) -> None:
        self.settings, self.urgency = settings, urgency
        self._driver = driver
        self._tenants = tenants
        self._key = secrets.token_bytes(32)
        self._pasts: dict[str, Past] = {}
        #: jobs that an earlier process left open, by the core's id; they go on when a client names them
        self.unfinished: dict[str, Unfinished] = {}
        self._lingering: dict[str, OrderedDict[str, float]] = {}
        "tenant -> its jobs that linger, and until when"
        self._timer: asyncio.TimerHandle | None = None

    # ---------------------------------------------------------------- where to

    def place(self, tenant: TenantSettings, headers: MultiMapping[str], asked: Request, chained: bool = True) -> Place:
        """Where a call belongs. Opens no new job. `chained`: a later call may go on from it.

        Raises ApiError 400 or 409 where what was said to hocket itself cannot be.
        """
        sources = self.settings.identity.sources
        claim = claim_of(headers, asked, sources)
        past = self._past(tenant)
        infers = chained and "inferred" in sources and not (claim.explicit and claim.stage is not None)
        chain, fingerprint = past.reader.read(asked, infers)
        retry = retry_of(headers)
        job_id = _named(claim, past.memory)
        named = job_id is not None
        before, parent, stage = None, claim.parent, claim.stage
        if infers:
            again = past.same(chain, job_id) if retry and chain is not None else None
            before = again or past.answered(asked.previous_response_id, job_id)
            if before is None and chain is not None:
                before = past.before(chain, fingerprint, job_id)
            if before is not None and not named and not self._may_go_on(tenant, before, claim):
                before = again = None
            if before is not None:
                job_id = before.job
                parent = parent or (before.parent if again else before.stage)
                stage = stage or (again.stage if again else None)
        if parent is None and claim.parent_session is not None:
            session = past.memory.session(claim.parent_session)
            parent = None if session is None else session.stage
        job_id = job_id or self._driver.new_id("job")
        key = self._tenants.job_key(tenant, job_id)
        if self.unfinished:
            self.resume(key, tenant)
        job = self.open_job(key, job_id, claim.app) if claim.explicit else self._driver.scheduler.jobs.get(key)
        return Place(
            key=key,
            job=job_id,
            app=job.app.name if job is not None else claim.app or (before.app if before is not None else DEFAULT_APP),
            stage=stage or (DEFAULT_STAGE if fingerprint is None else f"stage-{fingerprint}"),
            fresh=job is None,
            named=named,
            decided=self.urgency.said(tenant, claim.urgency, claim.deadline_s, job),
            parent=parent or claim.span,
            prefix=fingerprint,
            retry=retry,
            claim=claim,
            tenant=tenant,
            chain=chain,
        )

    def _past(self, tenant: TenantSettings) -> Past:
        past = self._pasts.get(tenant.name)
        if past is None:
            limit = max(MIN_HASHES, MAX_HASHES // max(len(self.settings.tenants), 1))

            def live(job: str) -> bool:
                return self._tenants.job_key(tenant, job) in self._driver.scheduler.jobs

            past = self._pasts[tenant.name] = Past(Reader(self._key, tenant.name), Memory(limit), live)
        return past

    def _may_go_on(self, tenant: TenantSettings, before: Turn, claim: Claim) -> bool:
        """Not in a job that was closed, nor in one of another application."""
        closed = self._driver.is_closed(self._tenants.job_key(tenant, before.job))
        return not closed and claim.app in (None, before.app)

    def open_job(self, key: str, job_id: str, app: str | None) -> Job | None:
        """The job if it is open; None if nobody has opened it. Raises ApiError 409."""
        job = self._driver.scheduler.jobs.get(key)
        if self._driver.is_closed(key) or (job is not None and job.closed):
            raise ApiError(409, f"job '{job_id}' was closed; open another", code="job_closed", param="x-hocket-job")
        if job is not None and app is not None and app != job.app.name:
            message = f"job '{job_id}' is of application '{job.app.name}', not of '{app}'; a job has one application"
            raise ApiError(409, message, code="job_of_another_app", param="x-hocket-app")
        return job

    def resume(self, key: str, tenant: TenantSettings) -> None:
        """Open a job again that an earlier process left open, with its past. Not one that was idle for too long."""
        before = self.unfinished.pop(key, None)
        now = time.time()
        if before is None or now - before.heard_at > self.settings.job_idle_s:
            return
        job, driver, past = before.job, self._driver, before.past(now)
        left_s = job.deadline_s - past.age_s
        features: dict[str, float] = msgspec.json.decode(job.features) if job.features else {}
        urgency = max(job.urgency, tenant.most_urgent)
        driver.open_job(key, job.app, tenant.name, urgency, left_s if left_s > 0 else None, features, past)
        for tool in before.tools:
            driver.tell(ev.ToolStarted(driver.clock(), key, tool.run, tool.name, tool.parent))

    # ---------------------------------------------------------------- from arrival to end

    def arrive(self, place: Place, asked: Request, body: bytes = b"", resumable: bool = False) -> LiveCall:
        """The call arrives; its job is opened if it is the first. Give it back with `leave`.

        Raises ApiError 429 or 503 where that job is refused.
        """
        driver, claim, prompt_tokens = self._driver, place.claim, asked.prompt_tokens
        decided, tenant = place.decided, place.tenant
        first = self.urgency.read(decided, place.key, tenant, place.app, asked, body)
        if place.fresh:
            features = asked.features(prompt_tokens)
            assert decided.urgency is not None
            refused = driver.open_job(place.key, place.app, tenant.name, decided.urgency, claim.deadline_s, features)
            if refused is not None:
                raise refusal(refused)
        else:
            waiting = self._lingering.get(tenant.name)
            if waiting is not None:
                waiting.pop(place.key, None)
        past = self._past(tenant)
        if place.chain is not None:
            turn = Turn(place.job, place.app, place.stage, place.parent, place.prefix)
            place.trail = Trail(past.reader, past.memory, place.chain, turn, tools=len(memoryview(asked.tools)) > 0)
        if claim.session is not None:
            past.memory.note(claim.session, place.job, place.stage)
        call = driver.arrive(
            place.key,
            place.stage,
            asked.model,
            prompt_tokens=prompt_tokens,
            max_tokens=asked.limit,
            urgency=None if place.fresh else decided.urgency,
            parent=place.parent,
            hint_output_tokens=claim.hint_output_tokens,
            prefix=place.prefix,
            retry=place.retry,
            resumable=resumable,
            idempotency=None if place.tape is None else place.tape.hash,
            size=len(body),
        )
        self.urgency.arrived(decided, place.key, call.id, first, asked, body)
        return call

    def leave(self, place: Place, call: LiveCall) -> None:
        """The call's client has its answer, or is gone. A job that nobody named ends now or soon."""
        self._driver.leave(call)
        if place.tape is not None:
            place.tape.refused = call.refused
        if place.fresh and self._was_refused(place.key):
            self._driver.undo_job(place.key)
            return
        place.answered()
        if place.named:
            last = place.claim.final and place.job == (place.claim.job or place.claim.session)
            if last and not call.refused:  # else its client may come again with it
                self._driver.end_job(place.key)
        elif place.trail is None:
            # nothing can follow
            self._driver.end_job(place.key)
        elif not place.trail.calls_tools:
            self._linger(place.tenant.name, place.key)

    def _was_refused(self, key: str) -> bool:
        """Whether the job is open, and none of its calls was let in for good."""
        job = self._driver.scheduler.jobs.get(key)
        return job is not None and not job.admitted and not job.calls

    def _linger(self, tenant: str, key: str) -> None:
        waiting = self._lingering.get(tenant)
        if waiting is None:
            waiting = self._lingering[tenant] = OrderedDict()
        waiting[key] = self._driver.clock() + self.settings.identity.idle_s
        waiting.move_to_end(key)
        if len(waiting) > max(MIN_LINGERING, MAX_LINGERING // max(len(self.settings.tenants), 1)):
            self._end(waiting.popitem(last=False)[0])
        if self._timer is None:
            self._wait()

    def _wait(self) -> None:
        """Wake when the job that has waited longest is due."""
        self._timer = None
        dues = [next(iter(waiting.values())) for waiting in self._lingering.values() if waiting]
        if dues:
            due = min(dues)
            delay = max(due - self._driver.clock(), 0.0)
            self._timer = asyncio.get_running_loop().call_later(delay, self.sweep)

    def sweep(self) -> None:
        """End the jobs that have waited long enough."""
        if self._timer is not None:
            self._timer.cancel()
        now = self._driver.clock()
        for waiting in self._lingering.values():
            while waiting and next(iter(waiting.values())) <= now:
                self._end(waiting.popitem(last=False)[0])
        self._wait()

    def _end(self, key: str) -> None:
        job = self._driver.scheduler.jobs.get(key)
        if job is not None and not job.calls and not job.tools:
            self._driver.tell(ev.JobClosed(self._driver.clock(), key, reason="idle"))

    def stop(self) -> None:
        """End no further jobs."""
        if self._timer is not None:
            self._timer.cancel()


def _named(claim: Claim, memory: Memory) -> str | None:
    """The job that a claim names: a session that another one started is part of that one's job."""
    if claim.job is not None:
        return claim.job
    name = claim.parent_session or claim.session
    if name is None:
        return None
    session = memory.session(name)
    return name if session is None else session.job
