"""A profile: all that was learned of one application, as one JSON file. `hocket learn` writes it, the core reads it."""

from __future__ import annotations

import msgspec

from hocket.beliefs.record import Record

VERSION = 1
MOST_RECORDS = 512
"records that a profile holds: enough for a posterior, small enough for a file"


class Choice(msgspec.Struct, array_like=True):
    """What a dynamic stage held, once."""

    stages: list[str]
    "which of the candidates, one entry a task; none: its planner went on without them"
    share: float
    "of the times that the planner ended"


class Node(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A stage of the application's graph."""

    name: str
    kind: str
    "llm | tool | dynamic"
    models: list[str] = []
    "what its calls asked for"
    candidates: list[str] = []
    "of a dynamic stage: the stages that its planner chooses from"
    shares: list[float] = []
    "of a dynamic stage: how often each candidate is chosen, of the times that the planner ended"
    choices: list[Choice] = []
    "of a dynamic stage: what is chosen together, the most frequent first"
    planner: str | None = None
    "of a dynamic stage: the stage whose answer decides what it holds"
    present: float = 1.0
    "share of the jobs that have it"
    tasks: float = 1.0
    "mean number of its calls or runs in a job that has it"
    rounds: list[float] = []
    "share of the jobs in which it runs at least once, twice, ... one after another: a loop, unrolled"
    fan_out: dict[int, float] = {}
    "parallel tasks of one round -> share of the rounds"


class Edge(msgspec.Struct, array_like=True):
    """`after` begins when `before` has ended, in a `share` of the jobs that have both."""

    before: str
    after: str
    share: float
    again: bool = False
    "it closes a loop: the next round of `after` begins"


class Variable(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A node of the Bayesian network: one discretised fact of a job."""

    name: str
    stage: str
    "the stage it is about; empty for a feature of the request"
    fact: str
    "duration | tokens | tasks | feature"
    turn: int = 0
    "which round of a loop, from 0"
    cuts: list[float]
    "inner borders of its bins, increasing; the state after the last bin is `absent`"
    centres: list[float]
    "mean value of each bin, as many as bins"
    model: str | None = None
    "of the size of calls: what most of them ask for"
    prompts: list[float] = []
    "of the size of calls: mean prompt tokens in each bin"
    reveals: list[str] = []
    "of the size of calls: the stages that their answer decides about; empty unless it is a planner"
    grows: bool = False
    "of a number of tasks: they begin one after another, so those that have begun need not be all"
    over: list[str] = []
    "rounds (stage and its number, from 1): once one of them has begun, this one comes no more"
    parents: list[str] = []
    table: list[float] = []
    "P(state | parents), the own state fastest, then the last parent's"


class Network(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A Bayesian network over the facts of a job, parents before children."""

    variables: list[Variable]
    left_out: list[str] = []
    "stages without variables of their own: their calls are pooled in the stage `*`, their tool runs are not in it"


class Profile(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What is known of an application. docs/reference/profile.md describes every field."""

    v: int = VERSION
    app: str
    jobs: int
    "jobs that it was learned from"
    nodes: list[Node] = []
    edges: list[Edge] = []
    records: list[Record]
    network: Network | None = None


def decode_profile(text: str | bytes) -> Profile:
    """Read a profile. Raises ValueError that says what is wrong with it."""
    try:
        profile = msgspec.json.decode(text, type=Profile)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError(f"not a profile ({error}); give a file that `hocket learn` wrote") from None
    if profile.v != VERSION:
        raise ValueError(f"a profile of version {profile.v}; this hocket reads version {VERSION}; learn it again")
    if not profile.app:
        raise ValueError("app is empty; learn it again")
    names = {node.name for node in profile.nodes}
    for edge in profile.edges:
        if not names.issuperset((edge.before, edge.after)):
            raise ValueError(f"an edge from {edge.before!r} to {edge.after!r}, which are no nodes; learn it again")
    for number, record in enumerate(profile.records):
        for index, step in enumerate(record.steps):
            if any(not 0 <= before < index for before in step.after):
                raise ValueError(f"records[{number}].steps[{index}].after: must name earlier steps; learn it again")
            if step.prompt_tokens < 0 or step.output_tokens < 0 or not 0 <= step.duration_s < float("inf"):
                raise ValueError(f"records[{number}].steps[{index}]: sizes must be 0 or more; learn it again")
    return profile


def encode_profile(profile: Profile) -> bytes:
    """The profile as a file holds it."""
    return msgspec.json.encode(profile)
