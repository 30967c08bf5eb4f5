"""Prometheus metrics: counted from the events and commands that pass, gauges read from the core when scraped.

Label values that clients choose (application names) are capped: beyond the cap they are counted as `other`. The list
is docs/reference/metrics.md; a test keeps it and this module equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from hocket.core import events as ev
from hocket.core.commands import Abort, Command, Dispatch, Reject
from hocket.core.scheduler import Scheduler

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, which nobody reads

MAX_APPS = 100
"application names that get a label of their own"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000)


class _OfEngine:
    """The children of one engine, bound once: a look-up by labels costs more than the observation."""

    def __init__(self, metrics: Metrics, engine: str) -> None:
        self.wait = metrics.wait.labels(engine)
        self.first_token = metrics.first_token.labels(engine)
        self.duration = metrics.duration.labels(engine)
        self.prompt = metrics.tokens.labels(engine, "prompt")
        self.output = metrics.tokens.labels(engine, "output")
        self.finished = metrics.calls.labels(engine, "finished")


class _Call(Struct):
    """A call under way."""

    engine: str
    job: str
    arrived_at: float
    dispatched: bool = False
    streamed: bool = False


class _Job(Struct):
    """A job under way."""

    app: str
    opened_at: float
    ended_at: float
    reason: str = "closed"


class Metrics:
    """Sees every event and its commands; `render` gives the exposition text."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._calls: dict[str, _Call] = {}
        self._jobs: dict[str, _Job] = {}
        self._apps: set[str] = set()
        self.registry = CollectorRegistry()
        self._define()
        self._of = {name: _OfEngine(self, name) for name in scheduler.engines}
        self.registry.register(_State(scheduler))

    def _define(self) -> None:
        def histogram(name: str, text: str, label: str) -> Histogram:
            return Histogram(name, text, [label], buckets=_SECONDS, registry=self.registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=self.registry)

        self.calls = counter("hocket_calls", "calls that ended", "engine", "outcome")
        self.wait = histogram("hocket_queue_wait_seconds", "from a call's arrival to its first dispatch", "engine")
        self.first_token = histogram("hocket_time_to_first_token_seconds", "from arrival to the first chunk", "engine")
        self.duration = histogram("hocket_call_duration_seconds", "from a call's arrival to its end", "engine")
        self.tokens = counter("hocket_tokens", "tokens of finished calls", "engine", "direction")
        self.failures = counter("hocket_replica_failures", "calls that a replica failed", "engine", "kind")
        self.jobs = counter("hocket_jobs", "jobs that ended", "app", "reason")
        self.job_duration = histogram("hocket_job_duration_seconds", "job arrival to its last stage's end", "app")
        self.tools = counter("hocket_tool_runs", "tool runs that ended", "app")
        self.refused = counter("hocket_refused_requests", "requests that were answered by an error at once", "code")

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)

    def refuse(self, code: str) -> None:
        """A request was bad, or nobody's: it did not become a call."""
        self.refused.labels(code).inc()

    def seen(self, event: ev.Event, commands: Sequence[Command]) -> None:
        """Count one event and what the core ordered."""
        match event:
            case ev.CallArrived():
                self._arrived(event)
            case ev.CallStreamed():
                self._streamed(event)
            case ev.CallFinished():
                self._finished(event)
            case ev.CallCancelled():
                self._ended(event.call, "cancelled", event.at)
            case ev.CallFailed():
                if (call := self._calls.get(event.call)) is not None:
                    self.failures.labels(call.engine, event.kind).inc()
            case ev.JobOpened():
                self._jobs[event.job] = _Job(self._app(event.app), event.at, event.at)
            case ev.ToolFinished():
                self._tool_finished(event)
            case ev.JobClosed():
                self._closing(event)
        for command in commands:
            self._ordered(command, event.at)
        if isinstance(event, ev.JobClosed):
            self._closed(event.job)

    def _ordered(self, command: Command, at: float) -> None:
        if isinstance(command, Dispatch):
            call = self._calls.get(command.call)
            if call is not None and not call.dispatched:
                call.dispatched = True
                self._of[call.engine].wait.observe(at - call.arrived_at)
        elif isinstance(command, Reject):
            self._ended(command.call, "rejected", at)
        elif isinstance(command, Abort):
            self._ended(command.call, "aborted", at)

    def _arrived(self, event: ev.CallArrived) -> None:
        call = self._scheduler.calls.get(event.call)
        if call is not None:
            self._calls[event.call] = _Call(call.engine.name, event.job, event.at)

    def _streamed(self, event: ev.CallStreamed) -> None:
        call = self._calls.get(event.call)
        if call is not None and not call.streamed:
            call.streamed = True
            self._of[call.engine].first_token.observe(event.at - call.arrived_at)

    def _finished(self, event: ev.CallFinished) -> None:
        call = self._calls.pop(event.call, None)
        if call is None:
            return
        of = self._of[call.engine]
        of.finished.inc()
        of.duration.observe(event.at - call.arrived_at)
        of.prompt.inc(event.prompt_tokens)
        of.output.inc(event.output_tokens)
        self._stage_ended(call.job, event.at)

    def _ended(self, call_id: str, outcome: str, at: float) -> None:
        call = self._calls.pop(call_id, None)
        if call is not None:
            self.calls.labels(call.engine, outcome).inc()
            self._stage_ended(call.job, at)

    def _stage_ended(self, job_id: str, at: float) -> None:
        job = self._jobs.get(job_id)
        if job is not None:
            job.ended_at = at
            # a job that was closed while this call ran is over now
            self._closed(job_id)

    def _closing(self, event: ev.JobClosed) -> None:
        # before the commands: they may abort its calls, and the last of them ends the job
        job = self._jobs.get(event.job)
        if job is not None:
            job.reason = event.reason

    def _tool_finished(self, event: ev.ToolFinished) -> None:
        job = self._jobs.get(event.job)
        if job is not None:
            job.ended_at = event.at
            self.tools.labels(job.app).inc()

    def _closed(self, job_id: str) -> None:
        if job_id in self._jobs and job_id not in self._scheduler.jobs:
            job = self._jobs.pop(job_id)
            self.jobs.labels(job.app, job.reason).inc()
            self.job_duration.labels(job.app).observe(job.ended_at - job.opened_at)

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
        failed = gauge("hocket_policy_failed", "1 once a policy raised and call-fcfs took over")
        failed.add_metric([], core.policy_error is not None)
        return [queued, inflight, window, running, jobs, failed]
