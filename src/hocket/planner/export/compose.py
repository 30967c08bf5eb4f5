"""Docker Compose of a plan: all of one node, its replicas pinned to their devices, the gateway in front."""

from __future__ import annotations

from typing import Any

from hocket.planner.export.common import COMMAND, GATEWAY_IMAGE, IMAGE, Deployable, Deployed, as_yaml
from hocket.planner.export.settings import PLAN

HEAD = """\
# Written by `hocket plan`. Devices that are shared are shared by {mechanism}.
"""
SEVERAL = """\
# Compose knows one machine: start on each what its node's profile names (docker compose --profile NODE up), hocket with
# --profile gateway, and write where the others are into hocket.yaml.
"""
MECHANISM = {
    "ps": "time-slicing, the driver's default",
    "capped": "MPS: start nvidia-cuda-mps-control -d on the host first",
}
PIPES = "/tmp/nvidia-mps"  # noqa: S108  fixed by NVIDIA
"where the control daemon listens, unless it is told otherwise; without it a container does not know of MPS"


def compose_file(deployable: Deployable) -> str:
    """The text of the file."""
    services: dict[str, Any] = {replica.name: _service(replica, deployable) for replica in deployable.replicas}
    services["hocket"] = {
        "image": GATEWAY_IMAGE,
        "command": ["serve", "--config", "/etc/hocket/hocket.yaml"],
        "ports": ["127.0.0.1:8080:8080"],
        "volumes": [f"./{name}:/etc/hocket/{name}:ro" for name in ("hocket.yaml", PLAN)],
    }
    head = HEAD.format(mechanism=MECHANISM[deployable.plan.law])
    if len({replica.node for replica in deployable.replicas}) > 1:
        head += SEVERAL
        services["hocket"]["profiles"] = ["gateway"]
        for replica in deployable.replicas:
            services[replica.name]["profiles"] = [replica.node]
    return head + as_yaml({"services": services})


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
