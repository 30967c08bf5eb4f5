"""Information is exact, joint and in bits."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from hocket.beliefs.inference import Floats, Inference
from hocket.beliefs.information import (
    Information,
    entropy,
    joint_information,
    reducing,
    stage_entropies,
    structure_entropy,
)
from hocket.beliefs.profile import Edge, Network, Node
from tests.beliefs.networks import drawn, some_evidence, variable, whole_joint

SURE, NEVER = 1.0, 0.0
FAIR = [0.5, 0.5, NEVER]
"two bins alike, never absent"


def copies(count: int) -> Network:
    """x, and stages that are as it is."""
    same = [SURE, NEVER, NEVER, NEVER, SURE, NEVER, NEVER, NEVER, SURE]
    copied = [variable(f"y{n}", [1.0, 2.0], same, ["x"]) for n in range(count)]
    return Network(variables=[variable("x", [1.0, 2.0], FAIR), *copied])


def exclusive_or() -> Network:
    """y = x xor z, with a fair z: x alone tells nothing of y nor of z, and all of both together."""
    table: list[float] = []
    for x in range(3):
        for z in range(3):
            state = 2 if 2 in {x, z} else x ^ z
            table += [float(n == state) for n in range(3)]
    z_of_x = FAIR * 3
    x, z = variable("x", [1.0, 2.0], FAIR), variable("z", [1.0, 2.0], z_of_x, ["x"])
    return Network(variables=[x, z, variable("y", [1.0, 2.0], table, ["x", "z"])])


def brute(joint: Floats, x: int, ys: list[int], reveal: list[int] | None = None) -> float:
    """I(X, S; Ys) summed over all states: p(x, s, y) log p(x, s, y) / (p(x, s) p(y))."""
    axes = [x, *ys]
    joint = np.transpose(
        joint.sum(axis=tuple(v for v in range(joint.ndim) if v not in axes)), np.argsort(np.argsort(axes))
    )
    seen: dict[tuple[int, ...], float] = {}
    of_y: dict[tuple[int, ...], float] = {}
    both: dict[tuple[tuple[int, ...], tuple[int, ...]], float] = {}
    for states in np.ndindex(*joint.shape):
        s = tuple(states[1 + ys.index(y)] == joint.shape[1 + ys.index(y)] - 1 for y in reveal or [])
        left, right, p = (states[0], *s), states[1:], float(joint[states])
        seen[left] = seen.get(left, 0.0) + p
        of_y[right] = of_y.get(right, 0.0) + p
        both[left, right] = both.get((left, right), 0.0) + p
    return sum(p * np.log2(p / (seen[a] * of_y[b])) for (a, b), p in both.items() if p > 0.0)


def test_entropy_is_in_bits() -> None:
    assert entropy(np.array([1.0, 0.0])) == 0.0
    assert entropy(np.array([0.25] * 4)) == 2.0
    assert stage_entropies(copies(1)) == pytest.approx({"x": 1.0, "y0": 1.0}, abs=1e-6)


def test_what_two_stages_repeat_counts_once() -> None:
    """The joint is 1 bit; the sum of the pairs would say 2."""
    inference = Inference(copies(2))
    pairs = [joint_information(inference, 0, [y], inference.unknown) for y in (1, 2)]
    assert pairs == pytest.approx([1.0, 1.0], abs=1e-6)
    assert joint_information(inference, 0, [1, 2], inference.unknown) == pytest.approx(1.0, abs=1e-6)


def test_what_only_the_pair_tells_counts() -> None:
    """The joint is 1 bit; the sum of the pairs would say 0."""
    inference = Inference(exclusive_or())
    pairs = [joint_information(inference, 0, [y], inference.unknown) for y in (1, 2)]
    assert pairs == pytest.approx([0.0, 0.0], abs=1e-6)
    assert joint_information(inference, 0, [1, 2], inference.unknown) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("seed", range(15))
def test_joint_information_is_that_of_brute_force(seed: int) -> None:
    network = drawn(6, seed)
    evidence = list(some_evidence(network, seed))
    evidence[0] = (0, 2)
    inference, joint = Inference(network), whole_joint(network, tuple(evidence))
    ys = [1, 3, 4]
    assert joint_information(inference, 0, ys, tuple(evidence)) == pytest.approx(brute(joint, 0, ys), abs=1e-5)
    told = joint_information(inference, 0, ys, tuple(evidence), revealed=[3, 4])
    assert told == pytest.approx(brute(joint, 0, ys, [3, 4]), abs=1e-5)
    assert told >= brute(joint, 0, ys) - 1e-6


def test_a_planner_shows_which_stages_exist() -> None:
    """Its size tells nothing of them; its answer decides about two coins: 2 bits."""
    coin = [0.5, 0.5]
    plan = variable("plan", [1.0, 2.0], FAIR, reveals=["a", "b"])
    network = Network(variables=[plan, variable("a", [5.0], coin), variable("b", [9.0], coin)])
    inference = Inference(network)
    bits, ys = Information(inference, network).of(0, inference.unknown)
    assert bits == pytest.approx(2.0, abs=1e-6)
    assert ys == (1, 2)
    after = ((0, 0), (0, 1), (1, 1))  # b is known to be absent
    assert Information(inference, network).of(0, ((0, 1), *after[1:]))[0] == pytest.approx(1.0, abs=1e-6)


def test_what_was_seen_tells_no_more() -> None:
    network = copies(2)
    inference = Inference(network)
    information = Information(inference, network)
    assert information.of(0, ((0, 0), (0, 2), (0, 2))) == (0.0, ())
    seen = information.of(0, ((0, 1), (1, 1), (0, 2)))  # y0 was seen, and with it x
    assert seen[0] == pytest.approx(0.0, abs=1e-6)


def test_the_nearest_stand_for_all() -> None:
    """A chain of six: x informs five, directly or not; the first four are asked."""
    same = [0.9, 0.1, NEVER, 0.1, 0.9, NEVER, NEVER, NEVER, SURE]
    names = ["x", *(f"y{n}" for n in range(5))]
    chain = [variable("x", [1.0, 2.0], FAIR)]
    chain += [variable(name, [1.0, 2.0], same, [above]) for above, name in itertools.pairwise(names)]
    network = Network(variables=chain)
    inference = Inference(network)
    assert Information(inference, network).of(0, inference.unknown)[1] == (1, 2, 3, 4)
    assert Information(inference, network).of(0, inference.unknown, nearest=2)[1] == (1, 2)
    assert Information(inference, network).of(3, inference.unknown)[1] == (4, 5), "only along directed paths"


def test_the_stages_that_reduce_uncertainty() -> None:
    alone = variable("alone", [1.0, 2.0], FAIR)
    network = Network(variables=[*copies(2).variables, alone])
    found = reducing(network)
    assert [(r.variable, r.informs) for r in found] == [("x", ("y0", "y1"))]
    assert found[0].bits == pytest.approx(1.0, abs=1e-6)


def test_the_structure_of_a_dynamic_stage() -> None:
    """Two candidates, each there in half of the jobs, and an edge that is there in half of those with both."""
    node = Node(name="steps", kind="dynamic", candidates=["a", "b"], planner="plan")
    assert structure_entropy(node, [], {"a": 0.5, "b": 0.5}) == 2.0
    assert structure_entropy(node, [Edge("a", "b", 0.5)], {"a": 0.5, "b": 0.5}) == 2.25
    assert structure_entropy(node, [Edge("a", "other", 0.5)], {"a": 1.0, "b": 0.0}) == 0.0
