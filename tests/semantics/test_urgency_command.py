"""`hocket urgency`: train, eval and explain, and what they say of bad input."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pytest

from hocket.cli import main
from tests.semantics.desk import tickets

SCALE = "9,7,5,3"


def write(file: Path, turn: int) -> Path:
    data = tickets(turn)
    rows = [
        [t, SCALE.split(",")[u], g.get("users", "")]
        for t, u, g in zip(data.texts, data.urgency, data.given, strict=True)
    ]
    with file.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["body", "severity", "users"], *rows])
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("urgency")
    write(folder / "first.csv", 0)
    write(folder / "later.csv", 1)
    (folder / "later.csv.gz").write_bytes(gzip.compress((folder / "later.csv").read_bytes()))
    assert run("train", folder / "first.csv", *COLUMNS, "--features", "users", "-o", folder / "desk.head") == 0
    return folder


COLUMNS = ("--text", "body", "--label", "severity", "--levels", SCALE)


def run(*words: object) -> int:
    return main(["urgency", *map(str, words)])


def test_eval_prints_the_measures_as_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in ("later.csv", "later.csv.gz"):
        assert (
            run("eval", folder / file, *COLUMNS, "--features", "users", "--head", folder / "desk.head", "--json") == 0
        )
        told = json.loads(capsys.readouterr().out)
        assert {"auroc_at_most", "kappa_quadratic", "ece", "recall_at_precision_0.5", "n"} <= told.keys()
        assert list(told["auroc_at_most"]) == list(told["recall_at_precision_0.5"]) == ["0", "1", "2"]
        assert told["n"] == len(tickets(1))
        assert told["kappa_quadratic"] > 0.9


def test_eval_prints_a_confusion_matrix_and_draws(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    plot = folder / "calibration.png"
    assert run("eval", folder / "later.csv", *COLUMNS, "--head", folder / "desk.head", "--plot", plot) == 0
    assert "rows: labels" in capsys.readouterr().out
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_explain_says_why(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "URGENT!!! All payments fail for everyone."
    assert run("explain", text, "--head", folder / "desk.head", "--field", "users=1000", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["urgency"] == 0
    assert told["reason"] == "read"
    assert told["read_as"] == "all payments fail for everyone"
    assert told["nearest"] == []
    assert run("explain", "Roll out the dough", "--head", folder / "desk.head") == 0
    assert "out_of_domain" in capsys.readouterr().out


def test_explain_shows_the_nearest_of_stored_examples(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head = folder / "kept.head"
    assert run("train", folder / "first.csv", *COLUMNS, "-o", head, "--keep-examples") == 0
    capsys.readouterr()
    assert run("explain", "the login fails for many", "--head", head, "--json") == 0
    nearest = json.loads(capsys.readouterr().out)["nearest"]
    assert len(nearest) == 5
    assert nearest[0]["urgency"] == 1
    assert "login fails" in nearest[0]["text"]
    assert run("explain", "the login fails for many", "--head", head) == 0
    assert "login fails" in capsys.readouterr().out.lower().partition("in domain")[2]


def test_what_is_read_of_json_is_what_it_says(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = '{"ticket": 7, "says": "All payments fail for everyone."}'
    assert run("explain", text, "--head", folder / "desk.head", "--json") == 0
    assert json.loads(capsys.readouterr().out)["read_as"] == "all payments fail for everyone."


def test_two_trainings_write_the_same_bytes(folder: Path) -> None:
    again = folder / "again.head"
    assert run("train", folder / "first.csv", *COLUMNS, "--features", "users", "-o", again) == 0
    assert again.read_bytes() == (folder / "desk.head").read_bytes()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("train", "none.csv", *COLUMNS, "-o", "x"), "cannot be read"),
        (("train", "first.csv", "--text", "boddy", "--label", "severity", "-o", "x"), "no column 'boddy'"),
        (("train", "first.csv", "--text", "body", "--label", "severity", "-o", "x"), "first.csv:2: the label '9'"),
        (("train", "first.csv", "--text", "body", "--label", "body", "-o", "x"), "is not an integer"),
        (("train", "first.csv", *COLUMNS[:-1], "9,x", "-o", "x"), "--levels"),
        (("train", "first.csv", *COLUMNS[:-1], "9,9", "-o", "x"), "--levels"),
        (("train", "first.csv", *COLUMNS, "--features", "usres", "-o", "x"), "no column 'usres'"),
        (("train", "first.csv", *COLUMNS, "-o", "no/such/folder/x"), "cannot be written"),
        (("train", "first.csv", *COLUMNS, "-o", "later.csv/x"), "cannot be written"),
        (("train", "empty.csv", *COLUMNS, "-o", "x"), "no column"),
        (("train", "binary.csv", *COLUMNS, "-o", "x"), "binary.csv"),
        (("train", "broken.csv.gz", *COLUMNS, "-o", "x"), "broken.csv.gz"),
        (("train", "spoilt.csv.gz", *COLUMNS, "-o", "x"), "spoilt.csv.gz"),
        (("eval", "later.csv", *COLUMNS, "--head", "first.csv"), "not a head"),
        (("eval", "later.csv", *COLUMNS, "--features", "body", "--head", "desk.head"), "was not trained with it"),
        (("explain", "text", "--head", "none.head"), "cannot be read"),
        (("explain", "text", "--head", "desk.head", "--field", "users"), "NAME=VALUE"),
    ],
)
def test_bad_input_is_one_line(
    words: tuple[str, ...], says: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    Path("empty.csv").write_text("")
    Path("binary.csv").write_bytes(b"body,severity\n\xff\xfe\x00,1\n")
    Path("broken.csv.gz").write_bytes(gzip.compress(b"body,severity\nx,9\n")[:20])
    spoilt = bytearray(Path("later.csv.gz").read_bytes())
    spoilt[60:90] = bytes(30)
    Path("spoilt.csv.gz").write_bytes(spoilt)
    assert run(*words) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not Path("x").exists()
