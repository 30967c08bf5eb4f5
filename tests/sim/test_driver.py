"""The simulator's driver: what the core may see, what may not be lost, what is refused."""

import itertools
import random
from typing import Any

import msgspec
import pytest

from hocket.assembly import build
from hocket.core import events as ev
from hocket.core.commands import Abort, Command, Dispatch, Reject
from hocket.core.scheduler import Scheduler
from hocket.errors import InputError
from hocket.sim.driver import Outcome, Simulation
from hocket.sim.experiment import Setup, scheduler_spec, simulate
from hocket.trace import Job
from tests.sim.worlds import as_jobs, as_setup, random_engines, random_jobs

POLICIES = ["call-fcfs", "fcfs", "las", "sjf", "urgency>fair>las"]


def world(seed: int, count: int = 50) -> tuple[list[Job], Setup]:
    rng = random.Random(seed)
    engines = random_engines(rng)
    return as_jobs(random_jobs(rng, count, len(engines), rate=rng.choice([0.3, 2, 20]))), as_setup(engines)


class Watch:
    """Checks every event and command against what must hold."""

    def __init__(self, jobs: list[Job], setup: Setup, scheduler: Scheduler) -> None:
        self.jobs = {job.job: job for job in jobs}
        self.windows = {e.name: e.max_concurrency for e in setup.engines}
        self.scheduler = scheduler
        self.at = 0.0
        self.inside: dict[str, str] = {}  # call -> replica
        self.arrived: dict[str, ev.CallArrived] = {}
        self.ended: list[str] = []
        self.open: set[str] = set()

    def __call__(self, event: ev.Event, commands: list[Command]) -> None:
        assert event.at >= self.at
        self.at = event.at
        match event:
            case ev.JobOpened():
                assert event.job not in self.open
                self.open.add(event.job)
            case ev.CallArrived():
                assert event.job in self.open
                assert event.call not in self.arrived
                self.arrived[event.call] = event
            case ev.CallStarted() | ev.CallStreamed():
                assert event.call in self.inside
            case ev.CallFinished():
                del self.inside[event.call]
                self.ended.append(event.call)
            case ev.CallFailed():
                del self.inside[event.call]
            case ev.JobClosed():
                self.open.remove(event.job)
        for command in commands:
            if isinstance(command, Dispatch):
                assert command.call not in self.inside
                self.inside[command.call] = command.replica
                assert list(self.inside.values()).count(command.replica) <= self.windows[command.engine]
            elif isinstance(command, Abort | Reject):
                self.inside.pop(command.call, None)
                self.ended.append(command.call)
        self.scheduler.check()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("seed", range(100, 108))
def test_nothing_is_lost_and_windows_hold(seed: int, policy: str) -> None:
    jobs, setup = world(seed)
    scheduler = build(scheduler_spec(setup, policy))
    watch = Watch(jobs, setup, scheduler)
    outcome = Simulation(jobs, setup.engines, scheduler, observe=watch).run()
    calls = sum(stage.kind == "llm" for job in jobs for stage in job.stages)
    assert len(watch.arrived) == len(watch.ended) == len(set(watch.ended)) == calls
    assert not watch.inside and not watch.open
    assert outcome.jct_s.keys() == {job.job for job in jobs}
    assert sum(map(len, outcome.waits_s.values())) == calls


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("seed", range(200, 208))
def test_refusals_lose_nothing(seed: int, policy: str) -> None:
    """Calls of unknown models and prompts too long, anywhere: every job completes or is rejected, every call ends."""
    jobs, setup = world(seed)
    rng = random.Random(seed)
    for job in jobs:
        stage = rng.choice(job.stages)
        if stage.kind == "llm" and rng.random() < 0.5:
            stage.model, stage.prompt_tokens = rng.choice([("x", 1), (stage.model, 10**6)])
            stage.shares_prefix = None
    scheduler = build(scheduler_spec(setup, policy))
    watch = Watch(jobs, setup, scheduler)
    outcome = Simulation(jobs, setup.engines, scheduler, observe=watch).run()
    assert sorted([*outcome.jct_s, *outcome.rejected]) == sorted(job.job for job in jobs)
    assert outcome.jct_s and outcome.rejected
    assert sorted(watch.ended) == sorted(watch.arrived)
    assert not watch.inside and not watch.open and not scheduler.jobs and not scheduler.calls


