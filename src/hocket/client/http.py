"""The two things that go over the wire: identity headers on the application's calls, and reports about its jobs.

Both use the application's own HTTP client (httpx, which the openai package is built on), so that proxies, TLS and
credentials are those it has already. Headers are added by a request hook, httpx's own extension point: nothing is
wrapped, so retries, streaming and `with_options` behave as before.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import inspect
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar
from urllib.parse import urlsplit

log = logging.getLogger("hocket.client")

C = TypeVar("C")
P = ParamSpec("P")
Headers = Callable[[], dict[str, str]]

TIMEOUT_S = 2.0
"a report may hold the application up for so long at most"
PAUSE_S = 30.0
"after a report that failed no other is tried for so long"
ORDER_S = 0.5
"a call waits so long at most for the reports of what happened before it"

_REPORT = "hocket_report"
"marks a report among an httpx client's requests"


def instrument(client: C, base_url: str | None = None) -> C:
    """Make `client` send identity headers, and jobs report through it. Returns the same client.

    `client` is an `OpenAI` or `AsyncOpenAI` (any class of the openai package), or an `httpx.Client` or `AsyncClient`
    that a framework is given; for those, `base_url` says where the gateway's `/v1` is, unless the client knows it.
    Requests to other hosts are left as they are. A second call changes nothing.
    Raises TypeError for any other client, ValueError where nothing says where the gateway is.
    """
    from hocket.client.context import headers

    http = _http_of(client)
    url = str(base_url or getattr(client, "base_url", ""))
    if not url:
        raise ValueError("where is the gateway? instrument(client, base_url='http://127.0.0.1:8080/v1')")
    hook = _hook_of(http)
    if hook is None:
        reporter = Reporter(http, url, lambda: getattr(client, "auth_headers", {}))
        hook = (_AsyncHook if _is_async(http) else _Hook)(headers, reporter)
        http.event_hooks = {**http.event_hooks, "request": [*http.event_hooks["request"], hook]}
        Reporter.latest[_is_async(http)] = reporter
    hook.origins.add(_origin(urlsplit(url)))
    return client


def _http_of(client: Any) -> Any:
    http = client if hasattr(client, "event_hooks") else getattr(client, "_client", None)
    if not hasattr(http, "event_hooks"):
        raise TypeError(f"hocket instruments an openai or httpx client, not {type(client).__name__}")
    return http


def _hook_of(http: Any) -> _Hook | None:
    return next((hook for hook in http.event_hooks["request"] if isinstance(hook, _Hook)), None)


def _is_async(http: Any) -> bool:
    return inspect.iscoroutinefunction(http.request)


def _origin(url: Any) -> tuple[str, str | None, int | None]:
    """Of a split URL, or of one of httpx."""
    return url.scheme, getattr(url, "hostname", None) or getattr(url, "host", None), url.port or _PORTS.get(url.scheme)


_PORTS = {"http": 80, "https": 443}


class _Hook:
    """Adds the headers of the code that makes the call; those that the application set itself win.

    Only towards the gateways: a client that follows a link, or a tool that shares it, tells strangers nothing.
    """

    def __init__(self, headers: Headers, reporter: Reporter) -> None:
        self._headers, self.reporter = headers, reporter
        self.origins: set[tuple[str, str | None, int | None]] = set()

    def __call__(self, request: Any) -> Any:
        if self._wanted(request):
            Outbox.flush(ORDER_S)
            self._add(request)

    def _wanted(self, request: Any) -> bool:
        return _REPORT not in request.extensions and _origin(request.url) in self.origins

    def _add(self, request: Any) -> None:
        try:
            found = self._headers()
        except Exception:
            log.warning("a call goes out without its identity", exc_info=True)
            return
        for name, value in found.items():
            request.headers.setdefault(name, value)


class _AsyncHook(_Hook):
    async def __call__(self, request: Any) -> None:
        if self._wanted(request):
            await Outbox.aflush(ORDER_S)
            self._add(request)


class Reporter:
    """Sends reports (job opened, tool started, ...) to one gateway. Never raises, never repeats a warning."""

    latest: dict[bool, Reporter] = {}
    "the last instrumented client of each kind: False = sync, True = async"

    def __init__(self, http: Any, base_url: str, auth: Callable[[], Mapping[str, str]]) -> None:
        self._http, self._url, self._auth = http, base_url.rstrip("/"), auth
        self._silent_until = 0.0
        self._warned = False
        self._last: asyncio.Task[None] | None = None

    @classmethod
    def to_use(cls, client: Any = None) -> Reporter | None:
        """That of `client`, or else of the last one instrumented: an async one where an event loop runs."""
        if client is not None:
            return cls.of(client)
        looping = _running_loop() is not None
        return cls.latest.get(looping) or cls.latest.get(not looping)

    @staticmethod
    def of(client: Any, *, synchronous: bool = False) -> Reporter | None:
        """That of an instrumented client; None for an asynchronous one where a synchronous one is wanted."""
        http = _http_of(client)
        hook = _hook_of(http)
        return None if hook is None or (synchronous and _is_async(http)) else hook.reporter

    def send(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> None:
        """Report now. From a coroutine's thread through an async client: in the background, in the order given."""
        if not self._wanted():
            return
        if not _is_async(self._http):
            try:
                self._judge(method, path, self._http.request(method, self._url + path, **self._request(body)))
            except Exception as error:  # noqa: BLE001 - whatever it is, the application goes on
                self._failed(error)
        elif (loop := _running_loop()) is not None:
            self._last = loop.create_task(self._in_turn(self._last, method, path, body))

    async def asend(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> None:
        """Report, and wait until it is sent, without blocking the event loop."""
        if not self._wanted():
            return
        if not _is_async(self._http):
            await asyncio.to_thread(self.send, method, path, body)
        else:
            await self._in_turn(self._last, method, path, body)

    async def _in_turn(
        self, earlier: asyncio.Task[None] | None, method: str, path: str, body: Mapping[str, Any] | None
    ) -> None:
        if earlier is not None and not earlier.done() and earlier.get_loop() is asyncio.get_running_loop():
            await asyncio.wait([earlier])
        try:
            self._judge(method, path, await self._http.request(method, self._url + path, **self._request(body)))
        except Exception as error:  # noqa: BLE001 - whatever it is, the application goes on
            self._failed(error)

    def _request(self, body: Mapping[str, Any] | None) -> dict[str, Any]:
        request: dict[str, Any] = {
            "headers": dict(self._auth()),
            "timeout": TIMEOUT_S,
            "extensions": {_REPORT: True},
        }
        return request if body is None else {**request, "json": body}

    def _wanted(self) -> bool:
        return not self._http.is_closed and time.monotonic() >= self._silent_until

    def _judge(self, method: str, path: str, response: Any) -> None:
        if response.is_success:
            return
        if path == "/jobs" and response.status_code in (404, 405, 501):
            self._silent_until = float("inf")
            self._warn(f"{self._url}/jobs answers {response.status_code}: no hocket gateway; jobs are not reported")
        elif path == "/jobs":
            self._warn(f"{self._url}/jobs answers {response.status_code}: {response.text[:200]}")
        else:
            log.debug("%s %s answers %d", method, path, response.status_code)

    def _failed(self, error: Exception) -> None:
        self._silent_until = time.monotonic() + PAUSE_S
        self._warn(f"{self._url} cannot be told of jobs ({type(error).__name__}: {error}); calls go on without")

    def _warn(self, text: str) -> None:
        log.log(logging.DEBUG if self._warned else logging.WARNING, "%s", text)
        self._warned = True


def harmless(method: Callable[P, None]) -> Callable[P, None]:
    """Mark a framework's hook: if it fails, the application goes on, and its log hears of it once."""
    warned = False

    @functools.wraps(method)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        nonlocal warned
        try:
            method(*args, **kwargs)
        except Exception:
            level, warned = logging.DEBUG if warned else logging.WARNING, True
            log.log(level, "%s failed; jobs may be incomplete, calls go on", method.__qualname__, exc_info=True)

    return guarded


class Outbox:
    """Sends reports from one thread, in order: for frameworks' hooks, which may hold nobody up. Never raises.

    A call waits until what was reported before it is sent: the gateway hears of a tool before it hears what comes of
    it. At the interpreter's end the thread has a moment to send what it holds.
    """

    _lock = threading.Lock()
    _queue: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
    _thread: threading.Thread | None = None
    _given = _done = 0

    @classmethod
    def send(cls, reporter: Reporter | None, report: tuple[Any, ...]) -> None:
        """Take a report: method, path below `/v1`, body. `reporter` is a synchronous client's."""
        if reporter is not None:
            cls._put(functools.partial(reporter.send, *report))

    @classmethod
    def flush(cls, patience_s: float = TIMEOUT_S) -> bool:
        """Wait until everything that was given before is sent. False if that took too long."""
        if cls._done == cls._given:
            return True
        sent = threading.Event()
        cls._put(sent.set)
        return sent.wait(patience_s)

    @classmethod
    async def aflush(cls, patience_s: float) -> None:
        """The same without blocking the event loop."""
        if cls._done == cls._given:
            return
        loop, sent = asyncio.get_running_loop(), asyncio.Event()
        cls._put(lambda: loop.call_soon_threadsafe(sent.set))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(sent.wait(), patience_s)

    @classmethod
    def _put(cls, action: Callable[[], object]) -> None:
        with cls._lock:
            cls._given += 1
            cls._queue.put(action)
            if cls._thread is None:
                atexit.register(cls.flush)
            if cls._thread is None or not cls._thread.is_alive():  # after a fork it is not
                cls._thread = threading.Thread(target=cls._run, name="hocket-reports", daemon=True)
                cls._thread.start()

    @classmethod
    def _run(cls) -> None:
        while True:
            action = cls._queue.get()
            try:
                action()
            except Exception:
                log.debug("a report failed", exc_info=True)
            cls._done += 1


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
