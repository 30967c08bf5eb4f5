"""Drive recorded jobs against a live gateway, in real time, and report as `hocket simulate` does.

example: hocket replay jobs.jsonl --base-url http://127.0.0.1:8080 --json live.json
         hocket replay jobs.jsonl --base-url http://127.0.0.1:8080 --model-map gpt-4o=large --speed 2
"""

from __future__ import annotations

import argparse
import math
import os
from typing import TYPE_CHECKING

from hocket.errors import InputError

if TYPE_CHECKING:
    from hocket.replay import Replay, Target
    from hocket.trace import Job

LATE_S = 0.25
"jobs that begin later than this are worth a warning"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("jobs", metavar="JOBS.jsonl", help="a trace: one job a line")
    parser.add_argument("--base-url", required=True, metavar="URL", help="a gateway, or any engine of the OpenAI API")
    parser.add_argument("--api-key", metavar="KEY", help="also read from the variable HOCKET_API_KEY")
    parser.add_argument("--model-map", action="append", default=[], metavar="A=B", help="A in the trace is B there")
    parser.add_argument("--speed", type=float, default=1.0, metavar="X", help="arrivals and tools X times as fast")
    parser.add_argument("--name", default="live", help="what to call this run in the figures (%(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write all figures; - is standard output, without the table")


def run(args: argparse.Namespace) -> int:
    import asyncio
    import time

    from hocket.cli.simulate import print_table, write_json
    from hocket.replay import Target
    from hocket.sim.results import Run, report
    from hocket.trace import read_jobs

    if not 0 < args.speed < math.inf:
        raise InputError(f"--speed {args.speed}: use a number above 0, such as 2")
    key = args.api_key or os.environ.get("HOCKET_API_KEY")
    target = Target(args.base_url, key, _mapping(args.model_map), args.speed)
    jobs = read_jobs(args.jobs)
    began = time.perf_counter()
    found = asyncio.run(_replay(jobs, target))
    block = report([jobs], [Run(args.name, 0, found.outcome, time.perf_counter() - began)])
    block["prompt_tokens"] = dict(zip(("recorded", "sent"), found.prompt_tokens, strict=True))
    block["output_tokens"] = dict(zip(("recorded", "received"), found.output_tokens, strict=True))
    inputs = {"jobs": str(args.jobs), "base_url": args.base_url, "model_map": dict(target.models), "speed": args.speed}
    result = {"policies": {args.name: block}, "inputs": inputs}
    if args.json:
        write_json(result, args.json)
    if args.json != "-":
        print_table(result)
    _warn(found)
    return 1 if found.outcome.rejected else 0


def _mapping(pairs: list[str]) -> dict[str, str]:
    models = {}
    for pair in pairs:
        name, equals, there = pair.partition("=")
        if not (name and equals and there):
            raise InputError(f"--model-map {pair}: write it as NAME_IN_TRACE=NAME_THERE")
        models[name] = there
    return models


async def _replay(jobs: list[Job], target: Target) -> Replay:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from hocket.replay import replay

    columns = TextColumn("replaying"), BarColumn(), MofNCompleteColumn(), TextColumn("jobs"), TimeElapsedColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=len(jobs))
        return await replay(jobs, target, lambda job: bar.advance(task))


def _warn(found: Replay) -> None:
    """Say on standard error what makes the figures doubtful."""
    import sys

    for job, why in list(found.outcome.rejected.items())[:5]:
        print(f"job {job} did not complete: {why}", file=sys.stderr)
    for what, (recorded, real) in (("prompts", found.prompt_tokens), ("answers", found.output_tokens)):
        if abs(real - recorded) > 0.02 * recorded:
            print(f"{what} had {real} tokens in all, recorded are {recorded}", file=sys.stderr)
    if found.late_s > LATE_S:
        print(f"a job began {found.late_s:.2f} s late: this machine is too slow to drive these jobs", file=sys.stderr)
