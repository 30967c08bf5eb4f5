"""The gateway: routes, replicas, and an orderly end. What becomes of one call is in `hocket.gateway.relay`.

aiohttp's low-level server: a handful of fixed paths need no router, and the relay benchmark pays for one
(docs/decisions/http-stack.md).
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import unquote

import msgspec
from aiohttp import web
from multidict import CIMultiDict

from hocket.assembly import build
from hocket.core.commands import Abort
from hocket.errors import InputError
from hocket.gateway.driver import Driver, Journal, Observer
from hocket.gateway.fleet import Fleet
from hocket.gateway.guard import Guard
from hocket.gateway.identity import Tenants
from hocket.gateway.jobs import Jobs
from hocket.gateway.judge import Judge
from hocket.gateway.openai import ENDPOINTS, ApiError, unknown_model
from hocket.gateway.openapi import document
from hocket.gateway.places import Places
from hocket.gateway.profiles import Profiles, find
from hocket.gateway.reading import load
from hocket.gateway.relay import complete
from hocket.gateway.responses import Responses
from hocket.gateway.server import Server, read_body
from hocket.gateway.straight import not_allowed, stored_response, tokenize
from hocket.gateway.urgency import Urgency
from hocket.metrics import CONTENT_TYPE, Metrics
from hocket.settings import EngineSettings, Settings, TenantSettings

log = logging.getLogger("hocket.gateway")

CLOSE_S = 2.0
"at the end, when no call is left: how long a client may take to send the rest of its request, or to read its answer"

Handler = Callable[[web.BaseRequest, TenantSettings], Awaitable[web.StreamResponse]]


class Gateway:
    """One listening gateway. `start` it inside the event loop, `stop` it in the same."""

    def __init__(
        self,
        settings: Settings,
        journal: Journal | None = None,
        *,
        observers: Sequence[Observer] = (),
        reread: Callable[[], Settings] | None = None,
    ) -> None:
        self.settings = settings
        self.scheduler = build(settings.to_spec())
        self.metrics = Metrics(self.scheduler)
        self.driver = Driver(self.scheduler, journal=journal, observers=(self.metrics, *observers))
        self.fleet = Fleet(self.driver, settings)
        self.replicas = self.fleet.replicas
        self.guard = Guard(settings)
        self.tenants = Tenants(settings.tenants)
        judge = Judge(self.driver, self.replicas, self.engine, settings)
        self.urgency = Urgency(self.driver, settings, self.metrics, judge)
        self.places = Places(self.driver, self.tenants, settings, self.urgency)
        self.profiles = Profiles(self.driver, self.metrics)
        self.responses = Responses()
        self.jobs = Jobs(self.driver, self.tenants, self.places)
        self._reread = reread
        self._reloading = asyncio.Lock()
        self._created = int(time.time())
        self._stopping = False
        self._routes: dict[tuple[str, str], Handler] = {
            **{("POST", path): self._complete_at(path) for path in ENDPOINTS},
            ("POST", "/tokenize"): self._tokenize,
            ("POST", "/detokenize"): self._tokenize,
            ("GET", "/v1/models"): self._models,
            ("POST", "/v1/jobs"): self._open_job,
        }
        self._public = {
            "/health": self._health,
            "/ready": self._ready,
            "/metrics": self._metrics,
            "/openapi.json": self._openapi,
        }
        self._server = Server(self._handle, settings)
        self._runner = web.ServerRunner(self._server, handle_signals=False, shutdown_timeout=CLOSE_S)
        self._site: web.TCPSite | None = None

    # ---------------------------------------------------------------- life

    async def start(self) -> str:
        """Take in what was learned, listen, make remote replicas known, begin to start embedded engines.

        Returns the base URL. Calls to an engine without a replica wait.

        Raises InputError if the address is taken, or the model of a reader is missing or broken.
        """
        self.urgency.change(self.settings, await asyncio.to_thread(load, self.settings.urgency))
        self.profiles.hand_over(find(self.settings.profiles))
        host, port = self.settings.address
        await self._runner.setup()
        self._site = web.TCPSite(self._runner, host, port, backlog=1024)
        try:
            await self._site.start()
        except OSError as error:
            await self.stop(0)
            why = os.strerror(error.errno).lower() if error.errno else str(error)
            raise InputError(
                f"listen {self.settings.listen}: {why}; stop what uses the address, or choose another with --port"
            ) from None
        await self.fleet.start()
        host, port = self._runner.addresses[0][:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def engines_ready(self) -> None:
        """Wait until every replica of the embedded engines has answered once. Raises InputError if one never can."""
        await self.fleet.ready()

    async def stop(self, patience_s: float | None = None) -> None:
        """Take no new calls; let those that are here end, for so many seconds at most; close."""
        self._stopping = True
        self.urgency.stop()
        if self._site is not None:
            await self._site.stop()
            self._site = None
        await self.driver.quiet(self.settings.shutdown_s if patience_s is None else patience_s)
        for call in list(self.driver.live.values()):
            if call.id in self.scheduler.calls:  # else its client has only to read the end of its answer
                call.cancelled()
                call.give(Abort(call.id, "shutdown"))
        await self.driver.quiet(1.0)
        await self._runner.cleanup()
        self.places.stop()
        self.driver.stop()
        await self.fleet.stop()

    async def reload(self, settings: Settings) -> None:
        """Go on with other settings; no call is dropped. Raises InputError, and then nothing has changed."""
        for key in ("listen", "journal", "history"):
            if getattr(settings, key) != getattr(self.settings, key):
                raise InputError(f"{key}: cannot change while the gateway runs; restart it, or put the old value back")
        async with self._reloading:
            found = await asyncio.to_thread(find, settings.profiles)
            domains = await asyncio.to_thread(load, settings.urgency)
            await self.fleet.change(settings)
            self.profiles.hand_over(found)
            self.settings = settings
            self.tenants.change(settings.tenants)
            self.places.settings = settings
            self.urgency.change(settings, domains)
            self.guard.change(settings)
            self._server.settings = settings
        log.info("other settings hold now")

    # ---------------------------------------------------------------- requests

    async def _handle(self, http: web.BaseRequest) -> web.StreamResponse:
        try:
            return await self._answer(http)
        except ApiError as error:
            self.metrics.refuse(error.code)
            return self.error(http, error)
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception:
            # a bug: the operator gets the traceback, the client a plain sentence
            log.exception("%s %s failed", http.method, http.path)
            return self.error(http, ApiError(500, "hocket failed; its log says how", code="internal_error"))

    async def _answer(self, http: web.BaseRequest) -> web.StreamResponse:
        self.guard.check(http)
        handler = self._routes.get((http.method, http.raw_path))  # as it is written, most of the time
        path = "" if handler is not None else http.path
        public = self._public.get(path)
        if public is not None and http.method == "GET":
            return public()
        if path.startswith("/admin/"):
            return await self._operate(http, path)
        if self._stopping:
            raise ApiError(503, "the gateway is shutting down; try again", code="shutdown")
        tenant = self.tenants.of(http.headers.get("Authorization"))
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
        if public is not None or path.startswith("/v1/models/"):
            allowed.append("GET")
        if allowed:
            raise not_allowed(http, allowed)
        raise ApiError(404, f"there is no {http.method} {path[:200]}", code="unknown_path")

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
        if self._stopping or error.status in {408, 413}:
            response.force_close()
        return response

    @staticmethod
    def add_request_id(http: web.BaseRequest, headers: CIMultiDict[str]) -> None:
        """The client's own id for its request comes back to it, else the engine's, else the call's."""
        given = http.headers.get("x-request-id")
        if given is not None and len(given) <= 200 and given.isascii() and given.isprintable():
            headers["x-request-id"] = given
        elif "x-hocket-call" in headers:
            headers.setdefault("x-request-id", headers["x-hocket-call"])

    def engine(self, name: str) -> EngineSettings:
        """The settings of an engine."""
        return self.fleet.engines[name].settings

    # ---------------------------------------------------------------- handlers

    def _complete_at(self, path: str) -> Handler:
        return lambda http, tenant: complete(self, tenant, http, path)

    async def _tokenize(self, http: web.BaseRequest, tenant: TenantSettings) -> web.StreamResponse:
        return await tokenize(self, http)

    async def _models(self, http: web.BaseRequest, tenant: TenantSettings) -> web.StreamResponse:
        names = dict.fromkeys(self.scheduler.models)
        return _json({"object": "list", "data": [self._model_object(name) for name in names]})

    def _model(self, name: str) -> web.StreamResponse:
        if name not in self.scheduler.models:
            raise unknown_model(self.scheduler.models, name)
        return _json(self._model_object(name))

    def _model_object(self, name: str) -> dict[str, object]:
        return {"id": name, "object": "model", "created": self._created, "owned_by": "hocket"}

    async def _open_job(self, http: web.BaseRequest, tenant: TenantSettings) -> web.StreamResponse:
        return _json(self.jobs.open(tenant, await self.read(http)))

    async def _job(self, http: web.BaseRequest, tenant: TenantSettings) -> web.StreamResponse:
        """`/v1/jobs/{id}` and `/v1/jobs/{id}/tools/{name}:start|end`. Ids and names may hold %2F and %3A."""
        parts = http.rel_url.raw_path.removeprefix("/v1/jobs/").split("/")
        job = unquote(parts[0])
        match http.method, parts[1:]:
            case "GET", []:
                return _json(self.jobs.describe(tenant, job))
            case "DELETE", []:
                abort = http.query.get("abort", "false").lower()
                if abort not in {"true", "false", "1", "0"}:
                    raise ApiError(400, f"abort must be true or false, got '{abort}'", code="invalid_query")
                return _json(self.jobs.close(tenant, job, abort in {"true", "1"}))
            case "POST", ["tools", verb] if verb.endswith(":start"):
                name = unquote(verb.removesuffix(":start"))
                return _json(self.jobs.start_tool(tenant, job, name, await self.read(http)))
            case "POST", ["tools", verb] if verb.endswith(":end"):
                name = unquote(verb.removesuffix(":end"))
                return _json(self.jobs.end_tool(tenant, job, name, await self.read(http)))
            case _, []:
                raise not_allowed(http, ["GET", "DELETE"])
            case _, ["tools", verb] if verb.endswith((":start", ":end")):
                raise not_allowed(http, ["POST"])
        raise ApiError(404, f"there is no {http.method} {http.path[:200]}", code="unknown_path")

    # ---------------------------------------------------------------- for operators

    async def _operate(self, http: web.BaseRequest, path: str) -> web.StreamResponse:
        self.guard.admin(http)
        if path != "/admin/reload":
            raise ApiError(404, f"there is no {path[:200]}; there is POST /admin/reload", code="unknown_path")
        if http.method != "POST":
            raise not_allowed(http, ["POST"])
        if self._reread is None:
            raise ApiError(409, "this gateway was started without a settings file: nothing to read", code="no_settings")
        try:
            await self.reload(await asyncio.to_thread(self._reread))
        except InputError as error:
            raise ApiError(400, f"nothing has changed: {error}", code="invalid_settings") from None
        return _json({"status": "reloaded", "engines": [engine.name for engine in self.settings.engines]})

    def _health(self) -> web.StreamResponse:
        return _json({"status": "ok"})

    def _ready(self) -> web.StreamResponse:
        waiting = [engine.name for engine in self.scheduler.engines.values() if not engine.replicas]
        ready = len(waiting) < len(self.scheduler.engines) and not self._stopping
        body = {"ready": ready, "engines_without_replica": waiting}
        return _json(body, 200 if ready else 503)

    def _openapi(self) -> web.StreamResponse:
        return web.Response(body=document(), headers={"Content-Type": "application/json"})

    def _metrics(self) -> web.StreamResponse:
        return web.Response(body=self.metrics.render(), headers={"Content-Type": CONTENT_TYPE})


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(value), headers={"Content-Type": "application/json"})
