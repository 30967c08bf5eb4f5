"""What was believed of a job, event by event, beside what came of it: `hocket profile explain`.

A journal is replayed into a fresh core, so that what is told is what was believed. Where its policy asked for no
beliefs, and for a job of a trace or of the history, the job runs once more, alone and in virtual time, and what is told
is what the profile would have had believed.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from hocket.core import events as ev
from hocket.errors import InputError

if TYPE_CHECKING:
    from hocket.core.scheduler import Scheduler
    from hocket.sim.experiment import Setup
    from hocket.trace import Job

SLOTS = 1024
"calls at once of an engine that a job has to itself"


class Row(NamedTuple):
    """What was believed after one event. Seconds of engine work, each call with an engine to itself."""

    at_s: float
    "since the job's arrival"
    event: str
    remaining_s: float
    low_s: float
    high_s: float
    network_s: float | None
    "what the Bayesian network expects; None without one"
    attained_s: float


class Account:
    """Watches a scheduler, and keeps what it believes of one job."""

    def __init__(self, job: str) -> None:
        self.job = job
        self.rows: list[Row] = []
        self.app = ""
        self.over = False
        self._began = 0.0
        self._calls: dict[str, str] = {}
        "calls of the job -> their stage"
        self._runs: dict[str, str] = {}

    def saw(self, scheduler: Scheduler, event: ev.Event) -> None:
        """The scheduler has taken in this event."""
        said = self._said(event)
        if said is None:
            return
        job = scheduler.jobs.get(self.job)
        belief = None if job is None else job.belief
        if belief is not None:
            low, high = belief.interval_s
            network = None if belief.posterior is None else belief.posterior.remaining_s
            self.rows.append(
                Row(event.at - self._began, said, belief.remaining_s, low, high, network, belief.attained_s)
            )

    def _said(self, event: ev.Event) -> str | None:
        """The event in words; None if it is about something else, or tells nothing."""
        match event:
            case ev.JobOpened(job=self.job):
                self._began, self.app, self.over = event.at, event.app, False
                self.rows.clear()
                return "the job arrives"
            case ev.JobClosed(job=self.job):
                self.over = True
            case ev.CallArrived(job=self.job):
                self._calls[event.call] = event.stage
                return f"{event.stage} arrives, prompt {event.prompt_tokens}"
            case ev.CallFinished() if event.call in self._calls:
                return f"{self._calls.pop(event.call)} ends, answer {event.output_tokens}"
            case ev.CallCancelled() if event.call in self._calls:
                return f"{self._calls.pop(event.call)} is cancelled"
            case ev.ToolStarted(job=self.job):
                self._runs[event.run] = event.name
                return f"{event.name} begins"
            case ev.ToolFinished(job=self.job):
                return f"{self._runs.pop(event.run, 'a tool')} ends"
        return None

    def truths(self) -> Iterator[tuple[Row, float | None]]:
        """Each row, and the work that was left then in truth; None while the job is not over."""
        total = self.rows[-1].attained_s if self.rows and self.over else None
        for row in self.rows:
            yield row, None if total is None else max(0.0, total - row.attained_s)


def run(args: argparse.Namespace) -> int:
    if args.journal and args.trace:
        raise InputError("--journal and --trace: two places to look; give one of them")
    account = _of_journal(args) if args.journal else None
    replayed = account is not None
    if account is None:
        account = _alone(_job(args), args)
    if args.json:
        _print_json(account, replayed=replayed)
    else:
        _print(account, replayed=replayed)
    return 0


# -------------------------------------------------------------------- as it was


def _of_journal(args: argparse.Namespace) -> Account | None:
    """What was believed. None if the journal's policy asked for no beliefs."""
    from hocket.assembly import build
    from hocket.core.snapshot import restore
    from hocket.journal import read_journal

    header, records = read_journal(args.journal)
    scheduler = build(header.spec)
    if header.state is not None:
        restore(scheduler, header.state)
    account, seen = None, False
    for number, record in records:
        event = record.event
        if isinstance(event, ev.JobOpened) and _named(event, args.job, prefixed=bool(header.spec.tenants)):
            account, seen = Account(event.job), True
        try:
            scheduler.handle(event)
        except ValueError as error:
            where = f"{args.journal}:{number}"
            raise InputError(f"{where}: cannot follow the lines before it ({error}); is one missing?") from None
        if account is not None:
            account.saw(scheduler, event)
    if not seen:
        raise InputError(f"{args.journal}: no job {args.job!r} begins in it; an older file may have it")
    return account if account is not None and account.rows else None


