"""A profile's network in a scheduler: which job reads which, through replacements, reloads, drift and snapshots."""

from __future__ import annotations

import json

import pytest

from hocket.assembly import build
from hocket.beliefs.profile import Network, Profile, encode_profile
from hocket.core import events as ev
from hocket.core.latency import Latency
from hocket.core.snapshot import restore, save
from hocket.core.spec import EngineSpec, SchedulerSpec
from tests.beliefs.networks import variable
from tests.beliefs.worlds import Live, chain


def text(*sizes: float) -> str:
    """An application of one call, of these sizes alike."""
    share = [1 / len(sizes)] * len(sizes)
    network = Network(variables=[variable("ask", sizes, [*share, 0.0])])
    return encode_profile(Profile(app="app", jobs=0, records=[], network=network)).decode()


def said(live: Live, job: str) -> float | None:
    belief = live.scheduler.jobs[job].belief
    assert belief is not None
    return None if belief.posterior is None else belief.posterior.remaining_s


def test_a_job_reads_the_network_that_it_began_with() -> None:
    live = Live("llmsched")
    live.open("before")
    live.tell(ev.ProfileReplaced(0.0, "app", text(11.0)))
    live.open("old")
    live.tell(ev.ProfileReplaced(0.0, "app", text(21.0)))
    live.open("new")
    live.open("foreign", "other")
    expected = {"before": None, "old": 10.0, "new": 20.0, "foreign": None}
    assert {job: said(live, job) for job in expected} == pytest.approx(expected)
    state = json.loads(json.dumps(save(live.scheduler)))
    again = Live("llmsched")
    again.scheduler = build(live.scheduler.spec)
    restore(again.scheduler, state)
    assert {job: said(again, job) for job in expected} == pytest.approx(expected)
    assert save(again.scheduler) == save(live.scheduler)


def test_a_bad_network_is_refused_and_the_old_one_stays() -> None:
    live = Live("llmsched", profiles={"app": text(11.0)})
    bad = json.loads(text(21.0))
    bad["network"]["variables"][0]["table"] = [0.5]
    with pytest.raises(ValueError, match=r"network\.ask\.table"):
        live.tell(ev.ProfileReplaced(0.0, "app", json.dumps(bad)))
    live.open("job")
    assert said(live, "job") == pytest.approx(10.0)


def test_other_engines_give_other_seconds() -> None:
    live = Live("llmsched", profiles={"app": text(11.0)})
    live.open("job")
    live.call("job", "ask")
    assert said(live, "job") == pytest.approx(10.0)
    faster = SchedulerSpec([EngineSpec("e", ["m"], latency=Latency(d0=0.5))], policy=("llmsched",))
    live.tell(ev.SettingsChanged(1.0, faster))
    assert said(live, "job") == pytest.approx(5.0)


def test_a_fuller_batch_makes_work_longer() -> None:
    """d0 alone is shared by a batch; what each call costs by itself is not."""
    spec = SchedulerSpec([EngineSpec("e", ["m"], latency=Latency(d1=1.0))], policy=("llmsched",))
    scheduler = build(spec, profiles={"app": text(11.0)})
    scheduler.handle(ev.ReplicaAdded(0.0, "e", "r", 8))
    seconds = []
    for number in range(12):
        scheduler.handle(ev.JobOpened(0.0, f"j{number}", "app"))
        scheduler.handle(ev.CallArrived(0.0, f"c{number}", f"j{number}", "ask", "m", 1))
        belief = scheduler.jobs["j0"].belief
        assert belief is not None
        assert belief.posterior is not None
        seconds.append(round(belief.posterior.remaining_s, 3))
    assert seconds == [10.0, 20.0, 20.0, 40.0, 40.0, 40.0, 40.0, *[80.0] * 5], "in powers of two"
    for number in range(11):
        scheduler.handle(ev.CallFinished(1.0, f"c{number}", 1, 11))
    assert scheduler.engines["e"].batch == 1


def test_drift_forgets_the_network() -> None:
    """Sixty jobs that are all ten times as large as the profile says: what it says is no longer asked."""
    network = json.loads(text(11.0, 12.0))["network"]
    records = [chain(("ask", 10, 11)) for _ in range(60)]
    profile = Profile(app="app", jobs=60, records=records)
    whole = json.loads(encode_profile(profile)) | {"network": network}
    live = Live("llmsched", profiles={"app": json.dumps(whole)})
    live.open("first")
    assert said(live, "first") is not None
    for number in range(60):
        live.run(f"j{number}", [("ask", 10, 110 + number % 7)], asked=True)
    live.open("last")
    assert said(live, "last") is None
