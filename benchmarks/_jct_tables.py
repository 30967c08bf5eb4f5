"""The evaluation's figures: from cells to ratios, tables and what holds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec
from _jct_cells import LEARNED, Result

from hocket.sim.compare import Ratio, paired
from hocket.sim.results import quantile

PAPER = ("fcfs", "fair-jobs", "sjf", "argus", "carbyne")
"what llmsched was compared with where it was published: 14 to 79 % less"
WELL = str(LEARNED)


class Verdict(NamedTuple):
    """Something that must hold."""

    what: str
    holds: bool
    found: str


class Place(NamedTuple):
    """Where policies meet the same jobs."""

    workload: str
    engines: str
    load: float


class Grid:
    """Results by place, policy, profiles and seed."""

    def __init__(self, results: Iterable[Result]) -> None:
        self._results: dict[tuple[Place, str, str], dict[int, Result]] = {}
        for result in results:
            cell = result.cell
            place = Place(cell.workload, cell.engines, cell.load)
            self._results.setdefault((place, cell.policy, cell.profiles), {})[cell.seed] = result
        self.places = list(dict.fromkeys(place for place, _, _ in self._results))
        self.policies = list(dict.fromkeys(policy for _, policy, _ in self._results))
        self.engines = list(dict.fromkeys(place.engines for place in self.places))
        self.loads = sorted({place.load for place in self.places})

    def of(self, place: Place, policy: str, profiles: str = WELL) -> dict[int, Result]:
        return self._results.get((place, policy, profiles), {})

    def ratio(self, places: Sequence[Place], policy: str, to: str, profiles: str = WELL) -> Ratio | None:
        """Mean JCT under `policy` over that under `to`: a draw's ratio is the mean of its ratios at `places`."""
        draws: dict[int, list[float]] = {}
        for place in places:
            ours, theirs = self.of(place, policy, profiles), self.of(place, to)
            for seed in ours.keys() & theirs.keys():
                assert ours[seed].jobs == theirs[seed].jobs, f"{place}, seed {seed}: {policy} and {to} had other jobs"
                draws.setdefault(seed, []).append(ours[seed].mean / theirs[seed].mean)
        whole = [sum(ratios) / len(ratios) for ratios in draws.values() if len(ratios) == len(places)]
        return paired(whole) if whole else None

    def tail(self, place: Place, policy: str, to: str, q: float) -> float | None:
        """A quantile of all draws' JCTs under `policy`, over that under `to`."""
        pooled = [
            sorted(jct for result in self.of(place, name).values() for jct in result.jct_s) for name in (policy, to)
        ]
        return quantile(pooled[0], q) / quantile(pooled[1], q) if all(pooled) else None


# ---------------------------------------------------------------- what must hold


def verdicts(results: Sequence[Result]) -> list[Verdict]:
    grid = Grid(results)
    made = [place for place in grid.places if not place.workload.startswith("recorded")]
    found = [*_llmsched(grid, made), *_against_all(grid, made), *_to_oracle(grid, made), *_tails(grid, made)]
    return [*found, *_robust(grid, made)]


def _llmsched(grid: Grid, places: Sequence[Place]) -> list[Verdict]:
    """(a): llmsched takes at least 14 % off the baselines of its paper at load 1.1 and above."""
    cuts = {
        (place, name): 1 - ratio.ratio
        for place in places
        for name in PAPER
        if place.load >= 1.1 and (ratio := grid.ratio([place], "llmsched", name))
    }
    if not cuts:
        return []
    low, where = min((cut, key) for key, cut in cuts.items())
    inside = sum(cut >= 0.14 for cut in cuts.values())
    beyond = sum(  # who knows the future is not that far below either
        1 - ratio.ratio < 0.14
        for (place, name), cut in cuts.items()
        if cut < 0.14 and (ratio := grid.ratio([place], "oracle", name))
    )
    told = f"{inside} of {len(cuts)} cells, and of the others {beyond} that not even oracle can hold"
    told += f"; least {low:.0%} ({where[1]}, {_name(where[0])}), most {max(cuts.values()):.0%}"
    return [Verdict("a: llmsched is at least 14 % below each baseline of its paper at load >= 1.1", low >= 0.14, told)]