def _named(event: ev.JobOpened, job: str, *, prefixed: bool) -> bool:
    """Whether this is the job that its client calls so: with tenants, ids begin with theirs."""
    return event.job == job or (prefixed and event.job == f"{event.tenant}/{job}")


# -------------------------------------------------------------------- once more, alone


def _job(args: argparse.Namespace) -> Job:
    """The job as a trace tells it. Raises InputError."""
    from hocket.history.traces import to_jobs
    from hocket.trace import iter_jobs

    if args.trace:
        found = [job for job in iter_jobs(args.trace) if job.job == args.job]
        where = args.trace
    elif args.journal:
        from hocket.shadow.source import from_journal

        found = [job for job in to_jobs(from_journal(args.journal, math.inf).jobs) if job.job == args.job]
        where = args.journal
    else:
        from hocket.cli.jobs import opened
        from hocket.history.read import named

        with opened(args) as connection:
            found = list(to_jobs(named(connection, args.job, args.tenant)))
        where = "the history"
    if not found:
        raise InputError(f"{where}: no job {args.job!r} that ended; `hocket jobs ls` lists those of the history")
    return found[0]


def _alone(job: Job, args: argparse.Namespace) -> Account:
    """The job runs with all engines to itself."""
    from hocket.assembly import build
    from hocket.beliefs.profile import encode_profile
    from hocket.cli.profile import profile_of
    from hocket.sim.driver import Simulation
    from hocket.sim.experiment import load_setup, scheduler_spec

    setup = load_setup(args.engines) if args.engines else _any_engine(job)
    profile = encode_profile(profile_of(job.app, args.profiles)).decode()
    scheduler = build(scheduler_spec(setup, "hocket"), profiles={job.app: profile})
    account = Account(job.job)
    outcome = Simulation([job], setup.engines, scheduler, observe=lambda e, _: account.saw(scheduler, e)).run()
    if job.job in outcome.rejected:
        raise InputError(f"{args.engines}: the job cannot run there ({outcome.rejected[job.job]})")
    return account


def _any_engine(job: Job) -> Setup:
    """An engine for all that the job asks for, at the pace that is taken for granted where nothing is known."""
    from hocket.beliefs.tracker import DEFAULT_PACE
    from hocket.sim.experiment import Setup
    from hocket.sim.model import EngineModel

    models = sorted({stage.model for stage in job.stages if stage.model}) or ["any"]
    return Setup(engines=[EngineModel(name="any", models=models, max_concurrency=SLOTS, latency=DEFAULT_PACE)])


# -------------------------------------------------------------------- printing


def _print_json(account: Account, *, replayed: bool) -> None:
    import json

    rows = [row._asdict() | {"truth_s": truth} for row, truth in account.truths()]
    told = {"job": account.job, "app": account.app, "over": account.over, "replayed": replayed, "events": rows}
    print(json.dumps(told, indent=1))


def _print(account: Account, *, replayed: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from hocket.cli.jobs import console_for

    how = "as it was believed" if replayed else "as its profile has it, the job alone on its engines"
    print(f"{account.job} of {account.app}: {how}; seconds of engine work that are left, tools not counted")
    table = Table()
    table.add_column("at", justify="right")
    table.add_column("after", overflow="fold")
    network = any(row.network_s is not None for row in account.rows)
    for name in ("expected", "between", "and", *(["by the network"] if network else []), "in truth"):
        table.add_column(name, justify="right")
    for row, truth in account.truths():
        seconds = [row.remaining_s, row.low_s, row.high_s, *([row.network_s] if network else []), truth]
        table.add_row(f"{row.at_s:.2f}", row.event, *("" if left is None else f"{left:.2f}" for left in seconds))
    console_for(Console).print(table)
    if not account.over:
        print("the job is not over: what was left in truth is not known")
