"""How fast is the core? Calls per CPU second beside a bare `heapq` queue simulation of the same jobs, in one process.

    python benchmarks/core.py [--jobs 20000] [--rounds 5] [--json F]

The bare simulation is what one would write in thirty lines: a heap of events, a heap of waiting calls, a count of free
slots, no tenants, engines, policies, retries or commands. The core handles the same jobs (chains of calls on one engine
of 16 slots at load 0.95) through `Scheduler.handle`, driven by the same heap of events. The ratio is what the whole of
hocket's generality costs: `fcfs` must reach 0.2, `las` (which is told of first tokens and re-keys jobs) 0.1. Then: does
the cost of an event grow with the queue? With 100,000 calls queued it must be at most 2x that with 1,000. Exit code 1
if one of these does not hold.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import sys
import time
from heapq import heappop, heappush
from pathlib import Path

from hocket.assembly import build
from hocket.core.commands import Dispatch
from hocket.core.events import CallArrived, CallFinished, CallStarted, CallStreamed, JobClosed, JobOpened, ReplicaAdded
from hocket.core.spec import EngineSpec, SchedulerSpec

SLOTS = 16
AT_LEAST = {"bare": 0.0, "fcfs": 0.2, "las": 0.1}
Jobs = list[tuple[float, list[float]]]
"(arrival, service time of each call of its chain)"


def workload(count: int, seed: int) -> Jobs:
    """Chains of 1 to 7 calls (mean 4) of exponential size, Poisson arrivals, load 0.95."""
    rng = random.Random(seed)
    at, jobs = 0.0, []
    for _ in range(count):
        at += rng.expovariate(SLOTS * 0.95 / 4.0)
        jobs.append((at, [rng.expovariate(1.0) for _ in range(rng.randint(1, 7))]))
    return jobs


def bare(jobs: Jobs) -> list[float]:
    """First come, first served by job, on SLOTS servers. Returns each job's completion time."""
    events: list[tuple[float, int, int, int]] = []  # (at, sequence, job, index of the call that ended or -1)
    waiting: list[tuple[int, int]] = []  # (job, call)
    free, sequence = SLOTS, 0
    done = [0.0] * len(jobs)
    for number, (arrival, _) in enumerate(jobs):
        sequence += 1
        heappush(events, (arrival, sequence, number, -1))
    while events:
        now, _, number, ended = heappop(events)
        if ended >= 0:
            free += 1
            if waiting:
                free -= 1
                job, call = heappop(waiting)
                sequence += 1
                heappush(events, (now + jobs[job][1][call], sequence, job, call))
        if ended + 1 == len(jobs[number][1]):
            done[number] = now - jobs[number][0]
        elif free:
            free -= 1
            sequence += 1
            heappush(events, (now + jobs[number][1][ended + 1], sequence, number, ended + 1))
        else:
            heappush(waiting, (number, ended + 1))
    return done


def core(jobs: Jobs, policy: str, streamed: bool) -> list[float]:
    """The same through the core. With `streamed`, each call also reports its first token."""
    scheduler = build(SchedulerSpec([EngineSpec("e", ["m"])], policy=(policy,)))
    handle = scheduler.handle
    handle(ReplicaAdded(0.0, "e", "r", SLOTS))
    events: list[tuple[float, int, int, int, str]] = []  # as above, and the id of the call that ended
    sequence = 0
    done = [0.0] * len(jobs)
    names = [str(number) for number in range(len(jobs))]
    open_calls: dict[str, tuple[float, int, int]] = {}
    for number, (arrival, _) in enumerate(jobs):
        sequence += 1
        heappush(events, (arrival, sequence, number, -1, ""))
    while events:
        now, _, number, ended, call = heappop(events)
        arrival, sizes = jobs[number]
        job = names[number]
        if ended < 0:
            handle(JobOpened(now, job, "app"))
            commands = []
        else:
            commands = handle(CallFinished(now, call, 10, 10))
        ended += 1
        if ended < len(sizes):
            call = f"{job}.{ended}"
            open_calls[call] = (sizes[ended], number, ended)
            commands += handle(CallArrived(now, call, job, "s", "m", 10))
        else:
            done[number] = now - arrival
            handle(JobClosed(now, job))
        for command in commands:
            if type(command) is Dispatch:
                call = command.call
                size, number, ended = open_calls.pop(call)
                handle(CallStarted(now, call))
                if streamed:
                    handle(CallStreamed(now, call, 1))
                sequence += 1
                heappush(events, (now + size, sequence, number, ended, call))
    return done


