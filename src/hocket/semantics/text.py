"""What of a request is read: the words of the user's last turn, and the fields that an application declares.

Nothing here fails: whatever cannot be read gives no text and a reason. Cost is bounded, since a text is cut before it
is looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

MOST_CHARACTERS = 2_000
"of a text that are read: its first and its last half of that, since what is wanted stands at either end"
MOST_JSON = 65_536
"characters of a JSON document in a message; a larger one is read as plain text"
MOST_ITEMS = 1_000
"messages of a request, from its end, and parts of a message that are looked at"
MOST_TURNS = 8
"user messages in a row that make one turn"

REASONS = {
    "read": "the words were read",
    "no_text": "there is no text, or it is empty",
    "no_user_message": "no message is a user's",
    "tool_results": "there are only results of tools",
    "token_ids": "the prompt is token ids",
    "json_only": "the text is JSON without a sentence in it",
    "not_words": "what is there is not words",
    "unreadable": "the messages are not of a known form",
    "out_of_domain": "the words are not of the domain that was learned",
    "unsure": "no class is likely enough",
}
"reason -> what it says; all but `read` leave a call in the class it was declared to be in"


class Words(msgspec.Struct, frozen=True):
    """What was found in a request."""

    text: str = ""
    "at most MOST_CHARACTERS"
    fields: dict[str, float | str] = {}
    "dotted path -> value, of the declared paths that are there"
    reason: str = "read"
    "of REASONS: why there is no text; `read` where there is"


class _Message(msgspec.Struct, gc=False):
    role: str = ""
    type: str = ""
    content: msgspec.Raw = msgspec.Raw()


class _Part(msgspec.Struct, gc=False):
    type: str = ""
    text: str = ""


_items = msgspec.json.Decoder(list[msgspec.Raw])
_message = msgspec.json.Decoder(_Message)
_part = msgspec.json.Decoder(_Part)
_string = msgspec.json.Decoder(str)
_TEXT_PARTS = frozenset({"", "text", "input_text"})
_ERRORS = (msgspec.MsgspecError, RecursionError, ValueError)
_WORD = re.compile(r"[^\W\d_]{2,}")
_SENTENCE = re.compile(r"[^\W\d_]{2,}\W+[^\W\d_]{2,}|[^\W\d_]{4,}")


def words_of(prompt: bytes | memoryview, declared: Sequence[str] = ()) -> Words:
    """Read the JSON value of a request's `messages`, `input` or `prompt`.

    declared: dotted paths into JSON that a user message holds (`vitals.hr`), whose values are features. Takes time that
    grows with the size of the messages only by the passing over their bytes. Never raises.
    """
    try:
        texts, reason = _turn(bytes(prompt).strip())
    except _ERRORS:
        return Words(reason="unreadable")
    if reason != "read":
        return Words(reason=reason)
    return of_text("\n".join(texts), declared)


def of_text(text: str, declared: Sequence[str] = ()) -> Words:
    """As `words_of`, of what a user wrote."""
    stripped = text.strip() if len(text) <= MOST_JSON else text
    if not stripped:
        return Words(reason="no_text")
    document = _document(stripped)
    fields = {} if document is None else declared_fields(document, declared)
    if document is not None and stripped[0] in "{[":
        sentences = [leaf for leaf in _strings(document) if _SENTENCE.search(leaf)]
        said = cut("\n".join(sentences))
        return Words(said, fields, "read" if said else "json_only")
    said = cut(stripped)
    if not _is_words(said):
        return Words(fields=fields, reason="not_words")
    return Words(said, fields)


def cut(text: str) -> str:
    """The first and the last part of a text that is too long."""
    if len(text) <= MOST_CHARACTERS:
        return text
    half = MOST_CHARACTERS // 2
    return f"{text[:half]} {text[1 - half :]}"


def declared_fields(document: object, declared: Iterable[str]) -> dict[str, float | str]:
    """The declared paths that lead to a number, a truth value (1 or 0) or a text in `document`."""
    found: dict[str, float | str] = {}
    for path in declared:
        value = document
        for key in path.split("."):
            if isinstance(value, list) and key.isdecimal() and int(key) < len(value):
                value = value[int(key)]
            else:
                value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, str):
            found[path] = value[:MOST_CHARACTERS]
        elif isinstance(value, bool | int | float):
            try:
                found[path] = float(value)
            except OverflowError:
                pass  # a whole number beyond 1e308 is no measure of anything
    return found


# ---------------------------------------------------------------- messages


def _turn(raw: bytes) -> tuple[list[str], str]:
    """The texts of the user's last turn, and the reason where there are none."""
    if raw[:1] == b'"':
        return [_string.decode(raw)], "read"
    if raw[:1] != b"[":
        return [], "no_text" if raw in {b"", b"null"} else "unreadable"
    items = [bytes(item) for item in _items.decode(raw)[-MOST_ITEMS:]]
    if not items:
        return [], "no_text"
    if items[-1][:1] == b'"':
        return [_string.decode(item) for item in items if item[:1] == b'"'], "read"
    if items[-1][:1] in b"-0123456789[":
        return [], "token_ids"
    return _last_user(items)


def _last_user(items: list[bytes]) -> tuple[list[str], str]:
    """The messages of a user that stand in a row, the last such row; tools and the model may have spoken since."""
    texts: list[str] = []
    seen, results = 0, False
    for item in reversed(items):
        message = _message.decode(item)
        results = results or message.role in {"tool", "function"} or message.type.endswith("_output")
        if message.role != "user":
            if seen:
                break
            continue
        texts[:0], only_results = _texts(bytes(message.content))
        results = results or only_results
        seen += not only_results
        if seen == MOST_TURNS:
            break
    if any(text.strip() for text in texts):
        return texts, "read"
    if results:
        return [], "tool_results"
    return [], "no_text" if seen else "no_user_message"


def _texts(content: bytes) -> tuple[list[str], bool]:
    """The texts of a message's content, and whether it holds nothing but what tools gave."""
    if content[:1] == b'"':
        return [_string.decode(content)], False
    if content[:1] != b"[":
        return [], False
    parts = [_part.decode(part) for part in _items.decode(content)[:MOST_ITEMS] if bytes(part)[:1] == b"{"]
    tools = bool(parts) and all(part.type == "tool_result" for part in parts)
    return [part.text for part in parts if part.type in _TEXT_PARTS], tools


# ---------------------------------------------------------------- what a text holds


def _document(text: str) -> Any:
    """The JSON object that a text is, or holds between other words; None if there is none."""
    first, last = text.find("{"), text.rfind("}")
    if len(text) > MOST_JSON or not 0 <= first < last:
        return None
    if text[0] == "[" and text[-1] == "]":
        first, last = 0, len(text) - 1
    try:
        return msgspec.json.decode(text[first : last + 1].encode("utf-8", "replace"))
    except _ERRORS:
        return None


def _strings(value: object, depth: int = 0) -> Iterator[str]:
    """The texts in a document, in its order."""
    if isinstance(value, str):
        yield value
    elif depth < 32 and isinstance(value, Mapping | list):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(inner, depth + 1)


def _is_words(text: str) -> bool:
    """Whether letters make up a fair share of what is there, and nothing says that it is binary."""
    strange = sum(1 for sign in text if sign == "\ufffd" or (sign < " " and sign not in "\t\r\n\f"))
    letters = sum(map(str.isalpha, text))
    return letters >= 2 and letters >= 0.3 * len(text.replace(" ", "")) and strange <= 0.02 * len(text)
