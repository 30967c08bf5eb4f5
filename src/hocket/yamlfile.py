"""YAML files checked against a type, with errors that name the file, the line, the key and the remedy."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TypeVar

import msgspec
import yaml

from hocket.errors import InputError

T = TypeVar("T")


SETTINGS_PAGE = "docs/reference/settings.md"


class _Loader(yaml.SafeLoader):
    """Reads 1e-4 as the number that everyone means: YAML 1.1 wants a dot in it."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load_yaml(path: str | Path, kind: type[T], page: str = SETTINGS_PAGE) -> T:
    """Read `path` as a `kind` (a msgspec struct), described on `page`. Raises InputError: what, where, what to do."""
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not UTF-8 (byte {error.start}); save it as UTF-8") from None
    return parse_yaml(text, kind, str(file), page)


def parse_yaml(text: str, kind: type[T], source: str, page: str = SETTINGS_PAGE) -> T:
    """As `load_yaml`, of a text; `source` names it in errors."""
    try:
        root = yaml.compose(text, Loader=_Loader)
        value = yaml.load(text, Loader=_Loader)  # noqa: S506  a safe one
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InputError(f"{source}:{line}: not valid YAML: {error.problem}; check indentation and quotes") from None
    except yaml.YAMLError as error:
        raise InputError(f"{source}: not valid YAML: {error}") from None
    except RecursionError:
        raise InputError(f"{source}: nested too deeply; close the brackets") from None
    except ValueError as error:  # YAML takes 2001-99-99 for a date; it does not say on which line
        raise InputError(f"{source}: a value cannot be read ({error}); put it in quotes, or correct it") from None
    _refuse_twins(root, source)
    try:
        return msgspec.convert({} if value is None else value, kind)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `")
        if where.startswith("key` in `"):  # of a mapping
            what, where = f"a key: {what}", where.removeprefix("key` in `")
        path = where.rstrip("`").removeprefix("$").lstrip(".")
        line = _line(root, path, what)
        place = f"{path}: " if path else "" if what.startswith("`") else "top level: "
        raise InputError(f"{source}:{line}: {place}{what}; see {page}") from None


def _refuse_twins(root: yaml.Node | None, source: str) -> None:
    """YAML lets the last of two equal keys win without a word."""
    stack, seen = [root], set[int]()
    while stack:
        node = stack.pop()
        if not isinstance(node, yaml.CollectionNode) or id(node) in seen:  # an alias may lead to a node once more
            continue
        seen.add(id(node))
        first: dict[str, int] = {}
        for child in node.value:
            key, value = child if isinstance(node, yaml.MappingNode) else (None, child)
            stack.append(value)
            if isinstance(key, yaml.ScalarNode):
                line = key.start_mark.line + 1
                if key.value in first:
                    where = f"is there already, on line {first[key.value]}"
                    raise InputError(f"{source}:{line}: `{key.value}` {where}; keep one of them")
                first[key.value] = line


def _line(root: yaml.Node | None, path: str, what: str) -> int:
    """The line of `path` ("engines[0].kind"), or of the key below it that `what` names.

    `what` names one as an "unknown field `key`", or by beginning with "`key`" (what a `__post_init__` should raise).
    """
    node, line = root, 1
    below = re.search(r"(?:unknown field |^)`(.+?)`", what)
    full = f"{path}.{below.group(1)}" if below else path
    for name, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", full):
        step = name or int(index)
        found: yaml.Node | None = None
        if isinstance(node, yaml.MappingNode):
            for key, child in node.value:
                if key.value == step:
                    found, line = child, key.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode) and str(step).isdigit() and int(step) < len(node.value):
            found = node.value[int(step)]
            line = found.start_mark.line + 1
        if found is None:
            break
        node = found
    return line
