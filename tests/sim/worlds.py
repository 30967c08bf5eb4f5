"""Random jobs and engines for the simulator's tests: plain dicts, as in jobs.jsonl and engines.yaml."""

import random

import msgspec

from hocket.sim.experiment import Setup
from hocket.trace import Job, decode_job


def random_engines(rng: random.Random) -> list[dict]:
    """One to three engines: several replicas, scarce KV memory, prefix caches, both kinds of decoding."""
    engines = []
    for number in range(rng.randint(1, 3)):
        latency = {
            "q0": rng.choice([0, rng.uniform(0.005, 0.05)]),
            "q1": rng.choice([0, rng.uniform(1e-9, 1e-7)]),
            "q2": rng.uniform(2e-5, 5e-4),
            "d0": rng.uniform(0.004, 0.04),
            "d1": rng.choice([0, rng.uniform(1e-5, 2e-3)]),
            "d2": rng.choice([0, rng.uniform(1e-8, 2e-6)]),
        }
        engines.append(
            {
                "name": f"e{number}",
                "models": [f"m{number}"],
                "replicas": rng.randint(1, 3),
                "max_concurrency": rng.randint(1, 8),
                "kv_tokens": rng.choice([500, 900, 2000, 40_000, None]),
                "latency": latency,
                "decode": rng.choice(["step", "step", "slowest"]),
                "prefix_cache": rng.random() < 0.5,
            }
        )
    return engines


def random_jobs(rng: random.Random, count: int, models: int, rate: float) -> list[dict]:
    """Fans, chains and joins of calls and tools; each stage needs some of the earlier ones."""
    jobs, at = [], 0.0
    for number in range(count):
        at += rng.expovariate(rate)
        stages: list[dict] = []
        for index in range(rng.randint(1, 7)):
            needs = rng.sample([s["id"] for s in stages], min(len(stages), rng.choice([0, 1, 1, 2])))
            stage = {"id": f"s{index}", "name": f"n{index % 3}", "kind": "llm", "needs": needs}
            if rng.random() < 0.25:
                stage |= {"kind": "tool", "duration_s": rng.choice([0, rng.expovariate(2)])}
            else:
                stage |= {"model": f"m{rng.randrange(models)}"}
                stage |= {
                    "prompt_tokens": rng.randint(1, 450),
                    "output_tokens": rng.choice([0, 1, rng.randint(1, 300)]),
                }
                before = [s for s in stages if s["kind"] == "llm"]
                if before and rng.random() < 0.6:
                    shared = {"stage": rng.choice(before)["id"], "tokens": rng.randint(0, stage["prompt_tokens"])}
                    stage["shares_prefix"] = shared
            stages.append(stage)
        jobs.append({"v": 1, "job": f"j{number}", "app": "a", "arrival_s": at, "stages": stages})
    return jobs


def as_setup(engines: list[dict]) -> Setup:
    return msgspec.convert({"engines": engines}, Setup)


def as_jobs(jobs: list[dict]) -> list[Job]:
    return [decode_job(msgspec.json.encode(job)) for job in jobs]
