"""Generated jobs of a few applications, in the shape of real ones.

Structures, counts, lengths and what goes with what are drawn from quantiles, histograms and rank correlations that
were measured on published runs; each constant names its source. What no source tells says so. docs/guides/workloads.md
lists both. There is no text in these jobs, and no data is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hocket.sim.workloads.agents import agent
from hocket.sim.workloads.arrivals import ARRIVALS, TENANT_SHARES, URGENCIES
from hocket.sim.workloads.chain import code_generation, web_search
from hocket.sim.workloads.draft import Draft
from hocket.sim.workloads.draws import Draws
from hocket.sim.workloads.planning import llm_compiler, task_automation
from hocket.sim.workloads.predefined import document_merging, sequence_sorting
from hocket.sim.workloads.several import beam_search, coding_crew, rag
from hocket.trace import Job

APPLICATIONS: dict[str, Callable[[Draft], None]] = {
    "sequence-sorting": sequence_sorting,
    "document-merging": document_merging,
    "code-generation": code_generation,
    "web-search": web_search,
    "task-automation": task_automation,
    "llm-compiler": llm_compiler,
    "agent": agent,
    "rag": rag,
    "beam-search": beam_search,
    "coding-crew": coding_crew,
}
"name -> what adds the stages of a job to its draft"

PREDEFINED = ("sequence-sorting", "document-merging")
CHAIN = ("code-generation", "web-search")
PLANNING = ("task-automation", "llm-compiler")
MIXED = "mixed"
MIXES: dict[str, tuple[str, ...]] = {
    "predefined": PREDEFINED,
    "chain": CHAIN,
    "planning": PLANNING,
    MIXED: (*PREDEFINED, *CHAIN, *PLANNING),
}
"name -> applications, equally likely: the classes of LLMSched (arXiv 2504.03444), and all six"

MODELS: dict[str, dict[str, str]] = {
    "one": {"small": "small", "medium": "small", "large": "small"},
    "two": {"small": "small", "medium": "small", "large": "large"},
    "three": {"small": "small", "medium": "medium", "large": "large"},
}
"how many models the jobs ask for -> which of them stands for each of three; other names stay"


def generate(
    name: str, count: int, rate: float, seed: int, *, models: str = "two", arrivals: str = "poisson"
) -> Iterator[Job]:
    """`count` jobs of an application or a mix that arrive at `rate` jobs a second on average.

    Same seed, same jobs; neither `rate` nor `arrivals` changes what is in them, `models` changes only whom they ask.
    MIXED has four tenants of very different size and five classes of urgency.
    """
    apps = MIXES.get(name, (name,))
    times = ARRIVALS[arrivals](Draws(f"{seed} arrivals"), rate)
    draws = Draws(f"{seed}")
    served = MODELS[models]
    for number in range(count):
        app, tenant, urgency = draws.choice(apps), "default", 2
        if name == MIXED:
            tenant, urgency = draws.one(TENANT_SHARES), draws.one(URGENCIES)
        draft = Draft(app, draws)
        APPLICATIONS[app](draft)
        for stage in draft.stages:
            stage.model = served.get(stage.model, stage.model) if stage.model else None
        yield Job(
            job=f"j{number}",
            app=app,
            tenant=tenant,
            urgency=urgency,
            arrival_s=round(next(times), 6),
            features=draft.features,
            stages=draft.stages,
        )
