"""Workers end with their command: when it is killed, when it is interrupted, when one of them is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hocket.errors import InputError
from hocket.sim.workers import workers

PROGRAM = """
import os, signal, sys, time
from hocket.sim.workers import workers

def nothing(): pass

def work(seconds):
    os.write(1, f"{os.getpid()}\\n".encode())  # in one piece: there are two who write
    time.sleep(seconds)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # not that of a shell's job in the background
    with workers(2, nothing) as pool:
        try:
            list(pool.map(work, [30.0, 30.0]))
        except KeyboardInterrupt:
            sys.exit(130)
"""


def _nothing() -> None:
    pass


def _die(signum: int) -> None:
    os.kill(os.getpid(), signum)


def test_a_worker_that_is_killed_is_told() -> None:
    with pytest.raises(InputError, match="killed, perhaps for want of memory"), workers(2, _nothing) as pool:
        list(pool.map(_die, [signal.SIGKILL]))


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_command_and_say_nothing(tmp_path: Path, signum: int) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None and process.stderr is not None
    pids = [int(process.stdout.readline()) for _ in range(2)]
    if signum == signal.SIGINT:
        os.killpg(process.pid, signum)  # as a terminal does
    else:
        process.send_signal(signum)
    process.wait(timeout=20)
    until = time.monotonic() + 20.0
    while any(_runs(pid) for pid in pids):
        assert time.monotonic() < until, "a worker outlives its command"
        time.sleep(0.05)
    assert process.stderr.read() == ""
    process.stdout.close()
    process.stderr.close()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return not state.stdout.startswith("Z")
