"""A plan as files that other systems run: Kubernetes manifests, Ray Serve LLM, Docker Compose, and `hocket.yaml`."""

from __future__ import annotations

from pathlib import Path

from hocket.errors import InputError
from hocket.planner.export.common import Deployable
from hocket.planner.export.compose import addresses, compose_file
from hocket.planner.export.kubernetes import manifests
from hocket.planner.export.ray_serve import serve_config
from hocket.planner.export.settings import local_file, settings_file
from hocket.planner.inputs import Cluster, Models
from hocket.planner.plan import Plan, check

LOCAL = "local.yaml"
"settings that run a plan of CPU cores on this very machine: what `hocket up` serves"
NAMES = ("kubernetes.yaml", "ray-serve.yaml", "docker-compose.yaml", "hocket.yaml", LOCAL)
MARK = "# Written by `hocket plan`."
"at the beginning of each"


def export(plan: Plan, cluster: Cluster, models: Models, key_sha256: str | None = None) -> dict[str, str]:
    """File name -> text. Raises InputError for a plan that cannot be deployed.

    `key_sha256`: of the API key that opens the gateway to other machines; without one it listens on its own pod alone.
    """
    check(plan, cluster, models)
    deployable = Deployable(plan, cluster, models)
    local = local_file(deployable, key_sha256)
    if local is not None:  # cores of a CPU: nothing of what follows could run them
        return {LOCAL: local}
    urls = addresses(deployable)
    return {
        "kubernetes.yaml": manifests(deployable, key_sha256),
        "ray-serve.yaml": serve_config(deployable),
        "docker-compose.yaml": compose_file(deployable),
        "hocket.yaml": settings_file(deployable, lambda replica: urls[replica.name], key_sha256),
    }


def exports_in(folder: str | Path) -> list[Path]:
    """What an earlier plan left in a folder. Raises InputError where a file there is somebody's own."""
    found = []
    for file in (Path(folder, name) for name in NAMES):
        try:
            text = file.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            continue
        except OSError as error:
            raise InputError(f"{file}: cannot be read ({error.strerror}); choose another folder") from None
        if not text.startswith(MARK):
            raise InputError(f"{file}: hocket plan did not write this, and would write over it; choose another folder")
        found.append(file)
    return found


def put_by(folder: str | Path) -> None:
    """Rename what an earlier plan left (`hocket.yaml.old`): nobody deploys it for a later one, and edits are not lost.

    Raises InputError.
    """
    for file in exports_in(folder):
        try:
            file.replace(file.with_name(f"{file.name}.old"))
        except OSError as error:
            raise InputError(f"{file}: cannot be renamed ({error.strerror}); choose another folder") from None


def write(files: dict[str, str], folder: str | Path) -> None:
    """Write exported files. Raises InputError."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            Path(folder, name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); choose another folder") from None
