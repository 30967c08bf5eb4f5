"""Fits the performance tables that hocket ships (src/hocket/planner/tables.json) to published step times.

    python benchmarks/_fit_tables.py [-o FILE]

For each model, device and tensor-parallel degree: the engine model's six constants, least relative error, none below
0. From `../shared/data/perf_aic_predicted`: step times that aiconfigurator-core 0.12 (Apache-2.0) predicts from
measured operations. Prints how far each fit is off. Weights (bfloat16), KV bytes a token and contexts follow from the
models' public configurations.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import sys
from collections import defaultdict
from pathlib import Path

import msgspec

from hocket.engines.fit import Prefill, Step, fit, prefill_misfit, step_misfit

DATA = Path(__file__).parents[2] / "shared" / "data" / "perf_aic_predicted" / "predicted_step_latency.csv.gz"
OUT = Path(__file__).parents[1] / "src" / "hocket" / "planner" / "tables.json"
GIB = 2**30
MODELS = {
    # published name: (name here, parameters, layers, KV heads, head dimension, context). Where a base model and the
    # instruct one differ it is the shorter context: an engine refuses to start with one that is too long.
    "meta-llama/Meta-Llama-3.1-8B": ("llama-3.1-8b", 8.03e9, 32, 8, 128, 131072),
    "meta-llama/Meta-Llama-3.1-70B": ("llama-3.1-70b", 70.55e9, 80, 8, 128, 131072),
    "Qwen/Qwen2.5-7B": ("qwen2.5-7b", 7.62e9, 28, 4, 128, 32768),
    "Qwen/Qwen2.5-72B": ("qwen2.5-72b", 72.71e9, 80, 8, 128, 32768),
    "Qwen/Qwen3-8B": ("qwen3-8b", 8.19e9, 36, 8, 128, 40960),
    "Qwen/Qwen3-32B": ("qwen3-32b", 32.76e9, 64, 8, 128, 40960),
}
KINDS = {"a100_sxm": "a100", "h100_sxm": "h100", "h200_sxm": "h200"}


def main() -> int:
    """Fit, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", default=str(OUT), metavar="FILE")
    args = parser.parse_args()
    if not DATA.is_file():
        print(f"{DATA}: not there; nothing to fit", file=sys.stderr)
        return 0
    prefills: dict[tuple[str, str, int], list[Prefill]] = defaultdict(list)
    steps: dict[tuple[str, str, int], list[Step]] = defaultdict(list)
    with gzip.open(DATA, "rt") as file:
        for row in csv.DictReader(file):
            key, seconds = (row["model"], row["system"], int(row["tp"])), float(row["ms"]) / 1e3
            batch, tokens = int(row["batch"]), int(row["tokens"])
            if row["phase"] == "prefill" and batch == 1:
                prefills[key].append(Prefill(tokens, seconds))
            elif row["phase"] == "decode_step":
                steps[key].append(Step(batch, batch * tokens, seconds))
    tables: dict[str, dict[str, object]] = {}
    print(f"{'model':16}{'device':8}{'tp':>3}{'prefill off':>14}{'decode off':>14}")
    for (published, system, degree), measured in sorted(steps.items()):
        name, parameters, layers, heads, dimension, context = MODELS[published]
        latency = fit(prefills[published, system, degree], measured)
        before, after = prefill_misfit(latency, prefills[published, system, degree]), step_misfit(latency, measured)
        print(f"{name:16}{KINDS[system]:8}{degree:3}{before.mean:14.1%}{after.mean:14.1%}")
        table = tables.setdefault(
            name,
            {
                "repository": published,
                "weights_gib": round(2 * parameters / GIB, 2),
                "kv_bytes_per_token": 2 * 2 * layers * heads * dimension,
                "context_tokens": context,
                "latency": {},
            },
        )
        rounded = {key: float(f"{value:.4g}") for key, value in msgspec.structs.asdict(latency).items()}
        table["latency"].setdefault(KINDS[system], {})[str(degree)] = rounded  # type: ignore[attr-defined]
    Path(args.o).write_bytes(msgspec.json.format(msgspec.json.encode(tables), indent=1) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
