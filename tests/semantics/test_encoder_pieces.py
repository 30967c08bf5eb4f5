"""Word pieces, against the vocabulary that hocket ships; what was checked by hand is what BERT's tokenizer gives."""

from __future__ import annotations

import random
import string

import pytest

from hocket.semantics.packaged import tensors
from hocket.semantics.static import FILE
from hocket.semantics.wordpiece import WordPiece

VOCABULARY = bytes(tensors(FILE)["vocabulary"]).decode().split("\n")
CUT = WordPiece(VOCABULARY)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("", []),
        ("Help!!", ["help", "!", "!"]),
        ("Naïve CAFÉ", ["naive", "cafe"]),
        ("tachycardia", ["ta", "##chy", "##card", "##ia"]),
        ("now_then $50", ["now", "_", "then", "$", "50"]),
        ("日本語のテキスト help", ["日", "本", "語", "の", "##テ", "##キ", "##ス", "##ト", "help"]),
        ("\u202e\u200babc", ["abc"]),
        ("help🚑", ["help", "[UNK]"]),
        ("x" * 101, ["[UNK]"]),
    ],
)
def test_texts_are_cut_as_bert_cuts_them(text: str, pieces: list[str]) -> None:
    assert [VOCABULARY[number] for number in CUT(text)] == pieces


def test_it_forgets_nothing_and_remembers_not_everything() -> None:
    cut = WordPiece(VOCABULARY)
    draw = random.Random(1)
    words = ["".join(draw.choices(string.ascii_lowercase, k=7)) for _ in range(60_000)]
    assert [cut(word) for word in words[-500:]] == [cut(word) for word in words[-500:]]
    for word in words:
        cut(word)
    assert len(cut._remembered) <= 50_000
