"""Several policies on the same draws of the same jobs, one process a core."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import pairwise
from typing import Any

import msgspec

from hocket.assembly import build
from hocket.core.spec import AdmissionSpec, EngineSpec, PreemptionSpec, Route, SchedulerSpec, TenantSpec
from hocket.errors import InputError
from hocket.policies import check_parameters, parse_policy
from hocket.sim.driver import FOREVER_S, Outcome, Simulation
from hocket.sim.model import EngineModel
from hocket.sim.oracle import Oracle
from hocket.sim.results import Run
from hocket.sim.sharing import Placement, Sharing
from hocket.sim.workers import context, cores, workers
from hocket.trace import Job
from hocket.yamlfile import load_yaml


class Setup(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """`engines.yaml`: what serves the jobs."""

    engines: list[EngineModel]
    routing: str = "least-loaded"
    policies: dict[str, dict[str, float | list[float]]] = {}
    "policy -> its parameters, where they are not the defaults"
    preemption: PreemptionSpec | None = None
    "whether running calls may be displaced"
    routes: list[Route] = []
    tenants: list[TenantSpec] = []
    limits: AdmissionSpec = AdmissionSpec()
    "who is let in"
    sharing: Sharing | None = None
    "the devices of all replicas, where some have a part of one"

    def __post_init__(self) -> None:
        """Check what types cannot say. An error begins with its key, which the loader turns into a line."""
        if not self.engines:
            raise ValueError("`engines`: empty; list at least one")
        try:
            check_parameters(self.policies)
        except InputError as error:
            raise ValueError(str(error)) from None
        names = [engine.name for engine in self.engines]
        for index, name in enumerate(names):
            if name in names[:index]:
                raise ValueError(f"`engines[{index}].name`: {name!r} is there twice; give each engine its own")
        for index, route in enumerate(self.routes):
            if route.engine not in names:
                raise ValueError(f"`routes[{index}].engine`: no engine {route.engine!r}; there is {', '.join(names)}")
        for index, tenant in enumerate(self.tenants):
            _check_tenant(tenant, f"`tenants[{index}]")
        if self.sharing is not None:
            _check_placements(self.sharing.placements, [e.name for e in self.engines for _ in range(e.replicas)])


def _check_tenant(tenant: TenantSpec, where: str) -> None:
    if not 0 < tenant.weight < float("inf"):
        raise ValueError(f"{where}.weight`: {tenant.weight}; use a number above 0")
    if tenant.urgent_share is not None and not 0 < tenant.urgent_share <= 1:
        raise ValueError(f"{where}.urgent_share`: {tenant.urgent_share}; use a share above 0, to 1")
    if not 0 < tenant.urgent_burst_s < float("inf"):
        raise ValueError(f"{where}.urgent_burst_s`: {tenant.urgent_burst_s}; use slot-seconds above 0")


def _check_placements(placements: Sequence[Placement], engines: Sequence[str]) -> None:
    """`engines`: the name of each replica's engine."""
    if len(placements) != len(engines):
        problem = f"{len(placements)} for {len(engines)} replicas; give one each, in their order"
        raise ValueError(f"`sharing.placements`: {problem}")
    for index, (placement, engine) in enumerate(zip(placements, engines, strict=True)):
        if placement.model is not None and placement.model.name != engine:
            problem = f"'{placement.model.name}'; this replica is one of '{engine}', so give that name"
            raise ValueError(f"`sharing.placements[{index}].model.name`: {problem}")


def load_setup(path: str) -> Setup:
    """Read `engines.yaml`. Raises InputError: file, line, key, remedy."""
    return load_yaml(path, Setup, "docs/reference/engines-yaml.md")


def with_preemption(setup: Setup, across: str | None) -> Setup:
    """The same with calls displaced across "class" or "key", or "never"; None leaves it as it is."""
    if across is None:
        return setup
    if across == "never":
        return msgspec.structs.replace(setup, preemption=None)
    given = setup.preemption or PreemptionSpec()
    return msgspec.structs.replace(setup, preemption=msgspec.structs.replace(given, across=across))


def simulate(
    jobs: Sequence[Job],
    setup: Setup,
    policy: str,
    record: frozenset[str] = frozenset(),
    progress: Callable[[int], None] | None = None,
    profiles: Mapping[str, str] | None = None,
) -> Outcome:
    """Run `jobs` under `policy` ("urgency>las"), which may know `profiles`: the text of each application's.

    Raises InputError for a policy that is none, and where jobs could never end.
    """
    oracle = Oracle() if "oracle" in parse_policy(policy) else None
    scheduler = build(scheduler_spec(setup, policy), {"oracle": oracle} if oracle else None, profiles)
    return Simulation(*(jobs, setup.engines, scheduler, oracle, record), progress=progress, sharing=setup.sharing).run()


