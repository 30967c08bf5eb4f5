"""Plans of this machine's cores, as `hocket up` runs them: is the planned one the best, and in the order foretold?

    python benchmarks/plan_live.py [--jobs 10] [--rounds 1] [--profiles F] [--only "small@0 large@1;..."] [--json F]

Two cores are two devices, threads are tensor parallelism. `hocket engine profile` measures `small` and `large` at 1
and 2 threads. Two applications are served, at a rate that keeps the cores busy for half of the time: `draft` writes
with `large` and has three answers judged by `small`, `chat` writes with `small` and has one judged. The planner makes
a plan. By hand there are: `small`, `large` and, where it is apart, `judge` (the second role of `small`) each on core
0, core 1 or both (two threads, or a replica on each), less mirror images. Each is run by `hocket up`, the same jobs
are replayed, and the mean JCT is what counts; the planned one, the even split (a core each) and the three best by
hand run three times, in turn. Prints all plans as measured, simulated and estimated, and what is wanted of them; exit
code 1 if that does not hold. Needs a machine on which nothing else runs: about 14 minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import random
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from itertools import combinations, product
from math import exp, fsum, log
from pathlib import Path
from statistics import mean, median, pvariance
from typing import NamedTuple

import msgspec
from rich.console import Console
from rich.table import Table

from hocket.cli import main as hocket
from hocket.core.latency import Latency
from hocket.planner.demand import App, Rates, demand_of
from hocket.planner.estimate import Estimator, engines_of, fleet_of
from hocket.planner.export import export, write
from hocket.planner.goal import Goal, scores
from hocket.planner.inputs import Cluster, Models
from hocket.planner.plan import EnginePlan, Plan, ReplicaPlan, as_json
from hocket.planner.planning import bound, plan_for
from hocket.planner.search import Problem, Search
from hocket.planner.simulated import setup_of
from hocket.replay import Target, replay
from hocket.sim.experiment import simulate
from hocket.trace import Job, Stage

SEED = 3
POLICY = "fcfs"
MEMORY_GIB = 1.5
"of a core: so that windows are what two cores can use"
WINDOW, SLOT = 4, 2048
"of each engine of a plan by hand, and tokens that a slot holds"
MIX = {"draft": 0.4, "chat": 0.6}
BUSY = 0.55
"share of what the cores could do at most"
JUDGED = ["draft/judge", "chat/judge"]
WEIGHTS = {"small": (0.087, 23040), "large": (0.24, 18432)}
"GiB, and bytes of KV cache a token"
PAIRED, TAU, BEST = 3, 0.8, 1.05
"runs of planned and even split; what the order has to reach; how much longer than the best the planned one may take"
CLOSE = 3
"plans by hand that run as often as the planned one: the best"
PLACES = {"0": [[0]], "1": [[1]], "0,1": [[0, 1]], "0/1": [[0], [1]]}
"name -> cores of each replica"


# ---------------------------------------------------------------- what is asked for


def jobs_of(count: int) -> list[Job]:
    """Two applications; the same jobs always."""
    rng, at, made = random.Random(SEED), 0.0, []

    def call(name: str, stage: str, model: str, prompt: int, output: int, *needs: str) -> Stage:
        tokens = max(1, round(output * rng.uniform(0.6, 1.4)))
        sizes = {"prompt_tokens": prompt, "output_tokens": tokens}
        return msgspec.convert(
            {"id": name, "name": stage, "kind": "llm", "needs": needs, "model": model} | sizes, Stage
        )

    for number in range(count):
        at += rng.expovariate(1.0)
        app = rng.choices(list(MIX), list(MIX.values()))[0]
        if app == "draft":
            stages = [call("w", "write", "large", 40, 40)]
            stages += [call(f"j{k}", "judge", "small", 60, 3, "w") for k in range(3)]
        else:
            stages = [call("w", "write", "small", 40, 40), call("j", "judge", "small", 60, 3, "w")]
        made.append(Job(job=f"{app}-{number}", app=app, arrival_s=at, stages=stages))
    return made


# ---------------------------------------------------------------- plans


def by_hand(kinds: Models) -> Iterator[tuple[str, Plan]]:
    """Every plan of one or two engines of `small` and one of `large`, less mirror images."""
    seen = set[str]()
    widths = {model: kinds.named[model].latency["cpu"] for model in WEIGHTS}
    for apart in (False, True):
        names = ["small", "large", *(["judge"] if apart else [])]
        places = [place for place in PLACES if not (apart and place == "0/1")]
        for chosen in product(places, repeat=len(names)):
            mirrored = tuple({"0": "1", "1": "0"}.get(place, place) for place in chosen)
            title, other = (" ".join(f"{n}@{p}" for n, p in zip(names, one, strict=True)) for one in (chosen, mirrored))
            here = [(n, PLACES[p]) for n, p in zip(names, chosen, strict=True)]
            fits = all(len(cores[0]) in widths["small" if n == "judge" else n] for n, cores in here)
            if fits and not seen & {title, other}:
                seen.add(title)
                yield title, hand_made(here)


def hand_made(engines: Sequence[tuple[str, list[list[int]]]]) -> Plan:
    """The engines on these cores, in equal shares of each."""
    count = {core: sum(core in cores for _, own in engines for cores in own) for core in (0, 1)}
    made = []
    for name, own in engines:
        replicas = [
            ReplicaPlan(
                [f"here/gpu{c}" for c in cores], 1 / max(count[c] for c in cores), len(cores), WINDOW, WINDOW * SLOT
            )
            for cores in own
        ]
        made.append(EnginePlan(name, "small" if name == "judge" else name, replicas, JUDGED if name == "judge" else []))
    return Plan(made)


# ---------------------------------------------------------------- figures


def profiled(seconds: float) -> dict[str, dict[int, dict[str, float]]]:
    """Constants of both models at 1 and 2 threads, by `hocket engine profile`."""
    found: dict[str, dict[int, dict[str, float]]] = {}
    for model, threads in product(WEIGHTS, (1, 2)):
        cores = ",".join(map(str, range(threads)))
        words = ["engine", "profile", model, "--threads", str(threads), "--cpus", cores, "--parallel", str(WINDOW)]
        out = io.TextIOWrapper(io.BytesIO())
        with redirect_stdout(out):
            code = hocket([*words, "--seconds", str(seconds), "--json"])
        if code:
            raise SystemExit(f"hocket {' '.join(words)}: exit code {code}")
        out.flush()
        told = json.loads(out.buffer.getvalue())
        found.setdefault(model, {})[threads] = told["latency"]
        alone = Latency(**told["latency"]).unloaded(60, 40)
        print(f"{model}, {threads} thread(s): {alone:.2f} s for 60 + 40 tokens, rounds differ by {told['noise']:.0%}")
    return found


def models_of(found: dict[str, dict[int, dict[str, float]]]) -> Models:
    """Without a width that is slower: nobody would plan with it."""

    def models(without: set[str]) -> Models:
        listed = []
        for name, (weights_gib, kv_bytes) in WEIGHTS.items():
            table = {
                int(threads): own for threads, own in found[name].items() if int(threads) == 1 or name not in without
            }
            one = {"name": name, "weights_gib": weights_gib, "kv_bytes_per_token": kv_bytes}
            listed.append(one | {"latency": {"cpu": table}})
        return msgspec.convert({"models": listed}, Models)

    without = set[str]()
    for name in WEIGHTS:
        try:
            models(set(WEIGHTS) - {name})
        except msgspec.ValidationError as error:
            print(f"{name} at 2 threads is left out: {error}")
            without.add(name)
    return models(without)


class Tried(NamedTuple):
    """A plan and what came of it. Seconds of mean JCT."""

    name: str
    plan: Plan
    estimated: float
    simulated: float
    measured: list[float]

    @property
    def told(self) -> float:
        """Over the runs."""
        return exp(mean(map(log, self.measured)))


def run(plan: Plan, cluster: Cluster, models: Models, jobs: Sequence[Job]) -> float:
    """Mean JCT of the jobs under the plan, served by `hocket up`."""
    with tempfile.TemporaryDirectory() as folder:
        write({"plan.json": as_json(plan)} | export(plan, cluster, models), folder)
        out = io.StringIO()
        with redirect_stdout(out):
            code = hocket(["up", folder, "--port", "0", "--policy", POLICY])
        try:
            found = re.search(r"http://\S+?(?=/v1)", out.getvalue())
            if code or found is None:
                raise SystemExit(f"hocket up: {out.getvalue()}")
            warm = [msgspec.structs.replace(job, arrival_s=0.0) for job in jobs[:3]]
            asyncio.run(replay(warm, Target(found.group())))
            outcome = asyncio.run(replay(jobs, Target(found.group()))).outcome
        finally:
            with redirect_stdout(io.StringIO()):
                hocket(["down", folder])
    if outcome.rejected:
        raise SystemExit(f"a job failed: {next(iter(outcome.rejected.items()))}")
    return fsum(outcome.jct_s.values()) / len(outcome.jct_s)


def noise(tried: Sequence[Tried]) -> float:
    """Standard deviation of ln(mean JCT) from run to run, over plans that ran more than once."""
    often = [one for one in tried if len(one.measured) > 1]
    return (
        mean(pvariance(list(map(log, one.measured))) * len(one.measured) / (len(one.measured) - 1) for one in often)
        ** 0.5
        if often
        else 0.0
    )


def kendall(tried: Sequence[Tried], key: str, apart: float) -> tuple[float, int]:
    """Tau between foretold and measured, over pairs whose measured ln differ by more than `apart`; how many pairs."""
    told = [
        1 if (getattr(a, key) < getattr(b, key)) == (a.told < b.told) else -1
        for a, b in combinations(tried, 2)
        if abs(log(a.told / b.told)) > apart
    ]
    return (sum(told) / len(told) if told else float("nan")), len(told)


# ---------------------------------------------------------------- all of it


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=12.0, help="of each profile")
    parser.add_argument("--profiles", metavar="F", help="measured before: read from here if it is there, else written")
    parser.add_argument("--only", metavar="NAMES", help="these plans by hand, names joined by ; as printed")
    parser.add_argument("--json", metavar="F")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what is up comes down
    began = time.monotonic()
    kept = Path(args.profiles) if args.profiles else None
    constants = json.loads(kept.read_text()) if kept and kept.exists() else profiled(args.seconds)
    if kept:
        kept.write_text(json.dumps(constants))
    models, cluster = models_of(constants), here()
    problem = asked(args.jobs, cluster, models)
    jobs = sorted(problem.demand.jobs, key=lambda job: job.arrival_s)
    planned = plan_for(problem, 20.0, time.monotonic, lambda *_: None)
    plans = {"planned": planned.plan} | dict(by_hand(models))
    if args.only:
        plans = {name: plan for name, plan in plans.items() if name in ("planned", *args.only.split(";"))}
    tried = [foretold(name, plan, problem, jobs) for name, plan in plans.items()]
    even = "small@0 large@1"
    print(f"{len(tried)} plans; {len(jobs)} jobs arrive in {jobs[-1].arrival_s:.0f} s")
    for turn in range(max(args.rounds, PAIRED)):
        for one in tried if turn < args.rounds else again(tried, even):
            one.measured.append(run(one.plan, cluster, models, jobs))
            print(f"{time.monotonic() - began:5.0f} s  {one.name}: {one.measured[-1]:.2f} s", flush=True)
    return judge(tried, even, args.json)


def again(tried: Sequence[Tried], even: str) -> list[Tried]:
    """The planned one, the even split, and the best by hand as far as is known: luck is not to decide."""
    ranked = sorted((one for one in tried if one.name not in {"planned", even}), key=lambda one: one.told)
    return [one for one in tried if one.name in {"planned", even} or one in ranked[:CLOSE]]


def asked(count: int, cluster: Cluster, models: Models) -> Problem:
    """The jobs, and the rates at which they come: as drawn, for the replay has no others."""
    jobs = jobs_of(count)
    goal, apps = Goal("latency", headroom=1.0), sorted({job.app for job in jobs})

    def problem() -> Problem:
        lasts = jobs[-1].arrival_s * (count + 1) / count
        rates = Rates([App(app, sum(job.app == app for job in jobs) / lasts) for app in apps])
        return Problem(demand_of(jobs, rates), cluster, models, goal)

    slower = bound(Search(problem()))["carries"] * BUSY
    jobs = [msgspec.structs.replace(job, arrival_s=job.arrival_s / slower) for job in jobs]
    return problem()


def here() -> Cluster:
    node = {"name": "here", "devices": 2, "kind": "cpu", "memory_gib": MEMORY_GIB}
    return msgspec.convert({"nodes": [node]}, Cluster)


def foretold(name: str, plan: Plan, problem: Problem, jobs: Sequence[Job]) -> Tried:
    """A plan with what the estimate says at the rates, and the simulator of the very jobs."""
    demand, (cluster, models) = problem.demand, (problem.cluster, problem.models)
    estimator = Estimator(demand, engines_of(demand, plan.engines), len(plan.engines))
    score = scores(problem.goal, estimator, [fleet_of(plan, cluster, models, demand)])[0]
    outcome = simulate(list(jobs), setup_of(plan, cluster, models), POLICY)
    return Tried(name, plan, score.value, fsum(outcome.jct_s.values()) / len(outcome.jct_s), [])


def judge(tried: Sequence[Tried], even: str, file: str | None) -> int:
    """The table, and what is wanted of it."""
    table = Table("plan", "measured, s", "runs", "simulated", "estimated", title="mean JCT, seconds")
    ranked = sorted(tried, key=lambda one: one.told)
    for one in ranked:
        runs = " ".join(f"{value:.2f}" for value in one.measured)
        table.add_row(one.name, f"{one.told:.2f}", runs, f"{one.simulated:.2f}", f"{one.estimated:.2f}")
    Console(width=120).print(table)
    named, spread = {one.name: one for one in tried}, noise(tried)
    tau = {key: kendall(tried, key, 2 * spread) for key in ("simulated", "estimated")}
    ours, best = named["planned"], next(one for one in ranked if one.name != "planned")
    choices = [
        f"{e.name} tp {r.tensor_parallel} on {'+'.join(r.devices)} at {r.share:g}"
        for e in ours.plan.engines
        for r in e.replicas
    ]
    print(f"planned: {'; '.join(choices)}")
    print(f"noise from run to run: {spread:.1%}")
    for key, (value, count) in tau.items():
        print(f"Kendall tau of {key} against measured: {value:.2f} over {count} pairs that differ by twice the noise")
    print(
        f"rank of the planned one: {ranked.index(ours) + 1} of {len(ranked)}; {ours.told / best.told:.2f} of the best"
    )
    wrong = []
    if even in named:
        pairs = [a / b for a, b in zip(ours.measured, named[even].measured, strict=False)]
        print(f"planned / even split, paired: median {median(pairs):.2f} of {[round(pair, 2) for pair in pairs]}")
        if median(pairs) >= 1.0:
            wrong.append("the planned one does not beat the even split")
    if ours.told > BEST * best.told:
        wrong.append(f"the planned one is more than {BEST - 1:.0%} behind {best.name}")
    if not tau["simulated"][0] >= TAU:
        wrong.append(f"the order is not the one that was simulated: {TAU} is asked for")
    print("; ".join(wrong) or "holds")
    if file:
        told = [one._asdict() | {"plan": msgspec.to_builtins(one.plan)} for one in tried]
        Path(file).write_text(json.dumps({"plans": told, "noise": spread, "tau": tau, "wrong": wrong}, indent=1))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
