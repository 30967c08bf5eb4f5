"""The simulator against queueing theory: where the engine model comes down to plain servers, the means are known."""

import math
import random

import pytest

from hocket.sim.driver import Outcome
from hocket.sim.experiment import Setup, simulate
from hocket.trace import Job, Stage
from tests.sim.worlds import as_setup

CALLS = 1_000_000
BATCHES = 50
T_999 = 3.5
"Student's t at 49 degrees of freedom, two-sided 99.9 %"


def lone_calls(rng: random.Random, count: int, rate: float, prompt_tokens) -> list[Job]:
    """Jobs of one call of one output token: its time in a slot is that of its prompt alone."""
    at, jobs = 0.0, []
    for number in range(count):
        at += rng.expovariate(rate)
        stage = Stage(id="s", name="s", kind="llm", model="m", prompt_tokens=prompt_tokens(rng), output_tokens=1)
        jobs.append(Job(job=str(number), app="a", arrival_s=at, stages=[stage]))
    return jobs


def servers(count: int) -> Setup:
    """`count` replicas that take one call at a time: 1 µs a prompt token, nothing else."""
    engine = {"name": "e", "models": ["m"], "replicas": count, "max_concurrency": 1, "latency": {"q2": 1e-6}}
    return as_setup([engine])


def mean_wait(outcome: Outcome) -> tuple[float, float]:
    """The mean wait and the half width of its confidence interval, by batch means (waits are correlated)."""
    waits = [outcome.waits_s[str(number)][0] for number in range(len(outcome.waits_s))]
    size = len(waits) // BATCHES
    means = [math.fsum(waits[i * size : (i + 1) * size]) / size for i in range(BATCHES)]
    mean = math.fsum(means) / BATCHES
    deviation = math.sqrt(sum((m - mean) ** 2 for m in means) / (BATCHES - 1))
    return mean, T_999 * deviation / math.sqrt(BATCHES)


def erlang_c(servers: int, offered: float) -> float:
    """Probability that a call must wait in M/M/k with `offered` = arrival rate x service time."""
    terms = [offered**n / math.factorial(n) for n in range(servers)]
    last = offered**servers / math.factorial(servers) * servers / (servers - offered)
    return last / (sum(terms) + last)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_mmk() -> None:
    """M/M/4 at 0.8 load, exponential service of 1 s (in steps of a microsecond)."""
    k, rate = 4, 3.2
    jobs = lone_calls(random.Random(1), CALLS, rate, lambda rng: round(rng.expovariate(1.0) * 1e6))
    mean, half = mean_wait(simulate(jobs, servers(k), "fcfs"))
    theory = erlang_c(k, rate) / (k - rate)
    assert abs(mean - theory) < half
    assert half < 0.06 * theory


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_mg1() -> None:
    """M/G/1 at 0.7 load, service 0.2 s or 4.2 s (Pollaczek-Khinchine)."""
    rate, short, long, share = 0.7, 200_000, 4_200_000, 0.2
    jobs = lone_calls(random.Random(2), CALLS, rate, lambda rng: long if rng.random() < share else short)
    mean, half = mean_wait(simulate(jobs, servers(1), "fcfs"))
    second = (1 - share) * 0.2**2 + share * 4.2**2
    theory = rate * second / (2 * (1 - rate * 1.0))
    assert abs(mean - theory) < half
    assert half < 0.08 * theory


@pytest.mark.slow
def test_mg1_processor_sharing() -> None:
    """A batch whose every call slows all others is M/G/1-PS: the mean JCT is E[S] / (1 - load), whatever the sizes."""
    rng, rate, quantum, count = random.Random(5), 5.0, 1e-3, 100_000
    jobs = lone_calls(rng, count, rate, lambda rng: 0)
    for job in jobs:
        job.stages[0].output_tokens = 1 + (20 if rng.random() < 0.9 else 820)
    engine = {"name": "e", "models": ["m"], "max_concurrency": 10_000, "latency": {"d1": quantum}}
    outcome = simulate(jobs, as_setup([engine]), "fcfs")
    theory = 0.1 / (1 - rate * 0.1)
    mean = math.fsum(outcome.jct_s.values()) / count
    assert mean == pytest.approx(theory, rel=0.03)  # a call joins at the end of an iteration: half a quantum late


@pytest.mark.parametrize("policy", ["fcfs", "call-fcfs", "las", "sjf", "oracle"])
def test_little(policy: str) -> None:
    """L = λW holds exactly over a run that begins and ends empty, whatever the policy."""
    rng = random.Random(3)
    jobs = lone_calls(rng, 5_000, 3.2, lambda rng: round(rng.expovariate(1.0) * 1e6))
    record = frozenset(job.job for job in jobs)
    outcome = simulate(jobs, servers(4), policy, record)
    steps = sorted([(s.arrived, 1) for s in outcome.spans] + [(s.ended, -1) for s in outcome.spans])
    area, inside, before = 0.0, 0, 0.0
    for at, change in steps:
        area += inside * (at - before)
        inside, before = inside + change, at
    assert inside == 0
    assert area == pytest.approx(math.fsum(outcome.jct_s.values()), rel=1e-9)


@pytest.mark.parametrize("policy", ["fcfs", "call-fcfs", "las", "oracle"])
def test_work_is_conserved(policy: str) -> None:
    """One server is busy exactly when there is work: the order of calls changes neither busy time nor the end."""
    jobs = lone_calls(random.Random(4), 5_000, 0.9, lambda rng: round(rng.expovariate(1.0) * 1e6))
    end = 0.0
    for job in jobs:  # Lindley's recursion
        end = max(end, job.arrival_s) + job.stages[0].prompt_tokens * 1e-6
    assert simulate(jobs, servers(1), policy).makespan_s == pytest.approx(end, abs=1e-6)
