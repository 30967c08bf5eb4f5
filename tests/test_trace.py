"""The trace format: what is kept, and what is refused with which words."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hocket.errors import InputError
from hocket.trace import decode_job, encode_job, graph_of, read_jobs, write_jobs

DESIGN = """{"v":1,"job":"j17","app":"task-automation","tenant":"team-a","arrival_s":12.4,"urgency":2,"text":"optional",
 "features":{},"deadline_s":60,"stages":[
  {"id":"s0","name":"plan","kind":"llm","model":"small","needs":[],"prompt_tokens":180,"output_tokens":96},
  {"id":"s1","name":"search","kind":"tool","needs":["s0"],"revealed_by":"s0","duration_s":1.8},
  {"id":"s2","name":"answer","kind":"llm","model":"large","needs":["s0","s1"],"prompt_tokens":420,"output_tokens":210,
   "shares_prefix":{"stage":"s0","tokens":150},"max_tokens":256,"hint_output_tokens":200,"outcome":"ok"}]}"""


def llm(id_: str, needs: list[str] | None = None, **more: Any) -> dict[str, Any]:
    sizes = {"prompt_tokens": 10, "output_tokens": 5}
    return {"id": id_, "name": id_, "kind": "llm", "model": "m", "needs": needs or [], **sizes, **more}


def job(*stages: dict[str, Any], **more: Any) -> str:
    return json.dumps({"v": 1, "job": "j", "app": "a", "stages": stages, **more})


def test_reads_the_designs_example_and_writes_it_back() -> None:
    one = decode_job(DESIGN)
    assert (one.job, one.tenant, one.arrival_s, one.deadline_s) == ("j17", "team-a", 12.4, 60)
    assert one.stages[1].duration_s == 1.8
    assert one.stages[2].shares_prefix is not None and one.stages[2].shares_prefix.tokens == 150
    assert decode_job(encode_job(one)) == one


def test_unknown_fields_survive(tmp_path: Path) -> None:
    line = job(llm("s0", colour="red", extra={"deep": [1]}), origin={"run": 7})
    write_jobs(tmp_path / "out.jsonl", [decode_job(line)])
    [back] = read_jobs(tmp_path / "out.jsonl")
    assert back.extra == {"origin": {"run": 7}}
    assert back.stages[0].extra == {"colour": "red", "extra": {"deep": [1]}}


def test_order_and_dependents() -> None:
    one = decode_job(job(llm("c", ["a", "b"]), llm("a"), llm("b", ["a", "a"])))
    graph = graph_of(one)
    assert [stage.id for stage in graph.order] == ["a", "b", "c"]
    assert {id_: [s.id for s in after] for id_, after in graph.dependents.items()} == {
        "c": [],
        "a": ["c", "b"],
        "b": ["c"],
    }
    assert graph.waits_for == {"c": 2, "a": 0, "b": 1}


BAD = {
    "not JSON": ("{", "not valid JSON"),
    "NaN": ('{"arrival_s":NaN}', "not valid JSON"),
    "not an object": ("[1]", "not a JSON object"),
    "too deep": ("[" * 100_000, "not valid JSON"),
    "missing field": ('{"job":"j"}', "missing required field `app`"),
    "wrong type": (job(llm("s0", prompt_tokens="10")), r"stages\[0\].prompt_tokens: Expected `int`, got `str`"),
    "true is no number": (job(llm("s0", prompt_tokens=True)), "Expected `int`, got `bool`"),
    "unknown version": (job(llm("s0"), v=2), "v is 2, this version reads v 1"),
    "empty name": (job(llm("s0"), app=""), "must not be empty"),
    "no stages": (job(), "stages is empty"),
    "infinite arrival": (job(llm("s0"), arrival_s=0).replace('"arrival_s": 0', '"arrival_s": 1e999'), "not valid JSON"),
    "negative arrival": (job(llm("s0"), arrival_s=-1), "arrival_s is -1"),
    "urgency": (job(llm("s0"), urgency=5), r"urgency is 5; use 0 \(emergency\) to 4"),
    "negative size": (job(llm("s0", output_tokens=-1)), "stage 's0': output_tokens is -1"),
    "huge size": (job(llm("s0", prompt_tokens=10**40)), "prompt_tokens"),
    "duplicate stage": (job(llm("s0"), llm("s0")), "stage 's0' is there twice"),
    "unknown need": (job(llm("s0", ["s9"])), "stage 's0' needs 's9'"),
    "cycle": (job(llm("a", ["c"]), llm("b", ["a"]), llm("c", ["b"])), "cycle: a > c > b > a"),
    "needs itself": (job(llm("a", ["a"])), "cycle: a > a"),
    "unknown kind": (job(llm("s0", kind="gpu")), r"stages\[0\].kind: Invalid enum value 'gpu'"),
    "llm without model": (job(llm("s0", model=None)), "an llm stage without model"),
    "llm without size": (
        job({"id": "s", "name": "s", "kind": "llm", "model": "m", "prompt_tokens": 3}),
        "output_tokens",
    ),
    "tool without duration": (job({"id": "s", "name": "s", "kind": "tool"}), "a tool stage without duration_s"),
    "milliseconds": (
        job({"id": "s", "name": "s", "kind": "tool", "duration_s": 2e9}),
        "use seconds, 0 to 1e",
    ),
    "negative duration": (job({"id": "s", "name": "s", "kind": "tool", "duration_s": -1}), "duration_s is -1"),
    "unknown planner": (job(llm("s0", revealed_by="s9")), "revealed_by 's9'"),
    "a common prefix without a name": (
        job(llm("s0", common_prefix={"id": "", "tokens": 1})),
        "common_prefix.id is empty",
    ),
    "a common prefix that is longer than the prompt": (
        job(llm("s0", common_prefix={"id": "a", "tokens": 11})),
        "common_prefix.tokens is 11",
    ),
    "prefix of nothing": (job(llm("s0", shares_prefix={"stage": "s9", "tokens": 1})), "shares_prefix with 's9'"),
    "prefix too long": (
        job(llm("s0"), llm("s1", ["s0"], shares_prefix={"stage": "s0", "tokens": 11})),
        "shares_prefix.tokens is 11",
    ),
}


@pytest.mark.parametrize(("line", "words"), BAD.values(), ids=BAD.keys())
def test_refuses_with_the_line_and_the_reason(line: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "jobs.jsonl"
    path.write_text(f"{DESIGN.replace(chr(10), ' ')}\n\n{line}\n")
    with pytest.raises(InputError, match=words) as caught:
        read_jobs(path)
    assert str(caught.value).startswith(f"{path}:3: ")
    assert "\n" not in str(caught.value)


def test_refuses_the_same_job_twice(tmp_path: Path) -> None:
    path = tmp_path / "jobs.jsonl"
    path.write_text(job(llm("s0")) + "\n" + job(llm("s0")) + "\n")
    with pytest.raises(InputError, match=r"jobs\.jsonl:2: job 'j' was on line 1 already"):
        read_jobs(path)


def test_refuses_what_is_not_a_trace(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "latin").write_bytes(b'{"job":"\xff"}\n')
    for name, words in {
        "empty": "holds no jobs",
        "latin": "latin:1: not valid JSON",
        "absent": "cannot be read",
    }.items():
        with pytest.raises(InputError, match=words):
            read_jobs(tmp_path / name)
    with pytest.raises(InputError, match="cannot be read"):
        read_jobs(tmp_path)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "jobs.jsonl"
    write_jobs(path, [decode_job(job(llm("s0")))])
    before = path.read_bytes()

    def broken() -> Any:
        yield decode_job(job(llm("s0")))
        raise InputError("no more")

    with pytest.raises(InputError):
        write_jobs(path, broken())
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["jobs.jsonl"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=20,
)
field_names = st.sampled_from(["v", "job", "app", "stages", "arrival_s", "urgency", "features", "deadline_s"])


@given(st.dictionaries(field_names, json_values) | json_values)
def test_any_json_is_a_job_or_a_clear_error(value: Any) -> None:
    try:
        one = decode_job(json.dumps(value))
    except InputError:
        return
    assert decode_job(encode_job(one)) == one
