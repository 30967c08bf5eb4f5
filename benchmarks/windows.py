"""`max_concurrency: auto` beside every fixed window, on engines of three shapes and on the embedded engine.

    python benchmarks/windows.py [--only simulated|scripted|embedded] [--seconds 60] [--json F]

More calls wait than any window takes. Each fixed window's throughput (output tokens per second) is measured; then that
of `auto`, which begins at 8 and knows nothing, after its first 60 s. It must reach 95 % of the best fixed window's. On
real engines these two take turns then, 6 s each, because a machine changes its pace.

- simulated: the simulator's engine model, in virtual time: *steep* grows up to 32 calls and no further, *flat* hardly
  grows at all, *cliff* runs out of KV memory and thrashes.
- scripted: processes of tests/shaped_engine.py with such curves, a gateway and a load of 96 clients, on real sockets.
- embedded: SmolLM2 on llama.cpp with 8 slots and one thread.

Exit code 1 if `auto` misses 95 % anywhere.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple, Self

import aiohttp
from msgspec import structs

from hocket.assembly import build
from hocket.core import events as ev
from hocket.core.latency import Latency
from hocket.core.scheduler import Scheduler
from hocket.gateway.app import Gateway
from hocket.settings import EngineSettings, Settings
from hocket.sim.driver import Simulation
from hocket.sim.experiment import Setup, scheduler_spec
from hocket.sim.model import EngineModel
from hocket.trace import Job, Stage

ROOT = Path(__file__).parents[1]
AT_LEAST = 0.95
LEARN_S = 60.0
"what `auto` is given before it is measured"
SLICE_S = 6.0
Steps = list[tuple[float, int, int]]
"(seconds, window, home) of `auto`, whenever one of them changed"
Pair = tuple[float, float, Steps]
"tokens per second of `auto` and of the best fixed window, measured side by side, and what `auto` did"
Result = tuple[dict[int, float], Pair]
"of each fixed window, and of the pair"

# ---------------------------------------------------------------- simulated


def _engine(**more: Any) -> EngineModel:
    return EngineModel(name="e", models=["m"], **{"max_concurrency": 256, **more})


SIMULATED: dict[str, tuple[EngineModel, tuple[float, float]]] = {
    "steep": (_engine(max_concurrency=32, latency=Latency(q0=0.005, q2=2e-5, d0=0.02, d1=2e-5)), (150, 60)),
    "flat": (_engine(latency=Latency(q2=2e-5, d0=1e-4, d1=0.002)), (150, 60)),
    "cliff": (_engine(kv_tokens=2000, latency=Latency(q0=0.001, q2=1e-3, d0=0.01, d1=1e-4)), (30, 100)),
}
"name -> the engine, and the median prompt and output tokens of its calls"
SIMULATED_WINDOWS = (1, 2, 4, 8, 12, 16, 20, 24, 32, 48, 64)


class _Enough(Exception):  # noqa: N818  no error
    pass


def simulated(shape: str, seconds: float) -> Result:
    """All windows, and `auto`, on the same jobs."""
    fixed = {window: simulate(shape, window, seconds)[0] for window in SIMULATED_WINDOWS}
    auto, steps = simulate(shape, "auto", seconds)
    return fixed, (auto, max(fixed.values()), steps)


def simulate(shape: str, window: int | str, seconds: float, seed: int = 1) -> tuple[float, Steps]:
    """Output tokens per second from LEARN_S on, and what `auto` did."""
    model, (prompt, output) = SIMULATED[shape]
    rng = random.Random(seed)
    end = LEARN_S + seconds
    jobs = [
        Job(job=f"j{i}", app="a", arrival_s=0.0, stages=[_stage(rng, prompt, output)]) for i in range(int(80 * end))
    ]
    setup = Setup(engines=[structs.replace(model, window=window)])
    scheduler = build(scheduler_spec(setup, "call-fcfs"))
    tokens, steps = 0, Trail(scheduler)

    def observe(event: ev.Event, _: object) -> None:
        nonlocal tokens
        steps.look(event.at)
        if isinstance(event, ev.CallFinished) and event.at >= LEARN_S:
            tokens += event.output_tokens
        if event.at >= end:
            raise _Enough

    try:
        Simulation(jobs, setup.engines, scheduler, observe=observe).run()
        raise AssertionError("too few jobs to fill the time")
    except _Enough:
        return tokens / seconds, steps.steps


def _stage(rng: random.Random, prompt: float, output: float) -> Stage:
    def size(median: float) -> int:
        return max(1, round(median * rng.lognormvariate(0, 0.4)))

    return Stage(id="s", name="s", kind="llm", model="m", prompt_tokens=size(prompt), output_tokens=size(output))


class Trail:
    """Where `auto` went."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self.steps: Steps = []

    def look(self, at: float) -> None:
        for engine in self._scheduler.engines.values():
            for replica in engine.replicas.values():
                if replica.search is not None:
                    now = replica.search.size, replica.search.home
                    if not self.steps or self.steps[-1][1:] != now:
                        self.steps.append((round(at, 1), *now))

    async def watch(self, began: float) -> None:
        while True:
            self.look(time.monotonic() - began)
            await asyncio.sleep(0.05)


