"""The database: its schema's versions, what is written, what a dead process left, and what is deleted."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import Connection, inspect, text

from hocket.errors import InputError
from hocket.history import schema
from hocket.history.read import Filter, latest, named
from hocket.history.records import CallRecord, JobRecord, ToolRecord
from hocket.history.schema import RunRecord
from hocket.history.store import BadRowError, Store, parse_url
from hocket.history.writer import new_run
from hocket.settings import HistorySettings

DATA = Path(__file__).with_name("data")
DAY_S = 86_400.0


def job(number: int, run: int = 1, **more: object) -> JobRecord:
    fields = {"tenant": "t", "app": "a", "urgency": 2, "arrived_at": 1e9 + number, "state": "closed", **more}
    return JobRecord(number, run, f"j{number}", **fields)  # type: ignore[arg-type]


def call(of: int, n: int = 0, **more: object) -> CallRecord:
    return CallRecord(of, n, f"c{of}.{n}", "s", "m", 2, "", 0, 0, 10, 0.0, **more)  # type: ignore[arg-type]


def counts(connection: Connection) -> tuple[int, ...]:
    with connection.begin():
        tables = (schema.runs, schema.jobs, schema.calls, schema.tool_runs)
        return tuple(connection.execute(text(f"SELECT count(*) FROM {table.name}")).scalar_one() for table in tables)


# -------------------------------------------------------------------- the schema


def test_the_migrations_make_what_the_code_expects(store: Store) -> None:
    with store.connect() as connection, connection.begin():
        seen = inspect(connection)
        assert set(seen.get_table_names()) == {*schema.metadata.tables, "alembic_version"}
        for table in schema.metadata.tables.values():
            kinds = {
                column.name: (column.type.compile(connection.dialect), column.nullable) for column in table.columns
            }
            real = {
                c["name"]: (c["type"].compile(connection.dialect), c["nullable"]) for c in seen.get_columns(table.name)
            }
            assert real == kinds
            assert seen.get_pk_constraint(table.name)["constrained_columns"] == [c.name for c in table.primary_key]
            assert {index["name"] for index in seen.get_indexes(table.name)} == {i.name for i in table.indexes}


def test_the_newest_revision_is_the_one_that_the_code_names() -> None:
    versions = Path(schema.__file__).with_name("migrations") / "versions"
    assert max(file.stem.partition("_")[0] for file in versions.glob("0*.py")) == schema.HEAD


def test_a_record_of_each_kind_comes_back_as_it_was_and_replaces_itself(store: Store) -> None:
    one = job(1, features='{"x":1.5}', ended_s=0.1 + 0.2, deadline_s=3.0)
    started = msgspec.structs.replace(call(1), max_tokens=5)
    tool = ToolRecord(1, 1, "r", "search", "s", 0.5, 1.5, "finished")
    with store.connect() as connection:
        store.write(connection, [one, started, tool])
        ended = msgspec.structs.replace(started, outcome="finished", ended_s=1.0, output_tokens=2**40)
        store.write(connection, [ended])
        (found,) = named(connection, "j1")
    assert found == (one, [ended], [tool])


def test_stages_are_there_for_whoever_asks_in_sql(store: Store) -> None:
    calls = [call(1, 0, ended_s=2.0, outcome="finished"), call(1, 1, ended_s=3.0, outcome="finished")]
    with store.connect() as connection:
        store.write(connection, [job(1), *calls, ToolRecord(1, 2, "r", "search", "", 3.0, 4.5, "finished")])
        rows = connection.execute(text("SELECT name, kind, runs, arrived_s, ended_s, prompt_tokens FROM stages"))
        assert sorted(map(tuple, rows)) == [("s", "llm", 2, 0.0, 3.0, 20), ("search", "tool", 1, 3.0, 4.5, 0)]


def stored(folder: Path, name: str) -> Path:
    path = folder / "old.db"
    old = sqlite3.connect(path)
    old.executescript((DATA / name).read_text(encoding="utf-8"))
    old.close()
    return path


def test_a_history_of_the_first_schema_is_brought_up_to_date_with_all_that_it_holds(tmp_path: Path) -> None:
    store = Store(str(stored(tmp_path, "history-0001.sql")))
    with store.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == schema.HEAD
        connection.rollback()
        (found,) = named(connection, "report-1", "team-a")
        assert [(c.stage, c.outcome, c.attempts, c.retry) for c in found.calls] == [
            ("plan", "finished", 1, 0),
            ("answer", "finished", 2, 0),
        ]
        assert (found.job.ended_s, found.job.features, found.tools[0].name) == (7.0, '{"words":12.0}', "search")
        assert store.close_dead_runs(connection, new_run("", "")) == 1
        (cut,) = named(connection, "chat-7")
        assert (cut.job.state, cut.calls[0].outcome) == ("interrupted", "interrupted")


def test_a_history_of_a_newer_hocket_is_refused_and_left_alone(store: Store) -> None:
    with store.connect() as connection, connection.begin():
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(InputError, match=rf"newer .* 9999, this one knows {schema.HEAD}\); upgrade hocket"):
        store.connect()


def test_two_that_open_a_new_history_at_once_make_it_once(url: str) -> None:
    script = "import sys; from hocket.history.store import Store; Store(sys.argv[1]).connect().close()"
    both = [subprocess.Popen([sys.executable, "-c", script, url], stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert [(process.wait(30), process.communicate()[1]) for process in both] == [(0, "")] * 3


def test_what_is_no_history_is_refused_and_not_touched(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE mine(x)")
    other.close()
    with pytest.raises(InputError, match="no history of hocket's"):
        Store(str(tmp_path / "other.db")).connect()
    (tmp_path / "text.db").write_text("not a database at all, but long enough to be looked at as one" * 20)
    with pytest.raises(Exception, match="not a database"):
        Store(str(tmp_path / "text.db")).connect()


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "state" / "hocket" / "history.db"
    Store(str(path)).connect().close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://host/db", "mysql is not supported"),
        ("sqlite://", "needs a file"),
        ("no url://", "not a URL"),
    ],
)
def test_a_url_that_is_none_is_refused(url: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_url(url)


def test_a_password_is_shown_nowhere() -> None:
    store = Store("postgresql://me:s3cret@127.0.0.1:1/x")
    assert "s3cret" not in str(store.name) + repr(store.url)
    with pytest.raises(Exception, match=r"127\.0\.0\.1") as caught:
        store.connect()
    assert "s3cret" not in str(caught.value)
    with pytest.raises(ValueError, match="url_env"):
        HistorySettings(url="postgresql://me:s3cret@host/x")
    with pytest.raises(ValueError, match="keep_days"):
        HistorySettings(url="postgresql://me@host/x", max_mib=5)


# -------------------------------------------------------------------- rows that cannot be


def test_a_size_beyond_all_bounds_is_told_apart_from_trouble(store: Store) -> None:
    with store.connect() as connection:
        with pytest.raises(BadRowError):
            store.write(connection, [job(1), job(2, prompt_tokens=2**80)])
        assert counts(connection)[1] == 0, "all of a batch or none of it"
        store.write(connection, [job(1)])


# -------------------------------------------------------------------- processes that died


def run_of(number: int, **more: object) -> RunRecord:
    fields = {"host": "here", "pid": 10, "started_at": time.time(), "seen_at": time.time(), **more}
    return RunRecord(id=number, kind="gateway", hocket="0", policy="las", **fields)  # type: ignore[arg-type]


def test_jobs_of_a_dead_process_are_interrupted_those_of_a_living_one_are_not(store: Store) -> None:
    own = run_of(1)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    others = [
        run_of(2, pid=ended.pid),  # died on this machine
        run_of(3, pid=own.pid),  # a container that was started again
        run_of(4, host="there", seen_at=time.time() - 1000),  # fell silent elsewhere
        run_of(5, host="there"),  # lives elsewhere
        run_of(6, pid=os.getppid()),  # lives here
    ]
    with store.connect() as connection:
        open_jobs = [job(n, run=n, state="open") for n in range(1, 7)]
        store.write(connection, [own, *others, *open_jobs, call(2), call(5), ToolRecord(2, 1, "r", "t", "", 0.0)])
        assert store.close_dead_runs(connection, own) == 3
        states = {found.run: found.state for found in latest(connection, Filter(), 10)}
        (dead,), (living,) = named(connection, "j2"), named(connection, "j5")
        assert store.close_dead_runs(connection, own) == 0
    assert states == {1: "open", 2: "interrupted", 3: "interrupted", 4: "interrupted", 5: "open", 6: "open"}
    assert dead.calls[0].outcome == dead.tools[0].outcome == "interrupted"
    assert not living.calls[0].outcome


# -------------------------------------------------------------------- retention


def test_what_is_too_old_goes_a_few_jobs_at_a_time(store: Store) -> None:
    with store.connect() as connection:
        old = [job(n, run=5, arrived_at=1e9 + n) for n in range(500)]
        young = [job(1000 + n, arrived_at=2e9 + n) for n in range(3)]
        young.append(job(2000, arrived_at=1e9, state="open"))  # its end is to come
        parts = [call(of.id) for of in (*old, *young)] + [ToolRecord(of.id, 1, "r", "t", "", 0.0) for of in old]
        store.write(connection, [run_of(5, ended_at=1.0), *old, *young, *parts])
        steps = 0
        while store.drop_old(connection, 1.5e9, 1e12):
            steps += 1
        assert steps == 3, "500 jobs, 200 at a time"
        store.shrink(connection)
        assert counts(connection) == (0, 4, 4, 0), "the run that has no job left is gone as well"


def test_a_file_that_is_too_big_loses_its_oldest_jobs_and_shrinks(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    store = Store(str(path))
    with store.connect() as connection:
        numbers = count()
        for _ in range(10):
            batch = [job(next(numbers)) for _ in range(2000)]
            store.write(connection, [*batch, *(call(of.id) for of in batch)])
        while store.shrink(connection):
            pass
        before, limit = path.stat().st_size, 2**20
        assert before > 2 * limit
        while store.drop_old(connection, 0.0, limit) or store.shrink(connection):
            pass
        assert path.stat().st_size <= limit
        (_, jobs, calls, _), (newest,) = counts(connection), latest(connection, Filter(), 1)
        assert jobs == calls > 1000
        assert newest.id == 19_999, "the oldest went"
