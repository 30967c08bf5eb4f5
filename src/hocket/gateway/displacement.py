"""One call's part in being displaced: whether it leaves its slot when the core wants that back, when, and with what.

A call leaves at once before its client has a byte of the answer, and behind any event of an answer that can be gone on
with. Every other call runs on, and the core is told so.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from hocket.gateway.driver import LiveCall
from hocket.gateway.resume import ONE_EACH, Draft, count_tokens
from hocket.gateway.upstream import Fields, Replica

if TYPE_CHECKING:
    from hocket.gateway.app import Gateway
    from hocket.settings import EngineSettings

log = logging.getLogger("hocket.gateway")


class Displaced(Exception):  # noqa: N818 - an order of the core, not a bug
    """The core wants the slot for another call."""


class Displacement:
    """Made by the task that carries the call. `streams`: whether the client asked for a stream.

    `kept`: whether the answer's text is kept, so that another slot can go on with it.
    """

    __slots__ = ("_call", "_cancels", "_gateway", "_streams", "_task", "draft", "kept", "passed", "wanted")

    def __init__(self, gateway: Gateway, call: LiveCall, streams: bool, kept: bool) -> None:
        self._gateway, self._call, self._streams = gateway, call, streams
        self._task = call.task
        self.kept = kept
        self.draft: Draft | None = None
        "the answer so far, where it is kept"
        self.passed = False
        "whether the client has bytes of an engine"
        self.wanted = False
        "whether the core wants the slot back"
        self._cancels = False
        "whether the task has been cancelled for that: once is enough, and whoever else does it means something else"
        call.displace = self._displace

    def _displace(self) -> None:
        """The core wants the slot back: now, or at the next event behind which there can be a joint.

        The task's own news may have led here: then it looks by itself, at the next event.
        """
        draft = self.draft
        if not draft.movable if draft is not None else self.passed or self._deaf:
            if draft is not None and draft.strange:
                self.not_plain("they hold more than text")
            self._call.stays()
            return
        self.wanted = True
        if self._task is None or self._task is asyncio.current_task() or self._cancels:
            return
        if draft is None or draft.fit:
            self._cancels = True
            self._task.cancel()

    @property
    def _deaf(self) -> bool:
        """Whether the replica would work on for nobody: llama.cpp does, on an answer that it does not stream."""
        engine = self._gateway.scheduler.calls[self._call.id].engine.name
        return not (self._streams or self.kept) and self._gateway.engine(engine).kind in ONE_EACH

    @property
    def due(self) -> bool:
        """Whether the call is to leave, and here can be a joint."""
        draft = self.draft
        return self.wanted and (draft.movable and draft.fit if draft is not None else not self.passed)

    def cancelled(self) -> bool:
        """Whether it was the core that cancelled the task, and nobody besides: not its client's going, nor an abort."""
        assert self._task is not None
        return self._cancels and not self._call.aborted and self._task.uncancel() == 0

    @property
    def resumes(self) -> bool:
        """Whether a part of the answer is there, and only the rest is wanted of the next replica."""
        return self.draft is not None and self.draft.passed

    def cut(self) -> int:
        """The part under way is over. Returns the tokens of the answer that need not be made again."""
        self.wanted = self._cancels = False
        if self.draft is None:
            return 0
        if not (self.passed or self.draft.movable):  # at its end there is nothing to go on with, and no client has any
            self.draft = None
            return 0
        return self.draft.cut()

    def not_plain(self, why: str) -> None:
        """No further call of this engine shall count on being gone on with, until the settings change."""
        name = self._gateway.scheduler.calls[self._call.id].engine.name
        served = self._gateway.fleet.engines.get(name)
        if served is not None and served.plain:
            served.plain = False
            log.warning("answers of %s cannot be gone on with (%s): only calls without a byte are displaced", name, why)

    async def count(self, replica: Replica, engine: EngineSettings, model: str, body: bytes, headers: Fields) -> None:
        """How many tokens the answer has so far, where its events do not tell: the engine knows."""
        draft = self.draft
        assert draft is not None
        if b'"stop"' in body or not draft.text.isascii() or engine.kind not in ONE_EACH:
            draft.counted(await count_tokens(replica, engine.kind, engine.upstream_model or model, draft.text, headers))
