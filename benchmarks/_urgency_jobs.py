"""The lone calls of Semantic Scheduling (arXiv 2506.12204), and what serves them.

The generator and the cost model are those of the paper's public code: ticks 0.01 s apart, at each some calls at random,
each with a class, a prompt and an answer drawn evenly. Here they arrive in simulated time (there in wall-clock time, so
that its load depends on the host), and every policy has the same batch (there the baselines have a smaller one).
"""

from __future__ import annotations

import random

import msgspec

from hocket.sim.experiment import Setup
from hocket.trace import Job, Stage

TICKS, TICK_S = 20, 0.01
MOST_TOKENS = 499
"of a prompt, and of an answer"
CLASSES = 5
KNOWN_WITHIN = 50
"tokens by which a predicted length may be off"
BATCH = 16
LATENCY = {"q1": 1.46584975e-9, "q2": 1.0515576e-4, "d0": 1.195828e-2, "d2": 5.91298857e-9}
"A 4-billion-parameter model on an A100, of the paper's code; an iteration lasts as long as its slowest call"
MODEL = "a100-4b"


def setup(**engine: object) -> Setup:
    """One replica with the paper's constants; `engine` adds to it, or changes it."""
    told = {"name": MODEL, "models": [MODEL], "max_concurrency": BATCH, "decode": "slowest", "latency": LATENCY}
    return msgspec.convert({"engines": [told | engine]}, Setup)


def lone_call(rng: random.Random, name: str, at: float) -> Job:
    """One call, a job of one stage, of any class."""
    urgency = rng.randrange(CLASSES)
    prompt, output = rng.randint(1, MOST_TOKENS), rng.randint(1, MOST_TOKENS)
    hint = max(output + rng.randint(-KNOWN_WITHIN, KNOWN_WITHIN), 1)
    stage = Stage(id="s0", name="answer", kind="llm", model=MODEL)
    stage.prompt_tokens, stage.output_tokens, stage.hint_output_tokens = prompt, output, hint
    return Job(job=name, app="lone", urgency=urgency, arrival_s=at, stages=[stage])


def lone_calls(most: int, seed: int) -> list[Job]:
    """The paper's calls: at each tick 0 to `most` of them."""
    rng = random.Random(seed)
    times = [tick * TICK_S for tick in range(TICKS) for _ in range(rng.randint(0, most))]
    return [lone_call(rng, f"j{number}", at) for number, at in enumerate(times)]


def misjudged(jobs: list[Job], seed: int, inwards: bool, off: float = 2.0, wrong: float = 0.2) -> list[Job]:
    """The same calls, predicted `off` times too long or too short, a share `wrong` of the classes one up or down.

    There is no class above 0 nor below 4. Such an error changes nothing; `inwards`, it goes the other way.
    """
    rng = random.Random(seed)
    told = []
    for job in jobs:
        urgency, stage = job.urgency, job.stages[0]
        if rng.random() < wrong:
            by = rng.choice((-1, 1))
            urgency += by if 0 <= urgency + by < CLASSES else -by * inwards
        hint = max(round(stage.output_tokens * rng.choice((1 / off, off))), 1)
        stages = [msgspec.structs.replace(stage, hint_output_tokens=hint)]
        told.append(msgspec.structs.replace(job, urgency=urgency, stages=stages))
    return told


CAPACITY = 4.7
"such calls a second that BATCH slots complete"
RUSH_S, CALM_S = 300.0, 300.0
RUSH, CALM, BACKGROUND = 1.15, 0.4, 0.05
"load of classes 0 to 3 in the rush and after it, and of class 4 all along"


def rush(seed: int) -> list[Job]:
    """Classes 0 to 3 alone are more than the engine can do for RUSH_S; a little of class 4 comes all along."""
    rng = random.Random(seed)
    found: list[Job] = []
    for begin, end, load, classes in (
        (0.0, RUSH_S, RUSH, range(CLASSES - 1)),
        (RUSH_S, RUSH_S + CALM_S, CALM, range(CLASSES - 1)),
        (0.0, RUSH_S + CALM_S, BACKGROUND, (CLASSES - 1,)),
    ):
        at = begin + rng.expovariate(load * CAPACITY)
        while at < end:
            job = lone_call(rng, f"j{len(found)}", at)
            found.append(msgspec.structs.replace(job, urgency=rng.choice(classes)))
            at += rng.expovariate(load * CAPACITY)
    return sorted(found, key=lambda job: job.arrival_s)
