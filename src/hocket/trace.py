"""The trace format `jobs.jsonl`: what simulate, replay and workload share. One job a line.

A trace tells the whole of each job: its stages, what each needs, and their sizes (tokens, seconds). Only a driver may
read what has not happened yet. Fields that this version does not know are kept in `extra` and written back.
docs/reference/trace.md describes every field.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from hocket.errors import InputError

VERSION = 1
MOST_TOKENS = 10**9
"a size above this is a slip, not a call"
MOST_SECONDS = 1e9
"and so is a tool run that takes longer: in milliseconds, perhaps"
GAP = "gap"
"a tool stage of an exported trace: time that the application spent on something that nobody reported"
PROBE = "replay-probe"
"the application of calls with which `hocket replay` sees how a model counts tokens: of nobody's work"


class Prefix(msgspec.Struct, forbid_unknown_fields=True):
    """The first `tokens` of a prompt are those of another call of the job (its prompt and answer)."""

    stage: str
    tokens: int


class CommonPrefix(msgspec.Struct, forbid_unknown_fields=True):
    """The first `tokens` of a prompt are those of every prompt, of any job, that names the same `id`."""

    id: str
    tokens: int


class Stage(msgspec.Struct, kw_only=True):
    """One call (`llm`) or tool run (`tool`) of a job. It may begin once all that it `needs` has ended."""

    id: str
    name: str
    "the stage of the application's graph; several entries of one name are parallel tasks of it"
    kind: Literal["llm", "tool"]
    needs: list[str] = []
    revealed_by: str | None = None
    "the stage whose answer decided that this one exists"
    model: str | None = None
    prompt_tokens: int = 0
    output_tokens: int = 0
    max_tokens: int | None = None
    hint_output_tokens: int | None = None
    "what a length predictor would have said; the scheduler may see it"
    shares_prefix: Prefix | None = None
    common_prefix: CommonPrefix | None = None
    duration_s: float | None = None
    "seconds of a tool run"
    outcome: Any = None
    extra: dict[str, Any] = {}


class Job(msgspec.Struct, kw_only=True):
    """One run of an application."""

    job: str
    app: str
    stages: list[Stage]
    v: int = VERSION
    tenant: str = "default"
    arrival_s: float = 0.0
    urgency: int = 2
    text: str | None = None
    features: dict[str, float] = {}
    deadline_s: float | None = None
    extra: dict[str, Any] = {}


class Graph(NamedTuple):
    """How the stages of a job hang together."""

    order: list[Stage]
    "each stage after all that it needs; in the order of the trace where that leaves a choice"
    dependents: dict[str, list[Stage]]
    "stage id -> the stages that need it"
    waits_for: dict[str, int]
    "stage id -> how many others it needs"


def graph_of(job: Job) -> Graph:
    """Order the stages of `job` and tell who waits for whom. Raises InputError on an unknown need or a cycle."""
    dependents: dict[str, list[Stage]] = {stage.id: [] for stage in job.stages}
    waits_for: dict[str, int] = {}
    for stage in job.stages:
        needs = dict.fromkeys(stage.needs) if stage.needs else ()
        waits_for[stage.id] = len(needs)
        for need in needs:
            if need not in dependents:
                raise InputError(f"stage {stage.id!r} needs {need!r}, which the job does not have; name a stage's id")
            dependents[need].append(stage)
    order = [stage for stage in job.stages if not waits_for[stage.id]]
    left = dict(waits_for) if len(order) < len(job.stages) else waits_for
    for stage in order:  # grows as it is walked
        for dependent in dependents[stage.id]:
            left[dependent.id] -= 1
            if not left[dependent.id]:
                order.append(dependent)
    if len(order) < len(job.stages):
        raise InputError(f"needs form a cycle: {' > '.join(_cycle(job, left))}; a stage may need only earlier ones")
    return Graph(order, dependents, waits_for)


def _cycle(job: Job, left: dict[str, int]) -> list[str]:
    """One cycle among the stages that never became ready (`left` > 0)."""
    needs = {stage.id: next(need for need in stage.needs if left[need]) for stage in job.stages if left[stage.id]}
    walk = [next(iter(needs))]
    while needs[walk[-1]] not in walk:
        walk.append(needs[walk[-1]])
    return [*walk[walk.index(needs[walk[-1]]) :], needs[walk[-1]]]


def read_jobs(path: str | Path) -> list[Job]:
    """Read a trace. Raises InputError with the number of the first bad line, the reason and the remedy."""
    return list(iter_jobs(path))


def iter_jobs(path: str | Path) -> Iterator[Job]:
    """As `read_jobs`, a job at a time."""
    seen: dict[str, int] = {}
    try:
        with Path(path).open("rb") as file:
            for number, line in enumerate(file, 1):
                text = line.removeprefix(b"\xef\xbb\xbf").strip() if number == 1 else line.strip()
                if not text:
                    continue
                try:
                    job = decode_job(text)
                    if job.job in seen:
                        raise InputError(f"job {job.job!r} was on line {seen[job.job]} already; give each its own id")
                except InputError as error:
                    raise InputError(f"{path}:{number}: {error}") from None
                seen[job.job] = number
                yield job
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    if not seen:
        raise InputError(f"{path}: holds no jobs; write one job a line (`hocket workload --help` makes some)")


def write_jobs(path: str | Path, jobs: Iterable[Job]) -> None:
    """Write a trace. A file appears whole or not at all; a pipe or a device is written to as it is."""
    target = Path(path)
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    special = target.exists() and not target.is_file()
    try:
        with (target if special else draft).open("wb") as file:
            file.writelines(encode_job(job) + b"\n" for job in jobs)
        if not special:
            draft.replace(target)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); check the directory") from None
    finally:
        if draft.exists():
            draft.unlink()


JOB_FIELDS = frozenset(Job.__struct_fields__) - {"extra"}
STAGE_FIELDS = frozenset(Stage.__struct_fields__) - {"extra"}


def decode_job(line: bytes | str) -> Job:
    """One line of a trace. Raises InputError: what is wrong, in which stage, what to do."""
    try:
        raw = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"not valid JSON ({error}); write one JSON object a line") from None
    if not isinstance(raw, dict):
        raise InputError("not a JSON object; write one job a line")
    extra = _take_unknown(raw, JOB_FIELDS)
    stages = raw.get("stages")
    entries = stages if isinstance(stages, list) else []
    extras = [_take_unknown(entry, STAGE_FIELDS) if isinstance(entry, dict) else {} for entry in entries]
    try:
        job = msgspec.convert(raw, Job)
    except msgspec.ValidationError as error:
        raise InputError(_explain(str(error))) from None
    job.extra = extra
    for stage, entry, unknown in zip(job.stages, entries, extras, strict=True):
        stage.extra = unknown
        missing = [name for name in ("prompt_tokens", "output_tokens") if stage.kind == "llm" and name not in entry]
        if missing:
            raise InputError(f"stage {stage.id!r}: an llm stage without {missing[0]}; give its size in tokens")
    _check_job(job)
    return job


def encode_job(job: Job) -> bytes:
    """One line of a trace, without the line's end. Fields at their default are left out, `v` never is."""
    line: dict[str, Any] = {"v": job.v, "job": job.job, "app": job.app, "tenant": job.tenant}
    line |= {"arrival_s": job.arrival_s, "urgency": job.urgency}
    line |= {name: value for name in ("text", "deadline_s") if (value := getattr(job, name)) is not None}
    if job.features:
        line["features"] = job.features
    line |= job.extra
    line["stages"] = [_encode_stage(stage) for stage in job.stages]
    return msgspec.json.encode(line)