# ---------------------------------------------------------------- over sockets


class Load:
    """Clients that each send the next call when they have the answer of the last."""

    def __init__(self, url: str, tokens: int, clients: int) -> None:
        self.url, self.tokens, self.clients = url, tokens, clients
        self.done = 0
        "events of their streams: a token each, and two more a call"
        self._open = 0
        self._go = asyncio.Event()
        self._go.set()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        self._tasks = [asyncio.create_task(self._client(i)) for i in range(self.clients)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._http.close()

    async def turn_to(self, url: str) -> None:
        """Send no call until all have ended; then go on at another gateway. Two loads at once could be one too many."""
        self._go.clear()
        while self._open:  # noqa: ASYNC110  a count, not an event
            await asyncio.sleep(0.02)
        self.url = url
        self._go.set()

    async def rate(self, seconds: float) -> float:
        """Tokens per second over the next seconds."""
        before, start = self.done, time.monotonic()
        await asyncio.sleep(seconds)
        return (self.done - before) / (time.monotonic() - start)

    async def _client(self, number: int) -> None:
        rng = random.Random(number)
        while True:
            tokens = max(1, round(self.tokens * rng.uniform(0.5, 1.5)))
            words = " ".join(rng.choice(["tea", "sea", "bee", "key"]) for _ in range(12))
            body = {
                "model": "m",
                "messages": [{"role": "user", "content": f"Tell me of {words}"}],
                "max_tokens": tokens,
                "stream": True,
                "ignore_eos": True,
            }
            await self._go.wait()
            self._open += 1
            try:
                async with self._http.post(self.url + "/v1/chat/completions", json=body) as response:
                    async for chunk in response.content.iter_any():
                        self.done += chunk.count(b"data: ")
            except aiohttp.ClientError:
                pass  # llama.cpp now and then cuts a stream; its client asks again
            finally:
                self._open -= 1


async def live(url: str, engine: EngineSettings, tokens: int, clients: int, seconds: float) -> float:
    """Tokens per second through a gateway with a fixed window, after 3 s."""
    gateway, at = await _gateway(url, engine)
    async with Load(at, tokens, clients) as load:
        await asyncio.sleep(3.0)
        rate = await load.rate(seconds)
    await gateway.stop(0.1)
    return rate


async def side_by_side(url: str, engine: EngineSettings, best: int, tokens: int, clients: int, seconds: float) -> Pair:
    """`auto` learns for LEARN_S; then it and the best fixed window have the load in turns, SLICE_S each.

    Two gateways before one engine: the one that has no load learns nothing meanwhile, and forgets nothing.
    """
    auto, auto_at = await _gateway(url, structs.replace(engine, max_concurrency="auto"))
    fixed, fixed_at = await _gateway(url, structs.replace(engine, max_concurrency=best))
    trail, began = Trail(auto.scheduler), time.monotonic()
    rates: dict[str, list[float]] = {auto_at: [], fixed_at: []}
    async with Load(auto_at, tokens, clients) as load:
        watch = asyncio.create_task(trail.watch(began))
        await asyncio.sleep(LEARN_S)
        for _ in range(round(seconds / SLICE_S)):
            for at, measured in rates.items():
                await load.turn_to(at)
                await asyncio.sleep(SLICE_S / 3.0)
                measured.append(await load.rate(SLICE_S))
        watch.cancel()
    await auto.stop(0.1)
    await fixed.stop(0.1)
    return statistics.mean(rates[auto_at]), statistics.mean(rates[fixed_at]), trail.steps


async def _gateway(url: str, engine: EngineSettings) -> tuple[Gateway, str]:
    gateway = Gateway(Settings(listen="127.0.0.1:0", engines=[structs.replace(engine, replicas=[url])], shutdown_s=0.1))
    return gateway, await gateway.start()


@contextlib.asynccontextmanager
async def scripted(shape: str) -> AsyncIterator[str]:
    """The URL of a process of tests/shaped_engine.py."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(ROOT / "tests" / "shaped_engine.py"), "--shape", shape, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield (await process.stdout.readline()).decode().strip()
    finally:
        process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def embedded() -> AsyncIterator[str]:
    """The URL of llama.cpp with 8 slots."""
    from hocket.engines.embedded import EmbeddedSpec
    from hocket.engines.supervisor import EmbeddedEngine

    up: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    spec = EmbeddedSpec(weights="small", parallel=8, context=512, threads=1, alias="m")
    process = EmbeddedEngine("m", spec, on_up=lambda _, url: up.set_result(url), on_down=lambda _: None)
    await process.start()
    try:
        yield await up
    finally:
        await process.stop()


class OverSockets(NamedTuple):
    """An engine to measure."""

    start: Callable[[], contextlib.AbstractAsyncContextManager[str]]
    settings: EngineSettings
    tokens: int
    "of a call, on average"
    clients: int
    "more than any window of interest takes"
    windows: tuple[int, ...]

    async def run(self, args: argparse.Namespace) -> Result:
        async with self.start() as url:
            fixed = {}
            for window in self.windows:
                engine = structs.replace(self.settings, max_concurrency=window)
                fixed[window] = await live(url, engine, self.tokens, self.clients, args.fixed_seconds)
            best = max(fixed, key=fixed.__getitem__)
            return fixed, await side_by_side(url, self.settings, best, self.tokens, self.clients, args.seconds)


def _over_sockets() -> dict[str, OverSockets]:
    plain = EngineSettings(name="m", replicas=["http://127.0.0.1:1"])
    wide = (1, 2, 4, 8, 16, 20, 24, 32, 64)
    out = {
        f"scripted {shape}": OverSockets(lambda s=shape: scripted(s), plain, 10, 96, wide)  # type: ignore[misc]
        for shape in ("steep", "flat", "cliff")
    }
    llama = structs.replace(plain, kind="llamacpp")
    return out | {"embedded": OverSockets(embedded, llama, 24, 24, (1, 2, 4, 6, 8, 16))}


# ---------------------------------------------------------------- the table


def show(name: str, result: Result, verbose: bool) -> list[str]:
    """Print one line; return what does not hold."""
    fixed, (auto, best, steps) = result
    cells = "  ".join(f"{window}: {value:.0f}" for window, value in fixed.items())
    print(f"{name:18} {cells}  auto: {auto:.0f} = {auto / best:.3f} of the best, at {steps[-1][2]}", flush=True)
    if verbose:
        print("    " + "  ".join(f"{at:.1f}s {size}({home})" for at, size, home in steps))
    return [] if auto >= AT_LEAST * best else [f"{name}: auto reached {auto / best:.3f} of the best fixed window"]


def main() -> int:
    """Print the table; say what does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["simulated", "scripted", "embedded"])
    parser.add_argument("--seconds", type=float, default=60.0, help="for which `auto` is measured")
    parser.add_argument("--fixed-seconds", type=float, default=8.0, help="for which a live fixed window is measured")
    parser.add_argument("--steps", action="store_true", help="also print what `auto` did")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    runs: dict[str, Callable[[], Result]] = {
        f"simulated {shape}": lambda s=shape: simulated(s, args.seconds)  # type: ignore[misc]
        for shape in SIMULATED
    }
    runs |= {name: lambda e=engine: asyncio.run(e.run(args)) for name, engine in _over_sockets().items()}  # type: ignore[misc]
    results, wrong = {}, []
    print("tokens per second at each window")
    for name, run in runs.items():
        if args.only in {None, name.split()[0]}:
            results[name] = run()
            wrong += show(name, results[name], args.steps)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print("\n".join(wrong) or "all hold")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
