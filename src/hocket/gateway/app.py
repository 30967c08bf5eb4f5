"""The gateway: routes, replicas, and an orderly end. What becomes of one call is in `hocket.gateway.relay`.

aiohttp's low-level server: a handful of fixed paths need no router, and the relay benchmark pays for one
(docs/decisions/http-stack.md).
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote

from aiohttp import web
from multidict import CIMultiDict, istr

from hocket.assembly import build
from hocket.core.commands import Abort
from hocket.errors import InputError
from hocket.gateway.drift import Drift
from hocket.gateway.driver import Driver, Journal, Observer
from hocket.gateway.fleet import Fleet
from hocket.gateway.guard import Guard
from hocket.gateway.idempotency import HEADER, Idempotency
from hocket.gateway.identity import Tenants
from hocket.gateway.identity.keyring import Keyring
from hocket.gateway.jobs import Jobs
from hocket.gateway.judge import Judge
from hocket.gateway.listeners import Listeners
from hocket.gateway.openai import ENDPOINTS, ApiError, unknown_model
from hocket.gateway.operators import Operators, as_json
from hocket.gateway.places import Places
from hocket.gateway.profiles import Profiles, find
from hocket.gateway.reading import load
from hocket.gateway.relay import complete
from hocket.gateway.responses import Responses
from hocket.gateway.server import read_body
from hocket.gateway.straight import not_allowed, stored_response, tokenize
from hocket.gateway.urgency import Urgency
from hocket.metrics import Metrics
from hocket.settings import EngineSettings, Settings, TenantSettings
from hocket.settings.keys import keys_of
from hocket.settings.plan import planned_for

if TYPE_CHECKING:
    from hocket.history.unfinished import Unfinished

log = logging.getLogger("hocket.gateway")

CLOSE_S = 2.0
"at the end, when no call is left: how long a client may take to send the rest of its request, or to read its answer"

SILENT_S = 2.0
"where another process takes over: how long after the last request a connection may stay open, for its client to use"

_REQUEST, _CALL = istr("x-request-id"), istr("x-hocket-call")

Handler = Callable[[web.BaseRequest, TenantSettings], Awaitable[web.StreamResponse]]


class Earlier(Protocol):
    """What is known of earlier processes: `hocket.history.recorder.HistoryRecorder`."""

    def unfinished(self, silent_s: float) -> dict[str, Unfinished]:
        """Jobs that they left open, heard of in the last `silent_s`, by the core's ids."""

    def called_before(self, key: str, within_s: float, own: str) -> str | None:
        """The job of the call with this hash of an idempotency key, if one was made in these last seconds.

        Not of this process's own calls, whose ids begin with `own`.
        """