@pytest.mark.parametrize("policy", [*POLICIES, "oracle"])
def test_same_inputs_same_run(policy: str) -> None:
    jobs, setup = world(7)
    assert simulate(jobs, setup, policy) == simulate(jobs, setup, policy)


def test_the_core_sees_no_future() -> None:
    """Up to any moment, the core's events are the same whatever the stages that have not ended would have been."""
    jobs, setup = world(11, count=20)
    seen = events_of(jobs, setup)
    for poisoned_job in ("j3", "j9"):
        for index in range(len(jobs[int(poisoned_job[1:])].stages)):
            poisoned = msgspec.convert(msgspec.to_builtins(jobs), list[Job])
            stage = poisoned[int(poisoned_job[1:])].stages[index]
            end = next(event.at for event, key in seen if key == (poisoned_job, stage.id))
            poison(stage)
            before = [event for event, _ in seen if event.at < end]
            # the poisoned stage lasts longer, so nothing differs before the moment at which it once ended
            assert [event for event, _ in events_of(poisoned, setup)][: len(before)] == before


def poison(stage: Any) -> None:
    """Make it last longer: a size that the core may not know before."""
    if stage.kind == "tool":
        stage.duration_s += 1000.0
    else:
        stage.output_tokens += 1000


def events_of(jobs: list[Job], setup: Setup) -> list[tuple[ev.Event, tuple[str, str] | None]]:
    """All events under `las`; with those that end a stage, (job, stage)."""
    setup = Setup([msgspec.structs.replace(engine, kv_tokens=None) for engine in setup.engines])
    seen: list[tuple[ev.Event, list[Command]]] = []
    record = frozenset(job.job for job in jobs)
    scheduler = build(scheduler_spec(setup, "las"))
    outcome = Simulation(
        jobs, setup.engines, scheduler, record=record, observe=lambda event, commands: seen.append((event, commands))
    ).run()
    spans = iter(outcome.spans)
    return [
        (event, (span.job, span.stage))
        if isinstance(event, ev.CallFinished | ev.ToolFinished) and (span := next(spans))
        else (event, None)
        for event, _ in seen
    ]


def test_a_refused_job_is_listed_and_leaves_the_others_alone() -> None:
    engine = {"name": "e", "models": ["m"], "max_concurrency": 2, "kv_tokens": 100, "latency": {"d0": 0.01, "q2": 1e-3}}
    stage = {"name": "s", "kind": "llm", "model": "m", "prompt_tokens": 50, "output_tokens": 40}

    def job(name: str, *stages: dict[str, Any]) -> dict[str, Any]:
        return {"job": name, "app": "a", "stages": [stage | {"id": f"s{i}"} | s for i, s in enumerate(stages)]}

    too_long = job("long", {}, {"prompt_tokens": 101}, {"needs": ["s0"]})
    unknown = job("unknown", {}, {"needs": ["s0"], "model": "x"}, {"id": "t", "kind": "tool", "duration_s": 9.0})
    good = [job(f"good{i}", {}, {"needs": ["s0"]}) for i in range(3)]

    outcome = simulate(as_jobs([too_long, unknown, *good]), as_setup([engine]), "fcfs")
    assert outcome.jct_s.keys() == {"good0", "good1", "good2"}
    assert outcome.rejected == {"long": "stage s1: 400 upstream_status", "unknown": "stage s1: 404 unknown_model"}
    assert outcome.makespan_s < 9  # nobody waits for the tool of a job that is over


