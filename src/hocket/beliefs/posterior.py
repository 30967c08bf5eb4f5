"""What the Bayesian network says of the rest of one job: its expected work, its interval, what a stage would settle.

Completed stages are evidence; a stage that has begun is known to be there; a round that has not come when one has begun
that it never comes after is known to be absent. The posterior is exact (`hocket.beliefs.inference`). Seconds are
calibrated to the batches of today (LLMSched's batching-aware calibration): d' = d · l(b now) / l(1), where l(b) is the
time of one decoding step.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

import numpy as np

from hocket.beliefs.inference import Evidence, Floats, Inference
from hocket.beliefs.information import NEAREST, Information
from hocket.beliefs.profile import Network
from hocket.beliefs.record import Record
from hocket.beliefs.rounds import PROMPT, Round, Rounds, place_of, size_of
from hocket.core.latency import Latency

POSSIBLE = 0.01
"probability from which on a state belongs to the support: less is what smoothing gives to every state"
CONTEXT = 1000
"KV tokens of a call, for the decoding step of a batch"


class Bound:
    """A network bound to the engines that serve its stages: what all jobs of an application share.

    Arrays have a row for each round, in the network's order.
    """

    def __init__(
        self,
        network: Network,
        server: Callable[[str, str], tuple[str, Latency]],
        batch: Callable[[str], int] = lambda engine: 1,
        nearest: int = NEAREST,
    ) -> None:
        """`server`: (stage, model) -> the engine that serves it, and its pace; `batch`: engine -> calls in a replica.

        Raises ValueError, which says where, for a network that is none.
        """
        self.inference = Inference(network)
        self.information = Information(self.inference, network, nearest)
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
        self.ends: list[list[int]] = [[] for _ in self.size_of]
        "the rounds that come no more once this one has begun"
        for place, index in enumerate(self.size_of):
            for name in self.variables[index].over:
                stage, _, turn = name.rpartition(" ")
                self.ends[self._round(stage, int(turn) - 1, self.variables[index].name)].append(place)
        self._batch = batch
        self._serve(server)
        self._factors: dict[tuple[int, ...], Floats] = {}

    def _round(self, stage: str, turn: int, name: str) -> int:
        place = self.places.get(Round(stage, turn))
        if place is None:
            raise ValueError(f"network.{name}: there is no round {turn + 1} of {stage!r}; learn it again")
        return place

    def _serve(self, server: Callable[[str, str], tuple[str, Latency]]) -> None:
        """Seconds of one task in each state, and who works on it."""
        width = max(self.inference.states, default=1)
        self.seconds = np.zeros((len(self.size_of), width))
        self.counts = np.zeros((len(self.size_of), width))
        self.bins = np.zeros((len(self.size_of), width), bool)  # states of the number of tasks, `absent` aside
        self.engines: dict[str, Latency] = {}
        engine_of = []
        for place, index in enumerate(self.size_of):
            variable, tasks = self.variables[index], self.tasks_of[place]
            counts = [1.0] if tasks is None else self.variables[tasks].centres
            self.counts[place, : len(counts)] = counts
            self.bins[place, : len(counts)] = True
            if variable.fact == "duration":
                engine_of.append(-1)  # none: tools are not counted
                continue
            if len(variable.prompts) != len(variable.centres) or variable.model is None:
                raise ValueError(f"network.{variable.name}: prompts and model of its calls are missing; learn it again")
            engine, pace = server(variable.stage, variable.model)
            self.engines[engine] = pace
            engine_of.append(list(self.engines).index(engine))
            for state, (prompt, answer) in enumerate(zip(variable.prompts, variable.centres, strict=True)):
                self.seconds[place, state] = pace.unloaded(round(prompt), round(answer))
        self._engine_of = np.array(engine_of, int)

    def factors(self) -> tuple[tuple[int, ...], Floats]:
        """By what the seconds of each round are to be multiplied at today's batch sizes; and those sizes, as a key."""
        batches = tuple(self._batch(engine) for engine in self.engines)
        found = self._factors.get(batches)
        if found is None:
            slower = [calibration(pace, b) for b, pace in zip(batches, self.engines.values(), strict=True)]
            found = self._factors[batches] = np.array([*slower, 1.0])[self._engine_of]
        return batches, found


def calibration(pace: Latency, batch: int) -> float:
    """l(batch) / l(1): how much slower a call decodes in a batch than alone."""
    alone = pace.d0 + pace.d1 + pace.d2 * CONTEXT
    return (pace.d0 + batch * (pace.d1 + pace.d2 * CONTEXT)) / alone if alone > 0.0 else 1.0


