"""One core, two drivers: the simulator's heap and the gateway's asyncio driver see and order the same, byte for byte.

The world of both is the same: the jobs of a trace and replicas of the engine model. The simulator runs them in its
heap. Here they run as tasks: each stage is a client that calls the gateway's driver as a request handler does, each
replica reports to it as a relay does, on a loop in virtual time.
"""

import asyncio
import itertools
import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hocket.assembly import build, replay_journal
from hocket.core import events as ev
from hocket.core.commands import Command, Dispatch
from hocket.core.spec import SchedulerSpec
from hocket.gateway.driver import Driver, LiveCall
from hocket.journal import JournalWriter, encode
from hocket.sim.driver import Simulation
from hocket.sim.engine import TICKS_A_SECOND, Replica, Request, ticks
from hocket.sim.experiment import Setup, scheduler_spec
from hocket.trace import Job, Stage, graph_of
from tests import virtual_time
from tests.sim.worlds import as_jobs, as_setup, random_engines, random_jobs

POLICIES = ["call-fcfs", "fcfs", "las", "sjf", "urgency>fair>las"]


class Tap:
    """Keeps each event with its commands as a line of a journal."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def seen(self, event: ev.Event, commands: list[Command]) -> None:
        self.lines.append(encode(event, commands))


class Asynchronous:
    """The jobs as tasks and the replicas as timers, around the gateway's driver."""

    def __init__(self, loop: virtual_time.VirtualLoop, jobs: list[Job], setup: Setup, spec: SchedulerSpec) -> None:
        self.loop, self.jobs, self.tap = loop, jobs, Tap()
        self.driver = Driver(build(spec), clock=loop.time, observers=[self.tap])
        ids = itertools.count(1)
        self.new_id = self.driver.new_id = lambda kind: str(next(ids))  # type: ignore[method-assign]
        report = self.driver.scheduler.wants_progress
        self.replicas = {
            f"{engine.name}/{i}": Replica[Request](engine, f"{engine.name}/{i}", report)
            for engine in setup.engines
            for i in range(engine.replicas)
        }
        self.live: dict[str, LiveCall] = {}
        self.answers: dict[str, asyncio.Future[None]] = {}
        self.between: set[str] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        loop.quiet = self.begin

    async def run(self) -> list[bytes]:
        for name, replica in self.replicas.items():
            self.driver.tell(ev.ReplicaAdded(0.0, replica.model.name, name, replica.model.max_concurrency))
        await asyncio.gather(*(self.job(job) for job in self.jobs))
        self.driver.stop()
        return self.tap.lines

    @property
    def now(self) -> int:
        """Ticks."""
        return ticks(self.loop.now)

    async def until(self, at: int) -> None:
        reached = self.loop.create_future()
        self.loop.call_at(at / TICKS_A_SECOND, reached.set_result, None)
        await reached

    # ---------------------------------------------------------------- clients

    async def job(self, job: Job) -> None:
        await self.until(ticks(job.arrival_s))
        graph = graph_of(job)
        left, closed = dict(graph.waits_for), self.loop.create_future()
        todo = set(left)

        def begin(stage: Stage) -> None:
            """The driver is told at once, as by a client's request; what follows is a task."""
            follows = self.tool(job, stage) if stage.kind == "tool" else self.call(job, stage)
            task = asyncio.ensure_future(drive(stage, follows))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

        async def drive(stage: Stage, follows: Any) -> None:
            await follows
            todo.discard(stage.id)
            for dependent in graph.dependents[stage.id]:
                left[dependent.id] -= 1
                if not left[dependent.id]:
                    begin(dependent)
            if not todo:
                self.driver.end_job(job.job)
                closed.set_result(None)

        self.driver.open_job(job.job, job.app, job.tenant, job.urgency, job.deadline_s)
        for stage in job.stages:
            if not graph.waits_for[stage.id]:
                begin(stage)
        await closed

    def tool(self, job: Job, stage: Stage) -> Any:
        run = self.new_id("tool")
        self.driver.tell(ev.ToolStarted(self.loop.now, job.job, run, stage.name))
        ends = self.now + ticks(stage.duration_s or 0.0)

        async def follows() -> None:
            await self.until(ends)
            self.driver.tell(ev.ToolFinished(self.loop.now, job.job, run))

        return follows()

    def call(self, job: Job, stage: Stage) -> Any:
        sizes = {"prompt_tokens": stage.prompt_tokens, "max_tokens": stage.max_tokens}
        call = self.driver.arrive(job.job, stage.name, stage.model or "", **sizes)

        async def follows() -> None:
            shared = stage.shares_prefix
            prefix = None if shared is None else ((job.job, shared.stage), shared.tokens)
            request = Request(call.id, (job.job, stage.id), stage.prompt_tokens, stage.output_tokens, prefix)
            self.live[call.id] = call
            while call.id in self.live:
                order = await call.order()
                assert isinstance(order, Dispatch)
                self.answers[call.id] = self.loop.create_future()
                call.displace = partial(self.displace, call, request, order.replica)
                if self.replicas[order.replica].send(request, self.now):
                    self.wake(order.replica)
                await self.answers[call.id]
            self.driver.leave(call)

        return follows()

    # ---------------------------------------------------------------- replicas

    def displace(self, call: LiveCall, request: Request, name: str) -> None:
        """Calls that have not begun, here: they are off at once, and wait for the next order."""
        assert self.replicas[name].preempt(request, self.now)
        self.wake(name)
        self.answers.pop(call.id).set_result(None)
        call.preempted(0)

    def wake(self, name: str) -> None:
        ends = self.replicas[name].ends
        if ends is not None:
            self.loop.call_at(ends / TICKS_A_SECOND, self.boundary, name)

    def boundary(self, name: str) -> None:
        replica = self.replicas[name]
        if replica.ends != self.now:
            return
        streamed, finished = replica.credit(self.now)
        for request, tokens in streamed:
            self.live[request.call].streamed(tokens)
        for request in finished:
            self.live.pop(request.call).finished(request.prompt, request.generated)
        for request in finished:
            self.answers.pop(request.call).set_result(None)
        self.between.add(name)

    def begin(self) -> None:
        """Nothing is left to do at this moment: replicas admit."""
        for name in [name for name in self.replicas if name in self.between]:
            self.between.discard(name)
            for request in self.replicas[name].begin(self.now):
                if not request.streamed:
                    self.live[request.call].started()
            self.wake(name)


