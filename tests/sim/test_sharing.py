"""Replicas on shared devices, against a fluid reference that knows no iterations."""

from __future__ import annotations

import random
from itertools import pairwise

import msgspec
import pytest

from hocket.assembly import build
from hocket.core.latency import Latency
from hocket.sim.driver import Simulation
from hocket.sim.engine import Replica, Request
from hocket.sim.experiment import scheduler_spec, simulate
from hocket.sim.model import EngineModel
from hocket.sim.sharing import LOST, Devices, Law, Placement, Sharing
from hocket.trace import Job
from tests.sim.worlds import as_jobs, as_setup, random_engines, random_jobs

TOKEN_S = 0.125
LATENCY = {"q0": TOKEN_S, "d0": TOKEN_S}
"each token takes as long, the first one too"
LAWS: list[Law] = ["ps", "capped"]


def lone(number: int, at: float, model: str, tokens: int) -> dict[str, object]:
    stage = {"id": "s", "name": "s", "kind": "llm", "needs": [], "model": model, "output_tokens": tokens}
    return {"v": 1, "job": f"j{number}", "app": "a", "arrival_s": at, "stages": [{**stage, "prompt_tokens": 0}]}


def run(jobs: list[Job], places: list[Placement], law: Law) -> dict[str, float]:
    """JCT of lone calls; the k-th engine has one replica, at the k-th place, and serves the model `mk`."""
    names = [f"m{k}" for k in range(len(places))]
    setup = as_setup([{"name": n, "models": [n], "max_concurrency": 1, "latency": LATENCY} for n in names])
    scheduler = build(scheduler_spec(setup, "call-fcfs"))
    return Simulation(jobs, setup.engines, scheduler, sharing=Sharing(places, law)).run().jct_s


def fluid(jobs: list[Job], places: list[Placement], law: Law) -> dict[str, float]:
    """The same, by small arithmetic: whoever is at work moves at its speed until the next arrival or end."""
    queues: list[list[tuple[float, str, float]]] = [[] for _ in places]
    for job in jobs:
        queues[int(str(job.stages[0].model)[1:])].append(
            (job.arrival_s, job.job, TOKEN_S * (job.stages[0].output_tokens or 1))
        )
    left = [[work for _, _, work in queue] for queue in queues]
    heads, done, now = [0] * len(places), dict[str, float](), 0.0
    while any(head < len(queue) for head, queue in zip(heads, queues, strict=True)):
        at_work = [k for k, queue in enumerate(queues) if heads[k] < len(queue) and queue[heads[k]][0] <= now + 1e-9]
        speeds = {k: speed(k, at_work, places, law) for k in at_work}
        moments = [now + left[k][heads[k]] / speeds[k] for k in at_work]
        moments += [at for queue in queues for at, _, _ in queue if at > now + 1e-9]
        step, now = min(moments) - now, min(moments)
        for k in at_work:
            left[k][heads[k]] -= step * speeds[k]
            if left[k][heads[k]] < 1e-9:
                arrived, name, _ = queues[k][heads[k]]
                done[name], heads[k] = now - arrived, heads[k] + 1
    return done


def speed(k: int, at_work: list[int], places: list[Placement], law: Law) -> float:
    if law == "capped":
        return places[k].share
    parts = []
    for device in places[k].devices:
        here = [places[other].share for other in at_work if device in places[other].devices]
        parts.append(1.0 if len(here) == 1 else (1 - LOST) * places[k].share / sum(here))
    return min(parts)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("seed", range(20))
def test_it_does_what_a_fluid_does(seed: int, law: Law) -> None:
    """Random places, shares and arrivals; parallel replicas on several devices among them."""
    rng = random.Random(seed)
    places = [
        Placement(tuple(rng.sample(["d0", "d1", "d2"], rng.choice([1, 1, 2]))), rng.choice([0.1, 0.15, 0.25]))
        for _ in range(rng.randrange(2, 5))
    ]
    jobs = as_jobs(
        [
            lone(i, rng.uniform(0, 20), f"m{rng.randrange(len(places))}", rng.randrange(1, 40))  # type: ignore[misc]
            for i in range(40)
        ]
    )
    jobs.sort(key=lambda job: job.arrival_s)
    assert run(jobs, places, law) == pytest.approx(fluid(jobs, places, law), abs=1e-6)


