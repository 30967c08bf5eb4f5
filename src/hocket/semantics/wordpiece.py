"""A text -> the numbers of its word pieces, as BERT's vocabulary has them (Devlin et al., 2019; Wu et al., 2016).

Words in small letters without accents, each cut into the longest pieces that the vocabulary knows, from the left; a
word that cannot be cut so is unknown. Signs stand alone, and so do Chinese characters. Written here because it is
forty lines: the libraries for it bring a dozen packages along, among them clients of the network.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

UNKNOWN = "[UNK]"
_LONGEST_WORD = 100
_MOST_PIECES = 12
"of a word; what is cut smaller is no word, and would take milliseconds to cut"
_MOST_REMEMBERED = 50_000
_CHINESE = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f"
_PART = re.compile(rf"[{_CHINESE}]|(?:(?![{_CHINESE}])[^\W_])+|[^\w\s]|_")


class WordPiece:
    """Cuts texts. `vocabulary[k]` is piece k; a piece that goes on a word begins with `##`."""

    def __init__(self, vocabulary: Sequence[str]) -> None:
        self._numbers = {piece: number for number, piece in enumerate(vocabulary)}
        self.unknown = self._numbers[UNKNOWN]
        self._longest = max(map(len, vocabulary))
        self._remembered: dict[str, tuple[int, ...]] = {}

    def number(self, piece: str) -> int:
        """Its place in the vocabulary. Raises KeyError."""
        return self._numbers[piece]

    def __call__(self, text: str) -> list[int]:
        """The pieces of a text, from left to right."""
        text = text.lower()
        if not text.isascii():
            marks = unicodedata.normalize("NFD", text)
            text = "".join(letter for letter in marks if unicodedata.category(letter) not in {"Mn", "Cf"})
        found: list[int] = []
        for word in _PART.findall(text):
            found += self._remembered.get(word) or self._cut(word)
        return found

    def _cut(self, word: str) -> tuple[int, ...]:
        pieces = self._pieces(word) if len(word) <= _LONGEST_WORD else (self.unknown,)
        if len(self._remembered) < _MOST_REMEMBERED:  # what is met later is cut each time
            self._remembered[word] = pieces
        return pieces

    def _pieces(self, word: str) -> tuple[int, ...]:
        found: list[int] = []
        start, mark = 0, ""
        while start < len(word) and len(found) < _MOST_PIECES:
            for end in range(min(len(word), start + self._longest), start, -1):
                number = self._numbers.get(mark + word[start:end])
                if number is not None:
                    found.append(number)
                    start, mark = end, "##"
                    break
            else:
                return (self.unknown,)
        return tuple(found) if start == len(word) else (self.unknown,)
