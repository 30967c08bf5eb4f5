"""What is believed of a job's future: the seam between the core, which knows what happened, and `hocket.beliefs`.

The core tells a `Beliefs` what it sees of each job, and lets orderings read the `Belief` that stands on the job. What
is believed comes from learned profiles; the core itself knows no statistics.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from hocket.core.events import PastStep
    from hocket.core.spec import SchedulerSpec
    from hocket.core.state import Call, Engine, Job


class World(Protocol):
    """What beliefs may read of the scheduler."""

    now: float
    spec: SchedulerSpec
    engines: dict[str, Engine]

    def engine_for(self, app: str, stage: str, model: str) -> str | None:
        """The engine that serves this, or None."""


class Posterior(Protocol):
    """What a Bayesian network says of the rest of one job. Seconds are those of calls in batches of today's size."""

    @property
    def remaining_s(self) -> float:
        """Expected engine work that is left of all stages, tools not counted."""

    @property
    def interval_s(self) -> tuple[float, float]:
        """Least and most of it: the posterior's support."""

    def gain(self, stage: str, nearest: int) -> float:
        """How much a ready stage would settle: bits about the `nearest` facts of later stages that it informs, times
        the seconds that these stages may differ by.
        """


class Belief(Protocol):
    """What is believed of the rest of one job. Seconds are those of calls that have an engine to themselves."""

    @property
    def moves(self) -> int:
        """How often it has moved: while this stays, all the rest does."""

    @property
    def remaining_s(self) -> float:
        """Expected engine work that is left: its calls that have not ended, over all engines. Tools not counted."""

    @property
    def interval_s(self) -> tuple[float, float]:
        """Least and most of it that is still possible: the posterior's support."""

    @property
    def path_s(self) -> float:
        """Expected longest path from now to the job's end, tools included."""

    @property
    def gittins_s(self) -> float:
        """Gittins rank of what is left: least over quanta q of E[min(work, q)] / P(work <= q). Smaller goes first."""

    def rank_s(self, told: float) -> float:
        """The rank of a job that tells of itself as it goes: `told` = 0 is the Gittins rank, 1 the rank if the end of
        its open calls told all: least over r of E[work of the open calls + rest, if rest <= r] / P(rest <= r).
        """

    @property
    def attained_s(self) -> float:
        """Engine work of its calls that have ended."""

    @property
    def total_s(self) -> float:
        """Expected engine work of the whole job, with what is done."""

    @property
    def posterior(self) -> Posterior | None:
        """What the Bayesian network of its application says; None if there is none."""

    def influence(self, stage: str) -> float:
        """How much of the job the end of a stage lets begin (beliefs.influence); moves when the job is judged anew."""


class Beliefs(Protocol):
    """Keeps `job.belief` for each open job. Deterministic: equal stories give equal beliefs."""

    def served(self) -> None:
        """Engines, models, routes or profiles' engines have changed."""

    def opened(self, job: Job) -> None:
        """A job has begun: give it its `belief`."""

    def resumed(self, job: Job, steps: Sequence[PastStep]) -> None:
        """The job that was opened had done this before, under an earlier process."""

    def arrived(self, call: Call) -> None:
        """A call of the job became visible."""

    def streamed(self, call: Call, tokens: int) -> None:
        """A running call has made `tokens` so far."""

    def finished(self, call: Call, prompt_tokens: int, output_tokens: int) -> None:
        """A call is complete; 0 = its engine did not say."""

    def lost(self, call: Call) -> None:
        """A call ended without an answer: cancelled, refused or failed."""

    def tool_started(self, job: Job, run: str, name: str) -> None:
        """A tool run began."""

    def tool_finished(self, job: Job, run: str) -> None:
        """A tool run is over."""

    def closed(self, job: Job) -> Iterable[Job]:
        """The job is over; unless it was aborted, its application is learned from it. Other jobs that this moved."""

    def replaced(self, app: str, profile: str) -> None:
        """A profile of `app` was learned: a profile file's text. Raises ValueError if it is none."""

    def report(self) -> Iterable[tuple[str, int, list[float]]]:
        """Of each application: its name, how many jobs it was learned from since this began, and how far off recent
        ones were: |ln(engine seconds / what was foretold of them when their first step ended)|.
        """

    def save(self) -> Any:
        """All of this as JSON-able data, for a snapshot."""

    def restore(self, saved: Any, jobs: dict[str, Job]) -> None:
        """What `save` gave, into a fresh object; `jobs` are the open ones."""
