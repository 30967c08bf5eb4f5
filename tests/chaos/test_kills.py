"""benchmarks/kills.py, a few kills: what was answered is in the history, jobs go on, nothing is made twice."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
KILLS = int(os.environ.get("HOCKET_KILLS", "4"))
SEED = int(os.environ.get("HOCKET_CHAOS_SEED", "1"))


@pytest.mark.slow
@pytest.mark.timeout(60 + 20 * KILLS)
async def test_killed_under_load_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    kills = import_module("kills")
    monkeypatch.setattr(kills, "MARGIN_S", 1.5)
    rounds, wrong = await kills.run(tmp_path, KILLS, SEED)
    assert not wrong
    # a machine that takes so long to start a process, because it runs other tests as well, writes late, too
    assert not [line for found in rounds if found.ready_s < 2 * kills.READY_S for line in found.lost]
    assert sum(found.answers for found in rounds) > 50 * KILLS, "hardly any load"
    assert sum(found.resumed for found in rounds) > 0, "no job went on"
    log = (tmp_path / "log").read_text(encoding="utf-8")
    assert "Traceback" not in log, log
