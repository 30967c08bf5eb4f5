"""When jobs arrive, whose they are and how urgent."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hocket.sim.workloads.draws import Draws, quantile, rank

MINUTE_RATES = (0.573, 0.719, 0.747, 0.824, 0.983, 1.15, 1.323, 1.4, 1.475, 1.521)
"""requests of a minute over the mean. Azure LLM inference trace 2023, conversation (Azure/AzurePublicDataset), 58
minutes. Within a minute they come as a Poisson process (local variation of the gaps 1.01)"""
MINUTE_MINUTE = 0.84
"rank correlation of a minute with the one before; same source"
MINUTE_S = 60.0
CLIENT_CV = 2.04
"""standard deviation of the gaps over their mean, for the client of half of all requests. ServeGen m-mid
(alibaba/ServeGen), rate-weighted median over 106,385 windows of 600 s; most are fitted by a gamma distribution"""

TENANT_SHARES = {"tenant-0": 0.523, "tenant-1": 0.14, "tenant-2": 0.123, "tenant-3": 0.214}
"the first client's share of all requests, nine more, the rest. ServeGen m-mid: 52.3 %, 78.6 %"
URGENCIES = {0: 0.02, 1: 0.08, 2: 0.7, 3: 0.1, 4: 0.1}
"no source: most work is ordinary"


def poisson(draws: Draws, rate: float) -> Iterator[float]:
    """Nothing goes with anything: a Poisson process."""
    at = 0.0
    while True:
        at += draws.expovariate(rate)
        yield at


def azure(draws: Draws, rate: float) -> Iterator[float]:
    """The rate moves from minute to minute, as on a public endpoint: a Poisson process of varying rate."""
    at, until, now = 0.0, 0.0, 0.0
    score = draws.score()
    while True:
        if at >= until:
            until += MINUTE_S
            score = draws.linked(score, MINUTE_MINUTE)
            now = rate * quantile(MINUTE_RATES, rank(score))
        step = draws.expovariate(now)
        if at + step < until:
            at += step
            yield at
        else:
            at = until  # what is left of a gap has no memory: begin anew at the new rate


def servegen(draws: Draws, rate: float) -> Iterator[float]:
    """Jobs come in bunches, as those of one client: gamma gaps."""
    shape = CLIENT_CV**-2
    at = 0.0
    while True:
        at += draws.gammavariate(shape, 1 / (rate * shape))
        yield at


ARRIVALS: dict[str, Callable[[Draws, float], Iterator[float]]] = {
    "poisson": poisson,
    "azure": azure,
    "servegen": servegen,
}
"name -> the times, in seconds, at which jobs arrive at a mean rate (jobs a second)"
