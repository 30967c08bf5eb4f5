"""`hocket tenants`, on a world whose truth is known: two engines, a greedy tenant and a light one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hocket.assembly import build
from hocket.cli import main
from hocket.core.latency import Latency
from hocket.journal import JournalWriter
from hocket.sim.driver import Simulation
from hocket.sim.experiment import Setup, scheduler_spec
from hocket.sim.model import EngineModel
from hocket.trace import Job, Stage

SLOTS = 4
CALL_S = 10.0
"an answer of 100 tokens, whatever else runs"


def engines() -> list[EngineModel]:
    latency = Latency(d0=CALL_S / 99)
    return [EngineModel(name=n, models=[n], max_concurrency=SLOTS, latency=latency) for n in ("large", "small")]


def job(name: str, tenant: str, at: float, *models: str) -> Job:
    """One call after the other."""
    stages = [
        Stage(id=f"s{n}", name=f"s{n}", kind="llm", model=model, output_tokens=100, needs=[f"s{n - 1}"] if n else [])
        for n, model in enumerate(models)
    ]
    return Job(job=name, app="app", tenant=tenant, arrival_s=at, stages=stages)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Greedy fills `large` for 40 s with 16 calls at once, and light comes at 1 s with one job of two calls."""
    folder = tmp_path_factory.mktemp("tenants")
    jobs = [*(job(f"g{n}", "greedy", 0.0, "large") for n in range(16)), job("l", "light", 1.0, "large", "small")]
    setup = Setup(engines=engines())
    spec = scheduler_spec(setup, "fcfs")
    with_journal = JournalWriter(folder / "journal.jsonl", spec)
    Simulation(jobs, engines(), build(spec), observe=with_journal.write).run()
    with_journal.close()
    text = msgspec.yaml.encode({"engines": msgspec.to_builtins(engines())})
    (folder / "engines.yaml").write_bytes(text)
    (folder / "hocket.yaml").write_text(
        "engines:\n" + "".join(f"  - {{name: {n}, replicas: ['http://127.0.0.1:1']}}\n" for n in ("large", "small"))
    )
    return folder


def asked(world: Path, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
    where = ["--journal", str(world / "journal.jsonl"), "--engines", str(world / "engines.yaml")]
    assert main(["tenants", *where, "--last", "2d", "--json", "-", *more]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_it_tells_who_has_what_and_who_waits_for_whom(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The light job waits for 40 s for what greedy holds; it runs for 10 s on each engine, 60 s after greedy began."""
    found = asked(world, capsys)
    greedy, light = found["tenants"]["greedy"], found["tenants"]["light"]
    assert found["inputs"]["policy"] == "fcfs"
    assert (greedy["dominant"], greedy["jobs"], light["jobs"]) == ("large", 16, 1)
    # 160 and 10 of the 4 x 60 slot-seconds of an engine
    assert greedy["shares"] == pytest.approx({"large": 160 / 240, "small": 0.0}, abs=0.01)
    assert light["shares"] == pytest.approx({"large": 10 / 240, "small": 10 / 240}, abs=0.01)
    assert light["waits_for"] == pytest.approx({"greedy": 1.0}, abs=0.01)
    assert greedy["waits_for"] == pytest.approx({"greedy": 1.0}, abs=0.01)
    assert light["wait_s"] == pytest.approx(39.0 / 2, abs=0.2)
    assert (light["jct_s"], light["alone_s"]) == pytest.approx((59.0, 20.0), abs=0.2)
    assert light["slowdown"] == pytest.approx(59 / 20, abs=0.02)
    # 16 calls of 10 s on 2 slots instead of 4
    assert greedy["slowdown"] == pytest.approx(sum([10, 20, 30, 40] * 4) / 16 / 45, rel=0.15)


def test_under_fair_share_the_light_one_is_not_held_up(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    light = asked(world, capsys, "--policy", "default")["tenants"]["light"]
    assert light["slowdown"] < 1.5


def test_it_prints_a_table(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--journal", str(world / "journal.jsonl"), "--engines", str(world / "engines.yaml")]
    assert main(["tenants", *where, "--last", "2d"]) == 0
    out = capsys.readouterr().out
    assert "greedy" in out and "light" in out and "slowdown" in out.lower()


@pytest.mark.parametrize(
    ("words", "told"),
    [(["--policy", "none"], "unknown policy 'none'"), (["--last", "soon"], "--last soon: write 30m")],
)
def test_bad_input_is_one_line(world: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str) -> None:
    assert main(["tenants", "--journal", str(world / "journal.jsonl"), *words]) == 2
    assert told in capsys.readouterr().err
