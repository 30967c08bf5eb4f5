"""What a scheduler is built from: plain data, the first line of every journal.

The gateway makes it from `hocket.yaml`, the simulator from `engines.yaml` and its command line; `hocket.assembly`
turns it into a `Scheduler`. Two schedulers built from equal specs answer equal events with equal commands.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from hocket.core.latency import Latency


class EngineSpec(msgspec.Struct, frozen=True):
    """A model being served. Its replicas arrive as `ReplicaAdded` events."""

    name: str
    models: list[str]
    "the names that clients ask for"
    auto_window: bool = False
    "whether the core finds its replicas' windows; else they are what `ReplicaAdded` says"
    latency: Latency | None = None
    "the engine model's constants of a replica: what beliefs turn tokens into seconds with"
    preempts: bool = False
    "whether it displaces calls itself, by the priority that it is sent with each: then hocket does not"
    swap_s_per_token: float | None = None
    "seconds to bring back a token of a displaced call's KV cache; None = it is computed again"


class LimitsSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one tenant, or all together, may have at once. None = any number. (docs/concepts/admission.md)"""

    calls: int | None = None
    "open ones: those that wait, and those in slots"
    jobs: int | None = None
    "open ones"
    tokens_per_minute: float | None = None
    "of prompts and answers; a minute's worth may be saved up"
    queue: int | None = None
    "calls that wait"
    held_bytes: int | None = None
    "that the requests of open calls take"

    def __post_init__(self) -> None:
        """Check what types cannot say. An error begins with its key, which the loader turns into a line."""
        for key in ("calls", "jobs", "tokens_per_minute", "queue", "held_bytes"):
            value = getattr(self, key)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"`{key}`: {value}; use a number above 0, or leave it out")


class AdmissionSpec(LimitsSpec, frozen=True, forbid_unknown_fields=True):
    """The same of all together, and what else decides whether a new job is let in."""

    wait_s: float | None = None
    "a new job is refused where its first call would wait for longer; None = it waits"
    deadlines: Literal["ignore", "refuse", "demote"] = "ignore"
    "what becomes of a job that cannot meet its deadline: refused at its first call, or put into the last class"

    def __post_init__(self) -> None:
        """See `LimitsSpec`."""
        super().__post_init__()
        if self.wait_s is not None and not 0 < self.wait_s < float("inf"):
            raise ValueError(f"`wait_s`: {self.wait_s}; use seconds above 0, or leave it out")


class TenantSpec(msgspec.Struct, frozen=True):
    """Who pays. A tenant without one has weight 1."""

    name: str
    weight: float = 1.0
    urgent_share: float | None = None
    "of all slots, 0 to 1: what its calls of classes 0 and 1 may use in the long run; beyond, they count as the next"
    urgent_burst_s: float = 60.0
    "slot-seconds of them that it may have used at once"
    limits: LimitsSpec = LimitsSpec()


class Route(msgspec.Struct, frozen=True, omit_defaults=True):
    """Sends some calls of a model to another engine than the first that serves it. None matches all."""

    engine: str
    app: str | None = None
    stage: str | None = None
    model: str | None = None


class PreemptionSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Waiting calls may take the slots of running ones, where that pays (docs/concepts/preemption.md)."""

    across: Literal["class", "key"] = "class"
    "class: a call displaces calls of less urgent classes alone; key: any whose key in the policy is larger"
    at_most: int = 8
    "times that one call is displaced"

    def __post_init__(self) -> None:
        """Check what types cannot say. An error begins with its key, which the loader turns into a line."""
        if self.at_most < 1:
            raise ValueError(f"`at_most`: {self.at_most}; use 1 or more")


class SchedulerSpec(msgspec.Struct, frozen=True):
    """Everything that decides, and nothing that does I/O."""

    engines: list[EngineSpec]
    policy: tuple[str, ...] = ("default",)
    "orderings, coarse scope first; names of the catalog in hocket.policies, with parameters (`urgency:strict=0`)"
    parameters: dict[str, dict[str, float | list[float]]] = {}
    "policy -> its parameters, where they are not the defaults"
    routing: str = "least-loaded"
    routes: list[Route] = []
    tenants: list[TenantSpec] = []
    job_idle_s: float = 300.0
    "a job of which nothing was heard for so long, and that nobody closed, ends"
    queue_timeout_s: float | None = None
    "a call that waited for so long without a slot is refused; None = it waits on"
    preemption: PreemptionSpec | None = None
    "whether running calls may be displaced; None = never"
    limits: AdmissionSpec = AdmissionSpec()
    "what may be open at once; a mere observer refuses nothing"
    observe: bool = False
    "dispatch every call at once whatever the windows say, and retry nothing: only watch"
    seed: int = 0
