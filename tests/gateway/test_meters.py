"""Meters on any bytes, cut anywhere: what passes is what came, but for what was to be taken out."""

from __future__ import annotations

import gzip
import json
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hocket.gateway import filters
from hocket.gateway.answers import GarbageError, Meter, ResponseMeter, Sizes, StreamMeter, sizes_of
from hocket.gateway.filters import MAX_USAGE_EVENT, Opaque, Unpacked, WithoutUsage, accepts, unpack
from hocket.gateway.openai import Request, edited, with_usage
from tests.scripted_engine import Script, chunks, response_events

USAGE = b'data: {"id":"1","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":8,"total_tokens":15}}\n\n'
DONE = b"data: [DONE]\n\n"

KINDS = [
    b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n',
    b'data: {"choices":[{"index":0,"delta":{"content":"\\"choices\\":[],\\"usage\\":{}"}}]}\n\n',
    b'data: {"choices":[{"index":0,"delta":{"tool_calls":[]}}],"usage":null}\n\n',
    b'data: {"choices":[],"prompt_filter_results":[],"usage":null}\n\n',
    b'data: {"choices":[]}\n\n',
    b'data: {"choices":[{}],"usage":{"prompt_tokens":1}}\r\n\r\n',
    b": ping\n\n",
    b"event: x\r\ndata: 1\r\n\r\n",
    b"data: no JSON [] {\n\n",
    b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}],"x":[]}\n\n' % (b"z" * (MAX_USAGE_EVENT + 99)),
]
EVENTS = st.lists(st.integers(0, len(KINDS) - 1), max_size=6)
CUTS = st.lists(st.integers(1, 400), min_size=1, max_size=30)


