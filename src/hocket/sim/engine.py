"""The engine model: iteration-level continuous batching with a mixed phase. docs/concepts/engine-model.md tells why.

A replica lives from boundary to boundary. Between two of them lies a *run*: one mixed iteration that admits calls, or
some identical iterations that only decode, advanced in closed form. A run ends where something happens: a call is
complete, the KV cache overflows, a report is due, or a call that was dispatched meanwhile can join. A driver calls

    credit(at)   at a run's end: tokens are counted; says what streamed and what finished
    begin(at)    once the core is quiet at that `at`: evicts, admits and starts the next run; says what was admitted
    send(...)    whenever the core dispatches: says whether the run now ends earlier

Time is counted in ticks, whole picoseconds, and so is the length of each iteration. So sums are exact: what is
simultaneous on paper is simultaneous here, in whatever order it was added up.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from typing import Generic, Literal, TypeVar

import msgspec

from hocket.core.latency import Latency
from hocket.sim.prefix import Key, PrefixCache, Shared, SlotCache

TICKS_A_SECOND = 10**12

FIRST_WINDOW = 8
"where `window: auto` begins"
REPORT_EVERY = TICKS_A_SECOND // 4
"ticks between two reports of a running call's tokens"


class EngineModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One engine of `engines.yaml`."""

    name: str
    models: list[str]
    replicas: int = 1
    max_concurrency: int
    "calls that run at once in a replica"
    window: int | Literal["auto"] | None = None
    "calls that hocket lets into a replica at once; None = max_concurrency"
    kv_tokens: int | None = None
    "KV cache of a replica; None is without limit"
    latency: Latency
    decode: Literal["step", "slowest"] = "step"
    prefix_cache: bool | Literal["slots"] = False
    "slots: each call finds only what the last one left in its slot, as in llama.cpp"

    def __post_init__(self) -> None:
        """Check what types cannot say. An error begins with its key, which the loader turns into a line."""
        if not self.models:
            raise ValueError("`models`: empty; name the models that it serves")
        for key in ("replicas", "max_concurrency", "window", "kv_tokens"):
            value = getattr(self, key)
            if isinstance(value, int) and value < 1:
                raise ValueError(f"`{key}`: {value}; use 1 or more")
        constants = msgspec.structs.asdict(self.latency)
        for key, seconds in constants.items():
            if not 0 <= seconds < math.inf:
                raise ValueError(f"`latency.{key}`: {seconds}; use seconds, 0 or more")
        if not any(constants.values()):
            raise ValueError("`latency`: all 0, an engine that takes no time; give its constants in seconds")

    @property
    def first_window(self) -> int:
        """A replica's window when it is added."""
        if self.window is None:
            return self.max_concurrency
        return FIRST_WINDOW if self.window == "auto" else self.window

    def unloaded(self, prompt_tokens: int, output_tokens: int) -> float:
        """Seconds of a call that has a replica to itself, nothing cached."""
        return self.pace.unloaded(prompt_tokens, output_tokens)

    @property
    def pace(self) -> Latency:
        """The constants, with what `decode: slowest` leaves out left out."""
        return self.latency if self.decode == "step" else msgspec.structs.replace(self.latency, d1=0.0)


class Request:
    """A call as its replica sees it."""

    __slots__ = (
        "admitted", "base", "call", "common", "generated", "key", "order", "output", "prefix", "prompt", "reported",
        "streamed",
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
        self._limit = math.inf if model.kv_tokens is None else model.kv_tokens
        self._pace = model.pace
        self._slowest = model.decode == "slowest"
        self._report = report
        self._cache = PrefixCache() if model.prefix_cache is True else None
        self._slots = SlotCache(model.max_concurrency) if model.prefix_cache == "slots" else None
        self._finishing: list[tuple[int, int, R]] = []  # heap of (step, order, request)
        self._due: list[tuple[int, int, R]] = []  # heap of (report at, order, request)
        self._fresh: list[R] = []  # admitted in the current iteration
        self._dropped: list[R] = []  # running, to be taken off at the next boundary
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
        if request.admitted >= 0:
            self._dropped.append(request)
            return self._interrupt(at)
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
        """The run is over: count its tokens. What is complete leaves; the rest waits for `begin`.

        Returns (request, tokens so far) of each report that is due, first tokens among them, and what is finished.
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
                self._cache.put(request.key, request.prompt + request.output)
                if request.common is not None:
                    self._cache.keep(*request.common)
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
        decoding, kv = len(self.running), self._kv_read()
        prefill_s = 0.0
        while self.waiting and self._fits(self.waiting[0], self.kv):
            request = self.waiting.popleft()
            held = request.prompt + request.generated
            prefill_s += self._pace.prefill(held - self._cached(request) if self.model.prefix_cache else held)
            self.kv += held
            request.admitted = self._step
            request.base = held - self._step
            self.running[request.order] = request
            heapq.heappush(self._finishing, (self._step + request.output - request.generated, request.order, request))
            admitted.append(request)
        if admitted:
            self._fresh, self._n, self._slope = admitted, 1, 0
            self._first = ticks(self._pace.iteration(prefill_s, len(admitted), decoding, kv))
            self.ends = self._start + self._first
        return admitted

    def _cached(self, request: R) -> int:
        """Tokens of the prompt that another call has left here, or is holding, prefilled."""
        if self._slots is not None:
            return self._slots.take(request.prompt, request.prefix, request.common)
        if self._cache is None or (request.prefix is None and request.common is None):
            return 0
        self._cache.trim(self._limit - self.kv)
        found = 0
        if request.prefix is not None:
            key, tokens = request.prefix
            held = self._cache.get(key)
            for other in self.running.values():
                if other.key == key and other.admitted < self._step:
                    held = other.base + self._step
            found = min(tokens, held)
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
        if not calls:
            self._n, self.ends = 0, None
            return
        n = self._finishing[0][0] - self._step
        if calls > 1 and self.kv + n * calls > self._limit:
            n = min(n, int(self._limit - self.kv) // calls + 1)
        self._n = n
        self._first = ticks(self._pace.iteration(0.0, 0, calls, self._kv_read()))
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
        return self._start + n * self._first + self._slope * (n * (n - 1) // 2)

    def _steps_until(self, at: int) -> int:
        """How many iterations of this run end before or at its first boundary >= `at` (at most all)."""
        if self._fresh:
            return self._n  # one mixed iteration cannot be split
        # n·first + slope·n(n-1)/2 = x, solved without cancellation; then corrected by a step where rounding missed.
        c, x = self._first - self._slope / 2, max(at - self._start, 0)
        divisor = c + math.sqrt(c * c + 2 * self._slope * x)
        n = min(math.ceil(2 * x / divisor), self._n) if divisor > 0 else 0
        while n < self._n and self._boundary(n) < at:
            n += 1
        while n > 0 and self._boundary(n - 1) >= at:
            n -= 1
        return n

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
        """The latest dispatched goes back to the head of the queue; its prompt and answer are prefilled again."""
        if self._cache is not None:
            self._cache.trim(0)  # it yields before any running call does
        request = next(reversed(self.running.values()))
        self._leave(request)
        self.waiting.appendleft(request)
        self._rebuild()

    def _rebuild(self) -> None:
        """Rare: calls left before their end."""
        self._finishing = [entry for entry in self._finishing if entry[2].admitted >= 0]
        self._due = [entry for entry in self._due if entry[2].admitted >= 0]
        heapq.heapify(self._finishing)
        heapq.heapify(self._due)