def calls_per_second(run: object, jobs: Jobs) -> float:
    """Calls per CPU second of one run."""
    calls = sum(len(sizes) for _, sizes in jobs)
    gc.collect()
    start = time.process_time()
    run(jobs)  # type: ignore[operator]
    return calls / (time.process_time() - start)


def event_cost(policy: str, depth: int, rounds: int = 20_000) -> float:
    """CPU seconds of one arrival and one end while `depth` calls wait (one in ten jobs has several calls)."""
    rng = random.Random(1)
    scheduler = build(SchedulerSpec([EngineSpec("e", ["m"])], policy=(policy,)))
    handle = scheduler.handle
    handle(ReplicaAdded(0.0, "e", "r", SLOTS))
    running: list[str] = []
    number = 0

    def arrive(at: float) -> None:
        nonlocal number
        number += 1
        handle(JobOpened(at, f"j{number}", f"app{rng.randrange(8)}", f"t{rng.randrange(8)}", rng.randrange(5)))
        for index in range(3 if number % 10 == 0 else 1):
            call = f"{number}.{index}"
            running.extend(c.call for c in handle(CallArrived(at, call, f"j{number}", "s", "m")) if type(c) is Dispatch)

    while len(scheduler.calls) < depth + SLOTS:
        arrive(0.0)
    gc.collect()
    start = time.process_time()
    for index in range(rounds):
        at = 1.0 + index
        call = running.pop(rng.randrange(len(running)))
        running.extend(c.call for c in handle(CallFinished(at, call, 1, 1)) if type(c) is Dispatch)
        if len(scheduler.calls) < depth + SLOTS:
            arrive(at)
    return (time.process_time() - start) / rounds


def main() -> int:
    """Print the table; say what does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    jobs = workload(args.jobs, seed=1)
    assert bare(jobs) == core(jobs, "fcfs", streamed=False), "the two simulations differ"
    ratios: dict[str, list[float]] = {"fcfs": [], "las": []}
    speeds: dict[str, list[float]] = {"bare": [], "fcfs": [], "las": []}
    for _ in range(args.rounds):
        base = calls_per_second(bare, jobs)
        speeds["bare"].append(base)
        for name, streamed in (("fcfs", False), ("las", True)):
            speed = calls_per_second(lambda jobs, n=name, s=streamed: core(jobs, n, s), jobs)
            speeds[name].append(speed)
            ratios[name].append(speed / base)
    result: dict[str, object] = {}
    wrong: list[str] = []
    print(f"{'':24}{'calls/CPU s':>12}{'ratio to bare heapq':>22}")
    for name, values in speeds.items():
        ratio = statistics.median(ratios[name]) if name in ratios else 1.0
        if ratio < AT_LEAST[name]:
            wrong.append(f"{name}: {ratio:.3f} of the bare simulation, less than {AT_LEAST[name]}")
        result[name] = {"calls_per_cpu_s": statistics.median(values), "ratio": ratio}
        print(f"{name:24}{statistics.median(values):12,.0f}{ratio:22.3f}")
    for policy in ("fcfs", "las", "fair"):
        shallow = statistics.median(event_cost(policy, 1_000) for _ in range(3))
        deep = statistics.median(event_cost(policy, 100_000) for _ in range(3))
        result[f"{policy} 100k/1k"] = deep / shallow
        if deep > 2 * shallow:
            wrong.append(f"{policy}: an event costs {deep / shallow:.2f}x as much with 100,000 calls queued")
        print(f"{policy}: cost of an event with 100,000 calls queued / with 1,000: {deep / shallow:.2f}")
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print("\n".join(wrong) or "all hold")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
