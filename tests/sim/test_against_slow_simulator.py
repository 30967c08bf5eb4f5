"""The simulator and an independent one, iteration by iteration, agree on each job."""

import random

import pytest

from hocket.sim.experiment import simulate
from tests.sim import slow_simulator
from tests.sim.worlds import as_jobs, as_setup, random_engines, random_jobs


@pytest.mark.parametrize("policy", ["fcfs", "oracle"])
@pytest.mark.parametrize("seed", range(50))
def test_agrees_on_each_job(seed: int, policy: str) -> None:
    rng = random.Random(seed)
    engines = random_engines(rng)
    jobs = random_jobs(rng, count=60, models=len(engines), rate=rng.choice([0.2, 1, 5]))

    fast = simulate(as_jobs(jobs), as_setup(engines), policy).jct_s
    slow = slow_simulator.simulate(jobs, engines, policy)

    assert fast.keys() == slow.keys()
    apart = {job: (fast[job], slow[job]) for job in slow if abs(fast[job] - slow[job]) > 0.01 * slow[job] + 1e-6}
    assert not apart
