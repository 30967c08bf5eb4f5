"""How much strangers who only hold connections delay those who call: with and without them, in turns.

    python benchmarks/strangers.py [--crowd 10000] [--rounds 6] [--seconds 5] [--json F]

One gateway, `hocket serve` as it is with its default time limits, on one core; engine, clients and strangers on
another.
Of the strangers half say nothing, a quarter sends the headers of a request a byte every ten seconds, a quarter asked
once and keeps its connection. Whoever is cut off comes again, so that there are as many all the time.

Measured are calls one after the other, as a lone client sends them, and calls of 16 clients at once. Both with the
crowd and without it, in turns: what the machine does besides falls on both. The gateway's CPU time a call, of the 16
clients, is told besides: it includes what the crowd costs, and hardly depends on what else runs.

Exit code 1 if with the crowd the median of a lone call is more than 10 % longer, or fewer than 90 % of the calls of 16
clients pass.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

from _relays import Relay, free_port

KEY = "hk-strangers"
CLIENTS = 16
AT_MOST = 1.10
DRIBBLE_S = 10.0
AT_ONCE = 200
"connections that the crowd opens at a time"
CHAT = b'{"model":"small","messages":[{"role":"user","content":"hi"}]}'
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
CALL = HEAD + b"Authorization: Bearer %b\r\nContent-Length: %d\r\n\r\n%b" % (KEY.encode(), len(CHAT), CHAT)
ASK = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"

# ---------------------------------------------------------------- the crowd, in a process of its own


class Crowd:
    """So many strangers. They come again when they are cut off."""

    def __init__(self, port: int, count: int) -> None:
        self._port, self._count = port, count
        self._gate = asyncio.Semaphore(AT_ONCE)
        self._tasks: list[asyncio.Task[None]] = []
        self.there = self.came = 0

    async def come(self) -> None:
        """Returns when all are there."""
        self._tasks = [asyncio.create_task(self._stay(i % 4)) for i in range(self._count)]
        while self.there < self._count:  # noqa: ASYNC110 - ten thousand events would be more work
            await asyncio.sleep(0.05)

    async def go(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _stay(self, kind: int) -> None:
        while True:
            try:
                async with self._gate:
                    reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                    if kind == 3:
                        writer.write(ASK)
                        await reader.readuntil(b"\r\n\r\n")
            except (OSError, asyncio.IncompleteReadError):
                await asyncio.sleep(1.0)
                continue
            self.there += 1
            self.came += 1
            try:
                await (self._dribble(reader, writer) if kind == 2 else reader.read())
            except OSError:
                pass
            finally:
                self.there -= 1
                writer.transport.abort()

    @staticmethod
    async def _dribble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for i in range(len(HEAD)):
            writer.write(HEAD[i : i + 1])
            try:
                if not await asyncio.wait_for(reader.read(1), DRIBBLE_S):
                    return
            except TimeoutError:
                pass


async def crowd(port: int, count: int) -> None:
    """Come and go as the lines of standard input say; tell when it is done."""
    found = Crowd(port, count)
    while line := await asyncio.to_thread(sys.stdin.readline):
        await (found.come() if line == "come\n" else found.go())
        print(json.dumps({"there": found.there, "came": found.came}), flush=True)


# ---------------------------------------------------------------- those who call


class Client:
    """One connection that calls."""

    async def open(self, port: int) -> Client:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", port)
        return self

    async def call(self) -> float:
        """Seconds that one call takes."""
        began = time.perf_counter()
        self._writer.write(CALL)
        head = await self._reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await self._reader.readexactly(length)
        return time.perf_counter() - began

    def close(self) -> None:
        self._writer.transport.abort()


async def lone(port: int, seconds: float) -> list[float]:
    """Of calls one after the other, each its seconds."""
    client = await Client().open(port)
    await client.call()
    until, took = time.perf_counter() + seconds, []
    while time.perf_counter() < until:
        took.append(await client.call())
    client.close()
    return took


async def many(port: int, seconds: float) -> float:
    """Calls of several clients at once, a second."""
    clients = [await Client().open(port) for _ in range(CLIENTS)]
    until = time.perf_counter() + seconds

    async def one(client: Client) -> int:
        count = 0
        while time.perf_counter() < until:
            await client.call()
            count += 1
        return count

    counts = await asyncio.gather(*map(one, clients))
    for client in clients:
        client.close()
    return sum(counts) / seconds


def measure(port: int, seconds: float, gateway: Relay) -> dict[str, Any]:
    took = asyncio.run(lone(port, seconds))
    before = gateway.cpu_s()
    rate = asyncio.run(many(port, seconds))
    return {"lone_s": took, "rate": rate, "cpu_s": (gateway.cpu_s() - before) / (rate * seconds)}


# ---------------------------------------------------------------- the table


def quantile(values: list[float], q: float) -> float:
    return sorted(values)[min(int(q * len(values)), len(values) - 1)]


def summary(rounds: list[dict[str, Any]]) -> dict[str, float]:
    took = [second for each in rounds for second in each["lone_s"]]
    return {
        "calls": len(took),
        "p50_ms": 1000 * statistics.median(took),
        "p99_ms": 1000 * quantile(took, 0.99),
        "rate": statistics.mean(each["rate"] for each in rounds),
        "cpu_us": 1e6 * statistics.mean(each["cpu_s"] for each in rounds),
        "rss_mb": max(each["rss_mb"] for each in rounds),
    }


def ratio(rounds: dict[str, list[dict[str, Any]]], of: str) -> float:
    """The median over the rounds of what holds with the crowd, to without it."""

    def value(each: dict[str, Any]) -> float:
        return each[of] if of in each else quantile(each["lone_s"], float(of))

    return statistics.median(value(a) / value(b) for a, b in zip(rounds["crowd"], rounds["alone"], strict=True))


def settings(folder: Path, port: int, engine: str, count: int) -> Path:
    path = folder / "hocket.yaml"
    path.write_text(
        json.dumps({
            "listen": f"127.0.0.1:{port}", "history": False, "max_connections": count + 100,
            "tenants": [{"name": "a", "key_sha256": sha256(KEY.encode()).hexdigest()}],
            "engines": [{"name": "small", "replicas": [engine], "max_concurrency": 64}],
        })
    )  # fmt: skip
    return path


def run(count: int, rounds: int, seconds: float) -> dict[str, Any]:
    root = Path(__file__).parents[1]
    found: dict[str, list[dict[str, Any]]] = {"alone": [], "crowd": []}
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as name, (Path(name) / "log").open("wb") as log:
        port, engine_port = free_port(), free_port()
        words = [sys.executable, str(root / "tests" / "scripted_engine.py"), "--port", str(engine_port)]
        engine = Relay("engine", words, engine_port, log, {}, cores[-1])
        config = settings(Path(name), port, f"http://127.0.0.1:{engine_port}", count)
        words = [str(Path(sys.executable).with_name("hocket")), "serve", "--config", str(config)]
        gateway = Relay("gateway", words, port, log, {}, cores[0])
        os.sched_setaffinity(0, {cores[-1]})
        words = [sys.executable, __file__, "--be-the-crowd", str(port), "--crowd", str(count)]
        strangers = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert strangers.stdin is not None
        assert strangers.stdout is not None
        try:
            engine.wait_until_up()
            gateway.wait_until_up()
            measure(port, 1.0, gateway)  # warm
            for i in range(2 * rounds):
                kind = ("alone", "crowd")[i % 2]
                strangers.stdin.write("come\n" if kind == "crowd" else "go\n")
                strangers.stdin.flush()
                told = json.loads(strangers.stdout.readline())
                assert told["there"] == (count if kind == "crowd" else 0), told
                time.sleep(1.0)
                found[kind].append({**measure(port, seconds, gateway), "rss_mb": gateway.rss_mb(), **told})
                print(".", end="", flush=True)
        finally:
            strangers.kill()
            strangers.wait()
            gateway.close()
            engine.close()
    print()
    return {
        **{kind: summary(each) for kind, each in found.items()},
        "ratio": {
            "p50": ratio(found, "0.5"),
            "p99": ratio(found, "0.99"),
            "rate": ratio(found, "rate"),
            "cpu": ratio(found, "cpu_s"),
        },
        "came": found["crowd"][-1]["came"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crowd", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--json")
    parser.add_argument("--be-the-crowd", type=int, metavar="PORT", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.be_the_crowd:
        asyncio.run(crowd(args.be_the_crowd, args.crowd))
        return 0
    found = run(args.crowd, args.rounds, args.seconds)
    print(
        f"{'':28}{'lone p50, ms':>14}{'p99, ms':>10}{'16 clients, calls/s':>22}{'CPU, us a call':>16}{'memory, MB':>12}"
    )
    for kind, text in (("alone", "nobody else"), ("crowd", f"{args.crowd} strangers")):
        row = found[kind]
        print(
            f"{text:28}{row['p50_ms']:14.2f}{row['p99_ms']:10.2f}{row['rate']:22.0f}{row['cpu_us']:16.0f}{row['rss_mb']:12.0f}"
        )
    of = found["ratio"]
    print(f"{'ratio, median of rounds':28}{of['p50']:14.3f}{of['p99']:10.3f}{of['rate']:22.3f}{of['cpu']:16.3f}")
    print(f"{found['came']} connections were made in all")
    if args.json:
        Path(args.json).write_text(json.dumps(found, indent=1))
    return int(of["p50"] > AT_MOST or of["rate"] < 1 / AT_MOST)


if __name__ == "__main__":
    sys.exit(main())
