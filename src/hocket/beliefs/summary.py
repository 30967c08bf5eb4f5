"""A profile in numbers that people look at: sizes of stages, how they go together, what is not known of a new job."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hocket.beliefs.inference import Inference
from hocket.beliefs.information import entropy
from hocket.beliefs.profile import Network
from hocket.beliefs.record import Record
from hocket.beliefs.rounds import Rounds, size_of

Floats = NDArray[np.float64]

QUANTILES = (0.1, 0.5, 0.9, 0.99)
MOST_ROUNDS = 20
"in a matrix of correlations: those that most jobs have"
LEAST_PRESENT = 0.05
"share of the jobs below which a round says nothing reliable"


class Sizes(NamedTuple):
    """The sizes of one stage, over all of its calls or runs."""

    stage: str
    fact: str
    "prompt tokens | answer tokens | seconds"
    steps: int
    mean: float
    quantiles: list[float]
    "at QUANTILES"


def sizes(records: Iterable[Record], stages: Iterable[str]) -> list[Sizes]:
    """The sizes of these stages, in this order."""
    found: dict[tuple[str, str], list[float]] = {}
    for record in records:
        for step in record.steps:
            if step.model is None:
                found.setdefault((step.stage, "seconds"), []).append(step.duration_s)
            else:
                found.setdefault((step.stage, "prompt tokens"), []).append(float(step.prompt_tokens))
                found.setdefault((step.stage, "answer tokens"), []).append(float(step.output_tokens))
    told = []
    for stage in stages:
        for fact in ("prompt tokens", "answer tokens", "seconds"):
            values = found.get((stage, fact))
            if values:
                quantiles = np.quantile(values, QUANTILES).tolist()
                told.append(Sizes(stage, fact, len(values), float(np.mean(values)), quantiles))
    return told


def correlations(records: Sequence[Record], stages: Sequence[str]) -> tuple[list[str], Floats]:
    """Spearman's rank correlation of the sizes of rounds: names such as `think 2`, and the matrix, -1 to 1.

    A round's size is that of its tasks together: tokens of answers, or seconds; 0 where a job lacks it. Those that
    never vary are left out, and of many those that few jobs have.
    """
    places: dict[tuple[str, int], list[float]] = {}
    for number, record in enumerate(records):
        rounds = Rounds()
        for step in record.steps:
            column = places.setdefault((step.stage, rounds.add(step)), [0.0] * len(records))
            column[number] += size_of(step)
    order = {stage: index for index, stage in enumerate(stages)}
    present = {key: sum(size > 0 for size in column) / len(records) for key, column in places.items()}
    varied = [key for key, column in places.items() if min(column) < max(column) and present[key] >= LEAST_PRESENT]
    chosen = sorted(varied, key=lambda key: (-present[key], key[1], order.get(key[0], len(order))))[:MOST_ROUNDS]
    chosen.sort(key=lambda key: (key[1], order.get(key[0], len(order))))
    names = [f"{stage} {turn + 1}" if turn else stage for stage, turn in chosen]
    if not chosen:
        return [], np.zeros((0, 0))
    ranks = np.array([_ranks(np.array(places[key])) for key in chosen])
    return names, np.atleast_2d(np.corrcoef(ranks))


def _ranks(values: Floats) -> Floats:
    """Ranks from 0; equal values share the mean of theirs."""
    order = np.argsort(values, kind="stable")
    _, first, inverse, counts = np.unique(values[order], return_index=True, return_inverse=True, return_counts=True)
    ranks = np.empty(len(values))
    ranks[order] = (first + (counts - 1) / 2.0)[inverse]
    return ranks


def network_entropy(network: Network) -> float:
    """Bits that are not known of a new job: the joint entropy of all variables, sum of H(X | parents)."""
    inference = Inference(network)
    bits = 0.0
    for x, parents in enumerate(inference.parents):
        bits += entropy(inference.joint([x, *parents], inference.unknown))
        if parents:
            bits -= entropy(inference.joint(list(parents), inference.unknown))
    return max(0.0, bits)
