"""`hocket up` and `down`: a plan of this machine's cores, with real engines."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from hocket.cli import main
from hocket.cli.up import PID, running
from hocket.errors import InputError
from hocket.planner.export import LOCAL, export, exports_in, write
from hocket.planner.inputs import Cluster, Models
from hocket.settings import Settings, load_settings
from tests.planner.test_plan import engine, plan, replica

LATENCY = {"cpu": {1: {"q0": 0.02, "q2": 7e-3, "d0": 0.011, "d1": 1e-3}}}
SMALL = {"name": "small", "weights_gib": 0.09, "kv_bytes_per_token": 23040, "latency": LATENCY}
MODELS = {"models": [SMALL]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    cores = sorted(os.sched_getaffinity(0))
    nodes = [{"name": "here", "devices": cores[-1] + 1, "kind": "cpu", "memory_gib": 2}]
    one = engine("small", replica(f"here/gpu{cores[0]}", share=0.5, max_concurrency=2, kv_tokens=20_000))
    other = engine(
        "judge", replica(f"here/gpu{cores[-1]}", share=0.5, kv_tokens=20_000), model="small", roles=("judge",)
    )
    files = export(plan(one, other), msgspec.convert({"nodes": nodes}, Cluster), msgspec.convert(MODELS, Models))
    assert list(files) == [LOCAL]
    write(files, tmp_path / "plan")
    return tmp_path / "plan"


def test_local_settings_are_what_was_planned(folder: Path) -> None:
    settings = load_settings(folder / LOCAL)
    assert exports_in(folder) == [folder / LOCAL]
    cores = sorted(os.sched_getaffinity(0))
    told = [(e.name, e.kind, e.threads, e.cpus, e.max_concurrency, e.weights) for e in settings.engines]
    assert told == [
        ("small", "embedded", 1, [cores[0]], 2, "small"),
        ("judge", "embedded", 1, [cores[-1]], 8, "small"),
    ]
    assert [(route.stage, route.engine) for route in settings.routes] == [("judge", "judge")]


def test_shares_of_a_core_are_niceness_and_slots_are_what_the_cache_holds() -> None:
    """Linux weighs a step of niceness as 1.25: three to one is five of them."""
    nodes = {"nodes": [{"name": "here", "devices": 2, "kind": "cpu", "memory_gib": 2}]}
    engines = (
        engine("small", replica("here/gpu0", share=0.75, max_concurrency=64, kv_tokens=9000)),
        engine("judge", replica("here/gpu0", share=0.25), model="small", roles=("judge",)),
        engine("alone", replica("here/gpu1", share=0.25), model="small", roles=("write",)),
    )
    files = export(plan(*engines), msgspec.convert(nodes, Cluster), msgspec.convert(MODELS, Models))
    found = msgspec.yaml.decode(files[LOCAL], type=Settings).engines
    assert [(e.name, e.nice, e.max_concurrency) for e in found] == [("small", 0, 4), ("judge", 5, 1), ("alone", 0, 1)]


def test_models_of_a_hub_have_settings_that_run(tmp_path: Path) -> None:
    nodes = {"nodes": [{"name": "here", "devices": 2, "kind": "cpu", "memory_gib": 2}]}
    named = {"models": [SMALL | {"name": "org/small", "repository": "small"}]}
    engines = (
        engine("org/small", replica("here/gpu0", kv_tokens=20_000)),
        engine("org/small-rag-judge", replica("here/gpu1", kv_tokens=20_000), model="org/small", roles=("rag/judge",)),
    )
    write(export(plan(*engines), msgspec.convert(nodes, Cluster), msgspec.convert(named, Models)), tmp_path)
    settings = load_settings(tmp_path / LOCAL)
    told = [(one.name, one.models, one.weights) for one in settings.engines]
    assert told == [("org-small", ["org/small"], "small"), ("org-small-rag-judge", ["org/small"], "small")]
    assert [route.engine for route in settings.routes] == ["org-small-rag-judge"]


@pytest.mark.parametrize(
    ("kind", "problem"),
    [("cpu", r"cores of several nodes \(n0, n1\)"), ("h100", r"beside other devices \(cpu, h100\)")],
)
def test_cores_of_several_machines_are_not_taken_for_those_of_one(kind: str, problem: str) -> None:
    """Each of them counts its own from 0. A cluster may have more than the plan uses."""
    nodes = [{"name": f"n{k}", "devices": 1, "kind": kind if k else "cpu", "memory_gib": 2} for k in range(2)]
    latency = {"cpu": LATENCY["cpu"], "h100": LATENCY["cpu"]}
    named = msgspec.convert({"models": [SMALL | {"latency": latency}]}, Models)
    cluster = msgspec.convert({"nodes": nodes}, Cluster)
    with pytest.raises(InputError, match=problem):
        export(plan(engine("small", replica("n0/gpu0"), replica("n1/gpu0"))), cluster, named)
    assert list(export(plan(engine("small", replica("n0/gpu0"))), cluster, named)) == [LOCAL]


def test_what_runs_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`hocket up plan`, and `hocket down` with another way to say where that is."""
    (tmp_path / "plan").mkdir()
    settings = str(tmp_path.resolve() / "plan" / LOCAL)
    program = "print(flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", program, settings], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline(), "it runs, so its command line can be read"
    (tmp_path / "plan" / PID).write_text(f"{process.pid}")
    monkeypatch.chdir(tmp_path)
    try:
        for said in (tmp_path / "plan", Path("plan"), Path("plan") / ".." / "plan"):
            assert running(said) == process.pid
    finally:
        process.communicate()
    assert running(Path("plan")) is None


