"""The front door: aiohttp's low-level server, and what it leaves open of a client that dawdles or talks no HTTP.

* A client that does not send its headers in time is told 408 and cut. aiohttp itself would wait an hour.
* A client that does not read its answer is cut, so that it cannot hold its slot: the transport says when its buffer is
  full and when it has drained, so this costs nothing for the others.
* What is no HTTP, or too much of it, is answered in OpenAI's shape; aiohttp would answer in plain text.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from aiohttp import hdrs, web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestHandler

from hocket.gateway.openai import ApiError
from hocket.settings import Settings

KEEP_ALIVE_S = 75.0
"how long an idle connection stays open: longer than the proxies before a gateway keep theirs (60 s), as nginx does"
LINGER_S = 2.0
"after an answer that came before the request's end: how long the rest is read and dropped, so that the answer arrives"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

quiet = logging.getLogger("hocket.gateway.http")
# aiohttp logs a traceback for every request that is no HTTP; the client has its 400, and no operator wants more
quiet.setLevel(logging.CRITICAL)


class Server(web.Server):
    """A server whose connections are `Connection`s."""

    def __init__(self, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], settings: Settings) -> None:
        loop = asyncio.get_running_loop()

        def request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
            limit = self.settings.body_limit
            return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=limit)

        super().__init__(
            handler,
            request_factory=request,
            handler_cancellation=True,
            access_log=None,
            logger=quiet,
            keepalive_timeout=KEEP_ALIVE_S,
            lingering_time=LINGER_S,
        )
        #: may be replaced while it serves
        self.settings = settings
        #: connections that are there
        self.open = 0

    def __call__(self) -> RequestHandler:
        """A protocol for a new connection."""
        return Connection(self, loop=self._loop, **self._kwargs)


class Connection(RequestHandler):
    """One client's connection."""

    __slots__ = ("_head", "_heard", "_server", "_stalled", "_timeouts")

    def __init__(self, manager: Server, **more: Any) -> None:
        super().__init__(manager, **more)
        self._server = manager
        self._timeouts = manager.settings.timeouts
        self._head: asyncio.TimerHandle | None = None
        self._heard = False
        self._stalled: asyncio.TimerHandle | None = None

    # ---------------------------------------------------------------- headers that do not come

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there."""
        super().connection_made(transport)
        self._server.open += 1
        if self._server.open > self._server.settings.max_connections:
            self._refuse(ApiError(503, "too many connections; try again", code="too_many_connections"))
        else:
            self._head = self._loop.call_later(self._timeouts.request, self._no_head)

    def data_received(self, data: bytes) -> None:
        """A piece of a request."""
        super().data_received(data)
        self._heard = True
        if self._messages:
            if self._head is not None:
                self._head.cancel()
                self._head = None
        elif data and self._head is None and self._waiter is not None and not self._waiter.done():
            # the next request on this connection has begun, and is not all there
            self._head = self._loop.call_later(self._timeouts.request, self._no_head)

    def _no_head(self) -> None:
        self._head = None
        if self.transport is None or self._waiter is None or self._waiter.done():
            return
        if self._heard:  # else it was opened in advance, and would take an answer for that to its first request
            self._refuse(ApiError(408, "the request's headers did not come in time", code="request_timeout"))
        else:
            self.force_close()

    def _refuse(self, error: ApiError) -> None:
        """Answer what is no request yet, and close."""
        if self.transport is None:
            return
        status, body = HTTPStatus(error.status), error.body
        self.transport.write(
            b"HTTP/1.1 %d %b\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b"
            % (status, status.phrase.encode(), len(body), body)
        )
        self.force_close()

    # ---------------------------------------------------------------- answers that are not read

    def pause_writing(self) -> None:
        """The client takes less than it is sent."""
        super().pause_writing()
        self._stalled = self._loop.call_later(self._timeouts.client, self._give_up)

    def resume_writing(self) -> None:
        """The client has taken it."""
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _give_up(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        """The client is gone."""
        for timer in (self._head, self._stalled):
            if timer is not None:
                timer.cancel()
        self._head = self._stalled = None
        self._server.open -= 1
        super().connection_lost(exc)

    # ---------------------------------------------------------------- what is no HTTP

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """The answer to a request that aiohttp could not read."""
        if isinstance(exc, LineTooLong):
            error = ApiError(431, "a header, or the path, is too long", code="headers_too_large")
        elif "Too many" in (message or ""):
            error = ApiError(431, "the request has too many headers", code="headers_too_large")
        else:
            error = ApiError(400, "this is no HTTP request that can be read", code="invalid_http")
        response = web.Response(status=error.status, body=error.body, headers={"Content-Type": "application/json"})
        response.force_close()
        return response


async def read_body(http: web.BaseRequest, limit: int, within_s: float) -> bytes:
    """A request's body, unpacked. Raises ApiError 413, 408 or 400."""
    too_large = f"the body is larger than {limit / 2**20:g} MiB; send less, or raise body_limit_mib"
    if (http.content_length or 0) > limit:
        raise ApiError(413, too_large, code="body_too_large")
    if http.headers.get(hdrs.EXPECT, "").lower() == "100-continue":
        await http.writer.write(CONTINUE)
        http.writer.output_size = 0
    try:
        if http.content.is_eof():  # it came with the headers: most do
            body = http.content.read_nowait()
            if len(body) > limit:
                raise ApiError(413, too_large, code="body_too_large")
            return body
        async with asyncio.timeout(within_s):
            return await http.read()
    except TimeoutError:
        message = f"the body did not come within {within_s:g} s; see timeouts.request"
        raise ApiError(408, message, code="request_timeout") from None
    except web.HTTPRequestEntityTooLarge:
        raise ApiError(413, too_large, code="body_too_large") from None
    except web.RequestPayloadError as error:
        raise ApiError(400, f"the body cannot be read: {error}", code="invalid_body") from None
