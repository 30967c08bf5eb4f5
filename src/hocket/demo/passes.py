"""One pass: a gateway process with two embedded engines, and the mix played once on it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import aiohttp
from msgspec.structs import asdict

import hocket
from hocket import trace
from hocket.core.latency import Latency
from hocket.demo.apps import APPS, request_of
from hocket.demo.mix import Task
from hocket.demo.run import Run
from hocket.engines.profile import yaml_number
from hocket.errors import InputError
from hocket.policies import parse_policy

if TYPE_CHECKING:
    from asyncio.subprocess import Process

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 10.0
WINDOW = 4
"calls in an engine at once: more would gain it little, and what is in the engine cannot be reordered any more"


def _two_cpus() -> tuple[list[int] | None, list[int] | None]:
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return ([allowed[0]], [allowed[1]]) if len(allowed) > 1 else (None, None)


LATENCY: Mapping[str, Latency] = {
    "small": Latency(q0=0.0168, q1=8.1e-07, q2=0.00587, d0=0.0124, d1=0.00837, d2=8.4e-06),
    "large": Latency(q0=0.0476, q1=1.63e-06, q2=0.00374, d0=0.0372, d1=0.00653, d2=1.17e-05),
}
"""what `hocket engine profile` found on one machine. Elsewhere the engines are faster or slower, both about alike: to
order jobs that is enough"""
CPUS = _two_cpus()
"each engine's own, so that neither's speed hangs on the other's load; None where there are not two"


class Gateway:
    """`hocket serve` in a process of its own, its settings and its log in `directory`.

    `profiles`: the folder that it reads; `latency`: of each engine, None = LATENCY.
    """

    def __init__(
        self,
        directory: Path,
        policy: str,
        profiles: Path | None = None,
        latency: Mapping[str, Latency] | None = None,
    ) -> None:
        self.policy = policy
        self._profiles, self._latency = profiles, latency or LATENCY
        name = policy.replace(">", "-")
        self._settings, self._log = directory / f"{name}.yaml", directory / f"{name}.log"
        self._process: Process | None = None
        self.url = ""

    async def __aenter__(self) -> Self:
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        text = settings(port, self.policy, self._profiles, self._latency)
        self._settings.write_text(text, encoding="utf-8")
        serve = "import sys; from hocket.cli import main; sys.exit(main())"
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", serve, "serve", "--config", str(self._settings),
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        try:
            await asyncio.wait_for(self._ready(), START_TIMEOUT_S)
        except TimeoutError:
            await self.stop()
            raise InputError(f"the gateway is not ready after {START_TIMEOUT_S:g} s; see {self._log}") from None
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """End the gateway, and with it its engines. Gently first."""
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
        except TimeoutError:
            process.kill()
            await process.wait()

    async def _ready(self) -> None:
        async with aiohttp.ClientSession() as http:
            while True:
                if self._process is None or self._process.returncode is not None:
                    raise InputError(f"the gateway did not start: {_last_line(self._log)}; all of it: {self._log}")
                try:
                    async with http.get(f"{self.url}/ready") as answer:
                        if answer.status == 200 and not (await answer.json())["engines_without_replica"]:
                            return
                except aiohttp.ClientError:
                    pass  # not listening yet
                await asyncio.sleep(0.1)


def settings(port: int, policy: str, profiles: Path | None = None, latency: Mapping[str, Latency] = LATENCY) -> str:
    """The gateway's `hocket.yaml`."""
    engines = ""
    for name, cpus in zip(("small", "large"), CPUS, strict=True):
        constants = ", ".join(f"{key}: {yaml_number(value)}" for key, value in asdict(latency[name]).items())
        engines += f"  - {{name: {name}, kind: embedded, max_concurrency: {WINDOW}, context: 1024, threads: 1"
        engines += f", latency: {{{constants}}}"
        engines += f", cpus: {cpus}}}\n" if cpus else "}\n"
    orderings = ", ".join(parse_policy(policy))
    learned = f"profiles: {json.dumps(str(profiles.absolute()))}\n" if profiles else ""
    return f"listen: 127.0.0.1:{port}\npolicy: [{orderings}]\nhistory: off\n{learned}engines:\n{engines}"


class Pass(NamedTuple):
    """The mix, played once."""

    jobs: list[trace.Job]
    jct_s: dict[str, float]
    makespan_s: float
    output_tokens: dict[str, int]
    "by model"
    tests: tuple[int, int]
    "of generated code: passed, in all"


async def play(
    url: str,
    tasks: Sequence[Task],
    told: Callable[[str, int], None] = lambda model, tokens: None,
    ended: Callable[[str], None] = lambda app: None,
) -> Pass:
    """Run all tasks, each from its arrival on. `told`: a call ended (model, tokens); `ended`: a job of this app."""
    from openai import AsyncOpenAI, OpenAIError

    done: dict[str, float] = {}
    async with hocket.instrument(
        AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=600)
    ) as client:
        runs = [Run(client, task, told) for task in tasks]
        began = time.perf_counter()

        async def one(run: Run) -> None:
            task = run.task
            await asyncio.sleep(began + task.arrival_s - time.perf_counter())
            async with hocket.job(task.app, id=task.id, client=client):
                await APPS[task.app](run, request_of(task))
            done[task.id] = time.perf_counter() - began - task.arrival_s
            ended(task.app)

        try:
            async with asyncio.TaskGroup() as group:
                for run in runs:
                    group.create_task(one(run))
        except* OpenAIError as errors:
            raise InputError(f"a call failed: {errors.exceptions[0]}; the gateway's log says more") from None
    jobs = [run.record(request_of(run.task)) for run in runs]
    outputs: dict[str, int] = {}
    for job in jobs:
        for stage in job.stages:
            if stage.model:
                outputs[stage.model] = outputs.get(stage.model, 0) + stage.output_tokens
    tests = [report for run in runs for report in run.tests]
    makespan = max(done[task.id] + task.arrival_s for task in tasks)
    return Pass(jobs, done, makespan, outputs, (sum(t.passed for t in tests), sum(t.total for t in tests)))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _last_line(log: Path) -> Any:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
