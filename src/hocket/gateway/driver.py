"""The asynchronous driver: what happens becomes an event, what the core orders is done.

It decides nothing. `Driver.tell(event)` is the one way into the core; the answer's commands are obeyed in order. A
request handler holds a `LiveCall`: it reports through it, and waits at it for the core's next order.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Protocol

from hocket.core import events as ev
from hocket.core.commands import Abort, CloseJob, Command, Dispatch, Preempt, Refuse, Reject, WakeAt
from hocket.core.scheduler import Scheduler
from hocket.core.snapshot import Plain, save
from hocket.core.spec import SchedulerSpec

log = logging.getLogger("hocket.gateway")

PROGRESS_S = 0.25
"how often a stream's progress is told, where the policy wants to know"
REMEMBERED = 10_000
"closed jobs whose ids are still refused"


class Journal(Protocol):
    """Where events and commands go: `hocket.journal.JournalWriter`."""

    def write(self, event: ev.Event, commands: list[Command]) -> bool:
        """Append one record. Whether to rotate now."""

    def rotate(self, state: Plain | None, spec: SchedulerSpec) -> None:
        """Go on in a new file, from `state`."""


class Observer(Protocol):
    """Who is told of every event after the core has answered: the metrics, the history."""

    def seen(self, event: ev.Event, commands: list[Command]) -> None:
        """Take note."""


class LiveCall:
    """One call of one client: the bridge between its request handler and the core."""

    __slots__ = ("_driver", "_kept", "_order", "_progress_at", "_waiter", "displace", "id", "task")

    def __init__(self, driver: Driver, call_id: str) -> None:
        self.id = call_id
        self._driver = driver
        self._order: Dispatch | Reject | Abort | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.task = asyncio.current_task(driver.loop)
        self._progress_at = 0.0
        self._kept = 0
        self.displace: Callable[[], None] | None = None
        """what takes the call off its replica, if it can be taken off; ends in `preempted`"""

    async def ordered(self) -> None:
        """Wait until there is an order. From another task: until `order` takes it, it may be taken back."""
        while self._order is None:
            self._waiter = self._driver.loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    async def order(self) -> Dispatch | Reject | Abort:
        """What the core wants done with this call: wait until it says so. From the call's own task."""
        while self._order is None:
            await self.ordered()
        order = self._order
        if isinstance(order, Dispatch):
            self._order = None
        return order

    @property
    def waits(self) -> bool:
        """Whether the core has not ordered anything yet."""
        return self._order is None

    @property
    def aborted(self) -> bool:
        """Whether the core has killed this call; its handler's task is then cancelled."""
        return isinstance(self._order, Abort)

    @property
    def refused(self) -> bool:
        """Whether the core has ended this call without an answer, or in the middle of one."""
        return isinstance(self._order, Reject | Abort)

    def give(self, order: Dispatch | Reject | Abort) -> None:
        """The core's order, from the driver."""
        self._order = order
        if self._waiter is not None:
            if not self._waiter.done():
                self._waiter.set_result(None)
        elif isinstance(order, Abort) and self.task is not None:
            self.task.cancel()

    def preempt(self) -> None:
        """The core wants the slot back, from the driver."""
        if isinstance(self._order, Dispatch):  # its handler has not seen it yet
            self._order = None
            self.preempted(self._kept)
        elif self.displace is not None:
            self.displace()

    def preempted(self, tokens_kept: int) -> None:
        """The call has left its replica; the next order says where it goes on."""
        self._kept = tokens_kept
        self._progress_at = 0.0
        self._driver.tell(ev.CallPreempted(self._driver.clock(), self.id, tokens_kept))

    def started(self) -> None:
        """The replica has the call."""
        self._driver.tell(ev.CallStarted(self._driver.clock(), self.id))

    def streamed(self, tokens: int) -> None:
        """A chunk came. The core is told of the first, then as often as it wants."""
        now = self._driver.clock()
        if self._progress_at == 0.0 or (now >= self._progress_at and self._driver.scheduler.wants_progress):
            self._progress_at = now + PROGRESS_S
            self._driver.tell(ev.CallStreamed(now, self.id, max(tokens, 1)))

    def stays(self) -> None:
        """The call cannot be taken off its replica: it runs on."""
        self._driver.tell(ev.CallStreamed(self._driver.clock(), self.id, 0))

    def finished(self, prompt_tokens: int, output_tokens: int) -> None:
        """The answer is complete."""
        self._driver.tell(ev.CallFinished(self._driver.clock(), self.id, prompt_tokens, output_tokens))

    def failed(self, kind: str, status: int = 0, first_byte: bool = False, retry_after_s: float | None = None) -> None:
        """The replica did not deliver; the next order says what follows."""
        self._progress_at = 0.0
        self._driver.tell(ev.CallFailed(self._driver.clock(), self.id, kind, status, first_byte, retry_after_s))

    def cancelled(self) -> None:
        """The client is gone."""
        self._driver.tell(ev.CallCancelled(self._driver.clock(), self.id))


