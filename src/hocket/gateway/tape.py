"""A tape: an answer as it is made, for as many clients as ask for it, each from the start.

The relay writes onto it as it would to a client: `Taped` is its `Downstream`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from multidict import CIMultiDict

from hocket.gateway.downstream import Downstream
from hocket.gateway.openai import ApiError
from hocket.gateway.upstream import Answer

if TYPE_CHECKING:
    from hocket.gateway.app import Gateway

OVERHEAD = 1024
"bytes that an answer is counted with, beside its own"


class Tape:
    """One answer: under way, complete, or failed."""

    def __init__(self, body: bytes, hashed: str) -> None:
        self.body = body
        "of the request"
        self.hash = hashed
        "of the key of its call"
        self.size = OVERHEAD
        "bytes"
        self.over = False
        self.refused = False
        "the call came to no good end, whatever its client was told"
        self.wiped = False
        "the answer was given, and is no longer here"
        self._status = 0
        self._headers: CIMultiDict[str] = CIMultiDict()
        self._chunks: list[bytes] = []
        self._streams = False
        self._error: ApiError | None = None
        self._news: asyncio.Future[None] | None = None

    # ---------------------------------------------------------------- for who makes the answer

    def begin(self, status: int, headers: CIMultiDict[str]) -> None:
        """A stream begins."""
        self._status, self._headers, self._streams = status, headers, True

    def write(self, chunk: bytes) -> None:
        """A piece of it."""
        if chunk:
            self._chunks.append(chunk)
            self.size += len(chunk)
            self._tell()

    def end(self, response: web.StreamResponse) -> None:
        """The answer is complete; `response` is it, unless it was a stream."""
        if isinstance(response, web.Response) and not self._streams:
            self._status, self._headers = response.status, response.headers
            if isinstance(response.body, bytes):
                self.write(response.body)
        self._finish()

    def fail(self, error: ApiError) -> None:
        """There is no answer, or no end of it."""
        self._error = error
        self._finish()

    def _finish(self) -> None:
        self.body = b""
        self.over = True
        self._tell()

    @property
    def good(self) -> bool:
        """Whether it is worth keeping. An error is not: its request may be tried again."""
        return self.over and self._error is None and not self.refused and self._status < 400

    def wipe(self) -> None:
        """For want of room. Who is reading has its own hold on the answer."""
        self._chunks, self.size, self.wiped = [], OVERHEAD, True

    def _tell(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)
        self._news = None

    # ---------------------------------------------------------------- for its clients

    async def _more(self) -> None:
        """Wait for news. Shielded: a client that goes takes nothing from the others."""
        if self._news is None:
            self._news = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._news)

    async def play(self, http: web.BaseRequest, more: dict[str, str], gateway: Gateway) -> web.StreamResponse:
        """Answer one client, from the start to the end. `more`: headers. Raises ApiError if there is no answer."""
        chunks = self._chunks  # a hold of its own: see `wipe`
        while not (self.over or (self._streams and chunks)):
            await self._more()
        if self._error is not None and not chunks:
            raise self._error
        headers = CIMultiDict(self._headers)
        headers.update(more)
        gateway.add_request_id(http, headers)
        if not self._streams:
            return web.Response(status=self._status, headers=headers, body=b"".join(chunks))
        response = web.StreamResponse(status=self._status, headers=headers)
        if gateway.stopping:
            response.force_close()
        try:
            await response.prepare(http)
            await self._pass_on(chunks, response)
        except ConnectionError:
            pass  # this client is gone
        if self._error is not None and http.transport is not None:
            http.transport.abort()  # what has no end must not look as if it had
        return response

    async def _pass_on(self, chunks: list[bytes], response: web.StreamResponse) -> None:
        done = 0
        while True:
            new, done = chunks[done:], len(chunks)
            if new:
                await response.write(b"".join(new))
            elif self.over:
                return
            else:
                await self._more()


class Taped(Downstream):
    """What the relay takes for the client of a call that is recorded. Each client's request has an id of its own."""

    __slots__ = ("_tape",)

    def __init__(self, gateway: Gateway, http: web.BaseRequest, own: dict[str, str], named: bool, tape: Tape) -> None:
        super().__init__(gateway, http, own, named)
        self._tape = tape

    async def begin(self, status: int, headers: CIMultiDict[str]) -> web.StreamResponse:
        """See `Downstream`."""
        if self._response is None:
            headers.update(self.own)
            self._tape.begin(status, headers)
            self._response = _Recording(self._tape)
        return self._response

    def whole(self, answer: Answer) -> web.StreamResponse:
        """See `Downstream`."""
        answer.headers.update(self.own)
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body)


def downstream(
    gateway: Gateway, http: web.BaseRequest, own: dict[str, str], named: bool, tape: Tape | None
) -> Downstream:
    """Where an answer goes: to its client, or onto a tape."""
    return Downstream(gateway, http, own, named) if tape is None else Taped(gateway, http, own, named, tape)


class _Recording(web.StreamResponse):
    """A stream that goes onto a tape. It never waits: what the slowest client has not read is kept anyway."""

    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self._tape = tape

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Its head is on the tape."""
        return None

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """A piece."""
        self._tape.write(bytes(data))

    async def write_eof(self, data: bytes = b"") -> None:
        """The last piece."""
        self._tape.write(data)
