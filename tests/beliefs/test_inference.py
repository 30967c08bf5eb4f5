"""Answers about a network are exact: by brute force on small ones, by a well-known library on larger ones."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from hocket.beliefs.inference import Evidence, Inference
from hocket.beliefs.profile import Network
from tests.beliefs.networks import drawn, some_evidence, variable, whole_joint


@pytest.mark.parametrize("seed", range(25))
def test_marginals_and_joints_are_those_of_brute_force(seed: int) -> None:
    network = drawn(7, seed)
    evidence, inference = some_evidence(network, seed), Inference(network)
    joint = whole_joint(network, evidence)
    rows = inference.marginals(evidence)
    for index in range(7):
        expected = joint.sum(axis=tuple(v for v in range(7) if v != index))
        np.testing.assert_allclose(rows[index], expected, atol=1e-7)
    wanted = random.Random(seed).sample(range(7), 3)
    possible = tuple(slice(low, high + 1) for low, high in evidence)
    expected = joint[possible].sum(axis=tuple(v for v in range(7) if v not in wanted))
    in_order = np.argsort(np.argsort(wanted))
    np.testing.assert_allclose(inference.joint(wanted, evidence), np.transpose(expected, in_order), atol=1e-7)


@pytest.mark.parametrize("seed", range(3))
def test_a_large_network_is_as_pyagrum_says(seed: int) -> None:
    gum = pytest.importorskip("pyagrum")
    network = drawn(18, seed, states=7)
    places = {v.name: index for index, v in enumerate(network.variables)}
    bn = gum.BayesNet()
    for v in network.variables:
        bn.add(gum.RangeVariable(v.name, "", 0, len(v.centres)))
    for index, v in enumerate(network.variables):
        for name in v.parents:
            bn.addArc(places[name], index)
    for index, v in enumerate(network.variables):
        table = np.array(v.table).reshape([7] * (len(v.parents) + 1))
        cpt = bn.cpt(index)
        for states in np.ndindex(*table.shape):
            cpt[dict(zip([*v.parents, v.name], states, strict=True))] = table[states]
    evidence = some_evidence(network, seed)
    library = gum.LazyPropagation(bn)
    for index, (low, high) in enumerate(evidence):
        library.addEvidence(index, [float(low <= state <= high) for state in range(7)])
    library.makeInference()
    rows = Inference(network).marginals(evidence)
    for index in range(18):
        np.testing.assert_allclose(rows[index], library.posterior(index).toarray(), atol=1e-6)


def test_what_was_seen_parts_the_rest() -> None:
    """a -> b -> c -> d: once b was seen, a and c no longer tell of each other, and c's answers depend on b alone."""
    table = [0.8, 0.2, 0.3, 0.7]
    names = ["a", "b", "c", "d"]
    chain = [variable("a", [1.0], [0.5, 0.5])]
    chain += [variable(name, [1.0], table, [before]) for before, name in itertools.pairwise(names)]
    inference = Inference(Network(variables=chain))
    assert [c.members for c in inference.components(inference.unknown)] == [(0, 1, 2, 3)]
    seen: Evidence = ((0, 1), (1, 1), (0, 1), (0, 1))
    assert [(c.members, c.scope) for c in inference.components(seen)] == [((0,), (0, 1)), ((2, 3), (1, 2, 3))]


def test_an_answer_is_kept_and_the_oldest_forgotten() -> None:
    network = drawn(3, 0)
    inference = Inference(network, most_answers=2)
    asked: list[str] = []

    def ask(question: str) -> str:
        return inference.cached(question, (0,), inference.unknown, lambda: asked.append(question) or f"to {question}")

    assert [ask(question) for question in "abab"] == ["to a", "to b", "to a", "to b"]
    assert asked == ["a", "b"]
    ask("c")
    ask("b")
    ask("a")
    assert asked == ["a", "b", "c", "a"]


def test_evidence_outside_of_the_scope_asks_nothing_new() -> None:
    inference = Inference(drawn(3, 0))
    first = inference.cached("?", (0,), ((0, 0), (0, 2), (0, 2)), lambda: "once")
    again = inference.cached("?", (0,), ((0, 0), (1, 1), (2, 2)), lambda: "twice")
    other = inference.cached("?", (0,), ((1, 1), (0, 2), (0, 2)), lambda: "other")
    assert (first, again, other) == ("once", "once", "other")


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ([variable("a", [1.0], [0.5, 0.5]), variable("a", [1.0], [0.5, 0.5])], "two variables have one name"),
        ([variable("a", [1.0], [0.5])], "network.a.table: must be \\[2\\] probabilities"),
        ([variable("a", [1.0], [0.5, float("nan")])], "network.a.table"),
        ([variable("a", [1.0], [0.5] * 4, ["b"]), variable("b", [1.0], [0.5, 0.5])], "network.a.parents: .* earlier"),
        ([variable("a", [1.0], [0.5, 0.5], ["nobody"])], "network.a.parents"),
        ([variable("a", [1.0, 1.0, 1.0], [0.25] * 4)], "network.a.cuts: must increase"),
        ([variable("a", [-1.0], [0.5, 0.5])], "network.a: centres and prompts must be 0 or more"),
        ([variable("a", [float("inf")], [0.5, 0.5])], "network.a: centres"),
        ([variable(f"v{n}", [1.0], [0.5, 0.5]) for n in range(51)], "network: 51 variables, 50 at most"),
    ],
)
def test_what_is_no_network_is_refused(network: list[object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Inference(Network(variables=network))  # type: ignore[arg-type]
