"""Spec -> Scheduler. The gateway and the simulator both build theirs here, so both run the same object."""

from __future__ import annotations

from collections.abc import Mapping

from hocket.core.ordering import Ordering
from hocket.core.scheduler import Scheduler
from hocket.core.spec import SchedulerSpec
from hocket.errors import InputError
from hocket.policies import compose, routing


def build(spec: SchedulerSpec, extra: Mapping[str, Ordering] | None = None) -> Scheduler:
    """A scheduler as `spec` says. `extra` adds orderings by name (the simulator's `oracle`).

    Raises InputError for an unknown policy, a bad composition or a route to an unknown engine.
    """
    names = {engine.name for engine in spec.engines}
    for route in spec.routes:
        if route.engine not in names:
            raise InputError(f"routes: unknown engine '{route.engine}'; known: {', '.join(sorted(names))}")
    return Scheduler(spec, compose(spec.policy, extra), compose(["call-fcfs"]), routing(spec.routing))
