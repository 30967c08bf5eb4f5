"""Run the gateway: an OpenAI-compatible server in front of your engines.

example: hocket serve                          (the embedded engine `small` on 127.0.0.1:8080)
         hocket serve --config hocket.yaml
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hocket.gateway.app import Gateway
    from hocket.gateway.logs import Redacting
    from hocket.settings import Settings


FLUSH_S = 1.0
"how much of the journal a crash may cost"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", help="settings; without it, the embedded engine `small`")
    parser.add_argument("--port", type=int, help="listen on this port instead of the one in the settings; 0 = any free")
    parser.add_argument("--policy", help="order calls by this policy, like las or 'urgency>las'")
    parser.add_argument("--journal", metavar="FILE", help="write all events and commands to this file")


def run(args: argparse.Namespace) -> int:
    from hocket.gateway import logs

    def reread() -> Settings:
        return _read(args)

    formatter = logs.configure(sys.stderr)
    settings = reread()
    _pull(settings)
    _allow_files()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_serve(settings, None if args.config is None else reread, formatter))


def _read(args: argparse.Namespace) -> Settings:
    """What the file and the command line say together."""
    from hocket.policies import parse_policy
    from hocket.settings import load_settings

    return load_settings(args.config).replaced(
        port=args.port,
        policy=None if args.policy is None else list(parse_policy(args.policy)),
        journal=args.journal,
    )


def _pull(settings: Settings) -> None:
    """Have the weights of embedded engines on disk before anything runs; the first time this takes a while."""
    from hocket.engines import weights

    for engine in settings.engines:
        if engine.kind == "embedded":
            weights.pull(engine.weights or engine.name)


def _allow_files() -> None:
    """Open as many files as the system lets this process: a connection is one, and the usual limit is 1,024."""
    try:
        import resource
    except ImportError:  # not there on every platform
        return
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except (OSError, ValueError):  # some systems say "unlimited" and do not mean it
        pass


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:  # not there on every platform
        return asyncio.new_event_loop
    return uvloop.new_event_loop


async def _serve(settings: Settings, reread: Callable[[], Settings] | None, formatter: Redacting | None = None) -> int:
    from hocket.errors import InputError
    from hocket.gateway.app import Gateway
    from hocket.gateway.logs import unforeseen
    from hocket.history.recorder import HistoryMetrics, recorder_of
    from hocket.journal import JournalWriter

    journal = JournalWriter(settings.journal, settings.to_spec()) if settings.journal else None
    history = recorder_of(settings)
    gateway = Gateway(settings, journal, observers=[history] if history else [], reread=reread, earlier=history)
    if formatter is not None:
        formatter.shows_text = lambda: gateway.settings.log_text
    if history:
        gateway.metrics.registry.register(HistoryMetrics(history.writer))
        history.start()
    stop, again = asyncio.Event(), asyncio.Event()
    asyncio.get_running_loop().set_exception_handler(unforeseen)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, again.set)
    reloads = asyncio.create_task(_reload_whenever(again, gateway, reread))
    try:
        _greet(settings, await gateway.start(), history.where if history else None)
        # what a call leaves behind is freed at once, by its last reference; looking for cycles took 8 % of the time
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 50)
        stopped, ready = asyncio.create_task(stop.wait()), asyncio.create_task(gateway.engines_ready())
        waiting: set[asyncio.Task[Any]] = {stopped, ready}
        while stopped in waiting:
            done, waiting = await asyncio.wait(waiting, timeout=FLUSH_S, return_when=asyncio.FIRST_COMPLETED)
            if ready in done:
                ready.result()  # raises where an engine can never run
                print("ready", flush=True)
            _kept(journal.flush if journal else None)
        if live := len(gateway.driver.live):
            print(f"stopping: {live} call(s) may take {settings.shutdown_s:g} s to end", file=sys.stderr)
    except InputError:
        await gateway.stop(0)  # calls that wait for an engine which never comes need not be waited for
        raise
    finally:
        reloads.cancel()
        await gateway.stop()
        _kept(journal.close if journal else None)
        if history:
            history.stop()
    return 0


async def _reload_whenever(again: asyncio.Event, gateway: Gateway, reread: Callable[[], Settings] | None) -> None:
    """On SIGHUP, read the settings again. Bad ones are told, and change nothing."""
    import logging

    from hocket.errors import InputError

    while await again.wait():
        again.clear()
        try:
            if reread is None:
                raise InputError("started without --config: there is no file to read again")
            await gateway.reload(await asyncio.to_thread(reread))
        except InputError as error:
            print(f"nothing has changed: {error}", file=sys.stderr)
        except Exception:  # a bug here must not cost all reloads to come
            logging.getLogger("hocket.gateway").exception("the settings were not read again")


def _kept(write: Callable[[], None] | None) -> None:
    """Write what is left of the journal. A full disk ends the journal, which the driver tells, and nothing else."""
    try:
        if write is not None:
            write()
    except OSError:
        pass


def _greet(settings: Settings, url: str, history: str | None) -> None:
    model = settings.engines[0].served[0]
    key = ' -H "Authorization: Bearer $KEY"' if settings.tenants else ""
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}]}}'
    print(f"hocket listens on {url}/v1 (policy {' > '.join(settings.orderings)})")
    if history:
        print(f"jobs and calls are recorded in {history}, without any text (`history: off` ends that)")
    print(f"try: curl {url}/v1/chat/completions{key} -H 'Content-Type: application/json' -d '{body}'", flush=True)
