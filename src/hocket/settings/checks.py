"""What types cannot say: names, URLs, addresses and keys, and how a bad one is refused."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable
from typing import Annotated, NoReturn
from urllib.parse import urlsplit

from msgspec import Meta

from hocket.errors import InputError

Seconds = Annotated[float, Meta(gt=0, le=1e9)]
Count = Annotated[int, Meta(ge=1)]


def parse_address(text: str, key: str = "listen") -> tuple[str, int]:
    """'127.0.0.1:8080' or '[::1]:8080' as host and port. Raises ValueError in the form of this module."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or int(port) > 65535:
        refuse(key, f"must be host:port, like 127.0.0.1:8080, got '{text}'")
    return host, int(port)


def base_url(url: str) -> str:
    """A replica's URL without the `/v1` and the slash that people add."""
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def key_of(variable: str, asked_by: str) -> str:
    """The API key in an environment variable that `asked_by` names. Raises InputError, which does not show it."""
    key = os.environ.get(variable, "").strip()  # a secret that was read from a file often ends in a newline
    if not key:
        raise InputError(f"{asked_by}: the environment variable {variable} is not set; export it, or ask for none")
    if not (key.isascii() and key.isprintable()):
        raise InputError(f"{asked_by}: {variable} holds characters that no HTTP header can carry; is it the key alone?")
    return key


def check_name(name: str) -> None:
    """Names of engines and tenants become metric labels and parts of ids."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        refuse("name", f"must be 1 to 64 letters, digits, '.', '_' or '-', got '{name}'")


def check_digest(key: str, digest: str) -> None:
    """Keys are in the file as what cannot be turned back into them."""
    if not re.fullmatch("[0-9a-fA-F]{64}", digest):
        refuse(key, 'must be the key\'s SHA-256, 64 hexadecimal digits: printf %s "$KEY" | sha256sum')


def url_problem(url: str) -> str | None:
    """What is wrong with a replica's URL; None if nothing."""
    try:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"}:
            return "must be an http:// or https:// URL"
        if not parts.hostname or parts.port == 0:
            return "must name a host"
    except ValueError:
        return "is not a URL"
    if parts.query or parts.fragment:
        return "must not have a query or a fragment"
    if parts.username or parts.password:
        return "must not hold a password; put the key in an environment variable and name it in `api_key_env`"
    return None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def unique(key: str, values: Iterable[str], field: str | None = None) -> None:
    """Refuse a list that holds a value twice."""
    seen: dict[str, int] = {}
    for i, value in enumerate(values):
        if value in seen:
            at = f"{key}[{i}].{field}" if field else f"{key}[{i}]"
            refuse(at, f"'{value}' is there already, as {key}[{seen[value]}]; each needs its own")
        seen[value] = i


def refuse(key: str, problem: str) -> NoReturn:
    """Raise in the form that `hocket.yamlfile` turns into file, line and key: "`key` problem"."""
    raise ValueError(f"`{key}` {problem}")
