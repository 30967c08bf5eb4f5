"""opencode, the command-line agent: three runs at once, each with tools, a sub-agent, and a title made on the side."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from labels import question, url

BINARY = Path(os.environ["CLIENTS"]) / "node_modules" / ".bin" / "opencode"
SUB_AGENT = '{"description": "Look around", "prompt": "Is there anything of note?", "subagent_type": "general"}'
SCRIPT = f' script: glob {{"pattern": "*.md"}} | task {SUB_AGENT} | read {{"filePath": "notes.md"}} | say That is it.'


def provider(job: str, stage: str, thread: str) -> dict[str, object]:
    return {
        "npm": "@ai-sdk/openai-compatible",
        "options": {"baseURL": url("runs", job, stage, thread), "apiKey": "none"},
        "models": {"small": {"name": "small", "limit": {"context": 32000, "output": 2000}}},
    }


def run(number: int) -> None:
    job = f"job-{number}"
    project = Path(os.environ["HOME"]) / "opencode" / job
    project.mkdir(parents=True, exist_ok=True)
    (project / "notes.md").write_text("Nothing of note.\n")
    config = {
        "provider": {
            "local": provider(job, "build", "main"),
            "titles": provider(job, "title", "title!"),
            "subs": provider(job, "general", "sub~build!"),
        },
        "agent": {"general": {"model": "subs/small"}},
        "model": "local/small",
        "small_model": "titles/small",
        "autoupdate": False,
        "share": "disabled",
    }
    (project / "opencode.json").write_text(json.dumps(config))
    home = project / "home"
    home.mkdir(exist_ok=True)
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "OPENCODE_DISABLE_AUTOUPDATE": "1",
        "OPENCODE_DISABLE_MODELS_FETCH": "1",
    }
    text = question(number) + SCRIPT  # by standard input: words of the command line it would quote
    done = subprocess.run(
        [str(BINARY), "run"], cwd=project, env=env, timeout=200, check=False, capture_output=True, text=True, input=text
    )
    if done.returncode:
        sys.exit(done.stdout[-2000:] + done.stderr[-2000:])


with ThreadPoolExecutor() as pool:
    list(pool.map(run, range(3)))
