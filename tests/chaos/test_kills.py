"""benchmarks/kills.py, a few kills: what was answered is in the history, jobs go on, nothing is made twice."""

from __future__ import annotations

import os
import time
from importlib import import_module
from pathlib import Path

import aiohttp
import pytest
from msgspec import to_builtins

from tests.scripted_engine import Script, ScriptedEngine

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


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_an_answer_takes_as_long_as_the_clients_say(stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service that a job must have after a kill is known by what its engine was asked for."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    kills, engine = import_module("kills"), ScriptedEngine()
    await engine.start()
    async with aiohttp.ClientSession() as http:
        for first_s in (0.0, 0.02):
            script = Script(chunks=4, gap_s=0.01, first_s=first_s)
            body = {"stream": stream, "scripted": to_builtins(script)}
            began = time.monotonic()
            async with http.post(f"{engine.url}/v1/chat/completions", json=body) as response:
                await response.read()
            assert first_s <= kills.held_s(script, stream) <= time.monotonic() - began
            assert (kills.held_s(script, stream) > first_s) == stream
    await engine.stop()
