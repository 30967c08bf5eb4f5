"""What does believing cost? Milliseconds an event and a decision, with 1,000 open jobs and 10,000 queued calls.

    python benchmarks/beliefs.py [--jobs 1000] [--queued 10000] [--events 5000] [--json F]

Jobs of the six applications of LLMSched wait for one engine of 16 slots; profiles are learned from other jobs of them.
A call ends, which is evidence, and frees a slot, which is a decision; what follows in its job arrives; where a job
ends, another comes. Measured, in CPU time, are whole events (`arrived`: belief update, keys, queue; `finished`: belief
update, keys, decision and dispatch) and the decision alone. Targets: an update within 1 ms at p99, a decision within
0.5 ms under `hocket` and 2 ms under `llmsched`. Then `learned`: 10,000 jobs of one application within 30 s. Exit code 1
if one does not hold.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from hocket.assembly import build
from hocket.beliefs.learn import learn
from hocket.beliefs.profile import encode_profile
from hocket.beliefs.record import Record, record_of
from hocket.core.commands import Dispatch
from hocket.core.events import (
    CallArrived,
    CallFinished,
    Event,
    JobClosed,
    JobOpened,
    ReplicaAdded,
    ToolFinished,
    ToolStarted,
)
from hocket.core.latency import Latency
from hocket.core.spec import EngineSpec, SchedulerSpec
from hocket.sim.workloads import MIXED, MIXES, generate

SLOTS = 16
PACE = Latency(q2=1.1e-4, d0=1.2e-2, d1=1e-4, d2=6e-9)
WARM = 0.5
"share of the events that are not measured: what is asked for the first time is kept from then on"
MOST_MS = {
    ("hocket", "decision"): 0.5,
    ("llmsched", "decision"): 2.0,
    ("hocket", "arrived"): 1.0,
    ("llmsched", "arrived"): 1.0,
}
"targets, at p99"
MOST_LEARNING_S = 30.0


class World:
    """A scheduler and the jobs that are under way."""

    def __init__(self, policy: str, profiles: dict[str, str], seed: int) -> None:
        spec = SchedulerSpec([EngineSpec("e", ["small"], latency=PACE)], policy=(policy,), seed=seed)
        self.scheduler = build(spec, profiles=profiles)
        self.times: dict[str, list[float]] = defaultdict(list)
        self.jobs = (record_of(job) for job in generate(MIXED, 10**6, 1.0, seed, models="one"))
        self.apps = (job.app for job in generate(MIXED, 10**6, 1.0, seed, models="one"))
        self.numbers = count()
        self.at = 0.0
        self.running: list[str] = []
        self.calls: dict[str, tuple[Job, int]] = {}
        queue = self.scheduler.engines["e"].queue
        queue.pop = self.timed("decision", queue.pop)  # type: ignore[method-assign]

    def timed(self, what: str, do: Callable[..., Any]) -> Callable[..., Any]:
        times = self.times[what]

        def pop(**asked: Any) -> Any:
            start = time.thread_time()
            call = do(**asked)
            times.append(time.thread_time() - start)
            return call

        return pop

    def tell(self, event: Event, what: str = "other") -> None:
        start = time.thread_time()
        commands = self.scheduler.handle(event)
        self.times[what].append(time.thread_time() - start)
        assert self.scheduler.policy_error is None, self.scheduler.policy_error
        self.running += [command.call for command in commands if isinstance(command, Dispatch)]

    def window(self, slots: int) -> None:
        self.tell(ReplicaAdded(self.at, "e", "r", slots))

    def finish(self) -> None:
        """The call that runs longest ends."""
        self.at += 0.05
        name = self.running.pop(0)
        job, step = self.calls.pop(name)
        sizes = job.record.steps[step]
        self.tell(CallFinished(self.at, name, sizes.prompt_tokens, sizes.output_tokens), "finished")
        job.ended(step)


class Job:
    """A recorded job that happens again."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.record: Record = next(world.jobs)
        self.name = f"j{next(world.numbers)}"
        self.left = [len(step.after) for step in self.record.steps]
        self.open = len(self.left)
        world.tell(JobOpened(world.at, self.name, next(world.apps), features=self.record.features))
        for step, left in enumerate(self.left):
            if not left:
                self.reveal(step)

    def reveal(self, step: int) -> None:
        world, fact = self.world, self.record.steps[step]
        name = f"{self.name}.{step}"
        if fact.model is None:
            world.tell(ToolStarted(world.at, self.name, name, fact.stage))
            world.tell(ToolFinished(world.at, self.name, name))
            self.ended(step)
        else:
            world.calls[name] = self, step
            arrived = CallArrived(world.at, name, self.name, fact.stage, fact.model, fact.prompt_tokens)
            world.tell(arrived, "arrived")

    def ended(self, step: int) -> None:
        for other, fact in enumerate(self.record.steps):
            if step in fact.after:
                self.left[other] -= 1
                if not self.left[other]:
                    self.reveal(other)
        self.open -= 1
        if not self.open:
            self.world.tell(JobClosed(self.world.at, self.name))
            Job(self.world)


