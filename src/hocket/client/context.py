"""Where the running code is: which job, which stage. Kept in one context variable, read when a call is made.

Parentage follows nesting. Inside `with stage("plan")`, a call belongs to stage `plan`; a stage or tool opened there
has `plan` as its parent; what a tool's function calls has the tool as its parent. Stages that follow one another have
no parent: the gateway sees their order from their times. Where neither is right, `stage(name, parent=...)` says it.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import inspect
import secrets
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, NamedTuple, ParamSpec, Self, TypeVar, cast, overload
from urllib.parse import quote

from hocket.client.http import Reporter

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])

_PRINTABLE = "".join(map(chr, range(33, 127))).replace("%", "") + " "


class _Where(NamedTuple):
    job: job | None = None
    stage: str | None = None
    parent: str | None = None


_where: contextvars.ContextVar[_Where] = contextvars.ContextVar("hocket", default=_Where())  # noqa: B039 - a named tuple


def headers() -> dict[str, str]:
    """The identity headers of the code that asks: for HTTP clients that `instrument` does not know."""
    here, found = _where.get(), {}
    if here.job is not None:
        found = dict(here.job.headers)
    if here.stage:
        found["x-hocket-stage"] = header_value(here.stage)
    if here.parent:
        found["x-hocket-parent"] = header_value(here.parent)
    return found


def wrap(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, to run in another thread as if it were here: `pool.submit(hocket.wrap(search), query)`.

    The job and stage are those of the moment of wrapping; the result may be called many times and at once.
    """
    context = contextvars.copy_context()

    @functools.wraps(function)
    def here(*args: P.args, **kwargs: P.kwargs) -> R:
        return context.copy().run(function, *args, **kwargs)

    return here


class _Scope:
    """A `with` and `async with` block that sets where the code is, and reports its beginning and end."""

    _token: contextvars.Token[_Where] | None = None
    _job: job | None = None
    "that of the place; kept, because a framework may leave the block in another context than it entered"

    def _place(self) -> _Where:
        raise NotImplementedError

    def _opening(self) -> tuple[Any, ...] | None:
        """The report of the beginning: method, path below `/v1`, body."""
        return None

    def _closing(self, failed: bool) -> tuple[Any, ...] | None:
        return None

    def _reporter(self) -> Reporter | None:
        return None if self._job is None else self._job.reporter()

    def __enter__(self) -> Self:
        opening = self._begin()
        try:
            if opening and (reporter := self._reporter()):
                reporter.send(*opening)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            closing = self._closing(kind is not None)
            if closing and (reporter := self._reporter()):
                reporter.send(*closing)
        finally:
            self._end()

    async def __aenter__(self) -> Self:
        opening = self._begin()
        try:
            if opening and (reporter := self._reporter()):
                await reporter.asend(*opening)
        except BaseException:
            self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        try:
            closing = self._closing(kind is not None)
            if closing and (reporter := self._reporter()):
                await reporter.asend(*closing)
        finally:
            self._end()

    def _begin(self) -> tuple[Any, ...] | None:
        if self._token is not None:
            raise RuntimeError(f"{self!r} is open already; make another")
        place = self._place()
        self._job = place.job
        opening = self._opening()
        self._token = _where.set(place)
        return opening

    def _end(self) -> None:
        token, self._token = self._token, None
        if token is not None:
            with contextlib.suppress(ValueError):  # set in another context: nothing to undo in this one
                _where.reset(token)


