"""Three compound applications on two embedded engines, first under one policy, then under another.

example: hocket demo
         hocket demo --stay                      (the gateway stays up afterwards, to be played with)
         hocket simulate hocket-demo/jobs.jsonl --engines engines.yaml --policy call-fcfs,default,oracle
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hocket.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from hocket.demo.passes import Pass


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--stay", action="store_true", help="leave the last gateway up until interrupted")
    parser.add_argument("--json", metavar="FILE", help="write all figures, in the form of `hocket simulate --json`")
    parser.add_argument("--policy", default="call-fcfs,default", help="one pass for each (%(default)s)")
    parser.add_argument("--seed", type=int, help="other jobs of the same kind; figures then compare with no others")
    parser.add_argument("-o", "--output", metavar="DIR", default="hocket-demo", help="logs and the trace (%(default)s)")


def run(args: argparse.Namespace) -> int:
    import asyncio
    import importlib.util

    from hocket.policies import compose, parse_policy

    if importlib.util.find_spec("openai") is None:
        raise InputError("the demo's applications need the openai package: pip install 'hocket[demo]'")
    policies = [policy.strip() for policy in args.policy.split(",")]
    for policy in policies:
        compose(parse_policy(policy))  # a name that is none is told before anything starts
    if len(set(policies)) < len(policies):
        raise InputError("--policy: name each policy once")
    directory = Path(args.output)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{directory}: cannot be made ({error.strerror}); choose another with -o") from None
    return asyncio.run(_demo(args, policies, directory))


async def _demo(args: argparse.Namespace, policies: list[str], directory: Path) -> int:
    import time
    from contextlib import AsyncExitStack

    from rich.console import Console

    from hocket.demo import mix, show
    from hocket.demo.passes import Gateway, play
    from hocket.demo.rehearsal import write_profiles
    from hocket.engines import weights

    console = Console()
    seed = mix.SEED if args.seed is None else args.seed
    tasks = mix.draw(seed)
    for name in ("small", "large"):
        console.print(f"weights of [bold]{name}[/]: {weights.pull(name)}")
    folder = directory / "profiles"
    console.print(f"profiles, learned from {await write_profiles(folder, seed)} other jobs: [bold]{folder}[/]")
    console.print(f"{len(tasks)} jobs of three applications, once under each policy: {', '.join(policies)}")
    began = time.perf_counter()
    passes: dict[str, Pass] = {}
    async with AsyncExitStack() as to_the_end:
        for policy in policies:
            gateway = Gateway(directory, policy, folder)
            stay = args.stay and policy == policies[-1]
            async with AsyncExitStack() as this_pass:
                with console.status(f"{policy}: a fresh gateway and its two engines are starting"):
                    await (to_the_end if stay else this_pass).enter_async_context(gateway)
                with show.Bars(console, policy, tasks) as bars:
                    passes[policy] = await play(gateway.url, tasks, bars.told, bars.ended)
        _tell(console, args, passes, time.perf_counter() - began, {"policies": policies, "seed": seed}, directory)
        if args.stay:
            await _stay(console, gateway.url)
    return 0


def _tell(
    console: Console, args: argparse.Namespace, passes: dict[str, Pass], wall_s: float, inputs: Any, directory: Path
) -> None:
    from hocket.cli.simulate import write_json
    from hocket.demo import show
    from hocket.trace import write_jobs

    found = show.result(passes, wall_s, inputs)
    trace = directory / "jobs.jsonl"
    write_jobs(trace, next(iter(passes.values())).jobs)
    console.print(show.table(found))
    console.print(show.work_line(found), soft_wrap=True)
    console.print(f"{wall_s:.0f} s in all. Replay or simulate these jobs: {trace}", soft_wrap=True)
    if args.json:
        write_json(found, args.json)


async def _stay(console: Console, url: str) -> None:
    """Keep the gateway up until Ctrl-C or SIGTERM."""
    import asyncio
    import signal

    body = '{"model": "small", "messages": [{"role": "user", "content": "Hello"}]}'
    ask = f"curl {url}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'"
    console.print(f"The gateway stays up at {url}/v1 (Ctrl-C ends it):\n  {ask}", markup=False, soft_wrap=True)
    stop = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    await stop.wait()
