"""Whatever comes in a request, reading it gives a class or a reason; and it moves a call only so far."""

from __future__ import annotations

import json
import os
import time

import pytest

from hocket.errors import InputError
from hocket.semantics.encoder import encoder
from hocket.semantics.head import Trained
from hocket.semantics.reader import Reader, Reading
from hocket.semantics.shouting import calm
from hocket.semantics.text import MOST_CHARACTERS, MOST_ITEMS, REASONS, of_text, words_of
from hocket.semantics.train import train
from tests.semantics.desk import tickets


@pytest.fixture(scope="module")
def reader() -> Reader:
    vectors = encoder("static")
    return Reader(Trained(train(tickets(), vectors, ["users"]), vectors))


def messages(*items: object) -> bytes:
    return json.dumps(items).encode()


def user(content: object) -> dict[str, object]:
    return {"role": "user", "content": content}


SYSTEM = {"role": "system", "content": "You are a clerk. Emergency!"}
ANSWER = {"role": "assistant", "content": "Of course."}
TOOL = {"role": "tool", "tool_call_id": "t", "content": "the database is lost"}


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        (messages(SYSTEM, user("first"), ANSWER, user("second one"), user("third")), "second one\nthird"),
        (messages(user("the request"), {**ANSWER, "tool_calls": []}, TOOL), "the request"),
        (messages(user([{"type": "text", "text": "look here"}, {"type": "image_url", "image_url": {}}])), "look here"),
        (
            messages({"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello there"}]}),
            "hello there",
        ),
        (b'"a plain prompt"', "a plain prompt"),
        (b'["one prompt", "another"]', "one prompt\nanother"),
    ],
)
def test_the_users_last_turn_is_read(prompt: bytes, text: str) -> None:
    assert words_of(prompt).text == text


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        (b"", "no_text"),
        (b"null", "no_text"),
        (b"[]", "no_text"),
        (messages(user("")), "no_text"),
        (messages(user(" \n\t ")), "no_text"),
        (messages(user(None)), "no_text"),
        (messages(user([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}])), "no_text"),
        (messages(SYSTEM), "no_user_message"),
        (messages(SYSTEM, TOOL), "tool_results"),
        (messages(user([{"type": "tool_result", "content": "the database is lost"}])), "tool_results"),
        (b"[1, 2, 3]", "token_ids"),
        (b"[[1, 2], [3]]", "token_ids"),
        (messages(user('{"a": 1, "b": [2, 3]}')), "json_only"),
        (messages(user("\x00\x01\x02\x7f" * 50)), "not_words"),
        (messages(user("9234 8234 12.5 %% ## 77")), "not_words"),
        (b'[{"role": "user", "content": "cut', "unreadable"),
        (b'[{"role": 7}]', "unreadable"),
        (b"{}", "unreadable"),
        (b"[" * 100_000, "unreadable"),
        (b'["\xff\xfe"]', "unreadable"),
    ],
)
def test_what_holds_no_words_gives_a_reason(prompt: bytes, reason: str, reader: Reader) -> None:
    assert words_of(prompt).reason == reason
    reading = reader.read_prompt(prompt)
    assert reading.urgency is None
    assert reading.reason == reason in REASONS
    assert reader.move(3, reading) == 3


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x" * 1_000_000,
        "the whole site is down " * 50_000,
        os.urandom(3000).decode("latin-1"),
        os.urandom(3000).decode("utf-8", "replace"),
        "the site ist kaputt, все сломалось, 全部坏了, por favor",
        '{"complaint": "the whole site is down", "users": 1000}',
        '{"a":' * 5000,
        '{"complaint": "the whole site is down", "users": 1%s}' % ("0" * 400),
        '{"complaint": "the whole site is down", "users": 1e999}',
        "\ud800 broken surrogate",
        "🚨" * 500,
        "a",
    ],
)
def test_no_text_is_an_error(text: str, reader: Reader) -> None:
    reading = reader.read(text)
    assert reading.reason in REASONS
    assert (reading.urgency is None) == (reading.reason != "read")
    assert 0 <= reader.move(2, reading) <= 4


