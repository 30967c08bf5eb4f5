"""What the benchmark of urgency runs: policies on draws of jobs, and what comes of it by class."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import msgspec
from _jct_cells import ENGINES, Draw, learn_profiles, test_jobs
from _urgency_jobs import CLASSES, lone_calls, misjudged, rush, setup

from hocket.core.spec import PreemptionSpec
from hocket.sim.experiment import Setup, capacity, run_all, scaled
from hocket.sim.results import report
from hocket.trace import Job

STRICT, DEFAULT = "urgency>srtf", "default"
FREELY = "urgency>srtf, displacing"
"preemption at every iteration, of any call, and its KV cache is kept for nothing: the paper's"
NAMES = ("fcfs", "srtf", STRICT, FREELY, "urgency>hocket", DEFAULT)
RATIOS = (1.0, 1.1, 1.25, 1.5, 2.0, 4.0)
WITHIN_S = 60.0

URGENT_SHARE, LOAD = 0.1, 1.1
"of whole jobs: how many are of class 0, and the load"
OTHERS = 2
"class of the others"


class Figures(msgspec.Struct):
    """Of one policy, pooled over calls or jobs."""

    policy: str
    mean_s: float
    "sojourn: from arrival to the last token"
    by_class_s: list[float]
    wait_p99_s: list[float]
    "of a class"
    count: int


def figures(name: str, true: Sequence[Sequence[Job]], runs: Sequence[Any]) -> Figures:
    """`true`: the draws, each job in the class that it really is of."""
    for run in runs:
        assert run.outcome.policy_error is None, f"{name}: {run.outcome.policy_error}"
        assert not run.outcome.rejected, f"{name}: {run.outcome.rejected}"
    block: dict[str, Any] = report(true, runs)
    classes = [block["by_urgency"].get(str(urgency)) for urgency in range(CLASSES)]
    return Figures(
        name,
        block["jct_s"]["mean"],
        [one["jct_s"]["mean"] if one else 0.0 for one in classes],
        [one["wait_s"]["p99"] if one else 0.0 for one in classes],
        len(block["jobs"]),
    )


def run(
    draws: Sequence[Sequence[Job]],
    where: Setup,
    policies: Sequence[str],
    processes: int,
    true: Sequence[Sequence[Job]] | None = None,
) -> dict[str, Figures]:
    """Each policy on each draw."""
    runs = run_all(draws, where, policies, processes)
    return {name: figures(name, true or draws, [one for one in runs if one.policy == name]) for name in policies}


# ---------------------------------------------------------------- lone calls


def reproduction(most: int, seeds: int, processes: int) -> dict[str, Figures]:
    """The paper's calls under NAMES."""
    draws = [lone_calls(most, seed) for seed in range(seeds)]
    found = run(draws, setup(), [name for name in NAMES if name != FREELY], processes)
    displacing = msgspec.structs.replace(setup(swap_s_per_token=0.0), preemption=PreemptionSpec("key", at_most=10**6))
    found[FREELY] = run(draws, displacing, [STRICT], processes)[STRICT]
    found[FREELY].policy = FREELY
    return {name: found[name] for name in NAMES}


def by_ratio(most: int, seeds: int, processes: int) -> dict[float, Figures]:
    """Class 0 strict, the others weighed: what each ratio gives."""
    draws = [lone_calls(most, seed) for seed in range(seeds)]
    names = {ratio: f"urgency:strict=0:ratio={ratio:g}>hocket" for ratio in RATIOS}
    found = run(draws, setup(), list(names.values()), processes)
    return {ratio: found[name] for ratio, name in names.items()}


def in_error(most: int, seeds: int, processes: int, inwards: bool = False) -> dict[str, Figures]:
    """Lengths predicted at half or twice what they are, one class in five off by one; by the classes that are true."""
    true = [lone_calls(most, seed) for seed in range(seeds)]
    told = [misjudged(jobs, seed, inwards) for seed, jobs in enumerate(true)]
    return run(told, setup(), ("fcfs", STRICT, DEFAULT), processes, true)


def ageing(seeds: int, processes: int) -> dict[str, Figures]:
    """A rush of classes 0 to 3, with and without a bound on how long class 4 waits behind them."""
    draws = [rush(seed) for seed in range(seeds)]
    turns = f"urgency:strict=0:within_s={WITHIN_S:g}>hocket"
    hard = f"urgency:strict=0:within_s={WITHIN_S:g}:every=1>hocket"
    return run(draws, setup(), ("fcfs", STRICT, "urgency:strict=0>hocket", turns, hard), processes)


# ---------------------------------------------------------------- whole jobs


class Whole(msgspec.Struct):
    """Class 0 among whole jobs. Mean seconds from a job's arrival to its last answer."""

    engines: str
    how: str
    urgent_s: float
    idle_s: float
    "of the same jobs at the same times, without the others"
    all_s: float


def whole_jobs(engines: Sequence[str], seeds: int, processes: int) -> list[Whole]:
    """Six applications with learned profiles, a tenth of the jobs urgent, more work than the engines can do."""
    kinds = {name: ("mixed", name, "500") for name in engines}
    profiles = learn_profiles(list(kinds.values()), processes)
    found = []
    for name, kind in kinds.items():
        where = ENGINES[name]
        draws = [_whole_draw(name, where, seed) for seed in range(seeds)]
        urgent = [[job for job in jobs if job.urgency == 0] for jobs in draws]
        learned = profiles[kind]

        def mean(
            jobs: Sequence[Sequence[Job]], where: Setup, policy: str, learned: dict[str, str] = learned
        ) -> Figures:
            return figures(policy, jobs, run_all(jobs, where, [policy], processes, profiles=learned))

        idle = mean(urgent, where, DEFAULT)
        for how, policy, preemption in (
            ("`fcfs`", "fcfs", None),
            ("`default`", DEFAULT, None),
            ("`default`, preemption, `at_most: 2`", DEFAULT, PreemptionSpec(at_most=2)),
            ("`default`, preemption", DEFAULT, PreemptionSpec()),
        ):
            got = mean(draws, msgspec.structs.replace(where, preemption=preemption), policy)
            found.append(Whole(name, how, got.by_class_s[0], idle.by_class_s[0], got.mean_s))
    return found


def _whole_draw(engines: str, where: Setup, seed: int) -> list[Job]:
    rng = random.Random(seed)
    jobs = test_jobs(Draw("mixed", engines, seed))
    jobs = [msgspec.structs.replace(job, urgency=0 if rng.random() < URGENT_SHARE else OTHERS) for job in jobs]
    return scaled(jobs, LOAD * capacity(jobs, where))
