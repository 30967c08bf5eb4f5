"""What the Bayesian network says of the rest of one job: its expected work, its interval, what a stage would settle.

Completed stages are evidence; a stage that has begun is known to be there; a round that has not come when one has begun
that it never comes after is known to be absent. The posterior is exact (`hocket.beliefs.inference`). Seconds are
calibrated to the batches of today (LLMSched's batching-aware calibration): d' = d · l(b now) / l(1), where l(b) is the
time of one decoding step.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from hocket.beliefs.inference import Component, Evidence, Inference
from hocket.beliefs.information import NEAREST, Information
from hocket.beliefs.profile import Network
from hocket.beliefs.record import Record
from hocket.beliefs.rounds import PROMPT, Round, Rounds, first_prompt, place_of, size_of
from hocket.core.latency import Latency

POSSIBLE = 0.01
"probability from which on a state belongs to the support: less is what smoothing gives to every state"
CONTEXT = 1000
"KV tokens of a call, for the decoding step of a batch"


class Span(NamedTuple):
    """A posterior in three numbers."""

    mean: float
    low: float
    "the least and the greatest value of its support"
    high: float


class Bound:
    """A network bound to the engines that serve its stages: what all jobs of an application share.

    Lists have an entry for each round, in the network's order.
    """

    def __init__(
        self,
        network: Network,
        server: Callable[[str, str], tuple[str, Latency]],
        batch: Callable[[str], int] = lambda engine: 1,
    ) -> None:
        """`server`: (stage, model) -> the engine that serves it, and its pace; `batch`: engine -> calls in a replica.

        Raises ValueError, which says where, for a network that is none.
        """
        self.network = network
        self.inference = Inference(network)
        self.information = Information(self.inference, network)
        self.variables = network.variables
        self.size_of = [i for i, v in enumerate(self.variables) if v.fact in {"tokens", "duration"}]
        "the variable of the round's size"
        self.places = {Round(self.variables[i].stage, self.variables[i].turn): p for p, i in enumerate(self.size_of)}
        self.tasks_of: list[int | None] = [None] * len(self.size_of)
        "the variable of the number of its tasks; None: it has one"
        for index, variable in enumerate(self.variables):
            if variable.fact == "tasks":
                self.tasks_of[self._round(variable.stage, variable.turn, variable.name)] = index
        self.round_of = {i: place for place, i in enumerate(self.size_of)}
        self.round_of |= {i: place for place, i in enumerate(self.tasks_of) if i is not None}
        self.grows = [i is not None and self.variables[i].grows for i in self.tasks_of]
        self.features = {v.name.partition(" ")[2]: i for i, v in enumerate(self.variables) if v.fact == "feature"}
        self.ends: list[set[int]] = [set() for _ in self.size_of]
        "the rounds that come no more once this one has begun"
        for place, index in enumerate(self.size_of):
            for name in self.variables[index].over:
                stage, _, turn = name.rpartition(" ")
                self.ends[self._round(stage, int(turn) - 1, self.variables[index].name)].add(place)
        self._batch = batch
        self._serve(server)
        self._factors: dict[tuple[int, ...], list[float]] = {}

    def _round(self, stage: str, turn: int, name: str) -> int:
        place = self.places.get(Round(stage, turn))
        if place is None:
            raise ValueError(f"network.{name}: there is no round {turn + 1} of {stage!r}; learn it again")
        return place

    def _serve(self, server: Callable[[str, str], tuple[str, Latency]]) -> None:
        """What each state of each variable stands for, and who works on each round."""
        self.engines: dict[str, Latency] = {}
        values: list[list[float]] = [variable.centres for variable in self.variables]
        engine_of = []
        for index in self.size_of:
            variable = self.variables[index]
            if variable.fact == "duration":
                values[index] = [0.0] * len(variable.centres)  # tools are not counted
                engine_of.append(-1)
                continue
            if len(variable.prompts) != len(variable.centres) or variable.model is None:
                raise ValueError(f"network.{variable.name}: prompts and model of its calls are missing; learn it again")
            engine, pace = server(variable.stage, variable.model)
            self.engines.setdefault(engine, pace)
            engine_of.append(list(self.engines).index(engine))
            sizes = zip(variable.prompts, variable.centres, strict=True)
            values[index] = [pace.unloaded(round(prompt), round(answer)) for prompt, answer in sizes]
        self._engine_of = engine_of
        self._values = [np.array([*of, 0.0]) for of in values]
        self._known: list[list[Span]] = [[Span(v, v, v) for v in (*of, 0.0)] for of in values]

    def spans(self, evidence: Evidence) -> list[Span]:
        """Of each variable, the posterior of what its states stand for: seconds of one task, or the number of tasks.

        The number of tasks is on condition that there are any.
        """
        found = [known[possible[0]] for known, possible in zip(self._known, evidence, strict=True)]
        for component in self.inference.components(evidence):
            answer = partial(self._spans, component, evidence)
            spans = self.inference.cached(component.members, component.scope, evidence, answer)
            for member, span in zip(component.members, spans, strict=True):
                found[member] = span
        return found

    def _spans(self, component: Component, evidence: Evidence) -> list[Span]:
        spans = []
        for member, row in zip(component.members, self.inference.marginals_of(component, evidence), strict=True):
            states = self.inference.states[member]
            if self.variables[member].fact == "tasks" and row[: states - 1].any():
                states -= 1
            p, values = row[:states] / row[:states].sum(), self._values[member][:states]
            possible = values[p >= min(POSSIBLE, p.max())]
            spans.append(Span(float(p @ values), float(possible.min()), float(possible.max())))
        return spans

    def factors(self) -> tuple[tuple[int, ...], list[float]]:
        """By what the seconds of each round are to be multiplied at today's batch sizes; and those sizes, as a key."""
        batches = tuple(self._batch(engine) for engine in self.engines)
        found = self._factors.get(batches)
        if found is None:
            slower = [calibration(pace, b) for b, pace in zip(batches, self.engines.values(), strict=True)]
            found = self._factors[batches] = [[*slower, 1.0][engine] for engine in self._engine_of]
        return batches, found


