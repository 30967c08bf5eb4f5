"""The way back: the one answer, or the one error, that a client gets.

An answer is whole, or it is a stream. A stream may begin before any engine has the call: then with comments of hocket's
own (`heartbeat_s`), which clients skip and which keep proxies from cutting a long wait. From there on the status is 200
and the headers are sent; what goes wrong later comes as an event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from aiohttp import HttpVersion11, hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import SERVER_SOFTWARE
from multidict import CIMultiDict

from hocket.gateway.openai import ApiError
from hocket.gateway.upstream import Answer

if TYPE_CHECKING:
    from hocket.gateway.app import Gateway

BEAT = b": waiting\n\n"
_EVENTS = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
_any = msgspec.json.Decoder(dict[str, msgspec.Raw])


class _Stream(web.StreamResponse):
    """A stream whose headers are sent with its first bytes: they are there already, and it is one write less."""

    _send_headers_immediately = False


class _Whole(web.StreamResponse):
    """An answer in one piece that needs no header but its length, on a connection that stays open.

    `web.Response` would ask for cookies, codings, ranges and versions first: twice the work.
    """

    def __init__(self, status: int, headers: CIMultiDict[str], body: bytes) -> None:
        super().__init__(status=status, headers=headers)
        self._whole = body
        self._writer: AbstractStreamWriter | None = None

    @property
    def keep_alive(self) -> bool:
        """The next request may come."""
        return True

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter:
        """Write the head."""
        writer, headers = request.writer, self.headers
        headers[hdrs.CONTENT_LENGTH] = str(len(self._whole))
        headers.setdefault(hdrs.SERVER, SERVER_SOFTWARE)
        await writer.write_headers(f"HTTP/1.1 {self.status} {self.reason}", headers)
        self._writer = writer
        return writer

    async def write_eof(self, data: bytes = b"") -> None:
        """Write the body with it."""
        assert self._writer is not None
        await self._writer.write_eof(self._whole)


_NO_BODY = frozenset({204, 205, 304})


def _simple(http: web.BaseRequest, answer: Answer) -> bool:
    """Whether `_Whole` will do."""
    return (
        http.keep_alive
        and http.version == HttpVersion11
        and http.method == "POST"
        and answer.status >= 200
        and answer.status not in _NO_BODY
        and hdrs.DATE in answer.headers
        and hdrs.CONTENT_TYPE in answer.headers
    )


class Downstream:
    """What one client gets. `own` are hocket's headers; they may be added to until the answer begins."""

    __slots__ = ("_gateway", "_http", "_response", "named", "own")

    def __init__(self, gateway: Gateway, http: web.BaseRequest, own: dict[str, str], named: bool) -> None:
        self._gateway, self._http = gateway, http
        self._response: web.StreamResponse | None = None
        self.own = own
        #: whether this API's events have names, as those of /v1/responses
        self.named = named

    @property
    def begun(self) -> bool:
        """Whether the client has headers."""
        return self._response is not None

    async def begin(self, status: int, headers: CIMultiDict[str]) -> web.StreamResponse:
        """A stream begins with an engine's headers, unless it has begun without them."""
        if self._response is None:
            headers.update(self.own)
            self._gateway.add_request_id(self._http, headers)
            self._response = _Stream(status=status, headers=headers)
            if self._gateway.stopping:
                self._response.force_close()
            await self._response.prepare(self._http)
        return self._response

    async def beat(self) -> None:
        """A comment, so that nobody between takes the connection for dead."""
        response = await self.begin(200, CIMultiDict(_EVENTS))
        await response.write(BEAT)

    def whole(self, answer: Answer) -> web.StreamResponse:
        """An engine's whole answer, to a client that has got nothing yet."""
        answer.headers.update(self.own)
        self._gateway.add_request_id(self._http, answer.headers)
        if _simple(self._http, answer) and not self._gateway.stopping:
            return _Whole(answer.status, answer.headers, answer.body)
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body)

    async def engines_error(self, answer: Answer) -> web.StreamResponse:
        """An engine's error, in its own words; as an event where the stream has begun."""
        if self._response is None:
            return self.whole(answer)
        try:
            if "error" in _any.decode(answer.body):
                lines = answer.body.splitlines()
                await self._response.write(b"\n\n" + b"".join(b"data: %b\n" % line for line in lines) + b"\n")
                return self._response
        except (msgspec.MsgspecError, RecursionError):
            pass
        message = f"the engine answered {answer.status}, in words that are none of this API's"
        return await self.error(ApiError(502, message, code="upstream_garbage"))

    async def error(self, error: ApiError) -> web.StreamResponse:
        """An error of hocket's own. A stream that has begun must not look complete."""
        if self._response is None:
            return self._gateway.error(self._http, error, self.own)
        await self._response.write(b"\n\n" + (error.named_sse if self.named else error.sse))
        return self._response