class Gateway:
    """One listening gateway. `start` it inside the event loop, `stop` it in the same."""

    def __init__(
        self,
        settings: Settings,
        journal: Journal | None = None,
        *,
        observers: Sequence[Observer] = (),
        reread: Callable[[], Settings] | None = None,
        earlier: Earlier | None = None,
    ) -> None:
        """`earlier`: what is known of the processes before this one."""
        self.settings = settings
        self.scheduler = build(settings.to_spec())
        self.metrics = Metrics(self.scheduler)
        self.drift = Drift()
        self.metrics.registry.register(self.drift)
        self.driver = Driver(self.scheduler, journal=journal, observers=(self.metrics, self.drift, *observers))
        self.fleet = Fleet(self.driver, settings)
        self.replicas = self.fleet.replicas
        self.keyring = Keyring(settings)
        self.guard = Guard(settings, self.keyring)
        self.tenants = Tenants(settings.tenants)
        judge = Judge(self.driver, self.replicas, self.engine, settings)
        self.urgency = Urgency(self.driver, settings, self.metrics, judge)
        self.places = Places(self.driver, self.tenants, settings, self.urgency)
        self.profiles = Profiles(self.driver, self.metrics)
        self.responses = Responses()
        self.jobs = Jobs(self.driver, self.tenants, self.places)
        self.reread = reread
        self._reloading = asyncio.Lock()
        self._created = int(time.time())
        self.stopping = False
        self._heard_at = 0.0
        self._routes: dict[tuple[str, str], Handler] = {
            **{("POST", path): self._complete_at(path) for path in ENDPOINTS},
            ("POST", "/tokenize"): self._tokenize,
            ("POST", "/detokenize"): self._tokenize,
            ("GET", "/v1/models"): self._models,
            ("POST", "/v1/jobs"): self._open_job,
        }
        self._earlier = earlier
        self.idempotency = Idempotency(self, None if earlier is None else earlier.called_before)
        self.operators = Operators(self)
        self.listeners = Listeners(settings, self._handle, CLOSE_S)

    # ---------------------------------------------------------------- life

    async def start(self) -> str:
        """Take in what was learned, listen, make remote replicas known, begin to start embedded engines.

        Returns the base URL. Calls to an engine without a replica wait.

        Raises InputError if an address is taken, or keys, a certificate or the model of a reader cannot be read.
        """
        self.urgency.change(self.settings, await asyncio.to_thread(load, self.settings.urgency))
        self.profiles.hand_over(find(self.settings.profiles))
        self.drift.change(self.settings.plan, planned_for(self.settings.plan))
        self.keyring.change(self.settings, keys_of(self.settings))
        if self._earlier is not None:
            self.places.unfinished = await asyncio.to_thread(self._earlier.unfinished, self.settings.job_idle_s)
        try:
            await self.listeners.start()
        except InputError:
            await self.stop(0)
            raise
        await self.fleet.start()
        return self.listeners.urls[0]

    async def engines_ready(self) -> None:
        """Wait until every replica of the embedded engines has answered once. Raises InputError if one never can."""
        await self.fleet.ready()

    async def stop(self, patience_s: float | None = None) -> None:
        """Take no new calls; let those that are here end, for so many seconds at most; close."""
        self.stopping = True
        patience_s = self.settings.shutdown_s if patience_s is None else patience_s
        await self.listeners.shut()
        if self.listeners.shared:
            patience_s = await self._see_off(patience_s)
        self.urgency.stop()
        await self.driver.quiet(patience_s)
        for call in list(self.driver.live.values()):
            if call.id in self.scheduler.calls:  # else its client has only to read the end of its answer
                call.cancelled()
                call.give(Abort(call.id, "shutdown"))
        await self.driver.quiet(1.0)
        await self.idempotency.stop()
        await self.listeners.close()
        self.places.stop()
        self.driver.stop()
        await self.fleet.stop()

    async def _see_off(self, patience_s: float) -> float:
        """Another process takes who comes. Who is connected here may send one more request, and learns by its answer
        that the connection ends: to close it at once could cut off one that is on its way. Returns what is left.
        """
        now = asyncio.get_running_loop().time
        until, self._heard_at = now() + patience_s, now()
        while self.listeners.open and now() < until:
            if not self.driver.live and now() > self._heard_at + SILENT_S:
                break
            await asyncio.sleep(0.02)
        return max(until - now(), 0.0)

    async def reload(self, settings: Settings) -> None:
        """Go on with other settings; no call is dropped. Raises InputError, and then nothing has changed."""
        for key in ("listen", "admin_listen", "reuse_port", "journal", "history"):
            if getattr(settings, key) != getattr(self.settings, key):
                raise InputError(f"{key}: cannot change while the gateway runs; restart it, or put the old value back")
        async with self._reloading:
            found = await asyncio.to_thread(find, settings.profiles)
            planned = await asyncio.to_thread(planned_for, settings.plan)
            domains = await asyncio.to_thread(load, settings.urgency)
            keys, certificate = keys_of(settings), self.listeners.read(settings)
            await self.fleet.change(settings)
            self.profiles.hand_over(found)
            self.drift.change(settings.plan, planned)
            self.settings = settings
            self.tenants.change(settings.tenants)
            self.places.settings = settings
            self.urgency.change(settings, domains)
            self.keyring.change(settings, keys)
            self.guard.change(settings)
            self.listeners.change(settings, certificate)
        log.info("other settings hold now")

    # ---------------------------------------------------------------- requests

    async def _handle(self, http: web.BaseRequest, apart: bool) -> web.StreamResponse:
        try:
            response = await self._answer(http, apart)
            if self.stopping:
                response.force_close()  # of a stream, which has begun, the relay sees to it
            return response
        except ApiError as error:
            self.metrics.refuse(error.code)
            return self.error(http, error)
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception:
            # a bug: the operator gets the traceback, the client a plain sentence
            log.exception("%s %s failed", http.method, http.path)
            return self.error(http, ApiError(500, "hocket failed; its log says how", code="internal_error"))

    async def _answer(self, http: web.BaseRequest, apart: bool) -> web.StreamResponse:
        self.guard.check(http, apart)
        handler = (
            None if apart else self._routes.get((http.method, http.raw_path))
        )  # as it is written, most of the time
        path = "" if handler is not None else http.path
        if handler is None:
            answer = await self.operators.answer(http, path, apart)
            if answer is not None:
                return answer
            if apart:
                raise _unknown_path(http)
        if self.stopping:
            self._heard_at = asyncio.get_running_loop().time()
        if self.stopping and not self.listeners.shared:
            raise ApiError(503, "the gateway is shutting down; try again", code="shutdown")
        tenant = self.guard.tenant(http)
        handler = handler or self._routes.get((http.method, path))
        if handler is not None:
            return await handler(http, tenant)
        if path.startswith("/v1/jobs/"):
            return await self._job(http, tenant)
        if path.startswith("/v1/responses/"):
            return await stored_response(self, tenant, http)
        if path.startswith("/v1/models/") and http.method == "GET":
            return self._model(path.removeprefix("/v1/models/"))
        allowed = [method for method, known in self._routes if known == path]
        if path.startswith("/v1/models/"):
            allowed.append("GET")
        if allowed:
            raise not_allowed(http, allowed)
        raise _unknown_path(http)

    def read(self, http: web.BaseRequest) -> Awaitable[bytes]:
        """A request's body. Raises ApiError 400, 408 or 413."""
        return read_body(http, self.settings.body_limit, self.settings.timeouts.request)

    def error(
        self, http: web.BaseRequest, error: ApiError, headers: dict[str, str] | None = None
    ) -> web.StreamResponse:
        """An answer of hocket's own."""
        out = CIMultiDict(headers or {})
        out["Content-Type"] = "application/json"
        if error.retry_after_s is not None:
            out["Retry-After"] = str(math.ceil(error.retry_after_s))
        out.update(error.headers)
        if error.status == 409:
            out["x-should-retry"] = "false"  # the official clients would: a closed job stays closed
        if error.status == 401:
            out["WWW-Authenticate"] = "Bearer"
        self.add_request_id(http, out)
        response = web.Response(status=error.status, headers=out, body=error.body)
        if self.stopping or error.status in {408, 413}:
            response.force_close()
        return response

    @staticmethod
    def add_request_id(http: web.BaseRequest, headers: CIMultiDict[str]) -> None:
        """The client's own id for its request comes back to it, else the engine's, else the call's."""
        given = http.headers.get(_REQUEST)
        if given is not None and len(given) <= 200 and given.isascii() and given.isprintable():
            headers[_REQUEST] = given
        elif _CALL in headers:
            headers.setdefault(_REQUEST, headers[_CALL])

    def engine(self, name: str) -> EngineSettings:
        """The settings of an engine."""
        return self.fleet.engines[name].settings

    # ---------------------------------------------------------------- handlers

    def _complete_at(self, path: str) -> Handler:
        def answer(http: web.BaseRequest, tenant: TenantSettings) -> Awaitable[web.StreamResponse]:
            if HEADER in http.headers:
                return self.idempotency.answer(http, tenant, path)
            return complete(self, tenant, http, path)

        return answer

    async def _tokenize(self, http: web.BaseRequest, tenant: TenantSettings) -> web.StreamResponse:
        return await tokenize(self, http)

    async def _models(self, http: web.BaseRequest, tenant: TenantSettings) -> web.StreamResponse:
        names = dict.fromkeys(self.scheduler.models)
        return as_json({"object": "list", "data": [self._model_object(name) for name in names]})

    def _model(self, name: str) -> web.StreamResponse:
        if name not in self.scheduler.models:
            raise unknown_model(self.scheduler.models, name)
        return as_json(self._model_object(name))

    def _model_object(self, name: str) -> dict[str, object]:
        return {"id": name, "object": "model", "created": self._created, "owned_by": "hocket"}

    async def _open_job(self, http: web.BaseRequest, tenant: TenantSettings) -> web.StreamResponse:
        return as_json(self.jobs.open(tenant, await self.read(http)))

    async def _job(self, http: web.BaseRequest, tenant: TenantSettings) -> web.StreamResponse:
        """`/v1/jobs/{id}` and `/v1/jobs/{id}/tools/{name}:start|end`. Ids and names may hold %2F and %3A."""
        parts = http.rel_url.raw_path.removeprefix("/v1/jobs/").split("/")
        job = unquote(parts[0])
        match http.method, parts[1:]:
            case "GET", []:
                return as_json(self.jobs.describe(tenant, job))
            case "DELETE", []:
                abort = http.query.get("abort", "false").lower()
                if abort not in {"true", "false", "1", "0"}:
                    raise ApiError(400, f"abort must be true or false, got '{abort}'", code="invalid_query")
                return as_json(self.jobs.close(tenant, job, abort in {"true", "1"}))
            case "POST", ["tools", verb] if verb.endswith(":start"):
                name = unquote(verb.removesuffix(":start"))
                return as_json(self.jobs.start_tool(tenant, job, name, await self.read(http)))
            case "POST", ["tools", verb] if verb.endswith(":end"):
                name = unquote(verb.removesuffix(":end"))
                return as_json(self.jobs.end_tool(tenant, job, name, await self.read(http)))
            case _, []:
                raise not_allowed(http, ["GET", "DELETE"])
            case _, ["tools", verb] if verb.endswith((":start", ":end")):
                raise not_allowed(http, ["POST"])
        raise _unknown_path(http)


def _unknown_path(http: web.BaseRequest) -> ApiError:
    return ApiError(404, f"there is no {http.method} {http.path[:200]}", code="unknown_path")
