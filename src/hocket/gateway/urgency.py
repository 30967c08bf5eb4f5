"""Which class is a call of? Asked in this order; the first that knows decides.

1. an explicit value, capped by the tenant's `most_urgent`; a caller may always lower itself;
2. a deadline;
3. the job's class: a job's later calls need no second reading;
4. the words of the job's first request, read by the domain that is for its application and tenant, which may move it by
   a bounded number of classes from what the settings declare;
5. what the settings declare: of the domain, of the tenant, of all.

A quick reader reads before the call arrives. A slow one, and the judge, answer when the call waits already: then as
`CallRevised`. No call waits for either. docs/decisions/urgency-sources.md says why it is so.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, TypeVar

from msgspec import Struct
from multidict import istr

from hocket.core import events as ev
from hocket.core.state import Job
from hocket.gateway.driver import Driver
from hocket.gateway.judge import Judge
from hocket.gateway.openai import Request
from hocket.gateway.reading import Domain, Read
from hocket.metrics import Metrics
from hocket.settings import Settings, TenantSettings

log = logging.getLogger("hocket.gateway")

T = TypeVar("T")

Source = Literal["explicit", "deadline", "job", "words", "judge", "tenant"]

MAX_UNREAD = 10_000
"jobs that were opened without a request, and wait for one to be read"
MAX_LATE = 1_000
"jobs whose class came when none of their calls was there"
MAX_READING = 64
"texts that may wait for a slow reader; the jobs of further ones keep their class"

_URGENCY, _SOURCE = istr("x-hocket-urgency"), istr("x-hocket-urgency-source")


class First(Struct):
    """A job's first request, from its reading to the last word about it."""

    key: str
    "of the job"
    domain: Domain
    prior: int
    "the class of the job that the settings declare: all readings move from here"
    most_urgent: int
    found: Read | None = None
    "what its words said; None = not read yet"
    told: bool = False
    "whether the job opens with what was found"
    call: str = ""
    "the call, once it has arrived"

    def urgency(self, found: Read) -> int | None:
        """The class of the job by its words; None where they do not tell."""
        return None if found.urgency is None else max(self.domain.moved(self.prior, found.urgency), self.most_urgent)


class Decided(Struct):
    """The class of one call, and who says so. A late answer may change it while the call waits."""

    urgency: int | None
    "of the job if the call opens it, else of the call; None = the job's"
    source: Source


