"""The belief about one job: what its evidence does to the recorded ones."""

from __future__ import annotations

import pytest

from hocket.beliefs.belief import NEW, JobBelief
from hocket.beliefs.lesson import Lesson
from hocket.beliefs.record import Record, Step
from hocket.beliefs.samples import MOST_TURNS
from tests.beliefs.worlds import chain, pace, samples

ROUNDS = [chain(*[("think", 100, 11)] * n) for n in (2, 2, 2, 2, 2, 6, 6, 6, 6, 6)] * 10
"jobs of two rounds and jobs of six, ten seconds each"


def near(value: float, wanted: float, by: float = 0.1) -> bool:
    return abs(value - wanted) <= by * max(abs(wanted), 1.0)


def test_before_anything_is_seen_a_job_is_the_mean_of_the_recorded_ones() -> None:
    belief = JobBelief(samples(*ROUNDS), {}, typical_s=10.0)
    typical = NEW / (NEW + len(ROUNDS))
    assert belief.remaining_s == pytest.approx((1 - typical) * 40.0 + typical * 10.0)
    assert belief.interval_s == (20.0, 60.0)


def test_a_third_round_tells_the_long_jobs_from_the_short() -> None:
    belief = JobBelief(samples(*ROUNDS), {})
    for _ in range(2):
        belief.finished(belief.began("think", "m", 100, None, None), 100, 11)
    assert belief.remaining_s < 30.0
    belief.began("think", "m", 100, None, None)
    assert near(belief.remaining_s, 40.0)  # four rounds more, this one among them
    assert belief.interval_s[1] == pytest.approx(40.0)


def test_the_prompt_of_the_first_call_foretells_the_rest_where_it_did_so() -> None:
    jobs = [chain(("read", size, 5), ("write", 10, size)) for size in range(100, 2100, 10)]
    believed = JobBelief(samples(*jobs), {})
    believed.began("read", "m", 300, None, None)
    assert near(believed.remaining_s, 300.0, by=0.2)
    believed = JobBelief(samples(*jobs), {})
    believed.began("read", "m", 1800, None, None)
    assert near(believed.remaining_s, 1800.0, by=0.2)


def test_a_fact_that_never_mattered_does_not_matter() -> None:
    """Sizes drawn apart: the first prompt says nothing of the second answer, and few rows must not pretend it does."""
    jobs = [chain(("read", 100 + 37 * n % 1009, 5), ("write", 10, 1000)) for n in range(300)]
    of = []
    for prompt in (100, 1000):
        belief = JobBelief(samples(*jobs), {})
        belief.began("read", "m", prompt, None, None)
        of.append(belief.remaining_s)
    assert of[0] == pytest.approx(of[1])


def test_a_feature_of_the_request_is_evidence() -> None:
    jobs = [Record(chain(("write", 10, size)).steps, {"pages": size / 100}) for size in range(100, 2100, 10)]
    assert near(JobBelief(samples(*jobs), {"pages": 3.0}).remaining_s, 300.0, by=0.2)
    assert near(JobBelief(samples(*jobs), {"pages": 18.0}).remaining_s, 1800.0, by=0.2)


def test_max_tokens_and_a_length_predictor_bound_what_a_call_may_take() -> None:
    belief = JobBelief(samples(*[chain(("write", 10, 1001))] * 100), {})
    belief.began("write", "m", 10, 101, None)
    assert near(belief.remaining_s, 100.0)
    belief = JobBelief(samples(*[chain(("write", 10, 1001))] * 100), {})
    belief.began("write", "m", 10, None, 51)
    assert near(belief.remaining_s, 50.0)


def test_a_job_like_none_is_taken_for_a_typical_one() -> None:
    """Its application is new, or the profile is another's: such jobs go by arrival, not by a wrong guess."""
    strange = JobBelief(samples(*ROUNDS), {}, typical_s=16.0)
    for _ in range(4):
        strange.finished(strange.began("other", "m", 100, None, None), 100, 101)
        assert strange.misfit > 0.85
    assert near(strange.remaining_s, 16.0)
    nothing = JobBelief(samples(), {}, typical_s=16.0)
    nothing.finished(nothing.began("any", "m", 100, None, None), 100, 101)
    assert nothing.attained_s == pytest.approx(100.0)
    assert nothing.remaining_s == nothing.gittins_s == nothing.path_s == nothing.rank_s(0.5) == 16.0
    assert nothing.interval_s == (0.0, 32.0)