def test_waits_are_those_of_hockets_queue() -> None:
    """One at a time, three at once, 1 s each: they wait 0, 1 and 2 s."""
    engine = {"name": "e", "models": ["m"], "max_concurrency": 1, "latency": {"q0": 1.0}}
    stage = {"id": "s", "name": "s", "kind": "llm", "model": "m", "prompt_tokens": 1, "output_tokens": 1}
    jobs = as_jobs([{"job": f"j{i}", "app": "a", "stages": [stage]} for i in range(3)])
    outcome: Outcome = simulate(jobs, as_setup([engine]), "fcfs")
    assert outcome.waits_s == {"j0": [0.0], "j1": [1.0], "j2": [2.0]}
    assert outcome.jct_s == {"j0": 1.0, "j1": 2.0, "j2": 3.0}


def test_progress_is_told_only_where_it_is_wanted() -> None:
    jobs, setup = world(13, count=10)
    for policy, wanted in {"fcfs": False, "las": True}.items():
        counts: dict[str, list[float]] = {}

        def observe(event: ev.Event, commands: list[Command], counts: dict[str, list[float]] = counts) -> None:
            if isinstance(event, ev.CallStreamed):
                counts.setdefault(event.call, []).append(event.at)

        Simulation(jobs, setup.engines, build(scheduler_spec(setup, policy)), observe=observe).run()
        assert any(len(times) > 1 for times in counts.values()) == wanted
        gaps = [b - a for times in counts.values() for a, b in itertools.pairwise(times)]
        assert all(gap >= 0.25 - 1e-9 for gap in gaps)


def test_oracle_goes_by_what_is_left() -> None:
    """One at a time: the short job overtakes the long one, and the long one's own end comes last."""
    engine = {"name": "e", "models": ["m"], "max_concurrency": 1, "latency": {"q0": 1.0, "d0": 1.0}}

    def job(name: str, sizes: list[int]) -> dict[str, Any]:
        stages = [
            {"id": f"s{i}", "name": "s", "kind": "llm", "model": "m", "prompt_tokens": 1, "output_tokens": size}
            | {"needs": [f"s{i - 1}"] if i else []}
            for i, size in enumerate(sizes)
        ]
        return {"job": name, "app": "a", "stages": stages}

    jobs = as_jobs([job("long", [2, 9]), job("middle", [3, 3]), job("short", [1, 1])])
    fcfs, oracle = (simulate(jobs, as_setup([engine]), policy).jct_s for policy in ("fcfs", "oracle"))
    assert list(oracle) == ["short", "middle", "long"]
    assert sum(oracle.values()) < sum(fcfs.values())


@pytest.mark.timeout(20)
def test_a_call_that_can_never_run_ends_the_simulation() -> None:
    """An engine of the core that no replica serves: its jobs would stay open, and be looked at again, for ever."""
    engines = [{"name": n, "models": [n], "max_concurrency": 2, "latency": {"d0": 0.01}} for n in ("e", "f")]
    setup = as_setup(engines)
    stage = {"id": "s", "name": "ask", "kind": "llm", "prompt_tokens": 1, "output_tokens": 3}
    jobs = as_jobs([{"job": f"j{i}", "app": "a", "stages": [stage | {"model": n}]} for i, n in enumerate("eef")])
    scheduler = build(scheduler_spec(setup, "fcfs"))
    with pytest.raises(InputError, match=r"1 of 3 jobs wait; .* stage 'ask' waits for engine 'f'.*give it one"):
        Simulation(jobs, setup.engines[:1], scheduler).run()


@pytest.mark.parametrize("policy", [*POLICIES, "srtf", "urgency>srtf"])
def test_what_nobody_listens_to_changes_nothing(policy: str) -> None:
    """Without an observer, the core is not told of what moves none of its decisions."""
    jobs, setup = world(31)
    quiet = Simulation(jobs, setup.engines, build(scheduler_spec(setup, policy))).run()
    told = Simulation(
        jobs, setup.engines, build(scheduler_spec(setup, policy)), observe=lambda event, commands: None
    ).run()
    assert quiet == told