def calibration(pace: Latency, batch: int) -> float:
    """l(batch) / l(1): how much slower a call decodes in a batch than alone."""
    alone = pace.d0 + pace.d1 + pace.d2 * CONTEXT
    return (pace.d0 + batch * (pace.d1 + pace.d2 * CONTEXT)) / alone if alone > 0.0 else 1.0


class JobPosterior:
    """The network's posterior of one job, brought up to date whenever it is asked."""

    __slots__ = (
        *("_arrived", "_bound", "_done", "_ended", "_evidence", "_found", "_gone", "_latest", "_over", "_record"),
        *("_rounds", "_seen", "_sized", "_spans", "_step_of", "_sum"),
    )

    def __init__(self, bound: Bound, record: Record, ended: list[int]) -> None:
        """`record` and `ended` (indexes of steps that have ended, in that order) grow as the job goes on."""
        count = len(bound.size_of)
        self._bound = bound
        self._record = record
        self._ended = ended
        self._seen = 0  # steps of the record that were taken in
        self._gone = 0  # ends that were
        self._rounds = Rounds()
        self._step_of: list[int | None] = []  # of each step, its round
        self._arrived = [0] * count
        self._done = [0] * count
        self._sized = [0] * count
        self._sum = [0.0] * count
        self._over: set[int] = set()  # rounds that come no more
        self._latest: dict[str, int] = {}  # stage -> the latest round that has begun
        self._evidence = list(bound.inference.unknown)
        self._found: dict[tuple[int, ...], Span] = {}
        self._spans: dict[int, Span] | None = None
        for name, index in bound.features.items():
            if name in record.features:
                self._see(index, record.features[name])
            elif name != PROMPT:
                self._evidence[index] = (absent(bound, index), absent(bound, index))

    # ---------------------------------------------------------------- evidence

    @property
    def evidence(self) -> Evidence:
        """What is known by now."""
        self._look()
        return tuple(self._evidence)

    def _look(self) -> None:
        """Take in what the record has shown since the last look."""
        steps, ended, bound = self._record.steps, self._ended, self._bound
        if self._seen == len(steps) and self._gone == len(ended):
            return
        moved: set[int] = set()
        for index in range(self._seen, len(steps)):
            step = steps[index]
            place = place_of(bound.places, step.stage, self._rounds.add(step), llm=step.model is not None)
            self._step_of.append(place)
            if place is None:
                continue
            self._arrived[place] += 1
            self._latest[step.stage] = place
            moved.add(place)
            over = bound.ends[place] - self._over
            if over:
                self._over |= over
                moved |= over
        for index in ended[self._gone :]:
            step, place = steps[index], self._step_of[index]
            if place is not None:
                self._done[place] += 1
                if step.model is None or step.output_tokens:  # else nobody said how much it was
                    self._sized[place] += 1
                    self._sum[place] += size_of(step)
                moved.add(place)
        self._seen, self._gone = len(steps), len(ended)
        if PROMPT in bound.features and PROMPT not in self._record.features:
            prompt = first_prompt(steps)
            if prompt is not None:  # an estimate, until its engine has counted
                self._see(bound.features[PROMPT], prompt)
        for place in moved:
            self._settle(place)
        self._spans = None
        self._found.clear()

    def _settle(self, place: int) -> None:
        """What is known of one round."""
        bound = self._bound
        size, tasks = bound.size_of[place], bound.tasks_of[place]
        last = absent(bound, size)
        if not self._arrived[place]:
            if place in self._over:
                self._evidence[size] = (last, last)
                if tasks is not None:
                    self._evidence[tasks] = (absent(bound, tasks), absent(bound, tasks))
            return
        if tasks is not None:
            least = bisect_left(bound.variables[tasks].cuts, self._arrived[place])
            open_ = bound.grows[place] and place not in self._over
            self._evidence[tasks] = (least, max(least, absent(bound, tasks) - 1) if open_ else least)
        if self._sized[place]:
            self._see(size, self._sum[place] / self._sized[place])
        else:
            self._evidence[size] = (0, last - 1)

    def _see(self, index: int, value: float) -> None:
        state = bisect_left(self._bound.variables[index].cuts, value)
        self._evidence[index] = (state, state)

    # ---------------------------------------------------------------- what is left

    @property
    def remaining_s(self) -> float:
        """Expected engine work that is left, of all stages; tools not counted. Seconds in batches of today's size."""
        return self._calibrated().mean

    @property
    def interval_s(self) -> tuple[float, float]:
        """Least and most of it: each stage's support, summed."""
        _, low, high = self._calibrated()
        return low, high

    def gain(self, stage: str, nearest: int = NEAREST) -> float:
        """R(X) of a ready stage: bits that it would tell, times the sum of the ranges of what it tells about."""
        self._look()
        bound, place = self._bound, self._latest.get(stage)
        if place is None:
            return 0.0
        bits, ys = bound.information.of(bound.size_of[place], tuple(self._evidence), nearest)
        if not bits:
            return 0.0
        rest, factors = self._rest(), bound.factors()[1]
        about = sorted({bound.round_of[y] for y in ys if y in bound.round_of} & rest.keys() - {place})
        ranges = sum((rest[other].high - rest[other].low) * factors[other] for other in about)
        return float(f"{bits * ranges:.9g}")

    def _calibrated(self) -> Span:
        self._look()
        batches, factors = self._bound.factors()
        found = self._found.get(batches)
        if found is None:
            mean = low = high = 0.0
            for place, span in self._rest().items():
                factor = factors[place]
                mean += span[0] * factor
                low += span[1] * factor
                high += span[2] * factor
            found = self._found[batches] = Span(float(f"{mean:.9g}"), float(f"{low:.9g}"), float(f"{high:.9g}"))
        return found

    def _rest(self) -> dict[int, Span]:
        """Seconds that are left of each round that may have any, each of its calls alone on its engine."""
        if self._spans is None:
            bound, rest = self._bound, {}
            spans = bound.spans(tuple(self._evidence))
            for place, size in enumerate(bound.size_of):
                one = spans[size]
                if one.high:
                    low, mean, high = self._tasks(place, spans)
                    if high:
                        rest[place] = Span(one.mean * mean, one.low * low, one.high * high)
            self._spans = rest
        return self._spans

    def _tasks(self, place: int, spans: list[Span]) -> tuple[float, float, float]:
        """Tasks of a round that are still to end: the fewest, expected, the most."""
        arrived, done, tasks = self._arrived[place], self._done[place], self._bound.tasks_of[place]
        if arrived and not self._bound.grows[place]:  # there are no others
            return arrived - done, arrived - done, arrived - done
        if tasks is None:
            return 1, 1, 1
        mean, low, high = spans[tasks]
        return max(low, arrived) - done, max(mean, arrived) - done, max(high, arrived) - done


def absent(bound: Bound, index: int) -> int:
    """The last state of a variable."""
    return bound.inference.states[index] - 1
