"""The OpenAPI document is what the gateway does: held against its routes and codes, and attacked by schemathesis."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from hocket.gateway.openapi import CODES, document
from hocket.settings import EngineSettings, TenantSettings
from tests.docs.pages import ROOT
from tests.gateway.conftest import Start
from tests.scripted_engine import ScriptedEngine

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
KEY = "key-of-a"


def test_the_document_in_the_docs_is_the_one_that_is_served() -> None:
    """To write it anew: curl localhost:8080/openapi.json > docs/reference/openapi.json."""
    assert (ROOT / "docs" / "reference" / "openapi.json").read_bytes() == document()


async def test_every_route_is_in_the_document(engine: ScriptedEngine, start: Start) -> None:
    world = await start(engine)
    async with world.http.get(f"{world.url}/openapi.json") as response:
        assert await response.read() == document()
    paths = json.loads(document())["paths"]
    told = {(method.upper(), path) for path, item in paths.items() for method in item if method != "parameters"}
    operations = world.gateway.operators.operations
    fixed = {(operation.method, path) for path, operation in operations.items()} | set(world.gateway._routes)
    assert fixed <= told
    for method, path in told - fixed:
        # the rest have names in them: the gateway answers something else than that it does not know the path
        url = world.url + re.sub(r"\{\w+\}", "x", path)
        async with world.http.request(method, url) as response:
            answer = await response.json()
            assert answer.get("error", {}).get("code") not in {"unknown_path", "method_not_allowed"}, (method, path)


async def test_the_codes_of_the_document_are_those_of_the_page(engine: ScriptedEngine) -> None:
    """Which code goes with which status; that each is in the source tests/docs/test_api.py sees to."""
    page = (ROOT / "docs" / "reference" / "api.md").read_text()
    rows = re.findall(r"^\| (\d[\d, ]*) \| (.+?) \|", page, re.MULTILINE)
    told: dict[int, set[str]] = {}
    for statuses, codes in rows:
        for status in statuses.split(","):
            told.setdefault(int(status), set()).update(re.findall(r"`(\w+)`", codes))
    assert told == {status: set(codes) for status, codes in CODES.items()}


@pytest.mark.parametrize("tenants", [False, True], ids=["open", "tenants"])
async def test_schemathesis_finds_nothing(engine: ScriptedEngine, start: Start, tmp_path: Path, tenants: bool) -> None:
    served = [EngineSettings(name="small", replicas=[engine.url])]
    digest = sha256(KEY.encode()).hexdigest()
    world = await start(engines=served, tenants=[TenantSettings(name="a", key_sha256=digest)] if tenants else [])
    schema: Any = json.loads(document())
    for item in schema["paths"].values():
        body = item.get("post", {}).get("requestBody", {}).get("content", {}).get("application/json", {})
        if "model" in body.get("schema", {}).get("properties", {}):
            # an unknown model is a 404 and would hide the rest
            straight = item["post"]["operationId"].endswith("tokenize")
            body["schema"]["properties"]["model"] = {"enum": ["small", None] if straight else ["small"]}
            # with a key, what is answered depends on the requests before
            known = item["post"].get("parameters", [])
            known[:] = [one for one in known if not one.get("$ref", "").endswith("/idempotency-key")]
    schema["security"] = [{"key": []}] if tenants else []
    if tenants:  # operators have keys of their own, and none is set
        for path in ("/metrics", "/admin/jobs", "/admin/tenants", "/admin/reload"):
            del schema["paths"][path]
    file = tmp_path / "openapi.json"
    file.write_text(json.dumps(schema))
    words = ["run", str(file), "--url", world.url, "--max-examples", "12", "--seed", "1", "--no-color"]
    if tenants:
        words += ["-H", f"Authorization: Bearer {KEY}"]
    process = await asyncio.create_subprocess_exec(
        SCHEMATHESIS, *words, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    out, _ = await process.communicate()
    text = out.decode()
    assert process.returncode == 0, text
    assert "Operations:       " in text and len(engine.seen) > 100, text
