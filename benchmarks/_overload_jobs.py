"""The jobs of the benchmark of overload, and the engine that they run on, simulated.

Three applications: one call; an agent that calls a tool between its four calls; a plan that fans out into six calls and
an answer. Class 0 has its small load whatever the others bring: what happens to it is a question of its own.
"""

from __future__ import annotations

import random

import msgspec

from hocket.core.spec import AdmissionSpec
from hocket.sim.experiment import Setup
from hocket.trace import Job, Stage

SLOTS, TOKENS_PER_S = 8, 20.0
"of the engine: calls at once, and tokens a second of each of them. `narrow` of tests/shaped_engine.py"
CAPACITY = SLOTS * TOKENS_PER_S
"tokens a second"
SHORTEST, LONGEST = 4, 16
"tokens of an answer, evenly"
TOOL_S = 0.3
URGENT = 0.05
"of the capacity: the load of class 0"
BACKGROUND = 0.3
"of the other jobs: how many are of class 4; the rest is of class 2"
WAIT_S, PATIENCE_S = 5.0, 15.0
"`limits.wait_s`; and how long a client waits for one call before it gives up, and its job is lost"
LIMITS = AdmissionSpec(wait_s=WAIT_S, jobs=100_000, held_bytes=2**30)


def setup(limits: AdmissionSpec | None) -> Setup:
    """The engine: every running call gains a token in each twentieth of a second."""
    engine = {"name": "m", "models": ["m"], "max_concurrency": SLOTS, "latency": {"d0": 1.0 / TOKENS_PER_S}}
    return msgspec.structs.replace(
        msgspec.convert({"engines": [engine]}, Setup), limits=AdmissionSpec() if limits is None else limits
    )


def jobs(load: float, seconds: float, seed: int) -> list[Job]:
    """So many times what the engine can do, in a Poisson stream; URGENT of it is of class 0."""
    urgent = _stream(random.Random(f"{seed} urgent"), URGENT, seconds, urgent=True)
    others = _stream(random.Random(f"{seed} {load}"), load - URGENT, seconds, urgent=False)
    found = sorted((*urgent, *others), key=lambda job: job.arrival_s)
    return [msgspec.structs.replace(job, job=f"j{number}") for number, job in enumerate(found)]


def tokens(job: Job) -> int:
    """That all its calls write."""
    return sum(stage.output_tokens for stage in job.stages if stage.kind == "llm")


def _stream(rng: random.Random, load: float, seconds: float, *, urgent: bool) -> list[Job]:
    makers = (_chat,) if urgent else (_chat, _agent, _plan)
    mean = sum(tokens(make(random.Random(n))) for n in range(500) for make in makers) / (500 * len(makers))
    found, at = [], 0.0
    while (at := at + rng.expovariate(load * CAPACITY / mean)) < seconds:
        job = rng.choice(makers)(rng)
        job.arrival_s, job.urgency = at, 0 if urgent else 4 if rng.random() < BACKGROUND else 2
        found.append(job)
    # what is drawn is a little more or less than the load; a little faster or slower, and it is
    pace = sum(map(tokens, found)) / (load * CAPACITY * seconds)
    return [msgspec.structs.replace(job, arrival_s=job.arrival_s * pace) for job in found]


def _call(rng: random.Random, name: str, needs: list[str], stage: str | None = None) -> Stage:
    output = rng.randint(SHORTEST, LONGEST)
    return Stage(
        id=name, name=stage or name, kind="llm", needs=needs, model="m", prompt_tokens=10, output_tokens=output
    )


def _job(app: str, stages: list[Stage]) -> Job:
    return Job(job="", app=app, arrival_s=0.0, stages=stages)


def _chat(rng: random.Random) -> Job:
    return _job("chat", [_call(rng, "answer", [])])


def _agent(rng: random.Random) -> Job:
    stages = [_call(rng, "turn0", [], "turn")]
    for turn in range(1, 4):
        tool = Stage(id=f"tool{turn}", name="tool", kind="tool", needs=[stages[-1].id], duration_s=TOOL_S)
        stages += [tool, _call(rng, f"turn{turn}", [tool.id], "turn")]
    return _job("agent", stages)


def _plan(rng: random.Random) -> Job:
    parts = [_call(rng, f"part{n}", ["plan"], "part") for n in range(6)]
    return _job("plan", [_call(rng, "plan", []), *parts, _call(rng, "answer", [part.id for part in parts])])
