"""Replicas: which may be sent calls now, and how many.

A replica's `limit` is its window, but 0 while it rests, is not healthy or is gone, and 1 while it is on trial. That is
the circuit breaker: a replica that fails rests, each time for longer; then it gets one call, and with its first success
its whole window back.
"""

from __future__ import annotations

from hocket.core import events as ev
from hocket.core.commands import Command
from hocket.core.slots import Slots
from hocket.core.state import Call, Engine, Replica
from hocket.core.windows import WindowSearch

REST_S = 1.0
"how long a replica rests after a 429 without Retry-After, or when it could not be connected to"
MAX_REST_S = 8.0
"the longest rest of a replica that goes on failing; each is twice as long as the one before"
FAILURES = 5
"failures in a row, of any kind, after which a replica rests; a refused connection is enough by itself"
MISSES = 2
"health checks in a row without an answer after which a replica gets no calls"
UNBOUNDED = 2**31
"the limit of a replica while hocket only observes"


class Replicas(Slots):
    """The scheduler's knowledge of replicas."""

    def _replica_added(self, event: ev.ReplicaAdded, out: list[Command]) -> None:
        engine = self._engine(event.engine)
        replica = engine.listed.get(event.replica)
        if replica is None:
            replica = engine.listed[event.replica] = Replica(event.replica, len(engine.listed), event.window)
        self._set_window(engine, replica, event.window)
        replica.present = True
        replica.misses = 0
        engine.replicas[replica.id] = replica
        self._refresh(engine, replica)
        self._relist(engine)
        self._fill(engine, out)

    def _replica_removed(self, event: ev.ReplicaRemoved, out: list[Command]) -> None:
        engine = self._engine(event.engine)
        replica = engine.replicas.pop(event.replica, None)
        if replica is not None:
            replica.present = False
            self._refresh(engine, replica)
            self._relist(engine)

    def _replica_observed(self, event: ev.ReplicaObserved, out: list[Command]) -> None:
        engine = self._engine(event.engine)
        replica = engine.replicas.get(event.replica)
        if replica is None:
            return
        replica.misses = 0 if event.healthy else replica.misses + 1
        if replica.search is not None and event.running is not None and event.waiting is not None:
            replica.search.observed(self.now, event.running, event.waiting, replica.inflight)
            replica.window = replica.search.size
        self._refresh(engine, replica)
        self._fill(engine, out)

    # ---------------------------------------------------------------- the circuit breaker

    def _failed_on(self, replica: Replica, call: Call, event: ev.CallFailed, out: list[Command]) -> None:
        """`replica` did not deliver: does it rest?"""
        engine = call.engine
        if event.status == 429:
            self._let_rest(replica, engine, event.retry_after_s or REST_S, out)
        elif event.kind != "status" or event.status >= 500:
            replica.failures += 1
            # a dead replica fails fast, so it would be the least loaded and draw one call after the other
            breaks = event.kind == "connect" or replica.failures >= FAILURES or replica.rests > 0
            if breaks and self.now >= replica.rests_until:
                self._let_rest(replica, engine, min(REST_S * 2.0**replica.rests, MAX_REST_S), out)
                replica.rests += 1

    def _delivered(self, replica: Replica, engine: Engine) -> None:
        """A call of a replica that had failed before has finished: it has its window again."""
        replica.failures = 0
        if replica.rests:
            replica.rests = 0
            self._refresh(engine, replica)

    def _let_rest(self, replica: Replica, engine: Engine, seconds: float, out: list[Command]) -> None:
        until = self.now + seconds
        if until > replica.rests_until:
            replica.rests_until = until
            self._refresh(engine, replica)
            self._timers.add(until, (engine, replica))
            self._wake_at(until, out)

    # ---------------------------------------------------------------- windows

    def _set_window(self, engine: Engine, replica: Replica, window: int) -> None:
        """`window` as the settings give it, or as far as a search has come; one begins there, or where others are."""
        if not engine.auto_window or self.spec.observe:
            replica.search = None
        elif replica.search is None:
            others = (r.search.home for r in engine.listed.values() if r.present and r.search is not None)
            replica.search = WindowSearch.start(self.now, next(others, window))
        replica.window = window if replica.search is None else replica.search.size

    def _learn(self, call: Call, replica: Replica, tokens: int = 0, *, ended: bool = False) -> None:
        """News for the search of a window: `call` has made so many tokens so far, or has ended."""
        search = replica.search
        assert search is not None, "its window is given"
        made = search.made(call.id, call.prompt_tokens, max(tokens - call.kept_tokens, 0), ended)
        search.report(self.now, call.charged_at, made, ended, replica.inflight)
        if search.size != replica.window:
            replica.window = search.size
            self._refresh(call.engine, replica)

    # ---------------------------------------------------------------- slots

    def _refresh(self, engine: Engine, replica: Replica) -> None:
        """Count the free slots of a replica of which something has changed."""
        before = replica.limit
        if not replica.present or replica.rests_until > self.now or replica.misses >= MISSES:
            replica.limit = 0
        elif self.spec.observe:
            replica.limit = UNBOUNDED if replica.window else 0
        else:
            replica.limit = min(replica.window, 1) if replica.rests else replica.window
        engine.slots += replica.limit - before
        free = max(0, replica.limit - replica.inflight)
        engine.room += free - replica.free
        replica.free = free
        engine.routing.changed(replica)

    def _relist(self, engine: Engine) -> None:
        """The list of replicas has changed. A lone one is not indexed, so tell the routing of all of them."""
        replicas = list(engine.replicas.values())
        engine.only = replicas[0] if len(replicas) == 1 else None
        for replica in replicas:
            engine.routing.changed(replica)

    def _engine(self, name: str) -> Engine:
        if name not in self.engines:
            raise ValueError(f"unknown engine {name!r}; known: {', '.join(self.engines)}")
        return self.engines[name]
