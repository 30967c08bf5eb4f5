"""Jobs and calls under way, as the driver of a simulation keeps them: with their future, which the core never sees."""

from __future__ import annotations

from hocket.sim.engine import Request
from hocket.trace import Graph, Job, Stage


class Run:
    """A job under way."""

    __slots__ = ("arrived", "dependents", "failed", "job", "left", "open", "recorded", "remaining", "waits")

    def __init__(self, job: Job, graph: Graph, at: int, recorded: bool) -> None:
        """`graph` may be that of many jobs with the same stages: it is read alone."""
        self.job = job
        self.arrived = at
        self.dependents = graph.dependents
        self.left = graph.waits_for.copy()  # stage id -> needs that have not ended
        self.open = len(graph.order)  # stages that have not ended
        self.remaining = 0  # ticks of its calls alone on an engine: what the oracle knows
        self.waits: list[float] = []
        self.recorded = recorded
        self.failed = False


class Call(Request):
    """A call under way."""

    __slots__ = (
        "arrived", "away", "counted", "dispatched", "first_token", "off", "place", "run", "stage", "started", "told",
        "wait",
    )  # fmt: skip

    def __init__(self, call: str, run: Run, stage: Stage, at: float) -> None:
        shared = stage.shares_prefix
        job = run.job.job
        prefix = None if shared is None else ((job, shared.stage), shared.tokens)
        common = None if stage.common_prefix is None else (("", stage.common_prefix.id), stage.common_prefix.tokens)
        super().__init__(call, (job, stage.id), stage.prompt_tokens, stage.output_tokens, prefix, common)
        self.run = run
        self.stage = stage
        self.arrived = at
        self.dispatched: float | None = None
        self.started: float | None = None
        self.first_token: float | None = None
        self.place = -1  # index of its replica; -1: in none
        self.told = False  # whether it is known that its replica works on it
        self.wait = -1  # index of its time in hocket's queue among its run's
        self.counted = 0  # ticks of it that were taken from what is left of its run
        self.off: float | None = None  # since when it has been displaced
        self.away: tuple[tuple[float, float], ...] = ()