def call(url: str, **body: Any) -> dict[str, Any]:
    asked = {"model": "small", "max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]} | body
    headers = {"Content-Type": "application/json", "x-hocket-stage": "judge"}
    request = urllib.request.Request(f"{url}/chat/completions", json.dumps(asked).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return dict(json.load(answer))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")  # that is what `up` is for
def test_it_serves_until_it_is_taken_down(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["up", str(folder), "--port", "0"]) == 0
    try:
        found = re.search(r"http://\S+/v1", capfd.readouterr().out)
        assert found
        assert call(found.group())["usage"]["completion_tokens"] >= 1
        assert main(["up", str(folder)]) == 2
        assert "is running already" in capfd.readouterr().err
        pid = running(folder)
        assert pid is not None and pid == int((folder / PID).read_text())
    finally:
        assert main(["down", str(folder)]) == 0
    assert running(folder) is None and not (folder / PID).exists()
    assert main(["down", str(folder)]) == 1


def test_a_key_opens_a_plan_of_cores_too() -> None:
    nodes = {"nodes": [{"name": "here", "devices": 1, "kind": "cpu", "memory_gib": 2}]}
    what = plan(engine("small", replica("here/gpu0", kv_tokens=20_000)))
    for key, listens in ((None, "127.0.0.1:8080"), ("a" * 64, "0.0.0.0:8080")):
        files = export(what, msgspec.convert(nodes, Cluster), msgspec.convert(MODELS, Models), key)
        settings = yaml.safe_load(files[LOCAL])
        assert settings["listen"] == listens
        assert [one["key_sha256"] for one in settings.get("tenants", [])] == ([key] if key else [])


def test_what_cannot_run_here_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["up", str(tmp_path)]) == 2
    assert "has no local.yaml" in capsys.readouterr().err
    (tmp_path / LOCAL).write_text("listen: nowhere")
    assert main(["up", str(tmp_path)]) == 2
    assert "the gateway ended" in capsys.readouterr().err
    assert not (tmp_path / PID).exists()
    assert main(["down", str(tmp_path / LOCAL)]) == 2
    assert "not a folder" in capsys.readouterr().err
    (tmp_path / "hocket.log").unlink()
    (tmp_path / "hocket.log").mkdir()
    assert main(["up", str(tmp_path)]) == 2
    assert "hocket.log cannot be written" in capsys.readouterr().err


def test_another_users_gateway_is_not_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Signals to it are not allowed; that it runs, anybody may see."""

    def denied(pid: int, signal: int) -> None:
        raise PermissionError

    settings = str(tmp_path.resolve() / LOCAL)
    words = [sys.executable, "-c", "print(flush=True); input()", settings]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline(), "its command line is its own"
        (tmp_path / PID).write_text(f"{process.pid}\n")
        with monkeypatch.context() as patched:
            patched.setattr(os, "kill", denied)
            assert running(tmp_path) == process.pid
            assert main(["down", str(tmp_path)]) == 2
        assert "another user's" in capsys.readouterr().err and (tmp_path / PID).exists()
        process.communicate()


def test_a_number_that_another_process_got_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / PID).write_text(f"{os.getpid()}\n")
    assert running(tmp_path) is None
    assert main(["down", str(tmp_path)]) == 1
