"""The page of the benchmark of urgency, and what must hold on it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec
from _jct_tables import Verdict
from _urgency_count import EVENTS, Row
from _urgency_jobs import CLASSES, KNOWN_WITHIN, RUSH_S
from _urgency_runs import DEFAULT, FREELY, STRICT, WITHIN_S, Figures, Whole

BELOW, BELOW_FREELY, BELOW_IN_ERROR, PAPER = 0.68, 0.74, 0.60, 0.47
NEAR, BACK, WHOLE = 1.05, 0.5, 1.15
DEFAULT_WITHIN_S = 3600.0
"of the recipe `default`"
COMPARISONS = 3.0
"times log2 n that an event may compare, beside a few that do not grow"
SLACK = 1.1
"times the bound: an overdue call still waits for a slot, and for those that were overdue before it"


class Found(msgspec.Struct):
    """All that was measured. `lone` and what follows it: lone calls; sojourns in seconds."""

    seeds: int
    lone: dict[int, dict[str, Figures]]
    "most calls a tick -> policy -> ..."
    ratios: dict[float, Figures]
    error: dict[str, Figures]
    inwards: dict[str, Figures]
    counts: list[Row] = []
    rush: dict[str, Figures] = {}
    whole_seeds: int = 0
    whole: list[Whole] = []


def below(figures: Figures, base: Figures) -> float:
    """How much shorter class 0's mean sojourn is."""
    return 1.0 - figures.by_class_s[0] / base.by_class_s[0]


def given_back(figures: Figures, lone: dict[str, Figures]) -> float:
    """The share of the mean that strict classes lose to shortest first."""
    return (lone[STRICT].mean_s - figures.mean_s) / (lone[STRICT].mean_s - lone["srtf"].mean_s)


# ---------------------------------------------------------------- what must hold


def verdicts(found: Found) -> list[Verdict]:
    """What must hold, of what was measured."""
    told = [*_reproduced(found), *_past_it(found)]
    if found.rush:
        without, turns, bound = list(found.rush.values())[-3:]
        told.append(
            Verdict(
                f"a rush of {RUSH_S:.0f} s: class 4's p99 wait <= {SLACK} x {WITHIN_S:.0f} s, its hard bound",
                bound.wait_p99_s[4] <= SLACK * WITHIN_S,
                "{:.1f} s; by turns {:.0f} s, without a bound {:.0f} s".format(
                    *(one.wait_p99_s[4] for one in (bound, turns, without))
                ),
            )
        )
    for engines in dict.fromkeys(whole.engines for whole in found.whole):
        here = [one for one in found.whole if one.engines == engines]
        last = here[-1]
        told.append(
            Verdict(
                f"whole jobs ({engines}): class 0's mean <= {WHOLE} x on an idle system; {last.how}",
                last.urgent_s <= WHOLE * last.idle_s,
                "; ".join(f"{one.how} {one.urgent_s / one.idle_s:.2f}" for one in here),
            )
        )
    worst = max((row.mean[event] / math.log2(row.calls), row.calls, event) for row in found.counts for event in EVENTS)
    told.append(
        Verdict(
            f"keys compared for an event <= {COMPARISONS:.0f} log2 n, n calls waiting",
            worst[0] <= COMPARISONS,
            f"at most {worst[0]:.2f} log2 n ({worst[2]}, n = {worst[1]:,})",
        )
    )
    return told


def _reproduced(found: Found) -> Iterable[Verdict]:
    lone = found.lone[20]
    fcfs = lone["fcfs"]
    for name, least, how in ((STRICT, BELOW, "without preemption"), (FREELY, BELOW_FREELY, "displacing freely")):
        got = below(lone[name], fcfs)
        yield Verdict(f"`{STRICT}` {how}: class 0 >= {least:.0%} below `fcfs`'s", got >= least, f"{got:.1%}")
        yield Verdict(
            f"`{STRICT}` {how}: the mean of all classes no worse than `fcfs`'s",
            lone[name].mean_s <= fcfs.mean_s,
            f"{lone[name].mean_s:.2f} s of {fcfs.mean_s:.2f} s",
        )


def _past_it(found: Found) -> Iterable[Verdict]:
    lone = found.lone[20]
    ours = lone[DEFAULT]
    for name in (STRICT, "urgency>hocket"):
        ratio = ours.by_class_s[0] / lone[name].by_class_s[0]
        yield Verdict(f"`default`: class 0 within 5 % of `{name}`'s", ratio <= NEAR, f"{ratio:.3f}")
    ordered = all(one < other for one, other in zip(ours.by_class_s, ours.by_class_s[1:], strict=False))
    yield Verdict("`default`: the classes' means in their order", ordered, _seconds(ours.by_class_s))
    back = given_back(ours, lone)
    yield Verdict(
        "`default`: at least half of what strict classes lose to `srtf` given back", back >= BACK, f"{back:.0%}"
    )
    yield Verdict(
        f"`default`: class 4's p99 wait within its bound of {DEFAULT_WITHIN_S:.0f} s",
        ours.wait_p99_s[4] <= DEFAULT_WITHIN_S,
        f"{ours.wait_p99_s[4]:.1f} s",
    )
    for name in (STRICT, DEFAULT):
        got = below(found.error[name], found.error["fcfs"])
        yield Verdict(
            f"`{name}`, lengths off by 2x and 20 % of classes by one: class 0 >= {BELOW_IN_ERROR:.0%} below `fcfs`'s",
            got >= BELOW_IN_ERROR,
            f"{got:.1%}",
        )


