"""The journal: what is written replays; what was damaged, changed or cut off is told by its line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hocket.assembly import build, replay_journal
from hocket.core import events as ev
from hocket.core.commands import Dispatch, WakeAt
from hocket.core.spec import EngineSpec, Route, SchedulerSpec, TenantSpec
from hocket.errors import InputError
from hocket.journal import JournalWriter, read_journal

SPEC = SchedulerSpec(
    [EngineSpec("e", ["m"]), EngineSpec("f", ["n"])],
    policy=("urgency", "fair", "las"),
    routes=[Route("f", stage="long")],
    tenants=[TenantSpec("x", 2.5)],
    job_idle_s=60.0,
)
EVENTS = [
    ev.ReplicaAdded(0.1, "e", "r", 1),
    ev.JobOpened(0.2, "j", "app", "x", 1, 30.0, {"length": 0.1}),
    ev.CallArrived(0.3, "c1", "j", "s", "m", 10, 64, 3, "s0", 12),
    ev.CallArrived(0.4, "c2", "j", "größe \u2028", "m", prefix="p1", retry=1),
    ev.CallArrived(0.5, "c3", "j", "s", "nobody's"),
    ev.CallStarted(0.6, "c1"),
    ev.CallStreamed(0.7, "c1", 1),
    ev.ToolStarted(0.7, "j", "t", "search", "s"),
    ev.CallFailed(0.8, "c1", "status", 429, retry_after_s=1.1),
    ev.CallRevised(0.9, "c2", 0, {"shouts": 1.0}),
    ev.Tick(1.9000000000000001),
    ev.CallPreempted(2.0, "c2", 7),
    ev.CallFinished(2.1, "c2", 10, 20),
    ev.ToolFinished(2.2, "j", "t"),
    ev.ReplicaObserved(2.3, "e", "r", True, 1, 0, 0.5),
    ev.ReplicaRemoved(2.3, "e", "r", True),
    ev.CallCancelled(2.4, "c1"),
    ev.JobClosed(2.5, "j", True, "aborted"),
    ev.ProfileReplaced(2.5, "app", '{"v":1,"app":"app","jobs":0,"records":[]}'),
    ev.SettingsChanged(2.6, SchedulerSpec([EngineSpec("e", ["m"])], policy=("fcfs",), queue_timeout_s=9.0)),
]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Path]:
    """A journal in which every kind of event occurs."""
    path, scheduler = tmp_path / "journal.jsonl", build(SPEC)
    writer = JournalWriter(path, SPEC)
    for event in EVENTS:
        writer.write(event, scheduler.handle(event))
    writer.close()
    return path


def edited(path: Path, line: int, old: str, new: str) -> None:
    lines = path.read_bytes().split(b"\n")  # a name may hold what str.splitlines takes for the end of a line
    assert old.encode() in lines[line - 1]
    lines[line - 1] = lines[line - 1].replace(old.encode(), new.encode())
    path.write_bytes(b"\n".join(lines))


def test_what_is_written_is_read_again(journal: Path) -> None:
    header, records = read_journal(journal)
    numbers, found = zip(*records, strict=True)
    assert header.spec == SPEC
    assert numbers == tuple(range(2, 2 + len(EVENTS)))
    assert [record.event for record in found] == EVENTS
    assert found[1].commands == [WakeAt(60.2)]
    assert found[2].commands == [Dispatch("c1", "e", "r")]


def test_every_kind_of_event_is_in_this_test() -> None:
    assert {type(event) for event in EVENTS} == set(ev.AnyEvent.__args__)


def test_a_journal_replays(journal: Path) -> None:
    assert replay_journal(journal) is None


def test_a_replay_that_differs_names_the_first_line_that_does(journal: Path) -> None:
    edited(journal, 4, '"replica":"r"', '"replica":"q"')
    edited(journal, 8, "[]", '[{"command":"WakeAt","at":1.0}]')
    difference = replay_journal(journal)
    assert difference is not None and difference.line == 4
    assert "line 4: after CallArrived(at=0.3" in str(difference)
    assert '"replica":"q"' in difference.recorded and '"replica":"r"' in difference.replayed


def test_a_last_line_that_was_being_written_is_left_out(journal: Path) -> None:
    """The gateway was killed."""
    for cut in (1, 7, 30):
        journal.write_bytes(journal.read_bytes()[:-cut])
        assert replay_journal(journal) is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('{"event"', '{"event'),
        ("CallStarted", "CallBegun"),
        ('"at":0.6', '"at":"noon"'),
        ('"at":0.6,', ""),
        ('"commands"', '"orders"'),
    ],
)
def test_a_damaged_line_is_told_by_its_number(journal: Path, old: str, new: str) -> None:
    edited(journal, 7, old, new)
    with pytest.raises(InputError, match=r"journal\.jsonl:7: not a record \(.+\); the file was changed or damaged"):
        replay_journal(journal)


def test_bytes_that_are_no_text_are_told_as_well(journal: Path) -> None:
    journal.write_bytes(journal.read_bytes().replace(b"CallStarted", b"Call\xff\xfe"))
    with pytest.raises(InputError, match=r"journal\.jsonl:7: not a record"):
        replay_journal(journal)
    journal.write_bytes(b"\xff" + journal.read_bytes())
    with pytest.raises(InputError, match=r"journal\.jsonl:1: not a journal"):
        replay_journal(journal)


def test_a_line_that_is_nested_too_deeply_is_told_as_well(journal: Path) -> None:
    deep = '{"event":{"type":"Tick","at":0,"x":' + "[" * 100_000 + "]" * 100_000 + '},"commands":[]}\n'
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join([*lines[:3], deep, *lines[3:]]))
    with pytest.raises(InputError, match=r"journal\.jsonl:4: not a record"):
        replay_journal(journal)
    journal.write_text(f'{{"x":{"[" * 100_000}')
    with pytest.raises(InputError, match=r"journal\.jsonl:1: not a journal"):
        replay_journal(journal)


def test_a_line_that_is_missing_is_told_where_it_shows(journal: Path) -> None:
    """Somebody has cut the file with an editor: the event of a job whose opening is gone."""
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:2] + lines[3:]))
    with pytest.raises(InputError, match=r"journal\.jsonl:3: cannot follow the lines before it \(.*'j' is not open"):
        replay_journal(journal)


@pytest.mark.parametrize(
    "head", ["", "\n", "hello\n", "{}\n", '{"v":1,"job":"j17"}\n', '{"journal":1,"hocket":"0.1.0"']
)
def test_what_is_no_journal_is_refused(tmp_path: Path, head: str) -> None:
    path = tmp_path / "jobs.jsonl"
    path.write_text(head)
    with pytest.raises(InputError, match=r"jobs\.jsonl:1: not a journal of hocket"):
        read_journal(path)


def test_a_journal_of_another_version_is_refused(journal: Path) -> None:
    edited(journal, 1, '"journal":3', '"journal":2')
    with pytest.raises(InputError, match=r":1: a journal of version 2; this hocket reads version 3"):
        read_journal(journal)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_journal(tmp_path / "none")
    with pytest.raises(InputError, match="cannot be read"):
        read_journal(tmp_path)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        JournalWriter(tmp_path / "no" / "folder" / "j", SPEC)


def test_a_restart_keeps_the_journal_of_the_incident(tmp_path: Path) -> None:
    """The gateway crashed and its supervisor started it again, five times."""
    path = tmp_path / "j"
    for n in range(6):
        writer = JournalWriter(path, SPEC, keep=3)
        writer.write(ev.Tick(float(n)), [])
        writer.close()
    kept = {file.name: next(iter(read_journal(file)[1]))[1].event.at for file in tmp_path.iterdir()}
    assert kept == {"j": 5.0, "j.1": 4.0, "j.2": 3.0, "j.3": 2.0}
