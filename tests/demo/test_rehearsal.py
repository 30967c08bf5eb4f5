"""What the demo knows beforehand is of the kind of what it will do, and of none of its own jobs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from statistics import fmean

import pytest

from hocket.beliefs.profile import decode_profile, encode_profile
from hocket.demo import mix, passes, rehearsal
from hocket.profiles import read_profiles
from hocket.sim.experiment import Setup, simulate
from hocket.sim.model import EngineModel
from hocket.trace import Job, read_jobs

PLAYED = Path(__file__).parents[2] / "benchmarks" / "demo_jobs.jsonl"
"what one pass on the real engines did"


def shape(job: Job) -> Counter[tuple[object, ...]]:
    """Its stages: name, model, sizes that the mix fixes, and the names of what each waited for."""
    names = {stage.id: stage.name for stage in job.stages}
    return Counter(
        (stage.name, stage.model, stage.output_tokens, tuple(sorted(names[need] for need in stage.needs)))
        for stage in job.stages
    )


async def test_a_rehearsal_does_what_a_pass_does() -> None:
    rehearsed, played = await rehearsal.rehearse([mix.SEED]), read_jobs(PLAYED)
    assert [job.job for job in rehearsed] == [job.job for job in played]
    for one, other in zip(rehearsed, played, strict=True):
        assert shape(one) == shape(other), one.job
        searches = [sorted(s.duration_s or 0.0 for s in job.stages if s.name == "search") for job in (one, other)]
        assert searches[0] == pytest.approx(searches[1], abs=0.1)
    prompts = [fmean(s.prompt_tokens for job in jobs for s in job.stages if s.model) for jobs in (rehearsed, played)]
    assert 0.5 < prompts[0] / prompts[1] < 1.5


@pytest.mark.parametrize(("seed", "jobs"), [(mix.SEED, 560), (rehearsal.SEEDS[3], 532)])
async def test_no_job_is_learned_from_that_will_be_played(seed: int, jobs: int, tmp_path: Path) -> None:
    assert await rehearsal.write_profiles(tmp_path, seed) == jobs
    assert mix.SEED not in rehearsal.SEEDS
    learned = [decode_profile(text) for _, text in sorted(read_profiles(tmp_path).items())]
    assert [(one.app, one.jobs * 28) for one in learned] == [
        ("code", jobs * 9), ("research", jobs * 10), ("summary", jobs * 9)
    ]  # fmt: skip
    drawn = {task.id: task for task in mix.draw(seed)}
    searches = {task.tool_s for task in drawn.values() if len(task.tool_s) > 1}
    seen = {tuple(s.duration_s for s in r.steps if s.stage == "search") for one in learned for r in one.records}
    assert not searches & seen


async def test_profiles_pay_on_the_demos_jobs(tmp_path: Path) -> None:
    await rehearsal.write_profiles(tmp_path, mix.SEED)
    engines = [
        EngineModel(name=name, models=[name], max_concurrency=passes.WINDOW, latency=latency, prefix_cache="slots")
        for name, latency in passes.LATENCY.items()
    ]
    jobs, setup, learned = read_jobs(PLAYED), Setup(engines), read_profiles(tmp_path)

    def mean(policy: str, profiles: dict[str, str] | None = None) -> float:
        outcome = simulate(jobs, setup, policy, profiles=profiles)
        assert len(outcome.jct_s) == 28 and outcome.policy_error is None
        return fmean(outcome.jct_s.values())

    assert mean("hocket", learned) < 0.75 * mean("call-fcfs")
    assert mean("hocket", learned) < mean("hocket") < mean("las")


async def test_the_same_seeds_teach_the_same() -> None:
    one, other = [list(rehearsal.profiles(await rehearsal.rehearse([1, 2]))) for _ in range(2)]
    assert list(map(encode_profile, one)) == list(map(encode_profile, other))
