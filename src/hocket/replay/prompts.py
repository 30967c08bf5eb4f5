"""Prompts of a wanted length that no two calls share by chance."""

from __future__ import annotations

import random
import re

WORDS = """
time people year way day man thing woman life child world school state family student group country problem hand part
place case week company system program question work number night point home water room mother area money story fact
month lot right study book eye job word business issue side kind head house service friend father power hour game line
end member law car city name team minute idea body back parent face others level office door health person art war
history party result change morning reason research girl guy moment air teacher force
""".split()  # noqa: SIM905 - words read better than a list of strings
"each a token of its own, with the space before it, in the vocabularies of common models"


def filler(seed: str, words: int) -> str:
    """So many words; other seeds give others from the first on."""
    rng = random.Random(seed)
    return " ".join(rng.choices(WORDS, k=words))


def first_words(text: str, count: int) -> str:
    """So many words of `text`, or all of it; white space is kept."""
    return "".join(re.findall(r"\s*\S+", text)[:count])