async def live(loop: virtual_time.VirtualLoop, jobs: list[Job], setup: Setup, spec: SchedulerSpec) -> list[bytes]:
    return await Asynchronous(loop, jobs, setup, spec).run()


def world(seed: int) -> tuple[list[Job], Setup]:
    """Jobs and engines at random. No moment is shared by chance: then asyncio promises no order."""
    rng = random.Random(seed)
    engines = random_engines(rng)
    jobs = random_jobs(rng, count=40, models=len(engines), rate=rng.choice([0.3, 2]))
    for job in jobs:
        job |= {"tenant": rng.choice("abc"), "urgency": rng.randrange(5)}
        for stage in job["stages"]:
            if stage["kind"] == "tool":
                stage["duration_s"] = rng.uniform(0.01, 1)
            else:
                stage["output_tokens"] = max(stage["output_tokens"], 1)
    return as_jobs(jobs), as_setup(engines)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("seed", range(6))
def test_both_drivers_give_the_same_commands(seed: int, policy: str, tmp_path: Path) -> None:
    jobs, setup = world(seed)
    spec = scheduler_spec(setup, policy)
    tap, journal = Tap(), JournalWriter(tmp_path / "journal.jsonl", spec)

    def observe(event: ev.Event, commands: list[Command]) -> None:
        tap.seen(event, commands)
        journal.write(event, commands)

    Simulation(jobs, setup.engines, build(spec), observe=observe).run()
    journal.close()
    lines = virtual_time.run(lambda loop: live(loop, jobs, setup, spec))

    assert len(lines) > 4 * sum(stage.kind == "llm" for job in jobs for stage in job.stages)
    for number, (simulated, lived) in enumerate(zip(tap.lines, lines, strict=False)):
        assert simulated == lived, f"line {number}"
    assert len(lines) == len(tap.lines)
    assert replay_journal(tmp_path / "journal.jsonl") is None
