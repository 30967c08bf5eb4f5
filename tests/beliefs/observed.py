"""Jobs as a gateway would have recorded them: simulated on an engine that they share, inferred from their times."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

from hocket.assembly import build
from hocket.core import events as ev
from hocket.core.commands import Command
from hocket.core.latency import Latency
from hocket.history.recorder import HistoryRecorder
from hocket.history.store import Store
from hocket.history.traces import to_jobs
from hocket.journal import JournalWriter
from hocket.shadow.source import from_journal
from hocket.sim.driver import Simulation
from hocket.sim.experiment import Setup, scheduler_spec
from hocket.sim.model import EngineModel
from hocket.trace import Job

ENGINE = EngineModel(
    name="all",
    models=["small", "large"],
    max_concurrency=16,
    kv_tokens=200_000,
    latency=Latency(q0=0.01, q2=1e-4, d0=0.01, d1=5e-4, d2=1e-7),
)


def record(jobs: Sequence[Job], folder: Path, policy: str = "call-fcfs") -> tuple[Path, Path]:
    """Run the jobs; the journal and the history of that. The last job arrives about now."""
    journal, history = folder / "journal.jsonl", folder / "history.db"
    spec = scheduler_spec(Setup(engines=[ENGINE]), policy)
    offset = time.time() - max(job.arrival_s for job in jobs)
    recorder = HistoryRecorder(Store(str(history)), policy=policy, clock=lambda: 0.0, offset=offset)
    writer = JournalWriter(journal, spec)

    def seen(event: ev.Event, commands: list[Command]) -> None:
        writer.write(event, commands)
        recorder.seen(event, commands)

    recorder.start()
    Simulation(jobs, [ENGINE], build(spec), observe=seen).run()
    recorder.stop()
    writer.close()
    return journal, history


def observed(jobs: Sequence[Job], folder: Path) -> list[Job]:
    """The same jobs, with the needs that their times suggest; nothing tells who revealed what."""
    journal, _ = record(jobs, folder)
    return list(to_jobs(from_journal(journal, math.inf).jobs))
