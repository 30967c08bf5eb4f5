"""The shadow report, against worlds whose truth is known: simulated engines, recorded as a gateway would."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from hocket.assembly import build
from hocket.cli import main
from hocket.core import events as ev
from hocket.core.commands import Command
from hocket.core.latency import Latency
from hocket.core.scheduler import Scheduler
from hocket.history.recorder import HistoryRecorder
from hocket.history.store import Store
from hocket.journal import JournalWriter
from hocket.shadow.estimate import estimate, intervals
from hocket.shadow.source import from_history, from_journal
from hocket.sim.driver import Simulation
from hocket.sim.experiment import Setup, scheduler_spec, simulate
from hocket.sim.model import EngineModel
from hocket.sim.workloads import generate
from hocket.trace import Job

TRUE = Latency(q0=0.02, q2=1e-4, d0=0.015, d1=0.001, d2=1e-6)
SLOTS = 4


CALM = {"chain": (100, 0.64), "planning": (100, 0.64)}
CROWDED = {"code-generation": (120, 1.92), "web-search": (20, 0.32), "llm-compiler": (60, 0.96)}
"application or mix -> how many jobs, how many a second. Many sizes; with more waiting, and long among short jobs"


@cache
def jobs(crowded: bool) -> tuple[Job, ...]:
    parts = (CROWDED if crowded else CALM).items()
    made = [job for seed, (name, (count, rate)) in enumerate(parts, 3) for job in generate(name, count, rate, seed)]
    named = [msgspec.structs.replace(job, job=f"{job.app}-{job.job}") for job in made]
    return tuple(sorted(named, key=lambda job: job.arrival_s))


def engines() -> list[EngineModel]:
    names = ("large", "small")
    return [EngineModel(name=n, models=[n], replicas=2, max_concurrency=SLOTS, latency=TRUE) for n in names]


class World:
    """A gateway before two engines, seen by a history and a journal."""

    def __init__(self, folder: Path, *, crowded: bool, observe: bool) -> None:
        self.history, self.journal = str(folder / "history.db"), folder / "journal.jsonl"
        setup = Setup(engines=engines())
        spec = msgspec.structs.replace(scheduler_spec(setup, "call-fcfs"), observe=observe)
        scheduler: Scheduler = build(spec)
        recorder = HistoryRecorder(
            Store(self.history),
            policy="observe" if observe else "call-fcfs",
            clock=lambda: 0.0,
            offset=time.time() - 3000,
        )
        writer = JournalWriter(self.journal, spec)

        def seen(event: ev.Event, commands: list[Command]) -> None:
            writer.write(event, commands)
            # a gateway does not see when an engine takes a call up that waits inside it
            if not isinstance(event, ev.CallStarted):
                recorder.seen(event, commands)

        recorder.start()
        self.truth = Simulation(jobs(crowded), engines(), scheduler, observe=seen).run()
        recorder.stop()
        writer.close()
        assert recorder.writer.lost == 0
        self.settings = folder / "hocket.yaml"
        lines = [
            f"  - {{name: {e.name}, replicas: ['http://127.0.0.1:1'], max_concurrency: {SLOTS}}}" for e in engines()
        ]
        self.settings.write_text("\n".join(["engines:", *lines]), encoding="utf-8")


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("calm"), crowded=False, observe=False)


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("crowded"), crowded=True, observe=True)


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    def report(*words: str) -> Any:
        assert main(["shadow", "--last", "2d", "--json", "-", *words]) == 0
        return json.loads(capsys.readouterr().out)

    return report


def test_the_constants_are_found_again_in_what_the_calls_took(calm: World) -> None:
    with Store(calm.history, reading=True).connect() as connection:
        past = from_history(connection, 0.0)
    assert past.policy == "call-fcfs"
    for name, replicas in intervals(past.jobs).items():
        found = estimate(name, replicas, None)
        assert found is not None
        assert found.model.replicas == 2 and SLOTS - 1 <= found.model.max_concurrency <= SLOTS
        of = found.model.latency
        assert of.q0 == pytest.approx(TRUE.q0, rel=0.4)
        assert of.q2 == pytest.approx(TRUE.q2, rel=0.15)
        assert of.d0 == pytest.approx(TRUE.d0, rel=0.1)
        assert of.d1 + 1000 * of.d2 == pytest.approx(TRUE.d1 + 1000 * TRUE.d2, rel=0.25), "they trade off"
        assert found.misfit.mean < 0.05


def test_what_was_recorded_is_what_happened_and_the_simulation_comes_close(calm: World, report: Any) -> None:
    found = report("--history", calm.history)
    recorded = found["policies"]["recorded"]
    real = sorted(calm.truth.jct_s.values())
    assert recorded["jct_s"]["mean"] == pytest.approx(sum(real) / len(real), abs=1e-4)
    assert sorted(recorded["jobs"].values()) == pytest.approx(real, abs=1e-4)
    assert recorded["wait_s"]["mean"] > 0, "hocket's own queue"
    assert abs(found["off"]["mean"]) < 0.03 and abs(found["off"]["p95"]) < 0.05 and found["off"]["job"] < 0.03
    assert found["inputs"]["as_observed"] == "call-fcfs"


def test_the_gain_that_is_promised_is_the_gain_that_is_there(crowded: World, report: Any) -> None:
    found = report("--history", crowded.history, "--config", str(crowded.settings), "--policy", "las,fcfs")
    blocks = found["policies"]
    assert list(blocks) == ["recorded", "as observed", "las", "fcfs"]
    assert abs(found["off"]["mean"]) < 0.1
    setup = Setup(engines=engines())
    mean = {p: _mean(simulate(jobs(crowded=True), setup, p).jct_s) for p in ("call-fcfs", "las")}
    promised = blocks["las"]["jct_s"]["mean"] / blocks["as observed"]["jct_s"]["mean"]
    assert promised == pytest.approx(mean["las"] / mean["call-fcfs"], abs=0.06)
    assert promised < 0.85
    assert {*blocks["las"]["by_app"]} == {*blocks["recorded"]["by_app"]}


def test_measured_engines_are_taken_as_they_are(crowded: World, report: Any, tmp_path: Path) -> None:
    file = tmp_path / "engines.yaml"
    file.write_text(yaml.safe_dump({"engines": msgspec.to_builtins(engines())}))
    found = report("--history", crowded.history, "--engines", str(file))
    assert abs(found["off"]["mean"]) < 0.01, "job by job, ties between replicas go another way"
    assert not found["fits"]


def test_a_journal_tells_the_same_as_a_history(calm: World, report: Any) -> None:
    of_journal, of_history = report("--journal", str(calm.journal)), report("--history", calm.history)
    for name in ("recorded", "as observed"):
        one, other = (found["policies"][name]["jct_s"]["mean"] for found in (of_journal, of_history))
        assert one == pytest.approx(other, rel=0.02)
    assert len(from_journal(calm.journal, 100.0).jobs) < len(from_journal(calm.journal, 1e9).jobs) == 200


def test_a_simulation_that_is_far_off_is_not_to_be_believed(crowded: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shadow", "--last", "2d", "--history", crowded.history]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "too far to believe" in told and "--config" in told, (
        "without the windows, a full engine looks like a slow one"
    )
    assert main(["shadow", "--last", "2d", "--history", crowded.history, "--config", str(crowded.settings)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "close enough to believe" in told
    assert "by_app" not in told and "web-search" in told and "estimated from" in told


def test_what_cannot_be_said_is_refused(calm: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*words: str) -> str:
        assert main(["shadow", *words]) == 2
        return capsys.readouterr().err

    assert "no job arrived in that time" in refused("--history", calm.history, "--last", "0.1s")
    assert "no history there" in refused("--history", str(tmp_path / "none.db"))
    assert "--last yesterday" in refused("--history", calm.history, "--last", "yesterday")
    assert "unknown policy" in refused("--history", calm.history, "--policy", "lass")
    file = tmp_path / "engines.yaml"
    file.write_text(yaml.safe_dump({"engines": msgspec.to_builtins(engines()[:1])}))
    assert "no engine 'small'" in refused("--history", calm.history, "--last", "2d", "--engines", str(file))


def _mean(values: dict[str, float]) -> float:
    return sum(values.values()) / len(values)
