"""Is the simulator true to life? The demo's jobs, replayed on the embedded engines and simulated with their profiles.

    python benchmarks/true_to_life.py                        (about 20 minutes: 4 policies, 3 replays each, 2 profiles)
    python benchmarks/true_to_life.py --policy call-fcfs,hocket                                    (about 12 minutes)
    python benchmarks/true_to_life.py --policy las --repeats 1 --engines engines.yaml

The two engines of the demo are profiled, each while the other is kept busy, as it will be. Then the jobs of the demo
(demo_jobs.jsonl, as one pass recorded them) are replayed through a gateway, fresh each time, under each policy in turn,
and simulated under the same policies on the profiles. Policies that believe know in both what the demo knows: profiles
of the applications, learned from other jobs. Must hold: the mean JCT of the simulation is within 15 % of the median
replay; where two policies' replays do not overlap, the simulation ranks the two alike; `hocket` is 25 % below
`call-fcfs`, the median of the pairs. Exit code 1 if not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from itertools import combinations
from pathlib import Path
from statistics import fmean, median
from typing import Any

from rich.console import Console
from rich.table import Table

from hocket.demo import mix
from hocket.demo.passes import CPUS, WINDOW, Gateway
from hocket.demo.rehearsal import write_profiles
from hocket.engines.embedded import EmbeddedSpec
from hocket.engines.probe import Probe, keep_busy
from hocket.engines.profile import profile
from hocket.engines.supervisor import EmbeddedEngine
from hocket.profiles import read_profiles
from hocket.replay import Target, replay
from hocket.sim.experiment import Setup, load_setup, simulate
from hocket.trace import Job, read_jobs

JOBS = Path(__file__).with_name("demo_jobs.jsonl")
TOLERANCE = 0.15
AT_MOST = {("hocket", "call-fcfs"): 0.75}
"mean JCT of one over the other's, live: the median over pairs of replays that follow each other"
MODELS = ("small", "large")


async def profiled(seconds: float, directory: Path) -> Setup:
    """Both engines as the demo runs them, measured in turn while the other one works."""
    async with AsyncExitStack() as stack:
        probes = {}
        for name, cpus in zip(MODELS, CPUS, strict=True):
            spec = EmbeddedSpec(weights=name, threads=1, parallel=WINDOW, context=1024, cpus=cpus)
            engine = await stack.enter_async_context(EmbeddedEngine(name, spec))
            probes[name] = await stack.enter_async_context(Probe(next(iter(engine.urls.values()))))
        text = "engines:\n"
        for name, probe in probes.items():
            others = [asyncio.create_task(keep_busy(other, WINDOW)) for other in probes.values() if other is not probe]
            result = await profile(probe, seconds, WINDOW, lambda gone, what: None)
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            print(f"{name}: fit error, mean (most): {result.errors()}; rounds differ by {result.noise:.1%}", flush=True)
            text += result.engine_yaml(name).partition("engines:\n")[2]
    file = directory / "engines.yaml"
    file.write_text(text)
    print(text)
    return load_setup(str(file))


async def replayed(jobs: list[Job], policy: str, directory: Path, setup: Setup) -> dict[str, float]:
    """JCT of each job on a fresh gateway with fresh engines."""
    latency = {engine.name: engine.latency for engine in setup.engines}
    async with Gateway(directory, policy, directory / "profiles", latency) as gateway:
        found = await replay(jobs, Target(gateway.url))
    if found.outcome.rejected:
        raise SystemExit(f"{policy}: jobs did not complete: {found.outcome.rejected}")
    return found.outcome.jct_s


def verdict(live: dict[str, list[float]], simulated: dict[str, float]) -> list[str]:
    """What does not hold. `live`: mean JCT of each replay, by policy."""
    wrong = []
    for policy, means in live.items():
        error = simulated[policy] / median(means) - 1
        if abs(error) > TOLERANCE:
            wrong.append(f"{policy}: simulated {error:+.0%}, more than {TOLERANCE:.0%} off")
    for one, other in combinations(live, 2):
        low, high = (one, other) if median(live[one]) < median(live[other]) else (other, one)
        if max(live[low]) < min(live[high]) and simulated[low] >= simulated[high]:
            wrong.append(f"live {low} is always ahead of {high}, simulated it is not")
    for (one, other), most in AT_MOST.items():
        if one in live and other in live:
            ratio = median(a / b for a, b in zip(live[one], live[other], strict=True))
            print(f"{one} / {other}, live: {ratio:.3f}, must be <= {most}")
            if ratio > most:
                wrong.append(f"{one} is at {ratio:.2f} of {other}, live; {most} is asked for")
    return wrong


def show(live: dict[str, list[float]], simulated: dict[str, float]) -> None:
    """The table."""
    table = Table("policy", "live, median", "each", "simulated", "off by", title="mean JCT in seconds")
    for policy, means in live.items():
        each = ", ".join(f"{mean:.1f}" for mean in means)
        middle, virtual = median(means), simulated[policy]
        table.add_row(policy, f"{middle:.1f}", each, f"{virtual:.1f}", f"{virtual / middle - 1:+.1%}")
    Console().print(table)


def write(file: str, found: dict[str, Any]) -> None:
    """All figures, job by job."""
    Path(file).write_text(json.dumps(found, indent=1))


async def main() -> int:
    """Measure, compare, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", default="call-fcfs,las,sjf,hocket")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0, help="for the profile of each engine")
    parser.add_argument("--engines", help="engines.yaml to simulate with, instead of profiles measured now")
    parser.add_argument("--jobs", default=str(JOBS))
    parser.add_argument("--json")
    args = parser.parse_args()
    jobs = read_jobs(args.jobs)
    policies = args.policy.split(",")
    runs: dict[str, list[dict[str, float]]] = {policy: [] for policy in policies}
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        setup = load_setup(args.engines) if args.engines else await profiled(args.seconds, directory)
        await write_profiles(directory / "profiles", mix.SEED)
        learned = read_profiles(directory / "profiles")
        virtual = {policy: simulate(jobs, setup, policy, profiles=learned).jct_s for policy in policies}
        for _ in range(args.repeats):
            for policy in policies:  # in turn, so that a slow spell of the machine meets all of them
                began = time.perf_counter()
                runs[policy].append(await replayed(jobs, policy, directory, setup))
                mean = fmean(runs[policy][-1].values())
                print(f"{policy}: mean JCT {mean:.1f} s, {time.perf_counter() - began:.0f} s in all", flush=True)
    live = {policy: [fmean(run.values()) for run in done] for policy, done in runs.items()}
    simulated = {policy: fmean(jct.values()) for policy, jct in virtual.items()}
    show(live, simulated)
    wrong = verdict(live, simulated)
    print("\n".join(wrong) or "true to life")
    if args.json:
        write(args.json, {"live": live, "simulated": simulated, "wrong": wrong, "runs": runs, "simulations": virtual})
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
