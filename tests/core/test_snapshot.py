"""A restored scheduler goes on as the saved one would have: the same commands, byte for byte."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest

from hocket.assembly import build, replay_journal
from hocket.core import events as ev
from hocket.core.scheduler import Scheduler
from hocket.core.snapshot import restore, save
from hocket.core.spec import EngineSpec, SchedulerSpec, TenantSpec
from hocket.core.state import CallState
from hocket.journal import JournalWriter, encode, read_journal


def random_event(rng: random.Random, s: Scheduler, at: float, number: int) -> ev.Event:
    """One event that could happen now."""
    jobs = [job for job in s.jobs.values() if not job.closed]
    in_slots = [call.id for call in s.calls.values() if call.state is not CallState.QUEUED]
    kind = rng.random()
    if kind < 0.2 or not jobs:
        return ev.JobOpened(at, f"j{number}", rng.choice("ab"), rng.choice("xy"), rng.randrange(5))
    if kind < 0.55:
        job = rng.choice(jobs)
        return ev.CallArrived(at, f"c{number}", job.id, "s", rng.choice(["m1", "m2"]), rng.randrange(99))
    if kind < 0.75 and in_slots:
        return ev.CallFinished(at, rng.choice(in_slots), 5, 5)
    if kind < 0.8 and in_slots:
        return ev.CallStreamed(at, rng.choice(in_slots))
    if kind < 0.86 and in_slots:
        return ev.CallFailed(at, rng.choice(in_slots), "status", rng.choice([429, 500]))
    if kind < 0.9:
        return ev.JobClosed(at, rng.choice(jobs).id, abort=rng.random() < 0.3)
    if kind < 0.93:
        return ev.ReplicaRemoved(at, "e1", rng.choice("pq"))
    if kind < 0.97:
        return ev.ReplicaAdded(at, rng.choice(["e1", "e2"]), rng.choice("pq"), rng.randrange(1, 4))
    return ev.Tick(at)


@pytest.mark.parametrize("policy", [("fcfs",), ("las",), ("urgency", "fair", "las"), ("sjf",)])
@pytest.mark.parametrize("seed", range(8))
def test_a_restored_scheduler_goes_on_as_the_saved_one(policy: tuple[str, ...], seed: int) -> None:
    """A journal was rotated in the middle of an incident: the newer file alone must replay."""
    spec = SchedulerSpec(
        [EngineSpec("e1", ["m1"]), EngineSpec("e2", ["m2"])],
        policy=policy,
        tenants=[TenantSpec("x", 3.0)],
        job_idle_s=2.0,
    )
    rng = random.Random(seed)
    first, at = build(spec), 0.0
    for number in range(400):
        at += rng.expovariate(10)
        first.handle(random_event(rng, first, at, number))
    second = build(spec)
    restore(second, msgspec.json.decode(msgspec.json.encode(save(first))))
    second.check()
    for number in range(400, 800):
        at += rng.expovariate(10)
        event = random_event(rng, first, at, number)
        assert encode(event, first.handle(event)) == encode(event, second.handle(event))
    second.check()
    assert save(first) == save(second)


def test_each_file_of_a_rotated_journal_replays_on_its_own(tmp_path: Path) -> None:
    """The incident was an hour ago; the gateway has written four files since."""
    spec = SchedulerSpec([EngineSpec("e1", ["m1"]), EngineSpec("e2", ["m2"])])
    scheduler, rng, at = build(spec), random.Random(1), 0.0
    journal = JournalWriter(tmp_path / "j", spec, max_bytes=20_000, keep=3)
    for number in range(1500):
        at += rng.expovariate(10)
        event = random_event(rng, scheduler, at, number)
        journal.write(event, scheduler.handle(event))
        if journal.full:
            journal.rotate(save(scheduler), spec)
    journal.close()
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["j", "j.1", "j.2", "j.3"]
    for file in files:
        header, records = read_journal(file)
        assert header.state is not None
        assert file == files[0] or len(list(records)) > 50
        assert replay_journal(file) is None


def test_what_an_application_said_of_a_call_is_there_for_an_ordering() -> None:
    """A length predictor's hint and the stage before: a policy may read them, also after a restart."""
    spec = SchedulerSpec([EngineSpec("e", ["m"])])
    scheduler, again = build(spec), build(spec)
    scheduler.handle(ev.JobOpened(0.0, "j", "app"))
    scheduler.handle(ev.CallArrived(0.0, "c", "j", "answer", "m", parent="plan", hint_output_tokens=40))
    restore(again, save(scheduler))
    for call in (scheduler.calls["c"], again.calls["c"]):
        assert (call.parent, call.hint_output_tokens) == ("plan", 40)


