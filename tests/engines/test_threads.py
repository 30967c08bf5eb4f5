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


def sleeps(pid: int) -> int:
    """How often its threads gave their core away themselves, to wait: voluntary context switches."""
    statuses = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status")]
    return sum(int(text.partition("\nvoluntary_ctxt_switches:")[2].split()[0]) for text in statuses)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="context switches and pinning are read Linux's way")
def test_threads_sleep_while_they_wait_for_each_other() -> None:
    """Hundreds of times a token; those that spin, for whole time slices of a busy core, 3 times a token."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        pytest.skip("one core only")
    words = command(EmbeddedSpec(threads=2, cpus=cores, parallel=1), weights.pull("small"))
    body = json.dumps({"prompt": "Once upon a time", "max_tokens": TOKENS, "ignore_eos": True}).encode()
    with ExitStack() as stack:
        for core in cores:
            stack.enter_context(busy(core))
        process = stack.enter_context(subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        assert process.stdout is not None and process.stdin is not None
        url = json.loads(next(line for line in process.stdout if line.startswith(b'{"url"')))["url"]
        before = sleeps(process.pid)
        request = urllib.request.Request(f"{url}/v1/completions", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert json.load(answer)["usage"]["completion_tokens"] == TOKENS
        assert sleeps(process.pid) - before > 100 * TOKENS
        process.stdin.close()


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
