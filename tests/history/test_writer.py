"""The writing thread, and what it does when the database is slow, locked, full or away: calls flow, loss is counted."""

from __future__ import annotations

import logging
import shutil
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from hocket.core import events as ev
from hocket.core.commands import Dispatch
from hocket.errors import InputError
from hocket.history import store as store_module
from hocket.history import writer as writer_module
from hocket.history.read import Filter, latest
from hocket.history.recorder import HistoryMetrics, HistoryRecorder, recorder_of
from hocket.history.store import Store
from hocket.settings import HistorySettings, Settings
from hocket.yamlfile import parse_yaml
from tests.history.conftest import Postgres

LOCKED_S = 1.0
"that a lock is waited for: longer than machines pause, most of the time"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "GATHER_S", 0.01)
    monkeypatch.setattr(writer_module, "FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(writer_module, "LONGEST_PAUSE_S", 0.1)
    monkeypatch.setattr(store_module, "LOCKED_S", LOCKED_S)


def soon(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.005)


def posts(recorder: HistoryRecorder, first: int, count: int) -> bool:
    """So many jobs of one call each. Whether no event was held up.

    What holds up the loop holds up many, or one as long as a lock is waited for; a machine that pauses does neither.
    """
    took = []
    for n in range(first, first + count):
        at, job, call = time.monotonic(), f"job-{n}", f"call-{n}"
        for event, commands in (
            (ev.JobOpened(at, job, "app"), []),
            (ev.CallArrived(at, call, job, "call", "small", 10), [Dispatch(call, "small", "small/0")]),
            (ev.JobClosed(at, job), []),
            (ev.CallStarted(at, call), []),
            (ev.CallFinished(at, call, 10, 5), []),
        ):
            began = time.perf_counter()
            recorder.seen(event, commands)
            took.append(time.perf_counter() - began)
    took.sort()
    return took[-5] < 0.1 and took[-1] < 0.8 * LOCKED_S


def states(url: str) -> list[str]:
    with Store(url, reading=True).connect() as connection:
        return [job.state for job in latest(connection, Filter(), 100_000)]


def metrics(recorder: HistoryRecorder) -> dict[str, float]:
    found = HistoryMetrics(recorder.writer).collect()
    return {
        "-".join([sample.name, *sample.labels.values()]): sample.value for metric in found for sample in metric.samples
    }


def test_what_was_recorded_is_there_after_the_end(url: str) -> None:
    recorder = HistoryRecorder(Store(url), policy="las")
    recorder.start()
    posts(recorder, 0, 3000)
    recorder.seen(ev.JobOpened(time.monotonic(), "open", "app"), [])
    recorder.stop()
    found = states(url)
    assert found.count("closed") == 3000 and found.count("interrupted") == 1
    assert metrics(recorder) == {
        "hocket_history_rows_total-written": 6001, "hocket_history_rows_total-lost": 0,
        "hocket_history_queue": 0, "hocket_history_up": 1,
    }  # fmt: skip
    with Store(url).connect() as connection:
        (run,) = connection.execute(text("SELECT policy, ended_at >= started_at FROM runs"))
        assert tuple(run) == ("las", True)


def test_a_job_shows_while_it_runs_and_times_of_day_are_right(url: str) -> None:
    recorder = HistoryRecorder(Store(url))
    recorder.start()
    recorder.seen(ev.JobOpened(time.monotonic() - 5, "j", "app"), [])
    soon(lambda: recorder.writer.written >= 1)
    with Store(url, reading=True).connect() as connection:
        (job,) = latest(connection, Filter(), 1)
    assert job.state == "open"
    assert job.arrived_at == pytest.approx(time.time() - 5, abs=2)
    recorder.seen(ev.JobClosed(time.monotonic(), "j"), [])
    soon(lambda: states(url) == ["closed"])
    recorder.stop()


def test_overload_costs_rows_which_are_counted_and_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = str(tmp_path / "history.db")
    recorder = HistoryRecorder(Store(url), HistorySettings(queue_rows=100))
    monkeypatch.setattr(writer_module, "CROWDED", 500)
    assert posts(recorder, 0, 1000), "and nobody writes yet"
    assert 0 < recorder.writer.lost <= 2000 - 100
    recorder.start()
    recorder.stop()
    assert len(states(url)) == 50
    assert metrics(recorder)["hocket_history_rows_total-lost"] == 1900


def test_a_locked_database_is_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    url = str(tmp_path / "history.db")
    recorder = HistoryRecorder(Store(url), HistorySettings(queue_rows=500))
    recorder.start()
    posts(recorder, 0, 10)
    soon(lambda: recorder.writer.written >= 20)
    other = sqlite3.connect(url, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    unhindered = posts(recorder, 10, 200)
    soon(lambda: recorder.writer.trouble is not None)
    assert unhindered, "the lock held up the loop"
    assert metrics(recorder)["hocket_history_up"] == 0
    posts(recorder, 210, 200)
    other.execute("ROLLBACK")
    other.close()
    soon(lambda: recorder.writer.trouble is None and not recorder.writer.waiting)
    recorder.stop()
    lost = recorder.writer.lost
    assert 0 < lost <= 820 - 500
    with sqlite3.connect(url) as found:
        rows = sum(found.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("jobs", "calls"))
    found.close()
    assert rows == 820 - lost, "what is not there was counted"
    told = [record.getMessage() for record in caplog.records if record.name == "hocket.history"]
    assert sum("cannot be written" in line and "locked" in line for line in told) == 1, "said once, not each time"
    assert sum(f"written again; {lost} records are lost" in line for line in told) == 1


def test_a_file_that_is_deleted_under_a_gateway_is_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "history.db"
    recorder = HistoryRecorder(Store(str(path)))
    recorder.start()
    posts(recorder, 0, 10)
    soon(lambda: recorder.writer.written >= 20)
    for file in tmp_path.glob("history.db*"):
        file.unlink()
    posts(recorder, 10, 5)
    soon(lambda: path.exists() and not recorder.writer.waiting)
    path.rename(tmp_path / "elsewhere.db")
    posts(recorder, 15, 5)
    soon(lambda: path.exists() and recorder.writer.written >= 40 and not recorder.writer.waiting)
    recorder.stop()
    assert [len(states(str(name))) for name in (tmp_path / "elsewhere.db", path)] == [5, 5]
    told = [record.getMessage() for record in caplog.records if "was deleted or replaced" in record.getMessage()]
    assert len(told) == 2 and recorder.writer.lost == 0


FULL = """
    import resource, sys, time
    from tests.history.test_writer import posts, soon
    from hocket.history import writer
    from hocket.history.recorder import HistoryRecorder
    from hocket.history.store import Store
    import signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    writer.FIRST_PAUSE_S, writer.LONGEST_PAUSE_S = 0.05, 0.1
    recorder = HistoryRecorder(Store(sys.argv[1]))
    recorder.start()
    posts(recorder, 0, 50)
    soon(lambda: recorder.writer.written >= 100)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    assert posts(recorder, 50, 4000)
    soon(lambda: recorder.writer.trouble is not None)
    print(recorder.writer.trouble)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    soon(lambda: recorder.writer.trouble is None and not recorder.writer.waiting)
    recorder.stop()
    print(recorder.writer.written, recorder.writer.lost)
"""


def test_a_full_disk_is_waited_for_as_well(tmp_path: Path) -> None:
    url = str(tmp_path / "history.db")
    command = [sys.executable, "-c", textwrap.dedent(FULL), url]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    trouble, figures = result.stdout.splitlines()
    assert "full" in trouble or "disk I/O error" in trouble
    assert figures == "8100 0", "nothing was lost: all of it fitted into the queue"
    assert len(states(url)) == 4050
    assert "Traceback" not in result.stderr


def test_a_postgresql_that_goes_and_comes_back(postgres: Postgres, caplog: pytest.LogCaptureFixture) -> None:
    url = postgres.new_database("lost")
    recorder = HistoryRecorder(Store(url), HistorySettings(queue_rows=1000))
    recorder.start()
    posts(recorder, 0, 100)
    soon(lambda: recorder.writer.written >= 200)
    postgres.stop()
    try:
        assert posts(recorder, 100, 1000)
        soon(lambda: recorder.writer.trouble is not None)
        assert posts(recorder, 1100, 10)
    finally:
        postgres.start()
    soon(lambda: recorder.writer.trouble is None and not recorder.writer.waiting, 30)
    posts(recorder, 2000, 100)
    recorder.stop()
    with Store(url).connect() as connection:
        rows = sum(connection.execute(text(f"SELECT count(*) FROM {t}")).scalar_one() for t in ("jobs", "calls"))
    assert recorder.writer.lost > 0
    assert rows + recorder.writer.lost == 2 * (100 + 1000 + 10 + 100)
    assert "written again" in caplog.text


def test_a_gateway_may_start_before_its_postgresql(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    url = postgres.new_database("late")
    monkeypatch.setenv("HISTORY_URL", url)
    postgres.stop()
    try:
        recorder = recorder_of(Settings(history=HistorySettings(url_env="HISTORY_URL")))
        assert recorder is not None
        recorder.start()
        posts(recorder, 0, 5)
        soon(lambda: recorder.writer.trouble is not None)
    finally:
        postgres.start()
    soon(lambda: recorder.writer.written >= 10, 30)
    recorder.stop()
    assert states(url) == ["closed"] * 5


def test_a_row_that_no_database_takes_is_lost_alone(url: str, caplog: pytest.LogCaptureFixture) -> None:
    recorder = HistoryRecorder(Store(url))
    posts(recorder, 0, 5)
    at = time.monotonic()
    recorder.seen(ev.JobOpened(at, "huge", "app"), [])
    recorder.seen(ev.CallArrived(at, "c", "huge", "call", "small", 10), [Dispatch("c", "small", "small/0")])
    recorder.seen(ev.CallFinished(at, "c", 2**100, 5), [])
    posts(recorder, 5, 5)
    recorder.start()
    recorder.stop()
    assert states(url).count("closed") == 10
    assert recorder.writer.lost == 2, "the call, and the job whose sum it is in"
    assert "database refuses" in caplog.text


def test_a_history_that_a_newer_hocket_took_over_ends_the_recording_and_nothing_else(tmp_path: Path) -> None:
    url = str(tmp_path / "history.db")
    recorder = HistoryRecorder(Store(url))
    with Store(url).connect() as connection, connection.begin():
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    posts(recorder, 0, 5)
    recorder.start()
    soon(lambda: recorder.writer.trouble is not None)
    posts(recorder, 5, 5)
    recorder.stop()
    assert recorder.writer.lost == 20


def test_a_bug_in_the_ledger_costs_no_call(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    recorder = HistoryRecorder(Store(str(tmp_path / "history.db")))
    broken = ev.JobOpened(0.0, None, "app")  # type: ignore[arg-type]
    recorder.writer._ledger.prefixed = True
    recorder.start()
    for _ in range(3):
        recorder.seen(broken, [])
    posts(recorder, 0, 1)
    recorder.stop()
    assert recorder.writer.written == 2, "the rest is recorded: a job and its call"
    assert caplog.text.count("cannot record JobOpened") == 1


# -------------------------------------------------------------------- what is set


def test_by_default_the_history_is_in_the_users_state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    recorder = recorder_of(Settings())
    assert recorder is not None and (tmp_path / "hocket" / "history.db").exists()
    assert recorder_of(Settings(history=False)) is None


def test_a_default_that_cannot_be_written_is_told_a_named_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        assert recorder_of(Settings()) is None
    assert "there is no history" in caplog.text and "history: off" in caplog.text
    with pytest.raises(InputError, match="cannot be written"):
        recorder_of(Settings(history=HistorySettings(url=str(tmp_path / "file" / "history.db"))))
    with pytest.raises(InputError, match="HISTORY_URL is not set"):
        recorder_of(Settings(history=HistorySettings(url_env="HISTORY_URL")))
    monkeypatch.setenv("HISTORY_URL", "postgresql://nobody@127.0.0.1:1/x")
    with pytest.raises(InputError, match="bounded by keep_days"):
        recorder_of(Settings(history=HistorySettings(url_env="HISTORY_URL", max_mib=5)))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("history: off", False),
        ("history: true", True),
        ("history: {url: /data/h.db, keep_days: 2}", HistorySettings(url="/data/h.db", keep_days=2)),
    ],
)
def test_the_settings_file_turns_it_off_on_or_elsewhere(text: str, said: object) -> None:
    assert parse_yaml(text, Settings, "hocket.yaml").history == said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("history: {url: a.db, url_env: X}", "hocket.yaml:1: history: `url` and url_env are both set"),
        ("history: {keep_days: 0}", "keep_days"),
        ("history: {url: mysql://x}", "'mysql' is not supported"),
        ("history: nowhere", "history"),
    ],
)
def test_a_bad_setting_is_told_with_its_place(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_yaml(text, Settings, "hocket.yaml")
    assert message in str(caught.value)


def test_old_jobs_go_while_a_gateway_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "BEAT_S", 0.05)
    url = str(tmp_path / "history.db")
    first = HistoryRecorder(Store(url), offset=time.time() - time.monotonic() - 40 * 86_400)
    first.start()
    posts(first, 0, 20)
    first.stop()
    shutil.copy(url, tmp_path / "copy.db")
    assert len(states(str(tmp_path / "copy.db"))) == 20
    second = HistoryRecorder(Store(url), HistorySettings(keep_days=30))
    second.start()
    posts(second, 20, 1)
    soon(lambda: len(states(url)) == 1)
    second.stop()
