"""The jobs of the demo. FROZEN: every policy is judged on this mix, so changing it makes old figures worthless.

What makes it a fair and telling test of an ordering:

- **Saturated.** All jobs arrive within 6 s and keep both engines busy for more than ten times as long, so that queues
  form at both and the order matters.
- **Heavy-tailed.** In each application most jobs are small and few are long (a discrete Pareto), as recorded traces of
  agents are. Sizes are the distribution's quantiles, dealt out in random order: any seed gives about the same load.
- **Partly foreseeable.** A job's request says something of its size (the number of documents it names), its
  first answer more (the plan's breadth), and some is luck (how often the tests fail). Applications overlap in size:
  knowing the application alone is not enough.
- **Across engines.** Each application uses both. A job that is short on one engine may be long on the other.
- **Small.** With a core each, the engines decode some 60 tokens/s and prefill some 170: prompts hold 35 to 150 tokens,
  answers 9 to 96, and a pass takes little more than a minute.

Fan-outs, rounds and token counts are drawn here, before anything runs, and the engines are told to ignore their end
of text: two passes do the same work, whatever the small models happen to say. `draw(seed)` with another seed gives
other jobs of the same kind, for learning from; the demo's own is `draw()`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

SEED = 7
ARRIVALS_S = 6.0
"the jobs arrive within this time, uniformly: a Poisson process that is told its count"


@dataclass(frozen=True, slots=True)
class Task:
    """One job. What its fields mean differs by application."""

    id: str
    app: str
    arrival_s: float
    subject: int
    "which question, programming task or document"
    width: int
    "research: searches that the plan asks for; code: repairs after the first draft; summary: chunks to read"
    tokens: int
    "of the last stage's answer; code: of the draft and of each repair"
    tool_s: tuple[float, ...]
    "how long each search takes: it stands for a remote service, which is waited for, not computed"


@dataclass(frozen=True, slots=True)
class Shape:
    """An application's jobs: how many, and how wide. Width = a discrete Pareto of this tail, cut at `most`."""

    count: int
    least: int
    most: int
    tail: float
    "exponent: smaller is heavier"


SHAPES = {
    "research": Shape(count=10, least=1, most=18, tail=0.9),
    "code": Shape(count=9, least=1, most=11, tail=1.1),
    "summary": Shape(count=9, least=1, most=22, tail=0.9),
}

QUERY_TOKENS = 12
CRITIQUE_TOKENS = 10
MAP_TOKENS = 14
LAST_TOKENS = {"research": (14, 96), "code": (16, 36), "summary": (14, 96)}
"of the last answer: longer where the job is wider"


def plan_tokens(task: Task) -> int:
    """A plan names all that is to be searched for: its length gives the job's width away."""
    return 6 + 3 * task.width


def draw(seed: int = SEED) -> list[Task]:
    """The jobs in the order of arrival. Equal seeds give equal jobs on every platform."""
    rng = random.Random(seed)
    drawn = [(app, width) for app, shape in SHAPES.items() for width in _widths(shape)]
    rng.shuffle(drawn)
    arrivals = sorted(rng.uniform(0, ARRIVALS_S) for _ in drawn)
    subjects = {app: rng.sample(range(shape.count), shape.count) for app, shape in SHAPES.items()}
    tasks = []
    for n, ((app, width), arrival) in enumerate(zip(drawn, arrivals, strict=True)):
        low, high = LAST_TOKENS[app]
        share = width / SHAPES[app].most
        tokens = round(low + (high - low) * (0.7 * share + 0.3 * rng.random()))
        searches = tuple(round(rng.uniform(0.2, 2.0), 2) for _ in range(width if app == "research" else 0))
        tasks.append(Task(f"{app}-{n:02}", app, round(arrival, 3), subjects[app].pop(), width, tokens, searches))
    return tasks


def _widths(shape: Shape) -> list[int]:
    """The quantiles (i + 1/2) / count of a Pareto that begins at 1, moved to begin at `least`, cut at `most`."""
    quantiles = ((i + 0.5) / shape.count for i in range(shape.count))
    return [min(shape.most, int((1 - q) ** (-1 / shape.tail)) - 1 + shape.least) for q in quantiles]
