"""How far demand is from what was planned for: by arithmetic on faded sums, and on a live gateway."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest

from hocket.cli import main
from hocket.core import events as ev
from hocket.core.commands import Refuse, Reject
from hocket.errors import InputError
from hocket.gateway.app import Gateway
from hocket.gateway.drift import Drift, Faded, _Work
from hocket.settings import PlanSettings, Settings, load_settings
from hocket.settings.plan import PlannedApp, PlannedFor, planned_for
from tests.gateway.conftest import Start
from tests.scripted_engine import ScriptedEngine

PLANNED = PlannedFor({"rag": PlannedApp(0.5, 2000.0, 300.0), "chat": PlannedApp(1.0, 200.0, 100.0)})


class World:
    """Jobs of one call each, at virtual times."""

    def __init__(self, threshold: float = 0.25, window_s: float = 600.0) -> None:
        self.now, self.number = 1000.0, 0
        self.drift = Drift(lambda: self.now)
        self.drift.change(PlanSettings("plan.json", window_s, threshold), PLANNED)

    def job(self, app: str, at: float, prompt: int, output: int) -> None:
        self.number += 1
        job, call, self.now = f"j{self.number}", f"c{self.number}", at
        for event in (
            ev.JobOpened(at, job, app),
            ev.CallArrived(at, call, job, "s", "m"),
            ev.CallFinished(at, call, prompt, output),
            ev.JobClosed(at, job),
        ):
            self.drift.seen(event, [])

    def run(
        self, per_s: dict[str, float], seconds: float, seed: int = 1, size: float = 1.0, start: float = 0.0
    ) -> None:
        """Jobs as planned, but for these rates and `size` times the tokens, spread as real ones are."""
        rng, until = random.Random(seed), self.now + start + seconds
        arrivals = []
        for app, rate in per_s.items():
            at = self.now + start
            while rate and (at := at + rng.expovariate(rate)) < until:
                arrivals.append((at, app))
        for at, app in sorted(arrivals):
            planned = PLANNED.apps.get(app, PlannedApp(0, 500.0, 200.0))
            factor = size * rng.lognormvariate(-0.32, 0.8)  # mean 1, spread 0.95
            self.job(app, at, round(planned.prompt_tokens * factor), round(planned.output_tokens * factor))
        self.now = until

    @property
    def metrics(self) -> dict[tuple[str, ...], float]:
        samples = [sample for family in self.drift.collect() for sample in family.samples]
        return {(one.name.removeprefix("hocket_plan_"), *one.labels.values()): one.value for one in samples}


def test_a_faded_sum_forgets() -> None:
    faded = Faded(10.0)
    faded.add(3.0, 100.0)
    faded.add(1.0, 110.0)
    assert faded.at(120.0) == pytest.approx(3.0 * math.exp(-2.0) + math.exp(-1.0))


def test_as_planned_it_is_never_stale() -> None:
    """Over twenty draws, and all along: from the first second to several windows."""
    for seed in range(20):
        world = World()
        for part in range(40):
            world.run({"rag": 0.5, "chat": 1.0}, 60.0, 100 * seed + part)
            assert not world.metrics["stale",], (seed, part, world.metrics)
        assert abs(world.metrics["drift", "rag", "rate"]) < 0.3
        assert abs(world.metrics["drift", "chat", "output_tokens"]) < 0.4


@pytest.mark.parametrize(
    ("per_s", "size", "label", "told"),
    [
        ({"rag": 1.0, "chat": 2.0}, 1.0, ("rag", "rate"), math.log(2.0)),
        ({"rag": 0.5, "chat": 1.0}, 2.0, ("rag", "output_tokens"), math.log(2.0)),
        ({"rag": 0.5, "chat": 1.0}, 0.5, ("chat", "prompt_tokens"), math.log(0.5)),
        ({"rag": 0.5, "chat": 1.0, "new": 2.0}, 1.0, ("rag", "rate"), 0.0),
    ],
)
def test_what_drifts_is_told_and_makes_the_plan_stale(
    per_s: dict[str, float], size: float, label: tuple[str, ...], told: float
) -> None:
    world = World()
    world.run(per_s, 1800.0, 7, size)
    assert world.metrics["stale",] == 1.0 and world.metrics["distance",] > 0.25
    assert world.metrics["drift", *label] == pytest.approx(told, abs=0.25)
    assert not any("new" in key for key in world.metrics), "labels are those of the plan"


def test_an_application_that_is_gone() -> None:
    world = World()
    world.run({"chat": 1.0}, 1800.0)
    assert world.metrics["stale",] and world.metrics["drift", "rag", "rate"] < -2.0
    assert math.isfinite(world.metrics["drift", "rag", "rate"])
    assert ("drift", "rag", "output_tokens") not in world.metrics


def test_jobs_that_nobody_closes_are_not_missing() -> None:
    """They are closed five minutes after their last call. A job's calls count as one job by chance."""
    world = World()
    for second in range(1800):
        at = world.now = 1000.0 + second
        if second % 2 == 0:
            world.drift.seen(ev.JobOpened(at, f"r{second}", "rag"), [])
            for call in ("a", "b"):
                world.drift.seen(ev.CallArrived(at, f"r{second}{call}", f"r{second}", "s", "m"), [])
                world.drift.seen(ev.CallFinished(at, f"r{second}{call}", 1000, 150), [])
        world.drift.seen(ev.JobOpened(at, f"c{second}", "chat"), [])
        world.drift.seen(ev.CallArrived(at, f"c{second}", f"c{second}", "s", "m"), [])
        world.drift.seen(ev.CallFinished(at, f"c{second}", 200, 100), [])
        if second >= 300:
            for job in (f"r{second - 300}", f"c{second - 300}"):
                world.drift.seen(ev.JobClosed(at, job), [])
        assert not world.metrics["stale",], (second, world.metrics)
    assert world.metrics["drift", "rag", "prompt_tokens"] == pytest.approx(0.0, abs=0.02)


