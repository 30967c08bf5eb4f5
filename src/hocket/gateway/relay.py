"""One call, from its client's request to its client's answer: the eight steps of the life of a call, but the core's.

The handler's task carries the call. It waits at `LiveCall.order()` until the core has a slot, streams from the replica
that the core chose, and reports what became of it. When the client goes, aiohttp cancels the task: the connection to
the replica closes with it, and the core gets its slot back.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import web
from multidict import CIMultiDict

from hocket.core.commands import Abort, Dispatch, Reject
from hocket.gateway.driver import LiveCall
from hocket.gateway.identity import identify
from hocket.gateway.openai import ApiError, Request, StreamMeter, parse_request, refusal, with_model
from hocket.gateway.upstream import Answer, Replica, ReplicaFailed, downstream_headers, ends_by_close, upstream_headers

if TYPE_CHECKING:
    from hocket.gateway.app import Gateway
    from hocket.settings import TenantSettings


async def complete(gateway: Gateway, tenant: TenantSettings, http: web.BaseRequest, path: str) -> web.StreamResponse:
    """Answer `POST /v1/chat/completions` or `/v1/completions`. Raises ApiError before the call exists."""
    body = await gateway.read(http)
    asked = parse_request(body, chat=path == "/v1/chat/completions")
    who = identify(http.headers, asked.metadata)
    jobs, driver = gateway.jobs, gateway.driver
    place = jobs.place(tenant, who)
    engine = driver.scheduler.engine_for(place.app, place.stage, asked.model)
    if engine is None:
        known = ", ".join(driver.scheduler.models)
        raise ApiError(
            404, f"no engine serves the model '{asked.model}'; there is: {known}", code="model_not_found", param="model"
        )
    renamed = gateway.upstream_model(engine)
    jobs.open_for(place, tenant, who.deadline_s)
    call = driver.arrive(
        place.key,
        place.stage,
        asked.model,
        prompt_tokens=asked.prompt_tokens,
        max_tokens=asked.limit,
        urgency=None if place.fresh else place.urgency,
        parent=who.parent,
    )
    if place.alone:
        # nothing will follow: the core forgets the job with its call
        driver.end_job(place.key)
    try:
        sent = body if renamed is None else with_model(body, renamed)
        return await Relay(gateway, http, call, asked, path, sent, place.job).run()
    finally:
        driver.leave(call)


class Relay:
    """A call and what must be known to serve it."""

    __slots__ = ("_arrived", "_asked", "_body", "_call", "_gateway", "_headers", "_http", "_own", "_path")

    def __init__(
        self, gateway: Gateway, http: web.BaseRequest, call: LiveCall, asked: Request, path: str, body: bytes, job: str
    ) -> None:
        self._gateway, self._http, self._call, self._asked = gateway, http, call, asked
        self._path, self._body = path, body
        self._headers = upstream_headers(http.headers, keep_authorization=gateway.tenants.open)
        self._own = {"x-hocket-job": job, "x-hocket-call": call.id}
        self._arrived = gateway.driver.clock()

    async def run(self) -> web.StreamResponse:
        """Do what the core orders until the client has one answer or one error."""
        call = self._call
        try:
            return await self._obey()
        except asyncio.CancelledError:
            if call.aborted:
                return self._refuse(await self._aborted(), None)
            raise
        except ConnectionError:
            # the client went while it was written to: whatever is answered now, nobody reads
            return web.Response(status=499)

    async def _obey(self) -> web.StreamResponse:
        call, failure = self._call, None
        while True:
            order = await call.order()
            if not isinstance(order, Dispatch):
                return self._refuse(order, failure)
            try:
                replica = self._gateway.replicas.get((order.engine, order.replica))
                if replica is None:
                    raise ReplicaFailed("connect", "the replica is gone")
                call.started()
                self._own["x-hocket-queue-ms"] = f"{1000 * (self._gateway.driver.clock() - self._arrived):.1f}"
                serve = self._stream if self._asked.stream else self._whole
                return await serve(replica)
            except ReplicaFailed as error:
                failure = error
                call.failed(error.kind, error.status, retry_after_s=error.retry_after_s)

    async def _whole(self, replica: Replica) -> web.StreamResponse:
        upstream = await replica.post(self._path, self._body, self._headers)
        try:
            answer, prompt_tokens, output_tokens = await replica.answer(upstream, self._asked.prompt_tokens)
        finally:
            replica.release(upstream)
        self._call.finished(prompt_tokens, output_tokens)
        return self._relayed(answer)

    async def _stream(self, replica: Replica) -> web.StreamResponse:
        call, response, meter = self._call, None, StreamMeter()
        upstream = await replica.post(self._path, self._body, self._headers)
        try:
            chunk = await replica.first_chunk(upstream)
            response = self._begin(upstream.status, downstream_headers(upstream.headers))
            await response.prepare(self._http)
            while chunk:
                meter.feed(chunk)
                call.streamed(meter.events)
                await response.write(chunk)
                chunk = await replica.next_chunk(upstream)
            end = meter.end(self._asked.prompt_tokens)
            if end.failed:
                # the engine has told the client so itself
                call.failed("status", 500, first_byte=True)
            elif not end.done and ends_by_close(upstream):
                raise ReplicaFailed("reset", "cut before [DONE]")
            else:
                call.finished(end.prompt_tokens, end.output_tokens)
            return response
        except ReplicaFailed as error:
            if response is None:
                raise
            call.failed(error.kind, error.status, first_byte=True)
            order = await call.order()
        except asyncio.CancelledError:
            if response is None or not call.aborted:
                raise
            order = await self._aborted()
        finally:
            replica.release(upstream)
        assert isinstance(order, Reject | Abort)
        return await _break_off(response, refusal(order))

    async def _aborted(self) -> Abort:
        """The task was cancelled by the core's order, not by the client's going: it goes on, to tell the client."""
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()
        order = await self._call.order()
        assert isinstance(order, Abort)
        return order

    def _refuse(self, order: Reject | Abort, failure: ReplicaFailed | None) -> web.StreamResponse:
        if failure is not None and failure.answer is not None and isinstance(order, Reject):
            return self._relayed(failure.answer)
        return self._gateway.error(self._http, refusal(order), self._own)

    def _relayed(self, answer: Answer) -> web.StreamResponse:
        answer.headers.update(self._own)
        self._gateway.echo_request_id(self._http, answer.headers)
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body)

    def _begin(self, status: int, headers: CIMultiDict[str]) -> web.StreamResponse:
        headers.update(self._own)
        self._gateway.echo_request_id(self._http, headers)
        return web.StreamResponse(status=status, headers=headers)


async def _break_off(response: web.StreamResponse, error: ApiError) -> web.StreamResponse:
    """End a stream that has begun with an error event: it must not look complete."""
    await response.write(b"\n\n" + error.sse)
    return response
