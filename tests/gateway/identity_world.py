"""Requests through identity and core, without sockets and without an engine: what place does each get?"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec
from multidict import CIMultiDict

from hocket.assembly import build
from hocket.core import events as ev
from hocket.core.commands import Command
from hocket.gateway.answers import ResponseMeter, StreamMeter
from hocket.gateway.driver import Driver, LiveCall
from hocket.gateway.identity import Tenants
from hocket.gateway.openai import ENDPOINTS, parse_request
from hocket.gateway.places import Place, Places
from hocket.gateway.urgency import Urgency
from hocket.metrics import Metrics
from hocket.settings import EngineSettings, Settings, TenantSettings
from hocket.settings.identity import IdentitySettings

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
RESPONSES = "/v1/responses"


class Turn:
    """A call whose answer is under way."""

    def __init__(self, world: World, place: Place, call: LiveCall, arrived: ev.CallArrived) -> None:
        self.world, self.place, self.call, self.arrived = world, place, call, arrived

    @property
    def job(self) -> str:
        return self.place.job

    @property
    def stage(self) -> str:
        return self.arrived.stage

    @property
    def parent(self) -> str | None:
        return self.arrived.parent

    def end(self, answer: Any = None) -> Turn:
        """The answer comes, whole, or none does."""
        if answer is not None:
            self.place.heard(msgspec.json.encode(answer))
        self.world.places.leave(self.place, self.call)
        return self

    def end_streamed(self, chunks: list[bytes], named: bool = False) -> Turn:
        """The answer comes as a stream."""
        meter = self.place.listen(ResponseMeter() if named else StreamMeter())
        assert b"".join(map(meter.feed, chunks)) == b"".join(chunks)
        meter.end()
        return self.end()


class World:
    """One gateway's identity, with a core behind it. The clock is the test's."""

    def __init__(self, **settings: Any) -> None:
        engines = [EngineSettings(name="small", replicas=["http://127.0.0.1:1"])]
        self.settings = Settings(engines=engines, **settings)
        self.now = 0.0
        self.events: list[ev.Event] = []
        scheduler = build(self.settings.to_spec())
        self.driver = Driver(scheduler, clock=lambda: self.now, observers=[self])
        tenants = Tenants(self.settings.tenants)
        urgency = Urgency(self.driver, self.settings, Metrics(scheduler))
        self.places = Places(self.driver, tenants, self.settings, urgency)
        self.tenant = TenantSettings(name="default", key_sha256="0" * 64)

    def seen(self, event: ev.Event, commands: list[Command]) -> None:
        """As an observer of the driver."""
        self.events.append(event)

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def open(self) -> set[str]:
        return set(self.driver.scheduler.jobs)

    def ask(
        self,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        path: str = CHAT,
        tenant: TenantSettings | None = None,
        **more: Any,
    ) -> Turn:
        """A request arrives."""
        endpoint = ENDPOINTS[path]
        asked = parse_request(msgspec.json.encode({"model": "small", **(body or {}), **more}), endpoint)
        tenant = tenant or self.tenant
        place = self.places.place(tenant, CIMultiDict(headers or {}), asked, chained=endpoint.streams)
        call = self.places.arrive(place, asked)
        return Turn(self, place, call, self.of(ev.CallArrived)[-1])

    def chat(self, *messages: Any, headers: Mapping[str, str] | None = None, **more: Any) -> Turn:
        """A chat request; a string is a user's message."""
        said = [{"role": "user", "content": m} if isinstance(m, str) else m for m in messages]
        return self.ask({"messages": said, **more}, headers)

    async def sleep(self, seconds: float) -> None:
        """Time passes, and what is due happens."""
        self.now += seconds
        self.places.sweep()
        await asyncio.sleep(0)


def system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


def assistant(text: str | None, *calls: str) -> dict[str, Any]:
    """An answer with tool calls of these ids."""
    tools = [{"id": c, "type": "function", "function": {"name": "look", "arguments": "{}"}} for c in calls]
    return {"role": "assistant", "content": text, **({"tool_calls": tools} if tools else {})}


def tool(call: str, text: str = "found") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call, "content": text}


def answer(message: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The engine's whole answer."""
    return {"id": "chatcmpl-1", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], **more}


def inferring(*sources: Any, **more: Any) -> IdentitySettings:
    return IdentitySettings(sources=list(sources), **more)
