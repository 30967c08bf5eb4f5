"""Threads of an engine give way where they share cores: they do not spin away the time that they are given."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from hocket.engines import weights
from hocket.engines.embedded import EmbeddedSpec, command

TOKENS = 24
CALLS = 6


@contextmanager
def busy(core: int) -> Iterator[None]:
    """Another process that wants the core, all the time."""
    program = f"import os; os.sched_setaffinity(0, [{core}])\nwhile True: pass"
    process = subprocess.Popen([sys.executable, "-c", program])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def of_a_call(spec: EmbeddedSpec) -> float:
    """CPU seconds of the cheapest of some calls: what else the machine does only adds to them."""
    words = command(spec, weights.pull("small"))
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdin is not None
        url = json.loads(next(line for line in process.stdout if line.startswith(b'{"url"')))["url"]
        body = {"prompt": "Once upon a time", "max_tokens": TOKENS, "ignore_eos": True}
        spent = []
        for _ in range(CALLS):
            before = cpu_s(process.pid)
            request = urllib.request.Request(
                f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=60) as answer:
                assert json.load(answer)["usage"]["completion_tokens"] == TOKENS
            spent.append(cpu_s(process.pid) - before)
        process.stdin.close()
    return min(spent)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="CPU time and pinning are read Linux's way")
def test_two_threads_take_no_more_of_busy_cores_than_one() -> None:
    """By CPU time, which does not depend on how busy they are: spinning threads took ten times as much."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        pytest.skip("one core only")
    with ExitStack() as stack:
        for core in cores:
            stack.enter_context(busy(core))
        one = of_a_call(EmbeddedSpec(threads=1, cpus=cores[:1], parallel=1))
        two = of_a_call(EmbeddedSpec(threads=2, cpus=cores, parallel=1))
    assert two < 4 * one


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="niceness is read Linux's way")
def test_niceness_is_that_of_every_thread() -> None:
    words = command(EmbeddedSpec(nice=5, threads=1, parallel=1), weights.pull("small"))
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdin is not None
        assert any(line.startswith(b'{"url"') for line in iter(process.stdout.readline, b""))
        threads = [int(folder.name) for folder in Path(f"/proc/{process.pid}/task").iterdir()]
        assert len(threads) > 1
        assert {os.getpriority(os.PRIO_PROCESS, thread) for thread in threads} == {5 + os.nice(0)}
        process.stdin.close()
