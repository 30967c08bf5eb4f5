"""What is not known of a job, in bits, and how much of it a stage would settle (LLMSched, arXiv 2504.03444).

A stage X *informs* the stages that a directed path of the network leads to, and, if it is a planner, those that its
answer decides about. How much is the joint mutual information I(X; Y1 ... Yk | evidence): what X tells of all of them
together, which is not the sum of what it tells of each. A planner's answer also shows which of its candidates exist,
so S, their existence, counts as seen with it: I(X, S; Y1 ... Yk).

An exact joint over many variables is out of reach, so the nearest few stand for all.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from hocket.beliefs.inference import MOST_ANSWERS, Evidence, Floats, Inference
from hocket.beliefs.profile import Edge, Network, Node

NEAREST = 4
"variables that stand for all that a stage informs"
LEAST_BITS = 0.01
"of information, from which on a stage is said to reduce uncertainty: less is within the smoothing"


def entropy(probabilities: Floats) -> float:
    """-sum p log2 p, in bits, over all entries."""
    some = probabilities[probabilities > 0.0]
    return max(0.0, -float((some * np.log2(some)).sum()))


def joint_information(
    inference: Inference, x: int, ys: Sequence[int], evidence: Evidence, revealed: Collection[int] = ()
) -> float:
    """I(X, S; Y1 ... Yk | evidence) in bits; S is whether the `revealed` ones of the Ys exist (empty: I(X; Y1 ... Yk)).

    S follows from the Ys, so this is H(X, S) + H(Y) - H(X, Y).
    """
    if not ys or evidence[x][0] == evidence[x][1]:
        return 0.0
    joint = inference.joint([x, *ys], evidence)
    existence = joint
    for axis, y in enumerate(ys, 1):
        absent = y in revealed and evidence[y][1] == inference.states[y] - 1
        there = existence.take(range(existence.shape[axis] - absent), axis).sum(axis=axis, keepdims=True)
        gone = existence.take([-1], axis)
        existence = np.concatenate([there, gone], axis) if absent else there
    return max(0.0, entropy(existence) + entropy(joint.sum(axis=0)) - entropy(joint))


class Informed(NamedTuple):
    """What a variable informs, while certain others are open."""

    ys: tuple[int, ...]
    revealed: tuple[int, ...]
    "those of the Ys whose existence it decides"
    scope: tuple[int, ...]
    "all that the information depends on"


class Information:
    """Joint mutual information in one network, each question answered once."""

    def __init__(self, inference: Inference, network: Network) -> None:
        self._inference = inference
        stages: dict[str, list[int]] = {}
        for index, variable in enumerate(network.variables):
            if variable.fact in {"tokens", "duration"}:
                stages.setdefault(variable.stage, []).append(index)
        self._reveals = [
            frozenset(index for stage in variable.reveals for index in stages.get(stage, []))
            for variable in network.variables
        ]
        self._known: dict[tuple[int, tuple[bool, ...], int], Informed] = {}

    def of(self, x: int, evidence: Evidence, nearest: int = NEAREST) -> tuple[float, tuple[int, ...]]:
        """Bits that seeing X would tell of the `nearest` variables that it informs, and these variables."""
        informed = self._informed(x, evidence, nearest)
        if not informed.ys:
            return 0.0, ()
        ys, revealed, scope = informed
        bits = self._inference.cached(
            ("bits", x, ys),
            scope,
            evidence,
            lambda: joint_information(self._inference, x, ys, evidence, revealed),
        )
        return bits, ys

    def _informed(self, x: int, evidence: Evidence, nearest: int) -> Informed:
        """The open variables that X informs, the nearest ones: those that it decides about, then along its paths."""
        open_ = tuple(lowest < highest for lowest, highest in evidence)
        found = self._known.get((x, open_, nearest))
        if found is None:
            components = self._inference.components(evidence)
            joined = next((c.members for c in components if x in c.members), ())
            reveals = self._reveals[x]
            paths = [y for y in self._inference.informed(x) if y in joined and y not in reveals]
            ys = [*(y for y in sorted(reveals) if open_[y]), *paths][:nearest]
            concerned = [c for c in components if not {x, *ys}.isdisjoint(c.members)]
            scope = sorted({v for c in concerned for v in c.scope})
            found = Informed(tuple(ys), tuple(y for y in ys if y in reveals), tuple(scope))
            if len(self._known) >= MOST_ANSWERS:
                self._known.clear()
            self._known[x, open_, nearest] = found
        return found


# ---------------------------------------------------------------- about an application


class Reduction(NamedTuple):
    """What one stage would settle, before anything was seen of a job."""

    variable: str
    bits: float
    informs: tuple[str, ...]


def reducing(network: Network, nearest: int = NEAREST) -> list[Reduction]:
    """The uncertainty-reducing stages of an application, the most telling first; each on condition that it is there."""
    inference = Inference(network)
    information = Information(inference, network)
    found = []
    for x, variable in enumerate(network.variables):
        if variable.fact not in {"tokens", "duration"} or inference.states[x] < 2:
            continue
        present = (*inference.unknown[:x], (0, inference.states[x] - 2), *inference.unknown[x + 1 :])
        bits, ys = information.of(x, present, nearest)
        if bits >= LEAST_BITS:
            found.append(Reduction(variable.name, bits, tuple(inference.names[y] for y in ys)))
    return sorted(found, key=lambda reduction: -reduction.bits)


def stage_entropies(network: Network) -> dict[str, float]:
    """Bits of each variable, before anything was seen: absence counts as a state."""
    inference = Inference(network)
    rows = inference.marginals(inference.unknown)
    return {name: entropy(row) for name, row in zip(inference.names, rows, strict=True)}


def structure_entropy(node: Node, edges: Sequence[Edge], present: Mapping[str, float]) -> float:
    """Bits of a dynamic stage: which of its candidates exist, and which of them then wait for which.

    The sum of the entropies of each existence and of each edge, an edge only in so far as both of its ends exist: an
    upper bound, for the paper gives no formula. `present`: stage -> probability; edges carry their share among jobs
    that have both ends.
    """
    among = set(node.candidates)
    bits = sum(_coin(present.get(stage, 0.0)) for stage in node.candidates)
    for edge in edges:
        if edge.before in among and edge.after in among and edge.before != edge.after:
            bits += present.get(edge.before, 0.0) * present.get(edge.after, 0.0) * _coin(edge.share)
    return bits


def _coin(p: float) -> float:
    return entropy(np.array([p, 1.0 - p]))