# ---------------------------------------------------------------- the page


def page(found: Found, told: Sequence[Verdict], about: str) -> str:
    """Markdown."""
    lines = about.strip().splitlines()
    command = "\n".join(line for line in lines if line.startswith("    "))
    rest = "\n".join(line for line in lines[1:] if not line.startswith("    ")).strip()
    rows = [[one.what, "yes" if one.holds else "**no**", one.found] for one in told]
    parts = ["# Urgency", "Written by", command, rest, "## What must hold", table(["", "holds", "measured"], rows)]
    parts += [*_lone_part(found), *_ratio_part(found), *_rush_part(found), *_whole_part(found), *_count_part(found)]
    return "\n\n".join(parts) + "\n"


def _lone_part(found: Found) -> Iterable[str]:
    yield "## Lone calls"
    yield (
        f"Mean sojourn in seconds, {found.seeds} draws pooled. m: most calls that arrive at each of 20 ticks. Answers' "
        f"lengths are known to within {KNOWN_WITHIN} tokens. The paper gives one figure, {PAPER:.0%} less waiting of "
        "high priorities, and does not say against what; its public code's baselines have a smaller batch. "
        "*Displacing*: at any iteration any call may take the slot of any other, and what is displaced loses nothing."
    )
    rows = []
    for most, lone in found.lone.items():
        for name, one in lone.items():
            less = below(one, lone["fcfs"])
            rows.append(
                [f"{most}", f"`{name}`", f"{one.mean_s:.2f}", *(f"{s:.2f}" for s in one.by_class_s), f"{less:.1%}"]
            )
    yield table(["m", "policy", "all", *_classes(), "class 0 below `fcfs`"], rows)
    yield (
        "Lengths predicted at half or twice what they are, one class in five off by one, up or down alike (m = 20, by "
        "true class). There is no class above 0: half of its errors change nothing. *Inwards*: they make it class 1, "
        "so twice as many are wrong."
    )
    rows = []
    for how, error in (("", found.error), (", inwards", found.inwards)):
        for name, one in error.items():
            less = below(one, error["fcfs"])
            rows.append([f"`{name}`{how}", f"{one.mean_s:.2f}", *(f"{s:.2f}" for s in one.by_class_s), f"{less:.1%}"])
    yield table(["policy", "all", *_classes(), "class 0 below `fcfs`"], rows)


def _ratio_part(found: Found) -> Iterable[str]:
    yield "## What the weights give"
    yield (
        "`urgency:strict=0:ratio=R>hocket` (m = 20): class 0 before all, each other R times as heavy as the next. "
        f"*Given back*: of the mean that strict classes (`{STRICT}`) lose to `srtf`. *Class 0*: over strict classes'."
    )
    lone = found.lone[20]
    rows = [
        [
            f"{ratio:g}",
            f"{one.mean_s:.2f}",
            *(f"{s:.2f}" for s in one.by_class_s),
            f"{given_back(one, lone):.0%}",
            f"{one.by_class_s[0] / lone[STRICT].by_class_s[0]:.3f}",
        ]
        for ratio, one in found.ratios.items()
    ]
    yield table(["R", "all", *_classes(), "given back", "class 0"], rows)


def _rush_part(found: Found) -> Iterable[str]:
    if not found.rush:
        return
    yield "## A bound on waiting"
    yield (
        f"For {RUSH_S:.0f} s classes 0 to 3 alone bring more work than the engine can do, then little; some class 4 "
        "comes all along. 99th percentile of the wait of a class, in seconds, and the mean sojourn of all."
    )
    rows = [[f"`{n}`", f"{one.mean_s:.1f}", *(f"{s:.1f}" for s in one.wait_p99_s)] for n, one in found.rush.items()]
    yield table(["policy", "all", *_classes()], rows)


def _whole_part(found: Found) -> Iterable[str]:
    if not found.whole:
        return
    yield "## Whole jobs"
    yield (
        f"300 jobs of six applications with learned profiles, a tenth of class 0, at load 1.1, {found.whole_seeds} "
        "draws. *Idle*: the same class-0 jobs at the same times without the others. Mean JCT in seconds. `at_most`: "
        "how often one call may be displaced."
    )
    rows = [
        [one.engines, one.how, *(f"{s:.1f}" for s in (one.urgent_s, one.idle_s)), f"{one.urgent_s / one.idle_s:.2f}",
         f"{one.all_s:.1f}"]
        for one in found.whole
    ]  # fmt: skip
    yield table(["engines", "", "class 0", "idle", "ratio", "all jobs"], rows)


def _count_part(found: Found) -> Iterable[str]:
    yield "## Keys compared for an event"
    yield (
        "n jobs of one call each arrive at one engine of one slot and wait; then each gets another class; half are "
        "taken out; the others are dispatched one by one. The mean over all such events, counted in all heaps of the "
        "core. *Sorting*: arrivals and decisions together sort n keys, for which log2 n! comparisons are the least "
        "([why](concepts/urgency.md))."
    )
    rows = [
        [f"`{row.policy}`", f"{row.calls:,}", f"{math.log2(row.calls):.1f}", *(f"{row.mean[e]:.1f}" for e in EVENTS),
         f"{row.sorting:.2f}"]
        for row in found.counts
    ]  # fmt: skip
    yield table(["policy", "n", "log2 n", *EVENTS, "sorting / least"], rows)


def _classes() -> list[str]:
    return [f"class {urgency}" for urgency in range(CLASSES)]


def _seconds(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.1f}" for value in values) + " s"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *rows])
