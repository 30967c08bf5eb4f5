"""One call, from its client's request to its client's answer: the eight steps of the life of a call, but the core's.

The handler's task carries the call. It waits at `LiveCall.order()` until the core has a slot, streams from the replica
that the core chose, and reports what became of it. When the client goes, aiohttp cancels the task: the connection to
the replica closes with it, and the core gets its slot back.

The engine gets the client's bytes, but for three values that the settings may have hocket write: the model's name, the
priority, and `include_usage`, where the engine is known to answer that with one event more. See `Relay._body_for`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from aiohttp import hdrs, web
from multidict import istr

from hocket.core.commands import Abort, Dispatch, Reject
from hocket.gateway.answers import GarbageError, Meter, ResponseMeter, Sizes, StreamEnd, StreamMeter, sizes_of
from hocket.gateway.displacement import Displaced, Displacement
from hocket.gateway.driver import LiveCall
from hocket.gateway.filters import CODING, accepts, coding_of, meter_for, readable, unpack
from hocket.gateway.openai import (
    ENDPOINTS,
    ApiError,
    Endpoint,
    Request,
    edited,
    parse_request,
    refusal,
    unknown_model,
    with_usage,
)
from hocket.gateway.places import Place
from hocket.gateway.resume import CONTINUES, Draft, resumable
from hocket.gateway.tape import Tape, downstream
from hocket.gateway.upstream import Answer, Replica, ReplicaFailed, downstream_headers, upstream_headers
from hocket.gateway.wire import Response

if TYPE_CHECKING:
    from hocket.gateway.app import Gateway
    from hocket.settings import EngineSettings, TenantSettings

T = TypeVar("T")

COUNTS_ON_REQUEST = frozenset({"vllm", "sglang"})
"""kinds of engine that answer `include_usage` with one event more and change nothing else. llama.cpp does not: it moves
its `timings` there, and from the timings its sizes are known anyway"""
LEAST_URGENT = 4
# as the multi-dictionaries of headers want their keys: others they would have to spell anew each time
_JOB, _CALL, _QUEUE_MS = istr("x-hocket-job"), istr("x-hocket-call"), istr("x-hocket-queue-ms")


async def complete(
    gateway: Gateway, tenant: TenantSettings, http: web.BaseRequest, path: str, tape: Tape | None = None
) -> web.StreamResponse:
    """Answer a request to one of `ENDPOINTS`: its client, or onto a tape. Raises ApiError before the call exists."""
    endpoint = ENDPOINTS[path]
    body = await gateway.read(http) if tape is None else tape.body
    asked = parse_request(body, endpoint)
    if asked.previous_response_id is not None:
        _check_before(gateway, tenant, asked.previous_response_id)
    place = gateway.places.place(tenant, http.headers, asked, chained=endpoint.streams)
    scheduler = gateway.driver.scheduler
    engine = scheduler.engine_for(place.app, place.stage, asked.model)
    if engine is None:
        raise unknown_model(scheduler.models, asked.model)
    served = gateway.fleet.engines[engine]
    displaces = scheduler.engines[engine].holders is not None
    kept = displaces and served.plain and resumable(served.settings.kind, endpoint, asked, body)
    place.tape = tape
    call = gateway.places.arrive(place, asked, body, kept)
    try:
        return await Relay(gateway, tenant.name, http, call, endpoint, asked, body, place, kept).run()
    finally:
        gateway.places.leave(place, call)


def _check_before(gateway: Gateway, tenant: TenantSettings, response: object) -> None:
    """Raise ApiError 404 for a response that may be another tenant's: the engine, knowing none, would go on from it.

    What was forgotten is nobody's, so it counts as another's.
    """
    if gateway.tenants.open or response is None:
        return
    if not isinstance(response, str) or gateway.responses.find(tenant.name, response) is None:
        message = f"there is no response '{str(response)[:200]}' of yours, or it is too old"
        raise ApiError(404, message, code="unknown_response", param="previous_response_id")


class Relay:
    """A call and what must be known to serve it."""

    __slots__ = (
        "_accepted", "_arrived", "_asked", "_beat_s", "_body", "_call", "_client", "_endpoint", "_gateway", "_headers",
        "_path", "_place", "_seat", "_sifted", "_tenant", "_upstream",
    )  # fmt: skip

    def __init__(
        self,
        gateway: Gateway,
        tenant: str,
        http: web.BaseRequest,
        call: LiveCall,
        endpoint: Endpoint,
        asked: Request,
        body: bytes,
        place: Place,
        kept: bool,
    ) -> None:
        self._gateway, self._call, self._endpoint, self._asked = gateway, call, endpoint, asked
        self._tenant, self._place = tenant, place
        query = http.rel_url.raw_query_string if "?" in http.raw_path else ""
        self._path = f"{endpoint.path}?{query}" if query else endpoint.path
        self._body = body
        self._accepted = http.headers.get(hdrs.ACCEPT_ENCODING, "") if place.tape is None else ""
        self._headers = upstream_headers(http.headers, keep_authorization=gateway.tenants.open)
        if not (asked.stream or kept) and accepts(self._accepted, CODING):
            # a stream would be unpacked here event by event, and gains little
            self._headers.append(("Accept-Encoding", CODING))
        own: dict[str, str] = {_JOB: place.job, _CALL: call.id}
        if call.waits:  # else the order is there, and `_obey` says its class
            own |= gateway.urgency.headers(call.id, place.decided)
        self._client = downstream(gateway, http, own, endpoint.path == "/v1/responses", place.tape)
        self._beat_s = gateway.settings.heartbeat_s if asked.stream else None
        self._arrived = gateway.driver.clock()
        #: the answer under way, until it is released
        self._upstream: Response | None = None
        #: whether hocket alone asked for the usage
        self._sifted = False
        self._seat = Displacement(gateway, call, bool(asked.stream), kept)

    async def run(self) -> web.StreamResponse:
        """Do what the core orders until the client has one answer or one error."""
        call = self._call
        try:
            return await self._obey()
        except asyncio.CancelledError:
            if call.aborted:
                return await self._client.error(refusal(await self._aborted()))
            raise
        except ConnectionError:
            # the client went while it was written to: whatever is answered now, nobody reads
            return web.Response(status=499)

    async def _obey(self) -> web.StreamResponse:
        call, failure = self._call, None
        while True:
            while call.waits and self._beat_s is not None:
                await self._wait_for(call.ordered())
            order = await call.order()
            if not isinstance(order, Dispatch):
                if failure is not None and failure.answer is not None and isinstance(order, Reject):
                    return await self._client.engines_error(readable(failure.answer, self._accepted))
                return await self._client.error(refusal(order))
            replica = self._gateway.replicas.get((order.engine, order.replica))
            try:
                if replica is None:
                    raise ReplicaFailed("connect", "the replica is gone")
                call.started()
                if self._seat.wanted:
                    raise Displaced
                self._client.own[_QUEUE_MS] = f"{1000 * (self._gateway.driver.clock() - self._arrived):.1f}"
                self._client.own |= self._gateway.urgency.headers(call.id, self._place.decided)
                engine = self._gateway.engine(order.engine)
                if self._seat.resumes:
                    await self._seat.count(replica, engine, self._asked.model, self._body, self._headers)
                body = self._body_for(engine)
                serve = self._stream if self._asked.stream else self._gather if self._seat.kept else self._whole
                return await serve(replica, body, order)
            except ReplicaFailed as error:
                failure = error
                self._seat.cut()
                call.failed(error.kind, error.status, retry_after_s=error.retry_after_s)
            except (Displaced, asyncio.CancelledError) as error:
                if isinstance(error, asyncio.CancelledError) and not self._seat.cancelled():
                    raise
                self._release(replica)  # before the core gives the slot away: the engine shall have it free
                call.preempted(self._seat.cut())
            finally:
                self._release(replica)

    def _release(self, replica: Replica | None) -> None:
        if replica is not None and self._upstream is not None:
            replica.release(self._upstream)
            self._upstream = None

    def _body_for(self, engine: EngineSettings) -> bytes:
        """The request as this engine shall see it: the client's own bytes, unless the settings say otherwise."""
        edits: dict[str, object] = {}
        if engine.upstream_model is not None:
            edits["model"] = engine.upstream_model
        if engine.priority != "off":
            urgency = self._gateway.scheduler.calls[self._call.id].urgency
            edits["priority"] = urgency if engine.priority == "low-first" else LEAST_URGENT - urgency
        self._sifted = False
        draft = self._seat.draft if self._seat.resumes else None
        if self._seat.kept and not self._asked.stream:
            edits |= {"stream": True, "stream_options": {"include_usage": True}}
        counts = draft is not None or (self._endpoint.usage_on_request and engine.kind in COUNTS_ON_REQUEST)
        if self._asked.stream and counts:
            options = with_usage(self._asked.stream_options)
            if options is not None:
                edits["stream_options"] = options
                self._sifted = True
        if draft is not None:
            if engine.kind not in CONTINUES:
                raise ReplicaFailed("reset", f"an engine of kind {engine.kind} cannot go on with another's answer")
            edits |= draft.edits(engine.kind, self._endpoint, self._asked)
        return edited(self._body, edits) if edits else self._body

    async def _gather(self, replica: Replica, body: bytes, order: Dispatch) -> web.StreamResponse:
        """An answer that its client wants whole, and the engine streams: so it can leave, and be gone on with."""
        try:
            chunk = await self._first_chunk(replica, body)
        except ReplicaFailed as error:
            if not self._refused(error):
                raise
            return await self._whole_after_all(replica, order)
        upstream, call = self._upstream, self._call
        assert upstream is not None
        meter, _ = self._meter(upstream)
        draft = self._seat.draft
        while chunk and draft is not None and not draft.strange:
            _fed(draft, chunk)
            call.streamed(meter.events)
            if self._seat.due:
                raise Displaced
            chunk = b"" if upstream.drained else await replica.next_chunk(upstream)
        if draft is None or draft.broken:  # broken, but not strange: an error of the engine's, and no habit
            if draft is None or draft.strange:
                self._seat.not_plain("they come packed" if draft is None else "they hold more than text")
            return await self._whole_after_all(replica, order)
        meter.flush()
        end = meter.end()
        if not end.done:
            raise ReplicaFailed("reset", "cut before its last event")
        self._finished(end)
        headers = downstream_headers(upstream.headers)
        headers["Content-Type"] = "application/json"
        return self._client.whole(Answer(upstream.status, headers, draft.whole()))

    def _refused(self, error: ReplicaFailed) -> bool:
        """Whether the engine did not like to go on with an answer that it did not begin."""
        refused = self._seat.resumes and 400 <= error.status < 500 and error.status != 429
        if refused:
            self._seat.not_plain(f"status {error.status}")
        return refused

    async def _whole_after_all(self, replica: Replica, order: Dispatch) -> web.StreamResponse:
        """It cannot be put together here: what was streamed is no plain text, or the rest of it is not to be had."""
        self._release(replica)
        self._seat.draft, self._seat.kept = None, False
        engine = self._gateway.engine(order.engine)
        return await self._whole(replica, self._body_for(engine), order)

    async def _whole(self, replica: Replica, body: bytes, order: Dispatch) -> web.StreamResponse:
        self._upstream = await replica.post(self._path, body, self._headers)
        await replica.success(self._upstream)
        answer = await replica.whole(self._upstream)
        sizes = self._sizes(answer)
        self._finished(sizes)
        self._remember(sizes.id, order)
        return self._client.whole(readable(answer, self._accepted))

    async def _stream(self, replica: Replica, body: bytes, order: Dispatch) -> web.StreamResponse:
        try:
            chunk = await self._wait_for(self._first_chunk(replica, body))
        except ReplicaFailed as error:
            self._refused(error)
            raise
        upstream, client = self._upstream, self._client
        assert upstream is not None
        meter, packed = self._meter(upstream)
        headers = downstream_headers(upstream.headers)
        if not packed:
            headers.popall("Content-Encoding", None)
        passing = _fed(meter, chunk)  # raises while there may be a retry
        response = await client.begin(upstream.status, headers)
        try:
            end = await self._pass_on(replica, upstream, response, meter, passing)
        except ReplicaFailed as error:
            self._call.failed(error.kind, error.status, first_byte=True)
            ended = await self._call.order()
            assert isinstance(ended, Reject | Abort)
            return await client.error(refusal(ended))
        self._remember(end.id, order)
        return response

    def _meter(self, upstream: Response) -> tuple[Meter, bool]:
        """The meter of a stream that begins or goes on, and whether it passes packed as it came."""
        plain = coding_of(upstream.headers) is None
        seat = self._seat
        if seat.draft is not None and seat.resumes:
            if not plain:
                raise ReplicaFailed("garbage", "the rest of a plain stream came packed")
            return seat.draft.go_on(self._sifted), False
        inner = self._place.listen(ResponseMeter() if self._client.named else StreamMeter())
        seat.draft = Draft(inner, self._sifted, self._asked.limit) if seat.kept and plain else None
        if seat.draft is not None:
            return seat.draft, False
        return meter_for(upstream.headers, inner, "" if self._client.begun else self._accepted, self._sifted)

    async def _pass_on(
        self,
        replica: Replica,
        upstream: Response,
        response: web.StreamResponse,
        meter: Meter,
        passing: bytes,
    ) -> StreamEnd:
        """A stream that has begun, from `passing` to its end. Raises ReplicaFailed."""
        call = self._call
        while True:
            call.streamed(meter.events)
            if upstream.drained:
                break
            if passing:
                self._seat.passed = True
                await response.write(passing)
            if self._seat.wanted and self._seat.due:
                raise Displaced
            chunk = await replica.next_chunk(upstream)
            if not chunk:
                passing = b""
                break
            passing = _fed(meter, chunk)
        last, end = passing + meter.flush(), meter.end()
        if upstream.ends_by_close and not end.done and not end.failed:
            await response.write(last)
            raise ReplicaFailed("reset", "cut before its last event")
        # the engine is done: a client that reads slowly holds no slot for the last bytes, nor can it be aborted then
        if end.failed:
            # the engine tells the client so itself
            call.failed("status", 500, first_byte=True)
        else:
            self._finished(end)
        await response.write_eof(last)  # with the end of the stream: one write less
        return end

    async def _first_chunk(self, replica: Replica, body: bytes) -> bytes:
        self._upstream = await replica.post(self._path, body, self._headers)
        return await replica.first_chunk(self._upstream)

    async def _wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait; where the settings want it, a client that waits for a stream gets a comment every so often."""
        if self._beat_s is None:
            return await work
        task = asyncio.ensure_future(work)
        try:
            while not (await asyncio.wait({task}, timeout=self._beat_s))[0]:
                await self._client.beat()
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})

    async def _aborted(self) -> Abort:
        """The task was cancelled by the core's order, not by the client's going: it goes on, to tell the client."""
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()
        order = await self._call.order()
        assert isinstance(order, Abort)
        return order

    def _finished(self, sizes: Sizes | StreamEnd) -> None:
        """The answer is complete; of a prompt that the engine has not counted the estimate stands."""
        prompt = sizes.prompt_tokens
        self._call.finished(self._asked.prompt_tokens if prompt is None else prompt, sizes.output_tokens)
        self._place.answered()

    def _sizes(self, answer: Answer) -> Sizes:
        """What a whole answer says of itself. Raises ReplicaFailed."""
        coding = coding_of(answer.headers)
        if coding not in {None, CODING}:
            return Sizes()
        try:
            body = unpack(answer.body) if coding else answer.body
            sizes = sizes_of(body)
            self._place.heard(body)
            return sizes
        except GarbageError as error:
            raise ReplicaFailed("garbage", str(error)) from None

    def _remember(self, response: str | None, order: Dispatch) -> None:
        """A later request may ask for this response."""
        if response is not None and self._client.named:
            self._gateway.responses.remember(self._tenant, response, order.engine, order.replica)


def _fed(meter: Meter, chunk: bytes) -> bytes:
    try:
        return meter.feed(chunk)
    except GarbageError as error:
        raise ReplicaFailed("garbage", str(error)) from None
