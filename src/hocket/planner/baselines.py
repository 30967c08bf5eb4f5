"""Planners to compare with: what people do by hand, and what others compute. A catalog: name -> planner.

`k8s-default`: whole devices, dealt out evenly; tensor parallelism only where the weights need it; replicas are data
parallel. `k8s-best`: as that, with the best numbers of replicas. `whole-best`: whole devices, with any tensor
parallelism. Both are rehearsed and climb like the planner's own finalists, among plans of their kind. `per-model`: each
model sized alone, by its own load. `aggregate`: what the serial pipeline of Scepsy (arXiv 2604.15186) likes best:
throughput X = min r·X_i/n_i, latency T = sum of n_i/p_i·L_i, over shares and tensor parallelism, with no graph and no
overlap; as there, nothing is simulated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import numpy as np

from hocket.errors import InputError
from hocket.planner.demand import Floats
from hocket.planner.estimate import Estimator
from hocket.planner.moves import Choices
from hocket.planner.placement import PARTS, Choice
from hocket.planner.search import AT_ONCE, Candidate, Problem, Search

MOST_COUNTS = 4000
"numbers of replicas that are all tried"

Planner = Callable[[Problem, Callable[[], bool]], list[Candidate]]
"finalists, the best first; what only has one answer has one"


def k8s_default(problem: Problem, until: Callable[[], bool]) -> list[Candidate]:
    """Whole devices, dealt out evenly. More models than devices: the smallest share one, in equal parts."""
    search = Search(problem._replace(narrow=True))
    for counts in _dealt(search):
        found = search.take([counts])
        if found:
            return found[:1]
    return _squeezed(search)


def _dealt(search: Search) -> Iterator[Choices]:
    """Replicas for equal numbers of devices; what is left over goes to the largest models that it is enough for."""
    degrees = [own[0] for own in search.widths]
    devices = len(search.problem.cluster.devices)
    for each in range(devices // len(degrees), 0, -1):
        counts = [max(1, each // degree) for degree in degrees]
        left = devices - sum(count * degree for count, degree in zip(counts, degrees, strict=True))
        for u in sorted(range(len(degrees)), key=lambda u: -search.units[u].model.weights_gib):
            if degrees[u] <= left:
                counts[u] += 1
                left -= degrees[u]
        yield tuple(Choice(degree, count, PARTS) for degree, count in zip(degrees, counts, strict=True))


def _squeezed(search: Search) -> list[Candidate]:
    """One replica each; as many of the smallest as need be share devices."""
    degrees = [own[0] for own in search.widths]
    small = sorted(range(len(degrees)), key=lambda u: search.units[u].model.weights_gib)
    for count in range(len(degrees) + 1):
        for parts in (PARTS // 2, PARTS // 3, PARTS // 4):
            choices = [Choice(degree, 1, PARTS) for degree in degrees]
            for u in small[:count]:
                choices[u] = Choice(degrees[u], 1, max(parts, search.least(u, degrees[u])))
            found = search.take([tuple(choices)])
            if found:
                return found[:1]
    raise InputError(search.too_small())


def k8s_best(problem: Problem, until: Callable[[], bool]) -> list[Candidate]:
    """All numbers of replicas that fill the devices; many of them: by search."""
    start = k8s_default(problem, until)
    search = Search(problem._replace(narrow=True, whole=True))
    degrees = [own[0] for own in search.widths]
    devices = len(problem.cluster.devices)
    ranges = [range(1, devices // degree + 1) for degree in degrees]
    if np.prod([float(len(own)) for own in ranges]) > MOST_COUNTS * 10:
        return search.run(until, lambda tried, score: None)
    counts = [
        tuple(Choice(degree, count, PARTS) for degree, count in zip(degrees, own, strict=True))
        for own in product(*ranges)
        if devices - min(degrees) < sum(c * d for c, d in zip(own, degrees, strict=True)) <= devices
    ]
    for first in range(0, len(counts), AT_ONCE):
        if search.best and until():
            break
        search.take(counts[first : first + AT_ONCE])
    search.settle()
    return search.best or start


def whole_best(problem: Problem, until: Callable[[], bool]) -> list[Candidate]:
    """Any tensor parallelism, whole devices."""
    try:
        return Search(problem._replace(whole=True)).run(until, lambda tried, score: None)
    except InputError:
        return k8s_default(problem, until)


def per_model(problem: Problem, until: Callable[[], bool]) -> list[Candidate]:
    """Each model sized alone: replicas in proportion to the devices that its own load keeps busy, whole and narrow."""
    start = k8s_default(problem, until)
    search = Search(problem._replace(narrow=True, whole=True))
    degrees = [own[0] for own in search.widths]
    counts = [1] * len(degrees)
    while True:
        found = search.take([tuple(Choice(d, c, PARTS) for d, c in zip(degrees, counts, strict=True))])
        if not found:
            return search.best[:1] if search.best else start
        search.best = found
        used = search.estimator.estimate([search.fleet(found[0].plan)], [1.0]).utilisation[0, 0]
        free = len(problem.cluster.devices) - sum(c * d for c, d in zip(counts, degrees, strict=True))
        fitting = [u for u, degree in enumerate(degrees) if degree <= free]
        if not fitting:
            return found
        counts[max(fitting, key=lambda u: (float(used[u]), -u))] += 1


def aggregate(problem: Problem, until: Callable[[], bool]) -> list[Candidate]:
    """The serial pipeline of Scepsy."""
    search = Search(problem)
    search.estimator = Serial(problem.demand, search.serving, len(search.units), problem.goal.lasts_s)
    return search.run(until, lambda tried, score: None)


class Serial(Estimator):
    """An estimator to which an application is a pipeline: a stage for each model, one after the other."""

    def latency(self, times: Floats) -> tuple[Floats, Floats]:
        """The sum over models of a job's groups there, each as long as a group of that model is on average.

        A job of `n_i` calls, `p_i` of them at a time, passes a model `n_i/p_i` times. The 95 % is taken as twice the
        mean, as the pipeline has no distribution.
        """
        demand, means = self.demand, []
        for app in range(len(demand.apps)):
            own = demand.groups.app == app
            total = np.zeros(times.shape[1:])
            for u in range(self.engines):
                here = own & (self.unit == u)
                if here.any():
                    weight = demand.weights[here]
                    passes = weight.sum() / demand.per_s[app]
                    total += passes * np.tensordot(weight / weight.sum(), times[here], 1)
            means.append(total)
        mean = np.stack(means, axis=-1)
        return mean, 2.0 * mean


BASELINES: dict[str, Planner] = {
    "k8s-default": k8s_default,
    "k8s-best": k8s_best,
    "whole-best": whole_best,
    "per-model": per_model,
    "aggregate": aggregate,
}
"name -> planner"
AMONG = {"k8s-best": True, "whole-best": False}
"planners that are the best of a kind, whole devices -> whether with no more tensor parallelism than the weights need"