def other_settings(rng: random.Random) -> SchedulerSpec:
    """Engines come and go, and so do routings, limits and windows that are searched for."""
    auto = rng.random() < 0.7
    engines = [EngineSpec("e1", ["m1", "m2"], auto), EngineSpec("e2", ["m2"], auto)]
    return SchedulerSpec(
        engines if rng.random() < 0.5 else engines[::-1] if rng.random() < 0.5 else engines[:1],
        routing=rng.choice(["affinity", "affinity", "least-loaded"]),
        job_idle_s=5.0,
        queue_timeout_s=rng.choice([None, 1.0, 2.0]),
        observe=rng.random() < 0.1,
    )


@pytest.mark.parametrize("seed", range(40))
def test_a_restart_at_any_moment_changes_nothing(seed: int) -> None:
    """The twin is restored again and again; both hear of retries, prefixes, health and new settings."""
    rng = random.Random(seed)
    spec, at = other_settings(rng), 0.0
    first, twin = build(spec), build(spec)
    for number in range(400):
        at += rng.expovariate(10)
        event = random_event(rng, first, at, number)
        kind, engine = rng.random(), rng.choice(list(first.engines))
        match event:
            case ev.CallArrived():
                event = msgspec.structs.replace(event, model="m1", prefix=rng.choice([None, "p", "q", "r"]))
            case ev.ReplicaAdded() | ev.ReplicaRemoved():
                event = msgspec.structs.replace(event, engine=engine, replica=rng.choice("pqrs"))
        if kind < 0.05:
            event = ev.ReplicaObserved(at, engine, rng.choice("pqrs"), rng.random() < 0.8, rng.randrange(3), 1)
        elif kind < 0.1:
            spec = other_settings(rng)
            for name in first.engines.keys() - {engine.name for engine in spec.engines}:
                for replica in list(first.engines[name].replicas):
                    gone = ev.ReplicaRemoved(at, name, replica)
                    assert first.handle(gone) == twin.handle(gone)
            event = ev.SettingsChanged(at, spec)
        assert encode(event, first.handle(event)) == encode(event, twin.handle(event))
        if rng.random() < 0.1:
            twin = build(spec)
            restore(twin, msgspec.json.decode(msgspec.json.encode(save(first))))
        first.check()
        twin.check()


def test_a_routing_that_left_with_its_engine_is_not_restored() -> None:
    """The settings took an engine away that still holds a call, and brought affinity, whose table it never had."""
    both = SchedulerSpec([EngineSpec("e1", ["m1"]), EngineSpec("e2", ["m2"])])
    one = SchedulerSpec([EngineSpec("e1", ["m1"])], routing="affinity")
    scheduler, again = build(both), build(one)
    for event in (
        ev.ReplicaAdded(0.0, "e2", "r", 1),
        ev.JobOpened(0.0, "j", "app"),
        ev.CallArrived(0.0, "c", "j", "s", "m2"),
        ev.ReplicaRemoved(0.0, "e2", "r"),
        ev.SettingsChanged(0.0, one),
    ):
        scheduler.handle(event)
    restore(again, save(scheduler))
    again.check()
    assert again.handle(ev.CallFinished(1.0, "c")) == scheduler.handle(ev.CallFinished(1.0, "c")) == []


def test_a_retry_that_was_placed_anew_has_failed_nowhere() -> None:
    """Replicas of two engines may have one name: what failed on the one says nothing about the other."""
    one, other = (SchedulerSpec([EngineSpec(name, ["m"])]) for name in ("e1", "e2"))
    scheduler, again = build(one), build(other)
    for event in (
        ev.ReplicaAdded(0.0, "e1", "r", 1),
        ev.JobOpened(0.0, "j", "app"),
        ev.CallArrived(0.0, "c", "j", "s", "m"),
        ev.CallFailed(0.0, "c", "connect"),
        ev.ReplicaRemoved(0.0, "e1", "r"),
        ev.SettingsChanged(0.0, other),
    ):
        scheduler.handle(event)
    restore(again, save(scheduler))
    assert again.calls["c"].failed_on is scheduler.calls["c"].failed_on is None
