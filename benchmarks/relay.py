"""What does hocket cost as a relay? Beside a bare relay of the same stack and, when asked for, the field's routers.

    python benchmarks/relay.py                                            (about 3 minutes)
    python benchmarks/relay.py --peers vllm-router,sglang-router,litellm  (makes a venv for each the first time)
    python benchmarks/relay.py --only streams --streams 5000

A scripted engine and a load generator share one core, each relay has the other one to itself while its turn lasts. In
hocket identity, queue, metrics, journal and history are on, as an operator would have it; `lean` is hocket without
journal and history. All relays run at once and take turns, case by case and round by round, so that noise hits them
alike; of the rounds the median counts. Cases: `post`, plain posts on 64 connections; `stream`, streams of 20 chunks
with 0 ms between the engine's steps; `stream 5 ms`; `alone`, one post at a time. CPU time a call is the relay's own,
steadier than the rate. Then 5,000 streams are opened before the first of them begins. Exit code 1 if a ratio that must
hold does not, a call was not answered, or a chunk is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import msgspec
from _relays import MAX_FILES, PEERS, Relay, bare, free_port, hocket, install, peer
from _wire import CHUNKS, Counted, Wire
from rich.console import Console
from rich.table import Table

CASES = {
    "post": {"stream": False, "connections": 64},
    "stream": {"stream": True, "connections": 64},
    "stream 5 ms": {"stream": True, "connections": 64, "gap_s": 0.005},
    "alone": {"stream": False, "connections": 1},
}
RATE_CASES = [case for case in CASES if case != "alone"]
AT_LEAST = {
    ("hocket", "bare"): dict.fromkeys(RATE_CASES, 0.7),
    ("hocket", "lean"): dict.fromkeys(RATE_CASES, 0.9),
    ("hocket", "vllm-router"): {"post": 0.5, "stream": 1.0, "stream 5 ms": 0.99},
    ("hocket", "litellm"): {"post": 30.0, "stream": 30.0},
}
"ratios of rates; with 5 ms between chunks 64 connections load no relay fully, so that equal is the best there is"
MOST_MB = 400.0
"resident memory with 5,000 open streams"


class Figures(msgspec.Struct):
    """One system in one case, a value a round."""

    rates: list[float] = []
    cpu_us: list[float] = []
    p50_ms: list[float] = []


def started(stack: ExitStack, args: argparse.Namespace, wire: Wire, directory: Path) -> dict[str, Relay]:
    """Every relay that takes part, up and answering."""
    engine = f"http://127.0.0.1:{wire.port}"
    relays: dict[str, Relay] = {}

    def start(name: str, port: int, argv: list[str], env: dict[str, str]) -> None:
        log = stack.enter_context((directory / f"{name}.log").open("wb"))
        relays[name] = Relay(name, argv, port, log, env, cpu=args.cpus[1])
        stack.callback(relays[name].close)

    variants = {"hocket": (True, True), "lean": (False, False)}
    if args.apart:
        variants |= {"journal": (True, False), "history": (False, True)}
    for name, (journal, history) in variants.items():
        port = free_port()
        start(name, port, hocket(port, engine, directory / name, journal=journal, history=history), {})
    port = free_port()
    start("bare", port, bare(port, engine), {})
    for name in args.peers:
        port = free_port()
        start(name, port, *peer(name, port, engine, directory / name))
    for relay in relays.values():
        wire.wait_for(relay.wait_until_up)
        wire.run(relay.port, stream=True, connections=4, seconds=0.3)  # what a first request sets up is not counted
    return relays


def measure(
    wire: Wire, relays: dict[str, Relay], args: argparse.Namespace
) -> tuple[dict[str, dict[str, Figures]], list[str]]:
    """All cases, all systems, round by round; and what went wrong."""
    figures = {case: {name: Figures() for name in ("direct", *relays)} for case in CASES}
    wrong: list[str] = []
    for round_ in range(args.rounds):
        names = ["direct", *relays]
        for case, load in CASES.items():
            names = names[1:] + names[:1]
            for name in names:
                relay = relays.get(name)
                before = relay.cpu_s() if relay else 0.0
                counted = wire.run(relay.port if relay else wire.port, seconds=args.seconds, **load)
                note(figures[case][name], counted, relay.cpu_s() - before if relay else 0.0)
                if counted.wrong or counted.unanswered:
                    first = counted.wrong[0] if counted.wrong else b""
                    wrong.append(
                        f"{name}, {case}: {len(counted.wrong)} wrong, {counted.unanswered} unanswered; {first!r}"
                    )
            print(f"round {round_ + 1} of {args.rounds}: {case}", end="   \r", file=sys.stderr, flush=True)
    return figures, wrong


def note(into: Figures, counted: Counted, cpu_s: float) -> None:
    done = len(counted.latencies)
    into.rates.append(counted.rate)
    into.cpu_us.append(1e6 * cpu_s / max(counted.answered, 1))
    into.p50_ms.append(1e3 * statistics.median(counted.latencies) if done else float("nan"))


def report(figures: dict[str, dict[str, Figures]]) -> list[str]:
    """Print the tables; return what does not hold."""
    console = Console(width=110)
    for case, by_name in figures.items():
        columns = ("", "calls/s", "to bare", "CPU us/call", "p50 ms", "p50 added ms")
        table = Table(*columns, title=case, title_justify="left", box=None, header_style="bold")
        for column in table.columns[1:]:
            column.justify = "right"
        direct = statistics.median(by_name["direct"].p50_ms)
        for name, found in by_name.items():
            rate, p50 = statistics.median(found.rates), statistics.median(found.p50_ms)
            cpu = statistics.median(found.cpu_us)
            table.add_row(
                name,
                f"{rate:,.0f}",
                f"{ratio(found, by_name['bare']):.2f}",
                f"{cpu:,.0f}" if cpu else "",
                f"{p50:.2f}",
                f"{p50 - direct:.2f}" if case == "alone" and name != "direct" else "",
            )
        console.print(table)
        console.print()
    wrong = []
    for (name, other), least in AT_LEAST.items():
        for case, at_least in least.items():
            if other in figures[case]:
                found = ratio(figures[case][name], figures[case][other])
                holds = found >= at_least
                console.print(f"{case}: {name} / {other} = {found:.2f}, must be >= {at_least:g}")
                if not holds:
                    wrong.append(
                        f"{case}: {name} does only {found:.2f} of what {other} does; {at_least:g} is asked for"
                    )
    return wrong


def ratio(one: Figures, other: Figures) -> float:
    """The median of the rounds' ratios: two neighbours of one round met the same noise."""
    return statistics.median(a / b if b else float("inf") for a, b in zip(one.rates, other.rates, strict=True))


