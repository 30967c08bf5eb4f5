"""End what `hocket up` began: calls may finish, then the gateway and its engines are gone.

example: hocket down plan/
"""

from __future__ import annotations

import argparse
import os
import signal
import time
from pathlib import Path

from hocket.cli.up import LOG, PID, running
from hocket.errors import InputError

PATIENCE_S = 60.0
"for open calls to end, and a little more: the gateway itself gives them `shutdown_s`"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("plan", metavar="DIR", help="the folder that was given to `hocket up`")


def run(args: argparse.Namespace) -> int:
    folder = Path(args.plan)
    if not folder.is_dir():
        raise InputError(f"{folder}: not a folder; give the one that was given to hocket up")
    pid = running(folder)
    if pid is None:
        (folder / PID).unlink(missing_ok=True)
        print(f"{folder}: nothing runs")
        return 1
    try:
        os.kill(pid, signal.SIGTERM)
    except PermissionError:
        raise InputError(f"process {pid} is another user's; that one may end it") from None
    except ProcessLookupError:
        pass  # it ended by itself
    until = time.monotonic() + PATIENCE_S
    while running(folder) is not None:
        if time.monotonic() > until:
            raise InputError(f"process {pid} has not ended within {PATIENCE_S:.0f} s; {folder / LOG} may say why")
        time.sleep(0.05)
    (folder / PID).unlink(missing_ok=True)
    print(f"{folder}: down")
    return 0
