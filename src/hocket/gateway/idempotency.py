"""Repeated requests: a request that comes again with its `Idempotency-Key` gets the answer of the first.

The header is that of the IETF's draft (draft-ietf-httpapi-idempotency-key-header), which Stripe made common; OpenAI's
clients send it where a caller asks for it. A call with a key does not hang on its client's connection: it is carried by
a task of its own, which writes the answer onto a `Tape`; every client that asks for it reads the tape from the start.
So who lost the connection comes again and misses nothing, and the engine does the work once.

Answers are kept in memory. Of a key itself only a hash goes to the history, so that after a restart a call that was
made is not made again (409). What failed is not kept: it may be tried again with its key.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b, sha256
from typing import TYPE_CHECKING

from aiohttp import web
from multidict import istr

from hocket.gateway.openai import ApiError
from hocket.gateway.relay import complete
from hocket.gateway.tape import Tape

if TYPE_CHECKING:
    from hocket.gateway.app import Gateway
    from hocket.settings import TenantSettings

log = logging.getLogger("hocket.gateway")

HEADER = istr("Idempotency-Key")
REPLAYED = {"Idempotent-Replayed": "true"}
"Stripe's header: the answer is an earlier request's"
KEEP_S = 600.0
"how long an answer is kept"
GRACE_S = 10.0
"how long a call goes on that no client waits for: its client may be about to come again"
MAX_BYTES = 64 * 2**20
"of answers, over all tenants, each of which has an equal part of it"
MIN_BYTES = 2**20
"of one tenant, however many there are"
MAX_KEYS = 10_000
"of one tenant; beyond that the oldest is forgotten"
MAX_KEY = 255
"characters of a key"
SWEEP_S = 30.0
"between two looks for answers that are too old"

Before = Callable[[str, float, str], "str | None"]
"(hash of a key, seconds, ids of this process) -> the job of its call, if there was one: `Earlier.called_before`"


class Repeatable:
    """A call that may be asked for again: it runs, or its answer is kept."""

    def __init__(self, request: bytes, tape: Tape) -> None:
        #: of what was asked: the same key with another request is a mistake
        self.request = request
        self.tape = tape
        self.readers = 0
        self.task: asyncio.Task[None] | None = None
        self.grace: asyncio.TimerHandle | None = None
        "it ends then, unless a client comes before"
        self.until = 0.0


class Shelf:
    """The calls of one tenant that may be asked for again."""

    def __init__(self) -> None:
        self.all: dict[str, Repeatable] = {}
        self.kept: OrderedDict[str, Repeatable] = OrderedDict()
        "those that have ended, the first to end first"
        self.full: OrderedDict[str, Repeatable] = OrderedDict()
        "those of them whose answer is there"
        self.bytes = 0
        "of these"

    def keep(self, key: str, call: Repeatable, until: float, limit: int) -> None:
        """Its answer is complete. For want of room the oldest answers go; that they were given is still known."""
        call.until = until
        self.kept[key] = self.full[key] = call
        self.bytes += call.tape.size
        while self.bytes > limit:
            _, old = self.full.popitem(last=False)
            self.bytes -= old.tape.size
            old.tape.wipe()
        if len(self.kept) > MAX_KEYS:
            self.drop(next(iter(self.kept)))

    def drop(self, key: str) -> None:
        """Forget a call."""
        del self.all[key]
        self.kept.pop(key, None)
        call = self.full.pop(key, None)
        if call is not None:
            self.bytes -= call.tape.size

    def sweep(self, now: float) -> None:
        """Forget what is too old."""
        while self.kept and next(iter(self.kept.values())).until <= now:
            self.drop(next(iter(self.kept)))


class Idempotency:
    """Answers requests that have a key."""

    def __init__(self, gateway: Gateway, before: Before | None) -> None:
        """`before`: who knows of calls of earlier processes; None where there is no history."""
        self._gateway, self._before = gateway, before
        self._shelves: dict[str, Shelf] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._now = gateway.driver.loop.time
        # an earlier process may take calls until its own end; then all keys that count are in this one's memory
        self._asks_until = self._now() + KEEP_S + gateway.settings.shutdown_s

    async def answer(self, http: web.BaseRequest, tenant: TenantSettings, path: str) -> web.StreamResponse:
        """Answer a request to one of `ENDPOINTS` that has a key. Raises ApiError."""
        key = key_of(http.headers.getall(HEADER))
        body = await self._gateway.read(http)
        request = blake2b(b"\0".join((path.encode(), http.rel_url.raw_query_string.encode(), body))).digest()
        shelf = self._shelves.setdefault(tenant.name, Shelf())
        shelf.sweep(self._now())
        call = shelf.all.get(key)
        if call is None:
            # nothing waits between the look and this: of two that come at once, the second finds the first
            tape = Tape(body, hash_of(key, tenant, "" if self._gateway.tenants.open else _credential(http)))
            call = shelf.all[key] = Repeatable(request, tape)
            call.task = asyncio.create_task(self._carry(call, shelf, key, http, tenant, path))
            return await self._read(call, http, {})
        if call.request != request:
            message = f"this {HEADER} came with another request before; a new request needs a new key"
            raise ApiError(422, message, code="idempotency_key_reused", param=str(HEADER))
        if call.tape.wiped:
            raise _gone("its answer is no longer kept")
        return await self._read(call, http, REPLAYED)

    async def _read(self, call: Repeatable, http: web.BaseRequest, headers: dict[str, str]) -> web.StreamResponse:
        call.readers += 1
        if call.grace is not None:
            call.grace.cancel()
        try:
            return await call.tape.play(http, headers, self._gateway)
        finally:
            call.readers -= 1
            if not call.readers and not call.tape.over:
                call.grace = self._gateway.driver.loop.call_later(GRACE_S, _abandon, call)

    async def _carry(
        self, call: Repeatable, shelf: Shelf, key: str, http: web.BaseRequest, tenant: TenantSettings, path: str
    ) -> None:
        """The call, from its arrival to its end."""
        tape = call.tape
        try:
            await self._ask_history(tape.hash)
            tape.end(await complete(self._gateway, tenant, http, path, tape))
        except ApiError as error:
            tape.fail(error)
        except asyncio.CancelledError:  # nobody waits for it any more, or the gateway ends
            tape.fail(ApiError(503, "the gateway is shutting down; try again", code="shutdown"))
        except Exception:
            log.exception("a call with a key failed")
            tape.fail(ApiError(500, "hocket failed; its log says how", code="internal_error"))
        if tape.good:
            share = max(MIN_BYTES, MAX_BYTES // max(len(self._gateway.settings.tenants), 1))
            shelf.keep(key, call, self._now() + KEEP_S, share)
            self._timer = self._timer or self._gateway.driver.loop.call_later(SWEEP_S, self._sweep)
        else:
            shelf.drop(key)

    async def _ask_history(self, hashed: str) -> None:
        """Raise ApiError 409 where an earlier process made this call."""
        if self._before is None or self._now() > self._asks_until:
            return
        # of this one's own calls the memory knows more, and sooner
        job = await asyncio.to_thread(self._before, hashed, KEEP_S, self._gateway.driver.ids_of("call"))
        if job is not None:
            raise _gone(f"it was made in job '{job}', and its answer went with the process that gave it")

    def _sweep(self) -> None:
        """Forget what is too old, of tenants that are silent as well."""
        for name, shelf in list(self._shelves.items()):
            shelf.sweep(self._now())
            if not shelf.all:
                del self._shelves[name]
        kept = any(shelf.kept for shelf in self._shelves.values())
        self._timer = self._gateway.driver.loop.call_later(SWEEP_S, self._sweep) if kept else None

    async def stop(self) -> None:
        """Nothing runs on, and nothing is kept."""
        if self._timer is not None:
            self._timer.cancel()
        tasks = [call.task for shelf in self._shelves.values() for call in shelf.all.values() if call.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def key_of(values: list[str]) -> str:
    """The key of a request: as the draft has it, in quotes, or bare, as clients send it. Raises ApiError 400."""
    key = values[0].strip()
    if len(key) > 1 and key[0] == key[-1] == '"':
        key = key[1:-1]
    if len(values) > 1 or not (0 < len(key) <= MAX_KEY and key.isascii() and key.isprintable()):
        message = f"{HEADER} must be one value of 1 to {MAX_KEY} printable ASCII characters; a UUID will do"
        raise ApiError(400, message, code="invalid_idempotency_key", param=str(HEADER))
    return key


def hash_of(key: str, tenant: TenantSettings, credential: str) -> str:
    """What the history keeps of a key. The hash's own key is the API key, which is at rest nowhere: who reads the
    history can try out no guesses. (An open gateway, which only its own machine reaches, has none.)
    """
    secret = sha256(credential.encode("utf-8", "surrogateescape")).digest()
    return blake2b(f"{tenant.name}\0{key}".encode(), digest_size=16, key=secret).hexdigest()


def _credential(http: web.BaseRequest) -> str:
    return http.headers.get("Authorization", "").rpartition(" ")[2]


def _gone(why: str) -> ApiError:
    message = f"the call with this {HEADER} was made already: {why}; send a new key to make it again"
    return ApiError(409, message, code="idempotency_answer_gone", param=str(HEADER))


def _abandon(call: Repeatable) -> None:
    if not call.tape.over and call.task is not None:
        call.task.cancel()
