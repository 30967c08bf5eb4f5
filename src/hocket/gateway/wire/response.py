"""One answer of a replica, as its reader sees it."""

from __future__ import annotations

import asyncio
from typing import Protocol

from aiohttp import hdrs
from multidict import CIMultiDict

MAX_WHOLE = 2**28
"bytes of an answer that is read as a whole"
HIGH_WATER = 2**18
"bytes of an answer that wait for their reader before the engine is made to wait"


class Source(Protocol):
    """The connection that an answer comes from."""

    def heard(self) -> None:
        """Silence counts from now."""

    def flow(self) -> None:
        """Read on."""

    def abort(self) -> None:
        """Cut it."""


class WireError(Exception):
    """A replica did not answer, or not all: `kind` is connect, reset, timeout or garbage."""

    def __init__(self, kind: str, why: str) -> None:
        super().__init__(why)
        self.kind = kind


class Response:
    """One answer, from its headers on. Read it with `read` or `readany`; `close` it when done with."""

    __slots__ = (
        "_chunks", "_connection", "_error", "_loop", "_size", "_waiter", "_whole", "complete", "ends_by_close",
        "headers", "silence_s", "status",
    )  # fmt: skip

    def __init__(self, connection: Source, silence_s: float, loop: asyncio.AbstractEventLoop) -> None:
        self.status = 0
        self.headers: CIMultiDict[str] = CIMultiDict()
        self.ends_by_close = False
        "nothing but the closing of the connection marks the end, so that a cut cannot be told from it"
        self.silence_s = silence_s
        "how long whoever waits for it waits for the next byte"
        self.complete = False
        self._connection: Source | None = connection
        self._loop = loop
        self._chunks: list[bytes] = []
        self._size = 0
        self._error: WireError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._whole = False

    async def read(self) -> bytes:
        """All of the body that is left. Raises WireError."""
        self._whole = True
        if self._connection is not None:
            self._connection.flow()
        while not self.complete:
            await self._more()
        return b"".join(self._chunks)

    async def readany(self) -> bytes:
        """The next bytes of the body, as many as there are; empty at the end. Raises WireError."""
        while not self._chunks:
            if self.complete:
                return b""
            await self._more()
        chunks = self._chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self._size = 0
        if self._connection is not None:
            self._connection.flow()
        return data

    @property
    def drained(self) -> bool:
        """Whether all of it has come and was read."""
        return self.complete and not self._chunks

    async def begun(self) -> Response:
        """The same, once its headers are there; where they do not come it is closed. Raises WireError."""
        try:
            while not self.status:
                await self._more()
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """What has not come yet is cut off."""
        if self._connection is not None:
            self._connection.abort()

    async def _more(self) -> None:
        if self._error is not None:
            raise self._error
        if self._connection is not None:
            self._connection.heard()
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
        if self._error is not None:
            raise self._error

    # ---------------------------------------------------------------- from the connection

    @property
    def waited_for(self) -> bool:
        """Whether somebody waits for the next byte."""
        return self._waiter is not None

    @property
    def full(self) -> bool:
        """Whether more waits for the reader than should."""
        return self._size > HIGH_WATER and not self._whole

    @property
    def too_large(self) -> bool:
        """Whether it is read as a whole and has no end."""
        return self._size > MAX_WHOLE

    def head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """The status and headers have come."""
        self.headers.extend((_text(name), _text(value)) for name, value in headers)
        self.ends_by_close = hdrs.CONTENT_LENGTH not in self.headers and hdrs.TRANSFER_ENCODING not in self.headers
        self.status = status

    def body(self, data: bytes) -> None:
        """A piece of the body has come."""
        self._chunks.append(data)
        self._size += len(data)

    def wake(self) -> None:
        """Whatever came last, its reader may look."""
        waiter = self._waiter
        if waiter is not None and not waiter.done() and not (self._whole and self.status and not self.complete):
            waiter.set_result(None)

    def end(self, error: WireError | None) -> None:
        """Nothing more will come."""
        self._connection = None
        self._error = error
        self.complete = error is None
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