def _encode_stage(stage: Stage) -> dict[str, Any]:
    entry: dict[str, Any] = {"id": stage.id, "name": stage.name, "kind": stage.kind, "needs": stage.needs}
    if stage.kind == "llm":
        entry |= {"model": stage.model, "prompt_tokens": stage.prompt_tokens, "output_tokens": stage.output_tokens}
    optional = (
        *("revealed_by", "max_tokens", "hint_output_tokens", "shares_prefix", "common_prefix"),
        *("duration_s", "outcome"),
    )
    entry |= {name: value for name in optional if (value := getattr(stage, name)) is not None}
    return entry | stage.extra


def _take_unknown(raw: dict[str, Any], known: frozenset[str]) -> dict[str, Any]:
    if raw.keys() <= known:
        return {}
    return {key: raw.pop(key) for key in [*raw] if key not in known}


def _explain(error: str) -> str:
    """Msgspec's error, with the place first and a remedy last."""
    what, _, where = error.partition(" - at `")
    path = where.rstrip("`").removeprefix("$").lstrip(".")
    return f"{path + ': ' if path else ''}{what}; see docs/reference/trace.md"


def _check_job(job: Job) -> None:
    if job.v != VERSION:
        raise InputError(f"v is {job.v}, this version reads v {VERSION}; convert the trace or upgrade hocket")
    if not job.job or not job.app:
        raise InputError("job and app must not be empty; name them")
    _check_seconds("arrival_s", job.arrival_s)
    if job.deadline_s is not None:
        _check_seconds("deadline_s", job.deadline_s)
    if not 0 <= job.urgency <= 4:
        raise InputError(f"urgency is {job.urgency}; use 0 (emergency) to 4 (background)")
    for name, value in job.features.items():
        if not math.isfinite(value):
            raise InputError(f"features.{name} is {value}; use a finite number")
    if not job.stages:
        raise InputError("stages is empty; a job has at least one")
    stages: dict[str, Stage] = {}
    for stage in job.stages:
        if stage.id in stages:
            raise InputError(f"stage {stage.id!r} is there twice; give each its own id")
        stages[stage.id] = stage
    for stage in job.stages:
        try:
            _check_stage(stage, stages)
        except InputError as error:
            raise InputError(f"stage {stage.id!r}: {error}") from None
    graph_of(job)


