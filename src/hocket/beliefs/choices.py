"""Dynamic stages: which stages a planner chooses from, found in recorded jobs.

Where a trace says by which answer a step was `revealed_by`, that is the planner. Where it does not, the planner of a
stage is the last LLM stage that ends before it in every job. Of what follows a planner, the stages that follow whenever
anything does are no choice; what varies is. One optional stage, or several that come together, are not a dynamic stage
but presence and absence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from hocket.beliefs.shape import Shape, bits_of, lowest

ALWAYS = 0.98
"share of the times from which on a stage is no choice"
LEAST_VARIED = 0.05
"of the times that a planner ends: if what follows varies more rarely, it is a slip of the records"
PRECEDES = 0.95
"share of the jobs from which on a stage is said to precede another"


class Planned(NamedTuple):
    """What a planner's answer chooses from."""

    planner: str
    candidates: tuple[str, ...]
    "by share, the most frequent first"
    sets: dict[frozenset[str], int]
    "what was chosen together -> how often; the empty set too"
    times: int
    "how often the planner ended"


def planned(shapes: Mapping[Shape, int], models: Mapping[str, Counter[str]]) -> list[Planned]:
    """The dynamic stages of these jobs, by planner. `models`: stage -> its models, none for a tool."""
    if any(revealer is not None for shape in shapes for revealer in shape.revealed_by):
        sets = _count(shapes, _told)
    else:
        planners = _planners(shapes, {name for name, used in models.items() if used})
        sets = _count(shapes, lambda shape: _inferred(shape, planners))
    found = (_planned(planner, sets[planner]) for planner in sorted(sets))
    return [choice for choice in found if choice is not None]


def declared(shapes: Mapping[Shape, int], planners: Mapping[str, str]) -> list[Planned]:
    """The dynamic stages that somebody declared: `planners`, stage -> its planner."""
    sets = _count(shapes, lambda shape: _inferred(shape, planners))
    found = []
    for planner in sorted(set(planners.values())):
        known = sets.get(planner, Counter())
        follows = Counter({stage: 0 for stage, its in planners.items() if its == planner})
        for names, count in known.items():
            follows.update(dict.fromkeys(names, count))
        found.append(Planned(planner, _by_share(follows), dict(known), known.total()))
    return found


def _count(
    shapes: Mapping[Shape, int], chosen: Callable[[Shape], Iterable[tuple[str, set[str]]]]
) -> dict[str, Counter[frozenset[str]]]:
    """Planner -> what its answers chose -> how often."""
    sets: dict[str, Counter[frozenset[str]]] = {}
    for shape, count in shapes.items():
        for planner, names in chosen(shape):
            sets.setdefault(planner, Counter())[frozenset(names)] += count
    return sets


def _by_share(follows: Counter[str]) -> tuple[str, ...]:
    return tuple(sorted(follows, key=lambda name: (-follows[name], name)))


def _planned(planner: str, sets: Counter[frozenset[str]]) -> Planned | None:
    """What varies in these sets; None if nothing does."""
    times = sets.total()
    while True:
        some = sum(count for names, count in sets.items() if names)
        if some < LEAST_VARIED * times or not some:
            return None
        follows: Counter[str] = Counter()
        for names, count in sets.items():
            follows.update(dict.fromkeys(names, count))
        fixed = {name for name, count in follows.items() if count >= ALWAYS * some}
        if not fixed:
            return Planned(planner, _by_share(follows), dict(sets), times)
        left: Counter[frozenset[str]] = Counter()
        for names, count in sets.items():
            left[names - fixed] += count
        sets = left


def _told(shape: Shape) -> Iterator[tuple[str, set[str]]]:
    """(Stage, stages that its answer revealed), step by step. A next round of its own is a loop, no choice."""
    found: list[set[str]] = [set() for _ in shape.stages]
    for stage, revealer in zip(shape.stages, shape.revealed_by, strict=True):
        if revealer is not None and shape.stages[revealer] != stage:
            found[revealer].add(stage)
    return zip(shape.stages, found, strict=True)


def _inferred(shape: Shape, planners: Mapping[str, str]) -> Iterator[tuple[str, set[str]]]:
    """The same, round by round: each step belongs to the last round of its planner that ended before it."""
    found: dict[tuple[str, int], set[str]] = {
        (stage, turn): set() for stage, turn in zip(shape.stages, shape.rounds, strict=True)
    }
    for step, stage in enumerate(shape.stages):
        planner = planners.get(stage)
        before = shape.ancestors[step] & shape.of_stage.get(planner, 0) if planner else 0
        if planner and before:
            found[planner, max(shape.rounds[other] for other in bits_of(before))].add(stage)
    return ((stage, names) for (stage, _), names in found.items())


def _planners(shapes: Mapping[Shape, int], llm: set[str]) -> dict[str, str]:
    """Stage -> the last LLM stage that precedes it in every job that has it."""
    jobs: Counter[str] = Counter()
    precedes: dict[str, Counter[str]] = {}
    depth: dict[str, Counter[str]] = {}
    for shape, count in shapes.items():
        for stage, steps in shape.of_stage.items():
            jobs[stage] += count
            first = lowest(steps)
            before = {shape.stages[step]: shape.depths[step] for step in bits_of(shape.ancestors[first])}
            for name, where in before.items():
                if name in llm and name != stage:
                    precedes.setdefault(stage, Counter())[name] += count
                    depth.setdefault(stage, Counter())[name] += count * where
    found = {}
    for stage, names in precedes.items():
        always = [name for name, count in names.items() if count >= PRECEDES * jobs[stage]]
        if always:
            found[stage] = max(always, key=lambda name: (depth[stage][name] / names[name], name))
    return found
