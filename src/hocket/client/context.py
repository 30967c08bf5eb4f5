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

from hocket.client.http import Reporter, log

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])

_PRINTABLE = "".join(map(chr, range(33, 127))).replace("%", "") + " "


class Where(NamedTuple):
    """Where code is. What is nested deeper is the greater in `depth`."""

    job: job | None = None
    stage: str | None = None
    parent: str | None = None
    depth: int = 0
    place: Place | None = None


class Place:
    """A part of an application that a framework runs: a node of a graph, an agent, a tool. Parents follow from what
    happens in it: after its calls and its tools comes what they led to.
    """

    __slots__ = ("cause", "depth", "job", "last", "stage", "used")

    def __init__(self, job: job | None, stage: str | None, cause: str | None, depth: int) -> None:
        self.job, self.stage, self.depth = job, stage, depth
        self.cause = cause
        "the parent of its next call"
        self.last = cause
        "the parent of what comes after it, or is opened in it"
        self.used = False
        "whether anything has happened in it"

    def where(self) -> Where:
        return Where(self.job, self.stage, self.cause, self.depth, self)

    def called(self) -> None:
        """A call is being made from here."""
        self.last, self.used = self.stage or self.last, True

    def after(self, name: str | None) -> None:
        """A tool's run, or another stage, is over in here: the next call reads what it gave."""
        self.cause = self.last = name
        self.used = True


sources: list[Callable[[], Where | None]] = []
"what asks the frameworks that were instrumented where the code is"

_where: contextvars.ContextVar[Where] = contextvars.ContextVar("hocket", default=Where())  # noqa: B039 - a named tuple


def where() -> Where:
    """Where the code that asks is: the innermost of our own blocks and of what the frameworks are running."""
    found = _where.get()
    for source in sources:
        try:
            other = source()
        except Exception:  # noqa: BLE001 - a framework that has changed must not break the application
            log.debug("a framework does not say where the code is", exc_info=True)
            continue
        if other is not None and other.depth > found.depth:
            found = other
    return found


def headers() -> dict[str, str]:
    """The identity headers of the code that asks: for HTTP clients that `instrument` does not know."""
    here, found = where(), {}
    if here.job is not None:
        found = dict(here.job.headers)
    if here.stage:
        found["x-hocket-stage"] = header_value(here.stage)
    if here.parent:
        found["x-hocket-parent"] = header_value(here.parent)
    if here.place is not None:
        here.place.called()
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

    _token: contextvars.Token[Where] | None = None
    _job: job | None = None
    "that of the place; kept, because a framework may leave the block in another context than it entered"

    def _place(self) -> Where:
        raise NotImplementedError

    def opening(self) -> tuple[Any, ...] | None:
        """The report of the beginning: method, path below `/v1`, body."""
        return None

    def closing(self, failed: bool) -> tuple[Any, ...] | None:
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
            closing = self.closing(kind is not None)
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
            closing = self.closing(kind is not None)
            if closing and (reporter := self._reporter()):
                await reporter.asend(*closing)
        finally:
            self._end()

    def _begin(self) -> tuple[Any, ...] | None:
        if self._token is not None:
            raise RuntimeError(f"{self!r} is open already; make another")
        place = self._place()
        self._job = place.job
        opening = self.opening()
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

    def _place(self) -> Where:
        return Where(self, depth=where().depth + 1)

    def opening(self) -> tuple[Any, ...]:
        body: dict[str, Any] = {"job": header_value(self.id), "app": header_value(self.app)}
        if self.urgency is not None:
            body["urgency"] = self.urgency
        if self.deadline_s is not None:
            body["deadline_ms"] = round(1000 * self.deadline_s)
        return "POST", "/jobs", body

    def closing(self, failed: bool) -> tuple[Any, ...]:
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

    def _place(self) -> Where:
        here = where()
        return Where(here.job, self.name, self._parent or parent_in(here), here.depth + 1)


class _Tool(_Scope):
    """A run of a tool (`with`), or the decorator that makes each call of a function one."""

    def __init__(self, name: str, *, parent: str | None = None) -> None:
        self.name, self._parent, self._run = name, parent, ""
        self._within: Place | None = None

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

    def _place(self) -> Where:
        here = where()
        self._within = here.place
        return Where(here.job, None, self.name, here.depth + 1)

    def opening(self) -> tuple[Any, ...] | None:
        if self._job is None:
            return None
        self._run = secrets.token_hex(6)
        return tool_started(self._job, self.name, self._run, self._parent or parent_in(where()))

    def closing(self, failed: bool) -> tuple[Any, ...] | None:
        if self._within is not None:
            self._within.after(self.name)
        return None if self._job is None else tool_ended(self._job, self.name, self._run)


@overload
def tool(name: F) -> F: ...
@overload
def tool(name: str, *, parent: str | None = None) -> _Tool: ...
def tool(name: Any, *, parent: str | None = None) -> Any:
    """A tool stage: `@hocket.tool`, `@hocket.tool("name")` or `with hocket.tool("name"):`. Its runs are reported.

    The name is the function's unless given. Outside a job it does nothing.
    """
    return _Tool(name.__name__)(name) if callable(name) else _Tool(name, parent=parent)


def parent_in(here: Where) -> str | None:
    """The parent of what is opened here."""
    return here.place.last if here.place is not None else here.stage or here.parent


def tool_started(job: job, name: str, run: str, parent: str | None) -> tuple[Any, ...]:
    """The report of a tool run's beginning: method, path below `/v1`, body."""
    body = {"run": run} if parent is None else {"run": run, "parent": header_value(parent)}
    return "POST", _tool_path(job, name, "start"), body


def tool_ended(job: job, name: str, run: str) -> tuple[Any, ...]:
    """The report of its end."""
    return "POST", _tool_path(job, name, "end"), {"run": run}


def _tool_path(job: job, name: str, verb: str) -> str:
    return f"{job.path}/tools/{quote(header_value(name), safe='')}:{verb}"


def header_value(name: str) -> str:
    """A name as a header can carry it: what is not printable ASCII is percent-encoded, and it may not be too long."""
    return quote(name, safe=_PRINTABLE, errors="replace")[:200].strip()
