"""Connections to a replica, and how they are kept."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Iterable
from typing import cast
from urllib.parse import urlsplit

import httptools

from hocket.gateway.wire.response import MAX_WHOLE, Response, WireError

MAX_HEAD = 2**16
"bytes of an answer's status line and headers"
JOIN_BELOW = 2**16
"a larger body is not copied to be sent with its head"
STALE_S = 0.25
"a reset so soon after a request on a used connection met it closing; later, the replica may have worked on it"
_DEFAULT_PORTS = {"http": 80, "https": 443}


class _Connection(asyncio.Protocol):
    """One connection: one request at a time, one answer at a time."""

    __slots__ = (
        "_fields",
        "_head",
        "_heard",
        "_parser",
        "_paused",
        "_pool",
        "_timer",
        "_transport",
        "idle_since",
        "response",
    )

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._fields: list[tuple[bytes, bytes]] = []
        self._head = 0
        self._paused = False
        self._heard = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.response: Response | None = None
        self.idle_since = 0.0

    @property
    def usable(self) -> bool:
        """Whether a request can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def silent(self) -> bool:
        """Whether nothing of the answer has come."""
        return self._head == 0

    def request(self, head: bytes, body: bytes) -> Response:
        """Send one; its answer comes."""
        assert self._transport is not None
        assert self.response is None
        pool = self._pool
        self.response = response = Response(self, pool.first_byte_s, pool.loop)
        self._head = 0
        if len(body) < JOIN_BELOW:
            self._transport.write(head + body)
        else:
            self._transport.writelines((head, body))
        if self._timer is None:
            self._timer = pool.loop.call_later(pool.watch_s, self._watch)
        return response

    def heard(self) -> None:
        """Silence counts from now."""
        self._heard = self._pool.loop.time()

    def flow(self) -> None:
        """Read on."""
        if self._paused and self.usable:
            self._paused = False
            self._transport.resume_reading()  # type: ignore[union-attr]

    def abort(self) -> None:
        """Cut it."""
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """End it when nothing more is to be sent."""
        if self._transport is not None:
            self._transport.close()

    def _watch(self) -> None:
        """Whether the replica is silent for too long. One timer a connection, set anew only when it fires."""
        self._timer, response = None, self.response
        if response is None:
            return
        left = self._pool.watch_s
        if response.waited_for:
            left = self._heard + response.silence_s - self._pool.loop.time()
            if left <= 0:
                self._fail(WireError("timeout", f"silent for {response.silence_s:g} s"))
                return
        self._timer = self._pool.loop.call_later(min(left, self._pool.watch_s), self._watch)

    def _fail(self, error: WireError) -> None:
        response, self.response = self.response, None
        self.abort()
        if response is not None:
            response.end(error)

    # ---------------------------------------------------------------- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast("asyncio.Transport", transport)
        self._pool.made(self)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        response = self.response
        if response is None:
            self.abort()  # nobody asked
            return
        self._heard = self._pool.loop.time()
        if not response.status:
            self._head += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(WireError("garbage", f"no HTTP: {error}"))
            return
        if not response.status:
            if self._head > MAX_HEAD:
                self._fail(WireError("garbage", f"headers of more than {MAX_HEAD >> 10} KiB"))
            return
        if response.full and self.usable and not self._paused and not response.complete:
            self._paused = True
            self._transport.pause_reading()  # type: ignore[union-attr]
        elif response.too_large:
            self._fail(WireError("garbage", f"an answer of more than {MAX_WHOLE >> 20} MiB"))
        response.wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._pool.lost(self)
        response, self.response = self.response, None
        if response is not None:
            ended = response.ends_by_close and exc is None
            response.end(None if ended else WireError("reset", f"the connection closed ({exc or 'end of file'})"))

    # ---------------------------------------------------------------- httptools

    def on_message_begin(self) -> None:
        """An answer begins. One that nobody asked for would be taken for the next call's: another tenant's, maybe."""
        if self.response is None:
            self.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; after the body, a trailer, which nobody waits for."""
        if self.response is not None and not self.response.status:
            self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is there. 1xx is none."""
        status, fields, self._fields = self._parser.get_status_code(), self._fields, []
        response = self.response
        if status >= 200 and response is not None:
            response.head(status, fields)

    def on_body(self, body: bytes) -> None:
        """A piece of the body, without its framing."""
        if self.response is not None:
            self.response.body(body)

    def on_message_complete(self) -> None:
        """The answer is complete: the connection may serve the next call while this one is still read."""
        response = self.response
        if response is None or not response.status:
            return
        self.response = None
        self.flow()
        keep = self._parser.should_keep_alive() and self._transport is not None
        if keep and not self._transport.get_write_buffer_size():  # type: ignore[union-attr]
            self._pool.give_back(self)
        else:
            self.abort()  # not close: that would wait until the replica has read all of a request it has answered
        response.end(None)


