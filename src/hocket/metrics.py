"""Prometheus metrics: counted from the events and commands that pass, gauges read from the core when scraped.

Label values that clients choose (application names) are capped: beyond the cap they are counted as `other`. The list
is docs/reference/metrics.md; a test keeps it and this module equal. Counting is plain dictionaries and lists; the
client library, whose locks would cost more than the core does, sees them when it is asked for the text.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Any

from msgspec import Struct
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from hocket.core import events as ev
from hocket.core.commands import Abort, Command, Dispatch, Refuse, Reject
from hocket.core.scheduler import Scheduler
from hocket.core.state import CLASSES, Call

MAX_APPS = 100
"application names that get a label of their own"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000)
_CLASSES = "01234"
_BOUNDS = [*(str(float(bound)) for bound in _SECONDS), "+Inf"]


class Count:
    """One value of a counter."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0


class Counter:
    """A counter: one value for each combination of label values."""

    def __init__(self, name: str, text: str, *labels: str) -> None:
        self._name, self._text, self._labels = name, text, labels
        self._of: dict[tuple[str, ...], Count] = {}

    def of(self, *labels: str) -> Count:
        """The value of these labels; it is there from then on."""
        count = self._of.get(labels)
        if count is None:
            count = self._of[labels] = Count()
        return count

    def add(self, *labels: str) -> None:
        """Count one."""
        self.of(*labels).value += 1.0

    def family(self) -> Metric:
        """As the client library wants it."""
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for labels, count in self._of.items():
            family.add_metric(labels, count.value)
        return family


