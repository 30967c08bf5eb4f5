"""Small worlds for tests of beliefs: records by hand, jobs told to a scheduler event by event."""

from __future__ import annotations

from collections.abc import Sequence

from hocket.assembly import build
from hocket.beliefs.lesson import Lesson
from hocket.beliefs.profile import Profile, encode_profile
from hocket.beliefs.record import Record, Step
from hocket.core import events as ev
from hocket.core.latency import Latency
from hocket.core.scheduler import Scheduler
from hocket.core.spec import EngineSpec, SchedulerSpec

TOKEN = Latency(d0=1.0)
"an engine on which a call takes a second for each token after the first"


def pace(stage: str, model: str) -> Latency:
    return TOKEN


def chain(*calls: tuple[str, int, int]) -> Record:
    """A job of calls (stage, prompt, output), each after the one before."""
    steps = [Step(stage, "m", p, o, 0.0, [i - 1] if i else []) for i, (stage, p, o) in enumerate(calls)]
    return Record(steps)


def samples(*records: Record) -> Lesson:
    return Lesson(records, pace)


def profile(records: Sequence[Record], app: str = "app") -> str:
    return encode_profile(Profile(app=app, jobs=len(records), records=list(records))).decode()


class Live:
    """A scheduler under a policy, one engine `e` for model `m`; jobs are told in short."""

    def __init__(self, *policy: str, window: int = 1, profiles: dict[str, str] | None = None, seed: int = 0) -> None:
        spec = SchedulerSpec([EngineSpec("e", ["m"], latency=TOKEN)], policy=policy or ("hocket",), seed=seed)
        self.scheduler: Scheduler = build(spec, profiles=profiles)
        self.at = 0.0
        self._count = 0
        self.order: list[str] = []
        "calls, as dispatched"
        self.tell(ev.ReplicaAdded(0.0, "e", "r", window))

    def tell(self, event: ev.Event) -> None:
        for command in self.scheduler.handle(event):
            if hasattr(command, "replica"):
                self.order.append(command.call)

    def open(self, job: str, app: str = "app", features: dict[str, float] | None = None) -> None:
        self.tell(ev.JobOpened(self.at, job, app, features=features or {}))

    def call(self, job: str, stage: str, prompt: int = 10) -> str:
        self._count += 1
        call = f"{job}.{stage}{self._count}"
        self.tell(ev.CallArrived(self.at, call, job, stage, "m", prompt))
        return call

    def finish(self, call: str, output: int, prompt: int = 0) -> None:
        self.tell(ev.CallFinished(self.at, call, prompt, output))

    def close(self, job: str, *, abort: bool = False) -> None:
        self.tell(ev.JobClosed(self.at, job, abort))

    def run(self, job: str, calls: Sequence[tuple[str, int, int]], app: str = "app", *, asked: bool = False) -> None:
        """A whole job, its calls one after another; `asked`: somebody reads what is believed of it."""
        self.open(job, app)
        for stage, prompt, output in calls:
            self.at += 1.0
            call = self.call(job, stage, prompt)
            if asked:
                self.remaining(job)
            self.finish(call, output)
        self.close(job)

    def remaining(self, job: str) -> float:
        belief = self.scheduler.jobs[job].belief
        assert belief is not None
        return belief.remaining_s
