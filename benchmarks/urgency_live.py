"""Urgent calls at an engine that is full of others: how long until their first byte, live.

    python benchmarks/urgency_live.py                                                        (about 15 minutes)
    python benchmarks/urgency_live.py --rounds 1 --urgent 8                                  (about 5 minutes)

`hocket serve` runs in a process of its own with one embedded engine, fresh each time. Clients keep it saturated with
streamed calls of class 4 that write 256 tokens each; calls of class 0 come in between, one every few seconds. Three
gateways take turns, so that a slow spell of the machine meets all of them: first come first served, `urgency`, and
`urgency` with preemption. Before its load comes and after it has gone, each gateway is asked such urgent calls alone:
that is `idle`.

Must hold, for the median time to first byte of class 0: `urgency` at least 80 % below first come first served; with
preemption within 2x of idle; and every answer of class 4, displaced or not, is one answer of 256 tokens. Exit code 1 if
not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL, Process, create_subprocess_exec
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Self

import aiohttp
from rich.console import Console
from rich.table import Table

WINDOW = 4
"calls in the engine at once"
BACKGROUND = 3 * WINDOW
"clients of class 4: each has one call open, so two windows of them wait"
TOKENS = 256
"of each call of class 4"
PER_CALL = 2
"calls of class 0, on average, in the time that one of class 4 takes in the engine"
START_S = 120.0
VARIANTS = {
    "fcfs": "policy: call-fcfs\npreemption: false",
    "urgency": "policy: urgency\npreemption: false",
    "urgency, preemption": "policy: urgency\npreemption: true",
}
BELOW_FCFS, OF_IDLE = 0.80, 2.0


class Gateway(AbstractAsyncContextManager["Gateway"]):
    """`hocket serve` in a process of its own, with one embedded engine."""

    def __init__(self, settings: str) -> None:
        self._settings = settings
        self._directory = tempfile.TemporaryDirectory()
        self._process: Process | None = None
        self.http: aiohttp.ClientSession
        self.url = ""

    async def __aenter__(self) -> Self:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = "{}:{}".format(*probe.getsockname())
        self.url = f"http://{address}"
        cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        pinned = f", cpus: [{cpus[0]}]" if len(cpus) > 1 else ""
        engine = f"{{name: small, kind: embedded, max_concurrency: {WINDOW}, context: 1024, threads: 1{pinned}}}"
        file = Path(self._directory.name) / "hocket.yaml"
        file.write_text(f"listen: {address}\nhistory: off\n{self._settings}\nengines:\n  - {engine}\n")
        serve = "import sys; from hocket.cli import main; sys.exit(main())"
        self._process = await create_subprocess_exec(
            sys.executable, "-c", serve, "serve", "--config", str(file), stdin=DEVNULL, stdout=DEVNULL
        )
        self.http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(None))
        await asyncio.wait_for(self._ready(), START_S)
        return self

    async def _ready(self) -> None:
        while True:
            assert self._process is not None
            if self._process.returncode is not None:
                raise SystemExit(f"the gateway did not start: exit code {self._process.returncode}")
            try:
                async with self.http.get(f"{self.url}/ready") as answer:
                    if answer.status == 200 and not (await answer.json())["engines_without_replica"]:
                        return
            except aiohttp.ClientError:
                pass  # not listening yet
            await asyncio.sleep(0.1)

    async def __aexit__(self, *_: object) -> None:
        await self.http.close()
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGINT)
            await self._process.wait()
        self._directory.cleanup()

    async def stream(self, prompt: str, urgency: int, tokens: int) -> tuple[float, bytes]:
        """Seconds to the first byte of an answer, and the answer."""
        body = {
            "model": "small",
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": tokens,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        began = time.perf_counter()
        async with self.http.post(
            f"{self.url}/v1/chat/completions", json=body, headers={"x-hocket-urgency": str(urgency)}
        ) as answer:
            raw = await answer.content.readany()
            first_s = time.perf_counter() - began
            assert answer.status == 200, raw
            return first_s, raw + await answer.read()


@dataclass
class Seen:
    """What was measured of one variant."""

    idle_s: list[float] = field(default_factory=list)
    first_s: list[float] = field(default_factory=list)
    background_s: list[float] = field(default_factory=list)
    "whole calls of class 4"
    displaced: int = 0
    wrong: int = 0
    "answers of class 4 that are not one answer of so many tokens"


def urgent_prompt(draw: random.Random) -> str:
    """About eighty tokens, no two alike."""
    vitals = f"heart rate {draw.randint(90, 160)}, oxygen {draw.randint(75, 95)} %, age {draw.randint(20, 95)}"
    return f"Patient {draw.randint(1000, 9999)}, {vitals}. Chest pain since an hour, cold sweat. What comes first?"


def is_whole(raw: bytes) -> bool:
    """Whether a stream is one complete answer of TOKENS tokens."""
    events = [json.loads(line[6:]) for line in raw.split(b"\n") if line.startswith(b"data: {")]
    ids, usages = {event.get("id") for event in events}, [event["usage"] for event in events if event.get("usage")]
    done = raw.count(b"[DONE]") == 1 and raw.rstrip().endswith(b"data: [DONE]") and raw.count(b'"role"') <= 1
    return done and len(ids) == 1 and len(usages) == 1 and usages[0]["completion_tokens"] == TOKENS


async def measured(settings: str, urgent: int, draw: random.Random, seen: Seen) -> None:
    """One gateway: urgent calls alone, then among the others."""
    async with Gateway(settings) as gateway:

        async def idle(calls: int) -> list[float]:
            return [(await gateway.stream(urgent_prompt(draw), 0, 4))[0] for _ in range(calls)]

        seen.idle_s += (await idle(urgent + 2))[2:]  # the first ones meet a cold engine
        ended, full = 0, asyncio.Event()

        async def background(client: int) -> None:
            nonlocal ended
            if client < WINDOW:  # so that later on slots come free one by one
                await gateway.stream(f"Note {client}.", 4, TOKENS * (client + 1) // WINDOW)
            while True:
                began = time.perf_counter()
                _, raw = await gateway.stream(f"Note {client}, {draw.random()}: sum up the day.", 4, TOKENS)
                seen.background_s.append(time.perf_counter() - began)
                seen.wrong += not is_whole(raw)
                ended += 1
                if ended == WINDOW:
                    full.set()

        began = time.perf_counter()
        load = [asyncio.create_task(background(client)) for client in range(BACKGROUND)]
        try:
            await full.wait()
            gap_s = (time.perf_counter() - began) / 2 / PER_CALL
            calls = []
            for _ in range(urgent):
                calls.append(asyncio.create_task(gateway.stream(urgent_prompt(draw), 0, 4)))
                await asyncio.sleep(gap_s * draw.uniform(0.5, 1.5))
            seen.first_s += [first_s for first_s, _ in await asyncio.gather(*calls)]
            seen.displaced += await _displaced(gateway)
        finally:
            for task in load:
                task.cancel()
            for result in await asyncio.gather(*load, return_exceptions=True):
                if isinstance(result, Exception):
                    raise result
        seen.idle_s += await idle(urgent)


async def _displaced(gateway: Gateway) -> int:
    async with gateway.http.get(f"{gateway.url}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    found = [line.rpartition(" ")[2] for line in lines if line.startswith("hocket_calls_displaced_total")]
    return int(sum(map(float, found)))


def show(seen: dict[str, Seen]) -> None:
    """The table."""
    title = "class 0 at an engine full of class 4: seconds to the first byte"
    table = Table("gateway", "idle", "median", "p90", "of idle", "class 4, whole call", "displaced", title=title)
    for name, it in seen.items():
        first = sorted(it.first_s)
        p90, idle = first[int(0.9 * (len(first) - 1))], median(it.idle_s)
        whole = f"{median(it.background_s):.1f} ({len(it.background_s)})"
        ratio = f"{median(first) / idle:.2f}x"
        table.add_row(name, f"{idle:.3f}", f"{median(first):.3f}", f"{p90:.3f}", ratio, whole, str(it.displaced))
    Console().print(table)


def verdict(seen: dict[str, Seen]) -> list[str]:
    """What does not hold."""
    first = {name: median(it.first_s) for name, it in seen.items()}
    idle, wrong = median(s for it in seen.values() for s in it.idle_s), []
    below = 1 - first["urgency"] / first["fcfs"]
    if below < BELOW_FCFS:
        wrong.append(f"urgency is {below:.0%} below first come first served; {BELOW_FCFS:.0%} is asked for")
    if first["urgency, preemption"] > OF_IDLE * idle:
        wrong.append(f"with preemption {first['urgency, preemption'] / idle:.2f}x idle; {OF_IDLE}x is asked for")
    for name, it in seen.items():
        if it.wrong:
            wrong.append(f"{name}: {it.wrong} answers of class 4 are not one answer of {TOKENS} tokens")
    if not seen["urgency, preemption"].displaced:
        wrong.append("nothing was displaced")
    return wrong


def write(file: str, found: dict[str, Any]) -> None:
    """All that was measured."""
    Path(file).write_text(json.dumps(found, indent=1))


async def main() -> int:
    """Measure, show, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--urgent", type=int, default=15, help="calls of class 0 in each round and gateway")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json")
    args = parser.parse_args()
    draw, seen = random.Random(args.seed), {name: Seen() for name in VARIANTS}
    for _ in range(args.rounds):
        for name, settings in VARIANTS.items():
            await measured(settings, args.urgent, draw, seen[name])
            print(f"{name}: median {median(seen[name].first_s):.3f} s so far", flush=True)
    show(seen)
    wrong = verdict(seen)
    print("\n".join(wrong) or "holds")
    if args.json:
        write(args.json, {name: vars(it) for name, it in seen.items()})
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
