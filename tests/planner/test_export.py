"""What a plan is exported to is what other systems read: their own schemas say so, and the plan's numbers are in it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import msgspec
import pytest
import yaml

from hocket.assembly import build
from hocket.errors import InputError
from hocket.planner.export import LOCAL, MARK, NAMES, export, put_by, write
from hocket.planner.inputs import Cluster, Models
from hocket.planner.plan import Plan
from hocket.settings import load_settings
from tests.planner.test_plan import CLUSTER, MODELS, engine, plan, replica

KEY = "a" * 64
ENGINES = [
    engine("small", replica("n0/gpu0", share=0.5), replica("n0/gpu1")),
    engine("Re_rank", replica("n0/gpu0", share=0.5), model="small", roles=("rag/rerank",)),
    engine("big", replica("n0/gpu2", "n0/gpu3")),
]


def exported(what: Plan, key: str | None = KEY) -> dict[str, str]:
    return export(what, msgspec.convert(CLUSTER, Cluster), msgspec.convert(MODELS, Models), key)


def documents(what: Plan, kind: str) -> dict[str, Any]:
    every = yaml.safe_load_all(exported(what)["kubernetes.yaml"])
    return {one["metadata"]["name"]: one for one in every if one["kind"] == kind}


@pytest.mark.parametrize("key", [KEY, None])
@pytest.mark.parametrize("law", ["ps", "capped"])
def test_manifests_keep_the_schemas_of_kubernetes(law: str, key: str | None) -> None:
    """Strictly: no field that Kubernetes does not know."""
    whole = engine("alone", replica("n1/gpu0"), model="small", roles=("judge",))
    found = list(yaml.safe_load_all(exported(plan(*ENGINES, whole, law=law), key)["kubernetes.yaml"]))
    for document in found:
        kubernetes_validate.validate(document, "1.34", strict=True)
    names = [(document["kind"], document["metadata"]["name"]) for document in found]
    assert len(set(names)) == len(names)


def test_each_replica_has_a_name_that_clusters_take() -> None:
    """Names that differ in what a DNS label cannot hold, begin with a digit, or are long; a node with a domain."""
    names = ["a.b", "A b", "a-b-2", "7b", "x" * 80]
    engines = [
        engine(n, replica(f"n0.local/gpu{k}", share=0.5), model="small", roles=[f"s{k}"] if k else ())
        for k, n in enumerate(names)
    ]
    nodes = {"nodes": [{"name": "n0.local", "devices": 8, "kind": "h100", "memory_gib": 80}]}
    files = export(plan(*engines), msgspec.convert(nodes, Cluster), msgspec.convert(MODELS, Models), KEY)
    found = [one for one in yaml.safe_load_all(files["kubernetes.yaml"]) if one["kind"] in ("Deployment", "Service")]
    assert len({(one["kind"], one["metadata"]["name"]) for one in found}) == len(found) == 2 * (len(names) + 1)
    claims = [claim for one in found for claim in one["spec"].get("template", one)["spec"].get("resourceClaims", ())]
    labels = [one["metadata"]["name"] for one in found] + [claim["name"] for claim in claims]
    assert len(claims) == len(names) and all(re.fullmatch("[a-z][a-z0-9-]{0,61}[a-z0-9]", label) for label in labels)
    assert len(yaml.safe_load(files["docker-compose.yaml"])["services"]) == len(names) + 1


def test_a_wrong_field_would_be_found() -> None:
    deployment = documents(plan(*ENGINES), "Deployment")["big-0"]
    deployment["spec"]["template"]["spec"]["containers"][0]["gpus"] = 2
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, "1.34", strict=True)


def test_replicas_of_one_device_name_one_claim() -> None:
    """And all devices of a node with a shared one are claimed: two allocators of a GPU would not know of each other."""
    pods = {name: d["spec"]["template"]["spec"] for name, d in documents(plan(*ENGINES), "Deployment").items()}
    claims = {name: [c["resourceClaimName"] for c in pod.get("resourceClaims", [])] for name, pod in pods.items()}
    assert claims == {
        "small-0": ["n0-gpu0"],
        "small-1": ["n0-gpu1"],
        "re-rank-0": ["n0-gpu0"],
        "big-0": ["n0-gpu2", "n0-gpu3"],
        "hocket": [],
    }
    assert set(documents(plan(*ENGINES), "ResourceClaim")) == {"n0-gpu0", "n0-gpu1", "n0-gpu2", "n0-gpu3"}


@pytest.mark.parametrize(("law", "strategy"), [("ps", "TimeSlicing"), ("capped", "MPS")])
def test_the_law_names_the_mechanism(law: str, strategy: str) -> None:
    claims = documents(plan(*ENGINES, law=law), "ResourceClaim")
    (config,) = claims["n0-gpu0"]["spec"]["devices"]["config"]
    assert config["opaque"]["parameters"]["sharing"]["strategy"] == strategy
    assert "config" not in claims["n0-gpu1"]["spec"]["devices"], "nobody else is there"
    pod = documents(plan(*ENGINES, law=law), "Deployment")["small-0"]["spec"]["template"]["spec"]["containers"][0]
    env = {one["name"]: one["value"] for one in pod.get("env", [])}
    assert env == ({"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "50"} if law == "capped" else {})


def test_containers_find_the_mps_of_their_host() -> None:
    """All of them: a device may be open to MPS alone, and then one that knows nothing of it gets none."""
    for law, volumes in (("ps", None), ("capped", ["/tmp/nvidia-mps:/tmp/nvidia-mps"])):
        services = yaml.safe_load(exported(plan(*ENGINES, law=law))["docker-compose.yaml"])["services"]
        assert all(service.get("volumes") == volumes for name, service in services.items() if name != "hocket")


def test_an_image_of_the_gateway_that_nodes_have_is_not_pulled() -> None:
    (container,) = documents(plan(*ENGINES), "Deployment")["hocket"]["spec"]["template"]["spec"]["containers"]
    assert container["imagePullPolicy"] == "IfNotPresent"


def test_without_shares_devices_are_counted() -> None:
    pod = documents(plan(engine("big", replica("n0/gpu2", "n0/gpu3"))), "Deployment")["big-0"]["spec"]["template"][
        "spec"
    ]
    assert pod["containers"][0]["resources"] == {"limits": {"nvidia.com/gpu": 2}} and "resourceClaims" not in pod


def test_engines_are_started_as_planned() -> None:
    """In all three: width, share of memory, window; and by a command that takes the model where it stands."""
    files = exported(plan(*ENGINES))
    flags = ["--tensor-parallel-size", "--gpu-memory-utilization", "--max-num-seqs"]
    compose = yaml.safe_load(files["docker-compose.yaml"])["services"]
    ray = {
        one["name"]: one["args"]["llm_configs"][0] for one in yaml.safe_load(files["ray-serve.yaml"])["applications"]
    }
    for name, told in {"small-0": ["1", "0.45", "8"], "big-0": ["2", "0.9", "8"]}.items():
        (pod,) = documents(plan(*ENGINES), "Deployment")[name]["spec"]["template"]["spec"]["containers"]
        assert pod["command"] == compose[name]["entrypoint"] == ["vllm", "serve"]
        for listed in (pod["args"], compose[name]["command"]):
            assert listed[:2] == [ray[name]["model_loading_config"]["model_source"], "--served-model-name"]
            assert [listed[listed.index(flag) + 1] for flag in flags] == told
        kwargs = ray[name]["engine_kwargs"]
        same = [kwargs["tensor_parallel_size"], kwargs["gpu_memory_utilization"], kwargs["max_num_seqs"]]
        assert same == [float(value) for value in told]
    assert [bundle["GPU"] for bundle in ray["big-0"]["placement_group_config"]["bundles"]] == [1.0, 1.0]
    assert compose["big-0"]["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"] == ["2", "3"]


@pytest.mark.parametrize(
    ("tokens", "entry", "told"),
    [
        (5000, {"table": "qwen3-32b"}, 5000),
        (500_000, {"table": "qwen3-32b"}, 40_960),
        (500_000, {"table": "qwen3-32b", "repository": "ours/tuned"}, None),
        (5000, {"table": "qwen3-32b", "repository": "ours/tuned", "context_tokens": 8192}, 5000),
        (500_000, {"table": "qwen3-32b", "repository": "ours/tuned", "context_tokens": 8192}, 8192),
    ],
)
def test_no_call_is_longer_than_the_cache_or_the_context(tokens: int, entry: dict[str, Any], told: int | None) -> None:
    """In all three. vLLM starts with neither a cache below its longest call, nor a call above its context."""
    named = msgspec.convert({"models": [{"name": "big", "kv_bytes_per_token": 1000, **entry}]}, Models)
    one = plan(engine("big", replica("n0/gpu2", "n0/gpu3", kv_tokens=tokens)))
    files = export(one, msgspec.convert(CLUSTER, Cluster), named, KEY)
    pods = [d for d in yaml.safe_load_all(files["kubernetes.yaml"]) if d["metadata"]["name"] == "big-0"]
    (container,) = pods[0]["spec"]["template"]["spec"]["containers"]
    for listed in (container["args"], yaml.safe_load(files["docker-compose.yaml"])["services"]["big-0"]["command"]):
        flag = [listed[place + 1] for place, word in enumerate(listed) if word == "--max-model-len"]
        assert flag == ([] if told is None else [str(told)])
    (ray,) = yaml.safe_load(files["ray-serve.yaml"])["applications"]
    assert ray["args"]["llm_configs"][0]["engine_kwargs"].get("max_model_len") == told


def test_alike_replicas_are_one_application_of_ray() -> None:
    ray = exported(plan(engine("small", replica("n0/gpu0"), replica("n0/gpu1"))))["ray-serve.yaml"]
    (one,) = yaml.safe_load(ray)["applications"]
    assert one["args"]["llm_configs"][0]["deployment_config"]["num_replicas"] == 2


@pytest.mark.parametrize("key", [KEY, None])
def test_the_settings_are_ones_that_hocket_serves(tmp_path: Path, key: str | None) -> None:
    write(exported(plan(*ENGINES), key), tmp_path / "plan")
    settings = load_settings(tmp_path / "plan" / "hocket.yaml")
    scheduler = build(settings.to_spec())
    assert scheduler.engine_for("rag", "rerank", "small") == "Re_rank"
    assert scheduler.engine_for("rag", "answer", "small") == "small"
    assert settings.engines[0].replicas == ["http://127.0.0.1:8001", "http://127.0.0.1:8002"]
    assert bool(settings.tenants) == (key is not None)
    config = documents(plan(*ENGINES), "ConfigMap")["hocket"]["data"]["hocket.yaml"]
    named = yaml.safe_load(config)
    assert named["engines"][0].pop("replicas") == ["http://small-0:8000", "http://small-1:8000"]
    here = yaml.safe_load(exported(plan(*ENGINES))["hocket.yaml"])
    assert {**here["engines"][0], "replicas": None} == {**named["engines"][0], "replicas": None}
    assert {**here, "engines": None} == {**named, "engines": None}


def test_models_may_have_any_name(tmp_path: Path) -> None:
    """Those of a hub, and what the planner makes of them; a name that settings take stays, whoever comes before it."""
    hub, long = "meta-llama/Llama-3.1-8B-Instruct", "x" * 60
    names = {hub: hub, f"{hub}-rag-re rank": hub, "a/b": "a/b", "a-b": "a-b", long: long, f"{long}-rag-answer": long}
    names["/"] = "/"
    roles = {f"{hub}-rag-re rank": ("rag/re rank",), f"{long}-rag-answer": ("rag/answer",)}
    nodes = {"nodes": [{"name": "n0", "devices": 8, "kind": "h100", "memory_gib": 80}]}
    models = {"models": [{"name": model, "table": "qwen2.5-7b"} for model in dict.fromkeys(names.values())]}
    engines = [
        engine(name, replica(f"n0/gpu{k}"), model=model, roles=roles.get(name, ()))
        for k, (name, model) in enumerate(names.items())
    ]
    files = export(plan(*engines), msgspec.convert(nodes, Cluster), msgspec.convert(models, Models), KEY)
    write(files, tmp_path / "plan")
    settings = load_settings(tmp_path / "plan" / "hocket.yaml")
    cut = "meta-llama-Llama-3.1-8B-Instruct"
    told = [one.name for one in settings.engines]
    assert told == [cut, f"{cut}-rag-re-rank", "a-b-2", "a-b", long, "x" * 48, "engine"]
    assert [one.models for one in settings.engines] == [[model] for model in names.values()]
    scheduler = build(settings.to_spec())
    found = [scheduler.engine_for("rag", stage, hub) for stage in ("re rank", "answer")]
    assert found == [f"{cut}-rag-re-rank", cut]
    assert [scheduler.engine_for("rag", "answer", model) for model in (long, "a/b")] == ["x" * 48, "a-b-2"]


def test_unlike_replicas_keep_their_windows_and_widths(tmp_path: Path) -> None:
    unlike = engine(
        "small",
        replica("n0/gpu0", share=0.5, max_concurrency=4),
        replica("n0/gpu1", max_concurrency=64),
        replica("n0/gpu2", "n0/gpu3", max_concurrency=128),
    )
    write(exported(plan(unlike)), tmp_path / "plan")
    settings = load_settings(tmp_path / "plan" / "hocket.yaml")
    small = settings.engines[0]
    assert [small.window_of(f"http://127.0.0.1:{8001 + k}") for k in range(3)] == [4, 64, 128]
    ray = yaml.safe_load(exported(plan(unlike))["ray-serve.yaml"])["applications"]
    kwargs = [one["args"]["llm_configs"][0]["engine_kwargs"] for one in ray]
    assert sorted((one["tensor_parallel_size"], one["max_num_seqs"]) for one in kwargs) == [(1, 4), (1, 64), (2, 128)]
    assert len({one["route_prefix"] for one in ray}) == 3


def test_two_nodes_are_two_profiles() -> None:
    files = exported(plan(engine("small", replica("n0/gpu0"), replica("n0/gpu1"), replica("n1/gpu0"))))
    services = yaml.safe_load(files["docker-compose.yaml"])["services"]
    assert [services[f"small-{k}"]["profiles"] for k in range(3)] == [["n0"], ["n0"], ["n1"]]
    assert [services[f"small-{k}"]["ports"] for k in range(3)] == [["8001:8000"], ["8002:8000"], ["8001:8000"]]
    urls = yaml.safe_load(files["hocket.yaml"])["engines"][0]["replicas"]
    assert urls == ["http://n0:8001", "http://n0:8002", "http://n1:8001"]
    assert "Engines ask for no key" in files["docker-compose.yaml"]


@pytest.mark.parametrize("key", [KEY, None])
def test_of_one_node_only_the_gateway_is_reached_from_elsewhere_and_only_with_a_key(key: str | None) -> None:
    """It is on the host's network, where its settings say who reaches it; loopback of a container is nobody's."""
    files = exported(plan(*ENGINES), key)
    services, settings = (yaml.safe_load(files[name]) for name in ("docker-compose.yaml", "hocket.yaml"))
    gateway = services["services"].pop("hocket")
    assert gateway["network_mode"] == "host" and "ports" not in gateway
    assert settings["listen"] == ("127.0.0.1:8080" if key is None else "0.0.0.0:8080")
    ports = [port for service in services["services"].values() for port in service["ports"]]
    assert ports == [f"127.0.0.1:{8001 + k}:8000" for k in range(4)]
    assert sorted(url for one in settings["engines"] for url in one["replicas"]) == [
        f"http://127.0.0.1:{8001 + k}" for k in range(4)
    ]


def test_what_no_pod_can_hold_is_refused() -> None:
    nodes = [{"name": n, "devices": 1, "kind": "h100", "memory_gib": 80, "domain": "d"} for n in ("n0", "n1")]
    wide = plan(engine("small", replica("n0/gpu0", "n1/gpu0")))
    with pytest.raises(InputError, match="several nodes"):
        export(wide, msgspec.convert({"nodes": nodes}, Cluster), msgspec.convert(MODELS, Models))


def test_what_an_earlier_plan_left_is_put_by_and_what_is_somebodys_own_stays(tmp_path: Path) -> None:
    files = exported(plan(*ENGINES))
    write(files, tmp_path)
    (tmp_path / "plan.json").write_text("{}")
    with (tmp_path / "hocket.yaml").open("a") as edited:
        edited.write("shutdown_s: 5\n")
    put_by(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"plan.json", *(f"{name}.old" for name in files)}
    assert (tmp_path / "hocket.yaml.old").read_text().endswith("shutdown_s: 5\n")
    put_by(tmp_path / "nowhere")
    (tmp_path / "hocket.yaml").write_text("engines: []\n")
    with pytest.raises(InputError, match=r"hocket.yaml: hocket plan did not write this.*choose another folder"):
        put_by(tmp_path)
    assert (tmp_path / "hocket.yaml").read_text() == "engines: []\n"
    (tmp_path / "hocket.yaml").unlink()
    (tmp_path / "local.yaml").mkdir()
    with pytest.raises(InputError, match=r"local.yaml: cannot be read"):
        put_by(tmp_path)


def test_all_that_is_exported_is_known_by_name_and_mark() -> None:
    files = exported(plan(*ENGINES))
    assert {*files, LOCAL} == set(NAMES)
    assert all(text.startswith(MARK) for text in files.values())
