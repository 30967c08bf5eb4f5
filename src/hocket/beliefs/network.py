"""Learns the Bayesian network of an application from its recorded jobs (LLMSched, arXiv 2504.03444, its profiler).

A *round* of a stage is one pass of a loop: the tasks of the stage that ran side by side. Each round has a variable for
the size of its tasks (mean tokens of an answer, or seconds of a tool run), whose last state is `absent`, and one for
their number where that varies. Rounds are told apart as far as the budget of variables reaches; the last one that is
told apart stands for all that follow. Facts of the request come first.

The paper does not say how it discretises, nor how it learns the structure: docs/decisions/bayesian-network.md has what
is done here. This module needs pyAgrum (the extra `bayes`); to read a network needs numpy alone.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hocket.beliefs.learn import BINS, PARENTS
from hocket.beliefs.profile import Network, Node, Variable
from hocket.beliefs.record import Record, Step
from hocket.beliefs.rounds import PROMPT, REST, Round, Rounds, first_prompt, place_of, size_of
from hocket.errors import InputError

Floats = NDArray[np.float64]
States = NDArray[np.int64]

VARIABLES = 20
"of a network at most: posteriors stay exact and cheap"
LEAST_IN_BIN = 8
"jobs: with fewer records there are fewer bins"
FEATURES = 3
"facts of the request at most: those that tell most about the work of the job"
LEAST_SHARE = 0.02
"of the jobs that have a further round, below which it is not told apart"
SMOOTHING = 2.0
"jobs that the less specific distribution is worth where a more specific one is estimated"
SURE = 20
"jobs with a round after which another never came, to say that it comes no more"
LOOKED_AT = 1000
"jobs by which that is judged"


def learn_network(
    records: Sequence[Record],
    nodes: Sequence[Node],
    *,
    bins: int = BINS,
    parents: int = PARENTS,
    variables: int = VARIABLES,
) -> Network:
    """A network over the facts of these jobs, parents before children, of `variables` at most.

    `nodes` are the application's stages; others, and the rarest that find no room, are pooled in the stage `*`.
    Raises InputError without records, or where pyAgrum is not installed.
    """
    if not records:
        raise InputError("no recorded jobs: nothing to learn a network from")
    turns = [_turns(record) for record in records]
    known = {node.name for node in nodes if node.kind != "dynamic"}
    request = _features(records, bins, FEATURES)
    rounds, many, left_out = _layout(_Tally(records, turns), known, variables - len(request))
    columns = [*request, *_columns(records, turns, rounds, many, bins)]
    if not columns:  # tools alone, each of which always takes as long
        return Network(variables=[], left_out=left_out)
    states = np.stack([column.states for column in columns], axis=1)
    over = _over(records[:LOOKED_AT], turns, rounds)
    reveals = {node.planner: node.candidates for node in nodes if node.planner is not None}
    for index, (column, above) in enumerate(zip(columns, _structure(columns, states, parents), strict=True)):
        lengths = [len(columns[v].variable.centres) + 1 for v in (*above, index)]
        column.variable.parents = [columns[v].variable.name for v in above]
        column.variable.table = [float(f"{p:.6g}") for p in _table(states[:, [*above, index]], lengths).ravel()]
        if column.place is not None:
            column.variable.over = over[column.place]
        if column.variable.fact == "tokens":
            column.variable.reveals = reveals.get(column.variable.stage, [])
    return Network(variables=[column.variable for column in columns], left_out=left_out)


# ---------------------------------------------------------------- which variables


def _turns(record: Record) -> Rounds:
    rounds = Rounds()
    for step in record.steps:
        rounds.add(step)
    return rounds


class _Tally:
    """How often each round occurs, when, and whether it is wide."""

    def __init__(self, records: Sequence[Record], turns: Sequence[Rounds]) -> None:
        self.jobs: Counter[Round] = Counter()
        "in how many jobs"
        self.wide: set[Round] = set()
        "of several tasks side by side, in some job"
        self.before: Counter[Round] = Counter()
        "steps that had ended before its first task, summed over jobs"
        self.calls: set[str] = set()
        "stages that are no tools"
        self.durations: dict[str, set[float]] = {}
        "of tools, milliseconds"
        for record, rounds in zip(records, turns, strict=True):
            tasks: dict[Round, int] = {}
            for step, turn, ancestors in zip(record.steps, rounds.turns, rounds.ancestors, strict=True):
                found = Round(step.stage, turn)
                if found in tasks:
                    self.wide.add(found)
                tasks[found] = min(tasks.get(found, len(rounds.turns)), ancestors.bit_count())
                if step.model is not None:
                    self.calls.add(step.stage)
                else:
                    self.durations.setdefault(step.stage, set()).add(round(1e3 * step.duration_s))
            self.jobs.update(tasks.keys())
            self.before.update(tasks)

    def when(self, found: Round) -> float:
        """Mean number of steps that end before it; never less than that of the round before."""
        return max(self.before[r] / self.jobs[r] for r in (Round(found.stage, n) for n in range(found.turn + 1)))


def _layout(tally: _Tally, stages: set[str], budget: int) -> tuple[list[Round], frozenset[Round], list[str]]:
    """The rounds that get variables, by time; those that get two; the stages that get none.

    Each stage has one round at first, the most frequent stages before the others; then the most frequent further rounds
    are told apart while there is room. A round costs two variables if it may have several tasks, as what stands for
    further rounds may.
    """
    last: dict[str, int] = {}  # stage -> the round that stands for all further ones

    def many(found: Round) -> bool:
        follows = Round(found.stage, found.turn + 1)
        return found in tally.wide or (found.turn == last[found.stage] and follows in tally.jobs)

    def told_apart() -> list[Round]:
        return [Round(stage, turn) for stage in last for turn in range(last[stage] + 1)]

    def cost() -> int:
        return sum(1 + many(found) for found in told_apart())

    stages = stages - {stage for stage, found in tally.durations.items() if len(found) == 1}  # they tell nothing
    by_share = sorted(tally.jobs, key=lambda r: (-tally.jobs[r], tally.when(r), r))
    left_out = [r.stage for r in by_share if not r.turn and r.stage not in stages]
    for stage in (r.stage for r in by_share if not r.turn and r.stage in stages):
        last[stage] = 0
        if cost() > budget - 2:  # two for what is left out
            del last[stage]
            left_out.append(stage)
    pooled = [Round(REST, 0)] if not tally.calls.isdisjoint(left_out) else []
    most = max(tally.jobs.values())
    for found in (r for r in by_share if r.turn and tally.jobs[r] >= LEAST_SHARE * most):
        if last.get(found.stage) == found.turn - 1:
            last[found.stage] = found.turn
            if cost() > budget - 2 * len(pooled):
                last[found.stage] = found.turn - 1
    rounds = sorted(told_apart(), key=lambda r: (tally.when(r), r))
    return [*rounds, *pooled], frozenset([*(r for r in rounds if many(r)), *pooled]), sorted(left_out)


# ---------------------------------------------------------------- their states


class _Column(NamedTuple):
    """A variable, and its state in each job."""

    variable: Variable
    states: States
    place: int | None = None
    "of its round; None: a fact of the request"


def _columns(
    records: Sequence[Record], turns: Sequence[Rounds], rounds: list[Round], many: frozenset[Round], bins: int
) -> list[_Column]:
    """The variables of the rounds. The number of tasks comes before their size: it is seen when they begin."""
    places = {found: place for place, found in enumerate(rounds)}
    shape = len(records), len(rounds)
    tasks, sizes, prompts = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    grown = np.zeros(len(rounds))  # tasks that did not begin with the first one, less those that did
    models: list[Counter[str]] = [Counter() for _ in rounds]
    first: list[dict[int, Step]] = [{} for _ in records]
    for job, (record, passes) in enumerate(zip(records, turns, strict=True)):
        for step, turn in zip(record.steps, passes.turns, strict=True):
            place = place_of(places, step.stage, turn, llm=step.model is not None)
            if place is None:
                continue
            if place in first[job]:
                grown[place] += 1 if step.after != first[job][place].after else -1
            first[job].setdefault(place, step)
            if step.model is not None:
                models[place][step.model] += 1
            tasks[job, place] += 1
            sizes[job, place] += size_of(step)
            prompts[job, place] += step.prompt_tokens
    columns = []
    for place, found in enumerate(rounds):
        here = tasks[:, place] > 0
        name = found.stage if not found.turn else f"{found.stage} {found.turn + 1}"
        count = np.maximum(tasks[:, place], 1.0)
        if found in many:
            cuts, centres, states = _discretised(tasks[:, place], here, bins)
            variable = Variable(name=f"{name} tasks", stage=found.stage, fact="tasks", turn=found.turn, cuts=cuts,
                                centres=centres, grows=bool(grown[place] > 0))  # fmt: skip
            columns.append(_Column(variable, states, place))
        cuts, centres, states = _discretised(sizes[:, place] / count, here, bins)
        variable = Variable(name=name, stage=found.stage, fact="tokens" if models[place] else "duration",
                            turn=found.turn, cuts=cuts, centres=centres)  # fmt: skip
        if models[place]:
            variable.model = min(models[place], key=lambda model: (-models[place][model], model))
            variable.prompts = _means(prompts[:, place] / count, states, len(centres))
        columns.append(_Column(variable, states, place))
    return columns


def _features(records: Sequence[Record], bins: int, most: int) -> list[_Column]:
    """The facts of the request that tell most about how many tokens the job's calls make, `most` of them."""
    facts: list[dict[str, float | None]] = [
        {PROMPT: first_prompt(record.steps), **record.features} for record in records
    ]
    work = np.array([float(sum(s.output_tokens for s in r.steps if s.model is not None)) for r in records])
    _, _, about = _discretised(work, np.ones(len(records), bool), bins)
    told = []
    for name in sorted({name for fact in facts for name in fact}):
        values = [fact.get(name) for fact in facts]
        here = np.array([value is not None for value in values])
        if not here.any():
            continue
        cuts, centres, states = _discretised(np.array([0.0 if v is None else v for v in values]), here, bins)
        variable = Variable(name=f"request {name}", stage="", fact="feature", cuts=cuts, centres=centres)
        spurious = len(centres) * (about.max() + 1) / (2.0 * len(records))  # its expectation where nothing is told
        told.append((_information(states, about) - spurious, _Column(variable, states)))
    told.sort(key=lambda found: -found[0])
    return [column for gain, column in told[:most] if gain > 0.0]


