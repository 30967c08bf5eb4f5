"""How long `hocket plan` takes on larger clusters, from files to files: five models on 16 devices, 21 on 256.

    python benchmarks/large.py [--budgets 28,120] [--jobs 500] [--out DIR]

Five models: `rag`, 4 jobs/s, and `beam-search`, 0.4. 21: seven applications of three models each, none shared, four
like `rag` and three like `coding-crew`, 2 jobs/s each. Both for latency, on H100s in domains of 8. Prints seconds from
start to end, and of the processors; exit code 1 if the first takes more than 30 s or the second more than 300. The
first plan after an installation compiles, so a small one is made before.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec
from _plan_cells import BEAM, CREW, PLANNED_ON, RAG, cluster

from hocket.sim.workloads import generate
from hocket.trace import Job, write_jobs

AIMS = (30.0, 300.0)
TABLES = RAG | BEAM | CREW | {"generator": "qwen3-32b"}
App = tuple[str, float, str]
"its kind, jobs a second, and what stands behind its name and those of its models"
FIVE: list[App] = [("rag", 4.0, ""), ("beam-search", 0.4, "")]
MANY: list[App] = [("rag" if i < 4 else "coding-crew", 2.0, f"-{i}") for i in range(7)]


def jobs_of(app: App, count: int) -> list[Job]:
    """Recorded jobs of one application."""
    kind, per_s, behind = app
    return [
        msgspec.structs.replace(
            job,
            job=f"{kind}{behind}-{job.job}",
            app=kind + behind,
            stages=[
                msgspec.structs.replace(stage, model=stage.model + behind) if stage.model else stage
                for stage in job.stages
            ],
        )
        for job in generate(kind, count, per_s, PLANNED_ON)
    ]


def written(folder: Path, apps: list[App], devices: int, count: int) -> list[str]:
    """The files of one problem; the words of the command that plans it."""
    jobs = [job for app in apps for job in jobs_of(app, count)]
    named = dict.fromkeys(stage.model for job in jobs for stage in job.stages if stage.model)
    models = [{"name": name, "table": TABLES[name.rstrip("-0123456789")]} for name in named]
    files: Mapping[str, object] = {
        "rates": {"apps": [{"name": kind + behind, "per_s": per_s} for kind, per_s, behind in apps]},
        "cluster": cluster(devices),
        "models": {"models": models},
    }
    write_jobs(folder / "jobs.jsonl", jobs)
    words = ["plan", "--jobs", str(folder / "jobs.jsonl"), "-o", str(folder / "plan")]
    for name, content in files.items():
        (folder / f"{name}.yaml").write_bytes(msgspec.json.encode(content))  # JSON is YAML
        words += [f"--{name}", str(folder / f"{name}.yaml")]
    return words


def timed(words: list[str], budget: float) -> tuple[float, float]:
    """Seconds that `hocket` takes: from start to end, and of the processors. Raises RuntimeError if it fails."""
    command = [str(Path(sys.executable).with_name("hocket")), *words, "--budget", str(budget)]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    took, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}: {done.stderr[-500:]}")
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budgets", default="28,120", metavar="S,S", help="of the two plans")
    parser.add_argument("--jobs", type=int, default=500, help="recorded ones of each application")
    parser.add_argument("--out", metavar="DIR", help="keep the files here")
    args = parser.parse_args()
    budgets = [float(part) for part in args.budgets.split(",")]
    met = True
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.out or temporary)
        (folder / "small").mkdir(parents=True, exist_ok=True)
        timed(written(folder / "small", FIVE[:1], 4, 60), 1.0)
        for name, apps, devices, budget, aim in zip(
            ("five", "many"), (FIVE, MANY), (16, 256), budgets, AIMS, strict=True
        ):
            (folder / name).mkdir(exist_ok=True)
            words = written(folder / name, apps, devices, args.jobs)
            took, busy = timed(words, budget)
            met = met and took <= aim
            print(f"{name}: {devices} devices, budget {budget:g} s: {took:.1f} s, {busy:.0f} s of the processors")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