class Buckets:
    """A histogram of seconds, of one label value."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * len(_BOUNDS)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(_SECONDS, seconds)] += 1
        self.total += seconds


class Histogram:
    """A histogram of seconds for each value of one label."""

    def __init__(self, name: str, text: str, label: str) -> None:
        self._name, self._text, self._label = name, text, label
        self._of: dict[str, Buckets] = {}

    def of(self, label: str) -> Buckets:
        """The one of this label value; it is there from then on."""
        buckets = self._of.get(label)
        if buckets is None:
            buckets = self._of[label] = Buckets()
        return buckets

    def family(self) -> Metric:
        """As the client library wants it."""
        family = HistogramMetricFamily(self._name, self._text, labels=[self._label])
        for label, buckets in self._of.items():
            cumulative = map(float, accumulate(buckets.counts))
            family.add_metric([label], list(zip(_BOUNDS, cumulative, strict=True)), buckets.total)
        return family


class _OfEngine:
    """What is counted for one engine at each call: its labels are made once."""

    __slots__ = ("duration", "finished", "first_token", "output", "prompt", "wait")

    def __init__(self, metrics: Metrics, engine: str) -> None:
        self.wait = metrics.wait.of(engine)
        self.first_token = metrics.first_token.of(engine)
        self.duration = metrics.duration.of(engine)
        self.prompt, self.output = metrics.tokens.of(engine, "prompt"), metrics.tokens.of(engine, "output")
        self.finished = metrics.calls.of(engine, "finished")


class _Call(Struct, gc=False):
    """A call under way."""

    of: _OfEngine
    engine: str
    job: str
    arrived_at: float
    dispatched: bool = False
    streamed: bool = False


class _Job(Struct, gc=False):
    """A job under way."""

    app: str
    opened_at: float
    ended_at: float
    reason: str = "closed"


class Metrics(Collector):
    """Sees every event and its commands; `render` gives the exposition text."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._calls: dict[str, _Call] = {}
        self._jobs: dict[str, _Job] = {}
        self._apps: set[str] = set()
        self.calls = Counter("hocket_calls", "calls that ended", "engine", "outcome")
        self.wait = Histogram("hocket_queue_wait_seconds", "from a call's arrival to its first dispatch", "engine")
        self.first_token = Histogram("hocket_time_to_first_token_seconds", "from arrival to the first chunk", "engine")
        self.duration = Histogram("hocket_call_duration_seconds", "from a call's arrival to its end", "engine")
        self.tokens = Counter("hocket_tokens", "tokens of finished calls", "engine", "direction")
        self.failures = Counter("hocket_replica_failures", "calls that a replica failed", "engine", "kind")
        self.displaced = Counter("hocket_calls_displaced", "calls that left a slot to others", "engine", "goes_on")
        self.jobs = Counter("hocket_jobs", "jobs that ended", "app", "reason")
        self.job_duration = Histogram("hocket_job_duration_seconds", "job arrival to its last stage's end", "app")
        self.tools = Counter("hocket_tool_runs", "tool runs that ended", "app")
        self.refused = Counter("hocket_refused_requests", "requests that were answered by an error at once", "code")
        self.profiles_refused = Counter("hocket_profiles_refused", "profiles that could not be used")
        self.profiles_refused.of()
        self.classes = Counter("hocket_call_classes", "calls by the class they arrived with", "source", "urgency")
        self.demotions = Counter("hocket_demotions", "calls demoted for their tenant's budget", "tenant")
        self.readings = Counter("hocket_readings", "first requests that a reader was shown", "reader", "outcome")
        self.reading = Histogram("hocket_reading_seconds", "time that the reading of one text takes", "reader")
        self.judgements = Counter("hocket_judgements", "texts that readers left to the judge", "outcome")
        self._of: dict[str, _OfEngine] = {}
        for name in scheduler.engines:
            self._of_engine(name)
        self._handlers: dict[type[ev.Event], Callable[[Any], None]] = {
            ev.CallArrived: self._arrived,
            ev.CallStreamed: self._streamed,
            ev.CallFinished: self._finished,
            ev.CallCancelled: self._cancelled,
            ev.CallFailed: self._failed,
            ev.CallPreempted: self._displaced,
            ev.JobOpened: self._opened,
            ev.JobClosed: self._closing,
            ev.ToolFinished: self._tool_finished,
        }
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self.registry.register(_State(scheduler))

    def collect(self) -> Iterable[Metric]:
        """See `Collector`."""
        counted = (self.calls, self.wait, self.first_token, self.duration, self.tokens, self.failures, self.displaced)
        urgency = (self.classes, self.demotions, self.readings, self.reading, self.judgements)
        others = (self.jobs, self.job_duration, self.tools, self.refused, self.profiles_refused)
        for one in (*counted, *others, *urgency):
            yield one.family()
        yield from self._learned()

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)

    def refuse(self, code: str) -> None:
        """A request was bad, or nobody's: it did not become a call."""
        self.refused.add(code)

    def refuse_profile(self) -> None:
        """A profile could not be used."""
        self.profiles_refused.add()

    def classed(self, call: Call, source: str) -> None:
        """A call has arrived, and its class is known by then from this source."""
        self.classes.add(source, _CLASSES[call.urgency])
        if call.demoted:
            self.demotions.add(call.job.tenant.name)

    def read(self, reader: str, outcome: str, seconds: float = 0.0) -> None:
        """A first request was read; no seconds = there was nothing to read."""
        self.readings.add(reader, outcome)
        if seconds:
            self.reading.of(reader).observe(seconds)

    def judged(self, outcome: str) -> None:
        """A text was left to the judge."""
        self.judgements.add(outcome)

    def _learned(self) -> Iterable[Metric]:
        """How the beliefs about each application fare."""
        learned = CounterMetricFamily(
            "hocket_jobs_learned", "closed jobs that beliefs were learned from", labels=["app"]
        )
        text = "mean |ln(engine seconds / what was foretold when the first step ended)| of recent jobs"
        error = GaugeMetricFamily("hocket_belief_error", text, labels=["app"])
        counts: dict[str, int] = {}
        errors: dict[str, list[float]] = {}
        beliefs = self._scheduler.beliefs
        for app, jobs, recent in () if beliefs is None else beliefs.report():
            label = self._app(app)
            counts[label] = counts.get(label, 0) + jobs
            errors.setdefault(label, []).extend(recent)
        for label, count in counts.items():
            learned.add_metric([label], count)
            if errors[label]:
                error.add_metric([label], sum(errors[label]) / len(errors[label]))
        return [learned, error]

    def seen(self, event: ev.Event, commands: Sequence[Command]) -> None:
        """Count one event and what the core ordered."""
        kind = type(event)
        handler = self._handlers.get(kind)
        if handler is not None:
            handler(event)
        for command in commands:
            self._ordered(command, event.at)
        if kind is ev.JobClosed and event.job not in self._scheduler.jobs:  # type: ignore[attr-defined]
            self._closed(event.job)  # type: ignore[attr-defined]

    def _ordered(self, command: Command, at: float) -> None:
        if type(command) is Dispatch:
            call = self._calls.get(command.call)
            if call is not None and not call.dispatched:
                call.dispatched = True
                call.of.wait.observe(at - call.arrived_at)
        elif isinstance(command, Reject):
            self._ended(command.call, "rejected", at)
        elif isinstance(command, Abort):
            self._ended(command.call, "aborted", at)
        elif isinstance(command, Refuse) and (job := self._jobs.pop(command.job, None)) is not None:
            self.jobs.add(job.app, "refused")

    def _of_engine(self, name: str) -> _OfEngine:
        """Engines come with the settings, and with new ones."""
        of = self._of.get(name)
        if of is None:
            of = self._of[name] = _OfEngine(self, name)
        return of

    def _arrived(self, event: ev.CallArrived) -> None:
        call = self._scheduler.calls.get(event.call)
        if call is not None:
            name = call.engine.name
            self._calls[event.call] = _Call(self._of_engine(name), name, event.job, event.at)

    def _streamed(self, event: ev.CallStreamed) -> None:
        call = self._calls.get(event.call)
        if call is not None and event.tokens and not call.streamed:
            call.streamed = True
            call.of.first_token.observe(event.at - call.arrived_at)

    def _finished(self, event: ev.CallFinished) -> None:
        call = self._calls.pop(event.call, None)
        if call is None:
            return
        of = call.of
        of.finished.value += 1.0
        of.duration.observe(event.at - call.arrived_at)
        of.prompt.value += event.prompt_tokens
        of.output.value += event.output_tokens
        self._stage_ended(call.job, event.at)

    def _cancelled(self, event: ev.CallCancelled) -> None:
        self._ended(event.call, "cancelled", event.at)

    def _failed(self, event: ev.CallFailed) -> None:
        call = self._calls.get(event.call)
        if call is not None:
            self.failures.add(call.engine, event.kind)

    def _displaced(self, event: ev.CallPreempted) -> None:
        call = self._calls.get(event.call)
        if call is not None:
            self.displaced.add(call.engine, "resumed" if event.tokens_kept else "anew")

    def _ended(self, call_id: str, outcome: str, at: float) -> None:
        call = self._calls.pop(call_id, None)
        if call is not None:
            self.calls.add(call.engine, outcome)
            self._stage_ended(call.job, at)

    def _stage_ended(self, job_id: str, at: float) -> None:
        job = self._jobs.get(job_id)
        if job is not None:
            job.ended_at = at
            if job_id not in self._scheduler.jobs:  # it was closed while this call ran
                self._closed(job_id)

    def _opened(self, event: ev.JobOpened) -> None:
        self._jobs[event.job] = _Job(self._app(event.app), event.at, event.at)

    def _closing(self, event: ev.JobClosed) -> None:
        # before the commands: they may abort its calls, and the last of them ends the job
        job = self._jobs.get(event.job)
        if job is not None:
            job.reason = event.reason

    def _tool_finished(self, event: ev.ToolFinished) -> None:
        job = self._jobs.get(event.job)
        if job is not None:
            job.ended_at = event.at
            self.tools.add(job.app)

    def _closed(self, job_id: str) -> None:
        """The job is over."""
        job = self._jobs.pop(job_id, None)
        if job is not None:
            self.jobs.add(job.app, job.reason)
            self.job_duration.of(job.app).observe(job.ended_at - job.opened_at)

    def _app(self, name: str) -> str:
        if name not in self._apps:
            if len(self._apps) >= MAX_APPS:
                return "other"
            self._apps.add(name)
        return name


