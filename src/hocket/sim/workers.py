"""Worker processes of one command: they end with it, however it ends, and say nothing when they are interrupted."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from multiprocessing.context import BaseContext
from typing import Any

from hocket.errors import InputError

FORKS = hasattr(os, "fork") and sys.platform != "darwin"
"whether workers may begin as a copy of the process; on macOS its libraries do not all bear that"


def cores() -> int:
    """That this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def context() -> BaseContext:
    """How workers begin."""
    return get_context("fork" if FORKS else "spawn")


@contextmanager
def workers(count: int, prepare: Callable[..., None], *inputs: Any) -> Iterator[ProcessPoolExecutor]:
    """So many of them, in each of which `prepare` is called once. Raises InputError where one is killed."""
    with ProcessPoolExecutor(count, context(), _begin, (prepare, inputs)) as pool:
        try:
            yield pool
        except BrokenProcessPool:
            raise InputError("a worker process was killed, perhaps for want of memory; free some") from None


def _begin(prepare: Callable[..., None], inputs: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a terminal interrupts all: the command says so, once
    threading.Thread(target=_end_with_parent, daemon=True).start()
    prepare(*inputs)


def _end_with_parent() -> None:
    """It cannot say goodbye when it is killed; then this process would wait for work for ever."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
