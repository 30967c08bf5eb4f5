"""Fairness: four tenants on three engines, steady, bursty, greedy with 50 agents, and light. Who gets what, who waits?

    python benchmarks/fairness.py [--minutes 10] [--seeds 3] [--live] [--page F] [--json F]

*Busy*: all four have more to do than they get. Of each 60 s in which all of them had calls waiting: Jain's index of
their dominant shares (the largest part of an engine's slots that a tenant's calls held). *Mixed*: arrivals, bursts,
now and then a light job, and 50 agents that never pause; and the same jobs without these. `vtc` counts tokens on each
engine by itself, `plas` serves the job that has used least, `fair` gives the slots of the moment evenly, `hocket` is
`default` without shares, `hierarchical` is `default` with shares for a tenant's applications, too.

--live: the same four against three engines on sockets, through the gateway, for a minute. Exit code 1 if something that
must hold does not.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import fmean

import msgspec
from _fair_runs import POLICIES, TENANTS, busy, jain, mixed, run

JAIN, SLOWDOWN, JCT = 0.98, 1.15, 1.10
"at least; at most; at most, of `hocket`'s"


class Row(msgspec.Struct):
    """One policy. Means over draws; the least of all windows."""

    policy: str
    windows: int
    jain_least: float
    jain_mean: float
    shares: list[float]
    "dominant, of TENANTS, mean over windows"
    slowdown: float
    "of the light tenant's jobs, to the same without the greedy one"
    slowdown_p95: float
    jct_s: float
    "of all jobs"
    by_tenant_s: list[float]


def measure(policy: str, seeds: int, minutes: float) -> Row:
    """Both scenes, on all draws."""
    indexes, shares = list[float](), [list[float]() for _ in TENANTS]
    slower, jct = list[float](), dict[str, list[float]]()
    for seed in range(seeds):
        for _, window in run(busy(seed, minutes), policy, until=60.0 * minutes).watch.windows():
            indexes.append(jain(window))
            for mine, share in zip(shares, window, strict=True):
                mine.append(share)
        beside = run(mixed(seed, minutes), policy).outcome.jct_s
        alone = run(mixed(seed, minutes, greedy=False), policy).outcome.jct_s
        slower += (beside[job] / alone[job] for job in alone if job.startswith("light"))
        for job, seconds in beside.items():
            jct.setdefault(job.partition("-")[0], []).append(seconds)
    slower.sort()
    return Row(
        policy=policy,
        windows=len(indexes),
        jain_least=min(indexes, default=0.0),
        jain_mean=fmean(indexes) if indexes else 0.0,
        shares=[fmean(mine) if mine else 0.0 for mine in shares],
        slowdown=fmean(slower),
        slowdown_p95=slower[int(0.95 * len(slower))],
        jct_s=fmean(seconds for tenant in TENANTS for seconds in jct[tenant]),
        by_tenant_s=[fmean(jct[tenant]) for tenant in TENANTS],
    )


def verdicts(rows: dict[str, Row]) -> list[tuple[str, bool, str]]:
    """(what must hold, whether it does, by what)."""
    found, base = rows["default"], rows["hocket"].jct_s
    count = f"{found.jain_least:.3f}, of {found.windows} windows"
    return [
        (f"`default`: Jain's index >= {JAIN} in each 60 s", bool(found.windows) and found.jain_least >= JAIN, count),
        (
            f"`default`: the light tenant's mean slowdown <= {SLOWDOWN}",
            found.slowdown <= SLOWDOWN,
            f"{found.slowdown:.3f}",
        ),
        (
            f"`default`: mean JCT <= {JCT} x `hocket`'s",
            found.jct_s <= JCT * base,
            f"{found.jct_s:.1f} s, {found.jct_s / base:.3f} x",
        ),
    ]


def page(rows: dict[str, Row], told: list[tuple[str, bool, str]], live: list[str], args: argparse.Namespace) -> str:
    """The page as text."""
    lines = ["# Fairness", "", "Written by", "", *(__doc__ or "").split("\n")[2:], "## What must hold", ""]
    lines += ["|  | holds | measured |", "| --- | --- | --- |"]
    lines += [f"| {what} | {'yes' if holds else '**no**'} | {measured} |" for what, holds, measured in told]
    what = f"{args.seeds} draws of {args.minutes:g} minutes, engines of 4, 8 and 16 slots"
    lines += ["", f"## In the simulator ({what})", ""]
    lines += [f"Dominant shares and mean seconds of {', '.join(TENANTS)}. Slowdown: of the light tenant's jobs.", ""]
    lines += ["| policy | Jain least | mean | dominant shares | slowdown mean | p95 | mean JCT | of each tenant |"]
    lines += ["| --- | --- | --- | --- | --- | --- | --- | --- |"]
    for row in rows.values():
        shares = " ".join(f"{share:.2f}" for share in row.shares)
        each = " ".join(f"{seconds:.0f}" for seconds in row.by_tenant_s)
        lines.append(
            f"| `{row.policy}` | {row.jain_least:.3f} | {row.jain_mean:.3f} | {shares} | {row.slowdown:.2f} "
            f"| {row.slowdown_p95:.2f} | {row.jct_s:.1f} s | {each} |"
        )
    return "\n".join([*lines, *live, ""])


def main() -> int:
    """Run it all, write the page, say what does not hold."""
    args = _arguments()
    start = time.perf_counter()
    with ProcessPoolExecutor(args.processes) as pool:
        count = len(POLICIES)
        rows = dict(
            zip(POLICIES, pool.map(measure, POLICIES, [args.seeds] * count, [args.minutes] * count), strict=True)
        )
    told, live = verdicts(rows), list[str]()
    if args.live:
        from _fair_live import live_rows, live_table, live_verdicts

        found = asyncio.run(live_rows())
        told += live_verdicts(found)
        live = live_table(found)
    text = page(rows, told, live, args)
    if args.page:
        args.page.write_text(text, encoding="utf-8")
    if args.json:
        args.json.write_bytes(msgspec.json.format(msgspec.json.encode(list(rows.values())), indent=1) + b"\n")
    print(text)
    print(f"{time.perf_counter() - start:.0f} s", file=sys.stderr)
    return 1 if not all(holds for _, holds, _ in told) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="of each scene (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="draws (%(default)s)")
    parser.add_argument("--live", action="store_true", help="against engines on sockets, too")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)), help="%(default)s")
    parser.add_argument("--page", type=Path)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