def scheduler_spec(setup: Setup, policy: str) -> SchedulerSpec:
    """What the core of a simulation is built from."""
    engines = [
        EngineSpec(e.name, e.models, e.window == "auto", e.pace, swap_s_per_token=e.swap_s_per_token)
        for e in setup.engines
    ]
    return SchedulerSpec(
        engines=engines,
        policy=parse_policy(policy),
        parameters=setup.policies,
        routing=setup.routing,
        routes=setup.routes,
        tenants=setup.tenants,
        preemption=setup.preemption,
        limits=setup.limits,
        job_idle_s=FOREVER_S,
    )


def parse_policies(text: str, setup: Setup) -> list[str]:
    """The policies of a command line, "fcfs,urgency>las". Raises InputError for what is none, before a run begins."""
    policies = [policy.strip() for policy in text.split(",")]
    for policy in policies:
        if policies.count(policy) > 1:
            raise InputError(f"--policy: {policy!r} is there twice; name each policy once")
        build(scheduler_spec(setup, policy), extra={"oracle": Oracle()})
    return policies


# ---------------------------------------------------------------- draws and load


def draw(jobs: Sequence[Job], seed: int) -> list[Job]:
    """Resample whole jobs, with replacement, and the gaps between their arrivals. The same for all policies."""
    rng = random.Random(seed)
    arrivals = sorted(job.arrival_s for job in jobs)
    gaps = [after - before for before, after in pairwise(arrivals)]
    taken = {job.job for job in jobs}
    copies: Counter[str] = Counter()
    drawn, at = [], arrivals[0]
    for number in range(len(jobs)):
        job = rng.choice(jobs)
        if number and gaps:
            at += rng.choice(gaps)
        name = job.job
        while copies[job.job] and name in taken:
            copies[job.job] += 1
            name = f"{job.job}#{copies[job.job]}"
        copies[job.job] = copies[job.job] or 1
        taken.add(name)
        drawn.append(msgspec.structs.replace(job, job=name, arrival_s=at))
    return drawn


def capacity(jobs: Sequence[Job], setup: Setup) -> float:
    """Jobs a second that the engines complete: under `fcfs`, with all jobs present at 0."""
    present = [msgspec.structs.replace(job, arrival_s=0.0) for job in jobs]
    outcome = simulate(present, with_preemption(setup, "never"), "fcfs")
    if not outcome.jct_s or not outcome.makespan_s:
        raise InputError("--load: no job could run to its end, so there is no capacity to take a multiple of")
    return len(outcome.jct_s) / outcome.makespan_s


def scaled(jobs: Sequence[Job], rate: float) -> list[Job]:
    """The same jobs, arriving `rate` times a second on average."""
    first, last = min(job.arrival_s for job in jobs), max(job.arrival_s for job in jobs)
    if last <= first:
        raise InputError("--load: all jobs arrive at one time, there is no rate to scale; give arrivals (see workload)")
    factor = (len(jobs) - 1) / (last - first) / rate
    return [msgspec.structs.replace(job, arrival_s=(job.arrival_s - first) * factor) for job in jobs]


# ---------------------------------------------------------------- processes

Task = tuple[str, int]
"(policy, seed)"

_shared: dict[str, Any] = {}
"what a worker process works with"


def run_all(
    draws: Sequence[Sequence[Job]],
    setup: Setup,
    policies: Sequence[str],
    processes: int | None = None,
    record: frozenset[str] = frozenset(),
    progress: Callable[[int], None] = lambda done: None,
    profiles: Mapping[str, str] | None = None,
) -> list[Run]:
    """Each policy on each draw, seed by seed. Keeps the spans of the jobs `record` of the first draw.

    `progress` is told how many jobs are done in all, now and then.
    """
    tasks = [(policy, seed) for seed in range(len(draws)) for policy in policies]
    count = min(processes or cores(), len(tasks))
    counts = context().Array("q", len(tasks), lock=False)
    inputs = (draws, setup, record, counts, profiles)
    if count == 1:
        _prepare(*inputs)

        def tell(done: int) -> None:
            progress(sum(counts))

        return [_run(index, task, tell) for index, task in enumerate(tasks)]
    with workers(count, _prepare, *inputs) as pool:
        futures = [pool.submit(_run, index, task) for index, task in enumerate(tasks)]
        left = set(futures)
        while left:
            left = wait(left, timeout=0.2, return_when=FIRST_COMPLETED).not_done
            progress(sum(counts))
        try:
            return [future.result() for future in futures]
        except BrokenProcessPool:
            raise InputError("a worker process was killed, perhaps for want of memory; use --processes 1") from None


def _prepare(*inputs: Any) -> None:
    _shared["inputs"] = inputs


def _run(index: int, task: Task, tell: Callable[[int], None] = lambda done: None) -> Run:
    draws, setup, record, counts, profiles = _shared["inputs"]
    policy, seed = task

    def progress(done: int) -> None:
        if done % 64 == 0 or done == len(draws[seed]):
            counts[index] = done
            tell(done)

    start = time.perf_counter()
    outcome = simulate(draws[seed], setup, policy, record if seed == 0 else frozenset(), progress, profiles)
    return Run(policy, seed, outcome, time.perf_counter() - start)