def passed(meter: Meter, text: bytes, cuts: list[int]) -> bytes:
    """What a meter lets pass of a text that comes in pieces of these sizes, over and over."""
    out, at, i = [], 0, 0
    big = max(1, len(text) // 2000)
    while at < len(text):
        size = cuts[i % len(cuts)] * big
        out.append(meter.feed(text[at : at + size]))
        at, i = at + size, i + 1
    return b"".join([*out, meter.flush()])


@given(EVENTS, EVENTS, CUTS, st.sampled_from([USAGE, USAGE.replace(b"\n", b"\r\n"), b""]))
def test_the_usage_event_alone_is_taken_out(before: list[int], after: list[int], cuts: list[int], usage: bytes) -> None:
    head, tail = b"".join(KINDS[i] for i in before), b"".join(KINDS[i] for i in after) + DONE
    meter = WithoutUsage(StreamMeter())
    assert passed(meter, head + usage + tail, cuts) == head + tail


@given(EVENTS, CUTS, st.integers(0, 400))
def test_a_stream_that_is_cut_short_passes_as_far_as_it_came(events: list[int], cuts: list[int], missing: int) -> None:
    text = b"".join(KINDS[i] for i in events)
    text = text[: max(len(text) - missing, 0)]
    assert passed(WithoutUsage(StreamMeter()), text, cuts) == text


@given(st.integers(0, 20), CUTS, st.booleans())
def test_sizes_survive_every_cut(tokens: int, cuts: list[int], sifted: bool) -> None:
    text = b"".join(chunks(Script(chunks=tokens, usage=True)))
    meter: Meter = WithoutUsage(StreamMeter()) if sifted else StreamMeter()
    passed(meter, text, [max(cuts)])
    end = meter.end()
    if len(text) // max(cuts) < 3 or max(cuts) > 250:  # the last four pieces hold the last events
        assert (end.prompt_tokens, end.output_tokens, end.done, end.failed) == (7, tokens, True, False)


@given(st.integers(0, 20), st.integers(0, 3000), CUTS)
def test_a_response_is_read_whatever_the_size_of_its_last_event(tokens: int, pad: int, cuts: list[int]) -> None:
    text = b"".join(response_events(Script(chunks=tokens, pad=pad)))
    meter = ResponseMeter()
    assert passed(meter, text, cuts) == text
    end = meter.end()
    assert (end.prompt_tokens, end.output_tokens, end.done, end.failed) == (7, tokens, True, False)
    assert end.id is not None and end.id.startswith("resp_")


def test_a_response_that_failed_or_broke_off() -> None:
    meter = ResponseMeter()
    passed(meter, b"".join(response_events(Script(do="error-event"))), [50])
    assert meter.end().failed
    meter = ResponseMeter()
    passed(meter, b"".join(response_events(Script())[:-1]), [50])
    end = meter.end()
    assert (end.prompt_tokens, end.output_tokens, end.done, end.failed) == (None, 8, False, False)


@given(st.integers(0, 20), CUTS, st.booleans())
def test_gzip_in_pieces_and_members(tokens: int, cuts: list[int], as_it_came: bool) -> None:
    text = b"".join(chunks(Script(chunks=tokens, usage=True)))
    packed = gzip.compress(text[:100]) + gzip.compress(text[100:])
    meter = Unpacked(StreamMeter(), as_it_came)
    assert passed(meter, packed, cuts) == (packed if as_it_came else text)
    assert unpack(packed) == text


def test_gzip_that_is_none_or_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    for body in (b"no gzip at all", gzip.compress(b"a" * 100)[:-9]):
        with pytest.raises(GarbageError):
            unpack(body)
    monkeypatch.setattr(filters, "MAX_UNPACKED", 10_000)
    assert len(unpack(gzip.compress(b"a" * 10_000))) == 10_000
    with pytest.raises(GarbageError, match="more than"):
        unpack(gzip.compress(b"a" * 10_001))


def test_gzip_of_many_empty_members_takes_no_longer_than_other_gzip() -> None:
    """Each member's end used to copy all that followed: minutes for a few MB, and nobody else is served meanwhile."""
    began = time.process_time()
    assert unpack(gzip.compress(b"", 1) * 100_000 + gzip.compress(b"a")) == b"a"
    assert time.process_time() - began < 2.0


def test_the_last_event_of_a_response_is_held_as_far_as_it_can_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hocket.gateway.answers.MAX_LAST_EVENT", 1000)
    meter = ResponseMeter()
    assert passed(meter, b"event: response.completed\ndata: " + b"z" * 10_000, [100]).endswith(b"z")
    assert sum(map(len, meter._last or [])) < 2000
    assert meter.end().done


def test_what_cannot_be_unpacked_passes() -> None:
    meter = Opaque()
    assert passed(meter, b"\x0b\x02\x80abc\x03", [2]) == b"\x0b\x02\x80abc\x03"
    assert meter.end().done and not meter.end().failed


@pytest.mark.parametrize(("header", "taken"), [
    ("gzip", True), ("GZIP ; q=0.1, br", True), ("x-gzip", True), ("deflate, *", True), ("*;q=0, gzip", True),
    ("gzip;q=0.000, *", False), ("br", False), ("*;q=0", False), ("", False), ("gzipped", False),
])  # fmt: skip
def test_accept_encoding(header: str, taken: bool) -> None:
    assert accepts(header, "gzip") is taken


@pytest.mark.parametrize(("options", "asked"), [
    (b"", {"include_usage": True}),
    (b"null", {"include_usage": True}),
    (b"{}", {"include_usage": True}),
    (b'{"include_usage":null,"x": 1.50}', {"include_usage": True, "x": 1.5}),
    (b'{"include_usage": false}', {"include_usage": True}),
    (b'{"include_usage": true}', None),
    (b'{"include_usage": 1}', None),
    (b"[1]", None),
])  # fmt: skip
def test_stream_options(options: bytes, asked: dict[str, Any] | None) -> None:
    merged = with_usage(msgspec.Raw(options))
    assert (merged and json.loads(edited(b"{}", {"o": merged}))["o"]) == asked


def test_usages_of_every_shape() -> None:
    assert sizes_of(b'{"usage":{"prompt_tokens":3,"total_tokens":3}}').prompt_tokens == 3
    assert sizes_of(b'{"usage":{"input_tokens":3,"output_tokens":4},"id":"r"}').id == "r"
    assert sizes_of(b'{"usage":"none"}') == sizes_of(b"{}") == Sizes()
    with pytest.raises(GarbageError):
        sizes_of(b"[]")


def test_the_estimate_of_a_prompt() -> None:
    def estimate(**fields: Any) -> int:
        return msgspec.json.decode(json.dumps({"model": "m", **fields}), type=Request).prompt_tokens

    assert estimate(prompt=[1, 2, 3]) == 3 and estimate(input=[[1, 2], [3]]) == 3
    assert estimate(input="x" * 400, instructions="y" * 400) == 201
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "iVBO+/=" * 9000}}
    assert 1000 < estimate(messages=[{"role": "user", "content": [image]}]) < 1100
