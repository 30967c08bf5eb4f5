"""The tools of the demo's applications: tests run for real, and what they run can do little harm."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from hocket.demo import tools
from hocket.demo.apps import source_of
from hocket.demo.subjects import PROGRAMS

SOLUTIONS = {
    "is_palindrome": "    t = text.replace(' ', '').lower()\n    return t == t[::-1]\n",
    "fizzbuzz": "    return 'Fizz' * (n % 3 == 0) + 'Buzz' * (n % 5 == 0) or str(n)\n",
    "gcd": "    while b:\n        a, b = b, a % b\n    return a\n",
    "count_vowels": "    return sum(c in 'aeiouAEIOU' for c in text)\n",
    "factorial": "    return n * factorial(n - 1) if n else 1\n",
    "reverse_words": "    return ' '.join(reversed(text.split()))\n",
    "flatten": "    return [x for i in items for x in (flatten(i) if isinstance(i, list) else [i])]\n",
    "primes_up_to": "    return [n for n in range(2, n + 1) if all(n % d for d in range(2, n))]\n",
    "median": "    import statistics\n    return statistics.median(numbers)\n",
    "run_lengths": "    import itertools\n    return [(c, len(list(g))) for c, g in itertools.groupby(text)]\n",
}


async def test_every_task_can_be_solved_and_is_not_by_nothing() -> None:
    for program in PROGRAMS:
        name = program.head[4:].split("(")[0]
        body = SOLUTIONS[name].replace("    import statistics\n    return statistics.median(numbers)\n", MEDIAN)
        solved = await tools.run_tests(program.head + body, program.tests)
        assert (solved.passed, solved.total, solved.complaint) == (len(program.tests), len(program.tests), ""), name
        empty = await tools.run_tests(program.head + "    pass\n", program.tests)
        assert empty.passed < empty.total and "raised AssertionError" in empty.complaint, name


MEDIAN = "    s = sorted(numbers)\n    m = len(s) // 2\n    return s[m] if len(s) % 2 else (s[m - 1] + s[m]) / 2\n"


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        ("def f(x:", "SyntaxError"),
        ("import os\nos.system('true')", "os.system is not allowed"),
        ("import socket", "import is not allowed"),
        ("open('/tmp/x', 'w')", "open is not allowed"),
        ("import sys\nsys.exit(0)", "SystemExit"),
        ("x = 'a' * 2**30", "MemoryError"),
        ("input()", "input is not allowed"),
        ("f = lambda x: x", "assert f(1) == 2 raised AssertionError"),
        ("print('[]')\nraise ValueError('no\\nway')", "ValueError"),
    ],
)
async def test_bad_code_is_a_complaint(code: str, complaint: str) -> None:
    report = await tools.run_tests(code, ("assert f(1) == 2", "assert f(2) == 2"))
    assert report.passed <= 1 and report.total == 2 and complaint in report.complaint


async def test_code_that_does_not_end_is_stopped() -> None:
    began = time.monotonic()
    report = await tools.run_tests("while True: pass", ("assert True",))
    assert report.passed == 0 and "died" in report.complaint
    assert time.monotonic() - began < tools.TEST_TIMEOUT_S


async def test_code_that_waits_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "TEST_TIMEOUT_S", 0.5)
    sleep = "import functools\nwhile functools.reduce(lambda a, b: a, [1]): pass"
    report = await tools.run_tests(sleep, ("assert True",))
    assert report.complaint == "the tests did not end in time"


async def test_cancelled_tests_leave_no_process() -> None:
    task = asyncio.create_task(tools.run_tests("while True: pass", ("assert True",)))
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not children_running("addaudithook")


def children_running(word: str) -> list[int]:
    """Processes started by this one whose command line holds `word`. Empty where there is no /proc."""
    listed = Path(f"/proc/self/task/{os.getpid()}/children")
    pids = map(int, listed.read_text().split()) if listed.is_file() else []
    return [pid for pid in pids if word in Path(f"/proc/{pid}/cmdline").read_text(errors="replace")]


def test_documents_are_the_projects_own() -> None:
    sections = tools.documents()
    assert len(sections) > 20 and all(len(section.split()) == 32 for section in sections)
    assert tools.section(3) == tools.section(3 + len(sections))
    assert "journal" in tools.look_up("where is the journal replayed?").lower()


def test_the_code_is_cut_out_of_an_answer() -> None:
    assert source_of("    return 1\n\ndef other():\n    pass") == "    return 1\n"
    assert source_of("    x = 1\n    return x\n```\nThis function") == "    x = 1\n    return x\n"
    assert source_of("") == ""