class Driver:
    """Turns the world into events, and commands into deeds.

    `clock` gives seconds, monotonic, of any origin; tests hand in virtual time. Not the loop's own clock: uvloop's
    moves in milliseconds, and only between callbacks.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        clock: Callable[[], float] = time.monotonic,
        journal: Journal | None = None,
        observers: Sequence[Observer] = (),
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.scheduler = scheduler
        self.clock = clock
        self.live: dict[str, LiveCall] = {}
        self._journal, self._observers = journal, tuple(observers)
        self._events: deque[ev.Event] = deque()
        self._telling = False
        self._timers: set[asyncio.TimerHandle] = set()
        self._closed: OrderedDict[str, None] = OrderedDict()
        self._refusal: Refuse | None = None
        self._boot = secrets.token_hex(3)
        self._ids = 0
        self._empty = asyncio.Event()
        self._policy_error: str | None = None

    # ---------------------------------------------------------------- the one way in

    def tell(self, event: ev.Event) -> None:
        """Hand an event to the core, and obey. Events that obeying causes wait their turn."""
        if self._telling or self._events:
            self._events.append(event)
            if self._telling:
                return
            event = self._events.popleft()
        self._telling = True
        try:
            self._step(event)
            while self._events:
                self._step(self._events.popleft())
        finally:
            self._telling = False

    def _step(self, event: ev.Event) -> None:
        scheduler = self.scheduler
        commands = scheduler.handle(event)
        if self._journal is not None:
            self._record(self._journal, event, commands)
        for command in commands:
            if type(command) is Dispatch:  # the usual one, made fast
                call = self.live.get(command.call)
                if call is not None:
                    call.give(command)
            else:
                self._obey(command)
        for observer in self._observers:
            try:
                observer.seen(event, commands)
            except Exception:
                # a bug of one who only looks on must not cost a call
                log.exception("%s failed at %s", type(observer).__name__, type(event).__name__)
        if scheduler.policy_error != self._policy_error:
            self._policy_error = scheduler.policy_error
            if self._policy_error:
                log.error("the policy failed (%s); calls now go in order of arrival", self._policy_error)

    def _record(self, journal: Journal, event: ev.Event, commands: list[Command]) -> None:
        try:
            if journal.write(event, commands):
                journal.rotate(save(self.scheduler), self.scheduler.spec)
        except OSError as error:
            # a full disk must not cost a call; a journal with a gap would replay to nonsense, so it ends here
            self._journal = None
            log.error("the journal cannot be written (%s); it ends here, calls go on", error)

    def _obey(self, command: Command) -> None:
        match command:
            case Dispatch() | Reject() | Abort():
                call = self.live.get(command.call)
                if call is not None:
                    call.give(command)
            case WakeAt():
                self._wake_at(command.at)
            case Refuse():
                self._refusal = command
            case CloseJob():
                self.tell(ev.JobClosed(self.clock(), command.job, reason="idle"))
            case Preempt():
                call = self.live.get(command.call)
                if call is not None:
                    call.preempt()

    def _wake_at(self, at: float) -> None:
        def wake() -> None:
            self._timers.discard(handle)
            # a loop's timer may fire a tick of its clock early
            self.tell(ev.Tick(max(at, self.clock())))

        handle = self.loop.call_later(max(at - self.clock(), 0.0), wake)
        self._timers.add(handle)

    # ---------------------------------------------------------------- jobs

    def new_id(self, kind: str) -> str:
        """An id that this process has not given before, and that an earlier one hardly has."""
        self._ids += 1
        return f"{kind}-{self._boot}-{self._ids}"

    def ids_of(self, kind: str) -> str:
        """What the ids begin with that this process gives."""
        return f"{kind}-{self._boot}-"

    def open_job(
        self,
        job: str,
        app: str,
        tenant: str,
        urgency: int = 2,
        deadline_s: float | None = None,
        features: dict[str, float] | None = None,
        past: ev.Past | None = None,
    ) -> Refuse | None:
        """A job begins, unless the core refuses it. `features`: what its first request shows, if that opens it."""
        self._closed.pop(job, None)
        self._refusal = None
        self.tell(ev.JobOpened(self.clock(), job, app, tenant, urgency, deadline_s, features or {}, past))
        return self._refusal

    def close_job(self, job: str, abort: bool = False) -> None:
        """A job ends; with `abort` its calls are killed. Its id is refused from now on."""
        self._closed[job] = None
        if len(self._closed) > REMEMBERED:
            self._closed.popitem(last=False)
        self.tell(ev.JobClosed(self.clock(), job, abort, "aborted" if abort else "closed"))

    def undo_job(self, job: str) -> None:
        """The call that opened this job was refused, and no other came: its client may open it again."""
        self.tell(ev.JobClosed(self.clock(), job, abort=True, reason="refused"))

    def end_job(self, job: str) -> None:
        """No further stage will come to a job that no client can name."""
        self.tell(ev.JobClosed(self.clock(), job))

    def is_closed(self, job: str) -> bool:
        """Whether someone closed this job. One that ended for idleness may come back."""
        return job in self._closed

    # ---------------------------------------------------------------- calls

    def arrive(
        self,
        job: str,
        stage: str,
        model: str,
        *,
        prompt_tokens: int,
        max_tokens: int | None,
        urgency: int | None = None,
        parent: str | None = None,
        hint_output_tokens: int | None = None,
        prefix: str | None = None,
        retry: int = 0,
        resumable: bool = False,
        idempotency: str | None = None,
        size: int = 0,
    ) -> LiveCall:
        """A call of an open job arrives, whose request has `size` bytes. `leave` it when its client has its answer."""
        call = LiveCall(self, self.new_id("call"))
        self.live[call.id] = call
        self.tell(
            ev.CallArrived(
                self.clock(),
                call.id,
                job,
                stage,
                model,
                prompt_tokens,
                max_tokens,
                urgency,
                parent,
                hint_output_tokens,
                prefix,
                retry,
                resumable,
                idempotency,
                size,
            )
        )
        return call

    def leave(self, call: LiveCall) -> None:
        """The call's client has its answer, or is gone. Whatever led here, the core holds no slot for it any more."""
        if call.id in self.scheduler.calls:
            call.cancelled()
        self.live.pop(call.id, None)
        # else call, task and answer would hold each other until the garbage collector looks: for each call, cold memory
        call.displace = call.task = None
        if not self.live:
            self._empty.set()

    async def quiet(self, within_s: float) -> bool:
        """Wait until every client has its answer, for so long at most. Returns whether they have."""
        self._empty.clear()
        if self.live:
            try:
                await asyncio.wait_for(self._empty.wait(), within_s)
            except TimeoutError:
                return False
        return True

    def stop(self) -> None:
        """No further ticks."""
        for handle in self._timers:
            handle.cancel()
        self._timers.clear()
