"""A triage desk, an appointment bot, a note summariser and a nightly research batch share one engine: who waits?

    python examples/emergency/run.py [--seconds 24] [--out DIR] [--words off]         (about four minutes)

`hocket serve` runs with `hocket.yaml` beside this file and one embedded engine, once for each of four policies. Four
applications play the same half minute of a hospital's day on each: more than the engine can do. The triage desk's
callers say how urgent it is in their own words; the gateway reads them (`pip install 'hocket[demo,plot,words]'`;
without the last, `--words off` declares their classes). Then the same mix is simulated for half an hour. The waits of
each class go to a table, to DIR/waits.json and to a chart, DIR/waits.svg.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import socket
import sys
import tempfile
import time
import urllib.error
import urllib.request
from asyncio.subprocess import DEVNULL, Process, create_subprocess_exec
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import yaml
from chart import draw
from mix import Job, day
from openai import AsyncOpenAI, OpenAIError
from simulated import simulated

import hocket

HERE = Path(__file__).parent
POLICIES: dict[str, dict[str, Any]] = {
    "first come, first served": {"policy": "fcfs", "preemption": False},
    "shortest job first": {"policy": "sjf", "preemption": False},
    "strict priority": {"policy": ["urgency", "srtf"], "preemption": False},
    "hocket": {},
}
"name -> what of hocket.yaml is different"
START_S = 120.0


@dataclass
class Seen:
    """What a client saw of one call. Times in seconds."""

    job: str
    app: str
    urgency: int
    "what it really is"
    taken_for: int
    "by the gateway, as its answer says"
    first_s: float
    "to the first token"
    whole_s: float
    "to the last"


class Gateway:
    """`hocket serve` with one policy, in a process of its own."""

    def __init__(self, directory: Path, **changes: Any) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = "{}:{}".format(*probe.getsockname())
        settings = yaml.safe_load((HERE / "hocket.yaml").read_text(encoding="utf-8"))
        settings |= {"listen": address, **changes}
        if settings["urgency"] is None:
            del settings["urgency"]
        self._file = directory / "hocket.yaml"
        self._file.write_text(yaml.safe_dump(settings), encoding="utf-8")
        self._process: Process | None = None
        self.url = f"http://{address}"

    async def __aenter__(self) -> Self:
        serve = "import sys; from hocket.cli import main; sys.exit(main())"
        command = [sys.executable, "-c", serve, "serve", "--config", str(self._file)]
        self._process = await create_subprocess_exec(*command, stdin=DEVNULL, stdout=DEVNULL)
        until = time.monotonic() + START_S
        while not await asyncio.to_thread(self._ready):
            if self._process.returncode is not None or time.monotonic() > until:
                await self.__aexit__()
                raise SystemExit("the gateway did not start; what it said is above")
            await asyncio.sleep(0.2)
        return self

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/ready", timeout=5) as answer:
                return not json.load(answer)["engines_without_replica"]
        except (urllib.error.URLError, OSError):
            return False

    async def __aexit__(self, *_: object) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
            await self._process.wait()


async def play(url: str, jobs: list[Job]) -> list[Seen]:
    """All jobs, each from its time on. What became of their calls."""
    seen: list[Seen] = []
    async with hocket.instrument(
        AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=900)
    ) as client:
        began = time.perf_counter()

        async def one(job: Job) -> None:
            await asyncio.sleep(began + job.at - time.perf_counter())
            async with hocket.job(job.app, id=job.name, urgency=job.says, client=client):
                for call in job.calls:
                    async with hocket.stage(call.stage):
                        seen.append(await ask(client, job, call.prompt, call.tokens))

        try:
            async with asyncio.TaskGroup() as group:
                for job in jobs:
                    group.create_task(one(job))
        except* OpenAIError as errors:
            raise SystemExit(f"a call failed: {errors.exceptions[0]}") from None
    return seen


async def ask(client: AsyncOpenAI, job: Job, prompt: str, tokens: int) -> Seen:
    """One call, streamed. `ignore_eos`: every policy has the same work to do."""
    sent = time.perf_counter()
    raw = await client.chat.completions.with_raw_response.create(
        model="ward",
        messages=[
            {"role": "system", "content": f"You are a hospital's {job.app}."},
            {"role": "user", "content": prompt},
        ],
        max_tokens=tokens,
        temperature=0,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    first_s = 0.0
    async for chunk in raw.parse():
        if not first_s and chunk.choices and chunk.choices[0].delta.content:
            first_s = time.perf_counter() - sent
    whole_s = time.perf_counter() - sent
    taken_for = int(raw.headers["x-hocket-urgency"])
    return Seen(job.name, job.app, job.urgency, taken_for, first_s or whole_s, whole_s)


def by_class(seen: list[Seen]) -> dict[int, tuple[float, float]]:
    """Class -> mean seconds to the first token, and to the last."""
    found = {}
    for urgency in sorted({one.urgency for one in seen}):
        here = [one for one in seen if one.urgency == urgency]
        found[urgency] = sum(one.first_s for one in here) / len(here), sum(one.whole_s for one in here) / len(here)
    return found


def tell(title: str, waits: dict[str, dict[int, tuple[float, float]]]) -> None:
    """Print a table."""
    classes = sorted({urgency for one in waits.values() for urgency in one})
    print(f"\n{title}\n{'':26}" + "".join(f"{f'class {urgency}':>16}" for urgency in classes))
    for name, one in waits.items():
        cells = "".join(f"{one[urgency][0]:8.1f} {one[urgency][1]:7.1f}" for urgency in classes)
        print(f"{name:26}{cells}")


async def live(jobs: list[Job], words: bool) -> dict[str, list[Seen]]:
    """The jobs under each policy."""
    found = {}
    for name, changes in POLICIES.items():
        with tempfile.TemporaryDirectory() as directory:
            off = {} if words else {"urgency": None}
            async with Gateway(Path(directory), **changes, **off) as gateway:
                began = time.perf_counter()
                found[name] = await play(gateway.url, jobs)
                print(f"{name}: {len(jobs)} jobs, {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Play, simulate, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=24.0, help="in which jobs come (%(default)s)")
    parser.add_argument("--simulate", type=float, default=1800.0, help="seconds of the simulated day (%(default)s)")
    parser.add_argument("--words", choices=("on", "off"), default="on", help="whether the desk's words are read")
    parser.add_argument("--out", type=Path, default=Path("emergency"), help="where the chart goes (./%(default)s)")
    args = parser.parse_args()
    words, jobs = args.words == "on", day(args.seconds)
    if not words:
        jobs = [Job(job.name, job.app, job.at, job.urgency, job.urgency, job.calls) for job in jobs]
    seen = asyncio.run(live(jobs, words))
    waits = {name: by_class(one) for name, one in seen.items()}
    tell("Live: mean seconds to the first token, and to the last", waits)
    if words:
        desk = [one for one in seen["hocket"] if one.app == "triage-desk"]
        off = [abs(one.taken_for - one.urgency) for one in desk]
        right, near = (sum(apart <= most for apart in off) for most in (0, 1))
        print(f"\nThe desk's words: {right} of {len(desk)} read as the class they are, {near} at most one off")
    settings = yaml.safe_load((HERE / "hocket.yaml").read_text(encoding="utf-8"))
    many = simulated(args.simulate, settings["engines"][0], {name: settings | one for name, one in POLICIES.items()})
    tell(
        f"Simulated, {args.simulate / 60:.0f} minutes: mean seconds in the queue, and from arrival to the job's end",
        many,
    )
    args.out.mkdir(parents=True, exist_ok=True)
    raw = {name: [asdict(one) for one in calls] for name, calls in seen.items()}
    (args.out / "waits.json").write_text(json.dumps({"live": raw, "simulated": many}, indent=1), encoding="utf-8")
    panels = {f"{args.seconds:g} seconds, live": waits, f"{args.simulate / 60:g} minutes, simulated": many}
    draw(panels, args.out / "waits.svg")
    print(f"\n{args.out / 'waits.svg'}")


if __name__ == "__main__":
    main()
