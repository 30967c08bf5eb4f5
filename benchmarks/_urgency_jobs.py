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


def lone_calls(most: int, seed: int) -> list[Job]:
    """Calls as jobs of one stage: at each tick 0 to `most` of them."""
    rng = random.Random(seed)
    jobs: list[Job] = []
    for tick in range(TICKS):
        for _ in range(rng.randint(0, most)):
            urgency = rng.randrange(CLASSES)
            prompt, output = rng.randint(1, MOST_TOKENS), rng.randint(1, MOST_TOKENS)
            hint = max(output + rng.randint(-KNOWN_WITHIN, KNOWN_WITHIN), 1)
            stage = Stage(id="s0", name="answer", kind="llm", model=MODEL)
            stage.prompt_tokens, stage.output_tokens, stage.hint_output_tokens = prompt, output, hint
            jobs.append(Job(job=f"j{len(jobs)}", app="lone", urgency=urgency, arrival_s=tick * TICK_S, stages=[stage]))
    return jobs


def misjudged(jobs: list[Job], seed: int, off: float = 2.0, wrong: float = 0.2) -> tuple[list[Job], dict[str, int]]:
    """The same calls, their lengths predicted up to `off` times too long or too short, a share `wrong` of their classes
    one too high or too low. Returns them, and the class that each really is of.
    """
    rng = random.Random(seed)
    told, true = [], {}
    for job in jobs:
        urgency = job.urgency
        if rng.random() < wrong:
            urgency = min(max(urgency + rng.choice((-1, 1)), 0), CLASSES - 1)
        stage = job.stages[0]
        hint = max(round(stage.output_tokens * rng.choice((1 / off, off))), 1)
        stages = [msgspec.structs.replace(stage, hint_output_tokens=hint)]
        told.append(msgspec.structs.replace(job, urgency=urgency, stages=stages))
        true[job.job] = job.urgency
    return told, true