def _check_stage(stage: Stage, stages: dict[str, Stage]) -> None:
    if not stage.name:
        raise InputError("name is empty; name the stage of the application's graph")
    for field in ("prompt_tokens", "output_tokens", "max_tokens", "hint_output_tokens"):
        size = getattr(stage, field)
        if size is not None and not 0 <= size <= MOST_TOKENS:
            raise InputError(f"{field} is {size}; use 0 to {MOST_TOKENS}")
    if stage.kind == "llm" and not stage.model:
        raise InputError("an llm stage without model; name the model it asks for")
    if stage.kind == "tool" and stage.duration_s is None:
        raise InputError("a tool stage without duration_s; give its seconds")
    if stage.duration_s is not None:
        _check_seconds("duration_s", stage.duration_s)
        if stage.duration_s > MOST_SECONDS:
            raise InputError(f"duration_s is {stage.duration_s}; use seconds, 0 to {MOST_SECONDS:g}")
    if stage.revealed_by is not None and (stage.revealed_by == stage.id or stage.revealed_by not in stages):
        raise InputError(f"revealed_by {stage.revealed_by!r}, which is no other stage of the job; name a stage's id")
    if stage.shares_prefix is not None:
        _check_prefix(stage, stage.shares_prefix, stages)
    if stage.common_prefix is not None:
        _check_common(stage, stage.common_prefix)


def _check_prefix(stage: Stage, prefix: Prefix, stages: dict[str, Stage]) -> None:
    other = stages.get(prefix.stage)
    if other is None or other is stage or other.kind != "llm":
        raise InputError(f"shares_prefix with {prefix.stage!r}, which is no other llm stage of the job; name one")
    if not 0 <= prefix.tokens <= stage.prompt_tokens:
        raise InputError(f"shares_prefix.tokens is {prefix.tokens}; use 0 to prompt_tokens ({stage.prompt_tokens})")


def _check_common(stage: Stage, prefix: CommonPrefix) -> None:
    if not prefix.id:
        raise InputError("common_prefix.id is empty; name what the prompts have in common")
    if not 0 <= prefix.tokens <= stage.prompt_tokens:
        raise InputError(f"common_prefix.tokens is {prefix.tokens}; use 0 to prompt_tokens ({stage.prompt_tokens})")


def _check_seconds(name: str, value: float) -> None:
    if not math.isfinite(value) or value < 0:
        raise InputError(f"{name} is {value}; use finite seconds, 0 or more")
