"""Make the captures anew: real clients and frameworks, each a small program, through a recording proxy.

    python tests/captures/make.py [NAME ...]

Needs this project's environment, npm, and the package registries: the clients are installed into a folder of their own
(`--folder`, kept between runs), for they are no dependencies of hocket. What answers is a real model (SmolLM2 in
hocket's embedded engine) where a case ends in `-smollm2`, else `tests/tool_engine.py`, because so small a model calls
no tools. Constructed captures are written by `constructed.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

from hocket.engines.embedded import EmbeddedSpec  # noqa: E402
from tests.captures.recorder import Recorder  # noqa: E402 - found by the line above
from tests.conftest import serving  # noqa: E402
from tests.tool_engine import ToolEngine  # noqa: E402

PYTHON = {
    "one": ["openai", "langgraph", "langchain-openai", "openai-agents"],
    # these want an older openai
    "two": ["dspy"],
    "three": ["llama-index-llms-openai-like"],
}
NPM = ["openai", "ai", "@ai-sdk/openai-compatible", "zod", "opencode-ai", "@openai/codex"]
PROGRAMS = {
    "openai-python": ("one", "openai_python.py", "openai"),
    "openai-python-responses": ("one", "openai_responses.py", "openai"),
    "langgraph": ("one", "langgraph_app.py", "langgraph"),
    "openai-agents": ("one", "openai_agents_app.py", "openai-agents"),
    "llama-index": ("three", "llama_index_app.py", "llama-index-llms-openai-like"),
    "dspy": ("two", "dspy_app.py", "dspy"),
    "openai-npm": ("npm", "openai_npm.mjs", "openai"),
    "ai-sdk": ("npm", "ai_sdk.mjs", "ai"),
    "opencode": ("cli", "opencode.py", "opencode-ai"),
    "codex": ("cli", "codex.py", "@openai/codex"),
}


def install(folder: Path) -> None:
    """Python environments and npm packages, where they are not there yet."""
    for name, packages in PYTHON.items():
        if not (folder / name / "done").exists():
            venv.create(folder / name, with_pip=True)
            run([str(folder / name / "bin" / "pip"), "install", "--quiet", *packages], folder)
            (folder / name / "done").touch()
    if not (folder / "npm" / "done").exists():
        (folder / "npm").mkdir(exist_ok=True)
        run(["npm", "install", "--no-save", "--silent", *NPM], folder / "npm")
        (folder / "npm" / "done").touch()


def run(words: list[str], folder: Path) -> None:
    subprocess.run(words, cwd=folder, check=True, stdout=subprocess.DEVNULL)


def version(folder: Path, environment: str, package: str) -> str:
    if environment in PYTHON:
        code = f"import importlib.metadata as m; print(m.version({package!r}))"
        words = [str(folder / environment / "bin" / "python"), "-c", code]
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
    return str(json.loads((folder / "npm" / "node_modules" / package / "package.json").read_text())["version"])


async def record(names: list[str], folder: Path, embedded: str) -> None:
    """Run the programs one after the other, and write what passed."""
    scrub = {str(folder): "/home/user", f"{Path.home()}/": "/home/user/"}
    async with ToolEngine(delay_s=0.05) as engine:
        recorder = Recorder(engine.url, embedded, scrub)
        base = await recorder.start()
        for name in names:
            environment, program, package = PROGRAMS[name]
            recorder.begin(f"{name} {version(folder, environment, package)}")
            python = folder / environment / "bin" / "python" if environment in PYTHON else Path(sys.executable)
            runner, where = (str(python), HERE / "programs") if program.endswith(".py") else ("node", folder / "npm")
            if runner == "node":
                (where / program).write_text((HERE / "programs" / program).read_text())
            home = folder / "home"
            home.mkdir(exist_ok=True)
            env = {"PATH": os.environ["PATH"], "HOME": str(home), "RECORDER": base, "CLIENTS": str(folder / "npm")}
            path = str(HERE / "programs" / program) if runner != "node" else program
            process = await asyncio.create_subprocess_exec(runner, path, cwd=where, env=env)
            if await process.wait():
                raise SystemExit(f"{name} failed")
            write(name, recorder)
        await recorder.stop()


def write(name: str, recorder: Recorder) -> None:
    lines = recorder.lines
    text = "".join(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n" for line in lines)
    (HERE / f"{name}.jsonl").write_text(text)
    print(f"{recorder.client}: {len(lines)} requests, {len(text) / 1000:.0f} kB", flush=True)


def main() -> None:
    """Parse the command line and go."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*PROGRAMS, []], metavar="NAME", help=", ".join(PROGRAMS))
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "hocket-captures")
    args = parser.parse_args()
    args.folder.mkdir(exist_ok=True)
    install(args.folder)
    with serving(EmbeddedSpec(weights="small", context=1024)) as embedded:
        asyncio.run(record(args.names or list(PROGRAMS), args.folder, embedded))


if __name__ == "__main__":
    main()
