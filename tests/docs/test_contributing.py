"""CONTRIBUTING.md's "add a policy in an hour", followed literally: its code, its row, the contract, the simulator."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hocket import policies
from hocket.policies import orderings
from tests.docs.pages import ROOT, block
from tests.policies import contract

PAGE = ROOT / "CONTRIBUTING.md"
ENGINES = """
engines:
  - {name: small, models: [small], replicas: 1, max_concurrency: 1, kv_tokens: 4096, latency: {q2: 0.001, d0: 0.01}}
"""


@pytest.fixture
def edf(monkeypatch: pytest.MonkeyPatch) -> str:
    """Steps 1 and 2: the class where the page puts it, and the row in the catalog. Gives the policy's name."""
    names: dict[str, Any] = dict(vars(orderings))
    exec(compile(block(PAGE, "policy"), str(PAGE), "exec"), names)
    row = eval(f"{{{block(PAGE, 'row')}}}", names)
    (name,) = row
    monkeypatch.setitem(policies.ORDERINGS, name, row[name])
    return name


@pytest.mark.parametrize("clause", contract.CLAUSES, ids=lambda clause: clause.__name__)
def test_the_contract_suite(edf: str, clause: Any) -> None:
    clause(policies.ORDERINGS[edf], 0)


def test_the_page_names_it_throughout_and_keeps_its_promise_of_fifteen_lines(edf: str) -> None:
    text = PAGE.read_text()
    assert f"tests/policies -k {edf}" in text
    assert f'--policy "fcfs,{edf},urgency>{edf}"' in text
    assert block(PAGE, "policy").count("\n") <= 15


def test_it_simulates(edf: str, tmp_path: Path) -> None:
    """Three jobs at once on one slot: under `edf` the nearest deadline ends first, under `fcfs` the first to arrive."""
    from hocket.cli import main

    stage = {"id": "s0", "name": "ask", "kind": "llm", "model": "small", "needs": [], "prompt_tokens": 10}
    jobs = [
        {"v": 1, "job": f"j{i}", "app": "app", "arrival_s": 0.001 * i, "stages": [{**stage, "output_tokens": 100}]}
        for i in range(4)
    ]
    for job, deadline in zip(jobs, [None, 90, 60, 30], strict=True):
        if deadline is not None:
            job["deadline_s"] = deadline
    trace, engines, out = tmp_path / "jobs.jsonl", tmp_path / "engines.yaml", tmp_path / "out.json"
    trace.write_text("".join(json.dumps(job) + "\n" for job in jobs))
    engines.write_text(ENGINES)
    command = ["simulate", str(trace), "--engines", str(engines), "--policy", f"fcfs,{edf},urgency>{edf}"]
    assert main([*command, "--processes", "1", "--json", str(out)]) == 0
    result = json.loads(out.read_text())["policies"]

    def ends(policy: str) -> list[str]:
        jct: dict[str, float] = result[policy]["jobs"]
        return sorted(jct, key=lambda job: jct[job])

    assert ends("fcfs") == ["j0", "j1", "j2", "j3"]
    assert ends(edf) == ends(f"urgency>{edf}") == ["j0", "j3", "j2", "j1"]


def test_a_policy_without_its_page_is_refused(edf: str) -> None:
    """Step 5: until the page is there, the test of the reference fails."""
    script = (
        "from hocket import policies; from hocket.policies.orderings import Fcfs; import pytest, sys\n"
        f"policies.ORDERINGS[{edf!r}] = Fcfs\n"
        "sys.exit(pytest.main(['-q', 'tests/docs/test_reference.py', '-k', 'policies_are_listed or has_a_page']))"
    )
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "2 failed" in result.stdout
