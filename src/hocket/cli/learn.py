"""Learn each application from its recorded jobs: write a profile of it.

example: hocket learn -o profiles                         (the history of the gateway)
         hocket learn --from jobs.jsonl -o profiles
         hocket learn --from jobs.jsonl --app research --graph research.yaml -o profiles
"""

from __future__ import annotations

import argparse
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hocket.errors import InputError

if TYPE_CHECKING:
    from hocket.beliefs.declared import Declared
    from hocket.beliefs.profile import Profile
    from hocket.beliefs.record import Record
    from hocket.trace import Job

MOST_JOBS = 20_000
"of an application: the latest ones; more would not change what is learned"
HISTORY = "history"
WITHOUT = "pyAgrum is not installed: profiles have no Bayesian network, which `llmsched` needs; install 'hocket[bayes]'"
BINS_HELP = "states of a size in the network, 2 to 12 (%(default)s)"
PARENTS_HELP = "parents of a variable in it at most, 1 to 4 (%(default)s)"


def configure(parser: argparse.ArgumentParser) -> None:
    from hocket.cli.jobs import add_source

    parser.add_argument(
        "--from", dest="source", default=HISTORY, metavar="history|FILE", help="a jobs.jsonl, or a journal (history)"
    )
    add_source(parser)
    parser.add_argument("--app", metavar="NAME", help="only this application")
    parser.add_argument("--since", metavar="AGE", help="jobs of the history that arrived in the last 12h, 7d, or since")
    parser.add_argument("--graph", metavar="FILE", help="the application's graph, declared (found in the jobs)")
    parser.add_argument("-o", "--output", default="profiles", metavar="DIR", help="where profiles go (%(default)s)")
    parser.add_argument("--bins", type=int, default=6, choices=range(2, 13), metavar="N", help=BINS_HELP)
    parser.add_argument("--parents", type=int, default=2, choices=range(1, 5), metavar="N", help=PARENTS_HELP)
    parser.add_argument("--processes", type=int, metavar="N", help="worker processes (one a core)")
    parser.add_argument("--json", action="store_true", help="print what was learned as JSON")


def run(args: argparse.Namespace) -> int:
    from hocket.profiles import write_profile

    if args.processes is not None and args.processes < 1:
        raise InputError(f"--processes {args.processes}: use 1 or more")
    declared = _declared(args)
    app = declared.app if declared else args.app
    with _jobs(args) as jobs:
        records = records_by_app(jobs, app)
    if not records:
        only = f" of {app!r}" if app else ""
        raise InputError(f"{_name(args)}: no job{only} that ended; nothing to learn from")
    if not bayes():
        print(WITHOUT, file=sys.stderr)
    graphs = {declared.app: declared} if declared else {}
    rows = []
    for profile in learn_all(records, graphs, args.processes, bins=args.bins, parents=args.parents):
        file = write_profile(args.output, profile)
        rows.append({"file": str(file), **_summary(profile, records[profile.app].records)})
    _tell(rows, as_json=args.json)
    return 0


# -------------------------------------------------------------------- jobs


class Lived(NamedTuple):
    """What is recorded of an application."""

    records: list[Record]
    "in the order of arrival"
    timed: bool
    "what the jobs need is inferred from times: they say how they `ran`"


def records_by_app(jobs: Iterable[Job], app: str | None = None) -> dict[str, Lived]:
    """The records of each application, by name; of one with very many jobs the latest."""
    from hocket.beliefs.record import record_of

    kept: dict[str, deque[tuple[float, Record]]] = {}
    timed = set()
    for job in jobs:
        if (app is None or job.app == app) and (record := record_of(job)).steps:  # a gap is no step
            kept.setdefault(job.app, deque(maxlen=MOST_JOBS)).append((job.arrival_s, record))
            if any("ran" in stage.extra for stage in job.stages):
                timed.add(job.app)
    return {
        name: Lived([record for _, record in sorted(kept[name], key=lambda item: item[0])], name in timed)
        for name in sorted(kept)
    }


def _name(args: argparse.Namespace) -> str:
    return str(args.source if args.source != HISTORY else args.history or "the history")


@contextmanager
def _jobs(args: argparse.Namespace) -> Iterator[Iterator[Job]]:
    """The jobs to learn from. Raises InputError for a bad line, and while they are read."""
    from hocket.trace import iter_jobs

    if args.source == HISTORY:
        with _history(args) as jobs:
            yield jobs
        return
    if args.since or args.history or args.config:
        raise InputError("--since, --history and --config go with --from history; leave them out")
    yield _of_journal(args.source) if _is_journal(args.source) else iter_jobs(args.source)