class JobPosterior:
    """The network's posterior of one job, brought up to date whenever it is asked."""

    __slots__ = (
        *("_arrived", "_begun", "_bound", "_done", "_ended", "_evidence", "_found", "_gone", "_latest", "_record"),
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
        self._begun: set[int] = set()
        self._latest: dict[str, int] = {}  # stage -> the latest round that has begun
        self._evidence = list(bound.inference.unknown)
        self._found: dict[tuple[int, ...], tuple[float, float, float]] = {}
        self._spans: tuple[Floats, Floats, Floats] | None = None
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
            if step.model is not None and PROMPT in bound.features and PROMPT not in self._record.features:
                feature = bound.features[PROMPT]
                if self._evidence[feature] == bound.inference.unknown[feature]:
                    self._see(feature, step.prompt_tokens)
            if place is None:
                continue
            self._arrived[place] += 1
            self._latest[step.stage] = place
            moved.add(place)
            if place not in self._begun:
                self._begun.add(place)
                moved.update(bound.ends[place])
        for index in ended[self._gone :]:
            step, place = steps[index], self._step_of[index]
            if place is not None:
                self._done[place] += 1
                if step.model is None or step.output_tokens:  # else nobody said how much it was
                    self._sized[place] += 1
                    self._sum[place] += size_of(step)
                moved.add(place)
        self._seen, self._gone = len(steps), len(ended)
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
            if any(place in bound.ends[other] for other in self._begun):
                self._evidence[size] = (last, last)
                if tasks is not None:
                    self._evidence[tasks] = (absent(bound, tasks), absent(bound, tasks))
            return
        if tasks is not None:
            least = bisect_left(bound.variables[tasks].cuts, self._arrived[place])
            open_ = bound.grows[place] and not self._over(place)
            self._evidence[tasks] = (least, max(least, absent(bound, tasks) - 1) if open_ else least)
        if self._sized[place]:
            self._see(size, self._sum[place] / self._sized[place])
        else:
            self._evidence[size] = (0, last - 1)

    def _over(self, place: int) -> bool:
        return any(place in self._bound.ends[other] for other in self._begun)

    def _see(self, index: int, value: float) -> None:
        state = bisect_left(self._bound.variables[index].cuts, value)
        self._evidence[index] = (state, state)

    # ---------------------------------------------------------------- what is left

    @property
    def remaining_s(self) -> float:
        """Expected engine work that is left, of all stages; tools not counted. Seconds in batches of today's size."""
        return self._calibrated()[0]

    @property
    def interval_s(self) -> tuple[float, float]:
        """Least and most of it: each stage's support, summed."""
        return self._calibrated()[1:]

    def gain(self, stage: str) -> float:
        """R(X) of a ready stage: bits that it would tell, times the sum of the ranges of what it tells about."""
        self._look()
        bound, place = self._bound, self._latest.get(stage)
        if place is None:
            return 0.0
        bits, ys = bound.information.of(bound.size_of[place], tuple(self._evidence))
        if not bits:
            return 0.0
        _, low, high = self._uncalibrated()
        factors = bound.factors()[1]
        about = {bound.round_of[y] for y in ys if y in bound.round_of} - {place}
        return float(f"{bits * sum(float((high[y] - low[y]) * factors[y]) for y in about):.9g}")

    def _calibrated(self) -> tuple[float, float, float]:
        self._look()
        batches, factors = self._bound.factors()
        found = self._found.get(batches)
        if found is None:
            mean, low, high = (float(f"{float(span @ factors):.9g}") for span in self._uncalibrated())
            found = self._found[batches] = (mean, low, high)
        return found

    def _uncalibrated(self) -> tuple[Floats, Floats, Floats]:
        """Mean, least and most seconds that are left of each round."""
        if self._spans is None:
            self._spans = self._rest()
        return self._spans

    def _rest(self) -> tuple[Floats, Floats, Floats]:
        bound = self._bound
        rows = bound.inference.marginals(tuple(self._evidence))
        sizes = rows[bound.size_of]
        mean, low, high = (sizes * bound.seconds).sum(axis=1), *_support(sizes, bound.seconds)
        arrived, done = np.array(self._arrived, np.float64), np.array(self._done, np.float64)
        expected, fewest, most = arrived.copy(), arrived.copy(), arrived.copy()
        for place, tasks in enumerate(bound.tasks_of):
            if self._arrived[place] and not (tasks is not None and bound.grows[place]):
                continue  # all that there will be
            if tasks is None:
                expected[place] = fewest[place] = most[place] = 1.0
                continue
            row = rows[tasks] * bound.bins[place]  # on condition that there are any
            total = row.sum()
            if total > 0.0:
                row = row / total
                few, many = _support(row[None], bound.counts[place][None])
                expected[place] = max(arrived[place], float(row @ bound.counts[place]))
                fewest[place], most[place] = max(arrived[place], few[0]), max(arrived[place], many[0])
        return mean * (expected - done), low * (fewest - done), high * (most - done)


def absent(bound: Bound, index: int) -> int:
    """The last state of a variable."""
    return bound.inference.states[index] - 1


def _support(rows: Floats, values: Floats) -> tuple[Floats, Floats]:
    """Least and greatest value of the states that are possible, a row each."""
    possible = rows >= np.minimum(POSSIBLE, rows.max(axis=1, keepdims=True))
    return np.where(possible, values, np.inf).min(axis=1), np.where(possible, values, -np.inf).max(axis=1)
