"""Recorded jobs, driven against a live gateway: the same arrivals, dependencies, think times and token counts.

What was said is not in a trace, only how much: prompts are made of filler words, calibrated with the engine's own
count, and answers are cut to length by `max_tokens` with `ignore_eos`, which llama.cpp, vLLM and SGLang know. So a
policy that looks at `max_tokens` sees more in a replay than it did live. The clock of a job is the replay's own: it
begins when the job was to arrive and ends with its last stage.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import aiohttp

from hocket.replay.drive import Drive
from hocket.replay.line import Line, Target
from hocket.sim.driver import Outcome
from hocket.trace import Job

__all__ = ["Replay", "Target", "replay"]

CONNECT_TIMEOUT_S = 10.0


class Replay(NamedTuple):
    """What came of it."""

    outcome: Outcome
    prompt_tokens: tuple[int, int]
    "recorded, and as the engines counted what was sent; of the calls that ended"
    output_tokens: tuple[int, int]
    late_s: float
    "the most that a job began after its time: large if this machine was too slow to drive the jobs"


async def replay(jobs: Sequence[Job], target: Target, ended: Callable[[str], None] = lambda job: None) -> Replay:
    """Drive `jobs`; `ended` is told of each that is over. Raises InputError: nobody there, an unknown model."""
    headers = {"authorization": f"Bearer {target.api_key}"} if target.api_key else {}
    connector = aiohttp.TCPConnector(limit=0)  # a cap here would be a queue of its own
    patient = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S)
    async with aiohttp.ClientSession(headers=headers, connector=connector, timeout=patient) as http:
        line = Line(http, target)
        await line.check({stage.model for job in jobs for stage in job.stages if stage.model})
        began = time.monotonic() - min(job.arrival_s for job in jobs) / target.speed
        drives = [Drive(line, job, began) for job in jobs]

        async def one(drive: Drive) -> None:
            await drive.run()
            ended(drive.job.job)

        async with asyncio.TaskGroup() as group:
            for drive in drives:
                group.create_task(one(drive))
    return _result(drives)


def _result(drives: Sequence[Drive]) -> Replay:
    done = sorted((drive for drive in drives if drive.failure is None), key=lambda drive: drive.ended_s)
    outcome = Outcome(
        jct_s={drive.job.job: drive.jct_s for drive in done},
        waits_s={drive.job.job: drive.waits_s for drive in done},
        rejected={drive.job.job: drive.failure for drive in drives if drive.failure is not None},
        makespan_s=max(drive.ended_s for drive in drives),
        spans=[span for drive in drives for span in drive.spans],
    )
    calls = [call for drive in drives for call in drive.calls]
    return Replay(
        outcome,
        (sum(stage.prompt_tokens for stage, _ in calls), sum(answer.prompt_tokens for _, answer in calls)),
        (sum(stage.output_tokens for stage, _ in calls), sum(answer.output_tokens for _, answer in calls)),
        max(drive.late_s for drive in drives),
    )