class Pool:
    """Connections to one base URL. Create it inside the event loop. Times in seconds."""

    def __init__(
        self,
        url: str,
        *,
        connect_s: float,
        first_byte_s: float,
        between_s: float,
        keep_alive_s: float,
    ) -> None:
        """`keep_alive_s`: how long an idle connection may serve a next call; 0 = each serves one."""
        parts = urlsplit(url)
        self.loop = asyncio.get_running_loop()
        self.first_byte_s = first_byte_s
        self.watch_s = min(first_byte_s, between_s)
        self._connect_s, self._keep_alive_s = connect_s, keep_alive_s
        self._host = parts.hostname or ""
        self._port = parts.port or _DEFAULT_PORTS[parts.scheme]
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        host = f"[{self._host}]" if ":" in self._host else self._host
        if self._port != _DEFAULT_PORTS[parts.scheme]:
            host += f":{self._port}"
        self._prefix = parts.path.rstrip("/")
        self._tail = f" HTTP/1.1\r\nHost: {host}" + ("" if keep_alive_s else "\r\nConnection: close")
        self._idle: deque[_Connection] = deque()
        self._all: set[_Connection] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    async def request(self, method: str, path: str, headers: Iterable[tuple[str, str]], body: bytes) -> Response:
        """Send a request; return once the answer's headers are there. Raises WireError.

        `path` may end in a query. Give the answer back with `Response.close`.
        """
        lines = [f"{method} {self._prefix}{path}{self._tail}", *map(": ".join, headers)]
        if body or method != "GET":
            lines.append(f"Content-Length: {len(body)}")
        lines.append("\r\n")
        head = "\r\n".join(lines)
        if not head.count("\n") == head.count("\r") == len(lines) + self._tail.count("\n"):
            raise ValueError("a line end inside a header")
        sent = head.encode()
        idle = self._idle_one()
        if idle is not None:
            at = self.loop.time()
            try:
                return await idle.request(sent, body).begun()
            except WireError as error:
                if error.kind != "reset" or not idle.silent or self.loop.time() - at > STALE_S:
                    raise
        connection = await self._connect()
        return await connection.request(sent, body).begun()

    def _idle_one(self) -> _Connection | None:
        oldest = self.loop.time() - self._keep_alive_s
        while self._idle:
            connection = self._idle.pop()  # the latest: the others may grow old and be closed
            if connection.usable and connection.idle_since >= oldest:
                return connection
            connection.close()
        return None

    async def _connect(self) -> _Connection:
        try:
            async with asyncio.timeout(self._connect_s):
                _, connection = await self.loop.create_connection(
                    lambda: _Connection(self), self._host, self._port, ssl=self._tls
                )
        except (OSError, UnicodeError) as error:  # TimeoutError is the first; a name that can be none, the second
            raise WireError("connect", f"{type(error).__name__} {error}") from error
        if not connection.usable:
            raise WireError("reset", "the connection closed at once")
        return connection

    def give_back(self, connection: _Connection) -> None:
        """A connection whose answer is complete."""
        if not self._keep_alive_s:
            connection.close()
            return
        connection.idle_since = self.loop.time()
        self._idle.append(connection)
        if self._sweeper is None:
            self._sweeper = self.loop.call_later(self._keep_alive_s, self._sweep)

    def _sweep(self) -> None:
        """Close what has been idle for too long."""
        self._sweeper = None
        oldest = self.loop.time() - self._keep_alive_s
        while self._idle and (self._idle[0].idle_since < oldest or not self._idle[0].usable):
            self._idle.popleft().close()
        if self._idle:
            self._sweeper = self.loop.call_later(max(self._idle[0].idle_since - oldest, 0.01), self._sweep)

    def made(self, connection: _Connection) -> None:
        """A connection is there; too late, where the pool was closed meanwhile."""
        self._all.add(connection)
        if self._closed:
            connection.abort()

    def lost(self, connection: _Connection) -> None:
        """A connection is no more."""
        self._all.discard(connection)

    def close(self) -> None:
        """Drop all connections, also those that are still being made; calls that are open fail with a reset."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._idle.clear()
        for connection in list(self._all):
            connection.abort()
