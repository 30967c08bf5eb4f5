"""The engine model: iteration-level continuous batching with a mixed phase. docs/concepts/engine-model.md tells why.

A replica lives from boundary to boundary. Between two of them lies a *run*: one mixed iteration that admits calls, or
some identical iterations that only decode, advanced in closed form. A run ends where something happens: a call is
complete, the KV cache overflows, a report is due, or a call that was dispatched meanwhile can join. A driver calls

    credit(at)   at a run's end: tokens are counted; says what streamed and what finished
    begin(at)    once the core is quiet at that `at`: evicts, admits and starts the next run; says what was admitted
    send(...)    whenever the core dispatches: says whether the run now ends earlier
    preempt(...) when the core wants a call off: it leaves at the next boundary, keeping its tokens, to be sent again

Time is counted in ticks, whole picoseconds, and so is the length of each iteration. So sums are exact: what is
simultaneous on paper is simultaneous here, in whatever order it was added up.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from typing import Any, Generic, TypeVar

from hocket.sim.closed_form import length, steps
from hocket.sim.model import EngineModel
from hocket.sim.prefix import Key, PrefixCache, Shared, SlotCache

TICKS_A_SECOND = 10**12
REPORT_EVERY = TICKS_A_SECOND // 4
"ticks between two reports of a running call's tokens"


class Request:
    """A call as its replica sees it."""

    __slots__ = (
        "admitted", "base", "call", "common", "displaced", "generated", "key", "order", "output", "prefix", "prompt",
        "reported", "saved", "streamed",
    )  # fmt: skip

    def __init__(
        self, call: str, key: Key, prompt: int, output: int, prefix: Shared | None, common: Shared | None = None
    ) -> None:
        self.call = call
        self.key = key
        self.prompt = prompt
        self.output = max(output, 1)  # an engine makes at least one token, be it the end of the text
        self.prefix = prefix  # what of the prompt is another call's of the job
        self.common = common  # what of it is in the prompts of other jobs, too
        self.generated = 0  # tokens made before the last admission
        self.streamed = False  # whether the first token was reported
        self.reported = 0  # when its tokens were, last
        self.order = -1  # of dispatch, in its replica
        self.admitted = -1  # the replica's step at the last admission; -1: not running
        self.base = 0  # KV tokens, less the replica's step
        self.displaced = False  # whether it was preempted, and has not run since
        self.saved: Replica[Any] | None = None  # where its KV cache was saved when it was taken off


R = TypeVar("R", bound=Request)


def ticks(seconds: float) -> int:
    """The nearest tick."""
    return round(seconds * TICKS_A_SECOND)


class Replica(Generic[R]):
    """One replica of an engine. `R` is Request, or what a driver makes of it."""

    def __init__(self, model: EngineModel, name: str, report: bool = False) -> None:
        """With `report`, running calls report their tokens every REPORT_EVERY."""
        self.model = model
        self.name = name
        self.ends: int | None = None  # the next boundary; None: idle, or between credit and begin
        self.waiting: deque[R] = deque()  # dispatched, not admitted: in dispatch order
        self.running: dict[int, R] = {}  # order -> request: in dispatch order
        self.kv = 0  # tokens that the running ones hold
        self.displaced: list[R] = []  # taken off at this boundary: the driver empties it
        self._limit = math.inf if model.kv_tokens is None else model.kv_tokens
        self._pace = model.pace
        self._slowest = model.decode == "slowest"
        self._report = report
        self._cache = PrefixCache() if model.prefix_cache is True else None
        self._slots = SlotCache(model.max_concurrency) if model.prefix_cache == "slots" else None
        self._finishing: list[tuple[int, int, R]] = []  # heap of (step, order, request)
        self._due: list[tuple[int, int, R]] = []  # heap of (report at, order, request)
        self._fresh: list[R] = []  # admitted in the current iteration
        self._dropped: list[R] = []  # running, to be thrown off at the next boundary
        self._leaving: list[R] = []  # running, to be taken off there and to go on later
        self._saving_s = 0.0  # of KV caches, in the next iteration
        self._sent = 0
        self._step = 0  # iterations so far
        # The run: `_n` iterations from `_start`, the first of `_first` ticks, each `_slope` longer than the last.
        self._n = 0
        self._start = 0
        self._first = 0
        self._slope = 0
        self._between = False

    def send(self, request: R, at: int) -> bool:
        """Take a dispatched call. Whether `ends` moved: to `at` itself, or to the boundary where the call can join."""
        request.order = self._sent
        self._sent += 1
        self.waiting.append(request)
        if len(self.waiting) > 1 or len(self.running) >= self.model.max_concurrency:
            return False
        return self._interrupt(at, request)

    def remove(self, request: R, at: int) -> bool:
        """Take a call off: at once if it waits, else at the next boundary. Whether `ends` moved."""
        if request.admitted < 0:
            return self._unqueue(request, at)
        if request in self._leaving:
            self._leaving.remove(request)
        self._dropped.append(request)
        return self._interrupt(at)

    def preempt(self, request: R, at: int) -> bool:
        """Take a call off, its tokens kept; `ends` may move. Whether it is off.

        One that runs leaves at the next boundary, where `credit` says so, unless it is complete by then.
        """
        if request in self.waiting:
            self._unqueue(request, at)
            return True
        if request.admitted < 0:
            return False  # it was complete before the core was told
        if self._between:
            self._displace(request)
            return True
        self._leaving.append(request)
        self._interrupt(at)
        return False

    def tokens(self, request: R, at: int) -> int:
        """How many of its answer a running call has made."""
        done = 0
        if self.ends is not None:
            n = self._steps_until(at)
            done = n if self._boundary(n) <= at else n - 1
        return request.generated + self._step - request.admitted + done

    def _unqueue(self, request: R, at: int) -> bool:
        self.waiting.remove(request)
        return bool(self.waiting) and self._interrupt(at, self.waiting[0])

    def _interrupt(self, at: int, joining: R | None = None) -> bool:
        """End the run at its first boundary at or after `at`, if `joining` fits there. Whether `ends` moved."""
        if self._between or (self.ends is not None and self.ends <= at):
            return False
        n = 0
        if self.running:
            n = self._steps_until(at)
            kv = self.kv + n * len(self.running)
            if n == self._n or (joining is not None and not self._fits(joining, kv)):
                return False
        self._n = n
        self.ends = self._boundary(n) if n else at
        return True

    def credit(self, at: int) -> tuple[list[tuple[R, int]], list[R]]:
        """The run is over: count its tokens. What is complete or preempted leaves; the rest waits for `begin`.

        Returns (request, tokens so far) of each report that is due, first tokens among them, and what is finished. What
        was taken off is in `displaced`.
        """
        self._step += self._n
        self.kv += self._n * len(self.running)
        self._between, self.ends, self._n = True, None, 0
        finishing, finished = self._finishing, []
        while finishing and finishing[0][0] <= self._step:
            request = heapq.heappop(finishing)[2]
            self._leave(request)
            finished.append(request)
            if self._cache is not None:
                self._cache.keep(request.key, request.prompt + request.output)
                if request.common is not None:
                    self._cache.keep(*request.common)
        if self._leaving:
            self.displaced = [request for request in self._leaving if request.admitted >= 0]
            self._leaving.clear()
            for request in self.displaced:
                self._displace(request)
        return self._reports(at) if self._fresh or self._due else [], finished

    def _reports(self, at: int) -> list[tuple[R, int]]:
        """First tokens, and what is due of the calls that run on."""
        streamed: list[tuple[R, int]] = []
        for request in self._fresh:
            if not request.streamed:
                request.streamed = True
                request.reported = at
                streamed.append((request, 1))
            if self._report and request.admitted >= 0:
                heapq.heappush(self._due, (request.reported + REPORT_EVERY, request.order, request))
        self._fresh = []
        while self._due and self._due[0][0] <= at:
            _, order, request = heapq.heappop(self._due)
            if request.admitted >= 0:
                request.reported = at
                streamed.append((request, request.generated + self._step - request.admitted))
                heapq.heappush(self._due, (at + REPORT_EVERY, order, request))
        return streamed

    def ready(self) -> bool:
        """Between credit and begin: whether `begin` may admit, so that the core must be quiet first."""
        return bool(self.waiting) and self._fits(self.waiting[0], self.kv)

    def begin(self, at: int) -> list[R]:
        """Evict, admit, start the next run. The calls that were admitted, in dispatch order."""
        self._between = False
        for request in self._dropped:
            if request.admitted >= 0:
                self._leave(request)
        if self._dropped:
            self._dropped.clear()
            self._rebuild()
        while self.kv > self._limit and len(self.running) > 1:
            self._evict()
        self._start = at
        if self.waiting:
            admitted = self._mixed()
            if admitted:
                return admitted
        self._decode()
        return []

    def _mixed(self) -> list[R]:
        """Admit what fits; if anything does, start the iteration that prefills it."""
        admitted: list[R] = []
        decoding, kv, prefilled = len(self.running), self._kv_read(), 0
        extra_s = self._saving_s
        while self.waiting and self._fits(self.waiting[0], self.kv):
            request = self.waiting.popleft()
            held = request.prompt + request.generated
            if request.saved is self:  # it decodes on, as if it had not been away
                extra_s += self._swap_s(held)
                decoding, kv = decoding + 1, max(kv, held) if self._slowest else kv + held
            else:
                extra_s += self._pace.prefill(held - self._cached(request, held) if self.model.prefix_cache else held)
                prefilled += 1
            request.saved, request.displaced = None, False
            self.kv += held
            request.admitted = self._step
            request.base = held - self._step
            self.running[request.order] = request
            heapq.heappush(self._finishing, (self._step + request.output - request.generated, request.order, request))
            admitted.append(request)
        if admitted:
            self._saving_s = 0.0
            self._fresh, self._n, self._slope = admitted, 1, 0
            self._first = ticks(self._pace.iteration(extra_s, prefilled, decoding, kv))
            self.ends = self._start + self._first
        return admitted

    def _cached(self, request: R, held: int) -> int:
        """Of the `held` tokens to prefill, those that another call has left here or is holding, or that it left."""
        if self._slots is not None:
            own = (request.key, held) if request.displaced else None
            return self._slots.take(held if own else request.prompt, request.prefix, request.common, own)
        if self._cache is None or (request.prefix is None and request.common is None and not request.displaced):
            return 0
        self._cache.trim(self._limit - self.kv)
        found = self._cache.take(request.key) if request.displaced else 0
        if request.prefix is not None:
            key, tokens = request.prefix
            left = self._cache.get(key)
            for other in self.running.values():
                if other.key == key and other.admitted < self._step:
                    left = other.base + self._step
            found = max(found, min(tokens, left))
        if request.common is not None:
            found = max(found, self._common(*request.common))
        return found

    def _common(self, key: Key, tokens: int) -> int:
        """Tokens of a common prefix that are here."""
        assert self._cache is not None
        held = self._cache.get(key)
        for other in self.running.values():
            if other.common is not None and other.common[0] == key and other.admitted < self._step:
                held = max(held, other.common[1])
        return min(tokens, held)

    def _decode(self) -> None:
        """Start a run that only decodes, as long as nothing happens. Without calls: rest."""
        calls = len(self.running)
        saving_s, self._saving_s = self._saving_s, 0.0
        if not calls:
            self._n, self.ends = 0, None
            return
        n = 1 if saving_s else self._finishing[0][0] - self._step
        if calls > 1 and self.kv + n * calls > self._limit:
            n = min(n, int(self._limit - self.kv) // calls + 1)
        self._n = n
        self._first = ticks(self._pace.iteration(saving_s, 0, calls, self._kv_read()))
        self._slope = ticks(self._pace.d2 * (1 if self._slowest else calls))
        while self._due and self._due[0][2].admitted < 0:
            heapq.heappop(self._due)  # it has finished since
        if self._due:
            self._n = max(self._steps_until(self._due[0][0]), 1)
        self.ends = self._boundary(self._n)

    def _kv_read(self) -> int:
        """KV tokens that price an iteration: of all running calls, or of the longest alone."""
        if not self._slowest:
            return self.kv
        return self._step + max((request.base for request in self.running.values()), default=-self._step)

    def _boundary(self, n: int) -> int:
        """When the n-th iteration of this run ends."""
        return self._start + length(n, self._first, self._slope)

    def _steps_until(self, at: int) -> int:
        """How many iterations of this run end before or at its first boundary >= `at` (at most all)."""
        if self._fresh:
            return self._n  # one mixed iteration cannot be split
        return steps(at - self._start, self._first, self._slope, self._n)

    def _fits(self, request: R, kv: float) -> bool:
        if not self.running:
            return True
        return len(self.running) < self.model.max_concurrency and kv + request.prompt + request.generated <= self._limit

    def _leave(self, request: R) -> None:
        del self.running[request.order]
        self.kv -= request.base + self._step
        request.generated += self._step - request.admitted
        request.admitted = -1
        if self._slots is not None:
            self._slots.leave(request.key, request.prompt + request.generated, request.prefix, request.common)

    def _evict(self) -> None:
        """The latest dispatched goes back to the head of the queue, to be prefilled again with its answer."""
        if self._cache is not None:
            self._cache.trim(0)  # it yields before any running call does
        request = next(reversed(self.running.values()))
        self._take_off(request)
        self.waiting.appendleft(request)

    def _displace(self, request: R) -> None:
        """It was preempted. Its KV memory may stay in the prefix cache, like that of a call that ended."""
        self._take_off(request)
        request.displaced = True
        if self._cache is not None and request.saved is None:
            self._cache.keep(request.key, request.prompt + request.generated)

    def _take_off(self, request: R) -> None:
        """It leaves before its end. Its KV memory is saved if to load it takes no longer than to compute it again.

        That is the rule of Semantic Scheduling (arXiv 2506.12204); docs/decisions/preemption.md tells more.
        """
        self._leave(request)
        self._rebuild()
        held = request.prompt + request.generated
        if self.model.swap_s_per_token is not None and self._swap_s(held) <= self._pace.prefill(held):
            request.saved = self
            self._saving_s += self._swap_s(held)

    def _swap_s(self, tokens: int) -> float:
        """Seconds to save so much KV memory outside of the device, or to load it."""
        return (self.model.swap_s_per_token or 0.0) * tokens

    def _rebuild(self) -> None:
        """Rare: calls left before their end."""
        self._finishing = [entry for entry in self._finishing if entry[2].admitted >= 0]
        self._due = [entry for entry in self._due if entry[2].admitted >= 0]
        heapq.heapify(self._finishing)
        heapq.heapify(self._due)
