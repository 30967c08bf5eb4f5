"""What the benchmark of fairness runs: four tenants on three engines, in the simulator, and what each of them got.

Two of them are closed loops (an agent begins its next job when the last one has ended), which a trace cannot say: the
simulator's driver is told here what follows a job.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, ClassVar, NamedTuple

import msgspec
from _jct_cells import ENGINES as KNOWN

from hocket.assembly import build
from hocket.core import commands as cmd
from hocket.core import events as ev
from hocket.core.ordering import Fact, Scope, View
from hocket.core.state import Call, Tenant
from hocket.sim.driver import Outcome, Simulation
from hocket.sim.experiment import Setup, scheduler_spec
from hocket.sim.workloads import generate
from hocket.trace import Job

TENANTS = ("steady", "bursty", "greedy", "light")
WINDOW_S = 60
SLOTS = {"small": 4, "medium": 8, "large": 16}
"of each engine: so many that at each of them calls wait"
LATER = 1e9
"arrival of a job that comes when another has ended"
PLAIN = "urgency:strict=0:ratio=1.25:within_s=3600>hocket"
"the default policy without shares"
POLICIES = {
    "call-fcfs": "call-fcfs",
    "vtc": "vtc>call-fcfs",
    "plas": "plas",
    "fair": "fair>hocket",
    "hocket": PLAIN,
    "default": "default",
    "hierarchical": "urgency:strict=0:ratio=1.25:within_s=3600>fair-share>hocket",
}


# ---------------------------------------------------------------- jobs


class Loops(NamedTuple):
    """Jobs, of which some follow others."""

    jobs: list[Job]
    follows: dict[str, str]
    "job -> the job that begins when it ends"


def _named(jobs: Iterator[Job], tenant: str) -> Iterator[Job]:
    for number, job in enumerate(jobs):
        yield msgspec.structs.replace(job, job=f"{tenant}-{number}", tenant=tenant, urgency=2)


def _agents(tenant: str, mix: str, agents: int, jobs_each: int, seed: int, begin_s: float = 0.0) -> Loops:
    """So many agents that each do one job after the other. They begin within a second."""
    drawn = list(_named(generate(mix, agents * jobs_each, 1.0, seed, models="three"), tenant))
    follows = {before.job: after.job for before, after in zip(drawn, drawn[agents:], strict=False)}
    jobs = [
        msgspec.structs.replace(job, arrival_s=begin_s + number / agents if number < agents else LATER)
        for number, job in enumerate(drawn)
    ]
    return Loops(jobs, follows)


def busy(seed: int, minutes: float) -> Loops:
    """All four have more to do than they get, for so long."""
    each = math.ceil(10.0 * minutes)
    parts = [
        _agents("steady", "planning", 24, each, 4 * seed),
        _agents("bursty", "chain", 24, each, 4 * seed + 1, begin_s=20.0),
        _agents("greedy", "code-generation", 50, each, 4 * seed + 2),
        _agents("light", "task-automation", 20, each, 4 * seed + 3, begin_s=40.0),
    ]
    return _joined(parts)


def mixed(seed: int, minutes: float, *, greedy: bool = True) -> Loops:
    """Steady arrivals, bursts, now and then a light job, and 50 agents that never pause."""
    end = 60.0 * minutes
    steady = _named(generate("planning", 10**6, 0.8, 4 * seed, models="three"), "steady")
    light = _named(generate("task-automation", 10**6, 0.1, 4 * seed + 3, models="three"), "light")
    bursts = _named(generate("chain", 10**6, 1.0, 4 * seed + 1, models="three"), "bursty")
    parts = [Loops([*_until(steady, end), *_until(light, end)], {})]
    for at in range(30, int(end), 60):
        parts[0].jobs.extend(msgspec.structs.replace(job, arrival_s=float(at)) for job in islice(bursts, 60))
    if greedy:
        parts.append(_agents("greedy", "code-generation", 50, math.ceil(1.2 * minutes), 4 * seed + 2))
    return _joined(parts)


def _until(jobs: Iterator[Job], end: float) -> Iterator[Job]:
    for job in jobs:
        if job.arrival_s >= end:
            return
        yield job


def _joined(parts: Sequence[Loops]) -> Loops:
    jobs = list(chain.from_iterable(part.jobs for part in parts))
    return Loops(jobs, {before: after for part in parts for before, after in part.follows.items()})


class Looped(Simulation):
    """A simulation in which jobs may follow others."""

    def __init__(self, loops: Loops, setup: Setup, scheduler: Any, watch: Watch, until: float) -> None:
        super().__init__(loops.jobs, setup.engines, scheduler, observe=watch.saw)
        self._index = {job.job: index for index, job in enumerate(self._jobs)}
        self._follows = loops.follows
        self._before = watch.before
        self._until = until

    def _tell(self, event: ev.Event) -> None:
        self._before(event)
        if event.at >= self._until:
            self._left = 0
        super()._tell(event)

    def _push_arrival(self, index: int) -> None:
        if index < len(self._jobs) and self._jobs[index].arrival_s < LATER:
            super()._push_arrival(index)

    def _done(self, run: Any) -> None:
        super()._done(run)
        after = self._follows.get(run.job.job)
        if after is not None:
            self._push(self._now, 0, self._index[after])


# ---------------------------------------------------------------- what is seen


class Watch:
    """Slots held and calls waiting, by tenant, in bins of a second."""

    def __init__(self, engines: dict[str, int], models: dict[str, str]) -> None:
        self.slots = engines
        self._models = models
        self._tenant: dict[str, str] = {}  # of a job
        self._call: dict[str, tuple[str, str]] = {}  # -> tenant, engine
        self._held: dict[str, tuple[str, str]] = {}  # call in a slot
        self._holds: dict[tuple[str, str], int] = defaultdict(int)
        self._waits: dict[str, int] = defaultdict(int)
        self._at = 0.0
        #: bin -> (tenant, engine) -> slot-seconds
        self.used: dict[int, dict[tuple[str, str], float]] = defaultdict(lambda: defaultdict(float))
        #: bin -> tenant -> seconds in which no call of it waited
        self.idle: dict[int, dict[str, float]] = defaultdict(lambda: defaultdict(float))

    def before(self, event: ev.Event) -> None:
        """Time has passed until this."""
        while self._at < event.at:
            number = math.floor(self._at)
            until = min(event.at, number + 1.0)
            passed = until - self._at
            for key, count in self._holds.items():
                if count:
                    self.used[number][key] += count * passed
            for tenant in TENANTS:
                if not self._waits[tenant]:
                    self.idle[number][tenant] += passed
            self._at = until

    def saw(self, event: ev.Event, commands: list[cmd.Command]) -> None:
        if isinstance(event, ev.JobOpened):
            self._tenant[event.job] = event.tenant
        elif isinstance(event, ev.CallArrived):
            self._call[event.call] = (self._tenant[event.job], self._models[event.model])
            self._waits[self._tenant[event.job]] += 1
        elif isinstance(event, (ev.CallFinished, ev.CallFailed)):
            self._holds[self._held.pop(event.call)] -= 1
        for command in commands:
            if isinstance(command, cmd.Dispatch):
                key = self._held[command.call] = self._call[command.call]
                self._holds[key] += 1
                self._waits[key[0]] -= 1

    def windows(self, names: Sequence[str] = TENANTS) -> Iterator[tuple[int, list[float]]]:
        """Of each window in which all had calls waiting (but for half a second): dominant shares of `names`."""
        for begin in range(math.floor(self._at) - WINDOW_S):
            bins = range(begin, begin + WINDOW_S)
            if all(sum(self.idle[second][tenant] for second in bins) <= 0.5 for tenant in names):
                yield begin, [self.dominant(tenant, bins) for tenant in names]

    def dominant(self, tenant: str, bins: range) -> float:
        """Its largest share of an engine over these seconds."""
        return max(
            sum(self.used[second][tenant, engine] for second in bins) / (slots * len(bins))
            for engine, slots in self.slots.items()
        )


def jain(shares: Sequence[float]) -> float:
    """Jain's index: 1 if all are equal, 1/n if one has all."""
    return sum(shares) ** 2 / (len(shares) * sum(share * share for share in shares))