class job(_Scope):  # noqa: N801 - read as a statement: with hocket.job("app")
    """One run of an application. Opened at the gateway on entry, closed on exit; by an exception, aborted: what it
    still has in flight is then killed.

    `app`: the kind of work, the same for all its runs. `urgency`: 0 (emergency) ... 4 (background). `deadline_s`:
    seconds from now by which it should end. `id`: unique, made up if not given. `client`: the instrumented client to
    report through, by default the last one.
    """

    def __init__(
        self,
        app: str,
        *,
        urgency: int | None = None,
        deadline_s: float | None = None,
        id: str | None = None,  # noqa: A002 - it is the job's id, as in the API
        client: Any = None,
    ) -> None:
        if not app:
            raise ValueError("a job needs the name of its application")
        if urgency is not None and urgency not in range(5):
            raise ValueError(f"urgency is 0 (emergency) to 4 (background), not {urgency!r}")
        if deadline_s is not None and not deadline_s > 0:
            raise ValueError(f"deadline_s is seconds from now, more than 0, not {deadline_s!r}")
        self.app, self.urgency, self.deadline_s = app, urgency, deadline_s
        self.id = id or f"{app}-{secrets.token_hex(6)}"
        self._client = client
        self.headers: Mapping[str, str] = self._identity()

    def __repr__(self) -> str:
        return f"job({self.app!r}, id={self.id!r})"

    def _identity(self) -> dict[str, str]:
        found = {"x-hocket-app": header_value(self.app), "x-hocket-job": header_value(self.id)}
        if self.urgency is not None:
            found["x-hocket-urgency"] = str(self.urgency)
        if self.deadline_s is not None:
            found["x-hocket-deadline-ms"] = str(round(1000 * self.deadline_s))
        return found

    @property
    def path(self) -> str:
        """Of this job, below the gateway's `/v1`."""
        return f"/jobs/{quote(header_value(self.id), safe='')}"

    def _place(self) -> _Where:
        return _Where(self)

    def _opening(self) -> tuple[Any, ...]:
        body: dict[str, Any] = {"job": header_value(self.id), "app": header_value(self.app)}
        if self.urgency is not None:
            body["urgency"] = self.urgency
        if self.deadline_s is not None:
            body["deadline_ms"] = round(1000 * self.deadline_s)
        return "POST", "/jobs", body

    def _closing(self, failed: bool) -> tuple[Any, ...]:
        return "DELETE", self.path + ("?abort=true" if failed else "")

    def reporter(self) -> Reporter | None:
        """Through which this job and its tools report; None if no client was instrumented."""
        return Reporter.to_use(self._client)


class stage(_Scope):  # noqa: N801
    """A stage of the application's graph: calls inside belong to it. Its parent is the stage around it, or `parent`."""

    def __init__(self, name: str, *, parent: str | None = None) -> None:
        self.name, self._parent = name, parent

    def __repr__(self) -> str:
        return f"stage({self.name!r})"

    def _place(self) -> _Where:
        here = _where.get()
        return _Where(here.job, self.name, self._parent or here.stage or here.parent)


class _Tool(_Scope):
    """A run of a tool (`with`), or the decorator that makes each call of a function one."""

    def __init__(self, name: str, *, parent: str | None = None) -> None:
        self.name, self._parent, self._run = name, parent, ""

    def __repr__(self) -> str:
        return f"tool({self.name!r})"

    def __call__(self, function: F) -> F:
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def run(*args: Any, **kwargs: Any) -> Any:
                async with _Tool(self.name, parent=self._parent):
                    return await function(*args, **kwargs)

        else:

            @functools.wraps(function)
            def run(*args: Any, **kwargs: Any) -> Any:
                with _Tool(self.name, parent=self._parent):
                    return function(*args, **kwargs)

        return cast("F", run)

    def _place(self) -> _Where:
        return _Where(_where.get().job, None, self.name)

    def _opening(self) -> tuple[Any, ...] | None:
        if self._job is None:
            return None
        here = _where.get()
        self._run = secrets.token_hex(6)
        body = {"run": self._run}
        if parent := self._parent or here.stage or here.parent:
            body["parent"] = header_value(parent)
        return "POST", self._path(self._job, "start"), body

    def _closing(self, failed: bool) -> tuple[Any, ...] | None:
        return None if self._job is None else ("POST", self._path(self._job, "end"), {"run": self._run})

    def _path(self, job: job, verb: str) -> str:
        return f"{job.path}/tools/{quote(header_value(self.name), safe='')}:{verb}"


@overload
def tool(name: F) -> F: ...
@overload
def tool(name: str, *, parent: str | None = None) -> _Tool: ...
def tool(name: Any, *, parent: str | None = None) -> Any:
    """A tool stage: `@hocket.tool`, `@hocket.tool("name")` or `with hocket.tool("name"):`. Its runs are reported.

    The name is the function's unless given. Outside a job it does nothing.
    """
    return _Tool(name.__name__)(name) if callable(name) else _Tool(name, parent=parent)


def header_value(name: str) -> str:
    """A name as a header can carry it: what is not printable ASCII is percent-encoded, and it may not be too long."""
    return quote(name, safe=_PRINTABLE, errors="replace")[:200].strip()
