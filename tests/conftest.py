"""Fixtures that tests of every part share: really running embedded engines."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import hypothesis
import pytest

from hocket.engines import weights
from hocket.engines.embedded import EmbeddedSpec, command

# no test is about an absolute time: an example may be slow because the machine is
hypothesis.settings.register_profile("hocket", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("hocket")


@pytest.fixture(autouse=True, scope="session")
def own_state_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A gateway records its calls by default: not in the history of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@contextmanager
def serving(spec: EmbeddedSpec) -> Iterator[str]:
    """The base URL of one embedded engine, which lives as long as the block."""
    words = command(spec, weights.pull(spec.weights))
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line, f"the embedded engine did not start: {process.wait(10)}"
            yield json.loads(line)["url"]
        finally:
            process.stdin.close()
            process.wait(10)


@pytest.fixture(scope="session")
def small_engine() -> Iterator[str]:
    """Base URL (without /v1) of SmolLM2-135M: 8 slots of 1024 tokens, one thread."""
    with serving(EmbeddedSpec(weights="small", context=1024)) as url:
        yield url


@pytest.fixture(scope="session")
def large_engine() -> Iterator[str]:
    """Base URL (without /v1) of Gemma-3-270M: 8 slots of 1024 tokens, one thread."""
    with serving(EmbeddedSpec(weights="large", context=1024)) as url:
        yield url
