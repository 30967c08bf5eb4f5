"""Docker Compose of a plan: all of one node, its replicas pinned to their devices, the gateway in front."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hocket.planner.export.common import COMMAND, GATEWAY_IMAGE, IMAGE, PORT, Deployable, Deployed, as_yaml
from hocket.planner.export.settings import PLAN

HEAD = """\
# Written by `hocket plan`. Devices that are shared are shared by {mechanism}.
"""
SEVERAL = """\
# Compose knows one machine: start on each what its node's profile names (docker compose --profile NODE up), hocket with
# --profile gateway. hocket.yaml calls nodes by their names. Engines ask for no key: keep others off these ports.
"""
MECHANISM = {
    "ps": "time-slicing, the driver's default",
    "capped": "MPS: start nvidia-cuda-mps-control -d on the host first",
}
PIPES = "/tmp/nvidia-mps"  # noqa: S108  fixed by NVIDIA
"where the control daemon listens, unless it is told otherwise; without it a container does not know of MPS"
FIRST = 8001
"port of its node at which the first replica there is reached"


def compose_file(deployable: Deployable) -> str:
    """The text of the file."""
    published, several = _published(deployable), _several(deployable)
    services: dict[str, Any] = {}
    for replica in deployable.replicas:
        port = f"{published[replica.name]}:{PORT}"
        services[replica.name] = _service(replica, deployable) | {"ports": [port if several else f"127.0.0.1:{port}"]}
    services["hocket"] = {
        "image": GATEWAY_IMAGE,
        "command": ["serve", "--config", "/etc/hocket/hocket.yaml"],
        # so that hocket.yaml alone says who reaches it: loopback of a container is nobody else's
        "network_mode": "host",
        "volumes": [f"./{name}:/etc/hocket/{name}:ro" for name in ("hocket.yaml", PLAN)],
    }
    head = HEAD.format(mechanism=MECHANISM[deployable.plan.law])
    if several:
        head += SEVERAL
        services["hocket"]["profiles"] = ["gateway"]
        for replica in deployable.replicas:
            services[replica.name]["profiles"] = [replica.node]
    return head + as_yaml({"services": services})


def addresses(deployable: Deployable) -> dict[str, str]:
    """URL of each replica, as the gateway's host reaches it."""
    several = _several(deployable)
    published = _published(deployable)
    return {
        replica.name: f"http://{replica.node if several else '127.0.0.1'}:{published[replica.name]}"
        for replica in deployable.replicas
    }


def _several(deployable: Deployable) -> bool:
    return len({replica.node for replica in deployable.replicas}) > 1


def _published(deployable: Deployable) -> dict[str, int]:
    """The port of its node at which each replica is reached."""
    there, ports = Counter[str](), dict[str, int]()
    for replica in deployable.replicas:
        ports[replica.name] = FIRST + there[replica.node]
        there[replica.node] += 1
    return ports


def _service(replica: Deployed, deployable: Deployable) -> dict[str, Any]:
    device = {"driver": "nvidia", "device_ids": replica.indices, "capabilities": ["gpu"]}
    service: dict[str, Any] = {
        "image": IMAGE,
        "entrypoint": COMMAND,
        "command": replica.arguments,
        "ipc": "host",
        "deploy": {"resources": {"reservations": {"devices": [device]}}},
    }
    if deployable.plan.law == "capped":
        # of whole devices, too: where the host has made them exclusive, only clients of MPS get in
        service["volumes"] = [f"{PIPES}:{PIPES}"]
        if replica.plan.share < 1:
            service["environment"] = {"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": f"{round(100 * replica.plan.share)}"}
    return service
