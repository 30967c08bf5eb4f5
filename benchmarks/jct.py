"""The evaluation of the policies: mean job completion time over mixes, loads and engines, beside a clairvoyant one.

    python benchmarks/jct.py [--quick] [--mix ..] [--engines ..] [--load ..] [--policies ..] [--seeds N] [--fresh ..]

Six applications in four mixes, 300 jobs a draw, ten draws, at 0.7 to 1.3 of the capacity of one engine (Llama-3.1-8B on
an A100) and of three (also Qwen3-32B on two, Llama-3.1-70B on four), with four slots each: few, beside 300 jobs.
Profiles are learned from 500 other jobs of each application. Then the same on whole recorded jobs, half of them learned
from, where the folder of recorded data is there. All policies meet the same jobs, so ratios are paired: a ratio of mean
JCTs a draw, its geometric mean over the draws and Student's 95 % interval.

Results are kept in OUT/cells.jsonl: what is there is not run again, unless `--fresh` names its policy (`all`: every
one). The page is written to --page, raw figures to OUT/jct.json. Exit code 1 if something that must hold does not.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from itertools import product
from pathlib import Path

from _jct_cells import ENGINES, RECORDED, Cell, Store, run_cells, source
from _jct_tables import page, raw, verdicts
from _recorded import DATA

from hocket.policies import ORDERINGS
from hocket.sim.workloads import MIXES

LOADS = (0.7, 0.9, 1.1, 1.3)
SEEDS = 10
POLICIES = (
    *("fcfs", "call-fcfs", "fair-jobs", "sjf", "srtf", "argus", "carbyne", "las", "plas", "atlas", "gittins"),
    *("justitia", "llmsched", "hocket", "hocket:ageing=0.1", "hocket:ageing=0.3", "hocket:ageing=1", "oracle"),
)
LEARNERS = ("llmsched", "hocket")
"policies that are also tried with profiles of few jobs, and with wrong ones"
ROBUST, ROBUST_LOAD = ("10", "50", "wrong"), 1.1


def main() -> int:
    """Run what is missing, write the page, say what does not hold."""
    args = _arguments()
    policies = [name for name in _words(args.policies) if name.partition(":")[0] in (*ORDERINGS, "oracle")]
    for name in set(_words(args.policies)) - set(policies):
        print(f"{name}: not in the catalog, left out", file=sys.stderr)
    seeds = range(2 if args.quick else args.seeds)
    loads = [1.1] if args.quick else [float(load) for load in _words(args.load)]
    places = list(product(_words(args.mix), _words(args.engines)))
    cells = [
        Cell(mix, engines, load, seed, policy)
        for (mix, engines), load, seed, policy in product(places, loads, seeds, policies)
    ]
    cells += [
        Cell(mix, engines, ROBUST_LOAD, seed, policy, kind)
        for (mix, engines), seed, policy, kind in product(places, seeds, policies, ROBUST)
        if policy in LEARNERS and mix in MIXES and not args.quick
    ]
    args.out.mkdir(parents=True, exist_ok=True)
    store = Store(args.out / "cells.jsonl")
    fresh = set(_words(args.fresh))
    store.results = {c: r for c, r in store.results.items() if not fresh & {c.policy, "all"}}
    start = time.perf_counter()
    run_cells(cells, store, args.processes, _progress(start))
    results = [store.results[cell] for cell in cells]
    wrong = verdicts(results)
    text = page(results, wrong, __doc__ or "")
    (args.out / "jct.json").write_bytes(raw(results))
    (args.page or args.out / "jct.md").write_text(text, encoding="utf-8")
    print(text)
    stale = sum(result.source != source() for result in results)
    if stale:
        print(f"{stale} of {len(results)} cells were run by other sources: --fresh all runs them anew", file=sys.stderr)
    print(f"{time.perf_counter() - start:.0f} s; {args.out}", file=sys.stderr)
    return 1 if any(not holds for _, holds, _ in wrong) else 0


def _arguments() -> argparse.Namespace:
    known = [*MIXES, *(RECORDED if DATA.is_dir() else ())]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mix", default=",".join(known), help="%(default)s")
    parser.add_argument("--engines", default="one,three", help=f"of {', '.join(ENGINES)} (%(default)s)")
    parser.add_argument("--load", default=",".join(map(str, LOADS)), help="%(default)s")
    parser.add_argument("--policies", default=",".join(POLICIES), help="hocket:told=0.4 sets a parameter")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="draws (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="two draws at load 1.1, robustness left out")
    parser.add_argument("--fresh", default="", metavar="POLICY,..", help="run these anew (all: every one)")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)), help="%(default)s")
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "hocket-jct", help="%(default)s")
    parser.add_argument("--page", type=Path, help="where the page goes (OUT/jct.md)")
    return parser.parse_args()


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _progress(start: float):  # type: ignore[no-untyped-def]
    def tell(done: int, of: int) -> None:
        left = (time.perf_counter() - start) / done * (of - done)
        end = "\n" if done == of else "\r"
        print(f"{done} of {of} cells, {left:.0f} s left   ", end=end, file=sys.stderr, flush=True)

    return tell


if __name__ == "__main__":
    sys.exit(main())