def many_streams(wire: Wire, args: argparse.Namespace, directory: Path) -> tuple[dict[str, object], list[str]]:
    """Open `args.streams` streams through a hocket of their own, all before the first begins."""
    port, name = free_port(), f"{args.streams:,} open streams"
    argv = hocket(port, f"http://127.0.0.1:{wire.port}", directory / "many", journal=True, history=True, window=10_000)
    peak: list[float] = []
    with (directory / "many.log").open("wb") as log:
        relay = Relay("hocket", argv, port, log, {}, cpu=args.cpus[1])
        try:
            wire.wait_for(relay.wait_until_up)
            idle = relay.rss_mb()
            counted = wire.open_streams(port, args.streams, 0.5, lambda: peak.append(relay.rss_mb()))
            peak.append(relay.rss_mb())
        finally:
            relay.close()
    whole = len(counted.latencies)
    print(f"{name}: {whole:,} complete with all {CHUNKS} chunks, in {counted.seconds:.1f} s;", end=" ")
    print(f"resident {idle:.0f} MB idle, {max(peak):.0f} MB at the peak, must be < {MOST_MB:.0f}")
    wrong = []
    if whole != args.streams:
        first = counted.wrong[0] if counted.wrong else b""
        wrong.append(f"{name}: {len(counted.wrong)} wrong, {counted.unanswered} unanswered; the first: {first!r}")
    if max(peak) >= MOST_MB:
        wrong.append(f"{name}: {max(peak):.0f} MB")
    return {"streams": args.streams, "complete": whole, "idle_mb": idle, "peak_mb": max(peak)}, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=lambda text: text.split(","), default=[], help=",".join(PEERS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each run")
    parser.add_argument("--streams", type=int, default=5000, help="open streams; 0 leaves this part out")
    parser.add_argument("--only", choices=("rates", "streams"))
    parser.add_argument("--apart", action="store_true", help="measure journal and history also each on its own")
    parser.add_argument("--cpus", type=lambda text: [int(n) for n in text.split(",")], default=[0, 1])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if unknown := set(args.peers) - set(PEERS):
        parser.error(f"--peers: {', '.join(sorted(unknown))} is none of {', '.join(PEERS)}")
    for name in args.peers:
        install(name)
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    os.sched_setaffinity(0, {args.cpus[0]})
    wire, result, wrong = Wire(), {}, []
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        if args.only != "streams":
            with ExitStack() as stack:
                figures, wrong = measure(wire, started(stack, args, wire, directory), args)
            result["cases"] = msgspec.to_builtins(figures)
            wrong += report(figures)
        if args.only != "rates" and args.streams:
            result["streams"], more = many_streams(wire, args, directory)
            wrong += more
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print("\n".join(wrong) or "all hold")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
