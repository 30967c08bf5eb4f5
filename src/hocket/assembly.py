"""Spec -> Scheduler. The gateway and the simulator both build theirs here, so both run the same object.

And journal -> the same scheduler once more: fed the same events, it must give the same commands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from hocket.core.belief import Beliefs, World
from hocket.core.events import ProfileReplaced
from hocket.core.ordering import Fact, Ordering
from hocket.core.preemption import check_preemption
from hocket.core.scheduler import Scheduler
from hocket.core.slots import Policy
from hocket.core.snapshot import restore
from hocket.core.spec import SchedulerSpec
from hocket.errors import InputError
from hocket.journal import read_journal
from hocket.policies import compose, routing


def build(
    spec: SchedulerSpec, extra: Mapping[str, Ordering] | None = None, profiles: Mapping[str, str] | None = None
) -> Scheduler:
    """A scheduler as `spec` says. `extra` adds orderings by name (the simulator's `oracle`).

    `profiles`: application -> text of its profile, taken in before anything happens; a driver whose journal is to
    replay by itself sends them as ProfileReplaced events instead.

    Raises InputError for an unknown policy, a bad composition, a route to an unknown engine or a bad profile.
    """
    names = {engine.name for engine in spec.engines}
    for route in spec.routes:
        if route.engine not in names:
            raise InputError(f"routes: unknown engine '{route.engine}'; known: {', '.join(sorted(names))}")

    def policy_of(spec: SchedulerSpec) -> Policy:
        orderings = compose(spec.policy, extra, spec.parameters)
        if spec.preemption is not None:
            try:
                check_preemption(spec.preemption, orderings)
            except ValueError as error:
                raise InputError(f"policy {' > '.join(spec.policy)}: {error}") from None
        return Policy(orderings, compose(["call-fcfs"]), routing(spec.routing), _beliefs(orderings))

    scheduler = Scheduler(spec, policy_of)
    for app, profile in (profiles or {}).items():
        try:
            scheduler.handle(ProfileReplaced(0.0, app, profile))
        except ValueError as error:
            raise InputError(f"profile of {app!r}: {error}") from None
    return scheduler


def _beliefs(orderings: Sequence[Ordering]) -> Callable[[World], Beliefs] | None:
    """What makes the beliefs, where an ordering reads them. (numpy is imported only then.)"""
    if not any(Fact.BELIEF in ordering.reads for ordering in orderings):
        return None
    from hocket.beliefs.tracker import Tracker

    return Tracker


class Difference(msgspec.Struct):
    """Where a replay parts from its journal."""

    line: int
    event: str
    recorded: str
    replayed: str

    def __str__(self) -> str:
        return f"line {self.line}: after {self.event}\n  recorded: {self.recorded}\n  replayed: {self.replayed}"


def replay_journal(
    path: str | Path,
    extra: Mapping[str, Ordering] | None = None,
    each: Callable[[Scheduler], None] = lambda scheduler: None,
) -> Difference | None:
    """Feed a journal's events to a fresh core. None if every command is the same, else the first difference.

    `each` is called after each event.
    """
    header, records = read_journal(path)
    scheduler = build(header.spec, extra)
    if header.state is not None:
        restore(scheduler, header.state)
    for number, record in records:
        try:
            commands = scheduler.handle(record.event)
        except ValueError as error:
            raise InputError(f"{path}:{number}: cannot follow the lines before it ({error}); is one missing?") from None
        each(scheduler)
        recorded, replayed = msgspec.json.encode(record.commands), msgspec.json.encode(commands)
        if recorded != replayed:
            return Difference(number, repr(record.event), recorded.decode(), replayed.decode())
    return None
