"""`window: auto` through the whole core, in the simulator: what it reaches, and that a journal of it replays."""

from __future__ import annotations

import random
from itertools import count
from pathlib import Path

import msgspec
import pytest

from hocket.assembly import build, replay_journal
from hocket.core import events as ev
from hocket.core.commands import Command
from hocket.core.scheduler import Scheduler
from hocket.core.snapshot import restore, save
from hocket.errors import InputError
from hocket.journal import JournalWriter, encode
from hocket.sim.driver import Simulation
from hocket.sim.experiment import Setup, load_setup, scheduler_spec
from hocket.trace import Job, Stage

LATENCY = {"q0": 0.005, "q2": 2e-5, "d0": 0.02, "d1": 2e-5}


def setup(window: object, **more: object) -> Setup:
    engine = {"name": "e", "models": ["m"], "max_concurrency": 32, "latency": LATENCY, "window": window, **more}
    return msgspec.convert({"engines": [engine]}, Setup)


def jobs(number: int, seed: int = 1) -> list[Job]:
    rng = random.Random(seed)

    def stage() -> Stage:
        sizes = {"prompt_tokens": rng.randint(50, 300), "output_tokens": rng.randint(10, 90)}
        return Stage(id="s", name="s", kind="llm", model="m", **sizes)

    return [Job(job=f"j{i}", app="a", arrival_s=0.0, stages=[stage()]) for i in range(number)]


def run(setup: Setup, number: int) -> tuple[Scheduler, float]:
    """The scheduler at the end, and the makespan."""
    scheduler = build(scheduler_spec(setup, "call-fcfs"))
    outcome = Simulation(jobs(number), setup.engines, scheduler).run()
    assert len(outcome.jct_s) == number
    scheduler.check()
    return scheduler, outcome.makespan_s


def window_of(scheduler: Scheduler, replica: str = "e/0") -> int:
    search = scheduler.engines["e"].replicas[replica].search
    assert search is not None
    return search.home


def test_auto_finds_the_engines_own_limit() -> None:
    """The makespan of 150 s of work is that of the right window, but for the time that it took to find it."""
    scheduler, auto = run(setup("auto"), 4000)
    assert 30 <= window_of(scheduler) <= 36
    assert auto <= 1.1 * run(setup(32), 4000)[1]
    assert run(setup(8), 4000)[1] > 2.0 * auto


def test_each_replica_has_its_own_search() -> None:
    scheduler, _ = run(setup("auto", replicas=2), 6000)
    assert all(28 <= window_of(scheduler, name) <= 40 for name in ("e/0", "e/1"))


def test_a_replica_that_joins_begins_where_the_others_are() -> None:
    scheduler, _ = run(setup("auto"), 4000)
    home = window_of(scheduler)
    scheduler.handle(ev.ReplicaAdded(scheduler.now, "e", "new", 8))
    assert scheduler.engines["e"].replicas["new"].window == home


def test_it_replays_and_survives_a_restart_at_any_moment(tmp_path: Path) -> None:
    """The windows are decisions: a fresh core that reads the journal makes the same, and so does a restored one."""
    world = setup("auto", max_concurrency=12)
    journal = JournalWriter(tmp_path / "journal", scheduler_spec(world, "call-fcfs"))
    twins: list[Scheduler] = []
    seen, windows = 0, set[int]()

    def observe(event: ev.Event, commands: list[Command]) -> None:
        nonlocal seen
        journal.write(event, commands)
        for twin in twins:
            assert encode(event, commands) == encode(event, twin.handle(event))
        seen += 1
        if seen % 1500 == 0:
            twins.append(build(scheduler.spec))
            restore(twins[-1], msgspec.json.decode(msgspec.json.encode(save(scheduler))))
        windows.add(scheduler.engines["e"].replicas["e/0"].window)

    scheduler = build(scheduler_spec(world, "call-fcfs"))
    Simulation(jobs(600), world.engines, scheduler, observe=observe).run()
    journal.close()
    assert len(windows) > 3 and len(twins) > 2, "too little happened"
    assert replay_journal(tmp_path / "journal") is None
    assert all(save(twin) == save(scheduler) for twin in twins)