def _against_all(grid: Grid, places: Sequence[Place]) -> list[Verdict]:
    """(b): nothing that does not see the future is better anywhere; half of llmsched's distance; 20 % below las."""
    out = []
    others = [name for name in grid.policies if name not in {"hocket", "oracle"} and ":" not in name]
    uppers = {
        (place, name): ratio.high
        for place in places
        for name in others
        if (ratio := grid.ratio([place], "hocket", name)) and not math.isnan(ratio.high)
    }
    if uppers:
        high, where = max((high, key) for key, high in uppers.items())
        over = sum(high > 1.02 for high in uppers.values())
        told = f"{over} of {len(uppers)} cells above; most {high:.3f} ({where[1]}, {_name(where[0])})"
        what = "b: hocket <= 1.02 x every other policy on every mix and load (upper 95 % bound)"
        out.append(Verdict(what, high <= 1.02, told))
    for engines, load in _columns(grid):
        here = [place for place in places if (place.engines, place.load) == (engines, load)]
        ours, theirs = grid.ratio(here, "hocket", "oracle"), grid.ratio(here, "llmsched", "oracle")
        if ours and theirs:
            share = (ours.ratio - 1) / (theirs.ratio - 1)
            what = f"b: hocket halves llmsched's distance to oracle ({engines}, load {load})"
            out.append(Verdict(what, share <= 0.5, f"{ours.ratio - 1:.3f} of {theirs.ratio - 1:.3f}: {share:.2f}"))
        for name in ("las", "plas"):
            ratio = grid.ratio(here, "hocket", name)
            if ratio and load >= 1.1:
                what = f"b: hocket >= 20 % below {name} ({engines}, load {load})"
                out.append(Verdict(what, ratio.ratio <= 0.8, f"{1 - ratio.ratio:.1%}"))
    return out


def _to_oracle(grid: Grid, places: Sequence[Place]) -> list[Verdict]:
    """(c): near what knowing everything would reach."""
    out = []
    for engines, load in _columns(grid):
        here = [place for place in places if (place.engines, place.load) == (engines, load)]
        ratio, limit = grid.ratio(here, "hocket", "oracle"), 1.08 if load <= 1.1 else 1.12
        if ratio:
            what = f"c: hocket <= {limit} x oracle ({engines}, load {load})"
            out.append(Verdict(what, ratio.ratio <= limit, _told(ratio)))
    return out


def _tails(grid: Grid, places: Sequence[Place]) -> list[Verdict]:
    """(d): what the mean gains, the tail must not pay for, or a knob buys it back: `ageing`."""
    found = {}
    for name in grid.policies:
        tails = [grid.tail(place, name, "fcfs", q) for place in places for q in (0.95, 0.99)]
        known = [ratio for ratio in tails if ratio is not None]
        if known and name.partition(":")[0] == "hocket":
            found[name] = (max(known), sum(ratio > 1.1 for ratio in known), len(known))
    if "hocket" not in found:
        return []
    told = "; ".join(f"`{name}`: {over} of {of} above, most {most:.2f}" for name, (most, over, of) in found.items())
    holds = min(most for most, _, _ in found.values()) <= 1.1
    return [Verdict("d: p95 and p99 <= 1.1 x fcfs's everywhere, or a knob that buys it back", holds, told)]


def _robust(grid: Grid, places: Sequence[Place]) -> list[Verdict]:
    """(e): a wrong profile costs little."""
    ratios = {place: ratio for place in places if (ratio := grid.ratio([place], "hocket", "fcfs", "wrong"))}
    if not ratios:
        return []
    place = max(ratios, key=lambda place: ratios[place].ratio)
    worst = ratios[place]
    told = f"worst {_told(worst)} ({_name(place)})"
    return [Verdict("e: hocket with wrong profiles <= 1.1 x fcfs everywhere", worst.ratio <= 1.1, told)]


# ---------------------------------------------------------------- the page


def page(results: Sequence[Result], found: Sequence[Verdict], about: str) -> str:
    """All of it as Markdown."""
    grid = Grid(results)
    made = [place for place in grid.places if not place.workload.startswith("recorded")]
    recorded = [place for place in grid.places if place.workload.startswith("recorded")]
    parts = ["# Job completion times", *_intro(about), _extent(results), _verdict_table(found)]
    for title, places in (("Generated jobs", made), ("Whole recorded jobs", recorded)):
        if places:
            parts += [f"## {title}", "Mean JCT over `oracle`'s, mean over the workloads.", _mean_table(grid, places)]
            parts += _place_tables(grid, places)
    if "hocket" in grid.policies:
        parts += ["## Tails", "p95 and p99 of JCT over `fcfs`'s, all draws pooled.", _tail_table(grid, grid.places)]
        parts += _robust_table(grid, made)
    return "\n\n".join(part for part in parts if part) + "\n"


def _intro(about: str) -> list[str]:
    lines = about.strip().splitlines()
    return ["Written by", "\n".join(line for line in lines if line.startswith("    ")), "\n".join(lines[4:]).strip()]


