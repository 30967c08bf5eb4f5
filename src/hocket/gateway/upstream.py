"""The way out: one replica's connections, what its failures are called, and which headers pass.

Bytes pass as they are. What goes wrong becomes one exception, `ReplicaFailed`, in the core's terms.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable
from email.utils import parsedate_to_datetime
from typing import NoReturn

from aiohttp import hdrs
from msgspec import Struct
from multidict import CIMultiDict, CIMultiDictProxy, MultiMapping

from hocket.gateway.answers import looks_like_sse
from hocket.gateway.wire import Pool, Response, WireError
from hocket.settings import Timeouts

KEEP_ALIVE_S = 4.0
"below the 5 s after which vLLM's uvicorn and llama.cpp's server close: a request must not meet a closing connection"
MAX_RETRY_AFTER_S = 3600.0
"no replica rests longer, whatever it asks for"

_HOP_BY_HOP = frozenset({
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
    "transfer-encoding", "upgrade",
})  # fmt: skip
# the server has unpacked the body already, the relay says which codings it can read, and nobody's cookies pass
_NOT_UPSTREAM = _HOP_BY_HOP | {
    "host", "content-length", "content-encoding", "accept-encoding", "expect", "authorization", "cookie",
}  # fmt: skip
# an engine that lets every web page in must not do so for the gateway, nor send a client and its prompt elsewhere
_NOT_DOWNSTREAM = _HOP_BY_HOP | {
    "content-length", "set-cookie", "location", "refresh", "alt-svc", "strict-transport-security",
    "access-control-allow-origin", "access-control-allow-credentials", "access-control-allow-headers",
    "access-control-allow-methods", "access-control-allow-private-network", "access-control-expose-headers",
    "access-control-max-age",
}  # fmt: skip


_USUAL = frozenset({"keep-alive", "close", "Keep-Alive", "Close"})
"what `Connection` says where it names no header that must not pass"
MAX_NAMES, MAX_NAME = 1000, 100
"names of headers that are remembered, and characters of one"

Fields = list[tuple[str, str]]
"headers of one message, names as they were written"


class Answer(Struct):
    """A whole answer of a replica."""

    status: int
    headers: CIMultiDict[str]
    body: bytes


class ReplicaFailed(Exception):  # noqa: N818 - an event of the core, not a bug
    """A replica did not deliver: `kind` as in `CallFailed`, and its own words where it sent any."""

    def __init__(self, kind: str, why: str, answer: Answer | None = None) -> None:
        super().__init__(f"{kind}: {why}")
        self.kind, self.answer = kind, answer

    @property
    def status(self) -> int:
        """The replica's HTTP status; 0 if it is not what failed."""
        return self.answer.status if self.answer is not None else 0

    @property
    def retry_after_s(self) -> float | None:
        """What a 429 asked for, in seconds from now."""
        return retry_after_s(self.answer.headers.get("Retry-After", "")) if self.answer is not None else None


def retry_after_s(text: str) -> float | None:
    """Seconds that a `Retry-After` asks for, a number or a date of HTTP; None if it is neither."""
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text):
        return min(float(text), MAX_RETRY_AFTER_S)
    try:
        at = parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None
    return min(max(at - time.time(), 0.0), MAX_RETRY_AFTER_S)