def test_two_that_share_a_device_take_twice_as_long_and_a_little() -> None:
    """And one alone has all of it under `ps`, its own part under `capped`."""
    half = [Placement(("d",), 0.5), Placement(("d",), 0.5)]
    both = as_jobs([lone(0, 0.0, "m0", 80), lone(1, 0.0, "m1", 80)])  # type: ignore[list-item]
    assert run(both, half, "ps") == pytest.approx({"j0": 20 / 0.95, "j1": 20 / 0.95})
    assert run(both, half, "capped") == pytest.approx({"j0": 20.0, "j1": 20.0})
    alone = both[:1]
    assert run(alone, half, "ps") == pytest.approx({"j0": 10.0})
    assert run(alone, half, "capped") == pytest.approx({"j0": 20.0})


@pytest.mark.parametrize("policy", ["fcfs", "urgency>las"])
@pytest.mark.parametrize("seed", range(4))
def test_devices_of_ones_own_change_nothing(seed: int, policy: str) -> None:
    """To the tick, in a busy world: the clock of a replica that shares with nobody is the driver's."""
    rng = random.Random(seed)
    engines = random_engines(rng)
    jobs, setup = as_jobs(random_jobs(rng, 40, len(engines), rate=2)), as_setup(engines)
    count = sum(engine.replicas for engine in setup.engines)
    sharing = Sharing([Placement((f"d{i}",)) for i in range(count)])
    shared = Simulation(jobs, setup.engines, build(scheduler_spec(setup, policy)), sharing=sharing).run()
    assert shared.jct_s == simulate(jobs, setup, policy).jct_s


def test_a_replica_may_differ_from_its_engines_others() -> None:
    """In its window and its speed: a plan may give one of them a wider place."""
    (engine,) = as_setup(
        [{"name": "m0", "models": ["m0"], "replicas": 2, "max_concurrency": 1, "latency": LATENCY}]
    ).engines
    fast = engine.__class__(name="m0", models=["m0"], max_concurrency=4, latency=engine.latency)
    setup = as_setup([{"name": "m0", "models": ["m0"], "replicas": 2, "max_concurrency": 1, "latency": LATENCY}])
    jobs = as_jobs([lone(i, 0.0, "m0", 8) for i in range(5)])  # type: ignore[misc]
    sharing = Sharing([Placement(("d0",)), Placement(("d1",), 1.0, fast)])
    out = Simulation(jobs, setup.engines, build(scheduler_spec(setup, "call-fcfs")), sharing=sharing).run()
    assert max(out.jct_s.values()) == pytest.approx(1.0), "all five at once"
    assert all(a <= b for a, b in pairwise(sorted(out.jct_s.values())))


@pytest.mark.parametrize("share", [0.1, 0.3, 0.45, 0.7])
def test_nothing_ends_before_it_began(share: float) -> None:
    """A clock that runs slower rounds; a driver's time must not go back for it, not even by a tick."""
    model = EngineModel(name="e", models=["m"], max_concurrency=1, latency=Latency(0.01, 0.0, 1e-4, 0.01, 1e-4, 0.0))
    for at in range(1, 100):
        placement = Placement(("d",), share)
        replica = Devices([Replica(model, "e/0")], Sharing([placement], "capped"), lambda place: None).replicas[0]
        replica.send(Request("c", ("j", "s"), 10, 3, None), at)
        assert replica.ends is not None and replica.ends >= at


def test_a_placed_replica_is_one_of_its_engine() -> None:
    """Another name would be an engine that the core does not know."""
    engine = {"name": "e", "models": ["m"], "max_concurrency": 1, "latency": LATENCY}
    other = as_setup([engine | {"name": "f"}]).engines[0]
    with pytest.raises(ValueError, match=r"placements\[0\].model.name`: 'f'; this replica is one of 'e'"):
        msgspec.structs.replace(as_setup([engine]), sharing=Sharing([Placement(("d",), 1.0, other)]))
