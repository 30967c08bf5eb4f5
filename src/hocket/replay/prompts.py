"""Prompts of a wanted length that no two calls share by chance."""

from __future__ import annotations

import random

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


def continued(prompt: str, prompt_tokens: int, answer: str, tokens: int, output_tokens: int) -> str:
    """The first `tokens` tokens of an earlier call's prompt and answer, as nearly as words can tell."""
    if tokens <= prompt_tokens:
        return _first(prompt, tokens / max(prompt_tokens, 1))
    return prompt + _first(answer, (tokens - prompt_tokens) / max(output_tokens, 1))


def _first(text: str, share: float) -> str:
    """That share of the words of `text`, cut where a word ends, white space kept."""
    if share >= 1:
        return text
    words = text.split(" ")
    return " ".join(words[: round(share * len(words))])