class Replica:
    """A pool of connections to one replica. Create it inside the event loop; `retire` or `close` it.

    `reuse`: whether a connection may serve one call after another.
    """

    def __init__(self, url: str, timeouts: Timeouts, *, api_key: str | None = None, reuse: bool = True) -> None:
        self.url = url
        self._timeouts = timeouts
        self.trouble = ""
        "why the latest `ask` got nothing, for the operator"
        self._active = 0
        self._retired = False
        self._authorization = f"Bearer {api_key}" if api_key else None
        self._pool = Pool(
            url,
            connect_s=timeouts.connect,
            first_byte_s=timeouts.first_byte,
            between_s=timeouts.between_chunks,
            keep_alive_s=KEEP_ALIVE_S if reuse else 0.0,
        )

    async def close(self) -> None:
        """Drop the connections; calls that are open fail."""
        self._pool.close()

    def retire(self) -> None:
        """Close once the last open call has ended."""
        self._retired = True
        if self._active == 0:
            self._pool.close()

    async def idle(self) -> None:
        """Wait until the last open call has ended. `retire` it before."""
        while self._active:  # noqa: ASYNC110 - for a reload now and then, not worth an event on each call
            await asyncio.sleep(0.05)

    async def ask(self, path: str, within_s: float) -> tuple[int, bytes] | None:
        """Status and body of a GET that is no call; None if nothing came in time."""
        headers = [] if self._authorization is None else [("Authorization", self._authorization)]
        try:
            async with asyncio.timeout(within_s):
                response = await self._pool.request("GET", path, headers, b"")
                try:
                    return response.status, await response.read()
                finally:
                    response.close()
        except (WireError, TimeoutError) as error:
            self.trouble = str(error) or f"silent for {within_s:g} s"
            return None

    def release(self, response: Response) -> None:
        """An answer that `post` gave is done with: what has not come yet is cut off."""
        response.close()
        self._ended()

    def _ended(self) -> None:
        self._active -= 1
        if self._retired and self._active == 0:
            self._pool.close()

    def post(self, path: str, body: bytes, headers: Fields) -> Awaitable[Response]:
        """Send a request; return once the answer's headers are there. Raises ReplicaFailed.

        Give the answer back with `release`.
        """
        return self.send("POST", path, body, headers)

    async def send(self, method: str, path: str, body: bytes, headers: Fields) -> Response:
        """As `post`, by any method. `path` may end in a query; it passes as it is."""
        if self._authorization is not None:
            headers = [field for field in headers if field[0].lower() != "authorization"]
            headers.append(("Authorization", self._authorization))
        self._active += 1  # from here on, for an engine that does not stream sends its headers last
        try:
            return await self._pool.request(method, path, headers, body)
        except WireError as error:
            self._ended()
            _fail(error)
        except BaseException:
            self._ended()
            raise

    async def whole(self, response: Response) -> Answer:
        """Read an answer to its end. Raises ReplicaFailed."""
        try:
            body = await response.read()
        except WireError as error:
            _fail(error)
        return Answer(response.status, downstream_headers(response.headers), body)

    async def success(self, response: Response) -> None:
        """Pass over a 2xx; raise ReplicaFailed with the replica's own words for the rest."""
        if not 200 <= response.status < 300:
            raise ReplicaFailed("status", str(response.status), await self.whole(response))

    async def first_chunk(self, response: Response) -> bytes:
        """The first bytes of a successful stream. Raises ReplicaFailed, also where it is none."""
        await self.success(response)
        kind = response.headers.get(hdrs.CONTENT_TYPE, "")
        if not kind.startswith("text/event-stream"):
            raise ReplicaFailed("garbage", f"content type '{kind[:80]}' where a stream was asked for")
        chunk = await self.next_chunk(response)
        if not chunk:
            raise ReplicaFailed("reset", "the stream ended before it began")
        if hdrs.CONTENT_ENCODING not in response.headers and not looks_like_sse(chunk[:16]):
            raise ReplicaFailed("garbage", "no server-sent events")
        response.silence_s = self._timeouts.between_chunks
        return chunk

    @staticmethod
    async def next_chunk(response: Response) -> bytes:
        """The next bytes; empty at the end. Raises ReplicaFailed."""
        try:
            return await response.readany()
        except WireError as error:
            _fail(error)


def _fail(error: WireError) -> NoReturn:
    """Raise ReplicaFailed in the core's terms."""
    raise ReplicaFailed(error.kind, str(error)) from error


def ends_by_close(response: Response) -> bool:
    """Whether nothing but the closing of the connection marks the end, so that a cut cannot be told from it."""
    return response.ends_by_close


def upstream_headers(headers: CIMultiDictProxy[str], keep_authorization: bool) -> Fields:
    """A client's headers as a replica shall see them. A tenant's key stays here."""
    out = _passed(headers, _upstream)
    if keep_authorization and hdrs.AUTHORIZATION in headers:
        out.append(("Authorization", headers[hdrs.AUTHORIZATION]))
    return out


def downstream_headers(headers: CIMultiDict[str]) -> CIMultiDict[str]:
    """A replica's headers as the client shall see them."""
    return CIMultiDict(_passed(headers, _downstream))


class _Passing(dict[str, bool]):
    """Whether a header of this name passes, by its name as it is written: the same few come again and again."""

    def __init__(self, dropped: frozenset[str]) -> None:
        self._dropped = dropped

    def __missing__(self, name: str) -> bool:
        passes = name.lower() not in self._dropped
        if len(self) < MAX_NAMES and len(name) < MAX_NAME:  # the other side may make up any number, of any length
            self[name] = passes
        return passes


_upstream, _downstream = _Passing(_NOT_UPSTREAM), _Passing(_NOT_DOWNSTREAM)


def _passed(headers: MultiMapping[str], passing: _Passing) -> Fields:
    # a header that is not UTF-8 cannot be written again, so it does not pass
    out = [(name, value) for name, value in headers.items() if passing[name] and (value.isascii() or _utf8(value))]
    connection = headers.get(hdrs.CONNECTION)
    if connection is not None and connection not in _USUAL:
        named = {name.strip().lower() for name in connection.split(",")}
        out = [(name, value) for name, value in out if name.lower() not in named]
    return out


def _utf8(value: str) -> bool:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