@contextmanager
def _history(args: argparse.Namespace) -> Iterator[Iterator[Job]]:
    from hocket.cli.jobs import opened, since
    from hocket.history import read, traces
    from hocket.history.store import StoreError

    with opened(args) as connection:
        which = read.Filter(app=args.app, since=since(args.since))
        found = (one for one in read.recorded(connection, which) if one.job.state != "aborted")
        try:
            yield traces.to_jobs(found)
        except StoreError as error:
            raise InputError(f"{error}; nothing was learned") from None


def _is_journal(path: str) -> bool:
    """Whether a file begins as a journal does; iter_jobs says what is wrong with one that cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return file.read(11) == b'{"journal":'
    except OSError:
        return False


def _of_journal(path: str) -> Iterator[Job]:
    import math

    from hocket.history.traces import to_jobs
    from hocket.shadow.source import from_journal

    return to_jobs(one for one in from_journal(path, math.inf).jobs if one.job.state != "aborted")


def _declared(args: argparse.Namespace) -> Declared | None:
    from hocket.beliefs.declared import Declared
    from hocket.yamlfile import load_yaml

    if not args.graph:
        return None
    declared = load_yaml(args.graph, Declared, "docs/guides/learn.md")
    if args.app not in {None, declared.app}:
        raise InputError(f"{args.graph}: the graph of {declared.app!r}, but --app is {args.app!r}; name one of them")
    return declared


# -------------------------------------------------------------------- learning


def bayes() -> bool:
    """Whether Bayesian networks can be learned here: the extra `bayes`."""
    from importlib.util import find_spec

    return find_spec("pyagrum") is not None


def learn_all(
    records: Mapping[str, Lived],
    graphs: Mapping[str, Declared],
    processes: int | None = None,
    *,
    bins: int = 6,
    parents: int = 2,
) -> Iterator[Profile]:
    """The profile of each application, in their order, learned in a process of its own."""
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    from hocket.sim.workers import cores

    workers = min(processes or cores(), len(records))
    one = partial(_learn, bins=bins, parents=parents)
    if workers <= 1:
        yield from map(one, records, records.values(), map(graphs.get, records))
        return
    context = get_context("spawn")  # a fork of a process with the library's threads may hang
    with ProcessPoolExecutor(workers, context) as pool:
        try:
            yield from pool.map(one, records, records.values(), map(graphs.get, records))
        except BrokenProcessPool:
            raise InputError("a worker process was killed, perhaps for want of memory; use --processes 1") from None


def _learn(app: str, lived: Lived, declared: Declared | None, *, bins: int, parents: int) -> Profile:
    from hocket.beliefs.learn import learn

    graph = None if declared is None else declared.graph(lived.records)
    return learn(app, lived.records, graph, timed=lived.timed, network=bayes(), bins=bins, parents=parents)


# -------------------------------------------------------------------- printing


def _summary(profile: Profile, records: list[Record]) -> dict[str, Any]:
    """What is told of a profile: counts, means a job, and the bits of a new job that are not known."""
    from hocket.beliefs.summary import network_entropy

    steps = [[step for step in record.steps if step.model is not None] for record in records]
    stages = [node for node in profile.nodes if node.kind != "dynamic"]
    return {
        "app": profile.app,
        "jobs": profile.jobs,
        "stages": len(stages),
        "dynamic": [node.name for node in profile.nodes if node.kind == "dynamic"],
        "calls": sum(map(len, steps)) / len(steps),
        "prompt_tokens": sum(step.prompt_tokens for calls in steps for step in calls) / len(steps),
        "output_tokens": sum(step.output_tokens for calls in steps for step in calls) / len(steps),
        "entropy_bits": None if profile.network is None else network_entropy(profile.network),
    }


def _tell(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    import json

    if as_json:
        print(json.dumps({"profiles": rows}, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    from hocket.cli.jobs import console_for

    table = Table(title="means a job", title_justify="left")
    table.add_column("application", overflow="fold")
    for name in ("jobs", "stages", "dynamic", "calls", "tokens in", "out", "bits unknown"):
        table.add_column(name, justify="right")
    table.add_column("file", overflow="fold")
    for row in rows:
        means = [f"{row['calls']:.1f}", f"{row['prompt_tokens']:.0f}", f"{row['output_tokens']:.0f}"]
        means.append("" if row["entropy_bits"] is None else f"{row['entropy_bits']:.1f}")
        counts = (str(row["jobs"]), str(row["stages"]), str(len(row["dynamic"])))
        table.add_row(row["app"], *counts, *means, row["file"])
    console_for(Console).print(table)
