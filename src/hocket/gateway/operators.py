"""What those who run the gateway ask of it: whether it lives, what it measures, which jobs are open, and a reload."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web
from msgspec import Struct

from hocket.errors import InputError
from hocket.gateway.openai import ApiError
from hocket.gateway.openapi import document
from hocket.gateway.standing import standings
from hocket.gateway.straight import not_allowed
from hocket.metrics import CONTENT_TYPE
from hocket.settings.keys import Role

if TYPE_CHECKING:
    from hocket.gateway.app import Gateway

MAX_LISTED = 1000
"open jobs in one answer, the oldest first"


class Operation(Struct, frozen=True):
    """One path. `role` None: anyone may ask, at either listener; else at the operators', where there is one."""

    method: str
    role: Role | None
    answer: Callable[[], Awaitable[web.StreamResponse]]


class Operators:
    """Answers at the operators' listener, and at the main one where that is not apart."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.operations = {
            "/health": Operation("GET", None, self._health),
            "/ready": Operation("GET", None, self._ready),
            "/openapi.json": Operation("GET", None, self._openapi),
            "/metrics": Operation("GET", "observe", self._metrics),
            "/admin/jobs": Operation("GET", "observe", self._jobs),
            "/admin/tenants": Operation("GET", "observe", self._tenants),
            "/admin/reload": Operation("POST", "admin", self._reload),
        }

    async def answer(self, http: web.BaseRequest, path: str, apart: bool) -> web.StreamResponse | None:
        """The answer; None where the path is not for operators, or not here. Raises ApiError."""
        operation = self.operations.get(path)
        here = apart or self._gateway.settings.admin_listen is None
        if operation is None or (operation.role is not None and not here):
            if here and path.startswith("/admin/"):  # what there is only an operator learns
                self._gateway.guard.operator(http, "admin", apart)
                known = ", ".join(path for path in self.operations if path.startswith("/admin/"))
                raise ApiError(404, f"there is no {path[:200]}; there is {known}", code="unknown_path")
            return None
        if operation.role is not None:
            self._gateway.guard.operator(http, operation.role, apart)
        if http.method != operation.method:
            raise not_allowed(http, [operation.method])
        return await operation.answer()

    async def _health(self) -> web.StreamResponse:
        return as_json({"status": "ok"})

    async def _ready(self) -> web.StreamResponse:
        gateway = self._gateway
        engines = gateway.scheduler.engines
        waiting = [engine.name for engine in engines.values() if not engine.replicas]
        ready = len(waiting) < len(engines) and not gateway.stopping
        return as_json({"ready": ready, "engines_without_replica": waiting}, 200 if ready else 503)

    async def _openapi(self) -> web.StreamResponse:
        return web.Response(body=document(), headers={"Content-Type": "application/json"})

    async def _metrics(self) -> web.StreamResponse:
        return web.Response(body=self._gateway.metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    async def _jobs(self) -> web.StreamResponse:
        jobs, now, nameless = self._gateway.scheduler.jobs, self._gateway.driver.clock(), self._gateway.tenants.open
        data: list[dict[str, Any]] = [
            {
                "id": key if nameless else key.removeprefix(f"{job.tenant.name}/"),
                "object": "job",
                "tenant": job.tenant.name,
                "app": job.app.name,
                "urgency": job.urgency,
                "age_s": now - job.arrived_at,
                "service_s": job.service_s,
                "open_calls": job.open_calls,
                "open_tools": job.open_tools,
            }
            for key, job in islice(jobs.items(), MAX_LISTED)
        ]
        return as_json({"object": "list", "data": data, "total": len(jobs)})

    async def _tenants(self) -> web.StreamResponse:
        return as_json(standings(self._gateway.scheduler, self._gateway.driver.clock()))

    async def _reload(self) -> web.StreamResponse:
        gateway = self._gateway
        if gateway.reread is None:
            raise ApiError(409, "this gateway was started without a settings file: nothing to read", code="no_settings")
        try:
            await gateway.reload(await asyncio.to_thread(gateway.reread))
        except InputError as error:
            raise ApiError(400, f"nothing has changed: {error}", code="invalid_settings") from None
        return as_json({"status": "reloaded", "engines": [engine.name for engine in gateway.settings.engines]})


def as_json(value: object, status: int = 200) -> web.Response:
    """An answer of hocket's own."""
    return web.Response(status=status, body=msgspec.json.encode(value), headers={"Content-Type": "application/json"})
