"""The jobs that policies are judged on do not change unnoticed."""

from __future__ import annotations

from collections import Counter
from hashlib import sha256

from hocket.demo import mix
from hocket.demo.subjects import PROGRAMS, QUESTIONS


def test_the_mix_is_frozen() -> None:
    """A new digest means that no old figure compares any more: see the decision record before changing it."""
    digest = sha256("\n".join(map(repr, mix.draw())).encode()).hexdigest()
    assert digest[:16] == "68436bb2dbc2f1a4"


def test_every_draw_is_of_the_same_kind() -> None:
    for seed in range(5):
        tasks = mix.draw(seed)
        assert Counter(task.app for task in tasks) == {"research": 10, "code": 9, "summary": 9}
        assert [task.arrival_s for task in tasks] == sorted(task.arrival_s for task in tasks)
        assert tasks[-1].arrival_s <= mix.ARRIVALS_S
        assert sorted(task.width for task in tasks) == sorted(task.width for task in mix.draw())
        assert len({task.id for task in tasks}) == len(tasks)
        for task in tasks:
            assert len(task.tool_s) == (task.width if task.app == "research" else 0)
            low, high = mix.LAST_TOKENS[task.app]
            assert low <= task.tokens <= high


def test_it_is_heavy_tailed() -> None:
    """Half of the jobs hold less than a fifth of the widths, the widest three more than two fifths."""
    widths = sorted(task.width for task in mix.draw())
    assert sum(widths[:14]) < 0.2 * sum(widths) and sum(widths[-3:]) > 0.4 * sum(widths)


def test_every_job_has_a_subject() -> None:
    assert len(QUESTIONS) >= mix.SHAPES["research"].count and len(PROGRAMS) >= mix.SHAPES["code"].count
    for program in PROGRAMS:
        assert program.head.startswith(f"def {program.request.split()[1].split('(')[0]}(")
