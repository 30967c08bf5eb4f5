"""`hocket plan`, from files to files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hocket.cli import main
from hocket.planner.plan import load_plan
from hocket.settings import load_settings
from hocket.trace import write_jobs
from tests.docs.pages import ROOT, block
from tests.planner.worlds import jobs_of

PAGE = ROOT / "docs/guides/plan.md"


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_jobs("jobs.jsonl", jobs_of({"rag": 1.0}, count=60))
    for name in ("apps", "cluster", "models"):
        (tmp_path / f"{name}.yaml").write_text(block(PAGE, f"{name}.yaml"))
    return tmp_path


WORDS = ["--jobs", "jobs.jsonl", "--rates", "apps.yaml", "--cluster", "cluster.yaml", "--models", "models.yaml"]


def test_it_plans_says_why_and_the_simulator_runs_the_plan(files: Path, capsys: Any) -> None:
    assert main(["plan", *WORDS, "-o", "here", "--key-digest", "a" * 64]) == 0
    exported = {"hocket.yaml", "kubernetes.yaml", "ray-serve.yaml", "docker-compose.yaml"}
    assert {file.name for file in Path("here").iterdir()} == {"plan.json", *exported}
    assert load_settings("here/hocket.yaml").tenants[0].key_sha256 == "a" * 64
    said = capsys.readouterr().out
    for told in ("generator", "Critical path", "k8s-default", "Bound:", "One more device:", "Runner-up:", "instead:"):
        assert told in said
    plan = load_plan(files / "here")
    assert plan.predicted and plan.simulated and plan.bound
    words = [
        "--plan",
        "here",
        "--models",
        "models.yaml",
        "--cluster",
        "cluster.yaml",
        "--policy",
        "fcfs",
        "--json",
        "-",
    ]
    assert main(["simulate", "jobs.jsonl", *words]) == 0
    assert len(json.loads(capsys.readouterr().out)["policies"]["fcfs"]["jobs"]) == 60


def test_baselines_and_json(files: Path, capsys: Any) -> None:
    assert main(["plan", *WORDS, "--baseline", "k8s-default", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [one["engine"] for one in told["engines"]] == ["rewriter", "reranker", "generator"]
    assert told["apps"]["rag"]["bound_mean_s"] < told["apps"]["rag"]["simulated_mean_s"]
    assert (files / "plan/plan.json").is_file()


def test_an_slo_that_nothing_holds_is_a_no(files: Path, capsys: Any) -> None:
    assert main(["plan", *WORDS, "--slo", "rag.p95=1s"]) == 1
    assert "no plan was found that holds all SLOs: rag.p95 is" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--baseline", "best"], "--baseline 'best': there is k8s-default, "),
        (["--budget", "0"], "--budget 0.0: use a number above 0"),
        (["--key-digest", "secret"], "--key-digest: must be 64 hexadecimal digits"),
        (["--slo", "rag.p95"], "--slo rag.p95: write APP.p95=30s"),
        (["--objective", "cost"], "--objective cost: "),
        (["--rates", "cluster.yaml"], "unknown field `nodes`"),
    ],
)
def test_bad_input_is_one_line(files: Path, capsys: Any, words: list[str], told: str) -> None:
    assert main(["plan", *WORDS, *words]) == 2
    said = capsys.readouterr().err
    assert told in said and said.count("\n") == 1
