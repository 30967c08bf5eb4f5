"""Dynamic stages: which stages a planner chooses from, found in recorded jobs.

Where a trace says by which answer a step was `revealed_by`, that is the planner. Where it does not, the planner of a
stage is the last LLM stage that ends before it in every job. Of what follows a planner, the stages that follow whenever
anything does are no choice; what varies is: which stages, and, where the trace tells, how many tasks of each. (Without
being told, a number of tasks is fan-out: the input's size as often as a choice.) A single optional stage, or several
that come together, are not a dynamic stage but presence and absence.
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

Held = tuple[str, ...]
"what a dynamic stage held once: a name for each task, sorted"


class Planned(NamedTuple):
    """What a planner's answer chooses from."""

    planner: str
    candidates: tuple[str, ...]
    "by share, the most frequent first"
    held: Counter[Held]
    "what was chosen together -> how often; nothing too. Its total is how often the planner ended"


def planned(shapes: Mapping[Shape, int], models: Mapping[str, Counter[str]]) -> list[Planned]:
    """The dynamic stages of these jobs, by planner. `models`: stage -> its models, none for a tool."""
    if any(revealer is not None for shape in shapes for revealer in shape.revealed_by):
        held = _count(shapes, _told)
    else:
        planners = _planners(shapes, {name for name, used in models.items() if used})
        held = _count(shapes, lambda shape: ((stage, set(names)) for stage, names in _inferred(shape, planners)))
    found = (_planned(planner, held[planner]) for planner in sorted(held))
    return [choice for choice in found if choice is not None]


def declared(shapes: Mapping[Shape, int], planners: Mapping[str, str]) -> list[Planned]:
    """The dynamic stages that somebody declared: `planners`, stage -> its planner."""
    held = _count(shapes, lambda shape: _inferred(shape, planners))
    found = []
    for planner in sorted(set(planners.values())):
        follows = Counter({stage: 0 for stage, its in planners.items() if its == planner})
        known = held.get(planner, Counter())
        follows.update(_follows(known))
        found.append(Planned(planner, _by_share(follows), known))
    return found


def _count(
    shapes: Mapping[Shape, int], chosen: Callable[[Shape], Iterable[tuple[str, Iterable[str]]]]
) -> dict[str, Counter[Held]]:
    """Planner -> what its answers chose -> how often."""
    held: dict[str, Counter[Held]] = {}
    for shape, count in shapes.items():
        for planner, names in chosen(shape):
            held.setdefault(planner, Counter())[tuple(sorted(names))] += count
    return held


def _planned(planner: str, held: Counter[Held]) -> Planned | None:
    """What varies of this; None if nothing does."""
    times = held.total()
    while True:
        some = times - held[()]
        if some < LEAST_VARIED * times or not some:
            return None
        fixed = {name for name, count in _follows(held, numbers=True).items() if count >= ALWAYS * some}
        if not fixed:
            return Planned(planner, _by_share(_follows(held)), held)
        left: Counter[Held] = Counter()
        for names, count in held.items():
            left[tuple(name for name in names if name not in fixed)] += count
        held = left


def _follows(held: Mapping[Held, int], *, numbers: bool = False) -> Counter[str]:
    """Candidate -> how often it is chosen; with `numbers`, in its most frequent number of tasks."""
    found: dict[str, Counter[int]] = {}
    for names, count in held.items():
        for name, number in Counter(names).items():
            found.setdefault(name, Counter())[number] += count
    return Counter({name: max(tasks.values()) if numbers else tasks.total() for name, tasks in found.items()})


def _by_share(follows: Counter[str]) -> tuple[str, ...]:
    return tuple(sorted(follows, key=lambda name: (-follows[name], name)))


def _told(shape: Shape) -> Iterator[tuple[str, list[str]]]:
    """(Stage, stages that its answer revealed), step by step. A next round of its own is a loop, no choice."""
    found: list[list[str]] = [[] for _ in shape.stages]
    for stage, revealer in zip(shape.stages, shape.revealed_by, strict=True):
        if revealer is not None and shape.stages[revealer] != stage:
            found[revealer].append(stage)
    return zip(shape.stages, found, strict=True)


def _inferred(shape: Shape, planners: Mapping[str, str]) -> Iterator[tuple[str, list[str]]]:
    """The same, round by round: each step belongs to the last round of its planner that ended before it."""
    found: dict[tuple[str, int], list[str]] = {
        (stage, turn): [] for stage, turn in zip(shape.stages, shape.rounds, strict=True)
    }
    for step, stage in enumerate(shape.stages):
        planner = planners.get(stage)
        turn = -1 if planner is None else shape.last_round(planner, step)
        if planner is not None and turn >= 0:
            found[planner, turn].append(stage)
    return ((stage, names) for (stage, _), names in found.items())


def _planners(shapes: Mapping[Shape, int], llm: set[str]) -> dict[str, str]:
    """Stage -> the last LLM stage that precedes it in every job that has it."""
    jobs: Counter[str] = Counter()
    precedes: dict[str, Counter[str]] = {}
    depth: dict[str, Counter[str]] = {}
    for shape, count in shapes.items():
        for stage, steps in shape.of_stage.items():
            jobs[stage] += count
            ancestors = bits_of(shape.ancestors[lowest(steps)])
            before = {shape.stages[step]: shape.depths[step] for step in ancestors}
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
