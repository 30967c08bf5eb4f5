"""The two things that go over the wire: identity headers on the application's calls, and reports about its jobs.

Both use the application's own HTTP client (httpx, which the openai package is built on), so that proxies, TLS and
credentials are those it has already. Headers are added by a request hook, httpx's own extension point: nothing is
wrapped, so retries, streaming and `with_options` behave as before.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

log = logging.getLogger("hocket.client")

C = TypeVar("C")
Headers = Callable[[], dict[str, str]]

TIMEOUT_S = 2.0
"a report may hold the application up for so long at most"
PAUSE_S = 30.0
"after a report that failed no other is tried for so long"


def instrument(client: C, base_url: str | None = None) -> C:
    """Make `client` send identity headers, and jobs report through it. Returns the same client.

    `client` is an `OpenAI` or `AsyncOpenAI` (any class of the openai package), or an `httpx.Client` or `AsyncClient`
    that a framework is given; for those, `base_url` says where the gateway's `/v1` is, unless the client knows it.
    A second call changes nothing. Raises TypeError for anything else.
    """
    from hocket.client.context import headers

    http = _http_of(client)
    if _hook_of(http) is None:
        url = str(base_url or getattr(client, "base_url", ""))
        reporter = Reporter(http, url, lambda: getattr(client, "auth_headers", {})) if url else None
        hook = (_AsyncHook if _is_async(http) else _Hook)(headers, reporter)
        http.event_hooks = {**http.event_hooks, "request": [*http.event_hooks["request"], hook]}
        if reporter:
            Reporter.latest[_is_async(http)] = reporter
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


class _Hook:
    """Adds the headers of the code that makes the call; those that the application set itself win."""

    def __init__(self, headers: Headers, reporter: Reporter | None) -> None:
        self._headers, self.reporter = headers, reporter

    def __call__(self, request: Any) -> Any:
        for name, value in self._headers().items():
            request.headers.setdefault(name, value)


class _AsyncHook(_Hook):
    async def __call__(self, request: Any) -> None:
        super().__call__(request)


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
            hook = _hook_of(_http_of(client))
            return None if hook is None else hook.reporter
        looping = _running_loop() is not None
        return cls.latest.get(looping) or cls.latest.get(not looping)

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
        request: dict[str, Any] = {"headers": dict(self._auth()), "timeout": TIMEOUT_S}
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


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
