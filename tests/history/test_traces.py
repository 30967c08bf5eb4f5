"""Records to a trace and back: what a stage needs, where the gaps are, and files that go in and come out."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hocket.cli import main
from hocket.history.imports import import_trace
from hocket.history.read import Filter, latest, recorded
from hocket.history.records import CallRecord, JobRecord, ToolRecord
from hocket.history.store import Store
from hocket.history.traces import GAP_S, Recorded, from_job, to_jobs
from hocket.trace import Job, Stage, decode_job, encode_job, graph_of

TRACE = [
    (
        b'{"v":1,"job":"a","app":"chat","tenant":"t","arrival_s":12.4,"urgency":1,"deadline_s":60.0,"features":{"n":1.5},'
        b'"mine":{"x":[1]},"stages":[{"id":"p","name":"plan","kind":"llm","needs":[],"model":"small","prompt_tokens":180,'
        b'"output_tokens":96,"max_tokens":100,"hint_output_tokens":90},{"id":"f","name":"fetch","kind":"tool","needs":["p"],'
        b'"revealed_by":"p","duration_s":1.8},{"id":"q","name":"ask","kind":"llm","needs":["p","f"],"model":"small",'
        b'"prompt_tokens":420,"output_tokens":210,"shares_prefix":{"stage":"p","tokens":150},"outcome":{"ok":true}}]}'
    ),
    (
        b'{"v":1,"job":"b","app":"chat","tenant":"t","arrival_s":0.1,"urgency":2,"stages":[{"id":"s","name":"one","kind":"llm",'
        b'"needs":[],"model":"small","prompt_tokens":1,"output_tokens":0}]}'
    ),
]


def call(n: int, arrived: float, ended: float, **more: object) -> CallRecord:
    of = CallRecord(1, n, f"c{n}", f"stage{n}", "small", 2, "", 0, 0, 10, arrived, ended_s=ended)
    fields = {"outcome": "finished", "dispatched_s": arrived, "engine": "e", "replica": "r", "attempts": 1, **more}
    return msgspec.structs.replace(of, **fields)


def job(*parts: CallRecord | ToolRecord, **more: object) -> Recorded:
    of = msgspec.structs.replace(JobRecord(1, 1, "j", "t", "app", 2, 100.0, state="closed"), **more)
    calls = [part for part in parts if isinstance(part, CallRecord)]
    return Recorded(of, calls, [part for part in parts if isinstance(part, ToolRecord)])


def only(*recorded: Recorded) -> Job:
    (found,) = to_jobs(recorded)
    return found


def needs(found: Job) -> dict[str, list[str]]:
    return {stage.id: stage.needs for stage in found.stages}


def test_a_stage_needs_what_had_ended_less_what_that_needs_itself() -> None:
    tool = ToolRecord(1, 2, "r", "search", "", 1.0, 4.0, "finished")
    found = only(job(call(0, 0.0, 1.0), call(1, 1.0, 2.0), tool, call(3, 2.0, 3.0), call(4, 4.0, 5.0), ended_s=5.0))
    assert needs(found) == {"s0": [], "s1": ["s0"], "s2": ["s0"], "s3": ["s1"], "s4": ["s2", "s3"]}
    assert [stage.kind for stage in found.stages] == ["llm", "llm", "tool", "llm", "llm"]
    assert found.stages[2].duration_s == 3.0


def test_time_that_nobody_reported_is_a_gap() -> None:
    found = only(job(call(0, 0.5, 1.0), call(1, 1.25, 2.0), call(2, 2.0 + GAP_S / 2, 3.0)))
    assert needs(found) == {"gap-s0": [], "s0": ["gap-s0"], "gap-s1": ["s0"], "s1": ["gap-s1"], "s2": ["s1"]}
    gaps = [(stage.name, stage.kind, stage.duration_s) for stage in found.stages if stage.id.startswith("gap")]
    assert gaps == [("gap", "tool", 0.5), ("gap", "tool", 0.25)]


def test_what_ended_otherwise_says_so_and_what_never_ran_is_not_there() -> None:
    found = only(
        job(
            call(0, 0.0, 1.0, outcome="cancelled", output_tokens=3),
            call(1, 0.0, 1.0, outcome="rejected", dispatched_s=None, attempts=0),
            call(2, 1.0, 2.0, attempts=2, urgency=0, parent="stage0", retry=1, started_s=1.5, first_token_s=1.75),
            features='{"x":2.0}', deadline_s=9.0, urgency=1,
        )
    )  # fmt: skip
    assert [(stage.id, stage.outcome) for stage in found.stages] == [("s0", "cancelled"), ("s2", None)]
    assert found.stages[1].extra["ran"] == {
        "arrived_s": 1.0, "dispatched_s": 1.0, "started_s": 1.5, "first_token_s": 1.75, "ended_s": 2.0, "engine": "e",
        "replica": "r", "attempts": 2, "urgency": 0, "parent": "stage0", "retry": 1,
    }  # fmt: skip
    assert (found.features, found.deadline_s, found.urgency) == ({"x": 2.0}, 9.0, 1)


def test_jobs_without_an_end_or_without_a_stage_are_left_out_and_ids_are_made_unique() -> None:
    whole = job(call(0, 0.0, 1.0))
    cut = job(call(0, 0.0, 1.0), call(1, 1.0, 2.0, outcome="interrupted"), state="interrupted")
    late = job(call(0, 0.0, 1.0), arrived_at=103.5, state="interrupted")
    found = list(to_jobs([whole, job(), cut, job(call(0, 0.0, 1.0), state="open"), late]))
    assert [(one.job, one.arrival_s) for one in found] == [("j", 0.0), ("j#2", 3.5)]


spans = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 10)), min_size=1, max_size=14)


@given(spans)
def test_the_needs_are_the_transitive_reduction(found: list[tuple[int, int]]) -> None:
    """Against the definition: reachable = ended before it arrived, and no need is implied by the others."""
    order = sorted(found)
    calls = [call(n, float(begin), float(begin + length)) for n, (begin, length) in enumerate(order)]
    told = only(job(*calls))
    direct = {stage.id: stage.needs for stage in told.stages}

    def above(name: str) -> set[str]:
        return {other for need in direct[name] for other in (need, *above(need))}

    for n, (begin, _) in enumerate(order):
        before = {f"s{m}" for m in range(n) if order[m][0] + order[m][1] <= begin}
        assert {name for name in above(f"s{n}") if not name.startswith("gap")} == before
        mine = direct[f"s{n}"] if not direct[f"s{n}"] or direct[f"s{n}"][0] != f"gap-s{n}" else direct[f"gap-s{n}"]
        assert not any(one in above(other) for one in mine for other in mine), "a need that another one implies"
    graph_of(told)
    assert decode_job(encode_job(told)) == told


# -------------------------------------------------------------------- files


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "jobs.jsonl"
    path.write_bytes(b"\n".join(sorted(TRACE, key=lambda line: b'"arrival_s":12' in line)) + b"\n")
    return path


def export(url: str, path: Path, *words: str) -> bytes:
    assert main(["jobs", "export", "--history", url, "-o", str(path), *words]) == 0
    return path.read_bytes()


def test_what_goes_in_comes_out_the_same(url: str, trace: Path, tmp_path: Path) -> None:
    assert import_trace(Store(url), trace) == (2, 0)
    lines = export(url, tmp_path / "out.jsonl").splitlines()
    assert [decode_job(line) for line in lines] == [decode_job(line) for line in trace.read_bytes().splitlines()]
    assert b'"mine":{"x":[1]}' in lines[1] and b'"shares_prefix"' in lines[1], "unknown fields are kept, too"
    again = tmp_path / "again.jsonl"
    second = str(tmp_path / "second.db")
    import_trace(Store(second), tmp_path / "out.jsonl")
    assert export(second, again) == (tmp_path / "out.jsonl").read_bytes()


def test_imported_jobs_are_listed_with_their_sizes(url: str, trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", str(trace), "--history", url]) == 0
    assert "2 jobs" in capsys.readouterr().out
    with Store(url).connect() as connection:
        found = {one.job: one for one in latest(connection, Filter(app="chat"), 10)}
        parts = {one.job.job: one for one in recorded(connection, Filter())}
    assert (found["a"].calls, found["a"].tool_runs, found["a"].prompt_tokens, found["a"].output_tokens) == (
        2,
        1,
        600,
        306,
    )
    assert found["a"].arrived_at - found["b"].arrived_at == pytest.approx(12.3)
    assert [part.stage for part in parts["a"].calls] == ["plan", "ask"]
    assert main(["jobs", "show", "a", "--history", url]) == 0, "without times, there is no chart"


def test_text_is_left_out(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "jobs.jsonl"
    path.write_bytes(TRACE[1].replace(b'"urgency":2', b'"urgency":2,"text":"my secret"') + b"\n")
    assert main(["import", str(path), "--history", url]) == 0
    assert "the text of 1 of them was left out" in capsys.readouterr().out
    assert b"secret" not in export(url, tmp_path / "out.jsonl")


@pytest.mark.parametrize(
    ("bad", "message"),
    [(b'{"v":1', "jobs.jsonl:3: not valid JSON"), (TRACE[0].replace(b'"kind":"tool"', b'"kind":"x"'), "jobs.jsonl:3")],
)
def test_a_bad_line_is_named_and_nothing_is_half_done(
    url: str, trace: Path, bad: bytes, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    trace.write_bytes(trace.read_bytes() + bad + b"\n")
    assert main(["import", str(trace), "--history", url]) == 2
    assert message in capsys.readouterr().err
    with Store(url).connect() as connection:
        assert latest(connection, Filter(), 10) == []


def test_recorded_jobs_and_imported_ones_make_one_trace(url: str, trace: Path, tmp_path: Path) -> None:
    store = Store(url)
    import_trace(store, trace)
    with store.connect() as connection:
        (newest,) = latest(connection, Filter(), 1)
        own = job(call(0, 0.0, 1.0), arrived_at=newest.arrived_at + 5)
        store.write(connection, [own.job, *own.calls])
    lines = [decode_job(line) for line in export(url, tmp_path / "out.jsonl").splitlines()]
    assert [(one.job, round(one.arrival_s, 3)) for one in lines] == [("b", 0.0), ("a", 12.3), ("j", 17.3)]
    only_own = export(url, tmp_path / "own.jsonl", "--app", "app").splitlines()
    assert [decode_job(line).arrival_s for line in only_own] == [0.0]


def test_times_that_a_trace_tells_are_kept() -> None:
    stage = Stage(
        id="s0",
        name="ask",
        kind="llm",
        model="m",
        extra={"ran": {"arrived_s": 0.5, "ended_s": 2.0, "dispatched_s": 1.0}},
    )
    ids: Iterator[int] = count(5)
    found, had_text = from_job(Job(job="j", app="a", stages=[stage]), ids, 1, 1000.0)
    assert (found.job.id, found.job.ended_s, found.job.wait_s, had_text) == (5, 2.0, 0.5, False)
    assert (found.calls[0].arrived_s, found.calls[0].ended_s) == (0.5, 2.0)
    stage.extra = {"ran": "long ago"}
    found, _ = from_job(Job(job="j", app="a", stages=[stage]), ids, 1, 1000.0)
    assert found.calls[0].ended_s is None
