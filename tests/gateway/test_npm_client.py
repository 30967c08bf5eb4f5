"""The official openai client from npm works unmodified; what it does is in tests/clients/npm/client.mjs."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from hocket.settings import EngineSettings
from tests.gateway.conftest import Running, Start
from tests.scripted_engine import ScriptedEngine
from tests.tool_engine import ToolEngine

HERE = Path(__file__).parent.parent / "clients" / "npm"


@pytest.fixture(scope="session")
def node() -> Path:
    """A folder with the client in it: the locked version, installed once for all runs on this machine."""
    for command in ("node", "npm"):
        if shutil.which(command) is None:
            pytest.fail(f"{command} is missing; `sh requirements/system.sh tests` installs it (Debian: nodejs, npm)")
    lock = (HERE / "package-lock.json").read_bytes()
    folder = Path(tempfile.gettempdir()) / f"hocket-npm-{os.getuid()}-{sha256(lock).hexdigest()[:12]}"
    folder.mkdir(mode=0o700, exist_ok=True)
    assert folder.stat().st_uid == os.getuid(), f"{folder} is somebody else's; remove it"
    if not (folder / "installed").exists():
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, folder)
        words = ["npm", "ci", "--prefer-offline", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, f"npm ci failed:\n{done.stderr[-2000:]}"
        (folder / "installed").touch()
    shutil.copy(HERE / "client.mjs", folder)
    return folder


@pytest.fixture
async def world(engine: ScriptedEngine, start: Start) -> AsyncIterator[Running]:
    async with ToolEngine() as tools:
        yield await start(
            engines=[
                EngineSettings(name="small", replicas=[tools.url], max_concurrency=4),
                EngineSettings(name="scripted", replicas=[engine.url], max_concurrency=1),
            ]
        )


async def use(node: Path, url: str, *names: str) -> dict[str, Any]:
    """What came of these tests of client.mjs."""
    env = {**os.environ, "BASE_URL": f"{url}/v1"}
    words = ["node", str(node / "client.mjs"), *names]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*words, cwd=node, env=env, stdout=pipe, stderr=pipe)
    out, problems = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, problems.decode()[-2000:]
    return json.loads(out)  # type: ignore[no-any-return]


async def test_on_a_real_engine(node: Path, small_engine: str, start: Start) -> None:
    world = await start(small_engine)
    came = await use(node, world.url, "chat", "stream", "completion", "models")
    assert came["chat"]["text"] and came["chat"]["tokens"] > 0 and came["chat"]["job"]
    assert came["stream"]["text"] and came["stream"]["tokens"] > 0
    assert came["completion"] and came["models"] == ["small"]


async def test_tools_responses_and_embeddings(node: Path, world: Running) -> None:
    came = await use(node, world.url, "tools", "responses", "embeddings")
    assert came["tools"] == {"found": ["a", "b", "c"] * 2, "answers": ["Done.", "Done."]}
    assert came["responses"] == ["One.", "Two.", "Three."]
    assert came["embeddings"] == [[0.25, -0.5, 1.0]] * 2


async def test_errors_are_the_clients_own(node: Path, world: Running) -> None:
    came = (await use(node, world.url, "errors"))["errors"]
    assert (came["model"]["kind"], came["model"]["code"]) == ("NotFoundError", "model_not_found")
    assert "there is: small, scripted" in came["model"]["message"]
    assert (came["identity"]["kind"], came["identity"]["param"]) == ("BadRequestError", "x-hocket-urgency")
    assert (came["engine"]["kind"], came["engine"]["status"]) == ("UnprocessableEntityError", 422)
    assert came["cut"]["known"] and "before its answer was complete" in came["cut"]["message"]
    assert came["nobody"] == "APIConnectionError"


async def test_its_retries_are_counted_as_such(node: Path, world: Running, engine: ScriptedEngine) -> None:
    came = (await use(node, world.url, "retries"))["retries"]
    assert (came["kind"], came["status"]) == ("RateLimitError", 429)
    retries = [int(seen.headers["x-stainless-retry-count"]) for seen in engine.seen]
    assert sorted(set(retries)) == [0, 1, 2]


async def test_an_abort_frees_the_slot(node: Path, world: Running, engine: ScriptedEngine) -> None:
    came = (await use(node, world.url, "abort"))["abort"]
    assert came["error"] == "APIUserAbortError"
    assert came["streamed"] == came["whole"] == came["left"] == "xxxxxxxx"
    assert came["waited"] < 2000
    assert len(engine.aborted) == 3
    assert world.inflight == 0
