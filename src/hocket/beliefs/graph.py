"""The graph of an application, found in its recorded jobs.

A *stage* is a node; parallel tasks of one stage are its fan-out, and a stage that runs again after itself has rounds: a
loop, unrolled, with absence as a value (LLMSched, arXiv 2504.03444). An edge says that a stage waits for another. A
*dynamic* stage stands for those that a planner's answer chooses: which of them run, and in what order, differs from job
to job.

Recorded order is not the same as need: a short branch often happens to end before the next step of another begins. So
an edge counts only if it is never seen broken. What a planner orders is exempt: there the order itself is chosen. Where
all needs are inferred from times, two more kinds are chance: what a chain of edges between stages says already, and
parallel tasks of one stage of which one happened to end before another began.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import NamedTuple

from hocket.beliefs.choices import Planned, planned
from hocket.beliefs.profile import Choice, Edge, Node
from hocket.beliefs.record import Record
from hocket.beliefs.shape import Shape, Skeleton, lowest, skeleton_of

LEAST_SHARE = 0.05
"of the jobs that have both stages; an edge that fewer show is chance"
MOST_BROKEN = 0.05
"share of those jobs in which an edge may be broken: records have slips"
MOST_STAGES = 200
"in a graph: those that most jobs have. Who makes up a name for every job gets no graph that is of use"
MOST_CHOICES = 32
"sets of candidates that a dynamic stage lists"


class Graph(NamedTuple):
    """Stages in the order in which they begin, each dynamic one behind its planner; edges in the same order."""

    nodes: list[Node]
    edges: list[Edge]


def find_graph(records: Sequence[Record], *, timed: bool = False) -> Graph:
    """The graph that these jobs of one application show. `timed`: what they need is inferred from times."""
    models = models_of(records)
    if len(models) > MOST_STAGES:
        models = {name: models[name] for name in _most_frequent(records)}
    shapes = shapes_of(records, models)
    dynamic = planned(shapes, models)
    free = {(before, after) for choice in dynamic for before in choice.candidates for after in choice.candidates}
    edges = _edges(shapes, free)
    return describe(models, shapes, _without_chance(edges, shapes, free) if timed else edges, dynamic)


def _most_frequent(records: Iterable[Record]) -> list[str]:
    jobs = Counter(name for record in records for name in {step.stage for step in record.steps})
    return sorted(jobs, key=lambda name: (-jobs[name], name))[:MOST_STAGES]


def shapes_of(records: Iterable[Record], stages: Container[str]) -> dict[Shape, int]:
    """The structures that occur, in so far as they are of these stages, and how often: many jobs share one."""
    counts: Counter[Skeleton] = Counter(skeleton_of(record.steps, stages) for record in records)
    return {Shape(skeleton): count for skeleton, count in counts.items()}


def models_of(records: Iterable[Record]) -> dict[str, Counter[str]]:
    """Stage -> model -> calls. A stage that only tool runs have is there without models."""
    calls: Counter[tuple[str, str | None]] = Counter()
    for record in records:
        calls.update((step.stage, step.model) for step in record.steps)
    found: dict[str, Counter[str]] = {}
    for (stage, model), count in calls.items():
        of_stage = found.setdefault(stage, Counter())
        if model is not None:
            of_stage[model] = count
    return found


# -------------------------------------------------------------------- edges


class Pairs:
    """How often a stage directly follows another: jobs, by (before, after)."""

    def __init__(self, shapes: Mapping[Shape, int]) -> None:
        self.direct: Counter[tuple[str, str]] = Counter()
        "jobs that show the edge"
        self._again: Counter[tuple[str, str]] = Counter()
        "jobs that show it, in which `after` had its first round before `before` had"
        self.both: Counter[tuple[str, str]] = Counter()
        "jobs that have both stages"
        for shape, count in shapes.items():
            for pair in {(shape.stages[before], shape.stages[after]) for before, after in shape.edges()}:
                self.direct[pair] += count
                self._again[pair] += count * shape.loops(*pair)
        for shape, count in shapes.items():
            for pair in self.direct:
                if pair[0] in shape.of_stage and pair[1] in shape.of_stage:
                    self.both[pair] += count

    def edge(self, pair: tuple[str, str]) -> Edge:
        """What is known of one edge."""
        again = self._again[pair] > (1 - LEAST_SHARE) * self.direct[pair]
        return Edge(*pair, round(self.direct[pair] / (self.both[pair] or 1), 4), again)


def _edges(shapes: Mapping[Shape, int], free: Container[tuple[str, str]]) -> list[Edge]:
    """The edges that are not broken. `free`: pairs whose order a planner chooses."""
    pairs = Pairs(shapes)
    edges = []
    for pair in pairs.direct:
        if pairs.direct[pair] < LEAST_SHARE * pairs.both[pair]:
            continue
        edge = pairs.edge(pair)
        if pair in free or _broken(edge, shapes) <= MOST_BROKEN * pairs.both[pair]:
            edges.append(edge)
    return edges


def _broken(edge: Edge, shapes: Mapping[Shape, int]) -> int:
    """Jobs in which `after` did not wait for `before`."""
    before, after = edge.before, edge.after
    having = ((shape, count) for shape, count in shapes.items() if before in shape.of_stage and after in shape.of_stage)
    return sum(count for shape, count in having if shape.broken(before, after, again=edge.again))


def _without_chance(edges: Sequence[Edge], shapes: Mapping[Shape, int], free: Container[tuple[str, str]]) -> list[Edge]:
    """The edges without those that times alone suggest."""
    after: dict[str, list[str]] = {}
    for edge in edges:
        if not edge.again:
            after.setdefault(edge.before, []).append(edge.after)
    kept = []
    for edge in edges:
        pair = edge.before, edge.after
        showing, sound = 0, 0
        for shape, count in shapes.items():
            if edge.before not in shape.of_stage or edge.after not in shape.of_stage:
                continue
            if edge.before == edge.after:
                many = shape.of_stage[edge.before].bit_count() > 1
                showing += count * many
                sound += count * (many and shape.in_turn(edge.before))
            else:
                showing += count
                sound += count * (edge.again or not _leads(*pair, after, shape.of_stage))
        least = 1 - MOST_BROKEN if edge.before == edge.after else LEAST_SHARE
        if pair in free or sound >= least * showing:
            kept.append(edge)
    return kept


def _leads(before: str, after: str, edges: Mapping[str, Sequence[str]], present: Container[str]) -> bool:
    """Whether a chain of two or more edges leads from one stage to the other by stages that are present."""
    seen = {before}
    stack = [name for name in edges.get(before, ()) if name != after]
    while stack:
        name = stack.pop()
        if name == after:
            return True
        if name in present and name not in seen:
            seen.add(name)
            stack += edges.get(name, ())
    return False


# -------------------------------------------------------------------- nodes


def describe(
    models: Mapping[str, Counter[str]],
    shapes: Mapping[Shape, int],
    edges: Iterable[Edge],
    dynamic: Iterable[Planned],
) -> Graph:
    """The graph of these edges and dynamic stages, with what the jobs say of each stage."""
    order = _in_order(shapes)
    order += [name for name in models if name not in order]  # declared, and not seen yet
    of_planner: dict[str, list[Planned]] = {}
    for choice in dynamic:
        of_planner.setdefault(choice.planner, []).append(choice)
    nodes = []
    for name in order:
        nodes.append(_stage(name, models[name], shapes))
        nodes += [_dynamic(choice, models, shapes) for choice in of_planner.get(name, [])]
    place = {name: index for index, name in enumerate(order)}
    return Graph(nodes, sorted(edges, key=lambda edge: (place[edge.before], place[edge.after])))


def _in_order(shapes: Mapping[Shape, int]) -> list[str]:
    """The stages by the mean depth at which they first begin, then by name."""
    depth: Counter[str] = Counter()
    jobs: Counter[str] = Counter()
    for shape, count in shapes.items():
        for name, steps in shape.of_stage.items():
            first = lowest(steps)
            depth[name] += shape.depths[first] * count
            jobs[name] += count
    return sorted(jobs, key=lambda name: (depth[name] / jobs[name], name))


def _stage(name: str, models: Counter[str], shapes: Mapping[Shape, int]) -> Node:
    total, present, tasks = sum(shapes.values()), 0, 0
    rounds: Counter[int] = Counter()
    fan_out: Counter[int] = Counter()
    for shape, count in shapes.items():
        steps = shape.of_stage.get(name, 0)
        if not steps:
            continue
        present += count
        tasks += count * steps.bit_count()
        wide = Counter(turn for turn, stage in zip(shape.rounds, shape.stages, strict=True) if stage == name)
        for turn, width in wide.items():
            rounds[turn] += count
            fan_out[width] += count
    return Node(
        name=name,
        kind="llm" if models else "tool",
        models=[model for model, _ in sorted(models.items(), key=lambda item: (-item[1], item[0]))],
        present=round(present / total, 4),
        tasks=round(tasks / (present or 1), 4),
        rounds=[round(rounds[turn] / total, 4) for turn in range(len(rounds))],
        fan_out={width: round(fan_out[width] / fan_out.total(), 4) for width in sorted(fan_out)},
    )


def _dynamic(choice: Planned, models: Container[str], shapes: Mapping[Shape, int]) -> Node:
    """The placeholder of what a planner chooses."""
    times = choice.held.total() or 1
    frequent = sorted(choice.held.items(), key=lambda item: (-item[1], item[0]))[:MOST_CHOICES]
    jobs = sum(count for shape, count in shapes.items() if any(name in shape.of_stage for name in choice.candidates))
    tasks = sum(
        count * shape.of_stage.get(name, 0).bit_count() for shape, count in shapes.items() for name in choice.candidates
    )
    name = f"{choice.planner}/*"
    while name in models:
        name += "*"
    return Node(
        name=name,
        kind="dynamic",
        planner=choice.planner,
        candidates=list(choice.candidates),
        shares=[
            round(sum(count for held, count in choice.held.items() if candidate in held) / times, 4)
            for candidate in choice.candidates
        ],
        choices=[Choice(list(held), round(count / times, 4)) for held, count in frequent],
        present=round(jobs / (sum(shapes.values()) or 1), 4),
        tasks=round(tasks / (jobs or 1), 4),
    )
