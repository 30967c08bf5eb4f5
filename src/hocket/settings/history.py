"""Where the history of jobs and calls is kept, and for how long."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from hocket.settings.checks import refuse

MAX_MIB = 1024.0
"of a SQLite file, where `max_mib` says nothing"


class HistorySettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Jobs, calls and tool runs on disk: times, sizes and names, no text."""

    url: str | None = None
    "a path, sqlite:///PATH or postgresql://USER@HOST/NAME; None = a SQLite file in the user's state directory"
    url_env: str | None = None
    "the environment variable that holds the URL, where it has a password in it"
    keep_days: Annotated[float, Meta(gt=0, le=36_500)] = 30.0
    max_mib: Annotated[float, Meta(ge=1, le=1e9)] | None = None
    "of a SQLite file"
    queue_rows: Annotated[int, Meta(ge=100, le=10_000_000)] = 50_000
    "rows that may wait for the database; what does not fit is lost, and counted"

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        if self.url is not None and self.url_env is not None:
            refuse("url", "and url_env are both set; keep one")
        scheme, _, rest = (self.url or "").partition("://")
        if rest and scheme not in {"sqlite", "postgresql", "postgres"}:
            refuse("url", f"'{scheme}' is not supported; write a path, sqlite:///PATH or postgresql://USER@HOST/NAME")
        if rest and scheme.startswith("postgres"):
            if ":" in rest.rpartition("@")[0] or "password=" in rest:
                refuse("url", "holds a password; put the URL in an environment variable and name it in `url_env`")
            if self.max_mib is not None:
                refuse("max_mib", "is for a SQLite file; PostgreSQL's history is bounded by keep_days")

    @property
    def max_bytes(self) -> float:
        """What a SQLite file may hold."""
        return (MAX_MIB if self.max_mib is None else self.max_mib) * 2**20


def default_history() -> Path:
    """The SQLite file that is used where nothing is set: $XDG_STATE_HOME/hocket/history.db."""
    state = os.environ.get("XDG_STATE_HOME", "")
    # the specification: a relative path is to be ignored
    base = Path(state) if state.startswith("/") else Path.home() / ".local" / "state"
    return base / "hocket" / "history.db"
