"""`hocket simulate`: its figures, its pictures, its refusals."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from hocket.assembly import build
from hocket.cli import main
from hocket.journal import JournalWriter
from hocket.policies.orderings import Las
from hocket.sim.compare import paired
from hocket.sim.driver import Simulation
from hocket.sim.experiment import capacity, draw, load_setup, scaled, scheduler_spec
from hocket.trace import read_jobs

ENGINES = """\
engines:
  - name: small
    models: [small]
    replicas: 2
    max_concurrency: 4
    kv_tokens: 6000
    latency: {q0: 0.01, q2: 1.0e-4, d0: 0.01, d1: 1.0e-3, d2: 1.0e-7}
  - name: large
    models: [large]
    max_concurrency: 8
    kv_tokens: 20000
    latency: {q0: 0.02, q2: 2.0e-4, d0: 0.02, d1: 1.0e-3, d2: 1.0e-7}
    decode: slowest
    prefix_cache: true
"""


@pytest.fixture
def inputs(tmp_path: Path) -> tuple[str, str]:
    jobs, engines = tmp_path / "jobs.jsonl", tmp_path / "engines.yaml"
    assert main(["workload", "mixed", "--jobs", "60", "--rate", "1", "--seed", "3", "-o", str(jobs)]) == 0
    engines.write_text(ENGINES)
    return str(jobs), str(engines)


def simulate(inputs: tuple[str, str], out: Path, *more: str) -> dict[str, Any]:
    assert main(["simulate", inputs[0], "--engines", inputs[1], "--json", str(out), *more]) == 0
    result: dict[str, Any] = json.loads(out.read_text())
    return result


def test_writes_what_the_design_says(inputs: tuple[str, str], tmp_path: Path, capsys: Any) -> None:
    result = simulate(inputs, tmp_path / "o.json", "--policy", "call-fcfs,urgency>las", "--load", "1.1")
    assert list(result["policies"]) == ["call-fcfs", "urgency>las"]
    block = result["policies"]["urgency>las"]
    for part in (block, *block["by_urgency"].values(), *block["by_tenant"].values(), *block["by_app"].values()):
        for name in ("jct_s", "wait_s"):
            assert set(part[name]) == {"mean", "p50", "p95", "p99"}
    assert len(block["jobs"]) == 60
    assert block["jct_s"]["mean"] == pytest.approx(sum(block["jobs"].values()) / 60)
    assert block["wall_s"] > 0
    assert block["rejected"] == {}
    assert result["inputs"]["load"] == 1.1
    table = capsys.readouterr().out
    assert "urgency>las" in table and "to the first" in table


def test_seeds_are_pooled_and_the_same_for_all_policies(inputs: tuple[str, str], tmp_path: Path) -> None:
    result = simulate(inputs, tmp_path / "o.json", "--policy", "fcfs,oracle", "--seeds", "3")
    assert [run["seed"] for run in result["runs"]] == [0, 1, 2]
    for policy in ("fcfs", "oracle"):
        pooled = result["policies"][policy]
        runs = [run["policies"][policy]["jobs"] for run in result["runs"]]
        assert pooled["jobs"] == {f"{seed}:{job}": jct for seed, jobs in enumerate(runs) for job, jct in jobs.items()}
        assert pooled["jct_s"]["mean"] == pytest.approx(sum(pooled["jobs"].values()) / 180)
    first, second = (set(run["policies"]["fcfs"]["jobs"]) for run in result["runs"][:2])
    assert first != second
    assert all(set(r["policies"]["fcfs"]["jobs"]) == set(r["policies"]["oracle"]["jobs"]) for r in result["runs"])


@pytest.mark.parametrize("processes", ["1", "2"])
def test_the_same_bytes_whatever_the_processes(inputs: tuple[str, str], tmp_path: Path, processes: str) -> None:
    texts = []
    for name, count in {"a.json": "1", "b.json": processes}.items():
        simulate(inputs, tmp_path / name, "--policy", "fcfs,las", "--seeds", "2", "--processes", count)
        texts.append(re.sub(r'"wall_s": [\d.e-]+', "", (tmp_path / name).read_text()))
    assert texts[0] == texts[1]


def test_load_is_a_multiple_of_what_the_engines_serve(inputs: tuple[str, str]) -> None:
    jobs, setup = read_jobs(inputs[0]), load_setup(inputs[1])
    most = capacity(jobs, setup)
    at_half = scaled(jobs, 0.5 * most)
    assert (len(jobs) - 1) / (at_half[-1].arrival_s - at_half[0].arrival_s) == pytest.approx(0.5 * most)
    assert [job.stages for job in at_half] == [job.stages for job in jobs]


def test_draws_resample_whole_jobs(inputs: tuple[str, str]) -> None:
    jobs = read_jobs(inputs[0])
    drawn = draw(jobs, 5)
    assert drawn == draw(jobs, 5) != draw(jobs, 6)
    assert len({job.job for job in drawn}) == len(drawn) == len(jobs)
    whole = {job.job: job.stages for job in jobs}
    assert all(job.stages == whole[job.job.split("#")[0]] for job in drawn)
    assert sorted(drawn, key=lambda job: job.arrival_s) == drawn


def test_draws(inputs: tuple[str, str], tmp_path: Path, capsys: Any) -> None:
    png, chrome = tmp_path / "g.png", tmp_path / "c.json"
    stages = {job.job: job.stages for job in read_jobs(inputs[0])}
    small, other = sorted(stages, key=lambda job: len(stages[job]))[:2]
    pictures = ["--gantt", f"{small},{other}", "--gantt-png", str(png), "--chrome-trace", str(chrome)]
    simulate(inputs, tmp_path / "o.json", "--policy", "fcfs,las", *pictures)
    text = capsys.readouterr().out
    assert len(re.findall(rf"^({small}|{other}) ", text, re.MULTILINE)) == 2 * len(stages[small] + stages[other])
    assert png.read_bytes().startswith(b"\x89PNG")
    trace = json.loads(chrome.read_text())["traceEvents"]
    names = {event["args"]["name"] for event in trace if event["name"] == "process_name"}
    assert names == {f"{job} ({policy})" for job in (small, other) for policy in ("fcfs", "las")}
    assert {e["name"] for e in trace if e["ph"] == "X"} <= {"queued", "sent", "prefill", "decode", "tool"}
    assert all(event["dur"] > 0 for event in trace if event["ph"] == "X")


def test_journal(inputs: tuple[str, str], tmp_path: Path, capsys: Any) -> None:
    jobs, setup = read_jobs(inputs[0]), load_setup(inputs[1])
    spec = scheduler_spec(setup, "las")
    path = tmp_path / "journal.jsonl"
    journal = JournalWriter(path, spec)
    Simulation(jobs, setup.engines, build(spec), observe=journal.write).run()
    journal.close()
    assert main(["simulate", "--journal", str(path)]) == 0

    changed = path.read_text().replace('"replica":"small/0"', '"replica":"small/1"', 1)
    path.write_text(changed)
    assert main(["simulate", "--journal", str(path)]) == 1
    assert "small/1" in capsys.readouterr().out
    path.write_text("{}\n")
    assert main(["simulate", "--journal", str(path)]) == 2


def test_ratios_are_paired_over_the_draws(inputs: tuple[str, str], tmp_path: Path, capsys: Any) -> None:
    options = "--policy", "fcfs,las,oracle", "--load", "1.1"
    result = simulate(inputs, tmp_path / "o.json", *options, "--seeds", "4")
    for to in ("fcfs", "oracle"):
        means = [{name: run["policies"][name]["jct_s"]["mean"] for name in ("las", to)} for run in result["runs"]]
        expected = paired([each["las"] / each[to] for each in means])
        assert list(result["policies"]["las"]["ratios"][to].values()) == pytest.approx(list(expected))
    assert result["policies"]["fcfs"]["ratios"]["fcfs"] == {"ratio": 1.0, "low": 1.0, "high": 1.0}
    assert "ratios" not in result["runs"][0]["policies"]["las"]
    table = capsys.readouterr().out
    assert "to oracle" in table and "±" in table

    one = simulate(inputs, tmp_path / "o.json", *options)["policies"]
    assert one["las"]["ratios"]["fcfs"]["low"] is None
    assert one["las"]["ratios"]["fcfs"]["ratio"] == pytest.approx(
        one["las"]["jct_s"]["mean"] / one["fcfs"]["jct_s"]["mean"]
    )
    assert "±" not in capsys.readouterr().out


def test_learns_from_other_jobs(inputs: tuple[str, str], tmp_path: Path, capsys: Any) -> None:
    """What is learned from a trace is what `hocket learn` writes; jobs that are simulated too are left out of it."""
    earlier, folder = tmp_path / "earlier.jsonl", tmp_path / "profiles"
    main(["workload", "mixed", "--jobs", "60", "--rate", "1", "--seed", "4", "-o", str(earlier)])
    assert main(["learn", "--from", str(earlier), "-o", str(folder)]) == 0
    options = "--policy", "srtf", "--load", "1.2"
    new = simulate(inputs, tmp_path / "o.json", *options)["policies"]["srtf"]["jobs"]
    learned = simulate(inputs, tmp_path / "o.json", *options, "--learn-from", str(earlier))
    read = simulate(inputs, tmp_path / "o.json", *options, "--profiles", str(folder))
    assert learned["policies"]["srtf"]["jobs"] == read["policies"]["srtf"]["jobs"] != new
    assert learned["inputs"]["learn_from"] == str(earlier) and read["inputs"]["profiles"] == str(folder)

    capsys.readouterr()
    with earlier.open("a") as file:
        for number, line in enumerate(Path(inputs[0]).read_text().splitlines()):
            file.write(json.dumps(json.loads(line) | {"job": f"again{number}"}) + "\n")
    leaky = simulate(inputs, tmp_path / "o.json", *options, "--learn-from", str(earlier))
    assert leaky["policies"]["srtf"]["jobs"] == learned["policies"]["srtf"]["jobs"]
    assert "60 of 120 jobs are to be simulated, too" in capsys.readouterr().err


def test_plots(inputs: tuple[str, str], tmp_path: Path) -> None:
    simulate(inputs, tmp_path / "o.json", "--policy", "fcfs,las", "--plot", str(tmp_path / "p.png"))
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_a_policy_that_raises_is_told(inputs: tuple[str, str], tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    def key(self: Las, call: Any, view: Any) -> tuple[float]:
        raise RuntimeError("no idea")

    monkeypatch.setattr(Las, "key", key)
    command = [
        "simulate",
        inputs[0],
        "--engines",
        inputs[1],
        "--policy",
        "fcfs,las",
        "--json",
        str(tmp_path / "o.json"),
    ]
    assert main([*command, "--processes", "1"]) == 1
    assert "las: the policy raised RuntimeError: no idea" in capsys.readouterr().err
    blocks = json.loads((tmp_path / "o.json").read_text())["policies"]
    assert blocks["las"]["policy_error"] == "RuntimeError: no idea"
    assert "policy_error" not in blocks["fcfs"]


BAD = {
    "unknown policy": (["--policy", "nope"], ENGINES, "unknown policy 'nope'"),
    "policy twice": (["--policy", "las,las"], ENGINES, "'las' is there twice"),
    "bad nesting": (["--policy", "las>urgency"], ENGINES, "cannot follow"),
    "load": (["--load", "-1"], ENGINES, "--load -1.0"),
    "load is no number": (["--load", "nan"], ENGINES, "--load nan"),
    "seeds": (["--seeds", "0"], ENGINES, "--seeds 0"),
    "two sources": (["--learn-from", "a", "--profiles", "b"], ENGINES, "give one of them"),
    "nothing to learn from": (["--learn-from", "nowhere.jsonl"], ENGINES, "nowhere.jsonl: cannot be read"),
    "no profiles": (["--profiles", "/nonexistent"], ENGINES, "/nonexistent: cannot be read"),
    "nowhere to draw": (["--plot", "/nonexistent/p.png"], ENGINES, "cannot be written"),
    "declared": (["--visibility", "declared"], ENGINES, "not yet"),
    "unknown job": (["--gantt", "j999"], ENGINES, "no job 'j999'"),
    "no engines": ([], "engines: []\n", "engines.yaml:1: `engines`: empty"),
    "unknown key": ([], ENGINES.replace("replicas: 2", "replica: 2"), "engines.yaml:4: engines[0]"),
    "negative constant": ([], ENGINES.replace("d0: 0.02", "d0: -1"), "engines.yaml:12: engines[1]: `latency.d0`: -1.0"),
    "constants all 0": ([], re.sub(r"latency: .*", "latency: {}", ENGINES), "an engine that takes no time"),
    "no replica": ([], ENGINES.replace("replicas: 2", "replicas: 0"), "engines.yaml:4: engines[0]: `replicas`: 0"),
    "twice": (
        [],
        ENGINES.replace("name: large", "name: small"),
        "engines.yaml:8: `engines[1].name`: 'small' is there twice",
    ),
    "unknown route": ([], ENGINES + "routes: [{engine: x}]\n", "`routes[0].engine`: no engine 'x'"),
    "no weight": ([], ENGINES + "tenants: [{name: a, weight: 0}]\n", "`tenants[0].weight`: 0.0"),
    "share above 1": ([], ENGINES + "tenants: [{name: a, urgent_share: 2}]\n", "`tenants[0].urgent_share`: 2.0"),
    "no burst": ([], ENGINES + "tenants: [{name: a, urgent_burst_s: 0}]\n", "`tenants[0].urgent_burst_s`: 0.0"),
    "too few places": ([], ENGINES + "sharing: {placements: []}\n", "`sharing.placements`: 0 for 3 replicas"),
    "nowhere to write": (["--json", "/nonexistent/o.json"], ENGINES, "cannot be written"),
}


@pytest.mark.parametrize(("more", "engines", "words"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_line(inputs: tuple[str, str], more: list[str], engines: str, words: str, capsys: Any) -> None:
    Path(inputs[1]).write_text(engines)
    assert main(["simulate", inputs[0], "--engines", inputs[1], *more]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_a_run_that_goes_well_says_nothing_on_standard_error(
    inputs: tuple[str, str], tmp_path: Path, capsys: Any
) -> None:
    simulate(inputs, tmp_path / "o.json", "--policy", "fcfs")
    assert capsys.readouterr().err == ""


def test_refuses_a_bad_trace_and_a_missing_file(inputs: tuple[str, str], capsys: Any) -> None:
    Path(inputs[0]).write_text('{"v":1,"job":"j","app":"a","stages":[]}\n')
    assert main(["simulate", inputs[0], "--engines", inputs[1]]) == 2
    assert "jobs.jsonl:1: stages is empty" in capsys.readouterr().err
    assert main(["simulate", "/nonexistent.jsonl", "--engines", inputs[1]]) == 2
    assert main(["simulate", inputs[0]]) == 2


def test_all_at_once_has_no_rate_to_scale(inputs: tuple[str, str], tmp_path: Path, capsys: Any) -> None:
    lines = [json.loads(line) | {"arrival_s": 0} for line in Path(inputs[0]).read_text().splitlines()]
    Path(inputs[0]).write_text("".join(json.dumps(line) + "\n" for line in lines))
    simulate(inputs, tmp_path / "o.json", "--policy", "fcfs", "--seeds", "2")
    assert main(["simulate", inputs[0], "--engines", inputs[1], "--load", "1"]) == 2
    assert "no rate to scale" in capsys.readouterr().err
