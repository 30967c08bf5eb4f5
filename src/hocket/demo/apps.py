"""Three compound applications, each using both engines.

They are written as anyone would write them with the openai package; what makes them known to hocket is `hocket.job`,
`hocket.stage` (in `Run.ask`) and `@hocket.tool`. Only two things are unusual: how wide a job gets and how long its
answers are was drawn beforehand (mix.py), and what is fed from one stage into the next is cut to a few words, because
the engines prefill slowly.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable

import hocket
from hocket.demo import mix, tools
from hocket.demo.run import Done, Run
from hocket.demo.subjects import PROGRAMS, QUESTIONS

SMALL, LARGE = "small", "large"


async def research(run: Run, request: str) -> str:
    """A planner that fans out: a plan, then searches in parallel (each with a query to write), then an answer."""
    task = run.task
    plan = await run.ask(
        "plan",
        SMALL,
        f"{request} List what to look up in the manual.",
        tokens=mix.plan_tokens(task),
    )

    @hocket.tool
    async def search(query: str, latency_s: float) -> str:
        await asyncio.sleep(latency_s)  # a remote service: waited for
        return tools.look_up(query)

    async def look_into(n: int) -> Done[str]:
        query = await run.ask(
            "research",
            SMALL,
            f"{request} Write a query for item {n + 1} of: {cut(plan.value, 8)}",
            tokens=mix.QUERY_TOKENS,
            after=[plan],
            because=plan,
        )
        return await run.use(search, f"{query.value} {request}", task.tool_s[n], after=[query], because=plan)

    found = await asyncio.gather(*(look_into(n) for n in range(task.width)))
    notes = " ".join(f"({n}) {cut(one.value, max(4, 48 // len(found)))}." for n, one in enumerate(found, 1))
    answer = await run.ask("answer", LARGE, f"Notes: {notes} Question: {request} Answer:", task.tokens, after=found)
    return answer.value


async def code(run: Run, request: str) -> str:
    """Generate, test, repair: a draft; while rounds are left, tests that really run, a critique and a repair."""
    task = run.task
    program = PROGRAMS[task.subject]

    @hocket.tool
    async def test(source: str) -> tools.TestReport:
        return await tools.run_tests(source, program.tests)

    draft = await run.ask("generate", LARGE, f"# {request}\n\n{program.head}", task.tokens, chat=False)
    report = await run.use(test, program.head + source_of(draft.value), after=[draft])
    run.tests.append(report.value)
    for _ in range(task.width):
        complaint = f"{report.value.passed} of {report.value.total} tests pass. {cut(report.value.complaint, 8)}"
        critique = await run.ask(
            "critique",
            SMALL,
            f"{complaint}\n{program.head}{cut(draft.value, 12)}\nWhat is wrong?",
            tokens=mix.CRITIQUE_TOKENS,
            after=[draft, report],
            because=report,
        )
        draft = await run.ask(
            "repair",
            LARGE,
            f"# {cut(critique.value, 8)}\n# {complaint}\n# {request}\n\n{program.head}",
            tokens=task.tokens,
            after=[critique],
            because=report,
            chat=False,
        )
        report = await run.use(test, program.head + source_of(draft.value), after=[draft], because=report)
        run.tests.append(report.value)
    return draft.value


async def summary(run: Run, request: str) -> str:
    """Map and reduce: each section of the project's documents in a sentence, then all of them in a few."""
    task = run.task

    async def read(n: int) -> Done[str]:
        text = tools.section(task.subject * 7 + n)
        return await run.ask("map", SMALL, f"{text}\nWhat is this about?", mix.MAP_TOKENS)

    read_all = await asyncio.gather(*(read(n) for n in range(task.width)))
    points = " ".join(f"({n}) {cut(one.value, max(3, 56 // len(read_all)))}." for n, one in enumerate(read_all, 1))
    whole = await run.ask("reduce", LARGE, f"{points} {request} In short:", task.tokens, after=read_all)
    return whole.value


APPS: dict[str, Callable[[Run, str], Awaitable[str]]] = {"research": research, "code": code, "summary": summary}


def request_of(task: mix.Task) -> str:
    """What the user asks for."""
    match task.app:
        case "research":
            return QUESTIONS[task.subject]
        case "code":
            return PROGRAMS[task.subject].request
        case _:
            return f"Summarise {task.width} sections of the manual, from section {task.subject * 7 + 1} on."


def cut(text: str, words: int) -> str:
    """The first words of `text`, on one line."""
    return " ".join(text.split()[:words])


def source_of(answer: str) -> str:
    """The code at the beginning of an answer that continues a function: until a fence or the next thing unindented."""
    body = answer.split("```", maxsplit=1)[0]
    end = re.search(r"\n(?=[^\s#])", body)
    return body[: end.start()] if end else body
