"""`kill -9` under load, again and again: what is lost, and how soon hocket serves again.

    python benchmarks/kills.py [--kills 100] [--seed 1] [--json F]

A real `hocket serve` before two scripted engines, with a history and a journal. Clients run jobs of several calls,
streams and whole answers, some with an `Idempotency-Key`; each notes what it was answered, and when. At a moment that
the seed draws the process is killed, and started again on the same files. Then:

- every answer that its client had more than a second before the kill is in the history, once, as finished;
- the jobs go on by their id: as old as they are, with the service of the answers that are in the history;
- a call with a key that was answered is not made again (409);
- and in the end no job and no call is left open in the history.

Exit code 1 if anything of this fails, or if it took more than 2 s from the start to the first `ready`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import signal
import socket
import sqlite3
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
from msgspec import Struct, to_builtins

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.scripted_engine import Script, ScriptedEngine

CLIENTS = 32
MARGIN_S = 1.0
"answers that are older when the process is killed must be in the history"
READY_S = 2.0
CALLS = (2, 12)
"of a job"


class Answer(Struct):
    """One complete answer, as its client noted it."""

    call: str
    job: str
    at: float
    key: str | None
    stage: str
    held_s: float
    "it held a slot for at least so long: the engine took it"


def held_s(script: Script, stream: bool) -> float:
    """Seconds that the engine takes at least for an answer: a whole one has no gaps, and may have no first wait."""
    return script.first_s + (script.gap_s * (script.chunks - 1) if stream else 0.0)


class Round(Struct):
    """One life of the process."""

    ready_s: float
    answers: int = 0
    young: int = 0
    "of the answers, those of the last second before the kill"
    lost_young: int = 0
    lost: list[str] = []
    "answers that are older, and are not in the history"
    resumed: int = 0
    "jobs that went on"
    wrong: list[str] = []


class Kills:
    """The files, the engines and the clients; the process comes and goes."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.engines = [ScriptedEngine(record=False), ScriptedEngine(record=False)]
        self.history, self.config = folder / "history.db", folder / "hocket.yaml"
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        self.process: asyncio.subprocess.Process | None = None
        self.answers: list[Answer] = []
        self.jobs = 0
        self.open: dict[str, list[Answer]] = {}
        "jobs under way: what they were answered"

    async def begin(self) -> None:
        for engine in self.engines:
            await engine.start()
        engines = ", ".join(f"'{engine.url}'" for engine in self.engines)
        self.config.write_text(
            f"listen: {self.url.removeprefix('http://')}\n"
            f"engines: [{{name: small, replicas: [{engines}], max_concurrency: 6}}]\n"
            f"history: {{url: {self.history}}}\n",
            encoding="utf-8",
        )

    async def end(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        for engine in self.engines:
            await engine.stop()

    async def start(self) -> float:
        """Start the process; returns the seconds until it is ready."""
        hocket = Path(sys.executable).with_name("hocket")
        journal = str(self.folder / "journal.jsonl")
        words = ("serve", "--config", str(self.config), "--journal", journal)
        began = time.monotonic()
        with (self.folder / "log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(str(hocket), *words, stdout=log, stderr=log)
        async with aiohttp.ClientSession() as http:
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    async with http.get(f"{self.url}/ready") as answer:
                        if answer.status == 200:
                            return time.monotonic() - began
                assert self.process.returncode is None, (self.folder / "log").read_text()
                await asyncio.sleep(0.005)

    async def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()

    # ---------------------------------------------------------------- clients

    async def call(self, http: aiohttp.ClientSession, job: str, stage: str) -> None:
        """One call. What is not answered in full raises ClientError."""
        key = f"{job}-{stage}-{self.rng.random()}" if self.rng.random() < 0.3 else None
        stream = self.rng.random() < 0.5
        script = Script(chunks=6, gap_s=0.004, first_s=self.rng.uniform(0.0, 0.06), usage=True)
        headers = {"x-hocket-job": job, "x-hocket-app": "agent", "x-hocket-stage": stage}
        if key is not None:
            headers["Idempotency-Key"] = key
        body = {"model": "small", "messages": [{"role": "user", "content": stage}], "stream": stream}
        async with http.post(
            f"{self.url}/v1/chat/completions", json={**body, "scripted": to_builtins(script)}, headers=headers
        ) as response:
            text = await response.read()
            if response.status != 200 or (stream and not text.endswith(b"[DONE]\n\n")):
                raise aiohttp.ClientPayloadError(f"{response.status} {text!r}")
            name, at = response.headers["x-hocket-call"], time.monotonic()
            answer = Answer(name, job, at, key, stage, held_s(script, stream))
        self.answers.append(answer)
        self.open[job].append(answer)

    async def client(self, http: aiohttp.ClientSession) -> None:
        """Job after job, until the process dies."""
        while True:
            self.jobs += 1
            job = f"job-{self.jobs}"
            self.open[job] = []
            for n in range(self.rng.randint(*CALLS)):
                await self.call(http, job, f"s{n}")
                await asyncio.sleep(self.rng.uniform(0.0, 0.2))
            async with http.delete(f"{self.url}/v1/jobs/{job}") as response:
                assert response.status == 200
            del self.open[job]

    async def live(self, seconds: float) -> float:
        """Load, and then the kill; returns when that was."""
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
            clients = [asyncio.create_task(self.client(http)) for _ in range(CLIENTS)]
            await asyncio.sleep(seconds)
            died = [client for client in clients if client.done()]
            at = time.monotonic()
            await self.kill()
            await asyncio.wait(clients, timeout=10)
        assert not died, f"clients failed before the kill: {died[0].exception()!r}"
        for client in clients:
            assert isinstance(client.exception(), aiohttp.ClientError), client
        return at

    # ---------------------------------------------------------------- what was kept

    def rows(self, sql: str) -> list[Any]:
        with contextlib.closing(sqlite3.connect(self.history)) as database:
            return database.execute(sql).fetchall()

    def finished(self) -> Counter[str]:
        """Calls in the history that have finished -> how often."""
        return Counter(call for (call,) in self.rows("SELECT call FROM calls WHERE outcome = 'finished'"))

    async def go_on(self, found: Round, kept: Counter[str], most: int = 12) -> None:
        """Some of the jobs that were open go on; keys that were answered are asked for again."""
        jobs = [job for job, answers in self.open.items() if any(answer.call in kept for answer in answers)][:most]
        async with aiohttp.ClientSession() as http:
            for job in jobs:
                answers = [answer for answer in self.open[job] if answer.call in kept]
                keyed = [answer for answer in answers if answer.key is not None]
                old_s = time.monotonic() - min(answer.at for answer in answers)
                service_s = sum(answer.held_s for answer in answers)
                async with http.get(f"{self.url}/v1/jobs/{job}") as response:
                    told = await response.json()
                if response.status != 200 or told["age_s"] < old_s or told["service_s"] < service_s:
                    at_least = f"at least {old_s:.4f} s old, with {service_s:.4f} s of service"
                    found.wrong.append(f"{job} did not go on as it was, {at_least}: {told}")
                found.resumed += 1
                for answer in keyed:
                    body = {"model": "small", "messages": [{"role": "user", "content": answer.stage}]}
                    headers = {"x-hocket-job": job, "Idempotency-Key": str(answer.key)}
                    url = f"{self.url}/v1/chat/completions"
                    async with http.post(url, json=body, headers=headers) as response:
                        if response.status != 409:
                            found.wrong.append(f"{answer} was made again: {response.status}")
                await self.call(http, job, "last")
                await http.delete(f"{self.url}/v1/jobs/{job}")
        self.open.clear()

    async def round(self, found: Round) -> None:
        """A life, a death, and the look at what is left, in the next life."""
        first = len(self.answers)
        killed_at = await self.live(self.rng.uniform(1.2, 2.2))
        answers = self.answers[first:]
        kept = self.finished()
        found.answers = len(answers)
        for answer in answers:
            young = killed_at - answer.at <= MARGIN_S
            found.young += young
            if kept[answer.call] == 1:
                continue
            if young and not kept[answer.call]:
                found.lost_young += 1
            else:
                age_s = killed_at - answer.at
                found.lost.append(f"{answer.call}: {kept[answer.call]} times, answered {age_s:.2f} s before")
        following = Round(await self.start())
        await self.go_on(found, kept)
        self.following = following

    async def over(self) -> list[str]:
        """End it in order. What is left open in the history."""
        assert self.process is not None
        self.process.terminate()
        await self.process.wait()
        jobs = self.rows("SELECT job FROM jobs WHERE state = 'open'")
        calls = self.rows("SELECT call FROM calls WHERE outcome = ''")
        twice = self.rows("SELECT call FROM calls GROUP BY call HAVING count(*) > 1")
        return [f"{what}: {row[0]}" for what, rows in (("open", jobs + calls), ("twice", twice)) for row in rows]


async def run(folder: Path, kills: int, seed: int) -> tuple[list[Round], list[str]]:
    """So many kills. The rounds, and what is wrong in the end."""
    world = Kills(folder, seed)
    await world.begin()
    try:
        rounds, now = list[Round](), Round(await world.start())
        for _ in range(kills):
            await world.round(now)
            rounds.append(now)
            now = world.following
        rounds.append(now)
        return rounds, await world.over()
    finally:
        await world.end()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", metavar="F")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hocket-kills-") as folder:
        rounds, wrong = asyncio.run(run(Path(folder), args.kills, args.seed))
    ready = sorted(found.ready_s for found in rounds)
    lost = [line for found in rounds for line in found.lost]
    wrong += [line for found in rounds for line in found.wrong]
    answers, young = (sum(getattr(found, name) for found in rounds) for name in ("answers", "young"))
    lost_young, resumed = (sum(getattr(found, name) for found in rounds) for name in ("lost_young", "resumed"))
    print(f"| kills | {args.kills} |\n|---|---|")
    print(f"| answers | {answers} |")
    print(f"| of these more than {MARGIN_S:g} s before a kill | {answers - young} |")
    print(f"| of which the history lost | {len(lost)} |")
    print(f"| of the {young} later ones it lost | {lost_young} |")
    print(f"| jobs that went on | {resumed} |")
    print(f"| ready after: median, worst | {statistics.median(ready):.2f} s, {ready[-1]:.2f} s |")
    for line in [*lost, *wrong][:20]:
        print(line, file=sys.stderr)
    if args.json:
        figures = {"ready_s": ready, "answers": answers, "young": young, "lost": lost, "lost_young": lost_young}
        Path(args.json).write_text(json.dumps({**figures, "resumed": resumed, "wrong": wrong}), encoding="utf-8")
    return int(bool(lost or wrong) or ready[-1] > READY_S)


if __name__ == "__main__":
    sys.exit(main())
