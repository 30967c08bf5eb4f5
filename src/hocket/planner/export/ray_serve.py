"""A Ray Serve LLM configuration of a plan: `serve run ray-serve.yaml`.

Ray places replicas by resources, not by name, so what it keeps of a plan is widths, counts and shares; a share becomes
a fraction of a GPU in the bundles of a placement group. (docs.ray.io, "Serving LLMs": configuration reference.)
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

from hocket.planner.export.common import Deployable, Deployed, as_yaml
from hocket.planner.inputs import USABLE

HEAD = """\
# Written by `hocket plan`. Ray places replicas itself: widths, counts and shares are the plan's, places may differ.
"""


def serve_config(deployable: Deployable) -> str:
    """The text of the file: an application for each engine, so that each has a URL of its own."""
    applications = [_application(alike) for alike in _alike(deployable)]
    return HEAD + as_yaml({"applications": applications})


def _alike(deployable: Deployable) -> list[list[Deployed]]:
    """Replicas of one engine that differ in nothing but their place."""

    def shape(replica: Deployed) -> tuple[Any, ...]:
        plan = replica.plan
        kind = replica.devices[0].kind
        sizes = plan.tensor_parallel, plan.share, plan.max_concurrency, replica.longest or 0
        return (replica.engine.name, *sizes, kind)

    order = sorted(deployable.replicas, key=shape)
    return [list(group) for _, group in groupby(order, key=shape)]


def _application(replicas: list[Deployed]) -> dict[str, Any]:
    first = replicas[0]
    plan = first.plan
    llm = {
        "model_loading_config": {
            "model_id": first.model.name,
            "model_source": first.model.repository or first.model.name,
        },
        "accelerator_type": first.devices[0].kind.upper(),
        "placement_group_config": {
            "bundles": [{"CPU": 1, "GPU": plan.share} for _ in range(plan.tensor_parallel)],
            "strategy": "STRICT_PACK",
        },
        "deployment_config": {"num_replicas": len(replicas), "max_ongoing_requests": plan.max_concurrency},
        "engine_kwargs": {
            "tensor_parallel_size": plan.tensor_parallel,
            "gpu_memory_utilization": round(USABLE * plan.share, 4),
            "max_num_seqs": plan.max_concurrency,
            **({} if first.longest is None else {"max_model_len": first.longest}),
            "enable_prefix_caching": True,
        },
    }
    return {
        "name": first.name,
        "route_prefix": f"/{first.name}",
        "import_path": "ray.serve.llm:build_openai_app",
        "args": {"llm_configs": [llm]},
    }
