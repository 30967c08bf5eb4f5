"""What the demo knows beforehand: profiles of its applications, learned from other jobs of the same mix.

The applications' own code runs through the jobs of other seeds, with nobody to answer: an answer is as many words of
the project's documents as the mix says that it has tokens, a search takes what the mix says, tests fail. What comes out
is what an operator has who ran such jobs yesterday: their graphs, their sizes, how wide they get and how often. The
demo's own jobs are not among them. Only prompts are not exact: four characters count as a token.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hocket.beliefs.learn import learn
from hocket.beliefs.profile import Profile
from hocket.beliefs.record import record_of
from hocket.demo import mix, tools
from hocket.demo.apps import APPS, request_of
from hocket.demo.run import Done, Run, T
from hocket.profiles import write_profile
from hocket.trace import Job

SEEDS = tuple(range(1000, 1020))
"whose jobs are learned from: 200 of research, 180 of each other"
CHARACTERS_PER_TOKEN = 4
TEST_S = 0.1
"what a run of tests takes, most of it the start of Python"


class Rehearsal(Run):
    """A job of the mix that runs through at once, without an engine."""

    def __init__(self, task: mix.Task) -> None:
        super().__init__(None, task)  # type: ignore[arg-type]  # there is nobody to ask

    async def ask(
        self,
        stage: str,
        model: str,
        prompt: str,
        tokens: int,
        after: Sequence[Done[Any]] = (),
        because: Done[Any] | None = None,
        chat: bool = True,
    ) -> Done[str]:
        entry = self._enter(stage, "llm", after, because)
        entry.model = model
        entry.prompt_tokens, entry.output_tokens = len(prompt) // CHARACTERS_PER_TOKEN, tokens
        words = f"{tools.section(len(self._stages))} " * (1 + tokens // 32)  # a section has 32
        return Done(entry.id, " ".join(words.split()[:tokens]))

    async def use(
        self,
        tool: Callable[..., Awaitable[T]],
        *args: Any,
        after: Sequence[Done[Any]] = (),
        because: Done[Any] | None = None,
    ) -> Done[T]:
        name = getattr(tool, "__name__", "")
        entry = self._enter(name, "tool", after, because)
        value: Any = tools.TestReport(0, 1, "assert failed")
        entry.duration_s = TEST_S
        if name == "search":
            _, entry.duration_s = args
            value = tools.section(len(self._stages))
        return Done(entry.id, value)


async def rehearse(seeds: Sequence[int]) -> list[Job]:
    """The jobs of these seeds, as a trace."""
    jobs = []
    for seed in seeds:
        for task in mix.draw(seed):
            run = Rehearsal(task)
            await APPS[task.app](run, request_of(task))
            jobs.append(run.record(""))
    return jobs


def profiles(jobs: Sequence[Job]) -> Iterator[Profile]:
    """What `hocket learn` makes of the jobs, but for the network, which the demo's policies do not need."""
    for app in APPS:
        yield learn(app, [record_of(job) for job in jobs if job.app == app], network=False)


async def write_profiles(folder: Path, seed: int) -> int:
    """Learn, and write a profile of each application, for jobs of `seed`. Returns from how many others."""
    jobs = await rehearse([other for other in SEEDS if other != seed])
    for profile in profiles(jobs):
        write_profile(folder, profile)
    return len(jobs)
