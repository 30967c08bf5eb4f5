"""Run a plan of CPU cores on this very machine: embedded engines pinned to their cores, the gateway in front.

example: hocket plan --jobs jobs.jsonl --rates apps.yaml --cluster cluster.yaml --models models.yaml -o plan/
         hocket up plan/                       (prints the URL once all engines answer; `hocket down plan/` ends it)
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from hocket.errors import InputError

PID, LOG = "hocket.pid", "hocket.log"
READY_S = 600.0
"for weights to be fetched and loaded"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("plan", metavar="DIR", help="what `hocket plan -o DIR` wrote")
    parser.add_argument("--port", type=int, help="listen on this port instead of 8080; 0 = any free")
    parser.add_argument("--policy", help="order calls by this policy instead of `default`")


def run(args: argparse.Namespace) -> int:
    folder = Path(args.plan).resolve()
    settings = folder / "local.yaml"
    if not settings.is_file():
        raise InputError(f"{folder}: has no local.yaml; only a plan of `kind: cpu` devices runs on this machine")
    if running(folder) is not None:
        raise InputError(f"{folder}: is running already; end it with hocket down {folder}")
    serve = "import sys; from hocket.cli import main; sys.exit(main())"
    words = [sys.executable, "-c", serve, "serve", "--config", str(settings)]
    words += [] if args.port is None else ["--port", str(args.port)]
    words += [] if args.policy is None else ["--policy", args.policy]
    log = folder / LOG
    try:
        (folder / PID).write_text("")
        with log.open("wb") as out:
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
    except OSError as error:
        raise InputError(f"{folder}: {PID} and {LOG} cannot be written ({error.strerror}); copy the plan") from None
    try:
        (folder / PID).write_text(f"{process.pid}\n")
        print(_ready(process, log))
    except BaseException:
        process.terminate()
        process.wait()
        (folder / PID).unlink(missing_ok=True)
        raise
    return 0


def _ready(process: subprocess.Popen[bytes], log: Path) -> str:
    """Wait until every engine has answered once. Returns the line that says where to call. Raises InputError."""
    until = time.monotonic() + READY_S
    while time.monotonic() < until:
        lines = log.read_text(errors="replace").splitlines()
        if "ready" in lines:
            return next(line for line in lines if line.startswith("hocket listens on"))
        if process.poll() is not None:
            last = lines[-1] if lines else f"exit code {process.returncode}"
            raise InputError(f"the gateway ended: {last}; {log} has all of it")
        time.sleep(0.1)
    raise InputError(f"the engines did not answer within {READY_S:.0f} s; {log} says how far they came")


def running(folder: Path) -> int | None:
    """The process that serves the plan in this folder, if it is still there."""
    try:
        pid = int((folder / PID).read_text())
        os.kill(pid, 0)
    except PermissionError:
        pass  # it is there, and another user's
    except (OSError, ValueError):
        return None
    return pid if _is_ours(pid, folder) else None


def _is_ours(pid: int, folder: Path) -> bool:
    """Whether that number is still the gateway, and not another process that was given it since."""
    if not Path("/proc").exists():  # not there on every platform
        return True
    try:
        return str(folder.resolve() / "local.yaml").encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False  # ended meanwhile
