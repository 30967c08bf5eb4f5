"""The thread that writes: it gathers events for a moment, makes records of them and commits these together.

The gateway's loop only appends to a queue. Whatever the database does (slow, full, locked, away), the loop is not held
up: the thread tries again, records wait, and what does not fit any more is lost, counted and told.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from sqlalchemy import Connection

from hocket.core import events as ev
from hocket.core.commands import Command
from hocket.errors import InputError
from hocket.history.records import Continued, Ledger, Record, is_open
from hocket.history.schema import RunRecord
from hocket.history.store import BadRowError, Store, StoreError

log = logging.getLogger("hocket.history")

GATHER_S = 0.5
"how long records are gathered before they are committed"
BATCH = 2000
"records in one transaction at most"
SLICE = 250
"events that are made into records without a pause: about a millisecond"
NOTHING: tuple[Command, ...] = ()
CROWDED = 20_000
"events that may wait to be made into records"
BEAT_S = 30.0
"how often a process says that it lives, and looks for jobs of those that do not, and for old ones"
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
"before the database is tried again; doubled each time"
TELL_S = 60.0
"between two lines in the log about the same trouble"


class Writer:
    """Takes events from one thread; makes records of them and writes these in another."""

    def __init__(
        self,
        store: Store,
        run: RunRecord,
        *,
        keep_s: float,
        max_bytes: float,
        bound: int,
        prefixed: bool,
        wall_offset: Callable[[], float],
    ) -> None:
        """`bound`: records that may wait. `wall_offset`: what makes an event's time seconds since 1970, now."""
        self.written = 0
        self._refused = self._dropped = (
            0  # by the database; for want of room (each counted under its own thread or lock)
        )
        #: why the database does not take what it is given; None while it does
        self.trouble: str | None = None
        self._store, self.run = store, run
        self._keep_s, self._max_bytes, self._bound = keep_s, max_bytes, bound
        # an event, its commands, the next event, ...: pairs that live on would set the garbage collector to work
        self._inbox: deque[Any] = deque()
        self._ended: deque[Record] = deque()
        # of these nothing is lost but the sight of a running job: each comes again when it has ended
        self._began: deque[Record] = deque(maxlen=bound)
        self._batch: list[Record | RunRecord] = []
        self._wall_offset = wall_offset
        self._ledger = Ledger(
            run.id, count(run.id), self._began.append, self._end, offset=wall_offset(), prefixed=prefixed
        )
        self._ledger_lock = threading.Lock()
        self._ledger_failed = False
        self._connection: Connection | None = None
        self._asleep = False
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._pause_s = FIRST_PAUSE_S
        self._beat_at = self._told_at = 0.0
        self._told_lost = 0
        self._thread = threading.Thread(target=self._main, name="hocket-history", daemon=True)

    # ---------------------------------------------------------------- for the thread that records

    def tell(self, event: ev.Event, commands: Sequence[Command]) -> None:
        """One event, and what the core ordered. Never raises, never waits."""
        inbox = self._inbox
        inbox.append(event)
        inbox.append(commands or NOTHING)
        if self._asleep:
            self._asleep = False
            self._wake.set()
        elif len(inbox) > 2 * CROWDED:
            # the thread is held up by the database: the ledger must not miss an event, so it is kept here meanwhile
            self._digest(SLICE, wait=False)

    def go_on_with(self, jobs: dict[str, Continued]) -> None:
        """Jobs of earlier processes whose rows go on when the jobs do, by the core's ids. Before the first event."""
        self._ledger.continued = jobs

    @property
    def lost(self) -> int:
        """Records that nobody will write."""
        return self._refused + self._dropped

    @property
    def waiting(self) -> int:
        """Records that are not written yet."""
        return len(self._ended) + len(self._batch)

    def start(self) -> None:
        self._thread.start()

    def stop(self, at: float, within_s: float) -> None:
        """What is open at `at` is interrupted. Write what is there, for so long at most, and end."""
        while len(self._inbox) > 1:
            self._digest(SLICE)
        with self._ledger_lock:
            self._ledger.interrupt(at)
        self._stopping.set()
        self._wake.set()
        self._thread.join(within_s)
        if self._thread.is_alive() or self.waiting:
            log.error("the history ends with %d records unwritten, %d lost before", self.waiting, self.lost)

    # ---------------------------------------------------------------- events to records

    def _digest(self, most: int, *, wait: bool = True) -> None:
        """Turn at most so many events into records. Without `wait`, do nothing while the other thread is at it.

        In one go, later, this takes a third of the time that it takes event by event between the loop's other work.
        """
        if not self._ledger_lock.acquire(blocking=wait):
            return
        try:
            ledger, inbox = self._ledger, self._inbox
            # anew each time: a monotonic clock stands still while a laptop sleeps
            ledger.offset = self._wall_offset()
            for _ in range(min(most, len(inbox) // 2)):
                event, commands = inbox.popleft(), inbox.popleft()
                try:
                    ledger.seen(event, commands)
                except Exception:
                    if not self._ledger_failed:
                        log.exception("the history cannot record %s; calls go on", type(event).__name__)
                    self._ledger_failed = True
        finally:
            self._ledger_lock.release()

    def _end(self, record: Record) -> None:
        if len(self._ended) + len(self._batch) < self._bound:
            self._ended.append(record)
        else:
            self._dropped += 1

    # ---------------------------------------------------------------- the thread

    def _main(self) -> None:
        more = True  # jobs of a process that died need not wait
        while not self._stopping.is_set():
            if not more:
                self._sleep()
            more = self._cycle()
        self.run.ended_at = self.run.seen_at = time.time()
        self._beat_at = 0.0
        self._cycle()
        if self._connection is not None:
            self._connection.close()

    def _sleep(self) -> None:
        self._asleep = True
        if not self._inbox and not self._ended and not self._began:
            self._wake.wait(BEAT_S)
        self._asleep = False
        self._wake.clear()
        self._stopping.wait(GATHER_S)

    def _cycle(self) -> bool:
        """Write what is there, then keep house. Whether there is more to do at once."""
        while len(self._inbox) > 1:
            self._digest(SLICE)
            time.sleep(0)  # the loop may have the interpreter
        try:
            if self._connection is not None and self._store.replaced:
                log.error("the history's file was deleted or replaced; a new one begins")
                self._connection.close()
                self._connection, self._beat_at = None, 0.0
            if self._connection is None:
                self._connection = self._store.connect()
            self._write_all(self._connection)
            more = self._keep_house(self._connection)
        except InputError as error:  # it was replaced by one of a newer hocket: that will not pass
            self._give_up(str(error))
            return False
        except StoreError as error:
            self._failed(str(error))
            return False
        except Exception as error:
            log.exception("the history's writer failed")
            self._failed(repr(error))
            return False
        self._worked()
        return more

    def _take(self) -> list[Record | RunRecord]:
        ended, began = self._ended, self._began
        batch: list[Record | RunRecord] = [ended.popleft() for _ in range(min(len(ended), BATCH))]
        while began and len(batch) < BATCH:
            record = began.popleft()
            if is_open(record):
                batch.append(record)
        return batch

    def _write_all(self, connection: Connection) -> None:
        while True:
            if not self._batch:
                self._batch = self._take()
            if not self._batch:
                return
            try:
                self._store.write(connection, self._batch)
                self.written += len(self._batch)
            except BadRowError:
                self._write_singly(connection)
            self._batch = []

    def _write_singly(self, connection: Connection) -> None:
        """One of the batch is refused: the others need not go with it."""
        for record in self._batch:
            try:
                self._store.write(connection, [record])
                self.written += 1
            except BadRowError as error:
                self._refused += 1
                log.error("the history lost a record that the database refuses (%s): %r", error, record)

    def _keep_house(self, connection: Connection) -> bool:
        now = time.time()
        if now < self._beat_at:
            return False
        self.run.seen_at = now
        self.run.policy = self._ledger.policy or self.run.policy
        self._store.write(connection, [self.run])
        if self._stopping.is_set():
            return False
        if count := self._store.close_dead_runs(connection, self.run):
            log.info("history: %d jobs were open when their process ended; they count as interrupted", count)
        if self._store.drop_old(connection, now - self._keep_s, self._max_bytes) or self._store.shrink(connection):
            return True
        self._beat_at = now + BEAT_S
        return False

    # ---------------------------------------------------------------- trouble

    def _failed(self, why: str) -> None:
        now = time.monotonic()
        if self.trouble is None or now > self._told_at + TELL_S:
            self._told_at = now
            log.error(
                "the history cannot be written (%s); calls go on, %d records wait, %d of at most %d are lost",
                *(why, self.waiting, self.lost, self._bound),
            )
        self.trouble = why
        if self._connection is not None:
            try:
                self._connection.close()
            except Exception:  # noqa: BLE001, S110  it is gone, whatever it says
                pass
            self._connection = None
        self._stopping.wait(self._pause_s)
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    def _worked(self) -> None:
        if self.trouble is not None:
            log.warning("the history is written again; %d records are lost so far", self.lost)
            self._told_lost = self.lost
        elif self.lost > self._told_lost and time.monotonic() > self._told_at + TELL_S:
            log.error("the history's database is too slow: %d records are lost so far", self.lost)
            self._told_at, self._told_lost = time.monotonic(), self.lost
        self.trouble, self._pause_s = None, FIRST_PAUSE_S

    def _give_up(self, why: str) -> None:
        log.error("the history ends here (%s); calls go on", why)
        self.trouble = why
        self._bound = 0
        self._refused += self.waiting
        self._ended.clear()
        self._batch = []
        self._stopping.wait()


def new_run(policy: str, version: str, kind: str = "gateway") -> RunRecord:
    """The record of this process.

    Its id is the time in milliseconds, shifted by 20 bits: ids of jobs are counted up from it, and a run that begins a
    millisecond later may begin above any that this one will reach. The low bits tell apart what begins at once.
    """
    now = time.time()
    first = (int(now * 1000) << 20) + secrets.randbits(20)
    return RunRecord(first, kind, socket.gethostname(), os.getpid(), version, policy, now, now)
