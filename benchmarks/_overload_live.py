"""The benchmark of overload, live: a gateway and an engine, each in a process of its own, and clients that give up."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL, PIPE, Process, create_subprocess_exec
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import aiohttp
import msgspec
from _overload_jobs import PATIENCE_S, SLOTS, WAIT_S, tokens

from hocket.trace import Job, Stage

ROOT = Path(__file__).resolve().parent.parent
WARM_S = 10.0
"before anything is counted"
RETRIES = 2
"of a client that is refused, as the official ones have it"
PAD = "x" * 16_384
"in each request, so that those that wait take memory"


class Seen(msgspec.Struct):
    """What clients saw of one run."""

    offered: int = 0
    good: list[float] = []
    "tokens of each job that was answered in full, in the time that counts"
    urgent_s: list[float] = []
    "from the request to the answer, of class 0"
    refused: int = 0
    given_up: int = 0
    broken: int = 0
    "jobs that were let in, and of which a later call was refused or failed"
    after_s: list[float] = []
    "`Retry-After` of refusals"
    peak_mib: float = 0.0
    "of the gateway's memory"


class RefusedError(Exception):
    """A call was answered with an error."""

    def __init__(self, status: int, after_s: float) -> None:
        super().__init__(status)
        self.status, self.after_s = status, after_s


class Stand:
    """`hocket serve` in front of one shaped engine."""

    def __init__(self, limited: bool) -> None:
        self._limits = f"limits: {{wait_s: {WAIT_S}}}\n" if limited else ""
        self._folder = tempfile.TemporaryDirectory()
        self._processes: list[Process] = []
        self.http: aiohttp.ClientSession
        self.url = ""

    async def __aenter__(self) -> Self:
        engine = await create_subprocess_exec(
            *(sys.executable, "-u", str(ROOT / "tests" / "shaped_engine.py"), "--shape", "narrow"), stdout=PIPE
        )
        assert engine.stdout is not None
        upstream = (await engine.stdout.readline()).decode().strip()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = "{}:{}".format(*probe.getsockname())
        self.url = f"http://{address}"
        file = Path(self._folder.name) / "hocket.yaml"
        file.write_text(
            f"listen: {address}\nhistory: off\n{self._limits}engines:\n"
            f"  - {{name: m, kind: vllm, models: [m], replicas: ['{upstream}'], max_concurrency: {SLOTS}}}\n"
        )
        serve = "import sys; from hocket.cli import main; sys.exit(main())"
        gateway = await create_subprocess_exec(
            *(sys.executable, "-c", serve, "serve", "--config", str(file)), stdin=DEVNULL, stdout=DEVNULL
        )
        self._processes = [gateway, engine]
        self.http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        async with asyncio.timeout(60):
            while True:
                try:
                    async with self.http.get(f"{self.url}/ready") as answer:
                        if answer.status == 200:
                            return self
                except aiohttp.ClientError:
                    pass  # not listening yet
                await asyncio.sleep(0.1)

    async def __aexit__(self, *_: object) -> None:
        await self.http.close()
        for process in self._processes:
            process.send_signal(signal.SIGTERM)
        for process in self._processes:
            try:
                await asyncio.wait_for(process.wait(), 10)
            except TimeoutError:
                process.kill()
        self._folder.cleanup()

    @property
    def peak_mib(self) -> float:
        """The most memory that the gateway had."""
        status = Path(f"/proc/{self._processes[0].pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found is not None
        return int(found.group(1)) / 1024

    async def call(self, job: Job, stage: Stage) -> None:
        """One call, until it is answered or its client gives up. Raises RefusedError, TimeoutError."""
        headers = {"x-hocket-job": job.job, "x-hocket-app": job.app, "x-hocket-stage": stage.name}
        body = {
            "model": "m",
            "max_tokens": stage.output_tokens,
            "messages": [{"role": "user", "content": f"{job.job} {stage.id} {PAD}"}],
        }
        async with (
            asyncio.timeout(PATIENCE_S),
            self.http.post(
                f"{self.url}/v1/chat/completions",
                json=body,
                headers={**headers, "x-hocket-urgency": str(job.urgency)},
            ) as answer,
        ):
            await answer.read()
            if answer.status != 200:
                raise RefusedError(answer.status, float(answer.headers.get("Retry-After", "nan")))

    async def close(self, job: Job) -> None:
        """No further call will come."""
        async with self.http.delete(f"{self.url}/v1/jobs/{job.job}") as answer:
            await answer.read()


async def serve(stand: Stand, job: Job, seen: Seen, counts: tuple[float, float], retries: int) -> None:
    """One job, as its client sees it. `counts`: from when until when what ends is counted (time.monotonic())."""
    began = time.monotonic()
    try:
        if not await _is_let_in(stand, job, seen, retries):
            return
        await _go_on(stand, job)
    except* TimeoutError:
        seen.given_up += 1
    except* RefusedError:
        seen.broken += 1
    else:
        now = time.monotonic()
        if counts[0] <= now < counts[1]:
            seen.good.append(tokens(job))
            if job.urgency == 0:
                seen.urgent_s.append(now - began)
        await stand.close(job)


async def _is_let_in(stand: Stand, job: Job, seen: Seen, retries: int) -> bool:
    """The first call, until it is answered or refused too often. Raises TimeoutError."""
    for attempt in range(retries + 1):
        try:
            await stand.call(job, job.stages[0])
            return True
        except RefusedError as error:
            seen.after_s.append(error.after_s)
            if attempt < retries:
                await asyncio.sleep(error.after_s)
    seen.refused += 1
    return False


async def _go_on(stand: Stand, job: Job) -> None:
    """All stages but the first, each once what it needs is there."""
    ended = {stage.id: asyncio.Event() for stage in job.stages}
    ended[job.stages[0].id].set()

    async def run(stage: Stage) -> None:
        for need in stage.needs:
            await ended[need].wait()
        if stage.kind == "tool":
            await asyncio.sleep(stage.duration_s or 0.0)
        else:
            await stand.call(job, stage)
        ended[stage.id].set()

    async with asyncio.TaskGroup() as group:
        for stage in job.stages[1:]:
            group.create_task(run(stage))


async def run(jobs: Sequence[Job], seconds: float, *, limited: bool, retries: int = 0) -> Seen:
    """All of `jobs`, each when it arrives, against a fresh gateway."""
    seen = Seen(offered=len(jobs))
    async with Stand(limited) as stand:
        began = time.monotonic()
        counts = began + WARM_S, began + seconds
        tasks = []
        for job in jobs:
            await asyncio.sleep(max(began + job.arrival_s - time.monotonic(), 0.0))
            tasks.append(asyncio.create_task(serve(stand, job, seen, counts, retries)))
        await asyncio.sleep(max(began + seconds - time.monotonic(), 0.0))
        seen.peak_mib = stand.peak_mib
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result
    return seen
