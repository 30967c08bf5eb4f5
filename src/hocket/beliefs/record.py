"""What is kept of a job that ended: its steps in the order in which they became visible, without ids or texts.

The same record is made from a trace (`hocket learn`) and from the events of a live job (the gateway learns on), so all
that is learned is learned from one form.
"""

from __future__ import annotations

import msgspec

from hocket.trace import GAP, Job, graph_of


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
    """The record of a job of a trace. Raises InputError on an unknown need or a cycle.

    Time that nobody reported (`gap`) is no step, for it is none while the job runs: what waited for it waits for what
    it waited for.
    """
    steps: list[Step] = []
    place: dict[str, list[int]] = {}  # id -> the step, or what a gap waited for
    for stage in graph_of(job).order:
        after = sorted({before for need in stage.needs for before in place[need]})
        if stage.name == GAP and stage.kind == "tool":
            place[stage.id] = after
            continue
        place[stage.id] = [len(steps)]
        model = None if stage.kind == "tool" else stage.model or ""
        seconds = (stage.duration_s or 0.0) if stage.kind == "tool" else 0.0
        revealer = place.get(stage.revealed_by, []) if stage.revealed_by is not None else []
        by = revealer[0] if len(revealer) == 1 else None
        steps.append(Step(stage.name, model, stage.prompt_tokens, stage.output_tokens, seconds, after, by))
    return Record(steps, job.features)
