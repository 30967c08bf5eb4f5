"""The same mix for longer, in the simulator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from mix import Call, Job, day

from hocket.core.spec import PreemptionSpec
from hocket.sim.experiment import Setup, run_all
from hocket.sim.model import EngineModel
from hocket.sim.results import report
from hocket.trace import Job as Traced
from hocket.trace import Stage

SCALE = 0.6
"of the live mix: about as much as the engine can do, so that what waits is not the whole day"


def simulated(
    seconds: float, engine: Mapping[str, Any], settings: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[int, tuple[float, float]]]:
    """Policy -> class -> mean seconds that a call is in the queue, and from a job's arrival to its end.

    `engine`, `settings`: as in hocket.yaml. Classes are known here, as if every word were read right.
    """
    model = {"name": engine["name"], "models": [engine["name"]], "latency": engine["latency"]}
    model |= {"max_concurrency": engine["max_concurrency"]}
    jobs = [_traced(job, engine["name"]) for job in day(seconds, scale=SCALE)]
    found = {}
    for name, of in settings.items():
        written = of["policy"] if isinstance(of["policy"], str) else ">".join(of["policy"])
        setup = Setup([msgspec.convert(model, EngineModel)], preemption=PreemptionSpec() if of["preemption"] else None)
        block = report([jobs], run_all([jobs], setup, [written], processes=1))
        classes = block["by_urgency"].items()
        found[name] = {int(urgency): (one["wait_s"]["mean"], one["jct_s"]["mean"]) for urgency, one in classes}
    return found


def _traced(job: Job, model: str) -> Traced:
    stages: list[Stage] = []
    for number, call in enumerate(job.calls):
        stage = Stage(id=f"s{number}", name=call.stage, kind="llm", model=model, needs=[s.id for s in stages[-1:]])
        stage.prompt_tokens, stage.output_tokens, stage.max_tokens = _tokens(call), call.tokens, call.tokens
        stages.append(stage)
    return Traced(job=job.name, app=job.app, arrival_s=job.at, urgency=job.urgency, stages=stages)


def _tokens(call: Call) -> int:
    """Of a prompt: a little more than one for each word."""
    return round(1.3 * len(call.prompt.split())) + 10
