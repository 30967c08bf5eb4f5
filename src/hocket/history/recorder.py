"""The observer that keeps the history: it sees what the core sees, and hands records to the writing thread."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from hocket import __version__
from hocket.errors import InputError
from hocket.history.idempotency import called_before
from hocket.history.records import policy_of
from hocket.history.store import Store, StoreError
from hocket.history.unfinished import Unfinished, unfinished
from hocket.history.writer import Writer, new_run
from hocket.settings import Settings
from hocket.settings.history import HistorySettings, default_history

log = logging.getLogger("hocket.history")

OPEN_TENANT = "default"
"whose jobs those are that come while no tenants are set"
STOP_S = 5.0
"how long the end waits for the last records to be written"


class HistoryRecorder:
    """An observer of the gateway's driver. `start` it before the first event, `stop` it after the last."""

    def __init__(
        self,
        store: Store,
        settings: HistorySettings | None = None,
        *,
        policy: str = "",
        prefixed: bool = False,
        clock: Callable[[], float] = time.monotonic,
        offset: float | None = None,
    ) -> None:
        """`clock` gives the times of events; `offset` what makes them seconds since 1970, None: what it is now.

        `prefixed`: see `Ledger`.
        """
        settings = settings or HistorySettings()
        self.where = str(store.name)
        self._store, self._clock, self._prefixed = store, clock, prefixed
        self.writer = writer = Writer(
            store,
            new_run(policy, __version__),
            keep_s=86_400 * settings.keep_days,
            max_bytes=settings.max_bytes,
            bound=settings.queue_rows,
            prefixed=prefixed,
            wall_offset=lambda: time.time() - clock() if offset is None else offset,
        )
        self.seen = writer.tell
        "takes note of one event and of what the core ordered. Never raises, never waits"

    def start(self) -> None:
        """Begin to write."""
        self.writer.start()

    def unfinished(self, silent_s: float) -> dict[str, Unfinished]:
        """Jobs that earlier processes left open, heard of in the last `silent_s`, by the core's ids. Never raises.

        Before the first event: where one goes on, its row does, too.
        """
        found: dict[str, Unfinished] = {}
        try:
            with self._store.reader().connect() as connection:
                for one in unfinished(connection, self.writer.run, silent_s):
                    tenant, job = one.job.tenant, one.job.job
                    if self._prefixed or tenant == OPEN_TENANT:  # without tenants nobody may go on with a tenant's
                        found.setdefault(f"{tenant}/{job}" if self._prefixed else job, one)
        except (StoreError, InputError) as error:
            log.warning("%s; jobs of before cannot go on", error)
        self.writer.go_on_with({key: one.continued for key, one in found.items()})
        return found

    def called_before(self, key: str, within_s: float, own: str) -> str | None:
        """The job of the call with this hash of an idempotency key, of these last seconds. Waits for the database.

        Calls whose ids begin with `own` do not count.
        """
        if self.writer.trouble is not None:  # each call would wait for a database that is away
            return None
        try:
            with self._store.reader().connect() as connection:
                return called_before(connection, key, time.time() - within_s, own)
        except (StoreError, InputError) as error:
            log.warning("%s; whether a call was made before is not known", error)
            return None

    def stop(self, within_s: float = STOP_S) -> None:
        """What is open now is interrupted. Wait until all is written, for so long at most."""
        self.writer.stop(self._clock(), within_s)


class HistoryMetrics(Collector):
    """What Prometheus sees of the writer."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def collect(self) -> Iterable[Metric]:
        """See `Collector`."""
        rows = CounterMetricFamily("hocket_history_rows", "rows for the history", labels=["state"])
        rows.add_metric(["written"], self._writer.written)
        rows.add_metric(["lost"], self._writer.lost)
        waiting = GaugeMetricFamily("hocket_history_queue", "rows that wait to be written", self._writer.waiting)
        up = GaugeMetricFamily("hocket_history_up", "whether the database takes rows", self._writer.trouble is None)
        return [rows, waiting, up]


def url_of(history: HistorySettings) -> str:
    """Where the history is. Raises InputError where the environment variable that should say so does not."""
    if history.url_env is not None:
        url = os.environ.get(history.url_env, "").strip()
        if not url:
            raise InputError(
                f"history.url_env: the environment variable {history.url_env} is not set; export it with the URL"
            )
        return url
    return history.url or str(default_history())


def recorder_of(settings: Settings, clock: Callable[[], float] = time.monotonic) -> HistoryRecorder | None:
    """The recorder that `settings` ask for, or None. Raises InputError where the history they name cannot be used.

    Where they name none, a history is a convenience: if it cannot be had, that is logged, and there is none. A
    database that is only away does not keep a gateway from starting; the writer goes on trying.
    """
    if settings.history is False:
        return None
    history = settings.history if isinstance(settings.history, HistorySettings) else HistorySettings()
    named = history.url is not None or history.url_env is not None
    try:
        store = Store(url_of(history))
        if not store.is_file and history.max_mib is not None:
            raise InputError("history.max_mib is for a SQLite file; PostgreSQL's history is bounded by keep_days")
        store.probe()
    except InputError as error:
        if named:
            raise
        log.warning("%s; there is no history", error)
        return None
    policy = policy_of(settings.to_spec())
    return HistoryRecorder(store, history, policy=policy, prefixed=bool(settings.tenants), clock=clock)