class _State(Collector):
    """Gauges: what the core looks like at the moment of a scrape."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def collect(self) -> Iterable[Metric]:
        """See `Collector`."""
        core = self._scheduler

        def gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(name, text, labels=labels)

        queued = gauge("hocket_queue_depth", "calls that wait", "engine")
        inflight = gauge("hocket_inflight", "calls that hold a slot", "engine", "replica")
        window = gauge("hocket_window", "calls that a replica may hold", "engine", "replica")
        for engine in core.engines.values():
            queued.add_metric([engine.name], engine.queued)
            for replica in engine.replicas.values():
                inflight.add_metric([engine.name, replica.id], replica.inflight)
                window.add_metric([engine.name, replica.id], replica.window)
        running = gauge("hocket_tenant_running", "calls of a tenant that hold a slot", "tenant")
        for tenant in core.tenants.values():
            running.add_metric([tenant.name], tenant.running)
        jobs = gauge("hocket_jobs_open", "jobs that are open")
        jobs.add_metric([], len(core.jobs))
        wait = gauge(
            "hocket_forecast_wait_seconds", "until a new call of the class would get a slot", "engine", "urgency"
        )
        for engine in core.engines.values():
            for urgency in range(CLASSES):
                wait.add_metric([engine.name, str(urgency)], core.wait_s(engine, urgency))
        held = gauge("hocket_held_bytes", "that requests of open calls take")
        held.add_metric([], core.whole.size)
        admitted = CounterMetricFamily("hocket_jobs_admitted", "jobs whose first call was let in")
        admitted.add_metric([], core.whole.admitted)
        refused = CounterMetricFamily(
            "hocket_refusals", "jobs and calls that were refused", labels=["reason", "status"]
        )
        for (reason, status), count in core.whole.refused.items():
            refused.add_metric([reason, str(status)], count)
        failed = gauge("hocket_policy_failed", "1 once a policy raised and call-fcfs took over")
        failed.add_metric([], core.policy_error is not None)
        return [queued, inflight, window, running, jobs, wait, held, admitted, refused, failed]
