"""`hocket.yaml` of a plan: its engines, their windows, their speed, and which stages go where."""

from __future__ import annotations

import re
from collections.abc import Callable
from math import log
from typing import Any

import msgspec

from hocket.errors import InputError
from hocket.planner.export.common import LABEL, Deployable, Deployed, as_yaml, distinct
from hocket.planner.plan import ReplicaPlan, routes_of
from hocket.settings.checks import check_name

PLAN = "plan.json"
"beside the settings"
CONTEXT = 2048
"tokens of a slot of an embedded engine, whatever its call needs"
A_STEP = 1.25
"by which Linux weighs a process against one that is nicer by 1"
OPEN = "0.0.0.0:8080"
CLOSED = "127.0.0.1:8080"
HEAD = """\
# Written by `hocket plan`. Engines, windows and routes as planned; docs/reference/settings.md lists what else there is.
"""
LOOPBACK = """\
# It listens on loopback alone, for no tenant has a key: `hocket plan --key-digest` opens it to other machines.
"""


def local_file(deployable: Deployable, key_sha256: str | None = None) -> str | None:
    """The text of a file that runs a plan of CPU cores on this very machine, with embedded engines; None for others.

    Threads are the parallelism, cores the devices: a replica is pinned to its own. Shares of a core are niceness, and a
    window is no wider than what the planned cache holds in slots of CONTEXT tokens. Raises InputError for cores that
    are not all of one machine.
    """
    if not _on_cores(deployable):
        return None
    engines, names = [], _names(deployable)
    for engine in deployable.plan.engines:
        replicas = deployable.of(engine)
        first = replicas[0].plan
        if any(replica.plan.tensor_parallel != first.tensor_parallel for replica in replicas):
            raise InputError(f"{engine.name}: its replicas have several widths; embedded engines have one")
        engines.append(
            {
                "name": names[engine.name],
                "kind": "embedded",
                "models": [engine.model],
                "weights": replicas[0].model.repository or engine.model,
                "replicas": len(replicas),
                "threads": first.tensor_parallel,
                "cpus": [int(index) for replica in replicas for index in replica.indices],
                "max_concurrency": min(_window(replica.plan) for replica in replicas),
                "latency": _latency(replicas[0]),
            }
        )
        if nice := min(_nice(replica, deployable) for replica in replicas):
            engines[-1]["nice"] = nice
    settings = _opened(key_sha256) | {"engines": engines} | _routes(deployable) | _planned(deployable)
    return HEAD + as_yaml(settings)


def _on_cores(deployable: Deployable) -> bool:
    """Whether the plan runs on cores of this machine. Raises InputError for what neither it nor containers can run."""
    devices = [device for replica in deployable.replicas for device in replica.devices]
    kinds = sorted({device.kind for device in devices})
    if "cpu" not in kinds:
        return False
    if len(kinds) > 1:
        remedy = "no export runs both; plan each with a cluster of its own"
        raise InputError(f"the plan has CPU cores beside other devices ({', '.join(kinds)}): {remedy}")
    nodes = sorted({device.node for device in devices})
    if len(nodes) > 1:
        remedy = "`hocket up` runs on one machine; plan with a cluster of that node alone"
        raise InputError(f"the plan has CPU cores of several nodes ({', '.join(nodes)}): {remedy}")
    return True


def _window(plan: ReplicaPlan) -> int:
    return max(1, min(plan.max_concurrency, plan.kv_tokens // CONTEXT))


def _nice(replica: Deployed, deployable: Deployable) -> int:
    """The niceness that makes of a core what the law says: in proportion to shares, among those that are at work."""
    largest = max(
        other.plan.share for other in deployable.replicas if any(device in other.devices for device in replica.devices)
    )
    return min(19, round(log(largest / replica.plan.share) / log(A_STEP)))


def settings_file(deployable: Deployable, url: Callable[[Deployed], str], key_sha256: str | None) -> str:
    """The text of the file; `url` of each replica."""
    engines, names = [], _names(deployable)
    for engine in deployable.plan.engines:
        replicas = deployable.of(engine)
        windows = [replica.plan.max_concurrency for replica in replicas]
        engines.append(
            {
                "name": names[engine.name],
                "kind": "vllm",
                "models": [engine.model],
                "replicas": [url(replica) for replica in replicas],
                "max_concurrency": windows[0] if len(set(windows)) == 1 else windows,
                "latency": _latency(replicas[0]),
            }
        )
    settings = _opened(key_sha256) | {"engines": engines} | _routes(deployable) | _planned(deployable)
    return HEAD + ("" if key_sha256 else LOOPBACK) + as_yaml(settings)


def _opened(key_sha256: str | None) -> dict[str, Any]:
    """Who is let in, and in which order: to other machines nothing is open without a key."""
    if key_sha256 is None:
        return {"listen": CLOSED, "policy": "default"}
    return {"listen": OPEN, "policy": "default", "tenants": [{"name": "default", "key_sha256": key_sha256}]}


def _latency(replica: Deployed) -> dict[str, float]:
    latency = replica.model.latency[replica.devices[0].kind][replica.plan.tensor_parallel]
    return {key: value for key, value in msgspec.structs.asdict(latency).items() if value}


def _planned(deployable: Deployable) -> dict[str, Any]:
    """The plan, which lies beside the settings: the gateway says how far demand has drifted from it."""
    return {} if deployable.plan.demand is None else {"plan": {"file": PLAN}}


def _names(deployable: Deployable) -> dict[str, str]:
    """What the settings call each engine of the plan."""
    # those that keep their names come first, so that no other takes one of them
    names = sorted((engine.name for engine in deployable.plan.engines), key=lambda name: _in_settings(name) != name)
    return dict(zip(names, distinct(names, _in_settings), strict=True))


def _in_settings(name: str) -> str:
    """The name itself where settings take it; models, and so engines, may be called anything: "owner/model"."""
    try:
        check_name(name)
    except ValueError:
        return re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:LABEL].strip("-._") or "engine"
    return name


def _routes(deployable: Deployable) -> dict[str, Any]:
    names = _names(deployable)
    routes = [msgspec.to_builtins(route) | {"engine": names[route.engine]} for route in routes_of(deployable.plan)]
    return {"routes": routes} if routes else {}
