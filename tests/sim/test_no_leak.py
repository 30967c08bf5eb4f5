"""What has not happened cannot be read: sizes, durations and later prompts are sealed, and only the driver opens them.

A sealed number raises whatever is done with it outside of the simulator's own two modules. At the edge between driver
and core each event is looked through: a call that arrives may carry its prompt, a call that ended its sizes, no other
event a sealed number. So the core, the policies, the beliefs and the routings run on nothing but what has happened.
"""

from __future__ import annotations

import itertools
import sys
from typing import Any

import msgspec
import pytest

from hocket.assembly import build
from hocket.beliefs.profile import encode_profile
from hocket.cli.learn import learn_all, records_by_app
from hocket.core import events as ev
from hocket.core.commands import Command
from hocket.core.ordering import Fact, Scope, View
from hocket.core.scheduler import Scheduler
from hocket.core.state import Call
from hocket.policies import ORDERINGS, RECIPES, ROUTINGS
from hocket.sim.driver import Outcome, Simulation
from hocket.sim.experiment import Setup, capacity, scaled, scheduler_spec
from hocket.sim.workloads import MIXES, generate
from hocket.trace import Job
from tests.sim.worlds import as_setup

OPENERS = {"hocket.sim.driver", "hocket.sim.engine", __name__}
"modules that may use a sealed number"
MIX = "mixed"


class PeekError(Exception):
    """Somebody used what has not happened."""


class Sealed:
    """A number of the future."""

    __slots__ = ("_value",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, value: float) -> None:
        object.__setattr__(self, "_value", value)

    def __getattribute__(self, name: str) -> Any:
        return _opened(self, name)

    def __bool__(self) -> bool:
        return bool(_opened(self, "_value"))


def _opened(sealed: Sealed, name: str) -> Any:
    frame = sys._getframe(2)
    if frame.f_globals["__name__"] not in OPENERS:
        raise PeekError(f"{frame.f_globals['__name__']}.{frame.f_code.co_name} used what has not happened")
    return object.__getattribute__(sealed, name)


def _arithmetic(name: str) -> Any:
    def operator(self: Sealed, *others: Any) -> Any:
        plain = [_opened(other, "_value") if type(other) is Sealed else other for other in others]
        return getattr(_opened(self, "_value"), name)(*plain)

    return operator


for pair in itertools.product(("", "r"), ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow")):
    setattr(Sealed, f"__{''.join(pair)}__", _arithmetic(f"__{''.join(pair)}__"))
for one in ("lt", "le", "eq", "ne", "gt", "ge", "neg", "int", "float", "index", "round", "str", "repr", "format"):
    setattr(Sealed, f"__{one}__", _arithmetic(f"__{one}__"))


def value(sealed: Any) -> Any:
    return sealed._value if type(sealed) is Sealed else sealed


def sealed(job: Job) -> Job:
    """The same job, all of its numbers of the future sealed."""
    stages = []
    for stage in job.stages:
        numbers = {"prompt_tokens": Sealed(stage.prompt_tokens), "output_tokens": Sealed(stage.output_tokens)}
        if stage.duration_s is not None:
            numbers["duration_s"] = Sealed(stage.duration_s)
        stages.append(msgspec.structs.replace(stage, **numbers))
    return msgspec.structs.replace(job, stages=stages)


class Edge:
    """The scheduler, as the driver sees it: every event is looked through before the core gets it."""

    OPENED = {ev.CallArrived: {"prompt_tokens"}, ev.CallFinished: {"prompt_tokens", "output_tokens"}}

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scheduler, name)

    def handle(self, event: ev.Event) -> list[Command]:
        found = {name for name in event.__struct_fields__ if type(getattr(event, name)) is Sealed}
        if leaked := found - self.OPENED.get(type(event), set()):
            raise PeekError(f"the driver put {leaked} of the future into {type(event).__name__}")
        return self._scheduler.handle(
            msgspec.structs.replace(event, **{name: value(getattr(event, name)) for name in found})
        )


@pytest.fixture(scope="module")
def world() -> tuple[list[Job], Setup]:
    engine = {"name": "e", "models": ["small", "large"], "max_concurrency": 4, "replicas": 2, "prefix_cache": True}
    setup = as_setup([engine | {"latency": {"q0": 0.01, "q2": 1e-4, "d0": 0.01, "d1": 3e-4}}])
    jobs = [job for job in generate(MIX, 40, 1.0, 3) if len(job.stages) < 40]
    return scaled(jobs, 1.1 * capacity(jobs, setup)), setup


