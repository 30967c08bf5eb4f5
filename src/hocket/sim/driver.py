"""The simulator's driver: a heap of events drives `Scheduler.handle` in virtual time.

It reads the trace's future, which the core never sees: a job becomes visible when it arrives, a stage when all that it
needs has ended, sizes when a call ends. Events of one moment are taken in a fixed order, so equal inputs give equal
runs: arrivals (by the trace), tool ends, boundaries of replicas (as listed), and only when the core has been quiet,
admissions.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from hocket.core import commands as cmd
from hocket.core import events as ev
from hocket.core.scheduler import Scheduler
from hocket.errors import InputError
from hocket.sim.engine import TICKS_A_SECOND, Replica, ticks
from hocket.sim.model import EngineModel
from hocket.sim.oracle import Oracle
from hocket.sim.sharing import SharedReplica, Sharing, replicas_of
from hocket.sim.underway import Call, Run
from hocket.trace import Graph, Job, Stage, graph_of

ARRIVAL, TOOL, CREDIT, TICK, BEGIN = range(5)
"what happens at one moment, in this order"

FOREVER_S = 1e15
"jobs are always closed here, so none is ever idle: the spec's job_idle_s in a simulation"


class Span(NamedTuple):
    """One stage of one job, as it went. Seconds; None where it did not come to that."""

    job: str
    stage: str
    name: str
    kind: str
    place: str
    "replica, or `tool`"
    arrived: float
    dispatched: float | None
    started: float | None
    first_token: float | None
    ended: float
    away: tuple[tuple[float, float], ...] = ()
    "from when until when it had been displaced"


class Outcome(NamedTuple):
    """What a run came to."""

    jct_s: dict[str, float]
    "of each job that completed, in the order of completion"
    waits_s: dict[str, list[float]]
    "of the same jobs: seconds of each of its calls in hocket's queue"
    rejected: dict[str, str]
    "job -> why"
    makespan_s: float
    spans: list[Span]
    policy_error: str | None = None
    "what the policy raised: then `call-fcfs` took over, and the figures are not the policy's"
    preemptions: int = 0
    "times that a running call was displaced"


class Simulation:
    """One run of `jobs` on `engines` under one scheduler. Build, then `run()` once."""

    def __init__(
        self,
        jobs: Sequence[Job],
        engines: Sequence[EngineModel],
        scheduler: Scheduler,
        oracle: Oracle | None = None,
        record: frozenset[str] = frozenset(),
        observe: Callable[[ev.Event, list[cmd.Command]], None] | None = None,
        progress: Callable[[int], None] | None = None,
        sharing: Sharing | None = None,
    ) -> None:
        """`record`: of which jobs to keep spans; `observe` sees every event with its commands; `progress` the count
        of jobs that are done; `sharing`: the devices of the replicas, where some have a part of one.
        """
        self._jobs = sorted(jobs, key=lambda job: job.arrival_s)
        self._scheduler = scheduler
        self._handle = scheduler.handle
        self._oracle = oracle
        self._record = record
        self._observe = observe
        self._preempts = scheduler.spec.preemption is not None
        self._progress = progress
        # Where nobody listens, the core is not told what moves none of its decisions: half of all that happens.
        self._tells_all = observe is not None or scheduler.wants_news
        self._graphs: dict[int, Graph] = {}  # resampled jobs have one list of stages: its graph is made once
        self._models = {engine.name: engine for engine in engines}
        self._replicas: Sequence[Replica[Call] | SharedReplica[Call]] = replicas_of(
            engines, scheduler.wants_progress, sharing, self._push_boundary
        )
        self._places = {replica.name: index for index, replica in enumerate(self._replicas)}
        self._calls: dict[str, Call] = {}
        self._count = 0  # calls and tool runs so far
        self._left = len(self._jobs)  # jobs that have not ended
        self._now = 0  # ticks
        self._at = 0.0  # the same in seconds, for events
        self._heap: list[tuple[int, int, int, object]] = []
        self._later: deque[ev.Event] = deque()  # what commands led to, at this moment
        self._preemptions = 0
        self._outcome = Outcome({}, {}, {}, 0.0, [])

    def run(self) -> Outcome:
        """Run all jobs to their end."""
        for replica in self._replicas:
            self._tell(ev.ReplicaAdded(0.0, replica.model.name, replica.name, replica.model.first_window))
        heap, later, pop = self._heap, self._later, heapq.heappop
        steps = self._arrive, self._tool_ended, self._credit, self._tick, self._begin
        self._push_arrival(0)
        while heap and self._left > 0:
            self._now, phase, key, what = pop(heap)
            self._at = self._now / TICKS_A_SECOND
            steps[phase](key, what)
            while later:
                self._tell(later.popleft())
        if self._left > 0:
            raise InputError(self._stuck())
        error = self._scheduler.policy_error
        return self._outcome._replace(makespan_s=self._at, policy_error=error, preemptions=self._preemptions)

    def _stuck(self) -> str:
        """Why jobs are left when nothing can happen any more."""
        waiting = next((call for call in self._scheduler.calls.values() if call.replica is None), None)
        told = f"the simulation cannot end: nothing is left to happen, and {self._left} of {len(self._jobs)} jobs wait"
        if waiting is None:
            return told
        return (
            f"{told}; the first call of stage '{waiting.stage}' waits for engine '{waiting.engine.name}', which has no "
            "replica with room for it: give it one"
        )

    # ---------------------------------------------------------------- the core

    def _tell(self, event: ev.Event) -> None:
        commands = self._handle(event)
        if self._observe is not None:
            self._observe(event, commands)
        for command in commands:
            if type(command) is cmd.Dispatch:
                self._dispatch(command)
            else:
                self._obey(command)

    def _dispatch(self, command: cmd.Dispatch) -> None:
        call, place = self._calls[command.call], self._places[command.replica]
        replica = self._replicas[place]
        if call.off is None:
            call.wait = len(call.run.waits)
            call.run.waits.append(self._at - call.arrived)
            call.dispatched = self._at
        else:
            call.run.waits[call.wait] += self._at - call.off
            call.away += ((call.off, self._at),)
            call.off = None
        call.place = place
        if replica.model.kv_tokens is not None and call.prompt > replica.model.kv_tokens:
            self._later.append(ev.CallFailed(self._at, call.call, "status", 400))
        elif replica.send(call, self._now):
            self._push_boundary(place)

    def _obey(self, command: cmd.Command) -> None:
        match command:
            case cmd.Reject():
                call = self._calls.pop(command.call)
                self._refuse(call.run, f"stage {call.stage.id}: {command.status} {command.reason}")
            case cmd.Refuse():
                self._refuse(self._opening, f"{command.status} {command.reason}")
            case cmd.Abort():
                call = self._calls.pop(command.call)
                if call.place >= 0 and self._replicas[call.place].remove(call, self._now):
                    self._push_boundary(call.place)
            case cmd.Preempt():
                call = self._calls[command.call]
                place = call.place
                off = self._replicas[place].preempt(call, self._now)
                self._push_boundary(place)
                if off:
                    self._tell(self._displaced(call))
            case cmd.WakeAt():
                self._push(ticks(command.at), TICK, 0, command.at)
            case _:
                raise NotImplementedError(f"the simulator has no answer to {command!r}")

    def _displaced(self, call: Call) -> ev.CallPreempted:
        """A call has left its replica, as the core wanted: what the core is told."""
        self._preemptions += 1
        call.off, call.place, call.told = self._at, -1, False
        return ev.CallPreempted(self._at, call.call, call.generated)

    def _refuse(self, run: Run, why: str) -> None:
        """A job of which a call was rejected is over: an application would not go on without its answer."""
        if not run.failed:
            run.failed = True
            self._outcome.rejected[run.job.job] = why
            self._later.append(ev.JobClosed(self._at, run.job.job, abort=True, reason="aborted"))
            self._done(run)

    # ---------------------------------------------------------------- the world

    def _push(self, at: int, phase: int, key: int, what: object = None) -> None:
        heapq.heappush(self._heap, (at, phase, key, what))

    def _push_boundary(self, place: int) -> None:
        ends = self._replicas[place].ends
        if ends is not None:
            heapq.heappush(self._heap, (ends, CREDIT, place, None))

    def _push_arrival(self, index: int) -> None:
        """One arrival in the heap at a time: it stays small."""
        if index < len(self._jobs):
            self._push(ticks(self._jobs[index].arrival_s), ARRIVAL, index)

    def _arrive(self, index: int, _: object) -> None:
        self._push_arrival(index + 1)
        job = self._jobs[index]
        graph = self._graphs.get(id(job.stages))
        if graph is None:
            graph = self._graphs[id(job.stages)] = graph_of(job)
        run = Run(job, graph, self._now, job.job in self._record)
        if self._oracle is not None:
            run.remaining = sum(self._unloaded(run, stage) for stage in job.stages)
            self._oracle.report(job.job, run.remaining)
        self._opening = run
        self._tell(ev.JobOpened(self._at, job.job, job.app, job.tenant, job.urgency, job.deadline_s, job.features))
        for stage in job.stages:
            if not run.left[stage.id]:
                self._reveal(run, stage)

    def _reveal(self, run: Run, stage: Stage) -> None:
        """All that `stage` needs has ended: now it exists for the core."""
        if run.failed:
            return
        self._count += 1
        at, job, name = self._at, run.job.job, f"{self._count}"
        if stage.duration_s is not None and stage.kind == "tool":
            self._tell(ev.ToolStarted(at, job, name, stage.name))
            self._push(self._now + ticks(stage.duration_s), TOOL, self._count, (run, stage, at))
            return
        self._calls[name] = Call(name, run, stage, at)
        if self._preempts and self._oracle is not None:
            for replica in self._replicas:
                self._measure(self._oracle, replica)
        common = stage.common_prefix
        self._tell(
            ev.CallArrived(
                at,
                name,
                job,
                stage.name,
                stage.model or "",
                stage.prompt_tokens,
                stage.max_tokens,
                hint_output_tokens=stage.hint_output_tokens,
                prefix=None if common is None else common.id,
                resumable=self._preempts,
            )
        )

    def _tool_ended(self, number: int, what: object) -> None:
        assert isinstance(what, tuple)
        run, stage, started = what
        if run.failed:
            return
        self._tell(ev.ToolFinished(self._at, run.job.job, f"{number}"))
        if run.recorded:
            span = Span(run.job.job, stage.id, stage.name, "tool", "tool", started, None, started, None, self._at)
            self._outcome.spans.append(span)
        self._completed(run, stage)

    def _completed(self, run: Run, stage: Stage) -> None:
        run.open -= 1
        for dependent in run.dependents[stage.id]:
            run.left[dependent.id] -= 1
            if not run.left[dependent.id]:
                self._reveal(run, dependent)
        if not run.open:
            job = run.job.job
            self._outcome.jct_s[job] = (self._now - run.arrived) / TICKS_A_SECOND
            self._outcome.waits_s[job] = run.waits
            self._tell(ev.JobClosed(self._at, job))
            self._done(run)

    def _done(self, run: Run) -> None:
        self._left -= 1
        if self._oracle is not None:
            self._oracle.forget(run.job.job)
        if self._progress is not None:
            self._progress(len(self._jobs) - self._left)

    # ---------------------------------------------------------------- replicas

    def _credit(self, place: int, _: object) -> None:
        """A boundary: report what streamed and what finished, then what follows from it; begin the next run."""
        replica = self._replicas[place]
        if replica.ends != self._now:
            return  # the boundary moved since this was pushed
        if self._preempts and self._oracle is not None:
            self._measure(self._oracle, replica)
        streamed, finished = replica.credit(self._now)
        if streamed:
            self._report(streamed)
        for call in finished:
            self._finish(call)
        while replica.displaced:
            self._later.append(self._displaced(replica.displaced.pop(0)))
        for call in finished:
            if not call.run.failed:
                self._completed(call.run, call.stage)
        while self._later:
            self._tell(self._later.popleft())
        if self._heap and self._heap[0][0] == self._now and replica.ready():
            self._push(self._now, BEGIN, place)
        else:
            self._begin(place, None)

    def _report(self, streamed: list[tuple[Call, int]]) -> None:
        """Running calls have made so many tokens so far."""
        at = self._at
        for call, tokens in streamed:
            if call.run.failed:
                continue  # aborted, and still in its last iteration
            if call.first_token is None:
                call.first_token = at
            if self._tells_all:
                self._tell(ev.CallStreamed(at, call.call, tokens))

    def _measure(self, oracle: Oracle, replica: Replica[Call] | SharedReplica[Call]) -> None:
        """Calls may be displaced for what is left of them, so it counts while they run, too."""
        for call in replica.running.values():
            tokens = replica.tokens(call, self._now)
            if tokens:
                self._worked(oracle, call, ticks(replica.model.unloaded(call.prompt, tokens)))

    def _worked(self, oracle: Oracle, call: Call, done: int) -> None:
        """So much of a call is done, in ticks of one that has its engine to itself."""
        run = call.run
        run.remaining -= done - call.counted
        call.counted = done
        oracle.report(run.job.job, run.remaining)
        self._scheduler.touch_job(run.job.job)

    def _finish(self, call: Call) -> None:
        run, stage, at = call.run, call.stage, self._at
        if self._calls.pop(call.call, None) is None:
            return  # aborted in its last iteration
        if self._oracle is not None:
            self._worked(self._oracle, call, self._unloaded(run, stage))
        self._tell(ev.CallFinished(at, call.call, stage.prompt_tokens, stage.output_tokens))
        if run.recorded:
            times = call.arrived, call.dispatched, call.started, call.first_token, at
            place = self._replicas[call.place].name
            self._outcome.spans.append(Span(run.job.job, stage.id, stage.name, "llm", place, *times, call.away))

    def _begin(self, place: int, _: object) -> None:
        replica = self._replicas[place]
        for call in replica.begin(self._now):
            if not call.told:
                call.told = True
                call.started = self._at if call.started is None else call.started
                if self._tells_all:
                    self._tell(ev.CallStarted(self._at, call.call))
        self._push_boundary(place)

    def _tick(self, _: int, asked: object) -> None:
        assert isinstance(asked, float)
        if asked >= FOREVER_S:  # no job is idle for so long: nothing else is left that could happen
            raise InputError(self._stuck())
        self._tell(ev.Tick(max(self._at, asked)))

    def _unloaded(self, run: Run, stage: Stage) -> int:
        """Ticks of a stage that has an engine to itself; 0 for a tool, and for a model that nothing serves."""
        if stage.kind != "llm":
            return 0
        engine = self._scheduler.engine_for(run.job.app, stage.name, stage.model or "")
        if engine is None:
            return 0
        return ticks(self._models[engine].unloaded(stage.prompt_tokens, stage.output_tokens))