def test_calls_that_fail_or_go_do_not_stop_the_search() -> None:
    """Each measurement waits until all of its calls have told what they made: those that never will must not count."""
    spec = scheduler_spec(setup("auto"), "call-fcfs")
    scheduler, rng, at = build(spec), random.Random(1), 0.0
    scheduler.handle(ev.ReplicaAdded(0.0, "e", "r", 8))
    scheduler.handle(ev.JobOpened(0.0, "j", "a"))
    replica = scheduler.engines["e"].replicas["r"]
    names = count()
    for _ in range(4000):
        at += 0.01
        while scheduler.engines["e"].queued < 2:
            scheduler.handle(ev.CallArrived(at, f"c{next(names)}", "j", "s", "m", 10))
        held = [call.id for call in scheduler.calls.values() if call.replica is not None]
        call = rng.choice(held)
        match rng.randrange(8):
            case 0:
                scheduler.handle(ev.CallCancelled(at, call))
            case 1:
                scheduler.handle(ev.CallFailed(at, call, "status", 400))
            case 2:
                scheduler.handle(ev.CallFailed(at, call, "garbage", first_byte=True))
                scheduler.handle(ev.CallStreamed(at, rng.choice([c.id for c in scheduler.calls.values() if c.replica])))
            case _:
                scheduler.handle(ev.CallFinished(at, call, 10, 20))
        replica.failures = 0
        scheduler.check()
    assert replica.search is not None
    assert len(replica.search.told) <= replica.inflight, "an ended call is remembered"
    assert replica.search.at_home, "nothing was measured"


def test_a_fixed_window_costs_nothing() -> None:
    """Neither a search nor reports of progress that only a search wants."""
    for window in (None, 16):
        scheduler = build(scheduler_spec(setup(window), "call-fcfs"))
        scheduler.handle(ev.ReplicaAdded(0.0, "e", "r", 4))
        assert scheduler.engines["e"].replicas["r"].search is None
        assert not scheduler.wants_progress
    assert build(scheduler_spec(setup("auto"), "call-fcfs")).wants_progress


def test_a_window_may_differ_from_what_the_engine_runs_at_once() -> None:
    """A window of 4 on an engine that could run 32, and one of 64, which waits in the engine."""
    peaks = {}
    for window in (4, 64):
        world = setup(window)
        scheduler = build(scheduler_spec(world, "call-fcfs"))
        most = 0

        def observe(event: ev.Event, commands: list[Command]) -> None:
            nonlocal most
            most = max(most, scheduler.engines["e"].replicas["e/0"].inflight)  # noqa: B023

        Simulation(jobs(200), world.engines, scheduler, observe=observe).run()
        peaks[window] = most
    assert peaks == {4: 4, 64: 64}


@pytest.mark.parametrize(("window", "why"), [("0", "use 1 or more"), ("wide", "window")])
def test_a_bad_window_is_refused(tmp_path: Path, window: str, why: str) -> None:
    file = tmp_path / "engines.yaml"
    file.write_text(
        f"engines:\n  - {{name: e, models: [m], max_concurrency: 4, window: {window}, latency: {{d0: 0.01}}}}\n"
    )
    with pytest.raises(InputError, match=why):
        load_setup(str(file))


# ---------------------------------------------------------------- the settings change


def test_settings_switch_a_search_on_and_off() -> None:
    fixed, auto = (scheduler_spec(setup(window), "call-fcfs") for window in (8, "auto"))
    scheduler = build(fixed)
    scheduler.handle(ev.ReplicaAdded(0.0, "e", "r", 8))
    replica = scheduler.engines["e"].replicas["r"]
    scheduler.handle(ev.SettingsChanged(1.0, auto))
    assert replica.search is not None and scheduler.wants_progress
    scheduler.handle(ev.ReplicaAdded(1.0, "e", "r", 8))
    kept = replica.search
    scheduler.handle(ev.SettingsChanged(2.0, auto))
    assert replica.search is kept, "what was learned is kept over a reload"
    scheduler.handle(ev.SettingsChanged(3.0, fixed))
    scheduler.handle(ev.ReplicaAdded(3.0, "e", "r", 5))
    assert replica.search is None and replica.window == 5
    scheduler.check()


def test_while_hocket_only_observes_nothing_is_tried() -> None:
    spec = msgspec.structs.replace(scheduler_spec(setup("auto"), "call-fcfs"), observe=True)
    scheduler = build(spec)
    scheduler.handle(ev.ReplicaAdded(0.0, "e", "r", 8))
    assert scheduler.engines["e"].replicas["r"].search is None
