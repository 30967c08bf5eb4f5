"""What is kept of a job that ended: its steps in the order in which they became visible, without ids or texts.

The same record is made from a trace (`hocket learn`) and from the events of a live job (the gateway learns on), so all
that is learned is learned from one form.
"""

from __future__ import annotations

import msgspec

from hocket.trace import Job, graph_of


class Step(msgspec.Struct, array_like=True, gc=False):
    """One call or tool run of a recorded job."""

    stage: str
    "name of the stage in the application's graph"
    model: str | None
    "what the call asked for; None is a tool run"
    prompt_tokens: int
    output_tokens: int
    duration_s: float
    "of a tool run; 0 for a call, whose seconds depend on the engine"
    after: list[int]
    "indexes of the steps that had to end before this one became visible; all are smaller than its own"
    revealed_by: int | None = None
    "index of the step whose answer decided that this one exists, where the trace says so"


class Record(msgspec.Struct, gc=False):
    """One recorded job of an application."""

    steps: list[Step]
    features: dict[str, float] = {}
    "facts of its first request, known when it arrived"


def record_of(job: Job) -> Record:
    """The record of a job of a trace. Raises InputError on an unknown need or a cycle."""
    order = graph_of(job).order
    place = {stage.id: index for index, stage in enumerate(order)}
    steps = [
        Step(
            stage.name,
            None if stage.kind == "tool" else stage.model or "",
            stage.prompt_tokens,
            stage.output_tokens,
            (stage.duration_s or 0.0) if stage.kind == "tool" else 0.0,
            sorted({place[need] for need in stage.needs}),
            None if stage.revealed_by is None else place.get(stage.revealed_by),
        )
        for stage in order
    ]
    return Record(steps, job.features)