def test_of_a_job_like_none_predicted_lengths_tell() -> None:
    """A new application behind a length predictor: short calls are known to be short before any job has closed."""
    job = JobBelief(samples(), {}, typical_s=16.0)
    first = job.began("any", "m", 100, None, 51)
    assert job.remaining_s == job.gittins_s == job.path_s == job.rank_s(0.5) == pytest.approx(50.0)
    job.began("other", "m", 100, None, 21)
    assert job.remaining_s == pytest.approx(70.0)
    job.finished(first, 100, 300)
    assert job.remaining_s == pytest.approx(20.0)
    job.began("unpredicted", "m", 100, None, None)
    assert job.remaining_s == 16.0


def test_one_new_stage_does_not_make_a_job_unknown() -> None:
    """An application got a stage more; all others are as ever."""
    belief = JobBelief(samples(*[chain(*[(f"s{n}", 10, 11) for n in range(8)])] * 50), {})
    for n in range(6):
        belief.finished(belief.began(f"s{n}", "m", 10, None, None), 10, 11)
    belief.finished(belief.began("new", "m", 10, None, None), 10, 11)
    assert belief.misfit < 0.2
    assert near(belief.remaining_s, 20.0, by=0.15)


def test_a_call_that_is_lost_is_no_longer_to_be_done() -> None:
    belief = JobBelief(samples(*[chain(("a", 10, 11), ("b", 10, 11))] * 50), {})
    index = belief.began("a", "m", 10, None, None)
    before = belief.remaining_s
    belief.lost(index)
    assert belief.remaining_s < before
    assert belief.attained_s == 0.0


def wide(tasks: int) -> Record:
    steps = [Step("map", "m", 10, 11, 0.0, []) for _ in range(tasks)]
    return Record([*steps, Step("reduce", "m", 10, 101, 0.0, list(range(tasks)))])


def test_parallel_tasks_that_begin_together_tell_how_many_there_are() -> None:
    belief = JobBelief(samples(*[wide(n) for n in (2, 4, 8, 16)] * 20), {})
    indexes = [belief.began("map", "m", 10, None, None) for _ in range(8)]
    assert near(belief.remaining_s, 180.0, by=0.15)
    assert near(belief.path_s, 110.0, by=0.15)
    for index in indexes[:4]:
        belief.finished(index, 10, 11)
    assert near(belief.remaining_s, 140.0, by=0.15)


def test_a_stage_wider_than_the_matrix_is_counted_as_a_sum() -> None:
    tasks = 3 * MOST_TURNS
    belief = JobBelief(samples(*[wide(tasks)] * 50), {})
    assert near(belief.remaining_s, 10.0 * tasks + 100.0)
    indexes = [belief.began("map", "m", 10, None, None) for _ in range(tasks)]
    assert belief.misfit < 0.1
    for index in indexes:
        belief.finished(index, 10, 11)
    assert near(belief.remaining_s, 100.0, by=0.25)
    assert belief.record.steps[-1].after == []


def test_the_record_so_far_knows_what_each_step_waited_for() -> None:
    belief = JobBelief(samples(), {})
    plan = belief.began("plan", "m", 10, None, None)
    belief.finished(plan, 10, 5)
    left, right = belief.began("act", None, 0, None, None), belief.began("act", "m", 10, None, None)
    belief.finished(left, 0, 0, 0.5)
    late = belief.began("act", "m", 10, None, None)
    belief.finished(right, 10, 5)
    belief.finished(late, 10, 5)
    belief.began("answer", "m", 10, None, None)
    assert [step.after for step in belief.record.steps] == [[], [plan], [plan], [left], [right, late]]
    assert belief.record.steps[left] == Step("act", None, 0, 0, 0.5, [plan])


def test_gittins_prefers_what_may_be_over_soon() -> None:
    """Nine in ten end after one second, one in ten after a hundred: the mean is 10.9, the rank is about 1.1."""
    belief = JobBelief(samples(*[chain(("a", 10, 2))] * 270, *[chain(("a", 10, 101))] * 30), {})
    assert near(belief.remaining_s, 10.9, by=0.05)
    assert near(belief.gittins_s, 1.1, by=0.1)


def test_the_same_story_gives_the_same_belief() -> None:
    def story(of: Lesson) -> list[float]:
        belief = JobBelief(of, {"x": 1.0})
        out = [belief.remaining_s]
        for turn in range(5):
            index = belief.began("think", "m", 90 + turn, None, None)
            out.append(belief.remaining_s)
            belief.finished(index, 90 + turn, 10 + turn)
            out += [belief.remaining_s, belief.path_s, belief.gittins_s, *belief.interval_s]
        return out

    assert story(samples(*ROUNDS)) == story(Lesson(tuple(ROUNDS), pace))
