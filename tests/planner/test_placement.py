"""Packing: what has a place can be deployed; and where there is a place at all, best fit finds one."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache
from itertools import combinations

import msgspec
import pytest

from hocket.planner.inputs import Cluster
from hocket.planner.placement import PARTS, Choice, united
from hocket.planner.plan import problems_of
from hocket.planner.search import Problem, Search
from tests.planner.worlds import problem

CLUSTERS = {
    "one domain": [{"name": "n0", "devices": 4}],
    "two domains": [{"name": "n0", "devices": 2}, {"name": "n1", "devices": 4}],
    "unlike devices": [
        {"name": "n0", "devices": 2, "domain": "d"},
        {"name": "n1", "devices": 2, "domain": "d", "memory_gib": 141},
    ],
}


@cache
def asked(which: str, law: str = "ps") -> Problem:
    nodes = [{"kind": "h100", "memory_gib": 80} | node for node in CLUSTERS[which]]
    return problem({"rag": 1.0}, 4, law=law)._replace(cluster=msgspec.convert({"nodes": nodes}, Cluster))


@cache
def search_of(which: str, law: str = "ps") -> Search:
    return Search(asked(which, law))


def drawn(rng: random.Random, search: Search, most: int = 2) -> tuple[Choice, ...]:
    """Of each unit one or two kinds of replicas, of shares that some device has the memory for."""

    def group(u: int) -> Choice:
        degree = rng.choice([1, 1, 2, 4])
        return Choice(degree, rng.randint(1, most), rng.randint(min(PARTS, search.least(u, degree)), PARTS))

    return tuple(united([group(u) for _ in range(rng.choice([1, 1, 2]))]) for u in range(len(search.units)))


@pytest.mark.parametrize("which", CLUSTERS)
@pytest.mark.parametrize("law", ["ps", "capped"])
def test_what_has_a_place_can_be_deployed(which: str, law: str) -> None:
    search, rng, found = search_of(which, law), random.Random(3), 0
    for _ in range(600):
        wanted = drawn(rng, search)
        for plan in search.packer.plans(wanted):
            found += 1
            assert not list(problems_of(plan, search.problem.cluster, search.problem.models))
            for engine, choice in zip(plan.engines, wanted, strict=True):
                asked_for = sorted(g.tensor_parallel for g in choice.groups for _ in range(g.replicas))
                assert sorted(one.tensor_parallel for one in engine.replicas) == asked_for
                least = min(group.parts for group in choice.groups)
                assert all(one.share * PARTS >= least for one in engine.replicas), "less than was asked for"
    assert found > 20


def test_moves_lead_to_what_can_be_deployed_and_trims_take_from_others_alone() -> None:
    search, rng, trimmed = search_of("one domain"), random.Random(4), 0
    for _ in range(20):
        wanted = drawn(rng, search)
        moves = search.moves.around(wanted, [0.5, 1.0, 0.2])
        assert all(move.choices != wanted for move in moves)
        for move in rng.sample(moves, min(20, len(moves))):
            found, plans = search.moves.placed(move)
            assert all(found[u] == move.choices[u] for u in move.kept)
            trimmed += bool(plans) and found != move.choices
            for plan in plans:
                assert not list(problems_of(plan, search.problem.cluster, search.problem.models))
    assert trimmed


def test_stacked_replicas_are_a_choice() -> None:
    asked = problem({"rag": 1.0}, 4)
    choices = (Choice(1, 5, PARTS // 4), Choice(1, 1, PARTS // 2), Choice(2, 1, PARTS))
    assert Search(asked).packer.plans(choices)
    assert not Search(asked._replace(stacked=False)).packer.plans(choices)
    apart = Choice(1, 2, PARTS // 4), Choice(1, 2, PARTS // 2), choices[2]
    for plan in Search(asked._replace(stacked=False)).packer.plans(apart):
        for engine in plan.engines:
            devices = [device for replica in engine.replicas for device in replica.devices]
            assert len(devices) == len(set(devices))


def test_whole_devices_stay_whole() -> None:
    search = Search(asked("one domain")._replace(whole=True))
    best = search.run(lambda: search.tried >= 200, lambda tried, score: None)
    assert all(one.share == 1.0 for found in best for engine in found.plan.engines for one in engine.replicas)


# ---------------------------------------------------------------- against all packings of a small cluster


def fits(wanted: tuple[Choice, ...], devices: int) -> bool:
    """Whether there is a place at all on so many equal devices, no two replicas of a unit on one: tries everything."""

    @cache
    def rest(index: int, replicas: int, free: tuple[tuple[int, bool], ...]) -> bool:
        if index == len(wanted):
            return True
        degree, count, parts, _ = wanted[index]
        if replicas == count:
            return rest(index + 1, 0, tuple(sorted((left, False) for left, _ in free)))
        fitting = [d for d, (left, here) in enumerate(free) if left >= parts and not here]
        return any(
            rest(index, replicas + 1, tuple(sorted(after(free, taken, parts))))
            for taken in combinations(fitting, degree)
        )

    def after(free: tuple[tuple[int, bool], ...], taken: tuple[int, ...], parts: int) -> Iterator[tuple[int, bool]]:
        return ((left - parts, True) if d in taken else (left, here) for d, (left, here) in enumerate(free))

    return rest(0, 0, ((PARTS, False),) * devices)


def test_best_fit_finds_a_place_where_there_is_one() -> None:
    rng, search, fitting = random.Random(5), search_of("one domain"), 0
    for _ in range(3000):
        wanted = tuple(choice._replace(also=()) for choice in drawn(rng, search, 3))
        if sum(one.taken for one in wanted) <= PARTS * 4 and fits(wanted, 4):
            fitting += 1
            assert search.packer.plans(wanted), wanted
    assert fitting > 60