def test_squares_are_of_jobs_not_of_calls() -> None:
    one, two = _Work(10.0), _Work(10.0)
    one.add(300, 0, 5.0)
    two.add(100, 0, 5.0)
    two.add(200, 100, 5.0)
    assert one.squares.at(5.0) == two.squares.at(5.0) == 300.0**2


def test_jobs_that_go_on_after_a_restart_did_not_arrive_again() -> None:
    world = World()
    world.run({"rag": 0.5, "chat": 1.0}, 600.0)
    rate = world.metrics["drift", "rag", "rate"]
    for number in range(300):
        world.drift.seen(ev.JobOpened(world.now, f"old{number}", "rag", past=ev.Past(-1 - number, 60.0)), [])
    assert world.metrics["drift", "rag", "rate"] == rate


def test_what_is_small_does_not_matter() -> None:
    """Five times the arrivals of an application with a hundredth of the work."""
    demand = PlannedFor({"big": PlannedApp(1.0, 3000.0, 500.0), "small": PlannedApp(0.1, 300.0, 50.0)})
    world = World()
    world.drift.change(PlanSettings("plan.json", 600.0), demand)
    for second in range(1800):
        world.job("big", 1000.0 + second, 3000, 500)
        if second % 2:
            world.job("small", 1000.0 + second, 300, 50)
    assert world.metrics["drift", "small", "rate"] == pytest.approx(math.log(5.0), abs=0.2)
    assert not world.metrics["stale",]


def test_it_comes_back_and_another_plan_starts_anew() -> None:
    world = World()
    world.run({"rag": 1.5, "chat": 3.0}, 1200.0)
    assert world.metrics["stale",]
    world.run({"rag": 0.5, "chat": 1.0}, 3000.0)
    assert not world.metrics["stale",]
    world.run({"rag": 1.5, "chat": 3.0}, 1200.0)
    doubled = PlannedFor({name: PlannedApp(3 * a.per_s, *_sizes(a)) for name, a in PLANNED.apps.items()})
    world.drift.change(PlanSettings("plan.json", 600.0), doubled)
    assert world.metrics["distance",] == 0.0
    world.drift.change(None, None)
    assert world.metrics == {}


def _sizes(app: PlannedApp) -> tuple[float, float]:
    return app.prompt_tokens, app.output_tokens