def measured(policy: str, profiles: dict[str, str], jobs: int, queued: int, events: int) -> dict[str, Any]:
    """Milliseconds of each kind of event, once so many jobs are open and so many calls queued."""
    world = World(policy, profiles, 7)
    queue = world.scheduler.engines["e"].queue
    world.window(jobs)  # many at once, so that jobs come to their wide stages
    for _ in range(jobs):
        Job(world)
    while len(queue) < queued:
        world.finish()
    world.window(SLOTS)
    while len(world.running) > SLOTS:
        world.finish()
    waiting = len(queue)
    for number in range(events):
        if number == int(WARM * events):
            for times in world.times.values():
                times.clear()
        world.finish()
    found = {what: quantiles(world.times[what]) for what in ("arrived", "finished", "decision")}
    return {
        "jobs": len(world.scheduler.jobs),
        "queued": [waiting, len(world.scheduler.engines["e"].queue)],
        "ms": found,
    }


def quantiles(times: list[float]) -> dict[str, float]:
    in_order = sorted(times)
    return {f"p{p}": round(1e3 * in_order[int(p / 100 * (len(in_order) - 1))], 4) for p in (50, 99)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--queued", type=int, default=10_000)
    parser.add_argument("--events", type=int, default=5000)
    parser.add_argument("--policies", default="srtf,hocket,llmsched")
    parser.add_argument("--json", help="write the figures to this file, too")
    args = parser.parse_args()
    profiles = {}
    for app in MIXES[MIXED]:
        records = [record_of(job) for job in generate(app, 500, 1.0, 1, models="one")]
        profiles[app] = encode_profile(learn(app, records)).decode()
    records = [record_of(job) for job in generate("task-automation", 10_000, 1.0, 1, models="one")]
    start = time.thread_time()
    learn("task-automation", records)
    learning: dict[str, Any] = {"jobs": len(records), "s": round(time.thread_time() - start, 1)}
    print(f"learned {learning['jobs']:,} jobs in {learning['s']} s (target {MOST_LEARNING_S:.0f})")
    failed = learning["s"] > MOST_LEARNING_S
    report: dict[str, Any] = {"learned": learning}
    for policy in args.policies.split(","):
        gc.collect()
        found = report[policy] = measured(policy, profiles, args.jobs, args.queued, args.events)
        print(f"{policy}: {found['jobs']:,} jobs open, {found['queued'][0]:,} to {found['queued'][1]:,} calls queued")
        for what, ms in found["ms"].items():
            most = MOST_MS.get((policy, what))
            missed = most is not None and ms["p99"] > most
            failed |= missed
            target = "" if most is None else f"   target {most}{' MISSED' if missed else ''}"
            print(f"  {what:10} p50 {ms['p50']:8.3f} ms   p99 {ms['p99']:8.3f} ms{target}")
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=1))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