@pytest.fixture(scope="module")
def profiles() -> dict[str, str]:
    """Learned from other jobs, their networks as well."""
    trained = records_by_app(job for app in MIXES[MIX] for job in generate(app, 40, 1.0, 4))
    return {profile.app: encode_profile(profile).decode() for profile in learn_all(trained, {}, processes=2)}


def run(jobs: list[Job], setup: Setup, policy: str, profiles: dict[str, str], **more: Any) -> Outcome:
    spec = msgspec.structs.replace(scheduler_spec(setup, policy), routing=more.pop("routing", "least-loaded"))
    scheduler: Any = Edge(build(spec, more.pop("extra", None), profiles))
    return more.pop("driver", Simulation)(jobs, setup.engines, scheduler, **more).run()


@pytest.mark.parametrize("policy", [*ORDERINGS, *RECIPES])
def test_no_policy_sees_the_future(policy: str, world: tuple[list[Job], Setup], profiles: dict[str, str]) -> None:
    """Sealed or not, the same jobs end at the same times, so the seals were in nobody's way."""
    jobs, setup = world
    plain = run(jobs, setup, policy, profiles)
    blind = run([sealed(job) for job in jobs], setup, policy, profiles)
    assert plain.policy_error is blind.policy_error is None
    assert blind.jct_s == plain.jct_s
    assert len(blind.jct_s) == len(jobs)


@pytest.mark.parametrize("routing", ROUTINGS)
def test_no_routing_does(routing: str, world: tuple[list[Job], Setup]) -> None:
    jobs, setup = world
    plain, blind = (run(some, setup, "las", {}, routing=routing) for some in (jobs, [sealed(job) for job in jobs]))
    assert blind.jct_s == plain.jct_s


class Peeking:
    """An ordering that was handed the trace."""

    name = "peeking"
    scope = Scope.JOB
    reads: frozenset[Fact] = frozenset()

    def __init__(self, jobs: list[Job]) -> None:
        self._jobs = {job.job: job for job in jobs}

    def key(self, call: Call, view: View) -> tuple[Any, ...]:
        return (_all_tokens(self._jobs[call.job.id]),)


# as in a module of its own, which is none of the openers
_all_tokens: Any = eval("lambda job: sum(s.output_tokens for s in job.stages)", {"__name__": "policies.peeking"})


def test_a_policy_that_peeks_fails(world: tuple[list[Job], Setup]) -> None:
    jobs, setup = world
    unsealed = run(jobs, setup, "peeking", {}, extra={"peeking": Peeking(jobs)})
    assert unsealed.policy_error is None, "it works where nothing is sealed"
    poisoned = [sealed(job) for job in jobs]
    caught = run(poisoned, setup, "peeking", {}, extra={"peeking": Peeking(poisoned)})
    assert caught.policy_error is not None
    assert "policies.peeking" in caught.policy_error and "has not happened" in caught.policy_error
    assert caught.jct_s == run(jobs, setup, "call-fcfs", {}).jct_s, "its fallback took over"


class Telling(Simulation):
    """A driver that gives the size of an answer away as its prediction."""

    def _tell(self, event: ev.Event) -> None:
        if isinstance(event, ev.CallArrived):
            size = self._calls[event.call].stage.output_tokens
            event = msgspec.structs.replace(event, hint_output_tokens=size)
        super()._tell(event)


def test_a_driver_that_tells_fails(world: tuple[list[Job], Setup]) -> None:
    jobs, setup = world
    run(jobs, setup, "fcfs", {}, driver=Telling)
    with pytest.raises(PeekError, match="hint_output_tokens"):
        run([sealed(job) for job in jobs], setup, "fcfs", {}, driver=Telling)


def test_a_stage_is_visible_when_all_that_it_needs_has_ended(world: tuple[list[Job], Setup]) -> None:
    jobs, setup = world
    outcome = run(jobs, setup, "las", {}, record=frozenset(job.job for job in jobs))
    spans = {(span.job, span.stage): span for span in outcome.spans}
    assert len(spans) == sum(len(job.stages) for job in jobs)
    for job in jobs:
        for stage in job.stages:
            ends = [spans[job.job, need].ended for need in stage.needs]
            assert spans[job.job, stage.id].arrived == pytest.approx(max(ends, default=job.arrival_s))
