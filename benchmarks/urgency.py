"""Urgency: Semantic Scheduling (arXiv 2506.12204) reproduced, what goes past it, whole jobs, and what an event costs.

    python benchmarks/urgency.py [--quick] [--seeds N] [--calls N] [--engines one,three] [--page F]

Reproduction: the paper's generator and constants, a batch of 16, pooled over calls. Past it: classes that are weighed
instead of strict, wrong predictions, a bound on waiting. Whole jobs: six applications with learned profiles. Cost: keys
compared for an event, as the number of waiting calls grows.

The page is written to --page, raw figures to --json. Exit code 1 if something that must hold does not.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import msgspec
from _urgency_count import count
from _urgency_page import Found, page, verdicts
from _urgency_runs import ageing, by_ratio, in_error, reproduction, whole_jobs

MOST = (5, 20)
COUNTED = ("urgency>oracle", "urgency:strict=0:within_s=300>oracle")


def main() -> int:
    """Run it all, write the page, say what does not hold."""
    args = _arguments()
    processes, seeds = args.processes, 3 if args.quick else args.seeds
    sizes = [10**power for power in range(2, 7) if 10**power <= (1000 if args.quick else args.calls)]
    start = time.perf_counter()

    def tell(what: str) -> None:
        print(f"{time.perf_counter() - start:5.0f} s  {what}", file=sys.stderr, flush=True)

    tell("lone calls")
    found = Found(
        seeds=seeds,
        lone={most: reproduction(most, seeds, processes) for most in MOST},
        ratios=by_ratio(MOST[-1], seeds, processes),
        error=in_error(MOST[-1], seeds, processes),
        inwards=in_error(MOST[-1], seeds, processes, inwards=True),
    )
    tell("keys that are compared")
    found.counts = [count(policy, calls) for policy in COUNTED for calls in sizes]
    if not args.quick:
        tell("a rush")
        found.rush = ageing(3, processes)
        tell("whole jobs")
        found.whole_seeds = args.whole_seeds
        found.whole = whole_jobs(args.engines.split(","), args.whole_seeds, processes)
    told = verdicts(found)
    text = page(found, told, __doc__ or "")
    if args.page:
        args.page.write_text(text, encoding="utf-8")
    if args.json:
        args.json.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    print(text)
    tell("done")
    return 1 if any(not verdict.holds for verdict in told) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three draws of lone calls, few that wait; no whole jobs")
    parser.add_argument("--seeds", type=int, default=40, help="draws of lone calls (%(default)s)")
    parser.add_argument("--whole-seeds", type=int, default=5, help="draws of whole jobs (%(default)s)")
    parser.add_argument("--calls", type=int, default=10**6, help="most calls that wait (%(default)s)")
    parser.add_argument("--engines", default="one,three", help="of whole jobs (%(default)s)")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)), help="%(default)s")
    parser.add_argument("--page", type=Path)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
