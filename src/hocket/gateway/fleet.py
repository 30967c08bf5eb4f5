"""The engines' replicas as the gateway sees them: brought, checked, changed and let go.

What a replica's silence means, and who gets calls, is the core's to decide: from here it hears facts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from pathlib import Path

from msgspec import Struct

from hocket.core import events as ev
from hocket.engines import observe, weights
from hocket.engines.embedded import EmbeddedSpec
from hocket.engines.supervisor import EmbeddedEngine
from hocket.gateway.driver import Driver
from hocket.gateway.upstream import Replica
from hocket.settings import EngineSettings, Settings, base_url, key_of

log = logging.getLogger("hocket.gateway")

NOT_SAID = observe.Observed()

Place = tuple[str, str]
"engine, replica"


class Served(Struct):
    """An engine under way."""

    settings: EngineSettings
    key: str | None
    embedded: EmbeddedEngine | None = None
    plain: bool = True
    "its answers are plain text as far as was seen, and can be gone on with"


class Fleet:
    """All replicas of all engines. Create it inside the event loop."""

    def __init__(self, driver: Driver, settings: Settings) -> None:
        self.replicas: dict[Place, Replica] = {}
        self.engines = {engine.name: Served(engine, engine_key(engine)) for engine in settings.engines}
        self._driver = driver
        self._timeouts, self._health = settings.timeouts, settings.health
        self._patience_s = settings.shutdown_s
        self._missed: set[Place] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._checks: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Make remote replicas known, begin to start embedded ones, and look after all of them."""
        paths = await _weights([served.settings for served in self.engines.values()])
        for served in self.engines.values():
            self._bring(served, paths)
        self._checks = asyncio.create_task(self._check_all())

    async def ready(self) -> None:
        """Wait until every replica of the embedded engines has answered once. Raises InputError if one never can."""
        for served in list(self.engines.values()):
            if served.embedded is not None:
                await served.embedded.ready()

    async def stop(self) -> None:
        """End the processes, close the connections. No call may be open."""
        if self._checks is not None:
            self._checks.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for served in self.engines.values():
            if served.embedded is not None:
                await served.embedded.stop()
        for replica in self.replicas.values():
            await replica.close()
        self.replicas.clear()

    # ---------------------------------------------------------------- replicas come and go

    def add(self, engine: str, replica: str, url: str) -> None:
        """A replica can take calls. One that is known already gets the settings of now."""
        served = self.engines[engine]
        # llama.cpp closes a connection after a streamed answer, although it announces keep-alive
        reuse = served.settings.kind not in {"embedded", "llamacpp"}
        before = self.replicas.get((engine, replica))
        self.replicas[engine, replica] = Replica(url, self._timeouts, api_key=served.key, reuse=reuse)
        if before is not None:
            before.retire()
        self._driver.tell(ev.ReplicaAdded(self._driver.clock(), engine, replica, served.settings.window_of(url)))

    def remove(self, engine: str, replica: str, died: bool = True) -> None:
        """A replica takes no more calls; those that it holds end, or fail, by themselves."""
        gone = self.replicas.pop((engine, replica), None)
        self._missed.discard((engine, replica))
        if gone is not None:
            self._driver.tell(ev.ReplicaRemoved(self._driver.clock(), engine, replica, died))
            gone.retire()

    def _bring(self, served: Served, paths: dict[str, Path]) -> None:
        engine = served.settings
        if engine.kind != "embedded":
            for url in remote(engine):
                self.add(engine.name, url, url)
        elif served.embedded is None:
            served.embedded = self._embed(engine)
            served.embedded.begin(paths[engine.name])

    def _embed(self, engine: EngineSettings) -> EmbeddedEngine:
        def serves() -> bool:
            """Not any more where other settings let it go: it ends its last calls, and speaks for no replica."""
            served = self.engines.get(engine.name)
            return served is not None and served.embedded is embedded

        def up(replica: str, url: str) -> None:
            if serves():
                self.add(engine.name, replica, url)

        def down(replica: str) -> None:
            if serves():
                self.remove(engine.name, replica)

        embedded = EmbeddedEngine(engine.name, embedded_spec(engine), up, down)
        return embedded

    # ---------------------------------------------------------------- the settings change

    async def change(self, settings: Settings) -> None:
        """Serve what `settings` say from now on. Raises InputError, and then nothing has changed.

        Calls on replicas that go end there. An embedded engine that is set up in another way starts anew.
        """
        new = {engine.name: Served(engine, engine_key(engine)) for engine in settings.engines}
        paths = await _weights(settings.engines)
        # from here on nothing waits: whoever asked for this may be gone at any moment, and must not leave half of it
        self._timeouts, self._health, self._patience_s = settings.timeouts, settings.health, settings.shutdown_s
        for name, old in self.engines.items():
            kept = new.get(name)
            if old.embedded is not None and kept is not None and _same_processes(old.settings, kept.settings):
                kept.embedded = old.embedded
                continue
            staying = set() if kept is None or old.embedded is not None else set(remote(kept.settings))
            leaving = [place for place in self.replicas if place[0] == name and place[1] not in staying]
            gone = [self.replicas[place] for place in leaving]
            for place in leaving:
                self.remove(*place, died=False)
            if old.embedded is not None:
                self._later(self._end(old.embedded, gone))
        self.engines = new
        self._driver.tell(ev.SettingsChanged(self._driver.clock(), settings.to_spec()))
        for served in new.values():
            self._bring(served, paths)
        for place, replica in list(self.replicas.items()):
            if new[place[0]].embedded is not None:
                self.add(*place, replica.url)

    async def _end(self, embedded: EmbeddedEngine, replicas: list[Replica]) -> None:
        """Let the calls that an embedded engine still holds end, for as long as calls may take to end; stop it."""
        waits = [replica.idle() for replica in replicas]
        try:
            await asyncio.wait_for(asyncio.gather(*waits), self._patience_s)
        except TimeoutError:
            pass
        finally:
            await embedded.stop()

    def _later(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ---------------------------------------------------------------- health

    async def _check_all(self) -> None:
        """Ask every replica how it is, for ever."""
        while True:
            await asyncio.sleep(self._health.interval_s)
            checks = [self._check(place, replica) for place, replica in self.replicas.items()]
            for result in await asyncio.gather(*checks, return_exceptions=True):
                if isinstance(result, Exception):
                    log.error("a health check failed: %r", result)

    async def _check(self, place: Place, replica: Replica) -> None:
        served = self.engines[place[0]]
        kind = served.settings.kind
        answer = await replica.ask("/v1/models" if kind == "openai" else "/health", self._health.timeout_s)
        healthy = answer is not None and answer[0] < 500
        observed = NOT_SAID
        if healthy and served.settings.auto_window:
            page = await replica.ask(observe.PATH, self._health.timeout_s)
            if page is not None and page[0] == 200:
                observed = observe.parse_metrics(page[1].decode("utf-8", "replace"))
        if self.replicas.get(place) is not replica:
            return
        if healthy != (place not in self._missed):
            why = replica.trouble if answer is None else f"status {answer[0]}"
            how = "answers again" if healthy else f"does not answer as it should: {why}"
            log.warning("replica %s of %s %s", place[1], place[0], how)
        if not healthy or place in self._missed or observed != NOT_SAID:
            at = self._driver.clock()
            event = ev.ReplicaObserved(at, *place, healthy, observed.running, observed.waiting, observed.kv_used)
            self._driver.tell(event)
        (self._missed.discard if healthy else self._missed.add)(place)


def remote(engine: EngineSettings) -> list[str]:
    """The base URLs of the replicas that somebody else runs."""
    return [base_url(url) for url in engine.replicas] if isinstance(engine.replicas, list) else []


def embedded_spec(engine: EngineSettings) -> EmbeddedSpec:
    """What the processes of an embedded engine run."""
    assert isinstance(engine.replicas, int)
    return EmbeddedSpec(
        weights=engine.weights or engine.name,
        replicas=engine.replicas,
        threads=engine.threads or 1,
        parallel=engine.window,
        context=engine.context,
        alias=engine.served[0],
        cpus=engine.cpus,
        nice=engine.nice,
    )


async def _weights(engines: Sequence[EngineSettings]) -> dict[str, Path]:
    """Where the weights of the embedded engines are: on disk from now on. Raises InputError."""
    paths = {}
    for engine in engines:
        if engine.kind == "embedded":
            spec = embedded_spec(engine)
            spec.check()
            paths[engine.name] = await asyncio.to_thread(weights.pull, spec.weights)
    return paths


def _same_processes(old: EngineSettings, new: EngineSettings) -> bool:
    return new.kind == "embedded" and embedded_spec(old) == embedded_spec(new)


def engine_key(engine: EngineSettings) -> str | None:
    """The key that the engine wants. Raises InputError if its environment variable holds none."""
    return None if engine.api_key_env is None else key_of(engine.api_key_env, f"engine {engine.name}: api_key_env")