class Vtc:
    """Per engine, the tenant that has been served the least tokens: prompt + 2 x answer, counted as calls end.

    Virtual token counter (Sheng et al., OSDI 2024), one an engine: who comes to wait there while none of its calls did
    is lifted to the least of those who wait.
    """

    name: ClassVar[str] = "vtc"
    scope: ClassVar[Scope] = Scope.TENANT
    reads: ClassVar[frozenset[Fact]] = frozenset({Fact.RUNNING})

    def __init__(self) -> None:
        self.counters: dict[tuple[str, str], float] = defaultdict(float)

    def key(self, call: Call, view: View) -> tuple[Any, ...]:
        return (self.counters[call.job.tenant.name, call.engine.name],)

    def before(self, event: ev.Event, scheduler: Any) -> None:
        """Count what the event says, before the core decides by it."""
        if isinstance(event, ev.CallFinished):
            call = scheduler.calls[event.call]
            self.counters[call.job.tenant.name, call.engine.name] += event.prompt_tokens + 2.0 * event.output_tokens
        elif isinstance(event, ev.CallArrived):
            tenant, engine = scheduler.jobs[event.job].tenant, scheduler.engines[event.model]
            others: set[Tenant] = {call.job.tenant for call in engine.queue}
            if others and tenant not in others:
                least = min(self.counters[other.name, engine.name] for other in others)
                key = tenant.name, engine.name
                self.counters[key] = max(self.counters[key], least)


def three_engines() -> Setup:
    """Those of the evaluation of orderings, with SLOTS."""
    setup = KNOWN["three-16"]
    engines = [msgspec.structs.replace(engine, max_concurrency=SLOTS[engine.name]) for engine in setup.engines]
    return msgspec.structs.replace(setup, engines=engines)


class Found(NamedTuple):
    """One run."""

    outcome: Outcome
    watch: Watch


def run(
    loops: Loops,
    policy: str,
    setup: Setup | None = None,
    profiles: dict[str, str] | None = None,
    until: float = math.inf,
) -> Found:
    """These jobs under a policy of POLICIES, or any other, to their end or up to a time."""
    setup = setup or three_engines()
    vtc = Vtc()
    scheduler = build(scheduler_spec(setup, POLICIES.get(policy, policy)), {"vtc": vtc}, profiles)
    watch = Watch(
        {engine.name: engine.replicas * engine.max_concurrency for engine in setup.engines},
        {model: engine.name for engine in setup.engines for model in engine.models},
    )
    if policy == "vtc":
        counted: Callable[[ev.Event], None] = watch.before

        def before(event: ev.Event) -> None:
            counted(event)
            vtc.before(event, scheduler)

        watch.before = before  # type: ignore[method-assign]
    outcome = Looped(loops, setup, scheduler, watch, until).run()
    assert outcome.policy_error is None, f"{policy}: {outcome.policy_error}"
    return Found(outcome, watch)
