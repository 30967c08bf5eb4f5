"""codex, the command-line agent: three runs at once over the Responses API, each with shell commands."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from labels import question, url

BINARY = Path(os.environ["CLIENTS"]) / "node_modules" / ".bin" / "codex"
SCRIPT = ' script: exec_command {"cmd": "ls"} | exec_command {"cmd": "cat notes.md"} | say That is it.'


def run(number: int) -> None:
    job = f"job-{number}"
    project = Path(os.environ["HOME"]) / "codex" / job
    project.mkdir(parents=True, exist_ok=True)
    (project / "notes.md").write_text("Nothing of note.\n")
    home = project / "home"
    home.mkdir(exist_ok=True)
    settings = {
        "model": "small",
        "model_provider": "local",
        "model_providers.local.name": "local",
        "model_providers.local.base_url": url("runs", job, "agent"),
        "model_providers.local.wire_api": "responses",
    }
    words = [str(BINARY), "exec", "--skip-git-repo-check", "--sandbox", "danger-full-access"]
    for key, value in settings.items():
        words += ["-c", f"{key}={json.dumps(value)}"]
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "CODEX_HOME": str(home)}
    words.append(question(number) + SCRIPT)
    done = subprocess.run(
        words, cwd=project, env=env, timeout=200, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        sys.exit(done.stdout[-2000:] + done.stderr[-2000:])


with ThreadPoolExecutor() as pool:
    list(pool.map(run, range(3)))
