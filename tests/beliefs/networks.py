"""Networks for tests: by hand, drawn at random, and their whole joint by brute force."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise, product
from math import prod

import numpy as np

from hocket.beliefs.inference import Evidence, Floats
from hocket.beliefs.profile import Network, Variable


def variable(
    name: str,
    centres: Sequence[float],
    table: Sequence[float],
    parents: Sequence[str] = (),
    fact: str = "tokens",
    turn: int = 0,
    stage: str | None = None,
    **more: object,
) -> Variable:
    """A size of calls of model `m` without prompts, if nothing else is said; bins are cut between the centres."""
    cuts = [(a + b) / 2 for a, b in pairwise(centres)]
    fields: dict[str, object] = {"model": "m", "prompts": [0.0] * len(centres)} if fact == "tokens" else {}
    return Variable(
        name=name,
        stage=name if stage is None else stage,
        fact=fact,
        turn=turn,
        cuts=cuts,
        centres=list(centres),
        parents=list(parents),
        table=list(table),
        **(fields | more),  # type: ignore[arg-type]
    )


def drawn(count: int, seed: int, states: int = 3, parents: int = 2) -> Network:
    """A network of `count` variables, each with up to `parents` of those before it."""
    rng = random.Random(seed)
    variables: list[Variable] = []
    for index in range(count):
        above = sorted(rng.sample(range(index), min(index, rng.randrange(parents + 1))))
        table: list[float] = []
        for _ in range(states ** len(above)):
            weights = [rng.random() + 0.01 for _ in range(states)]
            table += [weight / sum(weights) for weight in weights]
        centres = [float(n + 1) for n in range(states - 1)]
        variables.append(variable(f"v{index}", centres, table, [f"v{above_}" for above_ in above]))
    return Network(variables=variables)


def whole_joint(network: Network, evidence: Evidence) -> Floats:
    """P(all variables | evidence) by multiplying everything out: an axis each, over all states."""
    places = {v.name: index for index, v in enumerate(network.variables)}
    states = [len(v.centres) + 1 for v in network.variables]
    joint = np.zeros(states)
    for all_ in product(*(range(count) for count in states)):
        if not all(low <= state <= high for state, (low, high) in zip(all_, evidence, strict=True)):
            continue
        p = 1.0
        for index, v in enumerate(network.variables):
            above = [places[name] for name in v.parents]
            row = 0
            for parent in above:
                row = row * states[parent] + all_[parent]
            p *= v.table[row * states[index] + all_[index]]
        joint[all_] = p
    assert prod(joint.shape) < 100_000
    return np.asarray(joint / joint.sum())


def some_evidence(network: Network, seed: int) -> Evidence:
    """Of each variable: nothing, its state, that it is present, or a bound."""
    rng = random.Random(seed)
    evidence = []
    for v in network.variables:
        last = len(v.centres)
        state = rng.randrange(last + 1)
        evidence.append(rng.choice([(0, last), (0, last), (state, state), (0, last - 1), (min(1, last), last)]))
    return tuple(evidence)
