"""Facts beside the words (vital signs, a severity field) as columns. What is missing says so in a column of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from hocket.errors import InputError

Value = float | str
MOST_VALUES = 20
"of a field that holds words, not numbers"
_FAR = 4.0
"deviations from the mean beyond which a number says no more"


class Field(msgspec.Struct, forbid_unknown_fields=True):
    """One field. A number has four columns: its distance from the mean, that without sign, squared, and missing."""

    name: str
    "a column of a table, or a dotted path into a JSON message"
    mean: float = 0.0
    deviation: float = 1.0
    values: list[str] = []
    "of a field that holds words: those it may hold, a column each; another one counts as missing"

    @property
    def width(self) -> int:
        """How many columns it has."""
        return len(self.values) + 1 if self.values else 4

    def columns(self, value: Value | None) -> list[float]:
        """Its columns, of one text."""
        if self.values:
            word = None if value is None else _word(value)
            return [*(float(word == one) for one in self.values), float(word not in self.values)]
        number = _number(value)
        if number is None:
            return [0.0, 0.0, 0.0, 1.0]
        z = min(max((number - self.mean) / self.deviation, -_FAR), _FAR)
        return [z, abs(z), min(z * z, 9.0) / 3, 0.0]


def matrix(fields: Sequence[Field], given: Sequence[Mapping[str, Value]]) -> npt.NDArray[np.float64]:
    """(texts, columns of all fields)."""
    found = [[column for field in fields for column in field.columns(one.get(field.name))] for one in given]
    return np.array(found, np.float64).reshape(len(given), sum(field.width for field in fields))


def learn_fields(names: Sequence[str], given: Sequence[Mapping[str, Value]]) -> list[Field]:
    """What is usual of each field. Raises InputError: a field has no value, or too many different words."""
    return [_learn(name, [one[name] for one in given if one.get(name) not in {None, ""}]) for name in names]


def _learn(name: str, values: list[Value]) -> Field:
    if not values:
        raise InputError(f"the feature {name!r} has no value in any row; leave it out")
    numbers = [number for number in map(_number, values) if number is not None]
    if 2 * len(numbers) >= len(values):  # a few that are no numbers are missing ones
        return Field(name, float(np.mean(numbers)), float(np.std(numbers)) or 1.0)
    different = sorted({_word(value) for value in values})
    if len(different) > MOST_VALUES:
        raise InputError(
            f"the feature {name!r} is neither a number nor one of a few words ({len(different)} different ones); "
            "leave it out, or make it part of the text"
        )
    return Field(name, values=different)


def _number(value: Value | None) -> float | None:
    try:
        number = float(value) if value is not None else np.nan
    except ValueError:
        return None
    return number if np.isfinite(number) else None


def _word(value: Value) -> str:
    return str(value).strip().lower()
