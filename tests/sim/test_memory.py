"""What a simulation leaves behind: nothing, though calls are not tracked by the garbage collector."""

from __future__ import annotations

import gc
import weakref

import pytest

from hocket.assembly import build
from hocket.sim.driver import Simulation
from hocket.sim.experiment import scheduler_spec, with_preemption
from hocket.sim.workloads import generate
from tests.sim.worlds import as_setup

LATENCY = {"q0": 0.01, "q2": 1e-4, "d0": 0.01, "d1": 1e-4}


@pytest.mark.parametrize("policy", ["fcfs", "urgency>las", "default", "carbyne", "llmsched"])
def test_a_scheduler_that_nobody_holds_is_gone(policy: str) -> None:
    """A stale entry of a heap would keep a call, and the call its engine, the queue and the scheduler."""
    engine = {"name": "e", "models": ["small", "medium", "large"], "max_concurrency": 2, "latency": LATENCY}
    setup = with_preemption(as_setup([engine]), "class")
    scheduler = build(scheduler_spec(setup, policy))
    Simulation(list(generate("mixed", 20, 5.0, 1)), setup.engines, scheduler).run()
    gone = weakref.ref(scheduler)
    del scheduler
    gc.collect()
    assert gone() is None
