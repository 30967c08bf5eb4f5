"""benchmarks/urgency.py, a small version: it runs, and what it is about shows."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_benchmark_of_urgency_runs(tmp_path: Path) -> None:
    page, raw = tmp_path / "page.md", tmp_path / "raw.json"
    command = [sys.executable, str(BENCHMARKS / "urgency.py"), "--quick", "--page", str(page), "--json", str(raw)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode in (0, 1), done.stderr  # three draws are few: not all has to hold
    found = json.loads(raw.read_text(encoding="utf-8"))
    lone = found["lone"]["20"]
    urgent = {name: one["by_class_s"][0] for name, one in lone.items()}
    assert urgent["urgency>srtf, displacing"] < urgent["urgency>srtf"] < 0.5 * urgent["fcfs"]
    assert urgent["default"] < 1.05 * urgent["urgency>srtf"]
    assert lone["srtf"]["mean_s"] < lone["default"]["mean_s"] < lone["urgency>srtf"]["mean_s"] < lone["fcfs"]["mean_s"]
    assert page.read_text(encoding="utf-8").startswith("# Urgency\n")


@pytest.mark.parametrize("policy", ["urgency>oracle", "urgency:strict=0:within_s=300>oracle"])
def test_an_event_compares_few_keys_however_many_calls_wait(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times the calls: a few comparisons more, not ten times as many."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    counting = import_module("_urgency_count")
    small, large = counting.count(policy, 300), counting.count(policy, 3000)
    for event in counting.EVENTS:
        assert large.mean[event] < small.mean[event] + 12.0, event
    assert large.mean["decision"] > 5.0, "nothing was counted"
