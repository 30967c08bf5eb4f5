"""What the log may say: no key ever, and nothing that a client wrote unless the settings want it.

Messages of hocket's own name sizes, states and ids. What could quote a prompt is the message of an error that nobody
foresaw: of that the log shows the type and the lines of code, which is what a report of a bug needs.
"""

from __future__ import annotations

import asyncio
import logging
import re
import traceback
from collections.abc import Callable
from typing import Any, TextIO

log = logging.getLogger("hocket.gateway")

HIDDEN = "[hidden]"
SHOW = "its message is hidden, for it may quote a request; `log_text: true` shows it"
_KEYS = (
    re.compile(
        r"(\b(?:proxy-)?authorization\b[\"']?\s*[:=,]\s*(?:b(?=[\"']))?[\"']?)(?:(?:bearer|basic|digest)\s+)?[^\s\"',;)}\]]+",
        re.IGNORECASE,
    ),
    re.compile(r"(\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE),
    re.compile(r"(\b(?:x-)?api[-_]?key\b[\"']?\s*[:=,]\s*(?:b(?=[\"']))?[\"']?)[^\s\"',;)}\]]+", re.IGNORECASE),
    re.compile(r"(\b(?:hk|sk)-)[A-Za-z0-9_-]{8,}"),
    re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s/:@]*:)[^\s/@]+(?=@)", re.IGNORECASE),
)
"what comes before a secret, and the secret"
_CONTROL = {code: repr(chr(code))[1:-1] for code in (*range(32), *range(127, 160), 0x2028, 0x2029) if chr(code) != "\t"}
"a line end in a path would be a line of its own in the log"


def redacted(text: str) -> str:
    """The text without keys."""
    for secret in _KEYS:
        text = secret.sub(rf"\1{HIDDEN}", text)
    return text


class Redacting(logging.Formatter):
    """One line a message; then, for an error, where it was raised."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")
        self.shows_text: Callable[[], bool] = bool
        "whether messages of errors are shown: not until the settings say so"

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """See `logging.Formatter`."""
        record.message = record.message.translate(_CONTROL)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        """See `logging.Formatter`."""
        return super().formatException(ei) if self.shows_text() else "\n".join(_without_messages(ei[1]))

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        record.exc_text = None  # what another formatter made of it
        return redacted(super().format(record))


def _without_messages(error: BaseException | None) -> list[str]:
    lines: list[str] = []
    while error is not None:
        lines += [line.rstrip("\n") for line in traceback.format_tb(error.__traceback__)]
        kind = type(error)
        lines.append(f"{kind.__module__}.{kind.__qualname__} ({SHOW})")
        cause = error.__cause__
        if cause is None and not error.__suppress_context__:
            cause = error.__context__
        error = cause
        if error is not None:
            lines.append("which came of:")
    return lines


def configure(out: TextIO) -> Redacting:
    """Have all that is logged written to `out`, redacted. Returns what formats it."""
    formatter = Redacting()
    handler = logging.StreamHandler(out)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    return formatter


def unforeseen(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """An event loop's exception handler: its own would quote the error in its message."""
    log.error("in the event loop: %s", context.get("message", "an error"), exc_info=context.get("exception"))
