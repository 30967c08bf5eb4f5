"""The README's quick start, run as it stands: its client code against `hocket serve` and a real engine."""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, block

HOCKET = Path(sys.executable).with_name("hocket")
SETTINGS = """
listen: 127.0.0.1:0
engines:
  - name: small
    kind: llamacpp
    replicas: [{url}]
"""


@pytest.fixture
def gateway(small_engine: str, tmp_path: Path) -> Iterator[str]:
    settings = tmp_path / "hocket.yaml"
    settings.write_text(SETTINGS.format(url=small_engine))
    command = [HOCKET, "serve", "--config", str(settings)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            found = re.match(r"hocket listens on (http://\S+)/v1 ", process.stdout.readline())
            assert found, "the gateway did not start"
            yield found[1]
        finally:
            process.terminate()


@pytest.mark.slow
def test_the_client_code_runs_and_its_calls_are_one_job(gateway: str) -> None:
    code = block(ROOT / "README.md", "quick start")
    assert code.count("http://127.0.0.1:8080") == 1
    code = code.replace("http://127.0.0.1:8080", gateway)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    with urllib.request.urlopen(f"{gateway}/metrics") as answer:
        metrics = answer.read().decode()
    assert 'hocket_calls_total{engine="small",outcome="finished"} 2.0' in metrics
    assert 'hocket_jobs_total{app="research",reason="closed"} 1.0' in metrics
