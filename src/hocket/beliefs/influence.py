"""Influence: how much of a job the end of a stage lets begin, as Argus assesses it.

The last stage has 1; any other the largest influence among the stages that need it, plus their number. So it grows with
the depth and with the fan-out of what follows. (Wu, Chen, Wang, Jin: Argus, IPDPS 2021, and its published code.)
"""

from __future__ import annotations

from collections.abc import Iterable

from hocket.beliefs.record import Record


def influence(records: Iterable[Record]) -> dict[str, float]:
    """Stage -> mean influence of its steps in recorded jobs. Parallel tasks of one stage count as one that follows."""
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for record in records:
        following: list[set[str]] = [set() for _ in record.steps]
        largest = [0.0] * len(record.steps)
        for index in range(len(record.steps) - 1, -1, -1):  # a step's needs stand before it
            step = record.steps[index]
            own = largest[index] + len(following[index]) or 1.0
            for before in step.after:
                following[before].add(step.stage)
                largest[before] = max(largest[before], own)
            sums[step.stage] = sums.get(step.stage, 0.0) + own
            counts[step.stage] = counts.get(step.stage, 0) + 1
    return {stage: total / counts[stage] for stage, total in sums.items()}
