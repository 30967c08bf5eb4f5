"""Look into the history: which jobs ran, how one of them went, and all of them as a trace.

example: hocket jobs ls --since 1h --app research
         hocket jobs show job-3f2a91-17
         hocket jobs export --since 1d -o jobs.jsonl
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from hocket.errors import InputError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from hocket.history.read import Filter
    from hocket.history.records import JobRecord, Record
    from hocket.history.store import Store
    from hocket.history.traces import Recorded
    from hocket.sim.driver import Span

STATES = ("open", "closed", "idle", "aborted", "refused", "interrupted")
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ls|show|export")

    ls = actions.add_parser("ls", help="list jobs, the latest first")
    add_source(ls)
    _add_filter(ls)
    ls.add_argument("--limit", type=int, default=50, metavar="N", help="at most so many (%(default)s)")
    ls.add_argument("--json", action="store_true", help="as JSON")

    show = actions.add_parser("show", help="the calls and tool runs of a job, and when each of them waited and ran")
    show.add_argument("job", metavar="JOB", help="its id, as its client knows it")
    add_source(show)
    show.add_argument("--tenant", metavar="NAME", help="of this tenant")
    show.add_argument("--json", action="store_true", help="as JSON")

    export = actions.add_parser("export", help="write jobs as a trace, for simulate and replay")
    add_source(export)
    _add_filter(export)
    export.add_argument("-o", "--output", default="-", metavar="FILE", help="a jobs.jsonl; - is standard output")


def add_source(parser: argparse.ArgumentParser) -> None:
    """The options that say which history is meant."""
    parser.add_argument("--config", metavar="FILE", help="the settings of the gateway whose history is meant")
    parser.add_argument("--history", metavar="URL", help="the history itself: a path or a URL (the settings' one)")


def _add_filter(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--app", metavar="NAME", help="of this application")
    parser.add_argument("--tenant", metavar="NAME", help="of this tenant")
    parser.add_argument("--state", choices=STATES, help="in this state")
    parser.add_argument("--since", metavar="AGE", help="arrived in the last 30m, 12h, 7d, or since 2026-01-31[T12:00]")


def run(args: argparse.Namespace) -> int:
    actions: dict[str, Callable[[argparse.Namespace, Connection], int]] = {"ls": _ls, "show": _show, "export": _export}
    if args.action == "ls" and args.limit < 1:
        raise InputError(f"--limit {args.limit}: use 1 or more")
    with opened(args) as connection:
        return actions[args.action](args, connection)


# -------------------------------------------------------------------- which history


def store_of(args: argparse.Namespace, *, reading: bool) -> Store:
    """The history that the command line names, or the settings, or the default one. Raises InputError."""
    from hocket.history.recorder import url_of
    from hocket.history.store import Store
    from hocket.settings import HistorySettings, load_settings

    if args.history:
        return Store(args.history, reading=reading)
    history = load_settings(args.config).history
    if history is False:
        raise InputError(f"{args.config}: history is off; name one with --history")
    return Store(url_of(history if isinstance(history, HistorySettings) else HistorySettings()), reading=reading)


@contextmanager
def opened(args: argparse.Namespace) -> Iterator[Connection]:
    """A connection for reading. What the database says against it is an InputError."""
    from hocket.history.store import StoreError

    store = store_of(args, reading=True)
    if not store.exists():
        raise InputError(f"{store.name}: no history there; `hocket serve` writes one, or name it with --history")
    try:
        with store.connect() as connection:
            yield connection
    except StoreError as error:
        raise InputError(f"{error}; is it in use, or away?") from None


def since(text: str | None, option: str = "--since") -> float | None:
    """Seconds since 1970 of `30m`, `12h`, `7d` ago or of a local date and time. Raises InputError."""
    import re
    import time
    from datetime import datetime

    if text is None:
        return None
    age = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhd])", text)
    if age:
        return time.time() - float(age[1]) * UNITS[age[2]]
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        raise InputError(f"{option} {text}: write 30m, 12h, 7d or a date like 2026-01-31T12:00") from None


def _filter(args: argparse.Namespace) -> Filter:
    from hocket.history.read import Filter

    return Filter(args.app, args.tenant, args.state, since(args.since))


# -------------------------------------------------------------------- ls


def _ls(args: argparse.Namespace, connection: Connection) -> int:
    from hocket.history.read import latest

    found = latest(connection, _filter(args), args.limit)
    if args.json:
        _print_json([_plain(job) for job in found])
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table(title="times in seconds", title_justify="left")
    for name in ("arrived", "job", "app", "tenant", "urgency", "state"):
        table.add_column(name, overflow="fold")
    for name in ("JCT", "wait", "calls", "tools", "tokens in", "out"):
        table.add_column(name, justify="right")
    for job in found:
        sizes = (job.calls, job.tool_runs, job.prompt_tokens, job.output_tokens)
        table.add_row(
            _clock(job.arrived_at), job.job, job.app, job.tenant, str(job.urgency), job.state,
            _seconds(job.ended_s), _seconds(job.wait_s), *map(str, sizes),
        )  # fmt: skip
    console_for(Console).print(table)
    return 0


# -------------------------------------------------------------------- show


def _show(args: argparse.Namespace, connection: Connection) -> int:
    from hocket.history.read import named

    found = named(connection, args.job, args.tenant)
    if not found:
        raise InputError(f"no job '{args.job}' in the history; `hocket jobs ls` lists some")
    if args.json:
        _print_json([_whole(one) for one in found])
        return 0
    for one in found:
        _show_one(one)
    return 0


def _show_one(one: Recorded) -> None:
    import shutil

    from rich.console import Console
    from rich.table import Table

    from hocket.sim.gantt import as_text

    job = one.job
    print(f"{job.job}: {job.state}; application {job.app}, tenant {job.tenant}, urgency {job.urgency}")
    print(f"arrived {_clock(job.arrived_at)}, JCT {_seconds(job.ended_s) or '?'} s")
    table = Table(title="times in seconds", title_justify="left")
    for name in ("stage", "model", "replica", "outcome"):
        table.add_column(name, overflow="fold")
    for name in ("arrived", "waited", "to 1st token", "ran", "tokens in", "out", "tries"):
        table.add_column(name, justify="right")
    rows: list[tuple[int, tuple[str, ...]]] = []
    for call in one.calls:
        begun = call.dispatched_s if call.started_s is None else call.started_s
        outcome = " ".join(str(part) for part in (call.outcome or "open", call.status, call.reason) if part)
        times = (
            _seconds(call.arrived_s),
            _between(call.arrived_s, call.dispatched_s),
            _between(begun, call.first_token_s),
            _between(begun, call.ended_s),
        )
        sizes = (str(call.prompt_tokens), str(call.output_tokens), str(call.attempts))
        rows.append((call.n, (call.stage, call.model, call.replica, outcome, *times, *sizes)))
    for tool in one.tools:
        ran = _between(tool.started_s, tool.ended_s)
        cells = (tool.name, "(tool)", "", tool.outcome or "open", _seconds(tool.started_s), "", "", ran, "", "", "")
        rows.append((tool.n, cells))
    for _, row in sorted(rows):
        table.add_row(*row)
    console_for(Console).print(table)
    print(as_text(list(_spans(one)), shutil.get_terminal_size((100, 24)).columns))


def _spans(one: Recorded) -> Iterator[Span]:
    from hocket.sim.driver import Span

    job = one.job.job
    for call in one.calls:
        if call.ended_s is not None:
            times = (call.arrived_s, call.dispatched_s, call.started_s, call.first_token_s, call.ended_s)
            yield Span(job, f"{call.n}", call.stage, "llm", call.replica, *times)
    for tool in one.tools:
        if tool.ended_s is not None:
            yield Span(job, f"{tool.n}", tool.name, "tool", "tool", tool.started_s, None, None, None, tool.ended_s)


# -------------------------------------------------------------------- export


def _export(args: argparse.Namespace, connection: Connection) -> int:
    from hocket.history import read, traces
    from hocket.trace import encode_job, write_jobs

    which = _filter(args)
    jobs = traces.to_jobs(read.recorded(connection, which), as_imported=read.of_one_import(connection, which))
    if args.output == "-":
        sys.stdout.buffer.writelines(encode_job(job) + b"\n" for job in jobs)
    else:
        write_jobs(args.output, jobs)
    return 0


# -------------------------------------------------------------------- printing


def console_for(kind: Any) -> Any:
    """A console that does not fold a table to 80 columns where nobody looks at a terminal.

    Names are printed as they are: they come from clients, and brackets in them are no markup.
    """
    plain = partial(kind, markup=False, emoji=False)
    console = plain()
    return console if console.is_terminal else plain(width=200)


def _clock(at: float) -> str:
    from datetime import datetime

    return datetime.fromtimestamp(at).astimezone().isoformat(" ", "seconds")


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _between(begin: float | None, end: float | None) -> str:
    return "" if begin is None or end is None else f"{end - begin:.3f}"


def _plain(job: JobRecord) -> dict[str, Any]:
    """A job for programs: without the numbers that only the database uses."""
    import msgspec

    fields = _said(job)
    fields["features"] = msgspec.json.decode(job.features) if job.features else {}
    return {name: value for name, value in fields.items() if name not in {"id", "run", "trace"}}


def _whole(one: Recorded) -> dict[str, Any]:
    parts = [[_said(part) for part in some] for some in (one.calls, one.tools)]
    for fields in (*parts[0], *parts[1]):
        del fields["job_id"]
    return {**_plain(one.job), "calls": parts[0], "tool_runs": parts[1]}


def _said(record: Record) -> dict[str, Any]:
    """The fields of a record, with null where it has nothing to say."""
    import msgspec

    fields = msgspec.structs.asdict(record)
    silent = (
        "deadline_s",
        "parent",
        "max_tokens",
        "hint_output_tokens",
        "engine",
        "replica",
        "outcome",
        "reason",
        "status",
    )
    return {name: (value or None) if name in silent else value for name, value in fields.items()}


def _print_json(value: Any) -> None:
    import json

    json.dump(value, sys.stdout, indent=1)
    print()
