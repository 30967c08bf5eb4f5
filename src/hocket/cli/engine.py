"""Pull weights, run an embedded engine, profile any engine.

example: hocket engine pull small
         hocket engine run small --port 9001
         hocket engine profile http://127.0.0.1:9001 -o engines.yaml
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hocket.errors import InputError

if TYPE_CHECKING:
    from hocket.engines.embedded import EmbeddedSpec
    from hocket.engines.profile import Profile

NAME = "small, large, hf:OWNER/REPO/FILE.gguf, or the path of a .gguf file"


def configure(parser: argparse.ArgumentParser) -> None:
    """Three commands of their own."""
    commands = parser.add_subparsers(dest="command", metavar="pull|run|profile", required=True)

    pull = _command(commands, "pull", "fetch weights into the cache and print their path", "hocket engine pull large")
    pull.add_argument("name", metavar="NAME", help=NAME)
    pull.add_argument("--json", action="store_true", help="print name, path and size as JSON")

    run = _command(commands, "run", "run an embedded engine until interrupted", "hocket engine run small --port 9001")
    run.add_argument("name", metavar="NAME", help=NAME)
    run.add_argument("--port", type=int, default=0, help="of 127.0.0.1; default: any free one")
    run.add_argument("--replicas", type=int, default=1, help="processes (1)")
    _embedded_options(run)

    profile = _command(
        commands, "profile", "measure an engine and fit the simulator's engine model to it",
        "hocket engine profile http://127.0.0.1:9001 --name small -o engines.yaml",
    )  # fmt: skip
    profile.add_argument("engine", metavar="URL|NAME", help="an OpenAI engine, or an embedded one to start for this")
    profile.add_argument("--model", help="as the engine calls it (the first that it lists)")
    profile.add_argument("--name", help="of the engine in engines.yaml (the model's)")
    profile.add_argument(
        "--max-concurrency", type=int, metavar="N", help="measure up to N calls at once (its slots, or 8)"
    )
    profile.add_argument("--seconds", type=float, default=50.0, metavar="S", help="about how long to measure (50)")
    profile.add_argument(
        "--load", action="append", default=[], metavar="URL|NAME",
        help="keep this engine busy meanwhile: for engines that share a machine (may be repeated)",
    )  # fmt: skip
    profile.add_argument("--api-key-env", metavar="VAR", help="environment variable that holds the engine's key")
    profile.add_argument("-o", "--output", metavar="FILE", help="write engines.yaml here (standard output)")
    profile.add_argument("--json", action="store_true", help="print everything that was measured as JSON instead")
    _embedded_options(profile)


def _command(commands: Any, name: str, text: str, example: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text, epilog=f"example: {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    return parser


def _embedded_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("of an embedded engine")
    group.add_argument("--threads", type=int, help="CPU threads of a process (half of the CPUs)")
    group.add_argument("--parallel", type=int, default=8, help="slots: calls at once (8)")
    group.add_argument("--context", type=int, default=2048, help="tokens of a slot, prompt and answer together (2048)")
    group.add_argument("--chat-template", help="`plain`, for base models (what the weights need)")
    group.add_argument("--cpus", type=_cpus, metavar="LIST", help="pin to these CPUs, as 0 or 0,1")


def run(args: argparse.Namespace) -> int:
    """Do what `args.command` says."""
    actions: dict[str, Callable[[argparse.Namespace], int]] = {"pull": _pull, "run": _run, "profile": _profile}
    return actions[args.command](args)


def _pull(args: argparse.Namespace) -> int:
    from hocket.engines import weights

    path = weights.pull(args.name)
    print(json.dumps({"name": args.name, "path": str(path), "bytes": path.stat().st_size}) if args.json else path)
    return 0


def _run(args: argparse.Namespace) -> int:
    from hocket.engines import weights

    weights.pull(args.name)  # before there is a loop: a download can then be interrupted
    return asyncio.run(_serve(args.name, _spec(args, args.name, args.replicas, args.port)))


async def _serve(name: str, spec: EmbeddedSpec) -> int:
    from hocket.engines.supervisor import EmbeddedEngine

    def up(replica: str, url: str) -> None:
        print(f"{replica} answers at {url}/v1", flush=True)

    def down(replica: str) -> None:
        print(f"{replica} died; it is being started again", file=sys.stderr, flush=True)

    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):  # also while it starts: an engine that crashes never gets ready
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        async with EmbeddedEngine(Path(name).stem, spec, up, down):
            await asyncio.Event().wait()
    except asyncio.CancelledError:
        pass
    return 0


def _profile(args: argparse.Namespace) -> int:
    if args.seconds < 5:
        raise InputError(f"--seconds {args.seconds:g}: use 5 or more")
    if args.max_concurrency is not None and args.max_concurrency < 1:
        raise InputError(f"--max-concurrency {args.max_concurrency}: use 1 or more")
    if args.output:
        _writable(Path(args.output).absolute())
    result = asyncio.run(_measure(args))
    name = args.name or result.model
    if args.json:
        import msgspec

        print(msgspec.json.encode(result).decode())
    else:
        _show(result)
    if args.output:
        Path(args.output).write_text(result.engine_yaml(name), encoding="utf-8")
    elif not args.json:
        print(result.engine_yaml(name), end="")
    return 0


def _writable(file: Path) -> None:
    """Raise InputError before a minute is spent on what cannot be kept."""
    if not file.parent.is_dir():
        raise InputError(f"{file}: no such folder; make it first")
    if file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK):
        raise InputError(f"{file}: cannot be written; choose another file")


async def _measure(args: argparse.Namespace) -> Profile:
    from hocket.engines.probe import Probe, keep_busy
    from hocket.engines.profile import profile
    from hocket.settings import key_of

    key = None if args.api_key_env is None else key_of(args.api_key_env, "--api-key-env")
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(_reachable(args, args.engine))
        others = [await stack.enter_async_context(_reachable(args, other)) for other in args.load]
        probe = await stack.enter_async_context(Probe(url, args.model, key))
        loads = [await stack.enter_async_context(Probe(other)) for other in others]
        busy = [asyncio.create_task(keep_busy(load, 4)) for load in loads]
        try:
            with _progress(args.seconds) as report:
                result = await profile(probe, args.seconds, args.max_concurrency, report)
            for task in busy:
                if task.done():
                    await task  # a load that broke off has falsified the result
            return result
        finally:
            for task in busy:
                task.cancel()
            await asyncio.gather(*busy, return_exceptions=True)


@asynccontextmanager
async def _reachable(args: argparse.Namespace, engine: str) -> AsyncIterator[str]:
    """The URL of `engine`, which is one or names weights to be served for as long as this takes."""
    if engine.startswith(("http://", "https://")):
        yield engine
        return
    from hocket.engines.supervisor import EmbeddedEngine

    async with EmbeddedEngine(Path(engine).stem, _spec(args, engine)) as embedded:
        yield next(iter(embedded.urls.values()))


def _spec(args: argparse.Namespace, name: str, replicas: int = 1, port: int = 0) -> EmbeddedSpec:
    from hocket.engines.embedded import EmbeddedSpec

    return EmbeddedSpec(
        weights=name, replicas=replicas, port=port, threads=args.threads, parallel=args.parallel,
        context=args.context, chat_template=args.chat_template, cpus=args.cpus,
    )  # fmt: skip


def _cpus(text: str) -> list[int]:
    try:
        return [int(cpu) for cpu in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of CPU numbers such as 0,1") from None


@contextmanager
def _progress(seconds: float) -> Iterator[Callable[[float, str], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("profile"), BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=seconds)
        yield lambda gone, what: bar.update(task, completed=min(gone, seconds), description=what)


def _show(result: Profile) -> None:
    """The table, on standard error: standard output is for engines.yaml."""
    from rich.console import Console
    from rich.table import Table

    table = Table("measured", "seconds", "engine model", "off by", title=f"{result.model}, {result.seconds:.0f} s")
    for column in table.columns[1:]:
        column.justify = "right"
    for what, measured, predicted in result.rows():
        table.add_row(what, f"{measured:.4f}", f"{predicted:.4f}", f"{predicted / measured - 1:+.0%}")
    console = Console(stderr=True)
    console.print(table)
    console.print(f"fit error, mean (most): {result.errors()}")
