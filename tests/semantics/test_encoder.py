"""What every encoder does, whatever text comes."""

from __future__ import annotations

import numpy as np
import pytest

from hocket.errors import InputError
from hocket.semantics.encoder import CHARACTERS, ENCODERS, Encoder, encoder, readable

STRANGE = [
    "",
    " \n\t ",
    "\x00\x01\x02",
    "\ud800 half a pair \udc00",
    "\u202e\u200b\ufeff",
    bytes(range(256)).decode("latin-1"),
    '{"tool": {"result": [1, 2, 3]}}',
    "help 助けて помогите مساعدة 🚑",
    "a" * 1_000_000,
    "water " * 200_000,
    "🚑" * 10_000,
]


@pytest.fixture(scope="module", params=list(ENCODERS))
def made(request: pytest.FixtureRequest) -> Encoder:
    return encoder(request.param)


def test_strange_texts_are_encoded(made: Encoder) -> None:
    vectors = made.encode(STRANGE)
    assert vectors.shape == (len(STRANGE), made.dimension)
    assert vectors.dtype == np.float32
    lengths = np.linalg.norm(vectors, axis=1)
    assert np.all((np.abs(lengths - 1) < 1e-5) | (lengths == 0)), lengths


def test_no_texts_are_no_rows(made: Encoder) -> None:
    assert made.encode([]).shape == (0, made.dimension)


def test_the_batch_changes_nothing(made: Encoder) -> None:
    texts = ["my chest hurts", "when do you open?", *STRANGE]
    together = made.encode(texts)
    alone = np.concatenate([made.encode([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=2e-2 if made.name == "minilm" else 1e-6)


def test_meaning_is_near(made: Encoder) -> None:
    urgent, alike, other = made.encode(
        ["we are out of drinking water and food", "hungry and thirsty families", "the library lends books on Monday"]
    )
    assert urgent @ alike > urgent @ other + 0.1


def test_of_a_long_text_the_beginning_and_the_end_count() -> None:
    text = "first " + "x" * 1_000_000 + " last"
    kept = readable(text)
    assert len(kept) <= CHARACTERS + 1
    assert kept.startswith("first ")
    assert kept.endswith(" last")


def test_an_unknown_name_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(InputError, match="static"):
        encoder("word2vec")