def _discretised(values: Floats, here: NDArray[np.bool_], bins: int) -> tuple[list[float], list[float], States]:
    """Cuts at quantiles (or between the values, if they are few), the mean of each bin, and the state of each job."""
    known = values[here]
    bins = max(2, min(bins, len(known) // LEAST_IN_BIN))
    distinct = np.unique(known)
    if len(distinct) <= bins:
        cuts = (distinct[1:] + distinct[:-1]) / 2.0
    else:
        cuts = np.unique(np.quantile(known, np.arange(1, bins) / bins, method="inverted_cdf"))
        cuts = cuts[cuts < distinct[-1]]
    states = np.where(here, np.searchsorted(cuts, values), len(cuts) + 1)
    return cuts.tolist(), _means(values, states, len(cuts) + 1), states


def _means(values: Floats, states: States, bins: int) -> list[float]:
    count = np.bincount(states, minlength=bins + 1)[:bins]
    return [float(f"{mean:.6g}") for mean in np.bincount(states, values, bins + 1)[:bins] / np.maximum(count, 1)]


def _information(one: States, other: States) -> float:
    """Mutual information in nats, as counted."""
    joint = np.zeros((one.max() + 1, other.max() + 1))
    np.add.at(joint, (one, other), 1.0 / len(one))
    apart = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    some = joint > 0.0
    return float((joint[some] * np.log(joint[some] / apart[some])).sum())


# ---------------------------------------------------------------- what depends on what


def _structure(columns: Sequence[_Column], states: States, parents: int) -> list[list[int]]:
    """The parents of each variable, by hill climbing on the BIC score.

    Arcs go forward in time, and into a variable no more than `parents`. From the number of a round's tasks to their
    size there always is one, because they are absent together whatever the data say.
    """
    try:
        import pyagrum
    except ImportError:
        raise InputError("a Bayesian network needs pyAgrum: pip install 'hocket[bayes]'") from None
    template = pyagrum.BayesNet()  # type: ignore[no-untyped-call]
    names = [f"v{index}" for index in range(len(columns))]
    for name, column in zip(names, columns, strict=True):
        template.add(pyagrum.RangeVariable(name, "", 0, len(column.variable.centres)))  # type: ignore[no-untyped-call]
    with tempfile.TemporaryDirectory() as folder:  # the library reads files only
        path = Path(folder) / "states.csv"
        np.savetxt(path, states, "%d", ",", header=",".join(names), comments="")
        learner = pyagrum.BNLearner(str(path), template)  # type: ignore[no-untyped-call]
    learner.setNumberOfThreads(1)  # the same arcs on every machine
    learner.useScoreBIC()
    learner.useGreedyHillClimbing()
    learner.setMaxIndegree(max(parents, 1))
    learner.setSliceOrder([[name] for name in names])
    for index, column in enumerate(columns):
        if column.variable.fact == "tasks":
            learner.addMandatoryArc(index, index + 1)
    dag = learner.learnDAG()
    return [sorted(dag.parents(index)) for index in range(len(columns))]


def _table(states: States, lengths: Sequence[int]) -> Floats:
    """P(last column | the others), an axis each. What was seen rarely leans on the same without the last parent."""
    *above, own = lengths
    counts = np.zeros(lengths)
    np.add.at(counts, tuple(states.T), 1.0)
    general = np.full(own, 1.0 / own)
    for known in range(len(above) + 1):
        seen = counts.sum(axis=tuple(range(known, len(above))))
        general = (seen + SMOOTHING * general) / (seen.sum(axis=-1, keepdims=True) + SMOOTHING)
        if known < len(above):
            general = np.repeat(general[..., None, :], above[known], axis=-2)
    return general


def _over(records: Sequence[Record], turns: Sequence[Rounds], rounds: list[Round]) -> list[list[str]]:
    """Of each round: the rounds (`stage turn`) with which it is over: once one of them began, it never did."""
    places = {found: place for place, found in enumerate(rounds)}
    had = np.zeros(len(rounds), int)
    later = np.zeros(
        (len(rounds), len(rounds)), bool
    )  # [a, b]: in some job, a task of a was still to come at b's first
    for record, passes in zip(records, turns, strict=False):
        masks: dict[int, int] = {}
        past: dict[int, int] = {}  # what had ended before each round's first task
        for index, (step, turn) in enumerate(zip(record.steps, passes.turns, strict=True)):
            place = place_of(places, step.stage, turn, llm=step.model is not None)
            if place is not None:
                masks[place] = masks.get(place, 0) | 1 << index
                past.setdefault(place, passes.ancestors[index])
        for place, before in past.items():
            had[place] += 1
            for other, mask in masks.items():
                later[other, place] |= bool(mask & ~before)
    return [
        [f"{rounds[b].stage} {rounds[b].turn + 1}" for b in range(len(rounds)) if had[b] >= SURE and not later[a, b]]
        for a in range(len(rounds))
    ]
