"""`cluster.yaml` and `models.yaml`: what there is to serve with, and what is to be served.

Every mistake is an InputError that names the file, the line, the key and the remedy.
"""

from __future__ import annotations

from functools import cache, cached_property
from importlib.resources import files
from math import isfinite
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta, Struct

from hocket.core.latency import Latency
from hocket.yamlfile import load_yaml

USABLE = 0.9
"share of a device's memory that weights and KV caches may fill"
OFF = 1.1
"times what another measurement says: no more is believed to be noise"
PAGE = "docs/reference/plan.md"

Positive = Annotated[float, Meta(gt=0, le=1e12)]


class Node(Struct, frozen=True, forbid_unknown_fields=True):
    """A machine with like devices."""

    name: Annotated[str, Meta(min_length=1)]
    devices: Annotated[int, Meta(ge=1, le=4096)]
    kind: str
    "what performance tables call it: h100, a100, cpu"
    memory_gib: Positive
    "of one device"
    domain: str | None = None
    "a fast interconnect, shared with nodes that name the same; None = the node's own. Tensor parallelism stays inside"


class Device(NamedTuple):
    """One accelerator, or one core."""

    name: str
    node: str
    kind: str
    memory_gib: float
    domain: str


class Cluster(Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """`cluster.yaml`."""

    nodes: list[Node]

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        if not self.nodes:
            raise ValueError("`nodes`: empty; list at least one")
        names = [node.name for node in self.nodes]
        for i, node in enumerate(self.nodes):
            if node.name in names[:i]:
                raise ValueError(f"`nodes[{i}].name`: '{node.name}' is there already; each needs its own")
        kinds: dict[str, str] = {}
        for i, node in enumerate(self.nodes):
            domain = node.domain or node.name
            if kinds.setdefault(domain, node.kind) != node.kind:
                problem = f"'{domain}' holds devices of kind {kinds[domain]}; a fast domain has one kind"
                raise ValueError(f"`nodes[{i}].domain`: {problem}")

    @cached_property
    def devices(self) -> dict[str, Device]:
        """By name ("node0/gpu1"), in the order of the file."""
        named = (
            Device(f"{node.name}/gpu{i}", node.name, node.kind, node.memory_gib, node.domain or node.name)
            for node in self.nodes
            for i in range(node.devices)
        )
        return {device.name: device for device in named}


class Model(Struct, frozen=True):
    """A model that is to be served, and how fast it is."""

    name: str
    weights_gib: float
    kv_bytes_per_token: float
    latency: dict[str, dict[int, Latency]]
    "kind of device -> tensor-parallel degree -> the engine model's constants (seconds, tokens)"
    repository: str | None = None
    "what an engine loads its weights from; None = the model's name"
    context_tokens: int | None = None
    "that a call may have at most, prompt and answer; None = not known"

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        if not self.latency:
            raise ValueError("`latency`: empty; give a table for at least one kind of device")
        for kind, table in self.latency.items():
            if not table:
                raise ValueError(f"`latency.{kind}`: empty; give at least the degree 1")
            self._check(kind, table)

    def _check(self, kind: str, table: dict[int, Latency]) -> None:
        before: int | None = None
        for degree in sorted(table):
            where = f"`latency.{kind}.{degree}`"
            if degree < 1 or degree & (degree - 1):
                raise ValueError(f"{where}: tensor parallelism goes by powers of two: 1, 2, 4, 8 ...")
            row = table[degree]
            for key, value in msgspec.structs.asdict(row).items():
                if not (value >= 0.0 and isfinite(value)):
                    raise ValueError(f"{where}.{key}: {value}; use seconds, 0 or more")
            if not row.d0 + row.d1 > 0.0 or not row.q1 + row.q2 > 0.0:
                raise ValueError(f"{where}: a hole: a decode step (d0, d1) or a prompt (q1, q2) would take no time")
            if before is not None and (slower := _slower(table[before], row)):
                problem = f"slower than degree {before}: {slower}"
                raise ValueError(f"{where}: {problem}; leave out what does not pay, or correct the table")
            before = degree

    def memory_gib(self, tensor_parallel: int, kv_tokens: float) -> float:
        """GiB that a replica takes of each of its devices."""
        return (self.weights_gib + kv_tokens * self.kv_bytes_per_token / 2**30) / tensor_parallel


def _slower(narrow: Latency, wide: Latency) -> str:
    """In what a wider row is slower, in words: on the whole, or in one part by more than a measurement may be off."""
    for what, prompt, output, most in (
        ("1024 + 256 tokens", 1024, 256, 1.0),
        ("a prompt of 1024 tokens", 1024, 1, OFF),
        ("256 tokens after a short prompt", 1, 256, OFF),
    ):
        seconds = [row.unloaded(prompt, output) for row in (narrow, wide)]
        if seconds[1] > most * seconds[0]:
            return f"{seconds[1]:.3g} s for {what}, not {seconds[0]:.3g} s"
    return ""


class ModelEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """An entry of `models.yaml`: a model, with what is left out taken from a bundled table."""

    name: str
    table: str | None = None
    "one of `tables()`"
    weights_gib: Positive | None = None
    kv_bytes_per_token: Positive | None = None
    latency: dict[str, dict[int, Latency]] = {}
    repository: str | None = None
    "what an engine loads its weights from, for exports: a name on a model hub, or a path"
    context_tokens: Annotated[int, Meta(gt=0)] | None = None
    "that a call may have at most, prompt and answer, for exports"

    def model(self) -> Model:
        """The model. Raises ValueError for an unknown table, and where something is missing or cannot be."""
        bundled = tables()
        if self.table is not None and self.table not in bundled:
            raise ValueError(f"`table`: no table '{self.table}'; there is {', '.join(bundled)}")
        base = None if self.table is None else bundled[self.table]
        weights_gib = self.weights_gib or (base and base.weights_gib)
        kv_bytes_per_token = self.kv_bytes_per_token or (base and base.kv_bytes_per_token)
        if not weights_gib or not kv_bytes_per_token:
            key = "kv_bytes_per_token" if weights_gib else "weights_gib"
            raise ValueError(f"`{key}`: missing; give it, or a `table`: {', '.join(bundled)}")
        latency = {**(base.latency if base else {}), **self.latency}
        repository = self.repository or (base.repository if base else None)
        # other weights than the table's may have another context
        same = base is not None and repository == base.repository
        context_tokens = self.context_tokens or (base.context_tokens if base and same else None)
        return Model(self.name, weights_gib, kv_bytes_per_token, latency, repository, context_tokens)


class Table(Struct, frozen=True):
    """A bundled table: what is known of a published model."""

    repository: str
    weights_gib: float
    kv_bytes_per_token: float
    context_tokens: int
    latency: dict[str, dict[int, Latency]]


@cache
def tables() -> dict[str, Table]:
    """The bundled tables by name. Written by benchmarks/_fit_tables.py, which names their source."""
    text = files("hocket.planner").joinpath("tables.json").read_bytes()
    return msgspec.json.decode(text, type=dict[str, Table])


class Models(Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """`models.yaml`."""

    models: list[ModelEntry]

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        if not self.models:
            raise ValueError("`models`: empty; list at least one")
        names = [model.name for model in self.models]
        for i, entry in enumerate(self.models):
            if entry.name in names[:i]:
                raise ValueError(f"`models[{i}].name`: '{entry.name}' is there already; each needs its own")
            try:
                entry.model()
            except ValueError as error:
                raise ValueError(f"`models[{i}].{str(error)[1:]}") from None

    @cached_property
    def named(self) -> dict[str, Model]:
        """By name."""
        return {entry.name: entry.model() for entry in self.models}


def load_cluster(path: str) -> Cluster:
    """Read `cluster.yaml`. Raises InputError: file, line, key, remedy."""
    return load_yaml(path, Cluster, PAGE)


def load_models(path: str) -> Models:
    """Read `models.yaml`. Raises InputError: file, line, key, remedy."""
    return load_yaml(path, Models, PAGE)
