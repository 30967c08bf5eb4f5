"""`hocket.yaml` of a plan: its engines, their windows, their speed, and which stages go where."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from hocket.planner.export.common import Deployable, Deployed, as_yaml

OPEN = "0.0.0.0:8080"
CLOSED = "127.0.0.1:8080"
HEAD = """\
# Written by `hocket plan`. Engines, windows and routes as planned; docs/reference/settings.md lists what else there is.
"""
LOOPBACK = """\
# It listens on loopback alone, for no tenant has a key: `hocket plan --key-sha256` opens it to other machines.
"""


def settings_file(deployable: Deployable, url: Callable[[Deployed], str], key_sha256: str | None) -> str:
    """The text of the file; `url` of each replica."""
    settings: dict[str, Any] = {"listen": CLOSED if key_sha256 is None else OPEN, "policy": "default"}
    if key_sha256 is not None:
        settings["tenants"] = [{"name": "default", "key_sha256": key_sha256}]
    engines = []
    for engine in deployable.plan.engines:
        replicas = deployable.of(engine)
        first = replicas[0]
        latency = first.model.latency[first.devices[0].kind][first.plan.tensor_parallel]
        engines.append(
            {
                "name": engine.name,
                "kind": "vllm",
                "models": [engine.model],
                "replicas": [url(replica) for replica in replicas],
                "max_concurrency": min(replica.plan.max_concurrency for replica in replicas),
                "latency": msgspec.to_builtins(latency),
            }
        )
    settings["engines"] = engines
    routes = [
        route for engine in deployable.plan.engines for route in routes_of(engine.name, engine.model, engine.roles)
    ]
    if routes:
        settings["routes"] = routes
    return HEAD + ("" if key_sha256 else LOOPBACK) + as_yaml(settings)


def routes_of(engine: str, model: str, roles: list[str]) -> list[dict[str, str]]:
    """A role is a stage, or an application's stage: "rerank", "rag/rerank"."""
    routes = []
    for role in roles:
        app, _, stage = role.rpartition("/")
        routes.append({**({"app": app} if app else {}), "stage": stage, "model": model, "engine": engine})
    return routes
