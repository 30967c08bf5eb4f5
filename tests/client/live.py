"""A real gateway before an engine that calls tools, in a thread of its own; what it heard is read in its journal."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Self

from openai import AsyncOpenAI

from hocket.client.http import Outbox
from hocket.core import events as ev
from hocket.gateway.app import Gateway
from hocket.journal import JournalWriter, read_journal
from hocket.settings import EngineSettings, Settings
from tests.tool_engine import ToolEngine


class Live:
    """`url` is the gateway's base URL with /v1."""

    clients: list[AsyncOpenAI]

    def __init__(self, folder: Path) -> None:
        self._path = folder / "journal.jsonl"
        self.engine = ToolEngine(delay_s=0.005)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.url = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10) + "/v1"
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _start(self) -> str:
        await self.engine.start()
        engine = EngineSettings(name="small", replicas=[self.engine.url], max_concurrency=8)
        settings = Settings(listen="127.0.0.1:0", shutdown_s=1.0, engines=[engine])
        self._journal = JournalWriter(self._path, settings.to_spec())
        self.gateway = Gateway(settings, self._journal)
        return await self.gateway.start()

    async def _stop(self) -> None:
        await self.gateway.stop()
        await self.engine.stop()
        self._journal.close()

    def events(self) -> list[ev.Event]:
        """All so far, once what the hooks reported has come."""
        assert Outbox.flush()

        async def flush() -> None:
            self._journal.flush()

        asyncio.run_coroutine_threadsafe(flush(), self._loop).result(10)
        return [record.event for _, record in read_journal(self._path)[1]]

    def jobs(self) -> dict[str, list[tuple[str, str, str | None]]]:
        """Of each job what it did, in order: first ("job", app, None), then ("call" or "tool", its name, parent)."""
        jobs: dict[str, list[tuple[str, str, str | None]]] = {}
        for event in self.events():
            match event:
                case ev.JobOpened():
                    jobs[event.job] = [("job", event.app, None)]
                case ev.CallArrived():
                    jobs[event.job].append(("call", event.stage, event.parent))
                case ev.ToolStarted():
                    jobs[event.job].append(("tool", event.name, event.parent))
                case ev.ToolFinished():
                    jobs[event.job].append(("tool-end", "", None))
                case ev.JobClosed():
                    jobs[event.job].append(("abort" if event.abort else "close", "", None))
        return jobs

    def steps(self) -> list[tuple[str, str, str | None]]:
        """Those of the only job, without the ends of its tools."""
        (steps,) = self.jobs().values()
        assert len([s for s in steps if s[0] == "tool"]) == len([s for s in steps if s[0] == "tool-end"])
        return [step for step in steps if step[0] != "tool-end"]
