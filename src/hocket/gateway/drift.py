"""How far live demand is from what the engines were planned for: is it worth planning again?

Of each application jobs that arrive and tokens of calls that end are summed up with a memory that fades: what came t
seconds ago counts exp(-t / window_s). What the plan led to expect is the same integral over the time since the start,
so that both grow from 0 together.

The *distance* is the share of the planned work that is missing, or new: the sum over applications of
|live - planned| tokens, over all planned tokens (the L1 distance); of prompts or of answers, whichever is the larger.
Small numbers differ by chance: an application counts only as far as it is off by more than twice its standard error.
The variance of a faded sum of jobs that arrive at random is the sum of their squares, faded twice as fast (compound
Poisson), so it needs no second pass. An application that the plan does not know is work of which nothing was planned.

Constant work an event; a scrape goes over the planned applications.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from msgspec import Struct
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from hocket.core import events as ev
from hocket.core.commands import Abort, Command, Refuse, Reject
from hocket.settings.plan import PlannedApp, PlannedFor, PlanSettings

ERRORS = 2.0
"standard errors by which an application may be off by chance"
LEAST = 1e-6
"faded jobs that a mean is made of"
UNPLANNED = PlannedApp(0.0, 0.0, 0.0)


class Faded:
    """A sum that forgets."""

    __slots__ = ("_at", "_sum", "_window_s")

    def __init__(self, window_s: float) -> None:
        self._at, self._sum, self._window_s = 0.0, 0.0, window_s

    def add(self, value: float, at: float) -> None:
        """Add `value` at the time `at`, which does not go back."""
        self._sum, self._at = self.at(at) + value, at

    def at(self, at: float) -> float:
        """What the sum is by then."""
        return self._sum * math.exp((self._at - at) / self._window_s)


class _Work:
    """Tokens, and how far their sum may be off by chance."""

    __slots__ = ("squares", "tokens")

    def __init__(self, window_s: float) -> None:
        self.tokens, self.squares = Faded(window_s), Faded(window_s / 2.0)

    def add(self, tokens: int, before: int, at: float) -> None:
        """A call has ended, of a job that had so many `before`: its square grows with it."""
        self.tokens.add(tokens, at)
        self.squares.add(float(tokens) * (tokens + 2 * before), at)


class _App:
    """What came of one application."""

    __slots__ = ("arrived", "begun", "output", "planned", "prompt")

    def __init__(self, planned: PlannedApp, window_s: float) -> None:
        self.planned = planned
        self.arrived = Faded(window_s)
        self.begun = Faded(window_s)  # of these, those of which a call has ended: others may have been refused
        self.prompt, self.output = _Work(window_s), _Work(window_s)


class _Job(Struct, gc=False):
    """A job under way."""

    app: str
    prompt_tokens: int = 0
    output_tokens: int = 0
    begun: bool = False


class Drift(Collector):
    """An observer of the gateway's driver that Prometheus asks. Without a plan it does nothing, and tells nothing."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: that of the events."""
        self._clock = clock
        self._settings: PlanSettings | None = None
        self._demand: PlannedFor | None = None
        self._apps: dict[str, _App] = {}
        self._jobs: dict[str, _Job] = {}
        self._calls: dict[str, _Job] = {}
        self._handlers: dict[type[ev.Event], Callable[[Any], None]] = {
            ev.JobOpened: self._opened,
            ev.CallArrived: self._arrived,
            ev.CallFinished: self._finished,
            ev.CallCancelled: self._cancelled,
            ev.JobClosed: self._closed,
        }

    def change(self, settings: PlanSettings | None, demand: PlannedFor | None) -> None:
        """From now on compare with this plan; what was seen is forgotten if it is another."""
        if (settings, demand) == (self._settings, self._demand):
            return
        self._settings, self._demand = settings, demand
        self._jobs, self._calls, self._apps = {}, {}, {}
        if settings is not None and demand is not None:
            self._since = self._clock()
            self._apps = {name: _App(planned, settings.window_s) for name, planned in demand.apps.items()}
            self._others = _App(UNPLANNED, settings.window_s)

    # ---------------------------------------------------------------- what happens

    def seen(self, event: ev.Event, commands: Sequence[Command]) -> None:
        """Take note."""
        if not self._apps:
            return
        handler = self._handlers.get(type(event))
        if handler is not None:
            handler(event)
        for command in commands:
            if isinstance(command, Reject | Abort):
                self._calls.pop(command.call, None)
            elif isinstance(command, Refuse):
                self._jobs.pop(command.job, None)

    def _opened(self, event: ev.JobOpened) -> None:
        self._jobs[event.job] = _Job(event.app)
        if event.past is None:  # else it came before a restart
            self._of(event.app).arrived.add(1.0, event.at)

    def _arrived(self, event: ev.CallArrived) -> None:
        job = self._jobs.get(event.job)
        if job is not None:
            self._calls[event.call] = job

    def _finished(self, event: ev.CallFinished) -> None:
        """Counted now: jobs that nobody closes are open for long after."""
        job = self._calls.pop(event.call, None)
        if job is not None:
            app = self._of(job.app)
            if not job.begun:
                job.begun = True
                app.begun.add(1.0, event.at)
            app.prompt.add(event.prompt_tokens, job.prompt_tokens, event.at)
            app.output.add(event.output_tokens, job.output_tokens, event.at)
            job.prompt_tokens += event.prompt_tokens
            job.output_tokens += event.output_tokens

    def _cancelled(self, event: ev.CallCancelled) -> None:
        self._calls.pop(event.call, None)

    def _closed(self, event: ev.JobClosed) -> None:
        self._jobs.pop(event.job, None)

    def _of(self, app: str) -> _App:
        return self._apps.get(app, self._others)

    # ---------------------------------------------------------------- what comes of it

    def distance(self) -> float:
        """The share of the planned work that is missing or new, beyond what chance explains."""
        return max(self._distance("prompt"), self._distance("output"))

    def _distance(self, side: str) -> float:
        assert self._settings is not None
        now, window_s = self._clock(), self._settings.window_s
        passed = (now - self._since) / window_s
        full, twice = -math.expm1(-passed) * window_s, -math.expm1(-2.0 * passed) * window_s / 2.0
        off = whole = 0.0
        for app in (*self._apps.values(), self._others):
            a_job, work = getattr(app.planned, f"{side}_tokens"), getattr(app, side)
            expected = app.planned.per_s * a_job * full
            # of jobs that did not come the squares are not known: those of mean ones
            squares = max(work.squares.at(now), app.planned.per_s * a_job**2 * twice)
            off += max(0.0, abs(work.tokens.at(now) - expected) - ERRORS * math.sqrt(squares))
            whole += expected
        return off / whole if whole else 0.0

    def ratios(self) -> Iterable[tuple[str, str, float]]:
        """(application, of what, ln(live / planned)), where there is something to compare."""
        assert self._settings is not None
        now, window_s = self._clock(), self._settings.window_s
        full = -math.expm1((self._since - now) / window_s) * window_s
        for name, app in self._apps.items():
            # half a job on both sides: finite where none came, and 0 at the start
            yield name, "rate", math.log((app.arrived.at(now) + 0.5) / (app.planned.per_s * full + 0.5))
            begun = app.begun.at(now)
            for side in ("prompt", "output"):
                tokens, planned = getattr(app, side).tokens.at(now), getattr(app.planned, f"{side}_tokens")
                if begun > LEAST and tokens > 0.0 and planned > 0.0:
                    yield name, f"{side}_tokens", math.log(tokens / begun / planned)

    def collect(self) -> Iterable[Metric]:
        """See `Collector`."""
        text = "ln(live / planned) of an application: jobs a second, tokens a job"
        drift = GaugeMetricFamily("hocket_plan_drift", text, labels=["app", "of"])
        distance = GaugeMetricFamily("hocket_plan_distance", "share of the planned work that is missing or new")
        stale = GaugeMetricFamily("hocket_plan_stale", "1 while that is more than plan.threshold: plan again")
        if self._settings is not None and self._apps:
            for app, of, value in self.ratios():
                drift.add_metric([app, of], value)
            share = self.distance()
            distance.add_metric([], share)
            stale.add_metric([], share > self._settings.threshold)
        return [drift, distance, stale]
