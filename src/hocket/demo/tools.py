"""What the applications' tools do, for real: search and read the project's documents, run tests of generated code."""

from __future__ import annotations

import asyncio
import functools
import importlib.metadata
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

TEST_TIMEOUT_S = 10.0
"wall clock; a busy machine may need seconds to start Python"
MOST_OUTPUT = 64 * 1024


@functools.cache
def documents() -> tuple[str, ...]:
    """The project's documents in sections of 32 words: README, ARCHITECTURE and docs/ of a checkout, else the README
    that an installed package carries.
    """
    root = Path(__file__).parents[3]
    files = [root / "README.md", root / "ARCHITECTURE.md", *sorted((root / "docs").rglob("*.md"))]
    texts = [file.read_text(encoding="utf-8") for file in files if file.is_file()]
    if not any(texts):
        texts = [str(importlib.metadata.metadata("hocket").json.get("description", ""))]
    sections: list[str] = []
    for text in texts:
        prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)  # code makes poor reading for a small model
        words = [re.sub(r"[^\w\s.,;:'()-]", "", word) for word in prose.split()]
        words = [word for word in words if word]
        sections += [" ".join(words[i : i + 32]) for i in range(0, len(words) - 31, 32)]
    return tuple(sections)


def section(n: int) -> str:
    """The n-th section, counted round and round."""
    found = documents()
    return found[n % len(found)]


def look_up(query: str) -> str:
    """The section that shares most of the query's words, weighted by their rarity."""
    wanted = set(re.findall(r"[a-z]{3,}", query.lower()))
    sections = documents()
    bags = [set(re.findall(r"[a-z]{3,}", text.lower())) for text in sections]
    rarity = {word: 1 / (1 + sum(word in bag for bag in bags)) for word in wanted}
    scores = [sum(rarity[word] for word in wanted & bag) for bag in bags]
    return sections[max(range(len(scores)), key=scores.__getitem__)]


@dataclass(frozen=True, slots=True)
class TestReport:
    """Of one run: how many tests passed of how many, and what a programmer would look at first."""

    __test__ = False  # not a test itself, whatever pytest thinks
    passed: int
    total: int
    complaint: str


async def run_tests(code: str, tests: tuple[str, ...]) -> TestReport:
    """Execute `code` and then each of `tests` (assert statements) in a Python process of its own.

    The process has no environment, a second of CPU, half a GiB, and may neither open files nor import, connect or
    start anything once it runs the code. That keeps the slips of a small model harmless. It is no jail.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", "-c", _HARNESS,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, env={},
    )  # fmt: skip
    try:
        job = json.dumps({"code": code, "tests": tests}).encode()
        out, _ = await asyncio.wait_for(process.communicate(job), TEST_TIMEOUT_S)
    except TimeoutError:
        return TestReport(0, len(tests), "the tests did not end in time")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    try:
        failures = json.loads(out[-MOST_OUTPUT:])
    except ValueError:
        return TestReport(0, len(tests), f"the process died (status {process.returncode})")
    return TestReport(len(tests) - len(failures), len(tests), failures[0] if failures else "")


_HARNESS = """
import bisect, collections, functools, heapq, io, itertools, json, math, operator, re, string, sys, typing
try:
    import resource
    resource.setrlimit(resource.RLIMIT_CPU, (1, 1))
    resource.setrlimit(resource.RLIMIT_AS, (2 ** 29, 2 ** 29))
except (ImportError, ValueError):
    pass
job = json.load(sys.stdin)
report, sys.stdout = sys.stdout, io.StringIO()
allowed = {"compile", "exec", "object.__getattr__", "object.__setattr__", "object.__delattr__", "builtins.id"}
def guard(event, args):
    if event not in allowed and not done:
        raise PermissionError(event + " is not allowed here")
done = []
failures = []
sys.addaudithook(guard)
space = {"__name__": "solution"}
try:
    exec(compile(job["code"], "solution", "exec"), space)
except BaseException as error:
    failures = [type(error).__name__ + ": " + str(error)[:200]] * len(job["tests"])
else:
    for test in job["tests"]:
        try:
            exec(compile(test, "test", "exec"), space)
        except BaseException as error:
            failures.append(test + " raised " + type(error).__name__ + ": " + str(error)[:200])
done.append(True)
report.write(json.dumps(failures))
report.flush()
"""
