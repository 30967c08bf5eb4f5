"""The live half of the benchmark of fairness: three engines on sockets, a gateway, four tenants with their keys.

The engines are processes of tests/shaped_engine.py: 8 calls at once, 20 tokens a second each. Who holds which slots is
read from the gateway ten times a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import aiohttp
from _fair_runs import TENANTS, jain

from hocket.gateway.app import Gateway
from hocket.settings import EngineSettings, Settings, TenantSettings

ROOT = Path(__file__).parents[1]
MODELS = ("small", "medium", "large")
SLOTS = 8
STEPS = {
    "steady": (("small", 5), ("large", 15), ("medium", 10)),
    "bursty": (("medium", 15), ("large", 15)),
    "greedy": (("small", 5), ("large", 20)),
    "light": (("small", 10), ("medium", 10), ("large", 20)),
}
"of a job: (model, tokens of the answer), one after the other"
BUSY = {"steady": 16, "bursty": 16, "greedy": 50, "light": 16}
MIXED = {"steady": 3, "bursty": 3, "greedy": 50, "light": 1}
"agents of each tenant"
SETTLE_S, BUSY_S, MIXED_S = 5.0, 60.0, 20.0
ROUNDS = 3
"""without the greedy tenant, then with it: in 20 s a light agent ends eight jobs, and what these wait for a slot of the
last engine hangs on how the ends of its eight equal calls happened to be spread when the round began"""


class Live(NamedTuple):
    """One policy."""

    policy: str
    shares: list[float]
    index: float
    slowdown: float
    "of the light tenant's jobs, means"


class Tenants:
    """Clients of all tenants at one gateway."""

    def __init__(self, url: str, gateway: Gateway) -> None:
        self._url, self._gateway = url, gateway
        self._agents: list[asyncio.Task[None]] = []
        self.took: list[float] = []
        self.used: dict[tuple[str, str], float] = defaultdict(float)

    async def run(self, agents: dict[str, int], seconds: float) -> None:
        """Let so many agents work; then look at what happens for so long."""
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
            names = [tenant for tenant, count in agents.items() for _ in range(count)]
            self._agents = [asyncio.create_task(self._agent(http, tenant)) for tenant in names]
            await asyncio.sleep(SETTLE_S)
            self.took.clear()
            self.used.clear()
            until, looks = time.monotonic() + seconds, 0
            while time.monotonic() < until:
                looks += 1
                for call in self._gateway.scheduler.calls.values():
                    if call.replica is not None:
                        self.used[call.job.tenant.name, call.engine.name] += 1.0 / SLOTS
                await asyncio.sleep(0.1)
            for key in self.used:
                self.used[key] /= looks
            for agent in self._agents:
                agent.cancel()
            await asyncio.gather(*self._agents, return_exceptions=True)

    async def _agent(self, http: aiohttp.ClientSession, tenant: str) -> None:
        number = 0
        while True:
            number += 1
            began, name = time.monotonic(), f"{id(asyncio.current_task())}-{number}"
            headers = {"authorization": f"Bearer {tenant}", "x-hocket-job": name, "x-hocket-app": tenant}
            for model, tokens in STEPS[tenant]:
                body = {"model": model, "messages": [{"role": "user", "content": "go"}], "max_tokens": tokens}
                async with http.post(f"{self._url}/v1/chat/completions", json=body, headers=headers) as response:
                    assert response.status == 200, await response.text()
                    await response.read()
            if tenant == "light":
                self.took.append(time.monotonic() - began)
                await asyncio.sleep(0.3)


@contextlib.asynccontextmanager
async def _engines() -> AsyncIterator[list[EngineSettings]]:
    command = [sys.executable, str(ROOT / "tests" / "shaped_engine.py"), "--shape", "narrow"]
    processes = [await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE) for _ in MODELS]
    try:
        engines = []
        for model, process in zip(MODELS, processes, strict=True):
            assert process.stdout is not None
            url = (await process.stdout.readline()).decode().strip()
            engines.append(EngineSettings(name=model, replicas=[url], max_concurrency=SLOTS))
        yield engines
    finally:
        for process in processes:
            process.kill()
            await process.wait()


async def live_row(policy: str | list[str]) -> Live:
    """All four busy; then one light agent beside the others, without and with the greedy one, in turns."""
    tenants = [TenantSettings(name=t, key_sha256=hashlib.sha256(t.encode()).hexdigest()) for t in TENANTS]
    async with _engines() as engines:
        settings = Settings(
            listen="127.0.0.1:0", policy=policy, engines=engines, tenants=tenants, shutdown_s=0.1, history=False
        )
        gateway = Gateway(settings)
        clients = Tenants(await gateway.start(), gateway)
        try:
            await clients.run(BUSY, BUSY_S)
            shares = [max(clients.used[tenant, model] for model in MODELS) for tenant in TENANTS]
            alone, beside = list[float](), list[float]()
            for _ in range(ROUNDS):
                for agents, took in (({**MIXED, "greedy": 0}, alone), (MIXED, beside)):
                    await clients.run(agents, MIXED_S)
                    took.extend(clients.took)
        finally:
            await gateway.stop(0.1)
    name = policy if isinstance(policy, str) else " > ".join(policy)
    return Live(name, shares, jain(shares), fmean(beside) / fmean(alone))


async def live_rows() -> list[Live]:
    """`default` and what a gateway does that sees lone requests."""
    return [await live_row(policy) for policy in ("call-fcfs", "default")]


def live_verdicts(rows: Sequence[Live]) -> list[tuple[str, bool, str]]:
    """(what must hold, whether it does, by what)."""
    found = rows[-1]
    return [
        ("live, `default`: Jain's index >= 0.98 over a minute", found.index >= 0.98, f"{found.index:.3f}"),
        ("live, `default`: the light tenant's mean slowdown <= 1.15", found.slowdown <= 1.15, f"{found.slowdown:.3f}"),
    ]


def live_table(rows: Sequence[Live]) -> list[str]:
    """Lines of the page."""
    what = "Three engines of 8 slots, 20 tokens a second a call; a minute of all four busy. Slowdown: of the light "
    what += f"tenant's jobs, means of {ROUNDS} rounds of {MIXED_S:g} s with the greedy one and as many without."
    lines = ["", "## On sockets", "", what, ""]
    lines += ["| policy | Jain | dominant shares | slowdown |", "| --- | --- | --- | --- |"]
    for row in rows:
        shares = " ".join(f"{share:.2f}" for share in row.shares)
        lines.append(f"| `{row.policy}` | {row.index:.3f} | {shares} | {row.slowdown:.2f} |")
    return lines
