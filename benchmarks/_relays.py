"""The relays that are measured: processes of their own on one core, each in front of the same engine."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Iterator, Mapping
from hashlib import sha256
from io import BufferedWriter
from pathlib import Path

import msgspec
from _wire import KEY

HERE = Path(__file__).parent
PEERS = ("vllm-router", "sglang-router", "litellm")
VENVS = HERE.parent / ".venv" / "peers"
MAX_FILES = 20_000
_TICK = os.sysconf("SC_CLK_TCK")


class Relay:
    """One running relay. `close` ends it."""

    def __init__(
        self, name: str, argv: list[str], port: int, log: BufferedWriter, env: Mapping[str, str], cpu: int
    ) -> None:
        self.name, self.port, self._log = name, port, log
        self._process = subprocess.Popen(
            ["taskset", "-c", str(cpu), *argv],
            stdout=log,
            stderr=log,
            env={**os.environ, **env},
            start_new_session=True,
        )

    def wait_until_up(self, within_s: float = 120.0) -> None:
        """Until it answers at all. Raises RuntimeError if it never does."""
        end = time.monotonic() + within_s
        while time.monotonic() < end and self._process.poll() is None:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=2).close()
                return
            except urllib.error.HTTPError:
                return  # LiteLLM wants a key even for this
            except OSError:
                time.sleep(0.1)
        tail = Path(self._log.name).read_text(errors="replace")[-2000:]
        raise RuntimeError(f"{self.name} did not come up; the end of what it said:\n{tail}")

    def cpu_s(self) -> float:
        """CPU seconds that it and its children have taken."""
        total = 0.0
        for pid in self._pids():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                total += (int(fields[11]) + int(fields[12])) / _TICK
        return total

    def rss_mb(self) -> float:
        """Resident memory of it and its children now, MB."""
        total = 0
        for pid in self._pids():
            with contextlib.suppress(OSError):
                total += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return total * os.sysconf("SC_PAGE_SIZE") / 1e6

    def _pids(self) -> Iterator[int]:
        left = [self._process.pid]
        while left:
            pid = left.pop()
            yield pid
            with contextlib.suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    left += map(int, (task / "children").read_text().split())

    def close(self) -> None:
        """End it, gently if it listens."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
                return


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


# ---------------------------------------------------------------- hocket and the bare relay


def hocket(port: int, engine: str, directory: Path, *, journal: bool, history: bool, window: int = 64) -> list[str]:
    """As an operator would have it: a tenant with a key, identity, queue and metrics; journal and history on or off."""
    from hocket.settings import Settings

    directory.mkdir(parents=True, exist_ok=True)
    settings: dict[str, object] = {
        "listen": f"127.0.0.1:{port}",
        "engines": [
            {"name": "small", "kind": "vllm", "models": ["small"], "replicas": [engine], "max_concurrency": window}
        ],
        "tenants": [{"name": "team-a", "key_sha256": sha256(KEY.encode()).hexdigest()}],
    }
    if journal:
        settings["journal"] = str(directory / "journal.jsonl")
    if "history" in Settings.__struct_fields__:
        settings["history"] = {"url": f"sqlite:///{directory / 'history.db'}"} if history else False
    file = directory / "hocket.yaml"
    file.write_bytes(msgspec.yaml.encode(settings))
    return [str(Path(sys.executable).with_name("hocket")), "serve", "--config", str(file)]


def bare(port: int, engine: str) -> list[str]:
    return [sys.executable, str(HERE / "_bare_relay.py"), str(port), engine]


# ---------------------------------------------------------------- peers


def peer(name: str, port: int, engine: str, directory: Path) -> tuple[list[str], dict[str, str]]:
    """Command and environment of a peer, installed beforehand; as its own documents start it, logs off."""
    program = VENVS / name / "bin" / name
    metrics = ["--prometheus-port", str(free_port()), "--prometheus-host", "127.0.0.1"]
    if name == "litellm":
        directory.mkdir(parents=True, exist_ok=True)
        file = directory / "litellm.yaml"
        model = {"model": "openai/small", "api_base": f"{engine}/v1", "api_key": "none"}
        file.write_bytes(msgspec.yaml.encode({"model_list": [{"model_name": "small", "litellm_params": model}]}))
        env = {"LITELLM_MASTER_KEY": KEY, "LITELLM_SALT_KEY": secrets.token_hex(16), "LITELLM_LOG": "ERROR"}
        env |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False", "DO_NOT_TRACK": "1"}
        return [str(program), "--config", str(file), "--host", "127.0.0.1", "--port", str(port)], env
    common = ["--host", "127.0.0.1", "--port", str(port), "--worker-urls", engine, "--policy", "round_robin"]
    level = "warning" if name == "vllm-router" else "warn"
    launch = ["launch"] if name == "sglang-router" else []
    return [str(program), *launch, *common, "--log-level", level, *metrics], {}


def install(name: str) -> None:
    """Make a peer's venv from its pinned requirements; nothing to do when it is there already."""
    pins, home = HERE / "peers" / f"{name}.txt", VENVS / name
    stamp = home / "installed.txt"
    if stamp.exists() and stamp.read_bytes() == pins.read_bytes():
        return
    print(f"installing {name} into {home}", flush=True)
    venv.create(home, with_pip=True, clear=True)
    pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-r", str(pins)], check=True)
    stamp.write_bytes(pins.read_bytes())
