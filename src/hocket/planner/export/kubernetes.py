"""Kubernetes manifests of a plan: a Deployment and a Service a replica, the gateway with its settings, shared devices.

A replica is bound to its node. Where a node has a device that is shared, its devices are claimed one by one (dynamic
resource allocation, resource.k8s.io/v1): replicas of one device name one claim. The mechanism follows the plan's law:
`ps` is time-slicing, `capped` is MPS with each pod's share as its part of the threads.
"""

from __future__ import annotations

from typing import Any

from hocket.planner.export.common import COMMAND, GATEWAY_IMAGE, IMAGE, PORT, Deployable, Deployed, as_label, as_yaml
from hocket.planner.export.settings import PLAN, settings_file
from hocket.planner.inputs import Device
from hocket.planner.plan import as_json

DRIVER = "gpu.nvidia.com"
SHARING: dict[str, dict[str, Any]] = {
    "ps": {"strategy": "TimeSlicing", "timeSlicingConfig": {"interval": "Default"}},
    "capped": {"strategy": "MPS"},
}
HEAD = """\
# Written by `hocket plan`. Devices of a node are numbered as the plan has them; claims pick any devices of the node.
"""


def manifests(deployable: Deployable, key_sha256: str | None = None) -> str:
    """The text of the file: one YAML stream, for `kubectl apply -f`."""
    claimed = {device.node for device in deployable.cluster.devices.values() if device.name in deployable.shared}
    used = {device.name: device for replica in deployable.replicas for device in replica.devices}
    documents = [
        _claim(device, deployable.plan.law if device.name in deployable.shared else None)
        for device in used.values()
        if device.node in claimed
    ]
    for replica in deployable.replicas:
        documents += [_deployment(replica, deployable.plan.law, replica.node in claimed), _service(replica.name, PORT)]
    settings = settings_file(deployable, lambda replica: f"http://{replica.name}:{PORT}", key_sha256)
    documents += [*_gateway(settings, as_json(deployable.plan)), _service("hocket", 8080)]
    return HEAD + as_yaml(*documents)


def _meta(name: str) -> dict[str, Any]:
    return {"name": name, "labels": {"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": "hocket"}}


def _claim_name(device: Device) -> str:
    return device.name.replace("/", "-").lower()


def _claim(device: Device, law: str | None) -> dict[str, Any]:
    """One device, that any number of pods may name."""
    devices: dict[str, Any] = {"requests": [{"name": "gpu", "exactly": {"deviceClassName": DRIVER, "count": 1}}]}
    if law is not None:
        parameters = {"apiVersion": "resource.nvidia.com/v1beta1", "kind": "GpuConfig", "sharing": SHARING[law]}
        devices["config"] = [{"requests": ["gpu"], "opaque": {"driver": DRIVER, "parameters": parameters}}]
    metadata = _meta(_claim_name(device))
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": metadata,
        "spec": {"devices": devices},
    }


def _deployment(replica: Deployed, law: str, claimed: bool) -> dict[str, Any]:
    container: dict[str, Any] = {
        "name": "engine",
        "image": IMAGE,
        "command": COMMAND,
        "args": replica.arguments,
        "ports": [{"name": "http", "containerPort": PORT}],
        "readinessProbe": {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 5},
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],  # noqa: S108  of the container
    }
    pod: dict[str, Any] = {
        "affinity": _bound_to(replica.node),
        "containers": [container],
        # the workers of a tensor-parallel engine talk through shared memory; a pod has 64 MiB of it by default
        "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}}],
    }
    if claimed:
        names = [_claim_name(device) for device in replica.devices]
        container["resources"] = {"claims": [{"name": as_label(name)} for name in names]}
        pod["resourceClaims"] = [{"name": as_label(name), "resourceClaimName": name} for name in names]
    else:
        container["resources"] = {"limits": {"nvidia.com/gpu": len(replica.devices)}}
    if law == "capped" and replica.plan.share < 1:
        percentage = f"{round(100 * replica.plan.share)}"
        container["env"] = [{"name": "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "value": percentage}]
    return _apps(replica.name, pod)


def _bound_to(node: str) -> dict[str, Any]:
    expression = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
    terms = {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}


def _apps(name: str, pod: dict[str, Any]) -> dict[str, Any]:
    label = {"app.kubernetes.io/name": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _meta(name),
        "spec": {
            "replicas": 1,
            # a new pod would need the devices that the old one still holds
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": label},
            "template": {"metadata": {"labels": label}, "spec": pod},
        },
    }


def _service(name: str, port: int) -> dict[str, Any]:
    ports = [{"name": "http", "port": port, "targetPort": "http"}]
    spec = {"selector": {"app.kubernetes.io/name": name}, "ports": ports}
    return {"apiVersion": "v1", "kind": "Service", "metadata": _meta(name), "spec": spec}


def _gateway(settings: str, plan: str) -> list[dict[str, Any]]:
    container = {
        "name": "hocket",
        "image": GATEWAY_IMAGE,
        # of a tag `latest` the default is Always, which never takes what was built and loaded on the node
        "imagePullPolicy": "IfNotPresent",
        "args": ["serve", "--config", "/etc/hocket/hocket.yaml"],
        "ports": [{"name": "http", "containerPort": 8080}],
        "volumeMounts": [{"name": "settings", "mountPath": "/etc/hocket", "readOnly": True}],
    }
    volume = {"name": "settings", "configMap": {"name": "hocket"}}
    data = {"hocket.yaml": settings, PLAN: plan}
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _meta("hocket"), "data": data}
    return [config, _apps("hocket", {"containers": [container], "volumes": [volume]})]
