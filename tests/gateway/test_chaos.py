"""2,000 calls while replicas crash, hang, reset, answer 500, 429 or garbage, and settings are read again each second.

Each client gets exactly one answer or one clear error, nothing is answered twice, no slot is held at the end, and the
journal replays (the fixture's teardown). Which misfortune meets which call depends on time as well as on the seed.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from hashlib import sha256
from itertools import cycle, pairwise
from typing import Any

import aiohttp
import pytest
from msgspec import Struct, structs

from hocket.settings import EngineSettings, TenantSettings, Timeouts
from tests.gateway.conftest import Running, Start, soon
from tests.scripted_engine import MISBEHAVIOURS, Script, ScriptedEngine, Seen, whole

SEED = int(os.environ.get("HOCKET_CHAOS_SEED", "20"))
CALLS, CLIENTS = 2000, 96
CHUNKS = 4
TENANTS = ("anna", "ben", "cleo")
CLEAR = {429, 500, 502, 503}
"statuses of a clear error: the engine's own, and hocket's"
SLOW = Timeouts(connect=1.0, first_byte=0.8, between_chunks=0.5)


class Outcome(Struct):
    """What became of one call, as its client saw it."""

    marker: str
    stream: bool
    status: int
    code: str | None = None
    "of the one error"
    tokens: list[int] = []
    "of a stream, in the order in which they came"
    gone: bool = False
    "the client went before the end"
    call: str = ""
    "the call's id, as the answer's headers tell it"


class Unruly(ScriptedEngine):
    """A replica that misbehaves one time in six, and dies now and then."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(Script(chunks=CHUNKS))
        self.deaths: list[float] = []
        self.plan.extend(self._draw(rng) for _ in range(3 * CALLS))

    @staticmethod
    def _draw(rng: random.Random) -> Script:
        good = Script(chunks=CHUNKS, gap_s=rng.choice((0.0, 0.0, 0.004)), first_s=rng.choice((0.0, 0.01)), usage=True)
        if rng.random() > 1 / 6:
            return good
        do = rng.choice((*MISBEHAVIOURS, "error-event", "cut-close", "busy"))
        if do == "busy":
            return Script(do="status", status=429, retry_after=rng.choice(("0.1", None)))
        return structs.replace(good, do=do, after=rng.randint(0, CHUNKS - 1), status=rng.choice((500, 502, 503)))

    async def die_and_return(self, down_s: float) -> None:
        """Cut everything; come back at the same address."""
        port = int(self.url.rpartition(":")[2])
        self.deaths.append(time.monotonic())
        await self.stop()
        await asyncio.sleep(down_s)
        await self.start(port)


Ran = tuple[Seen, Unruly]
"one execution, and the replica that it ran on"


def settings_of(replicas: list[Unruly]) -> Iterator[dict[str, Any]]:
    """What is read again in turn: windows, policies, weights and a replica change."""
    urls = [replica.url for replica in replicas]
    tenants = [TenantSettings(name=name, key_sha256=sha256(name.encode()).hexdigest()) for name in TENANTS]
    for n in cycle(range(4)):
        engines = [
            EngineSettings(name="small", replicas=urls[: 3 + (n != 1)], max_concurrency=6 + 4 * (n % 2)),
            EngineSettings(name="large", replicas=urls[4:], max_concurrency=8),
        ]
        weighted = [structs.replace(tenant, weight=1.0 + (i + n) % 3) for i, tenant in enumerate(tenants)]
        policy = ("las", "fcfs", ["urgency", "fair", "las"], "default")[n]
        yield {"engines": engines, "tenants": weighted, "policy": policy}


async def call(world: Running, rng: random.Random, number: int) -> Outcome:
    """One call of one client."""
    stream, patience = rng.random() < 0.5, rng.random() > 0.03
    marker = f"m{number}-"
    tenant = rng.choice(TENANTS)
    headers = {"Authorization": f"Bearer {tenant}"}
    if rng.random() < 0.6:
        headers |= {"x-hocket-job": f"job-{number // 10}", "x-hocket-stage": rng.choice("abc")}
    body = {
        "model": rng.choice(("small", "large")),
        "messages": [{"role": "user", "content": marker}],
        "stream": stream,
    }
    outcome = Outcome(marker, stream, 0)
    async with world.http.post(f"{world.url}/v1/chat/completions", json=body, headers=headers) as response:
        outcome.status = response.status
        outcome.call = response.headers.get("x-hocket-call", "")
        if not patience:
            outcome.gone = True
            return outcome
        text = await response.read()
    if response.status != 200:
        outcome.code = str(json.loads(text)["error"]["code"])
    elif stream:
        read_stream(text.decode(), outcome)
    else:
        assert text == whole(Script(chunks=CHUNKS)).body, text
    return outcome


