"""Random events, sensible, late and wrong, never break what must always be true.

The windows hold; the call that is sent has the smallest key; no slot is idle while a call waits for it; every arrival
ends in exactly one of finished, rejected, aborted and cancelled; equal events give equal commands, byte for byte, also
after a restart from a snapshot; when all is over nothing is left.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from hocket.core import events as ev
from hocket.core.snapshot import save
from hocket.core.spec import AdmissionSpec
from tests.properties.world import WAITS, World, engine_of, spec_of

POLICIES = [
    ["fcfs"],
    ["call-fcfs"],
    ["default"],
    ["fair"],
    ["sjf"],
    ["urgency", "fcfs"],
    ["urgency", "las"],
    ["fair", "sjf", "las"],
    ["fair-share", "sjf", "las"],
    ["urgency:strict=1:within_s=2", "fair-share:tolerance=0:half_life_s=4:applications=0", "las"],
    ["fair-share:tolerance=1:half_life_s=60", "flaky"],
    ["urgency", "fair", "las"],
    ["urgency:strict=0:within_s=2", "las"],
    ["urgency:strict=1:ratio=8:within_s=1", "fair", "fcfs"],
    ["urgency", "flaky"],
    ["fair", "flaky"],
]
WHICH = st.integers(0, 50)
"picks one of whatever there is"
LATER = st.sampled_from([0, 0, 1, 7, 64, 200]).map(lambda n: n / 64)
"seconds until something happens; sums of these are exact"
ACROSS = st.sampled_from([None, "class", "class", "key"])
"what running calls are displaced across"
LIMITS = st.sampled_from(
    [
        None,
        None,
        AdmissionSpec(queue=2, held_bytes=30, wait_s=1.0),
        AdmissionSpec(calls=3, jobs=3, tokens_per_minute=600.0, wait_s=0.25),
    ]
)
"what may be open at once"
FAILURES = st.sampled_from(
    [(kind, 0) for kind in ("connect", "reset", "timeout", "garbage", "cosmic")]
    + [("status", status) for status in (400, 404, 429, 429, 429, 500, 503)]
)


class Machine(RuleBasedStateMachine):
    """Two engines of up to three replicas, three tenants, four applications."""

    @initialize(
        policy=st.sampled_from(POLICIES),
        idle_s=st.sampled_from([2.0, 1000.0]),
        routed=st.booleans(),
        windows=st.lists(st.integers(0, 3), min_size=2, max_size=2),
        across=ACROSS,
        limits=LIMITS,
    )
    def begin(
        self, policy: list[str], idle_s: float, routed: bool, windows: list[int], across: Any, limits: Any
    ) -> None:
        self.world = World(policy, idle_s, routed, across, limits)
        self.names = 0
        for engine, window in zip(("e1", "e2"), windows, strict=True):
            if window:
                self.add_replica(engine, 0, window, 0.0)

    def name(self, prefix: str) -> str:
        self.names += 1
        return f"{prefix}{self.names}"

    def pick(self, names: list[str], which: int) -> str:
        return names[which % len(names)]

    def after(self, seconds: float) -> float:
        self.world.now += seconds
        return self.world.now

    # ---------------------------------------------------------------- what there is to choose from

    def in_slots(self) -> list[str]:
        return [call for call, where in self.world.open.items() if where != WAITS]

    def waiting(self) -> list[str]:
        return [call for call, where in self.world.open.items() if where == WAITS]

    def jobs(self) -> list[str]:
        return list(self.world.scheduler.jobs)

    # ---------------------------------------------------------------- what happens

    @rule(app=WHICH, tenant=st.sampled_from("xyz"), urgency=st.integers(0, 4), later=LATER)
    def open_job(self, app: int, tenant: str, urgency: int, later: float) -> None:
        job = self.name("j")
        self.world.heard[job] = self.after(later)
        self.world.tell(ev.JobOpened(self.world.now, job, f"app-{app % 4}", tenant, urgency))

    @rule(urgency=st.sampled_from([0, 0, 1, 4, 4]), count=st.integers(1, 3), resumable=st.booleans(), later=LATER)
    def job_comes_with_calls(self, urgency: int, count: int, resumable: bool, later: float) -> None:
        """So that there are often calls of classes that displace each other."""
        self.open_job(0, "z", urgency, later)
        more = {"prefix": None, "resumable": resumable}
        self.calls_arrive(len(self.jobs()) - 1, count, "m1", "s", None, more, 0.0)

    @precondition(jobs)
    @rule(
        which=WHICH,
        count=st.integers(1, 4),
        model=st.sampled_from(["m1", "m1", "m2", "both", "none"]),
        stage=st.sampled_from(["s", "long"]),
        urgency=st.none() | st.integers(0, 4),
        more=st.fixed_dictionaries(
            {
                "prefix": st.sampled_from([None, "p", "q"]),
                "resumable": st.booleans(),
                "bytes": st.sampled_from([0, 5, 20]),
            }
        ),
        later=LATER,
    )
    def calls_arrive(
        self, which: int, count: int, model: str, stage: str, urgency: int | None, more: dict[str, Any], later: float
    ) -> None:
        job, world = self.pick(self.jobs(), which), self.world
        self.after(later)
        engine = engine_of(world.spec, stage, model)
        for _ in range(count):
            call = self.name("c")
            world.open[call], world.job_of[call], world.engine_of[call] = WAITS, job, engine or ""
            world.asked[call], world.since[call] = (stage, model), world.now
            world.resumable |= {call} if more["resumable"] else set()
            world.tell(ev.CallArrived(world.now, call, job, stage, model, 10, urgency=urgency, **more))
            assert (world.ended.get(call) == "rejected 404") == (engine is None)

    @precondition(in_slots)
    @rule(which=WHICH, later=LATER)
    def call_streams(self, which: int, later: float) -> None:
        call, at = self.pick(self.in_slots(), which), self.after(later)
        self.world.tell(ev.CallStarted(at, call))
        self.world.charge(call)
        self.world.begun.add(call)
        if call not in self.world.resumable:  # it was not taken off before its first byte, so it stays
            self.world.leaving.discard(call)
        self.world.tell(ev.CallStreamed(at, call, 3))

    @precondition(in_slots)
    @rule(which=WHICH, later=LATER)
    def call_finishes(self, which: int, later: float) -> None:
        call, at = self.pick(self.in_slots(), which), self.after(later)
        self.world.finish(call, at)

    @precondition(in_slots)
    @rule(
        which=WHICH,
        failure=FAILURES,
        first_byte=st.sampled_from([False, False, False, True]),
        retry_after_s=st.sampled_from([None, None, 0.0, 0.5, 9.0]),
        later=LATER,
    )
    def call_fails(
        self, which: int, failure: tuple[str, int], first_byte: bool, retry_after_s: float | None, later: float
    ) -> None:
        call = self.pick(self.in_slots(), which)
        self.after(later)
        self.world.fail(call, *failure, first_byte, retry_after_s)

    @precondition(lambda self: self.world.open)
    @rule(which=WHICH, later=LATER)
    def client_leaves(self, which: int, later: float) -> None:
        call, at = self.pick(list(self.world.open), which), self.after(later)
        self.world.end(call, "cancelled")
        self.world.tell(ev.CallCancelled(at, call))

    @precondition(in_slots)
    @rule(which=WHICH, kept=st.sampled_from([0, 5]), later=LATER)
    def call_is_preempted(self, which: int, kept: int, later: float) -> None:
        self.world.displace(self.pick(self.in_slots(), which), self.after(later), kept)

    @precondition(lambda self: self.world.leaving)
    @rule(which=WHICH, kept=st.sampled_from([0, 5]), later=LATER)
    def driver_obeys(self, which: int, kept: int, later: float) -> None:
        self.world.displace(self.pick(sorted(self.world.leaving), which), self.after(later), kept)

    @precondition(lambda self: self.world.open)
    @rule(which=WHICH, urgency=st.none() | st.integers(0, 4))
    def call_is_revised(self, which: int, urgency: int | None) -> None:
        call = self.pick(list(self.world.open), which)
        self.world.tell(ev.CallRevised(self.world.now, call, urgency, {"length": 1.0}))

    @precondition(jobs)
    @rule(which=WHICH, abort=st.booleans(), later=LATER)
    def job_closes(self, which: int, abort: bool, later: float) -> None:
        job, at = self.pick(self.jobs(), which), self.after(later)
        self.world.tell(ev.JobClosed(at, job, abort, "aborted" if abort else "closed"))
        assert not (abort and job in self.world.job_of.values())

    @precondition(lambda self: self.world.closing)
    @rule(later=LATER)
    def idle_job_closes(self, later: float) -> None:
        self.world.tell(ev.JobClosed(self.after(later), self.world.closing.pop(), reason="idle"))

    @precondition(jobs)
    @rule(which=WHICH, later=LATER)
    def tool_runs(self, which: int, later: float) -> None:
        job, at = self.pick(self.jobs(), which), self.after(later)
        self.world.heard[job] = at
        self.world.tell(ev.ToolStarted(at, job, "run", "search"))
        self.world.tell(ev.ToolFinished(at, job, "run"))

    @rule(engine=st.sampled_from(["e1", "e2"]), which=st.integers(0, 2), window=st.integers(0, 4), later=LATER)
    def add_replica(self, engine: str, which: int, window: int, later: float) -> None:
        replica = f"r{which}"
        if engine not in self.world.scheduler.engines:
            return
        self.world.windows[engine, replica] = window
        self.world.misses[engine, replica] = 0
        self.world.tell(ev.ReplicaAdded(self.after(later), engine, replica, window))

    @precondition(lambda self: self.world.windows)
    @rule(which=WHICH, died=st.booleans(), later=LATER)
    def remove_replica(self, which: int, died: bool, later: float) -> None:
        where = list(self.world.windows)[which % len(self.world.windows)]
        del self.world.windows[where]
        self.world.tell(ev.ReplicaRemoved(self.after(later), *where, died))
        if died:
            for call in [call for call, at in self.world.open.items() if at == where]:
                self.world.fail(call, "reset", 0, False, None)

    @precondition(lambda self: self.world.wakes)
    @rule(late=LATER)
    def wake_up(self, late: float) -> None:
        self.world.now = max(self.world.now, min(self.world.wakes) + late)
        self.world.tick(self.world.now)

    @rule(later=LATER)
    def tick_for_nothing(self, later: float) -> None:
        self.world.tick(self.after(later))

    @precondition(lambda self: self.world.ended)
    @rule(which=WHICH, later=LATER)
    def late_news(self, which: int, later: float) -> None:
        call, at = self.pick(list(self.world.ended), which), self.after(later)
        for news in (ev.CallStarted, ev.CallStreamed, ev.CallFinished, ev.CallPreempted, ev.CallCancelled):
            assert self.world.tell(news(at, call)) == []
        assert self.world.tell(ev.CallFailed(at, call, "status", 429)) == []

    @precondition(waiting)
    @rule(which=WHICH)
    def impossible_news(self, which: int) -> None:
        call, at = self.pick(self.waiting(), which), self.world.scheduler.now
        before = save(self.world.scheduler)
        impossible = [news(at, call) for news in (ev.CallStarted, ev.CallStreamed, ev.CallFinished, ev.CallPreempted)]
        for event in (*impossible, ev.CallFailed(at, call, "reset"), ev.JobOpened(at, self.jobs()[0], "app")):
            with pytest.raises(ValueError, match=r"waiting|twice"):
                self.world.scheduler.handle(event)
        assert save(self.world.scheduler) == before

    @precondition(lambda self: self.world.windows)
    @rule(which=WHICH, healthy=st.booleans(), running=st.none() | st.integers(0, 3), later=LATER)
    def health_is_checked(self, which: int, healthy: bool, running: int | None, later: float) -> None:
        self.after(later)
        where = list(self.world.windows)[which % len(self.world.windows)]
        self.world.observe(where, healthy, running, None if running is None else 1)

    @rule(
        policy=st.sampled_from([policy for policy in POLICIES if "flaky" not in policy]),
        routed=st.booleans(),
        both=st.booleans(),
        timeout_s=st.sampled_from([None, 1.0, 5.0]),
        more=st.fixed_dictionaries(
            {
                "routing": st.sampled_from(["least-loaded", "affinity", "affinity"]),
                "auto": st.booleans(),
                "observe": st.sampled_from([False, False, False, True]),
                "across": ACROSS,
                "limits": LIMITS,
            }
        ),
        later=LATER,
    )
    def settings_change(
        self, policy: list[str], routed: bool, both: bool, timeout_s: float | None, more: dict[str, Any], later: float
    ) -> None:
        self.after(later)
        self.world.change(spec_of(policy, self.world.spec.job_idle_s, routed, both, timeout_s, **more))

    @rule()
    def journal_rotates(self) -> None:
        self.world.rotate()

    @rule()
    def policy_breaks(self) -> None:
        for flaky in self.world.flaky:
            flaky.broken = True

    # ---------------------------------------------------------------- the end

    def teardown(self) -> None:
        """All work is done, all jobs are closed: nothing may be left."""
        if not hasattr(self, "world"):
            return
        world = self.world
        world.change(spec_of(["fcfs"], world.spec.job_idle_s, False))
        for engine in ("e1", "e2"):
            self.add_replica(engine, 0, 3, 20.0)
        world.tick(world.now)
        while world.open:
            world.finish(self.in_slots()[0], world.now)
        for job in self.jobs():
            world.tell(ev.JobClosed(world.now, job))
        assert not world.scheduler.jobs
        for tenant in world.scheduler.tenants.values():
            assert tenant.running == 0
        for engine in world.scheduler.engines.values():
            assert not engine.queue and not engine.queue._nodes and not engine.queue._root.children
        assert len(world.scheduler._timers.idle.entries) <= 16 + 2 * self.names


FAST = settings(
    max_examples=150,
    stateful_step_count=50,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def test_random_events_never_break_what_must_be_true() -> None:
    run_state_machine_as_test(Machine, settings=FAST)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_many_more_random_events() -> None:
    """New ones on every run, but on CI: what it finds there should be what a change broke."""
    run_state_machine_as_test(Machine, settings=settings(FAST, max_examples=400, derandomize="CI" in os.environ))
