"""examples/emergency: its mix, its simulation, and a tiny live run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from hocket.settings import load_settings

HERE = Path(__file__).parents[2] / "examples" / "emergency"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The example's modules, which are in no package."""
    monkeypatch.syspath_prepend(str(HERE))
    names = ("chart", "mix", "simulated")
    yield SimpleNamespace(**{name: import_module(name) for name in names})
    for name in names:
        sys.modules.pop(name)


def test_the_mix_is_the_same_each_time_and_has_all_classes(example: Any) -> None:
    jobs = example.mix.day(24.0)
    assert jobs == example.mix.day(24.0)
    assert {job.urgency for job in jobs} == set(range(5))
    assert {job.app for job in jobs} == {"triage-desk", "appointment-bot", "note-summariser", "research"}
    assert all(job.says is None for job in jobs if job.app == "triage-desk"), "its words must tell"


def test_what_callers_say_is_not_what_the_settings_teach(example: Any) -> None:
    described = load_settings(str(HERE / "hocket.yaml")).urgency.readers[0].classes
    taught = {text for one in described.values() for text in one.examples}
    assert not taught & {text for texts in example.mix.CALLERS.values() for text in texts}


def test_simulated_each_policy_does_what_it_is_there_for(example: Any, tmp_path: Path) -> None:
    settings = yaml.safe_load((HERE / "hocket.yaml").read_text(encoding="utf-8"))
    policies = {"fcfs": {"policy": "fcfs", "preemption": False}, "hocket": {}}
    policies = {name: settings | changes for name, changes in policies.items()}
    waits = example.simulated.simulated(240.0, settings["engines"][0], policies)
    assert waits["hocket"][0][0] < 0.1 * waits["fcfs"][0][0], "emergencies"
    assert waits["hocket"][4][0] > waits["fcfs"][4][0], "somebody pays"
    example.chart.draw({"simulated": waits}, tmp_path / "waits.svg")
    assert (tmp_path / "waits.svg").read_text(encoding="utf-8").count("<path") > 10


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_it_runs_live(tmp_path: Path) -> None:
    """Four gateways with real engines, a few jobs each."""
    command = [sys.executable, str(HERE / "run.py"), "--seconds", "1.5", "--simulate", "60", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    live = json.loads((tmp_path / "waits.json").read_text(encoding="utf-8"))["live"]
    assert len(live) == 4
    for calls in live.values():
        assert calls and all(0 < call["first_s"] <= call["whole_s"] for call in calls)
        assert {call["taken_for"] for call in calls if call["app"] == "research"} == {4}
    assert (tmp_path / "waits.svg").stat().st_size > 1000
