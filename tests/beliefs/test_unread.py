"""Where no call waits nobody reads a belief, and none is worked out: an idle gateway pays nothing for it."""

from __future__ import annotations

import pytest

from hocket.beliefs.tracker import Story, Tracker
from tests.beliefs.worlds import Live, chain, profile


def test_jobs_that_never_wait_are_noted_and_not_worked_out() -> None:
    live = Live(window=100, profiles={"app": profile([chain(("ask", 10, 11))] * 50)})
    live.open("a")
    belief = live.scheduler.jobs["a"].belief
    live.finish(live.call("a", "ask"), 11)
    assert belief is not None
    assert not belief.read  # type: ignore[attr-defined]
    live.close("a")
    tracker = live.scheduler.beliefs
    assert isinstance(tracker, Tracker)
    assert len(tracker._apps["app"].records) == 51
    assert tracker._apps["app"].lesson.worked_out is None


def test_the_first_job_that_waits_is_believed_in_with_all_that_was_noted() -> None:
    live = Live(window=1)
    for number in range(20):
        live.run(f"j{number}", [("ask", 500, 11), ("work", 10, 201)] if number % 2 else [("ask", 10, 11)])
    live.open("busy")
    live.call("busy", "ask", 10)
    for job, prompt in (("long", 500), ("short", 10)):
        live.open(job)
        live.call(job, "ask", prompt)
    assert live.remaining("long") > 3.0 * live.remaining("short")


def test_a_lesson_does_not_tell_the_stories_of_jobs_that_only_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand lone calls have been answered, and their jobs linger: the first that closes must not hold up all."""
    told: list[Story] = []
    judge_by = Story.judge_by
    monkeypatch.setattr(Story, "judge_by", lambda story, lesson: (told.append(story), judge_by(story, lesson))[1])
    live = Live(window=1)
    for number in range(100):
        live.open(f"j{number}")
        live.finish(live.call(f"j{number}", "ask"), 11)
    live.open("busy")
    live.call("busy", "ask")
    live.open("waits")
    live.call("waits", "ask")
    live.close("j0")
    assert [story.job.id for story in told] == ["waits"]
    live.call("j1", "ask")
    assert [story.job.id for story in told] == ["waits", "j1"], "it goes by the lesson now that a call of it waits"
