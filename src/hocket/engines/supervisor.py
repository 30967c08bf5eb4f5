"""Keeps the processes of an embedded engine running: starts, reports, restarts, stops."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from pathlib import Path
from typing import Self

from hocket.engines import weights
from hocket.engines.embedded import BAD_INPUT, EmbeddedSpec, command
from hocket.errors import InputError

FIRST_BACKOFF_S = 0.2
LAST_BACKOFF_S = 10.0
"the pause before a restart doubles up to this; a process that lived so long starts again from FIRST_BACKOFF_S"
STOP_S = 1.0
"from end of input to SIGKILL: an engine has nothing to save"

log = logging.getLogger(__name__)


class EmbeddedEngine:
    """The replicas of one embedded engine.

    `on_up(replica, url)` tells that a replica answers at `url` (a new one after each restart), `on_down(replica)` that
    it died and will be back. Both are called on the event loop, in that order. `stop` reports nothing.
    """

    def __init__(
        self,
        name: str,
        spec: EmbeddedSpec,
        on_up: Callable[[str, str], None] = lambda replica, url: None,
        on_down: Callable[[str], None] = lambda replica: None,
    ) -> None:
        spec.check()
        self.name = name
        self.spec = spec
        self.urls: dict[str, str] = {}
        "replica -> base URL, of those that answer now"
        self.restarts = 0
        self._on_up = on_up
        self._on_down = on_down
        self._keepers: list[asyncio.Task[None]] = []
        self._ready: list[asyncio.Future[None]] = []

    async def start(self) -> None:
        """Fetch the weights if need be and begin to start the replicas. Raises InputError if they cannot be had."""
        self.begin(await asyncio.to_thread(weights.pull, self.spec.weights))

    def begin(self, path: Path) -> None:
        """Begin to start the replicas, of the weights that are there."""
        loop = asyncio.get_running_loop()
        for index in range(self.spec.replicas):
            ready = loop.create_future()
            ready.add_done_callback(_seen)
            self._ready.append(ready)
            self._keepers.append(asyncio.create_task(self._keep(index, path, ready), name=f"{self.name}-{index}"))

    async def ready(self) -> None:
        """Wait until each replica has answered once. Raises InputError if one never can."""
        await asyncio.gather(*(asyncio.shield(ready) for ready in self._ready))

    async def stop(self) -> None:
        """End all processes; returns when they are gone."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        self._keepers.clear()
        self._ready.clear()
        self.urls.clear()

    async def __aenter__(self) -> Self:
        try:
            await self.start()
            await self.ready()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _keep(self, index: int, path: Path, ready: asyncio.Future[None]) -> None:
        """One replica, for ever: start it, wait for its end, pause, again."""
        replica, backoff = f"{self.name}-{index}", FIRST_BACKOFF_S
        while True:
            started = time.monotonic()
            code: int | None = None
            try:
                code = await self._live(replica, command(self.spec, path, index), ready)
                ending = f"ended ({_ending(code)})"
            except OSError as error:  # no memory, or no file handle, for another process: that may pass
                ending = f"could not start ({error})"
            if code == BAD_INPUT and not ready.done():
                ready.set_exception(InputError(f"engine {self.name} cannot start with {path}; its message is above"))
                return
            if time.monotonic() - started >= LAST_BACKOFF_S:
                backoff = FIRST_BACKOFF_S
            log.warning("engine process %s %s; it starts again in %.1f s", replica, ending, backoff)
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, LAST_BACKOFF_S)
            self.restarts += 1

    async def _live(self, replica: str, words: list[str], ready: asyncio.Future[None]) -> int:
        """One process from start to end. Returns its exit code."""
        process = await asyncio.create_subprocess_exec(*words, stdin=PIPE, stdout=PIPE)
        assert process.stdout is not None
        try:
            async for line in process.stdout:
                if line.startswith(b'{"url"'):
                    url = json.loads(line)["url"]
                    self.urls[replica] = url
                    self._on_up(replica, url)
                    if not ready.done():
                        ready.set_result(None)
            code = await process.wait()
        finally:
            await _end(process)
        if self.urls.pop(replica, None) is not None:
            self._on_down(replica)
        return code


async def _end(process: Process) -> None:
    """See that the process is gone, even while this task is being cancelled."""
    if process.returncode is not None:
        return
    assert process.stdin is not None
    process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), STOP_S)
    except TimeoutError:
        process.kill()
        await process.wait()
    except asyncio.CancelledError:
        process.kill()
        raise


def _ending(code: int) -> str:
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"


def _seen(ready: asyncio.Future[None]) -> None:
    """Mark an exception as seen: not everyone waits for `ready`, and the process has printed why."""
    if not ready.cancelled():
        ready.exception()
