"""What every export asks of a plan: its replicas one by one, how they are started, and which devices are shared."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import yaml

from hocket.errors import InputError
from hocket.planner.inputs import USABLE, Cluster, Device, Model, Models
from hocket.planner.plan import EnginePlan, Plan, ReplicaPlan

PORT = 8000
IMAGE = "vllm/vllm-openai:v0.11.0"
"of the engines; a version whose flags are those below"
COMMAND = ["vllm", "serve"]
"said wherever the image runs: its own entrypoint takes no model without a flag, and would load its default"
GATEWAY_IMAGE = "hocket:latest"
"of the gateway: built from the Dockerfile of this project"
LABEL = 48
"characters of an engine's name that are kept; a DNS label has at most 63"


class Deployed(NamedTuple):
    """One replica: a server process."""

    name: str
    engine: EnginePlan
    plan: ReplicaPlan
    model: Model
    devices: list[Device]

    @property
    def node(self) -> str:
        """The node that it is on."""
        return self.devices[0].node

    @property
    def indices(self) -> list[str]:
        """The numbers of its devices on their node."""
        return [device.name.rpartition("/gpu")[2] for device in self.devices]

    @property
    def longest(self) -> int | None:
        """Tokens that a call may have: an engine does not start whose KV cache is smaller than one of that length.

        None where the model's context is not known: the engine is left to read it, as one that is too long is refused.
        """
        context = self.model.context_tokens
        return None if context is None else min(context, self.plan.kv_tokens)

    @property
    def arguments(self) -> list[str]:
        """Of `vllm serve`."""
        return [
            self.model.repository or self.model.name,
            "--served-model-name",
            self.model.name,
            "--port",
            str(PORT),
            "--tensor-parallel-size",
            str(self.plan.tensor_parallel),
            "--gpu-memory-utilization",
            f"{USABLE * self.plan.share:.4g}",
            "--max-num-seqs",
            str(self.plan.max_concurrency),
            *([] if self.longest is None else ["--max-model-len", str(self.longest)]),
            "--enable-prefix-caching",
        ]


class Deployable:
    """A plan that passed its check, taken apart."""

    def __init__(self, plan: Plan, cluster: Cluster, models: Models) -> None:
        """Raises InputError where a replica spans nodes, which no pod and no container can."""
        self.plan, self.cluster = plan, cluster
        self.replicas = list(_replicas(plan, cluster, models))
        on = Counter(device.name for replica in self.replicas for device in replica.devices)
        parts = {device.name for replica in self.replicas if replica.plan.share < 1 for device in replica.devices}
        self.shared = {device for device, count in on.items() if count > 1} | parts
        "devices that hold more than one replica, or a part of one's"

    def of(self, engine: EnginePlan) -> list[Deployed]:
        """The replicas of an engine."""
        return [replica for replica in self.replicas if replica.engine is engine]


def _replicas(plan: Plan, cluster: Cluster, models: Models) -> Iterator[Deployed]:
    labels = distinct([engine.name for engine in plan.engines], _in_dns)
    for engine, label in zip(plan.engines, labels, strict=True):
        for k, replica in enumerate(engine.replicas):
            devices = [cluster.devices[name] for name in replica.devices]
            nodes = sorted({device.node for device in devices})
            if len(nodes) > 1:
                problem = f"is on several nodes ({', '.join(nodes)}); plan with domains of one node"
                raise InputError(f"{engine.name}, replica {k}: {problem} to export it")
            yield Deployed(f"{label}-{k}", engine, replica, models.named[engine.model], devices)


def distinct(names: Iterable[str], cleaned: Callable[[str], str]) -> list[str]:
    """What is left of each name, with a number behind it where another one left the same."""
    labels: list[str] = []
    for name in names:
        label = plain = cleaned(name)
        number = 1
        while label in labels:
            number += 1
            label = f"{plain}-{number}"
        labels.append(label)
    return labels


def _in_dns(name: str) -> str:
    """As names in Kubernetes and DNS may be, and with a number behind it still short enough."""
    label = as_label(name)[:LABEL]
    return label if label[:1].isalpha() else f"engine-{label}".rstrip("-")


def as_label(name: str) -> str:
    """What is left of a name in a DNS label."""
    return re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-")


class _Dumper(yaml.SafeDumper):
    """Without anchors, and texts of several lines as blocks: files that people read."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def as_yaml(*documents: Any) -> str:
    """Documents of one file."""
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=120)
