"""The cells of the evaluation: one policy on one draw of jobs, at one load, on one set of engines.

A cell's jobs follow from its name alone, so policies meet the same jobs whenever they are run, and cells can be kept in
a file and run anew one by one. A worker process takes a draw with all its cells: drawing the jobs and finding the
engines' capacity is shared.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import msgspec
from _recorded import halves, recorded_jobs

import hocket
from hocket.beliefs.learn import learn
from hocket.beliefs.profile import encode_profile
from hocket.beliefs.record import record_of
from hocket.sim.experiment import Setup, capacity, scaled, simulate
from hocket.sim.workloads import MIXES, generate
from hocket.trace import Job

JOBS = 300
"jobs of a draw"
TRAIN_SEED = 1
"the jobs that profiles are learned from"
TEST_SEEDS = 10_000
"the first seed of the jobs that are simulated"
LEARNED = 500
"jobs of an application that its profile is learned from"

SMALL = {"q0": 9.48e-3, "q1": 2.15e-9, "q2": 5.14e-5, "d0": 1.159e-2, "d1": 3.32e-5, "d2": 8.6e-8}
"Llama-3.1-8B on an A100, fitted to step times of aiconfigurator-core 0.12 (mean error: prefill 3.8 %, decode 1.8 %)"
MIDDLE = {"q0": 2.239e-2, "q1": 4.09e-9, "q2": 1.189e-4, "d0": 2.525e-2, "d1": 5.67e-5, "d2": 8.05e-8}
"Qwen3-32B on two A100, in the same way (3.4 %, 1.5 %)"
LARGE = {"q0": 2.349e-2, "q1": 2.55e-9, "q2": 1.454e-4, "d0": 2.769e-2, "d1": 1.21e-4, "d2": 5.56e-8}
"Llama-3.1-70B on four A100, in the same way (4.8 %, 1.4 %)"


SLOTS = 4
"of an engine: so few that 300 jobs are many. With 16, a queue hardly forms before the last job has arrived"


def _setup(slots: int, **latencies: dict[str, float]) -> Setup:
    engines = [
        {"name": name, "models": [name], "max_concurrency": slots, "kv_tokens": 300_000, "latency": latency}
        for name, latency in latencies.items()
    ]
    return msgspec.convert({"engines": engines}, Setup)


RECORDED = {
    "recorded:react": ("react",),
    "recorded:reflexion": ("reflexion",),
    "recorded:trees": ("tot-",),
    "recorded:graphs": ("worf-",),
    "recorded:all": ("",),
}
"workload -> how the names of its applications begin; see _recorded.py"

ENGINES: dict[str, Setup] = {
    "one": _setup(SLOTS, small=SMALL),
    "three": _setup(SLOTS, small=SMALL, medium=MIDDLE, large=LARGE),
    "one-16": _setup(16, small=SMALL),
    "three-16": _setup(16, small=SMALL, medium=MIDDLE, large=LARGE),
}
"one engine that serves all, and three on which jobs meet at some and part at others; with more slots, if asked for"


def _models(engines: str) -> str:
    """How many models the jobs ask for."""
    return engines.partition("-")[0]


class Cell(msgspec.Struct, frozen=True):
    """What was run."""

    workload: str
    "a mix, or one of RECORDED"
    engines: str
    load: float
    seed: int
    policy: str
    "a name, or with parameters: `hocket:share=0.4`"
    profiles: str = str(LEARNED)
    "jobs that they were learned from, or `wrong`: each application has another's"


class Result(msgspec.Struct):
    """What came of it. `jct_s` in the order of the draw."""

    cell: Cell
    jct_s: list[float]
    calls: int
    cpu_s: float
    jobs: str
    "digest of the jobs with their arrivals"
    source: str
    "digest of the sources that ran it"

    @property
    def mean(self) -> float:
        return sum(self.jct_s) / len(self.jct_s)


class Draw(NamedTuple):
    """What the cells of one task share."""

    workload: str
    engines: str
    seed: int


# ---------------------------------------------------------------- jobs and profiles


def test_jobs(draw: Draw) -> list[Job]:
    """JOBS jobs of a mix. Of recorded applications as many of the test half, none twice, in another order each seed."""
    models, seed = _models(draw.engines), TEST_SEEDS + draw.seed
    if draw.workload in MIXES:
        return list(generate(draw.workload, JOBS, 1.0, seed, models=models))
    rng = random.Random(seed)
    left = [rng.sample(test, len(test)) for _, test in _recorded(draw.workload, models).values()]
    count, jobs = min(JOBS, sum(map(len, left))), list[Job]()
    while len(jobs) < count:  # applications equally often, while they last
        left = [some for some in left if some]
        jobs += [some.pop() for some in left]
    jobs, at = rng.sample(jobs, count), 0.0
    return [msgspec.structs.replace(job, arrival_s=(at := at + rng.expovariate(1.0))) for job in jobs]


def train_jobs(workload: str, engines: str) -> dict[str, list[Job]]:
    """The jobs that may be learned from, by application."""
    models = _models(engines)
    if workload in MIXES:
        return {app: list(generate(app, LEARNED, 1.0, TRAIN_SEED, models=models)) for app in MIXES[workload]}
    return {app: train[:LEARNED] for app, (train, _) in _recorded(workload, models).items()}


@cache
def _recorded(workload: str, models: str) -> dict[str, tuple[list[Job], list[Job]]]:
    """(to learn from, to test on) of each application of a recorded workload."""
    return {app: halves(jobs) for app, jobs in recorded_jobs(models).items() if app.startswith(RECORDED[workload])}


Kind = tuple[str, str, str]
"(workload, engines, how its profiles were learned)"


def learn_profiles(kinds: Iterable[Kind], processes: int) -> dict[Kind, dict[str, str]]:
    """The profile files of each workload's applications, by name: learned from so many jobs, or another's."""
    kinds = list(kinds)
    jobs = {kind[:2]: train_jobs(*kind[:2]) for kind in kinds}
    parts = {(_models(kind[1]), _count(kind[2]), app): kind for kind in kinds for app in jobs[kind[:2]]}
    # processes of their own, not forked: a fork of a process with the threads of pyAgrum may hang
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        some = [jobs[kind[:2]][app][:count] for (_, count, app), kind in parts.items()]
        learned = dict(zip(parts, pool.map(_learn, [app for *_, app in parts], some), strict=True))
    found = {}
    for workload, engines, kind in kinds:
        apps = list(jobs[workload, engines])
        others = [*apps[1:], apps[0]] if kind == "wrong" else apps
        found[workload, engines, kind] = {
            app: learned[_models(engines), _count(kind), other].replace(f'"app":"{other}"', f'"app":"{app}"', 1)
            for app, other in zip(apps, others, strict=True)
        }
    return found


def _count(kind: str) -> int:
    return LEARNED if kind == "wrong" else int(kind)


def _learn(app: str, jobs: Sequence[Job]) -> str:
    return encode_profile(learn(app, [record_of(job) for job in jobs])).decode()


# ---------------------------------------------------------------- running


_profiles: dict[Kind, dict[str, str]] = {}
"what a worker process has"


def _share(profiles: dict[Kind, dict[str, str]]) -> None:
    _profiles.update(profiles)


@cache
def source() -> str:
    """A digest of what decides: a kept cell of another one may no longer be what this source would give."""
    root = Path(hocket.__file__).parent
    files = [path for part in ("core", "policies", "beliefs", "sim") for path in sorted((root / part).rglob("*.py"))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]


def run_draw(draw: Draw, cells: Sequence[Cell]) -> list[Result]:
    """Run `cells`, all of one draw."""
    base, setup = test_jobs(draw), ENGINES[draw.engines]
    most = capacity(base, setup)
    calls = sum(stage.kind == "llm" for job in base for stage in job.stages)
    results = []
    for load in sorted({cell.load for cell in cells}):
        jobs = scaled(base, load * most)
        digest = hashlib.sha256(msgspec.json.encode(jobs)).hexdigest()[:12]
        for cell in cells:
            if cell.load != load:
                continue
            learned = _profiles[cell.workload, cell.engines, cell.profiles]
            start = time.process_time()
            outcome = simulate(jobs, setup, cell.policy, profiles=learned)
            cpu_s = time.process_time() - start
            assert outcome.policy_error is None, f"{cell}: {outcome.policy_error}"
            assert not outcome.rejected, f"{cell}: {outcome.rejected}"
            jct_s = [round(outcome.jct_s[job.job], 4) for job in jobs]
            results.append(Result(cell, jct_s, calls, round(cpu_s, 4), digest, source()))
    return results


class Store:
    """Results in a file, one a line; of equal cells the last counts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.results: dict[Cell, Result] = {}
        if path.exists():
            for line in path.read_bytes().splitlines():
                try:
                    result = msgspec.json.decode(line, type=Result)
                except msgspec.MsgspecError:
                    continue  # a run was stopped in the middle of a line
                self.results[result.cell] = result

    def add(self, results: Iterable[Result]) -> None:
        with self._path.open("ab") as file:
            for result in results:
                self.results[result.cell] = result
                file.write(msgspec.json.encode(result) + b"\n")


def run_cells(
    cells: Sequence[Cell], store: Store, processes: int, progress: Callable[[int, int], None] = lambda done, of: None
) -> None:
    """Run what the store does not hold yet. `progress` is told (cells done, cells to do)."""
    draws: dict[Draw, list[Cell]] = {}
    for cell in cells:
        if cell not in store.results:
            draws.setdefault(Draw(cell.workload, cell.engines, cell.seed), []).append(cell)
    todo, done = sum(map(len, draws.values())), 0
    if not todo:
        return
    source()  # of what is about to run, whatever changes meanwhile
    profiles = learn_profiles(
        sorted({(c.workload, c.engines, c.profiles) for some in draws.values() for c in some}), processes
    )
    with ProcessPoolExecutor(processes, get_context("fork"), _share, (profiles,)) as pool:
        for future in as_completed([pool.submit(run_draw, *task) for task in draws.items()]):
            results = future.result()
            store.add(results)
            done += len(results)
            progress(done, todo)
