"""What the demo shows: a bar for each engine and the jobs while they run, the table at the end, the JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from hocket.demo.mix import Task
from hocket.demo.passes import Pass
from hocket.sim.driver import Outcome
from hocket.sim.results import Run, report


class Bars:
    """Progress of one pass on a terminal; elsewhere, one line for every quarter of the jobs."""

    def __init__(self, console: Console, policy: str, tasks: Sequence[Task]) -> None:
        self._console, self._policy, self._count = console, policy, len(tasks)
        columns = TextColumn("  {task.description:<10}"), BarColumn(40), MofNCompleteColumn(), TimeElapsedColumn()
        self._progress = Progress(*columns, TextColumn("{task.fields[note]}"), console=console, transient=True)
        self._rows = {}
        for app, count in Counter(task.app for task in tasks).items():
            self._rows[app] = self._progress.add_task(app, total=count, note="jobs")
        self._all = self._progress.add_task("all", total=len(tasks), note="")
        self._ended = 0
        self._tokens: Counter[str] = Counter()

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._progress.stop()

    def told(self, model: str, tokens: int) -> None:
        """A call has ended."""
        self._tokens[model] += tokens
        note = ", ".join(f"{model} {count} tokens" for model, count in sorted(self._tokens.items()))
        self._progress.update(self._all, note=note)

    def ended(self, app: str) -> None:
        """A job has ended."""
        self._progress.advance(self._rows[app])
        self._progress.advance(self._all)
        self._ended += 1
        if not self._console.is_terminal and self._ended * 4 % self._count < 4:
            self._console.print(f"  {self._policy}: {self._ended} of {self._count} jobs done")


def result(passes: dict[str, Pass], wall_s: float, inputs: dict[str, Any]) -> dict[str, Any]:
    """What `--json` writes: the form of `hocket simulate`, with tokens/s and the tests' outcome in each block."""
    blocks = {}
    for policy, one in passes.items():
        outcome = Outcome(one.jct_s, {name: [] for name in one.jct_s}, {}, one.makespan_s, [])
        blocks[policy] = report([one.jobs], [Run(policy, 0, outcome, one.makespan_s)])
        rates = {model: round(tokens / one.makespan_s, 1) for model, tokens in sorted(one.output_tokens.items())}
        calls = [stage for job in one.jobs for stage in job.stages if stage.kind == "llm"]
        blocks[policy] |= {
            "tokens_per_s": rates,
            "calls": len(calls),
            "prompt_tokens": sum(call.prompt_tokens for call in calls),
            "output_tokens": sum(call.output_tokens for call in calls),
            "tests_passed": one.tests[0],
            "tests_run": one.tests[1],
        }
    means = [block["jct_s"]["mean"] for block in blocks.values()]
    return {"policies": blocks, "ratio": round(means[-1] / means[0], 4), "wall_s": round(wall_s, 1), "inputs": inputs}


def table(found: dict[str, Any]) -> Table:
    """The end of the demo. Times in seconds, tokens of answers per second of the whole pass."""
    blocks = found["policies"]
    first = next(iter(blocks.values()))
    models = list(first["tokens_per_s"])
    grid = Table(title="Job completion times (JCT) in seconds", title_justify="left")
    grid.add_column("policy")
    for name in ("mean JCT", "p95 JCT", "to the first", "last job", *(f"{model} tok/s" for model in models)):
        grid.add_column(name, justify="right")
    for policy, block in blocks.items():
        jct = block["jct_s"]
        cells = [jct["mean"], jct["p95"], jct["mean"] / first["jct_s"]["mean"], block["makespan_s"]]
        cells += [block["tokens_per_s"][model] for model in models]
        formats = ("{:.1f}", "{:.1f}", "{:.2f}", "{:.1f}", *("{:.1f}" for _ in models))
        grid.add_row(policy, *(text.format(cell) for text, cell in zip(formats, cells, strict=True)))
    return grid


def work_line(found: dict[str, Any]) -> str:
    """What both passes did: so that a reader sees that it was the same."""
    blocks = found["policies"].values()

    def each(count: Callable[[dict[str, Any]], int]) -> str:
        counts = [str(count(block)) for block in blocks]
        return counts[0] if len(set(counts)) == 1 else " and ".join(counts)

    jobs, calls = each(lambda block: len(block["jobs"])), each(lambda block: block["calls"])
    output, prompt = each(lambda block: block["output_tokens"]), each(lambda block: block["prompt_tokens"])
    passed, tests = each(lambda block: block["tests_passed"]), each(lambda block: block["tests_run"])
    return (
        f"{jobs} jobs, {calls} calls, {output} tokens of answers to {prompt} of prompts; "
        f"{passed} of {tests} tests of generated code passed"
    )