def test_a_job_that_was_refused_is_not_kept_and_is_no_small_job() -> None:
    world = World()
    world.job("rag", 1000.0, 2000, 300)
    world.drift.seen(ev.JobOpened(1000.0, "j", "rag"), [Refuse("j", 503, "too_many_jobs")])
    world.drift.seen(ev.JobOpened(1000.0, "k", "rag"), [])
    world.drift.seen(ev.JobClosed(1000.0, "k", abort=True, reason="refused"), [])
    assert not world.drift._jobs
    ratios = {(app, of): value for app, of, value in world.drift.ratios()}
    assert ratios["rag", "prompt_tokens"] == ratios["rag", "output_tokens"] == 0.0


def test_nothing_is_kept_of_what_is_over() -> None:
    world = World()
    drift = world.drift
    drift.seen(ev.JobOpened(1000.0, "j", "rag"), [])
    for number, end in enumerate((ev.CallCancelled(1000.0, "c0"), ev.CallFinished(1000.0, "c1", 1, 1), None)):
        arrived = ev.CallArrived(1000.0, f"c{number}", "j", "s", "m")
        drift.seen(arrived, [Reject(f"c{number}", 503, "full")] if end is None else [])
        if end is not None:
            drift.seen(end, [])
    drift.seen(ev.JobClosed(1000.0, "j"), [])
    drift.seen(ev.JobClosed(1000.0, "unknown"), [])
    assert not drift._jobs and not drift._calls


# ---------------------------------------------------------------- files and the gateway


def plan_file(folder: Path, per_s: float = 0.001) -> Path:
    file = folder / "plan.json"
    app = {"per_s": per_s, "prompt_tokens": 10.0, "output_tokens": 10.0}
    file.write_text(json.dumps({"engines": [], "demand": {"apps": {"rag": app}, "roles": []}}))
    return file


def test_a_plan_is_beside_its_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    file = plan_file(tmp_path / "here")
    (tmp_path / "here" / "hocket.yaml").write_text("plan: {file: plan.json}")
    settings = load_settings("here/hocket.yaml")
    demand = planned_for(settings.plan)
    assert demand is not None and demand.apps["rag"].per_s == 0.001
    assert main(["config", "check", "here/hocket.yaml"]) == 0
    assert "plan.json: rag" in capsys.readouterr().out
    (tmp_path / "there.yaml").write_text(f"plan: {{file: {file}}}")
    assert planned_for(load_settings("there.yaml").plan) == demand


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "cannot be read"),
        ("{}", "does not say what was planned for"),
        ('{"demand": {"apps": {}}}', "does not say what was planned for"),
        ("engines", "is not a plan"),
        ('{"demand": {"apps": {"rag": {"per_s": "often"}}}}', "is not a plan"),
    ],
)
async def test_a_plan_that_says_nothing_is_told_at_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, told: str
) -> None:
    file = tmp_path / "plan.json"
    if text is not None:
        file.write_text(text)
    (tmp_path / "hocket.yaml").write_text("plan: {file: plan.json}")
    assert main(["config", "check", str(tmp_path / "hocket.yaml")]) == 2
    assert told in capsys.readouterr().err
    gateway = Gateway(Settings(listen="127.0.0.1:0", plan=PlanSettings(str(file))))
    with pytest.raises(InputError, match=told):
        await gateway.start()
    await gateway.stop(0)


async def test_a_gateway_tells_and_a_reload_takes_another_plan(
    tmp_path: Path, engine: ScriptedEngine, start: Start
) -> None:
    async def told() -> str:
        async with world.http.get(f"{world.url}/metrics") as answer:
            return await answer.text()

    world = await start(engine)
    assert "hocket_plan_stale" in await told() and "hocket_plan_stale 0" not in await told()
    await world.gateway.reload(_with(world.gateway.settings, plan_file(tmp_path)))
    for _ in range(3):
        async with world.post({}, headers={"x-hocket-app": "rag"}) as answer:
            assert answer.status == 200
    text = await told()
    assert 'hocket_plan_drift{app="rag",of="rate"} 1.9' in text, "three and a half jobs, not a half: ln 7"
    assert "hocket_plan_stale 0.0" in text


def _with(settings: Settings, file: Path) -> Settings:
    from msgspec.structs import replace

    return replace(settings, plan=PlanSettings(str(file)))
