"""What there is to plan for: recorded jobs with declared rates, or both as a gateway's history has them."""

from __future__ import annotations

import argparse
import sys
from collections import deque
from typing import TYPE_CHECKING

from hocket.errors import InputError

if TYPE_CHECKING:
    from hocket.planner.demand import Demand
    from hocket.trace import Job

MOST_JOBS = 2000
"of an application, the latest: graphs are kept of a few dozen, and the simulator draws from all"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--jobs", metavar="FILE", help="a trace: what the applications do")
    parser.add_argument(
        "--history",
        nargs="?",
        const="",
        metavar="URL",
        help="instead: jobs and rates of a gateway's history, live or not",
    )
    parser.add_argument("--config", metavar="FILE", help="with --history: the settings of the gateway that is meant")
    parser.add_argument(
        "--since", metavar="AGE", help="with --history: what arrived in the last 30m, 12h, 7d, or since"
    )
    parser.add_argument(
        "--rates",
        metavar="FILE",
        help="apps.yaml: how often each is asked for; with --history: where it is not as it was",
    )


def demand_from(args: argparse.Namespace) -> Demand:
    """Raises InputError."""
    from hocket.planner.demand import demand_of, load_rates
    from hocket.trace import read_jobs

    if (args.jobs is None) == (args.history is None):
        raise InputError("--jobs FILE or --history [URL]: give one of them, it says what the applications do")
    if args.history is not None:
        return _lived(args)
    if args.since or args.config:
        raise InputError("--since and --config go with --history; leave them out")
    if args.rates is None:
        raise InputError("--rates FILE: needed with --jobs; a trace does not say how often each is asked for")
    return demand_of(read_jobs(args.jobs), load_rates(args.rates))


def _lived(args: argparse.Namespace) -> Demand:
    """Jobs of the history, and jobs a second while a gateway recorded; `--rates` has the last word."""
    from hocket.cli.jobs import opened, since
    from hocket.history import read, traces
    from hocket.history.store import StoreError
    from hocket.planner.demand import App, Rates, demand_of, load_rates
    from hocket.trace import PROBE

    given = {} if args.rates is None else {app.name: app for app in load_rates(args.rates).apps}
    begin = since(args.since)
    by_app: dict[str, deque[Job]] = {}
    with opened(args) as connection:
        try:
            found = read.arrivals(connection, begin)
            which = (one for one in read.recorded(connection, read.Filter(since=begin)) if one.job.state != "aborted")
            for job in traces.to_jobs(which):
                if job.app != PROBE:
                    by_app.setdefault(job.app, deque(maxlen=MOST_JOBS)).append(job)
        except StoreError as error:
            raise InputError(f"{error}; nothing was planned") from None
    # Jobs that call no model are among those that arrive: they stay, where others of their application do call one.
    by_app = {app: own for app, own in by_app.items() if any(map(_calls, own))}
    name = args.history or "the history"
    if not by_app and not given:
        raise InputError(f"{name}: no job that ended and called a model; ask for a longer time with --since")
    if not found.seconds and by_app.keys() - given.keys():
        raise InputError(f"{name}: it covers no time, so it has no rates; give them with --rates")
    rates = {app: App(app, found.jobs[app] / found.seconds) for app in sorted(by_app) if app not in given} | given
    for app in sorted(found.jobs.keys() - rates.keys() - {PROBE}):
        print(f"hocket plan: '{app}' is left out: none of its jobs ended and called a model", file=sys.stderr)
    return demand_of([job for own in by_app.values() for job in own], Rates(list(rates.values())))


def _calls(job: Job) -> bool:
    """Whether it calls a model."""
    return any(stage.kind == "llm" for stage in job.stages)
