"""One to ten times what an engine can do: what becomes of those who are let in, simulated and live.

    python benchmarks/overload.py --page docs/benchmarks-overload.md          (about 10 minutes)
    python benchmarks/overload.py --only simulated --seeds 1                   (about a minute)

The same jobs meet the same engine in the simulator (tests/shaped_engine.py's `narrow` as an engine model) and live:
`hocket serve`, the engine and the clients are three processes, on real sockets. A client gives up a call that is not
answered in time, and its job with it; a job that is refused at its first call goes away. Goodput: tokens a second of
jobs that were answered in full, by clients that had not given up.

Must hold, with `limits.wait_s`: goodput at every load at least 90 % of its peak; class 0's p99 within 20 % of that at
1x; no call of a job that was let in refused; the gateway's memory bounded. Exit code 1 if not.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import _overload_live as live
import msgspec
from _overload_jobs import CAPACITY, LIMITS, PATIENCE_S, SLOTS, URGENT, WAIT_S, jobs, setup, tokens

from hocket.sim.experiment import simulate
from hocket.sim.results import quantile

LOADS = (1.0, 2.0, 5.0, 10.0)
WARM_S, SIMULATED_S = 30.0, 240.0
GOODPUT, UNCHANGED, MEMORY = 0.9, 0.2, 1.5


class Row(msgspec.Struct):
    """One load."""

    load: float
    offered: int
    refused: int
    late: int
    "jobs that were let in, and lost: their clients gave up"
    goodput: float
    "tokens a second"
    urgent_p50_s: float
    urgent_p99_s: float
    urgent: int
    broken: int = 0
    peak_mib: float = 0.0
    after_s: float = 0.0
    "median `Retry-After`"


Table = dict[str, list[Row]]
LIVE = "live, `default`, with limits"
AGAIN = f"live, `default`, with limits, clients that come again {live.RETRIES} times after `Retry-After`"


def simulated(policy: str, limited: bool, load: float, seeds: int) -> Row:
    """One load in the simulator, pooled over `seeds`. A job is late if a call of it waits for longer than a client."""
    good, urgent, offered, refused, late = 0, [], 0, 0, 0
    for seed in range(seeds):
        drawn = jobs(load, SIMULATED_S, seed)
        outcome = simulate(drawn, setup(LIMITS if limited else None), policy)
        assert outcome.policy_error is None, outcome.policy_error
        offered += len(drawn)
        refused += len(outcome.rejected)
        for job in drawn:
            jct_s = outcome.jct_s.get(job.job)
            if jct_s is None or not WARM_S <= job.arrival_s + jct_s < SIMULATED_S:
                continue
            if max(outcome.waits_s[job.job]) > PATIENCE_S:
                late += 1
                continue
            good += tokens(job)
            if job.urgency == 0:
                urgent.append(jct_s)
    count = len(urgent)
    urgent = sorted(urgent) or [0.0]
    goodput = good / (SIMULATED_S - WARM_S) / seeds
    return Row(load, offered, refused, late, goodput, quantile(urgent, 0.5), quantile(urgent, 0.99), count)


def measured(load: float, limited: bool, seconds: float, retries: int = 0) -> Row:
    """One load, live."""
    drawn = jobs(load, seconds, 0)
    seen = asyncio.run(live.run(drawn, seconds, limited=limited, retries=retries))
    urgent, after = sorted(seen.urgent_s) or [0.0], sorted(seen.after_s) or [0.0]
    return Row(
        load,
        seen.offered,
        seen.refused,
        seen.given_up,
        sum(seen.good) / (seconds - live.WARM_S),
        quantile(urgent, 0.5),
        quantile(urgent, 0.99),
        len(seen.urgent_s),
        seen.broken,
        seen.peak_mib,
        quantile(after, 0.5),
    )


# ---------------------------------------------------------------- what must hold


def problems(name: str, rows: Sequence[Row]) -> list[str]:
    """What does not hold, of rows with limits."""
    peak, base, wrong = max(row.goodput for row in rows), rows[0], []
    for row in rows:
        at = f"{name}, {row.load:g}x"
        if row.goodput < GOODPUT * peak:
            wrong.append(f"{at}: goodput is {row.goodput / peak:.0%} of its peak; {GOODPUT:.0%} is asked for")
        if abs(row.urgent_p99_s / base.urgent_p99_s - 1.0) > UNCHANGED:
            wrong.append(f"{at}: class 0's p99 is {row.urgent_p99_s / base.urgent_p99_s:.2f} of that at 1x")
        if row.broken:
            wrong.append(f"{at}: {row.broken} jobs that were let in lost a later call")
        if row.peak_mib > MEMORY * base.peak_mib:
            wrong.append(f"{at}: {row.peak_mib:.0f} MiB, {row.peak_mib / base.peak_mib:.2f} times those at 1x")
    return wrong


def verdict(found: Table) -> list[str]:
    """What does not hold, of all that was measured with limits."""
    wrong = []
    for name, rows in found.items():
        if "without" in name:
            continue
        beside = found.get(LIVE, []) if name == AGAIN else []
        # without classes the urgent wait like the others: that is what `fcfs` is
        wrong += [one for one in problems(name, [*beside, *rows]) if "fcfs" not in name or "class 0" not in one]
    return list(dict.fromkeys(wrong))


def told(name: str, row: Row) -> Row:
    """Say what was measured just now."""
    late = f"{row.refused} refused, {row.late} given up"
    print(f"{name} {row.load:g}x: {row.goodput:.0f} tokens/s, {late}, p99 {row.urgent_p99_s:.2f} s", flush=True)
    return row


# ---------------------------------------------------------------- the page


def page(found: Table, command: str, wrong: Sequence[str]) -> str:
    """The tables, in Markdown."""
    lines = [
        "# Benchmark: overload",
        "",
        f"Written by `{command}`. One engine of {SLOTS} slots that writes {CAPACITY:g} tokens a second; that is 1x.",
        "Three applications: a call, an agent of four calls with tools between, a plan with six calls at once.",
        f"Class 0 brings {URGENT:.0%} of the capacity at every load. `limits.wait_s` is {WAIT_S:g} s; a client gives a",
        f"call up after {PATIENCE_S:g} s, and its job with it. Goodput: tokens a second of jobs that were answered in",
        "full, before their clients gave up. [Admission](concepts/admission.md) says who is let in. Live, a load is",
        "one run of less than a minute, on a machine that others used, too: its p99 of class 0 is that of few calls.",
        "",
    ]
    for name, rows in found.items():
        peak, base = max(row.goodput for row in rows), rows[0].urgent_p99_s
        lines += [
            f"## {name[0].upper()}{name[1:]}",
            "",
            "| load | jobs | refused | given up | goodput | of peak | class 0 | p50 | p99 | of 1x | memory | again |",
            "|---|---|---|---|---|---|---|---|---|---|---|---|",
        ]
        lines += [_line(row, peak, base) for row in rows]
        lines.append("")
    lines += ["## Must hold, with limits", ""]
    lines += [
        f"- goodput at least {GOODPUT:.0%} of its peak; class 0's p99 within {UNCHANGED:.0%} of that at 1x; no later",
        f"  call of a job that was let in refused; memory at most {MEMORY:g} times that at 1x",
        *(f"- **missed**: {one}" for one in wrong),
        *([] if wrong else ["- all of it holds"]),
        "",
    ]
    return "\n".join(lines)


def _line(row: Row, peak: float, base: float) -> str:
    cells = [
        f"{row.load:g}x",
        f"{row.offered:,}",
        f"{row.refused:,}",
        f"{row.late:,}",
        f"{row.goodput:.0f}",
        f"{row.goodput / peak:.0%}",
        f"{row.urgent:,}",
        _or_dash(row.urgent_p50_s, "{:.2f} s"),
        _or_dash(row.urgent_p99_s, "{:.2f} s"),
        _or_dash(row.urgent_p99_s / base if base else 0.0, "{:.2f}"),
        _or_dash(row.peak_mib, "{:.0f} MiB"),
        _or_dash(row.after_s, "{:.0f} s"),
    ]
    return f"| {' | '.join(cells)} |"


def _or_dash(value: float, form: str) -> str:
    return form.format(value) if value else "-"


def main() -> int:
    """Measure, show, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["simulated", "live"])
    parser.add_argument("--seeds", type=int, default=3, help="of each load in the simulator")
    parser.add_argument("--seconds", type=float, default=50.0, help="of each load live")
    parser.add_argument(
        "--json", help="keep the figures in this file, and those that it has and that are not taken now"
    )
    parser.add_argument("--page", help="write the tables to this file")
    args = parser.parse_args()
    kept = Path(args.json) if args.json else None
    found = msgspec.json.decode(kept.read_bytes(), type=Table) if kept is not None and kept.exists() else {}
    if args.only != "live":
        for policy in ("default", "fcfs"):
            name = f"simulated, `{policy}`, with limits"
            found[name] = [told(name, simulated(policy, True, load, args.seeds)) for load in LOADS]
            name = f"simulated, `{policy}`, without limits"
            found[name] = [told(name, simulated(policy, False, load, 1)) for load in LOADS[:-1]]
    if args.only != "simulated":
        found[LIVE] = [told(LIVE, measured(load, True, args.seconds)) for load in LOADS]
        found[AGAIN] = [told(AGAIN, measured(load, True, args.seconds, live.RETRIES)) for load in (5.0,)]
        name = "live, `default`, without limits"
        found[name] = [told(name, measured(load, False, args.seconds)) for load in LOADS[2:]]
    wrong = verdict(found)
    if kept is not None:
        kept.write_bytes(msgspec.json.format(msgspec.json.encode(found)))
    if args.page:
        Path(args.page).write_text(page(found, f"python benchmarks/overload.py --page {args.page}", wrong))
    print("\n".join(wrong) or "holds")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
