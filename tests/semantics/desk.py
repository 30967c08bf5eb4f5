"""A help desk's tickets, written for the tests: four classes that differ in what is broken, and for how many."""

from __future__ import annotations

from itertools import product
from zlib import crc32

from hocket.semantics.train import Labelled

_KINDS: list[tuple[list[str], list[str]]] = [
    (
        ["the whole site is down", "the database is lost", "all payments fail", "customers see data of others"],
        ["for everyone", "in production since noon", "and nothing answers"],
    ),
    (
        ["the checkout is very slow", "emails are not sent", "one server keeps crashing", "the login fails for many"],
        ["since the release", "for a third of the users", "every few minutes"],
    ),
    (
        [
            "a report shows wrong totals",
            "the export has a broken column",
            "a page has an error",
            "search misses a name",
        ],
        ["for one customer", "when it is sorted", "on the old browser"],
    ),
    (
        ["how do I change my picture", "please add a dark theme", "where is the manual", "thanks for the new colours"],
        ["when you have time", "in the settings", "of the web page"],
    ),
]
NOUNS = ("today", "again", "says a colleague", "as I saw")


def tickets(turn: int = 0) -> Labelled:
    """About 96 tickets of four classes; of turn 1, the other ones of the same kind."""
    texts, urgency, given = [], [], []
    for level, (whats, wheres) in enumerate(_KINDS):
        for n, (what, where, noun) in enumerate(product(whats, wheres, NOUNS)):
            text = f"{what.capitalize()} {where} {noun}."
            if crc32(text.encode()) % 2 == turn:
                texts.append(text)
                urgency.append(level)
                given.append({"users": str(10 ** (3 - level) + n)} if n % 5 else {})
    return Labelled(texts, urgency, given)


RECIPES = [
    "Whisk two eggs with sugar and fold in the flour.",
    "Simmer the onions in butter until they are golden.",
    "La soupe doit cuire une heure à feu doux.",
    "Roll out the dough and bake it at 200 degrees.",
    "Add a pinch of saffron to the rice and let it rest.",
    "Slice the aubergines, salt them and fry them in olive oil.",
    "Let the yeast rise in warm milk before you knead it.",
    "Garnish with parsley and serve with a glass of white wine.",
    "Marinate the lamb overnight in rosemary and garlic.",
    "Grate the parmesan over the gnocchi.",
]
