"""What a scheduler is built from: plain data, the first line of every journal.

The gateway makes it from `hocket.yaml`, the simulator from `engines.yaml` and its command line; `hocket.assembly`
turns it into a `Scheduler`. Two schedulers built from equal specs answer equal events with equal commands.
"""

from __future__ import annotations

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


class TenantSpec(msgspec.Struct, frozen=True):
    """Who pays. A tenant without one has weight 1."""

    name: str
    weight: float = 1.0


class Route(msgspec.Struct, frozen=True, omit_defaults=True):
    """Sends some calls of a model to another engine than the first that serves it. None matches all."""

    engine: str
    app: str | None = None
    stage: str | None = None
    model: str | None = None


class SchedulerSpec(msgspec.Struct, frozen=True):
    """Everything that decides, and nothing that does I/O."""

    engines: list[EngineSpec]
    policy: tuple[str, ...] = ("default",)
    "orderings, coarse scope first; names of the catalog in hocket.policies"
    parameters: dict[str, dict[str, float]] = {}
    "policy -> its parameters, where they are not the defaults"
    routing: str = "least-loaded"
    routes: list[Route] = []
    tenants: list[TenantSpec] = []
    job_idle_s: float = 300.0
    "a job of which nothing was heard for so long, and that nobody closed, ends"
    queue_timeout_s: float | None = None
    "a call that waited for so long without a slot is refused; None = it waits on"
    observe: bool = False
    "dispatch every call at once whatever the windows say, and retry nothing: only watch"
    seed: int = 0