def _extent(results: Sequence[Result]) -> str:
    """What of all this is on the page."""
    cells = [result.cell for result in results]
    draws, loads = len({cell.seed for cell in cells}), sorted({cell.load for cell in cells})
    return f"**On this page: {draws} draws, loads {', '.join(map(str, loads))}; {len(cells)} runs.**"


def _verdict_table(found: Sequence[Verdict]) -> str:
    if not found:
        return ""
    return "## What must hold\n\n" + _table(
        ["", "holds", "measured"], [[one.what, "yes" if one.holds else "**no**", one.found] for one in found]
    )


def _mean_table(grid: Grid, places: Sequence[Place]) -> str:
    columns = [key for key in _columns(grid) if any((place.engines, place.load) == key for place in places)]
    rows = []
    for policy in grid.policies:
        row = [f"`{policy}`"]
        for engines, load in columns:
            here = [place for place in places if (place.engines, place.load) == (engines, load)]
            row.append(_told(grid.ratio(here, policy, "oracle")))
        rows.append(row)
    return _table(["policy", *(f"{engines}, {load}" for engines, load in columns)], rows)


def _place_tables(grid: Grid, places: Sequence[Place]) -> list[str]:
    """Place by place: each policy to oracle, hocket to each, llmsched's cuts."""
    out = []
    others = [policy for policy in grid.policies if policy != "oracle"]
    blocks = (
        ("Each policy over `oracle`, mean JCT.", [(name, name, "oracle") for name in others]),
        ("`hocket` over each other policy.", [(name, "hocket", name) for name in others if name != "hocket"]),
        ("`llmsched` over the baselines of its paper.", [(n, "llmsched", n) for n in PAPER if n in others]),
    )
    for title, columns in blocks:
        if not any(grid.ratio([place], a, b) for place in places for _, a, b in columns):
            continue
        rows = [[_name(place), *(_told(grid.ratio([place], a, b)) for _, a, b in columns)] for place in places]
        out += [title, _table(["", *(f"`{name}`" for name, _, _ in columns)], rows)]
    return out


def _tail_table(grid: Grid, places: Sequence[Place]) -> str:
    known = ("las", "srtf", "llmsched", "oracle")
    shown = [name for name in grid.policies if name in known or name.partition(":")[0] == "hocket"]
    rows = []
    for place in places:
        row = [_name(place)]
        for name in shown:
            tails = [grid.tail(place, name, "fcfs", q) for q in (0.95, 0.99)]
            row.append(" ".join("" if tail is None else f"{tail:.2f}" for tail in tails))
        rows.append(row)
    return _table(["", *(f"`{name}`" for name in shown)], rows)


def _robust_table(grid: Grid, places: Sequence[Place]) -> list[str]:
    """By how much few jobs to learn from, and wrong profiles, change the mean."""
    kinds = ("10", "50", WELL, "wrong")
    rows = []
    for policy in grid.policies:
        for engines, load in _columns(grid):
            here = [place for place in places if (place.engines, place.load) == (engines, load)]
            if grid.ratio(here, policy, "oracle", "wrong"):
                cells = [_told(grid.ratio(here, policy, "oracle", kind)) for kind in kinds]
                rows.append(
                    [f"`{policy}`, {engines}, {load}", *cells, _told(grid.ratio(here, policy, "fcfs", "wrong"))]
                )
    if not rows:
        return []
    header = ["over `oracle`", *(f"{kind} jobs" for kind in kinds[:3]), "wrong", "wrong, over `fcfs`"]
    return ["## Profiles of few jobs, and wrong ones", _table(header, rows)]


def _columns(grid: Grid) -> list[tuple[str, float]]:
    return [(engines, load) for engines in grid.engines for load in grid.loads]


def _name(place: Place) -> str:
    return f"{place.workload}, {place.engines}, {place.load}"


def _told(ratio: Ratio | None) -> str:
    if ratio is None:
        return ""
    return f"{ratio.ratio:.3f}" if math.isnan(ratio.high) else f"{ratio.ratio:.3f} ±{ratio.high - ratio.ratio:.3f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def raw(results: Sequence[Result]) -> bytes:
    """The cells as JSON, without the JCT of each job."""
    cells = [
        msgspec.structs.asdict(result.cell)
        | {"mean": result.mean, "cpu_s": result.cpu_s, "calls": result.calls, "source": result.source}
        | {f"p{q * 100:.0f}": quantile(sorted(result.jct_s), q) for q in (0.5, 0.95, 0.99)}
        for result in results
    ]
    return msgspec.json.format(msgspec.json.encode(cells), indent=1) + b"\n"