def read_stream(text: str, outcome: Outcome) -> None:
    """The tokens, and the end: [DONE] or one error, never both, nothing after it."""
    events = [event.removeprefix("data: ") for event in re.split(r"\n\n+", text) if event]
    assert events, "an empty stream"
    for event in events[:-1]:
        if "error" in event:
            raise AssertionError(f"an error, and then more: {text}")
        outcome.tokens += [int(token) for token in re.findall(r'"content":"t(\d+)"', event)]
    if events[-1] != "[DONE]":
        outcome.code = str(json.loads(events[-1])["error"].get("code", "engine"))


def executions(replicas: list[Unruly]) -> dict[str, list[Ran]]:
    """What the engines saw of each call, in order."""
    found: dict[str, list[Ran]] = defaultdict(list)
    for seen, replica in sorted(((s, r) for r in replicas for s in r.seen), key=lambda ran: ran[0].started):
        found[seen.body["messages"][0]["content"]].append((seen, replica))
    return found


def excused(ran: Ran, again: Ran) -> bool:
    """Whether the gateway may have seen nothing of an answer that its engine wrote in full.

    The replica died with it, or it came (or the loop that all of this shares got round to it) after the first byte's
    time was over.
    """
    (seen, replica), (following, _) = ran, again
    died = any(seen.started <= death <= following.started for death in replica.deaths)
    return died or following.started - seen.started >= SLOW.first_byte


def check(outcome: Outcome, ran: list[Ran]) -> None:
    """One answer or one clear error, made by one execution at most."""
    if outcome.gone:
        return
    assert outcome.status == 200 or outcome.status in CLEAR, outcome
    if outcome.status != 200:
        assert outcome.code, outcome
        return
    assert ran, f"answered, but by nobody: {outcome}"
    if not outcome.stream:
        return
    assert outcome.tokens == list(range(len(outcome.tokens))), f"tokens twice, lost or mixed: {outcome}"
    assert outcome.code or len(outcome.tokens) == CHUNKS, f"looks complete and is not: {outcome}"
    # its first byte passed, so the execution that made it was the last: nothing was done again behind its back
    assert len(ran[-1][0].sent) >= len(outcome.tokens), (outcome, ran)
    for (seen, replica), again in pairwise(ran):
        complete = seen.script.do == "answer" and seen.aborted is None and seen.sent
        assert not complete or excused((seen, replica), again), f"answered in full, and then again: {outcome}"


@pytest.mark.slow
async def test_no_call_is_lost_or_doubled(start: Start) -> None:
    rng = random.Random(SEED)
    print(f"HOCKET_CHAOS_SEED={SEED}")
    replicas = [Unruly(rng) for _ in range(6)]
    for replica in replicas:
        await replica.start()
    changes = settings_of(replicas)
    world = await start(**next(changes), timeouts=SLOW, queue_timeout=20.0)
    calls: list[Outcome] = []
    numbers = iter(range(CALLS))
    over = asyncio.Event()

    async def client() -> None:
        for number in numbers:
            try:
                async with asyncio.timeout(40):
                    calls.append(await call(world, rng, number))
            except (TimeoutError, aiohttp.ClientError) as error:
                raise AssertionError(f"call {number} was lost: {error!r} (HOCKET_CHAOS_SEED={SEED})") from error

    async def reload() -> None:
        while not over.is_set():
            await asyncio.sleep(1.0)
            await world.gateway.reload(structs.replace(world.gateway.settings, **next(changes)))

    async def kill() -> None:
        while not over.is_set():
            await asyncio.sleep(rng.uniform(0.3, 0.9))
            await rng.choice(replicas).die_and_return(rng.uniform(0.05, 0.4))

    async with asyncio.TaskGroup() as group:
        trouble = [group.create_task(reload()), group.create_task(kill())]
        await asyncio.gather(*(client() for _ in range(CLIENTS)))
        over.set()
        await asyncio.gather(*trouble)
    await soon(lambda: world.inflight == 0 and not world.gateway.driver.live, 5.0)
    ran = executions(replicas)
    for outcome in calls:
        check(outcome, ran[outcome.marker])
    assert len(calls) == CALLS
    ends = Counter(f"{outcome.status} {outcome.code or 'complete'}" for outcome in calls if not outcome.gone)
    print(dict(ends))
    assert ends["200 complete"] > 0.75 * CALLS, f"the engines behave five times in six: {ends}"
    await world.gateway.stop()
    for replica in replicas:
        await replica.stop()
    await asyncio.sleep(0.05)  # connections that a dying replica had just accepted see that the gateway is gone
