"""A world in which everything goes wrong, in virtual time: the core, its journal and its ledger, engines and clients.

The driver obeys as the gateway's does. Engines crash, hang, slow down tenfold, run out of memory, answer 429, 5xx and
garbage, and lie about their health; replicas come and go; settings change; the clock leaps ahead and steps back; the
process itself is killed, and its jobs go on in the next. All of it is drawn from one seed.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter, deque
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, structs

from hocket.assembly import build
from hocket.core import events as ev
from hocket.core.commands import Abort, CloseJob, Command, Dispatch, Preempt, Refuse, Reject, WakeAt
from hocket.core.latency import Latency
from hocket.core.snapshot import save
from hocket.core.spec import AdmissionSpec, EngineSpec, LimitsSpec, PreemptionSpec, SchedulerSpec, TenantSpec
from hocket.history.records import JobRecord, Ledger, Record
from hocket.journal import JournalWriter

TIMEOUT_S = 8.0
"after which a call that hangs counts as failed"
CHECK_S = 2.0
"between two health checks of a replica"
JOBS_A_SECOND = 0.9
RECOVERY_S = 600.0
"in which all must end once nothing goes wrong any more"
ATTEMPTS = 2
"dispatches of one call: what fails before its first byte is tried once more"
ROTATE_BYTES = 150_000
"of a journal: several a run"
POLICIES: tuple[tuple[str, ...], ...] = (
    ("default",),
    ("default",),
    ("hocket",),
    ("las",),
    ("fcfs",),
    ("urgency", "las"),
    ("fair-share", "hocket"),
    ("fair", "srtf"),
    ("llmsched",),
)
Place = tuple[str, str]


class Engine(Struct):
    """A replica as it really is, whatever the core believes."""

    window: int
    up: bool = True
    trouble: str = ""
    "hang | slow | busy | garbage | oom | errors; empty: it is well"
    lies: bool = False
    "its health check says the opposite"
    healthy: bool = True
    "what was told last"
    holds: set[str] = set()


class Client(Struct):
    """One call, as its client sees it."""

    job: str
    prompt: int
    resumable: bool
    at: Place | None = None
    turn: int = 0
    "counts dispatches: what an earlier one set going no longer counts"
    attempts: int = 0
    "dispatches that counted: not those that ended in a 429, or with the call displaced"
    streamed: bool = False
    outcome: str = ""


class Job(Struct):
    """What an application means to do."""

    app: str
    tenant: str
    urgency: int
    left: int
    opened: float
    service_s: float = 0.0
    tools: int = 0
    going_on: bool = False
    "its process has died, and it has not called again"


class World:
    """Build, then `run()`."""

    def __init__(self, seed: int, folder: Path, check: Callable[[Any], None] | None = None) -> None:
        self.rng = random.Random(seed)
        self.folder = folder
        self.check = check
        self.now = self.skew = 0.0
        self.heap: list[tuple[float, int, Callable[[], None]]] = []
        self.order, self.ids = count(), count(1)
        self.later: deque[ev.Event] = deque()
        self.jobs: dict[str, Job] = {}
        self.calls: dict[str, Client] = {}
        self.engines: dict[Place, Engine] = {}
        self.events, self.lives = 0, 0
        self.troubles: Counter[str] = Counter()
        self.rows: dict[tuple[Any, ...], Record] = {}
        self.ended: Counter[str] = Counter()
        self.journals: list[Path] = []
        self.calm = False
        for engine, replicas in (("small", 3), ("large", 2)):
            for n in range(replicas):
                self.engines[engine, f"{engine}/{n}"] = Engine(self.rng.randint(1, 4))
        self.spec = self.draw_spec()
        self.live()

    # ---------------------------------------------------------------- settings and lives

    def draw_spec(self) -> SchedulerSpec:
        rng, policy = self.rng, self.rng.choice(POLICIES)
        latency = Latency(q0=0.01, q2=1e-4, d0=0.01, d1=5e-4, d2=1e-7)
        engines = [EngineSpec(name, [name], rng.random() < 0.2, latency) for name in ("small", "large")]
        own = rng.choice((LimitsSpec(), LimitsSpec(calls=4, queue=2), LimitsSpec(jobs=3, tokens_per_minute=5000.0)))
        whole = rng.choice((AdmissionSpec(), AdmissionSpec(queue=8, held_bytes=4000), AdmissionSpec(wait_s=3.0)))
        weights = [TenantSpec("a", rng.choice((1.0, 2.0))), TenantSpec("b", urgent_share=0.3, urgent_burst_s=5.0)]
        weights.append(TenantSpec("c", limits=own))
        return SchedulerSpec(
            engines,
            policy=policy,
            routing=rng.choice(("least-loaded", "affinity")),
            tenants=weights,
            limits=whole,
            job_idle_s=rng.choice((20.0, 60.0)),
            queue_timeout_s=rng.choice((None, None, 15.0)),
            preemption=rng.choice((None, PreemptionSpec(at_most=2))) if "urgency" in policy else None,
        )

    def live(self) -> None:
        """A process begins: a fresh core, its own journal, its own ledger."""
        self.lives += 1
        self.core = build(self.spec)
        path = self.folder / f"journal-{self.lives}.jsonl"
        self.journals.append(path)
        self.journal = JournalWriter(path, self.spec, max_bytes=ROTATE_BYTES, keep=50)
        ids = count(self.lives * 1_000_000)
        self.ledger = Ledger(self.lives, ids, self.row, self.end_row, offset=0.0, prefixed=False)
        for place, engine in self.engines.items():
            engine.healthy = True
            self.tell(ev.ReplicaAdded(self.at, *place, engine.window))

    def die(self) -> None:
        """`kill -9`: every client loses its call; jobs go on in the next life, once their clients come again."""
        self.later.clear()
        self.journal.close()
        for call in self.calls.values():
            if not call.outcome:
                call.outcome, call.turn = "lost", call.turn + 1
        for engine in self.engines.values():
            engine.holds.clear()
        for job in self.jobs.values():
            job.going_on = True
            self.after(self.rng.uniform(0.1, 5.0), self.goes_on(job))
        self.ledger.interrupt(self.at)  # what the next start does to the rows
        self.live()

    def goes_on(self, job: Job) -> Callable[[], None]:
        name = next(name for name, one in self.jobs.items() if one is job)
        return lambda: self.step(name) if name in self.jobs else None

    # ---------------------------------------------------------------- the driver

    @property
    def at(self) -> float:
        return self.now + self.skew

    def tell(self, event: ev.Event) -> None:
        """An event, and all that obeying leads to."""
        self.later.append(event)
        if len(self.later) > 1:
            return
        while self.later:
            event = self.later[0]
            commands = self.core.handle(event)
            self.events += 1
            if self.journal.write(event, commands):
                self.journal.rotate(save(self.core), self.core.spec)
            if self.check is not None:
                self.check(self.core)
            assert self.core.policy_error is None, self.core.policy_error
            for command in commands:
                self.obey(command)
            self.ledger.seen(event, commands)
            self.later.popleft()

    def obey(self, command: Command) -> None:
        match command:
            case Dispatch(call, engine, replica):
                self.send(call, (engine, replica))
            case Reject(call):
                self.over(call, "rejected")
            case Abort(call):
                self.over(call, "aborted")
            case Refuse(job):
                del self.jobs[job]
            case Preempt(call):
                self.leave(call)
            case WakeAt(at):
                self.push(max(at - self.skew, self.now), lambda: self.tell(ev.Tick(max(at, self.at))))
            case CloseJob(job):
                self.later.append(ev.JobClosed(self.at, job, reason="idle"))
                self.jobs.pop(job, None)

    def push(self, at: float, what: Callable[[], None]) -> None:
        heapq.heappush(self.heap, (at, next(self.order), what))

    def after(self, seconds: float, what: Callable[[], None]) -> None:
        self.push(self.now + seconds, what)

    # ---------------------------------------------------------------- engines

    def send(self, name: str, place: Place) -> None:
        """A call is sent to a replica, which does with it what it does."""
        call, rng = self.calls[name], self.rng
        assert not call.outcome, f"{name} was sent after it had ended: {call.outcome}"
        assert call.at is None, f"{name} is in two slots"
        call.at, call.turn, call.streamed = place, call.turn + 1, False
        call.attempts += 1
        assert call.attempts <= ATTEMPTS, f"{name} is tried again and again"
        engine = self.engines.get(place)
        if engine is None or not engine.up:
            self.then(name, 0.001, lambda: self.fail(name, "connect"))
            return
        engine.holds.add(name)
        self.then(name, 0.0, lambda: self.news(name, ev.CallStarted(self.at, name)))
        trouble = engine.trouble if engine.trouble != "oom" or call.prompt > 300 else ""
        if rng.random() < 0.02 and not self.calm:
            trouble = rng.choice(("errors", "garbage", "cut", "refused"))
        seconds = rng.expovariate(1.0) * (10.0 if trouble == "slow" else 1.0)
        match trouble:
            case "hang":
                self.then(name, TIMEOUT_S, lambda: self.fail(name, "timeout"))
            case "busy":
                wait = rng.choice((None, 0.5))
                self.then(name, 0.01, lambda: self.fail(name, "status", 429, wait))
            case "garbage":
                self.then(name, 0.05, lambda: self.fail(name, "garbage"))
            case "errors" | "oom":
                self.then(name, 0.05, lambda: self.fail(name, "status", rng.choice((500, 503))))
            case "refused":
                self.then(name, 0.01, lambda: self.fail(name, "status", 400))
            case _:
                self.then(name, 0.1 * seconds, lambda: self.stream(name))
                self.then(name, 0.6 * seconds, lambda: self.stream(name))
                end = (lambda: self.fail(name, "reset")) if trouble == "cut" else (lambda: self.finish(name))
                self.then(name, seconds, end)

    def then(self, name: str, seconds: float, what: Callable[[], None]) -> None:
        """Unless the call has left this slot by then."""
        turn = self.calls[name].turn
        self.after(seconds, lambda: what() if self.calls[name].turn == turn else None)

    def news(self, name: str, event: ev.Event) -> None:
        if not self.calls[name].outcome:
            self.tell(event)

    def stream(self, name: str) -> None:
        self.calls[name].streamed = True
        self.news(name, ev.CallStreamed(self.at, name, 5))

    def free(self, name: str) -> None:
        call = self.calls[name]
        engine = self.engines.get(call.at) if call.at is not None else None
        if engine is not None:
            engine.holds.discard(name)
        call.at, call.turn = None, call.turn + 1

    def fail(self, name: str, kind: str, status: int = 0, retry_after_s: float | None = None) -> None:
        """What the gateway tells: an answer that has begun is not retried."""
        begun = self.calls[name].streamed
        self.free(name)
        self.calls[name].attempts -= status == 429
        self.tell(ev.CallFailed(self.at, name, kind, status, begun, retry_after_s))

    def finish(self, name: str) -> None:
        call = self.calls[name]
        self.free(name)
        self.tell(ev.CallFinished(self.at, name, call.prompt, self.rng.randint(1, 200)))
        self.over(name, "finished")

    def leave(self, name: str) -> None:
        """A `Preempt`: it is obeyed, but now and then the call cannot be taken off."""
        call = self.calls[name]
        if call.outcome or call.at is None:
            return
        if self.rng.random() < 0.1:
            self.later.append(ev.CallStreamed(self.at, name, 0))
        else:
            kept = 5 if call.streamed and call.resumable else 0
            self.free(name)
            call.attempts -= 1
            self.later.append(ev.CallPreempted(self.at, name, kept))

    # ---------------------------------------------------------------- clients

    def over(self, name: str, outcome: str) -> None:
        """A client has its one answer, or its one error."""
        call = self.calls[name]
        assert not call.outcome, f"{name} was answered twice: {call.outcome}, then {outcome}"
        if call.at is not None:
            self.free(name)
        call.outcome = outcome
        job = self.jobs.get(call.job)
        if job is not None:
            job.left = job.left if outcome == "finished" or self.rng.random() < 0.5 else 0
            self.after(self.rng.uniform(0.0, 0.5), lambda: self.step(call.job))

    def arrive(self) -> None:
        """An application begins a job, and so on for ever."""
        if self.calm:
            return
        rng, name = self.rng, f"j{next(self.ids)}"
        app, tenant = rng.choice(("chat", "agent", "rag")), rng.choice("abc")
        self.jobs[name] = Job(app, tenant, rng.choice((0, 1, 2, 2, 2, 4)), rng.randint(1, 6), self.at)
        self.step(name)
        self.after(rng.expovariate(JOBS_A_SECOND), self.arrive)

    def step(self, name: str) -> None:
        """What a job does next: calls, tools, or its end."""
        job, rng = self.jobs.get(name), self.rng
        if job is None:
            return
        if name not in self.core.jobs:
            past = None
            if job.going_on:
                age_s = max(self.at - job.opened, 0.0)
                past = ev.Past(-next(self.ids), age_s, job.service_s, job.service_s, [self.past_step(job)])
                job.going_on = False
            self.tell(ev.JobOpened(self.at, name, job.app, job.tenant, job.urgency, past=past))
            if name not in self.jobs:
                return
        if job.left <= 0:
            del self.jobs[name]
            if rng.random() < 0.8:
                abort = rng.random() < 0.2
                self.tell(ev.JobClosed(self.at, name, abort, "aborted" if abort else "closed"))
            return
        if rng.random() < 0.2:
            self.use_tool(name, job)
            return
        for _ in range(min(job.left, rng.choice((1, 1, 1, 3)))):
            job.left -= 1
            self.ask(name)

    def past_step(self, job: Job) -> ev.PastStep:
        return ev.PastStep("s0", "small", 0.0, self.rng.choice((None, 1.0)), 100, 20)

    def use_tool(self, name: str, job: Job) -> None:
        job.tools += 1
        run = f"{name}-t{job.tools}"
        self.tell(ev.ToolStarted(self.at, name, run, "search"))

        def ended() -> None:
            self.tell(ev.ToolFinished(self.at, name, run))
            self.step(name)

        self.after(self.rng.expovariate(1.0), ended)

    def ask(self, job: str) -> None:
        rng, name = self.rng, f"c{next(self.ids)}"
        call = self.calls[name] = Client(job, rng.randint(10, 500), rng.random() < 0.5)
        urgency = rng.choice((None, None, None, 0, 3))
        model = rng.choice(("small", "small", "large")) if rng.random() > 0.01 else "nobody"
        stage = f"s{rng.randint(0, 3)}"
        more: dict[str, Any] = {"resumable": call.resumable, "bytes": 4 * call.prompt}
        self.tell(ev.CallArrived(self.at, name, job, stage, model, call.prompt, 200, urgency, **more))
        if rng.random() < 0.05:
            self.after(rng.expovariate(0.5), lambda: self.cancel(name))

    def cancel(self, name: str) -> None:
        if not self.calls[name].outcome:
            self.tell(ev.CallCancelled(self.at, name))
            self.over(name, "cancelled")

    # ---------------------------------------------------------------- what goes wrong

    def wrong(self) -> None:
        """Something goes wrong, and gets well again after a while."""
        if self.calm:
            return
        rng = self.rng
        what = rng.choice(
            ("crash", "crash", "trouble", "trouble", "trouble", "lie", "drain", "grow", "settings", "clock")
        )
        if rng.random() < 0.02:
            what = "kill"
        self.troubles[what] += 1
        place = rng.choice(list(self.engines))
        getattr(self, f"do_{what}")(place, self.engines[place])
        self.after(rng.expovariate(0.25), self.wrong)

    def do_crash(self, place: Place, engine: Engine) -> None:
        """With all that it holds. A supervised one is told to be gone, and to be back; of a remote one nobody tells."""
        if not engine.up:
            return
        engine.up = False
        told = self.rng.random() < 0.3
        if told:
            self.tell(ev.ReplicaRemoved(self.at, *place, died=True))
        for name in sorted(engine.holds):
            if name in engine.holds:
                self.fail(name, "reset")

        def back() -> None:
            engine.up = True
            if told and self.engines.get(place) is engine:
                self.tell(ev.ReplicaAdded(self.at, *place, engine.window))

        self.after(self.rng.uniform(0.5, 20.0), back)

    def do_trouble(self, place: Place, engine: Engine) -> None:
        engine.trouble = self.rng.choice(("hang", "slow", "slow", "busy", "garbage", "oom", "errors"))
        self.troubles[engine.trouble] += 1
        self.after(self.rng.uniform(1.0, 30.0), lambda: setattr(engine, "trouble", ""))

    def do_lie(self, place: Place, engine: Engine) -> None:
        """Well and said to be ill, or ill and said to be well: it hangs, and its health check answers."""
        engine.lies = True
        engine.trouble = self.rng.choice(("", "hang"))

        def honest() -> None:
            engine.lies, engine.trouble = False, ""

        self.after(self.rng.uniform(1.0, 20.0), honest)

    def do_drain(self, place: Place, engine: Engine) -> None:
        """It takes no more calls, and ends those that it has."""
        self.tell(ev.ReplicaRemoved(self.at, *place))
        self.after(self.rng.uniform(1.0, 15.0), lambda: self.tell(ev.ReplicaAdded(self.at, *place, engine.window)))

    def do_grow(self, place: Place, engine: Engine) -> None:
        if len(self.engines) < 9:
            place = (place[0], f"{place[0]}/{len(self.engines)}")
            self.engines[place] = Engine(self.rng.randint(1, 4))
            self.tell(ev.ReplicaAdded(self.at, *place, self.engines[place].window))

    def do_settings(self, place: Place, engine: Engine) -> None:
        self.spec = self.draw_spec()
        self.tell(ev.SettingsChanged(self.at, self.spec))

    def do_clock(self, place: Place, engine: Engine) -> None:
        """It leaps ahead, as when a laptop slept, or steps back, which a monotonic clock never does."""
        self.skew += self.rng.choice((-3.0, -0.1, 0.5, 5.0, 600.0))
        self.tell(ev.Tick(self.at))

    def do_kill(self, place: Place, engine: Engine) -> None:
        self.die()

    def look(self) -> None:
        """Health checks, as the gateway makes them: told when they change, and while they fail."""
        for place, engine in list(self.engines.items()):
            well = engine.up != engine.lies
            if not well or not engine.healthy:
                running = len(engine.holds)
                self.tell(ev.ReplicaObserved(self.at, *place, well, running, 0, 0.1))
            engine.healthy = well
        if not self.calm or any(not engine.healthy for engine in self.engines.values()):
            self.after(CHECK_S, self.look)

    # ---------------------------------------------------------------- the run and its end

    def run(self, seconds: float) -> None:
        """So long everything goes wrong; then all gets well, and all must end."""
        for what in (self.arrive, self.wrong, self.look):
            self.after(0.0, what)
        self.until(seconds)
        self.calm = True
        self.until(seconds + 45.0)
        for place, engine in self.engines.items():
            engine.up, engine.trouble, engine.lies = True, "", False
            self.tell(ev.ReplicaAdded(self.at, *place, engine.window))
        self.after(0.0, self.look)
        self.until(seconds + RECOVERY_S)
        self.prove()
        self.journal.close()
        self.settle()

    def prove(self) -> None:
        """Every replica has its whole window again: what it went through has been forgiven by its first answers."""
        self.spec = structs.replace(self.spec, limits=AdmissionSpec())  # the calls of these jobs shall all come in
        self.tell(ev.SettingsChanged(self.at, self.spec))
        for last in (False, True):
            job = f"proof-{last}"
            self.tell(ev.JobOpened(self.at, job, "chat", "a"))
            rooms = [sum(replica.window for replica in e.replicas.values()) for e in self.core.engines.values()]
            for engine, room in zip(self.core.engines, rooms, strict=True):
                for _ in range(room):
                    name = f"c{next(self.ids)}"
                    self.calls[name] = Client(job, 10, resumable=False)
                    self.tell(ev.CallArrived(self.at, name, job, "s0", engine, 10))
            waiting = [call for call in self.core.calls.values() if call.replica is None]
            assert not (last and waiting), f"{len(waiting)} calls wait beside free slots of replicas that are well"
            self.until(self.now + 200.0)

    def until(self, end: float) -> None:
        while self.heap and self.heap[0][0] <= end:
            self.now, _, what = heapq.heappop(self.heap)
            what()
        self.now = max(self.now, end)

    def settle(self) -> None:
        """Every call has one end, no slot is held, and the ledger says of each call what its client says."""
        never = [name for name, call in self.calls.items() if not call.outcome]
        assert not never, f"never answered: {never[:5]}, of {len(never)}"
        assert not self.core.calls, "the core holds calls that have ended"
        for engine in self.core.engines.values():
            assert not engine.queue and all(not replica.inflight for replica in engine.listed.values()), engine.name
        recorded = {row.call: row for row in self.rows.values() if hasattr(row, "call")}
        assert recorded.keys() == self.calls.keys(), "the history has other calls than the clients"
        for name, call in self.calls.items():
            outcome = recorded[name].outcome
            assert outcome == {"lost": "interrupted"}.get(call.outcome, call.outcome), (name, outcome, call.outcome)
            assert self.ended[name] == 1, f"{name} has ended {self.ended[name]} times in the history"

    def row(self, record: Record) -> None:
        """A row begins, or is replaced."""
        key = (record.id,) if isinstance(record, JobRecord) else (record.job_id, record.n)
        self.rows[key] = msgspec.structs.replace(record)

    def end_row(self, record: Record) -> None:
        if hasattr(record, "call"):
            self.ended[record.call] += 1
        self.row(record)