class Urgency:
    """Decides the class of every call. Create it inside the event loop; `change` it when the settings do."""

    def __init__(self, driver: Driver, settings: Settings, metrics: Metrics, judge: Judge | None = None) -> None:
        self._driver, self._metrics, self._judge = driver, metrics, judge
        self._unread: OrderedDict[str, None] = OrderedDict()
        self._late: OrderedDict[str, int] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._threads: ThreadPoolExecutor | None = None
        self._reading = 0
        self.change(settings, ())

    def change(self, settings: Settings, domains: Sequence[Domain]) -> None:
        """Other settings hold from now on. What is being read is read to its end by the reader that began."""
        self._settings, self._domains = settings.urgency, tuple(domains)
        if self._judge is not None:
            self._judge.change(settings)

    def stop(self) -> None:
        """Nothing further is read or judged."""
        for task in self._tasks:
            task.cancel()
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    # ---------------------------------------------------------------- what is said

    def said(self, tenant: TenantSettings, urgency: int | None, deadline_s: float | None, job: Job | None) -> Decided:
        """What a request itself says, else its job. Of a new job that says nothing the class is still to be found."""
        if urgency is not None:
            return Decided(max(urgency, tenant.most_urgent), "explicit")
        if deadline_s is not None:
            by_then = max(bisect_left(self._settings.deadlines_s, deadline_s), tenant.most_urgent)
            if job is None or by_then < job.claimed:  # a later call's deadline can only tell that the job is in a hurry
                return Decided(by_then, "deadline")
        return Decided(None, "tenant" if job is None else "job")

    def opened(self, key: str, tenant: TenantSettings, app: str, urgency: int | None, deadline_s: float | None) -> int:
        """The class of a job that is opened before any of its requests. Where nothing is said, its first is read."""
        self._unread.pop(key, None)  # an earlier job may have had this name, and ended
        self._late.pop(key, None)
        decided = self.said(tenant, urgency, deadline_s, None)
        if decided.urgency is not None:
            return decided.urgency
        domain = self._domain(app, tenant)
        if domain is not None:
            _keep(self._unread, key, None, MAX_UNREAD)
        return self._declared(tenant, domain)

    def _declared(self, tenant: TenantSettings, domain: Domain | None) -> int:
        """By the settings alone: of the domain, else of the tenant, else of all."""
        urgency = tenant.urgency if domain is None or domain.settings.urgency is None else domain.settings.urgency
        return max(self._settings.default if urgency is None else urgency, tenant.most_urgent)

    def _domain(self, app: str, tenant: TenantSettings) -> Domain | None:
        for domain in self._domains:
            if domain.settings.reads(app, tenant.name):
                return domain
        return None

    # ---------------------------------------------------------------- what is read

    def read(
        self, decided: Decided, key: str, tenant: TenantSettings, app: str, asked: Request, body: bytes
    ) -> First | None:
        """Before a call arrives: if it opens its job, `decided` gets a class. Hand on to `arrived` what is returned."""
        job = None
        unread = key in self._unread
        if unread:
            del self._unread[key]
        if decided.source != "tenant":
            if not unread or decided.source != "job":
                return None
            job = self._driver.scheduler.jobs[key]
        domain = self._domain(app, tenant)
        prior = self._declared(tenant, domain) if job is None else job.claimed
        if job is None:
            decided.urgency = prior
        if domain is None:
            return None
        first = First(key, domain, prior, tenant.most_urgent)
        if domain.quick(body):
            first.found = domain.read(asked, body)
            urgency = first.urgency(first.found)
            if urgency is not None and job is None:
                decided.urgency, decided.source, first.told = urgency, "words", True
        return first

    def arrived(self, decided: Decided, key: str, call: str, first: First | None, asked: Request, body: bytes) -> None:
        """The call is there. What is not known yet is asked for; nobody waits for it."""
        late = self._late.pop(key, None) if self._late else None
        if late is not None and decided.source == "job":
            self._driver.tell(ev.CallRevised(self._driver.clock(), call, late))
        known = self._driver.scheduler.calls.get(call)
        if known is not None:
            self._metrics.classed(known, decided.source)
        if first is None:
            return
        first.call = call
        if first.found is not None:
            self._found(decided, first, first.found)
        elif self._reading < MAX_READING:
            self._reading += 1
            self._later(self._read_slowly(decided, first, asked, body))
        else:
            self._metrics.read(first.domain.name, "dropped")

    async def _read_slowly(self, decided: Decided, first: First, asked: Request, body: bytes) -> None:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(1, thread_name_prefix="hocket-reader")
        try:
            loop = asyncio.get_running_loop()
            found = await loop.run_in_executor(self._threads, first.domain.read, asked, body)
        finally:
            self._reading -= 1
        self._found(decided, first, found)

    def _found(self, decided: Decided, first: First, found: Read) -> None:
        """A text was read, or could not be: what its job gets, and whether the judge is asked."""
        urgency = first.urgency(found)
        if urgency is not None:
            self._metrics.read(first.domain.name, "kept" if urgency == first.prior else "moved", found.seconds)
            if not first.told:
                self._revise(decided, first, urgency, "words")
            return
        self._metrics.read(first.domain.name, found.reason, found.seconds)
        if found.text and self._judge is not None and self._judge.on:
            if self._judge.admits():
                self._later(self._ask(decided, first, found.text, self._judge))
            else:
                self._metrics.judged("over_budget")

    async def _ask(self, decided: Decided, first: First, text: str, judge: Judge) -> None:
        """Ask the judge."""

        def tell(urgency: int) -> bool:
            return self._revise(decided, first, max(urgency, first.most_urgent), "judge")

        self._metrics.judged(await judge.ask(first.domain.settings, text, first.prior, tell))

    def _revise(self, decided: Decided, first: First, urgency: int, source: Source) -> bool:
        """The job is of this class, unless it is over or someone has said more since. Returns whether it counted."""
        scheduler = self._driver.scheduler
        job = scheduler.jobs.get(first.key)
        if job is None or job.claimed != first.prior:
            return False
        decided.source = source
        if urgency != first.prior:
            if first.call in scheduler.calls:
                self._driver.tell(ev.CallRevised(self._driver.clock(), first.call, urgency))
            elif not job.closed:
                _keep(self._late, first.key, urgency, MAX_LATE)
        return True

    def _later(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a late reading failed (%s): its job keeps its class", type(error).__name__)

    # ---------------------------------------------------------------- what is answered

    def headers(self, call: str, decided: Decided) -> dict[str, str]:
        """What a client is told of its call's class."""
        known = self._driver.scheduler.calls.get(call)
        if known is None:
            return {}
        source = f"{decided.source};demoted" if known.demoted else decided.source
        return {_URGENCY: str(known.urgency), _SOURCE: source}


def _keep(store: OrderedDict[str, T], key: str, value: T, most: int) -> None:
    """Remember, and forget the oldest where there are too many."""
    store[key] = value
    store.move_to_end(key)
    if len(store) > most:
        store.popitem(last=False)