def test_a_megabyte_costs_what_a_page_costs(reader: Reader) -> None:
    page = "the whole site is down for everyone. " * (MOST_CHARACTERS // 37 + 1)
    times = {}
    for text in (page, page * 400):
        took = []
        for _ in range(5):
            began = time.perf_counter()
            reader.read(text)
            took.append(time.perf_counter() - began)
        times[len(text)] = min(took)
    assert max(times.values()) < 10 * min(times.values())


def test_many_short_clauses_cost_what_their_length_costs() -> None:
    times = []
    for text in ("help," * 2_000, "help," * 16_000):
        took = []
        for _ in range(3):
            began = time.perf_counter()
            calm(text)
            took.append(time.perf_counter() - began)
        times.append(min(took))
    assert times[1] < 24 * times[0], "eight times the text; its square would be 64 times the work"


def test_of_very_many_messages_the_last_are_looked_at() -> None:
    user, system = '{"role": "user", "content": "the site is down"}', '{"role": "system", "content": ""}'
    for count, reason in ((MOST_ITEMS - 1, "read"), (MOST_ITEMS, "no_user_message")):
        assert words_of(f"[{user}{(', ' + system) * count}]".encode()).reason == reason


def test_fields_are_found_in_a_json_message() -> None:
    text = '{"note": "chest pain since noon", "vitals": {"hr": 120, "on": [1, {"x": true}]}, "sex": "F"}'
    found = of_text(text, ["vitals.hr", "vitals.on.1.x", "sex", "vitals.none", "note.deeper"])
    assert found.fields == {"vitals.hr": 120.0, "vitals.on.1.x": 1.0, "sex": "F"}
    assert found.text == "chest pain since noon"
    between = of_text('Patient: {"vitals": {"hr": 90}} feels dizzy', ["vitals.hr"])
    assert between.fields == {"vitals.hr": 90.0}
    assert between.text.startswith("Patient")


def test_fields_move_a_reading(reader: Reader) -> None:
    text = "something is wrong with the page"
    many, few = (reader.read(text, {"users": count}).probabilities for count in (1000.0, 1.0))
    assert sum(many[:2]) > sum(few[:2])


def test_a_reading_of_the_domain_has_a_class(reader: Reader) -> None:
    reading = reader.read("All payments fail for everyone today.", {"users": 1000.0})
    assert reading.urgency == 0
    assert reading.reason == "read"
    assert sum(reading.probabilities) == pytest.approx(1)
    assert len(reading.probabilities) == 5


def test_words_of_another_domain_move_nothing(reader: Reader) -> None:
    reading = reader.read("Marinate the lamb overnight in rosemary and garlic.")
    assert (reading.urgency, reading.reason) == (None, "out_of_domain")
    assert reader.move(1, reading) == 1


@pytest.mark.parametrize(
    ("prior", "urgency", "bound", "moved"), [(2, 0, 1, 1), (2, 0, 4, 0), (2, 4, 1, 3), (2, 2, 1, 2), (0, None, 2, 0)]
)
def test_a_call_moves_by_a_bounded_number_of_classes(prior: int, urgency: int | None, bound: int, moved: int) -> None:
    class Nothing:
        encoder, classes, declared = None, [0, 1], []

    reader = Reader(Nothing(), bound=bound)
    assert reader.move(prior, Reading(urgency, (), 1.0, "read")) == moved


# ---------------------------------------------------------------- described classes

DESK = {
    0: ["The whole service is down for everyone. Data is being lost."],
    2: ["A part is broken for one customer, a wrong number, an error on a page."],
    4: ["A question about how to do something, a wish, a thank you."],
}


def test_classes_in_plain_words_can_be_read() -> None:
    reader = Reader.described(DESK)
    assert reader.read("our database is lost and everything is down").urgency == 0
    assert reader.read("I have a question: how can I change my password?").urgency == 4


def test_examples_make_it_better() -> None:
    given = {
        k: [*DESK[k], *[t for t, u in zip(tickets().texts, tickets().urgency, strict=True) if 2 * min(u, 2) == k]]
        for k in DESK
    }
    other = tickets(1)
    right = []
    for classes in (DESK, given):
        reader = Reader.described(classes)
        right.append(
            sum(reader.read(t).urgency == 2 * min(u, 2) for t, u in zip(other.texts, other.urgency, strict=True))
        )
    assert right[1] > right[0]


@pytest.mark.parametrize(
    ("classes", "says"),
    [
        ({0: ["a fire"]}, "fewer than two"),
        ({0: ["a fire"], 1: []}, "class 1"),
        ({0: ["a fire"], 3: ["", "!!"]}, "class 3"),
    ],
)
def test_what_describes_nothing_is_refused(classes: dict[int, list[str]], says: str) -> None:
    with pytest.raises(InputError, match=says):
        Reader.described(classes)
