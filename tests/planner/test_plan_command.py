"""`hocket plan`, from files to files."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from hocket.cli import main
from hocket.planner.plan import load_plan
from hocket.settings import load_settings
from hocket.trace import PROBE, write_jobs
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
    assert main(["plan", *WORDS, "-o", "here", "--key-digest", "a" * 64, "--budget", "6"]) == 0
    exported = {"hocket.yaml", "kubernetes.yaml", "ray-serve.yaml", "docker-compose.yaml"}
    assert {file.name for file in Path("here").iterdir()} == {"plan.json", "plan.svg", *exported}
    assert load_settings("here/hocket.yaml").tenants[0].key_sha256 == "a" * 64
    said = capsys.readouterr().out
    for told in ("generator", "Critical path", "k8s-default", "Bound:", "One more device:", "Runner-up:", "instead:"):
        assert told in said
    plan = load_plan(files / "here")
    assert plan.predicted and plan.simulated and plan.bound
    assert plan.demand is not None and plan.demand.apps["rag"].per_s == 1.5
    assert {role.name for role in plan.demand.roles} == {"rag/rewrite", "rag/rerank", "rag/answer"}
    ET.fromstring(Path("here/plan.svg").read_text())
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


@pytest.mark.parametrize(
    ("apps", "told"),
    [
        ("apps: []", "`apps`: empty; list at least one"),
        ("apps: [{name: rag, per_s: .inf}]", "apps[0].per_s: Expected `float` <="),
        ("apps: [{name: rag, per_s: .nan}]", "apps[0].per_s: Expected `float` > 0.0"),
        ("apps: [{name: rag, per_s: 1, p95: 3}]", "unknown field `p95`"),
        ("apps: [{name: rag, per_s: 1}, {name: rag, per_s: 2}]", "'rag' is there already"),
        ("apps: [{name: rug, per_s: 1}]", "no job of 'rug' is recorded; there are jobs of rag"),
        ("apps: [{name: rag, per_s: 1e6}]", "the rates are too high for this cluster"),
    ],
)
def test_bad_rates_are_told_and_no_plan_is_written(files: Path, capsys: Any, apps: str, told: str) -> None:
    (files / "apps.yaml").write_text(apps)
    assert main(["plan", *WORDS, "--budget", "1"]) == 2
    said = capsys.readouterr().err
    assert told in said and said.count("\n") == 1 and not Path("plan").exists()


def test_a_plan_without_headroom_says_so(files: Path, capsys: Any) -> None:
    assert main(["plan", *WORDS, "--budget", "1", "--headroom", "50", "--json"]) == 0
    assert "carries 50 times the rates" in capsys.readouterr().err
    assert load_plan("plan").engines


def test_baselines_and_json(files: Path, capsys: Any) -> None:
    assert main(["plan", *WORDS, "--baseline", "k8s-default", "--json", "--budget", "2"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [one["engine"] for one in told["engines"]] == ["rewriter", "reranker", "generator"]
    assert told["apps"]["rag"]["bound_mean_s"] < told["apps"]["rag"]["simulated_mean_s"]
    assert (files / "plan/plan.json").is_file()


def test_settings_of_ones_own_are_not_written_over(files: Path, capsys: Any) -> None:
    (files / "hocket.yaml").write_text("engines: []\n")
    assert main(["plan", *WORDS, "-o", ".", "--budget", "1"]) == 2
    assert "hocket.yaml: hocket plan did not write this" in capsys.readouterr().err
    assert (files / "hocket.yaml").read_text() == "engines: []\n" and not (files / "plan.json").exists()


def test_an_slo_that_nothing_holds_is_a_no(files: Path, capsys: Any) -> None:
    assert main(["plan", *WORDS, "--slo", "rag.p95=1s", "--budget", "1"]) == 1
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
        (["--history"], "--jobs FILE or --history [URL]: give one of them"),
        (["--since", "1d"], "--since and --config go with --history"),
        (["--worth", "0"], "--worth 0.0: use a number above 0"),
        (["--against", "nowhere.json"], "nowhere.json: cannot be read"),
        (["--against", "plan/plan.json"], "--output plan: holds the plan that runs"),
        (["--against", "apps.yaml", "-o", "next"], "apps.yaml: not a plan"),
    ],
)
def test_bad_input_is_one_line(files: Path, capsys: Any, words: list[str], told: str) -> None:
    assert main(["plan", *WORDS, *words]) == 2
    said = capsys.readouterr().err
    assert told in said and said.count("\n") == 1


# ---------------------------------------------------------------- again, from a live gateway's history


@pytest.fixture
def history(files: Path) -> Path:
    """A history of 60 jobs of one application, in 30 s of its gateway."""
    assert main(["import", "jobs.jsonl", "--history", "history.db"]) == 0
    with sqlite3.connect("history.db") as database:
        ((first, last),) = database.execute("SELECT min(arrived_at), max(arrived_at) FROM jobs").fetchall()
        life = ("gateway", last - 30.0, last)
        database.execute("UPDATE runs SET kind = ?, started_at = ?, seen_at = ?", life)
        squeezed = f"{last} - 30.0 * ({last} - arrived_at) / {last - first}"
        database.execute(f"UPDATE jobs SET arrived_at = {squeezed}")
    return files / "history.db"


WITHOUT = WORDS[4:]


def test_jobs_and_rates_of_the_history(history: Path, capsys: Any) -> None:
    assert main(["plan", "--history", str(history), *WITHOUT, "--budget", "1"]) == 0
    told = load_plan("plan").demand
    assert told is not None and told.apps["rag"].per_s == pytest.approx(2.0, rel=0.01)
    assert main(["plan", "--history", str(history), "--rates", "apps.yaml", *WITHOUT, "--budget", "1"]) == 0
    told = load_plan("plan").demand
    assert told is not None and told.apps["rag"].per_s == 1.5
    capsys.readouterr()
    assert main(["plan", "--history", str(history), "--since", "2100-01-01", *WITHOUT]) == 2
    assert "no job that ended and called a model" in capsys.readouterr().err
    assert main(["plan", *WITHOUT]) == 2
    assert "give one of them" in capsys.readouterr().err
    assert main(["plan", "--jobs", "jobs.jsonl", *WITHOUT]) == 2
    assert "--rates FILE: needed with --jobs" in capsys.readouterr().err
    assert main(["plan", "--history", "nowhere.db", *WITHOUT]) == 2
    assert "no history there" in capsys.readouterr().err


def test_jobs_that_call_no_model_are_among_those_that_arrive(history: Path, capsys: Any) -> None:
    """Half of the jobs are answered by a tool: the models do half as much for each that arrives."""
    tool = {"id": "0", "name": "look", "kind": "tool", "duration_s": 0.1}
    words = [*WITHOUT, "--budget", "1", "--baseline", "k8s-default"]
    assert main(["plan", "--history", str(history), *words]) == 0
    before = load_plan("plan").demand
    jobs = [{"v": 1, "job": f"t{number}", "app": "rag", "stages": [tool]} for number in range(60)]
    Path("tools.jsonl").write_text("".join(json.dumps(job) + "\n" for job in jobs))
    assert main(["import", "tools.jsonl", "--history", str(history)]) == 0
    assert main(["plan", "--history", str(history), *words]) == 0
    told = load_plan("plan").demand
    assert before is not None and told is not None
    assert told.roles[0].calls == pytest.approx(before.roles[0].calls / 2)


def test_probes_of_replays_are_no_application(history: Path, capsys: Any) -> None:
    """They are in the history, as what they are, and nobody's work."""
    probe = {"id": "0", "name": "s", "kind": "llm", "model": "unlisted", "prompt_tokens": 9, "output_tokens": 1}
    Path("probe.jsonl").write_text(json.dumps({"v": 1, "job": "p", "app": PROBE, "stages": [probe]}) + "\n")
    assert main(["import", "probe.jsonl", "--history", str(history)]) == 0
    capsys.readouterr()
    assert main(["plan", "--history", str(history), *WITHOUT, "--budget", "1", "--baseline", "k8s-default"]) == 0
    told = load_plan("plan").demand
    assert told is not None and list(told.apps) == ["rag"] and not capsys.readouterr().err


def test_against_what_runs(files: Path, capsys: Any) -> None:
    default = [*WORDS, "--baseline", "k8s-default", "--budget", "2"]
    assert main(["plan", *default, "-o", "runs"]) == 0
    before = Path("runs/plan.json").read_bytes()
    capsys.readouterr()
    assert main(["plan", *WORDS, "--against", "runs", "-o", "next", "--json", "--budget", "2"]) == 0
    told = json.loads(capsys.readouterr().out)["against"]
    assert told["worth"] and told["simulated"]["gain"] > 0.05 and told["changes"]
    assert main(["plan", *default, "--against", "next/plan.json", "-o", "third"]) == 1
    said = capsys.readouterr().out
    assert "Not worth it: keep what runs" in said and "Written to" not in said
    assert not Path("third").exists() and Path("runs/plan.json").read_bytes() == before
