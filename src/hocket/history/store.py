"""The database behind the history: opening it, bringing its schema up to date, writing records, dropping old ones.

SQLite and PostgreSQL by the same SQL. Nothing here knows of threads or of calls; `hocket.history.writer` does.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from errno import EACCES, EISDIR
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, create_engine, delete, event, inspect, select, text, update
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, NoSuchModuleError
from sqlalchemy.pool import NullPool

from hocket.errors import InputError
from hocket.history.records import Record
from hocket.history.schema import HEAD, TABLES, RunRecord, calls, jobs, runs, tool_runs

log = logging.getLogger("hocket.history")

LOCKED_S = 2.0
"how long SQLite waits for another process's write to end"
CONNECT_S = 5
LOST_MS = 10_000
"how long PostgreSQL's host may leave data unacknowledged before the connection counts as lost"
WRITING = "BEGIN IMMEDIATE"
"takes SQLite's write lock first: one taken after a read fails at once where another process wrote in between"
DEAD_S = 120.0
"a process that has not written for so long has died"
WAL_BYTES = 16 * 2**20
"what SQLite's write-ahead log shrinks to after a burst"
CHUNK = 2000
"records that are handed to the driver at once"
DROP_JOBS = 200
"jobs that one step of retention deletes"
VACUUM_PAGES = 2000
"that one step gives back"


class StoreError(Exception):
    """The database did not do it now: it is full, locked or away. Trying again later may help."""


def parse_url(url: str) -> URL:
    """A path, `sqlite:///PATH` or `postgresql://USER@HOST/NAME`. Raises InputError, which shows no password."""
    if "://" not in url:
        return URL.create("sqlite", database=str(Path(url).expanduser()))
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise InputError(
            "history: not a URL; write sqlite:////path/to/history.db or postgresql://user@host/name"
        ) from None
    match parsed.get_backend_name():
        case "sqlite":
            if not parsed.database or parsed.database == ":memory:":
                raise InputError("history: SQLite needs a file: sqlite:////path/to/history.db")
            return parsed.set(drivername="sqlite")
        case "postgresql" | "postgres":
            return parsed.set(drivername="postgresql+psycopg")
        case other:
            raise InputError(f"history: {other} is not supported; use sqlite:///PATH or postgresql://USER@HOST/NAME")


class BadRowError(StoreError):
    """The database will never take these records."""


class Store:
    """A history. Making one does not connect: `connect` does."""

    def __init__(self, url: str, *, reading: bool = False) -> None:
        """`reading` takes no write lock, so that it waits for nobody."""
        self.url = parse_url(url)
        self._begin = "BEGIN" if reading else WRITING
        self.is_file = self.url.get_backend_name() == "sqlite"
        self.name = self.url.database if self.is_file else self.url.render_as_string(hide_password=True)
        self._engine = self._make_engine()
        self._upserts: dict[type[msgspec.Struct], str] = {}
        self._file: tuple[int, int] | None = None

    def _make_engine(self) -> Engine:
        if not self.is_file:
            timeouts = {"connect_timeout": CONNECT_S, "tcp_user_timeout": LOST_MS, "application_name": "hocket"}
            try:
                return create_engine(self.url, poolclass=NullPool, connect_args=timeouts)
            except (ImportError, NoSuchModuleError):
                raise InputError("history: PostgreSQL needs psycopg; pip install 'hocket[postgres]'") from None
        engine = create_engine(self.url, poolclass=NullPool, connect_args={"timeout": LOCKED_S})
        event.listen(engine, "connect", _sqlite_connected)
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(self._begin))
        return engine

    def reader(self) -> Store:
        """The same history, for who only reads."""
        return Store(self.url.render_as_string(hide_password=False), reading=True)

    # ---------------------------------------------------------------- opening

    def exists(self) -> bool:
        """Whether there can be anything to read; a server is asked by `connect`."""
        return not self.is_file or Path(str(self.url.database)).exists()

    def connect(self) -> Connection:
        """A connection to a history of this version's schema; an older one is brought up to date first.

        Raises StoreError where the database is away, and InputError where it is none that this hocket can use.
        """
        with translated(self.name):
            if self.is_file:
                self._make_file()
            connection = self._engine.connect()
            self._file = self._where()
            try:
                if not _is_current(connection):
                    self._migrate(connection)
            except BaseException:
                connection.close()
                raise
            return connection

    @property
    def replaced(self) -> bool:
        """Whether the file that `connect` opened is there no more: SQLite would go on to write to nowhere."""
        return self._file != self._where()

    def _where(self) -> tuple[int, int] | None:
        if not self.is_file:
            return None
        try:
            found = Path(str(self.url.database)).stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def probe(self) -> None:
        """Raise InputError if this can be no history for this hocket. A database that is away may be one later."""
        try:
            if self.is_file:
                self._make_file()
            self.connect().close()
        except OSError as error:
            raise InputError(
                f"history {self.name}: cannot be written ({error.strerror}); "
                "set history.url to another place, or history: off"
            ) from None
        except StoreError as error:
            log.warning("the history is not there yet (%s); calls are recorded once it is", error)

    def _make_file(self) -> None:
        """For the owner alone: a history tells who worked on what, and when. Raises OSError.

        A file that is there is not opened: closing it would take away the locks of this process's connections to it
        (POSIX), and the next process that reads would delete the write-ahead log under them.
        """
        path = Path(str(self.url.database))
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        elif path.is_dir():
            raise IsADirectoryError(EISDIR, os.strerror(EISDIR))
        elif not os.access(path, os.R_OK | os.W_OK):
            raise PermissionError(EACCES, os.strerror(EACCES))

    def _migrate(self, connection: Connection) -> None:
        """Bring the schema up to date, in one transaction. Raises InputError where it is newer than this hocket."""
        logging.getLogger("alembic").setLevel(logging.WARNING)
        from alembic import command
        from alembic.config import Config
        from alembic.script import ScriptDirectory

        config = Config()
        config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
        self._begin = WRITING
        with connection.begin():
            if connection.dialect.name == "postgresql":  # two gateways may start at once
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": 0x686F636B6574})
            revision = _revision(connection)
            if revision is not None and revision not in known:
                raise InputError(
                    f"history {self.name}: written by a newer hocket (schema {revision}, this one knows {HEAD}); "
                    "upgrade hocket, or name another history"
                )
            if revision is None and connection.dialect.name == "sqlite" and inspect(connection).get_table_names():
                raise InputError(f"history {self.name}: a SQLite file, but no history of hocket's; name another file")
            command.upgrade(config, "head")

    # ---------------------------------------------------------------- writing

    def write(self, connection: Connection, records: Iterable[Record | RunRecord]) -> None:
        """Insert records, or replace those that are there, in one transaction. Raises StoreError.

        A kind at a time, as plain tuples: SQLAlchemy's own parameter handling costs more than SQLite's insert.
        """
        left = iter(records)
        with translated(self.name), connection.begin():
            while chunk := list(islice(left, CHUNK)):
                by_kind: dict[type[msgspec.Struct], list[tuple[Any, ...]]] = {}
                for record in chunk:
                    by_kind.setdefault(type(record), []).append(msgspec.structs.astuple(record))
                for kind, rows in by_kind.items():
                    connection.exec_driver_sql(self._upsert(kind), rows)

    def _upsert(self, kind: type[msgspec.Struct]) -> str:
        sql = self._upserts.get(kind)
        if sql is None:
            table = TABLES[kind]
            names = [column.name for column in table.columns]
            key = [column.name for column in table.primary_key]
            places = ", ".join(["?" if self.is_file else "%s"] * len(names))
            # a value in an index never changes; left out of the update, its index need not be written again
            fixed = {*key, *(column.name for index in table.indexes for column in index.columns)}
            changed = ", ".join(f"{name} = excluded.{name}" for name in names if name not in fixed)
            sql = self._upserts[kind] = (
                f"INSERT INTO {table.name} ({', '.join(names)}) VALUES ({places}) "  # noqa: S608  names of our own
                f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET {changed}"
            )
        return sql

    def close_dead_runs(self, connection: Connection, own: RunRecord) -> int:
        """Jobs that were open when their process died become `interrupted`. Returns how many. Raises StoreError."""
        with translated(self.name), connection.begin():
            living = select(runs).where(runs.c.ended_at.is_(None), runs.c.id != own.id, runs.c.kind == "gateway")
            dead = [run.id for run in connection.execute(living) if is_dead(run, own)]
            count = 0
            for run in dead:
                was_open = select(jobs.c.id).where(jobs.c.run == run, jobs.c.state == "open").scalar_subquery()
                for table in (calls, tool_runs):
                    lost = update(table).where(table.c.job_id.in_(was_open), table.c.outcome == "")
                    connection.execute(lost.values(outcome="interrupted"))
                gone = update(jobs).where(jobs.c.run == run, jobs.c.state == "open").values(state="interrupted")
                count += connection.execute(gone).rowcount
                connection.execute(update(runs).where(runs.c.id == run).values(ended_at=runs.c.seen_at))
            return count

    # ---------------------------------------------------------------- retention

    def drop_old(self, connection: Connection, before: float, max_bytes: float) -> bool:
        """Delete a few of the ended jobs that arrived before `before` (seconds since 1970), or, while a file holds more
        than `max_bytes`, of the oldest ones. Returns whether there may be more to do. Raises StoreError.
        """
        with translated(self.name):
            oldest = select(jobs.c.id).where(jobs.c.state != "open").order_by(jobs.c.arrived_at).limit(DROP_JOBS)
            with connection.begin():
                too_big = self.is_file and self._bytes(connection) > max_bytes
                which = oldest if too_big else oldest.where(jobs.c.arrived_at < before)
                ids = list(connection.execute(which).scalars())
                for column in (calls.c.job_id, tool_runs.c.job_id, jobs.c.id) if ids else ():
                    connection.execute(delete(column.table).where(column.in_(ids)))
            return bool(ids)

    def shrink(self, connection: Connection) -> bool:
        """Give back to the file system some of what `drop_old` has freed. Whether there is more. Raises StoreError."""
        with translated(self.name):
            with connection.begin():
                used = select(jobs.c.run).distinct().scalar_subquery()
                connection.execute(delete(runs).where(runs.c.ended_at.is_not(None), runs.c.id.not_in(used)))
            if not self.is_file:
                return False  # PostgreSQL's autovacuum sees to it
            raw: Any = connection.connection.driver_connection
            raw.execute(f"PRAGMA incremental_vacuum({VACUUM_PAGES})").fetchall()
            raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            return bool(raw.execute("PRAGMA freelist_count").fetchone()[0])

    @staticmethod
    def _bytes(connection: Connection) -> int:
        """What a SQLite file holds, without its free pages."""
        pages, free, size = (
            connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)


def _sqlite_connected(raw: Any, _: object) -> None:
    raw.isolation_level = None  # transactions are begun below, not by the driver's guess
    for pragma in (
        "auto_vacuum = INCREMENTAL",  # counts only before the first table is made
        "journal_mode = WAL",
        "synchronous = NORMAL",
        f"journal_size_limit = {WAL_BYTES}",
        "wal_autocheckpoint = 4000",  # pages: a checkpoint waits for the disk twice
    ):
        raw.execute(f"PRAGMA {pragma}").fetchall()


@contextmanager
def translated(name: object = "history") -> Iterator[None]:
    """Raise StoreError, or BadRowError, for what the driver of a database raises."""
    try:
        yield
    except OverflowError as error:  # a size that fits no column: SQLite's driver finds it before the database does
        raise BadRowError(f"{name}: {error}") from error
    except OSError as error:
        raise StoreError(f"{name}: {error.strerror}") from error
    except DBAPIError as error:
        kind = BadRowError if isinstance(error, DataError | IntegrityError) else StoreError
        # the driver's own words: SQLAlchemy's would show the statement
        raise kind(f"{name}: {str(error.orig).strip().splitlines()[0]}") from error


# -------------------------------------------------------------------- the schema's versions


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _is_current(connection: Connection) -> bool:
    with connection.begin():
        return _revision(connection) == HEAD


def is_dead(run: Any, own: RunRecord) -> bool:
    """Whether the process of a run has died. A process of this machine can be asked for, another's falls silent."""
    if run.seen_at < time.time() - DEAD_S:
        return True
    if run.host != own.host:
        return False
    if run.pid == own.pid:  # a container's process has the same number each time
        return True
    try:
        os.kill(run.pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass  # it is another user's
    return False
