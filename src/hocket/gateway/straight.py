"""Requests that go straight to a replica: they are no calls, wait in no queue and take no slot.

Tokenizing is work for a tokenizer, not for the model. A stored response (`/v1/responses/ID`) is known to the one
replica that gave it, and to nobody else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from hocket.gateway.downstream import Downstream
from hocket.gateway.filters import readable
from hocket.gateway.identity import DEFAULT_APP, DEFAULT_STAGE
from hocket.gateway.openai import REASONS, ApiError, decode, edited, unknown_model
from hocket.gateway.upstream import Answer, Replica, ReplicaFailed, upstream_headers

if TYPE_CHECKING:
    from hocket.gateway.app import Gateway
    from hocket.settings import TenantSettings

UNKNOWN_PATH = frozenset({404, 405, 501})
"what an engine answers to a path that it does not have"


class _Model(msgspec.Struct):
    model: str | None = None


_model = msgspec.json.Decoder(_Model)


async def tokenize(gateway: Gateway, http: web.BaseRequest) -> web.StreamResponse:
    """Answer `POST /tokenize` or `/detokenize`, as the engine of the body's model does. Raises ApiError."""
    body = await gateway.read(http)
    model = decode(body, _model).model
    name = _engine_for(gateway, model)
    renamed = gateway.engine(name).upstream_model
    if model is not None and renamed is not None:
        body = edited(body, {"model": renamed})
    answer = await _ask(gateway, http, _least_loaded(gateway, name), body)
    if answer.status in UNKNOWN_PATH:
        raise ApiError(404, f"the engine '{name}' has no {http.path}", code="unsupported_by_engine")
    return Downstream(gateway, http, {}, named=False).whole(answer)


async def stored_response(gateway: Gateway, tenant: TenantSettings, http: web.BaseRequest) -> web.StreamResponse:
    """Answer `GET` or `DELETE /v1/responses/ID`, or `POST /v1/responses/ID/cancel`, as the replica that gave it does.

    Raises ApiError 404 where hocket does not know which one that was.
    """
    response, _, verb = http.path.removeprefix("/v1/responses/").partition("/")
    allowed = {"": ["GET", "DELETE"], "cancel": ["POST"]}.get(verb)
    if allowed is None:
        raise ApiError(404, f"there is no {http.method} {http.path[:200]}", code="unknown_path")
    if http.method not in allowed:
        raise not_allowed(http, allowed)
    held = gateway.responses.find(tenant.name, response)
    if held is None:
        message = f"no engine is known to hold the response '{response[:200]}'; it is too old, or not yours"
        raise ApiError(404, message, code="unknown_response")
    replica = gateway.replicas.get(held)
    if replica is None:
        raise ApiError(503, f"the replica that held '{response[:200]}' is gone", code="upstream_connect")
    answer = await _ask(gateway, http, replica, await gateway.read(http))
    if http.method == "DELETE" and answer.status < 300:
        gateway.responses.forget(tenant.name, response)
    return Downstream(gateway, http, {}, named=False).whole(answer)


def not_allowed(http: web.BaseRequest, allowed: list[str]) -> ApiError:
    """The error for a path that takes other methods."""
    message = f"{http.path[:200]} takes {', '.join(allowed)}, not {http.method}"
    return ApiError(405, message, code="method_not_allowed", headers={"Allow": ", ".join(allowed)})


def _engine_for(gateway: Gateway, model: str | None) -> str:
    scheduler = gateway.scheduler
    if model is None:
        if len(scheduler.engines) == 1:
            return next(iter(scheduler.engines))
        message = "there is more than one engine: say which `model` is meant"
        raise ApiError(400, message, code="missing_required_parameter", param="model")
    name = scheduler.engine_for(DEFAULT_APP, DEFAULT_STAGE, model)
    if name is None:
        raise unknown_model(scheduler.models, model)
    return name


def _least_loaded(gateway: Gateway, engine: str) -> Replica:
    known = gateway.scheduler.engines[engine].replicas.values()
    for replica in sorted(known, key=lambda replica: replica.inflight / replica.window):
        found = gateway.replicas.get((engine, replica.id))
        if found is not None:
            return found
    raise ApiError(503, f"the engine '{engine}' has no replica now; try again", code="upstream_connect")


async def _ask(gateway: Gateway, http: web.BaseRequest, replica: Replica, body: bytes) -> Answer:
    """The replica's answer, whatever its status. Raises ApiError 502 if there is none."""
    headers = upstream_headers(http.headers, keep_authorization=gateway.tenants.open)
    try:
        upstream = await replica.send(http.method, http.rel_url.raw_path_qs, body, headers)
        try:
            return readable(await replica.whole(upstream), http.headers.get("Accept-Encoding", ""))
        finally:
            replica.release(upstream)
    except ReplicaFailed as error:
        code = f"upstream_{error.kind}"
        raise ApiError(502, REASONS[code], code=code) from None
