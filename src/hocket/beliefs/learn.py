"""Records of an application -> its profile."""

from __future__ import annotations

from collections.abc import Sequence

from hocket.beliefs.graph import Graph, find_graph
from hocket.beliefs.profile import MOST_RECORDS, Profile
from hocket.beliefs.record import Record
from hocket.errors import InputError

BINS = 6
"states of a size in the network, `absent` aside"
PARENTS = 2
"of a variable of the network, at most"
ANSWER_WEIGHT = 50
"prompt tokens that cost an engine about as much as one token of an answer; only to order jobs by size"


def learn(
    app: str,
    records: Sequence[Record],
    graph: Graph | None = None,
    *,
    timed: bool = False,
    network: bool = True,
    bins: int = BINS,
    parents: int = PARENTS,
) -> Profile:
    """The profile of `app`: of the `graph` that was declared, else of the one that the records show.

    `records` are in the order in which the jobs arrived; `timed`, where what they need is inferred from times. Raises
    InputError without any, or where pyAgrum, which learns the `network`, is not installed. A size has up to `bins`
    states in the network, a variable up to `parents` parents.
    """
    if not records:
        raise InputError(f"no recorded jobs of {app!r}: nothing to learn from")
    graph = graph or find_graph(records, timed=timed)
    profile = Profile(app=app, jobs=len(records), nodes=graph.nodes, edges=graph.edges, records=[])
    if network:
        from hocket.beliefs.network import learn_network

        profile.network = learn_network(records, graph.nodes, bins=bins, parents=parents)
    profile.records = representative(records, MOST_RECORDS)
    return profile


def representative(records: Sequence[Record], most: int) -> list[Record]:
    """At most so many of these, in their order, such that small and large jobs keep their shares.

    A systematic sample: of the jobs in the order of their size, the middle one of each of `most` equal parts. The same
    records give the same sample.
    """
    if len(records) <= most:
        return list(records)
    by_size = sorted(range(len(records)), key=lambda index: (_size(records[index]), index))
    step = len(records) / most
    return [records[index] for index in sorted(by_size[int((part + 0.5) * step)] for part in range(most))]


def _size(record: Record) -> int:
    return sum(step.prompt_tokens + ANSWER_WEIGHT * step.output_tokens for step in record.steps)
