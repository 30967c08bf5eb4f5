"""What the applications ask of the models: recorded jobs and arrival rates -> roles, and a sample of whole graphs.

An application is modelled by its real graphs, not by a serial pipeline: of each application a few dozen jobs are kept,
evenly spaced by their work, with who waits for whom. Parallel calls of one stage that wait for the same are kept as one
*group*: so many calls, so long on average, the longest so long. It is over when its longest call is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Annotated, NamedTuple

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from hocket.errors import InputError
from hocket.planner.inputs import PAGE
from hocket.settings.plan import PlannedApp, PlannedFor, PlannedRole
from hocket.trace import Job, Stage, graph_of
from hocket.yamlfile import load_yaml

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SAMPLED = 96
"jobs of an application whose graphs are kept"
CALIBRATED, MOST_SHARE = 8, 3.0
"rounds; times its part of the jobs that a sampled job may stand for"


class App(Struct, frozen=True, forbid_unknown_fields=True):
    """How often an application is asked for."""

    name: str
    per_s: Annotated[float, Meta(gt=0, le=1e9)]


class Rates(Struct, frozen=True, forbid_unknown_fields=True):
    """`apps.yaml`."""

    apps: list[App]

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        if not self.apps:
            raise ValueError("`apps`: empty; list at least one")
        names = [app.name for app in self.apps]
        for i, name in enumerate(names):
            if name in names[:i]:
                raise ValueError(f"`apps[{i}].name`: '{name}' is there already; give each application once")


def load_rates(path: str) -> Rates:
    """Read `apps.yaml`. Raises InputError: file, line, key, remedy."""
    return load_yaml(path, Rates, PAGE)


class Role(NamedTuple):
    """A stage of an application that asks a model. Means over all recorded jobs."""

    app: str
    stage: str
    model: str
    calls: float
    "a job"
    prompt_tokens: float
    output_tokens: float
    kv_tokens: float
    "that a call holds, on average while it decodes"
    longest_tokens: int
    "prompt and output of the longest call"

    @property
    def name(self) -> str:
        """As in plan.json's `roles`."""
        return f"{self.app}/{self.stage}"


class Groups(NamedTuple):
    """The graphs of all sampled jobs: arrays, an entry a group, each group behind all that it waits for."""

    job: Ints
    app: Ints
    role: Ints
    "-1: a tool"
    calls: Floats
    together: Floats
    "calls that arrive at one time: all, or one where each follows a call of its own"
    prompt: Floats
    "tokens of a prompt, mean over the group"
    prompt2: Floats
    "their square, mean"
    steps: Floats
    "decode steps of a call (output tokens less the first), mean"
    most_steps: Floats
    "of the longest call"
    held: Floats
    "token-steps: KV tokens held, summed over the decode steps of all calls"
    tool_s: Floats
    needs: Ints
    "(groups, most needs): indexes; padded with the number of groups, which stands for the job's arrival"
    levels: list[slice]
    "groups that wait for none of each other, in order"


class Demand(NamedTuple):
    """What there is to serve."""

    apps: list[str]
    per_s: Floats
    "arrivals of each"
    roles: list[Role]
    groups: Groups
    weights: Floats
    "arrivals a second that each group stands for"
    shares: Floats
    "of its application's jobs that each sampled job stands for"
    jobs: list[Job]
    "all recorded jobs of these applications; of each in the order of their work"

    @property
    def models(self) -> list[str]:
        """Those that are asked for, in the order of the roles."""
        return list(dict.fromkeys(role.model for role in self.roles))

    def told(self) -> PlannedFor:
        """As plan.json's `demand`: arrivals and mean tokens."""
        apps = {}
        for app, per_s in zip(self.apps, self.per_s, strict=True):
            own = [role for role in self.roles if role.app == app]
            prompt = sum(role.calls * role.prompt_tokens for role in own)
            output = sum(role.calls * role.output_tokens for role in own)
            apps[app] = PlannedApp(round(float(per_s), 6), round(prompt, 2), round(output, 2))
        roles = [
            PlannedRole(
                role.name, role.model, *(round(x, 3) for x in (role.calls, role.prompt_tokens, role.output_tokens))
            )
            for role in self.roles
        ]
        return PlannedFor(apps, roles)


def demand_of(jobs: Sequence[Job], rates: Rates, sampled: int = SAMPLED) -> Demand:
    """Raises InputError for an application without a job, or whose jobs call no model, or without a token."""
    by_app: dict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        by_app[job.app].append(job)
    for own in by_app.values():
        own.sort(key=_work)
    apps = [app.name for app in rates.apps]
    for name in apps:
        if name not in by_app:
            raise InputError(f"apps: no job of '{name}' is recorded; there are jobs of {', '.join(sorted(by_app))}")
        if not any(stage.kind == "llm" for job in by_app[name] for stage in job.stages):
            raise InputError(f"apps: no job of '{name}' calls a model; there is nothing to plan for it")
        if not any(stage.prompt_tokens or stage.output_tokens for job in by_app[name] for stage in job.stages):
            raise InputError(f"apps: no call of '{name}' has tokens; record `prompt_tokens` and `output_tokens`")
    roles = [role for name in apps for role in _roles(name, by_app[name])]
    index = {(role.app, role.stage, role.model): i for i, role in enumerate(roles)}
    chosen = [_evenly(by_app[name], sampled) for name in apps]
    groups = _groups([(a, job) for a, own in enumerate(chosen) for job, _ in own], index)
    per_s = np.array([app.per_s for app in rates.apps])
    shares = np.array([share for own in chosen for _, share in own])
    weights = (per_s[groups.app] * shares[groups.job]).astype(np.float64)
    return Demand(apps, per_s, roles, groups, weights, shares, [job for name in apps for job in by_app[name]])


def _roles(app: str, jobs: Sequence[Job]) -> Iterable[Role]:
    calls: dict[tuple[str, str], list[Stage]] = defaultdict(list)
    for job in jobs:
        for stage in job.stages:
            if stage.kind == "llm":
                calls[stage.name, stage.model or ""].append(stage)
    for (name, model), stages in calls.items():
        prompt = np.array([stage.prompt_tokens for stage in stages], dtype=float)
        output = np.array([max(stage.output_tokens, 1) for stage in stages], dtype=float)
        held = float((output * (prompt + output / 2)).sum() / output.sum())
        longest = int((prompt + output).max())
        yield Role(app, name, model, len(stages) / len(jobs), float(prompt.mean()), float(output.mean()), held, longest)


def _evenly(jobs: Sequence[Job], count: int) -> list[tuple[Job, float]]:
    """So many of `jobs` at most, which are ranked by their work, and the share of all that each stands for.

    Cut in equal parts, of each part the job in the middle: the one that is most like the others would hide how much
    jobs of the same work differ.
    """
    if len(jobs) <= count:
        return [(job, 1.0 / len(jobs)) for job in jobs]
    places = _places(jobs)
    traits = np.array([_traits(job, places) for job in jobs])
    parts = np.array_split(np.arange(len(jobs)), count)
    middle = np.array([part[len(part) // 2] for part in parts])
    shares = _calibrated(traits, middle, np.array([len(part) / len(jobs) for part in parts]))
    return [(jobs[index], float(share)) for index, share in zip(middle, shares, strict=True)]


def _calibrated(traits: Floats, chosen: Ints, shares: Floats) -> Floats:
    """The shares nearest to these at which the chosen rows have the means of all.

    Calibration, as in sample surveys (Deville and Saerndal, 1992): few long jobs are much of the work, and a sample
    that misses some of it would mistake the load.
    """
    means = traits.mean(axis=0)
    rows = traits[:, means > 0.0] / means[means > 0.0]
    rows = np.column_stack([np.ones(len(rows)), rows])
    own, found = rows[chosen], shares
    for _ in range(CALIBRATED):  # again, for what the bounds cut off
        change = own @ np.linalg.lstsq((own.T * found) @ own, 1.0 - found @ own, rcond=1e-9)[0]
        found = np.clip(found * (1.0 + change), shares / MOST_SHARE, shares * MOST_SHARE)
    return np.asarray(found / found.sum())


def _places(jobs: Sequence[Job]) -> dict[tuple[str, str], int]:
    """Each role, and where its traits are."""
    found: dict[tuple[str, str], int] = {}
    for job in jobs:
        for stage in job.stages:
            if stage.kind == "llm":
                found.setdefault((stage.name, stage.model or ""), len(found))
    return found


def _traits(job: Job, places: dict[tuple[str, str], int]) -> Floats:
    """Of each role: calls, prompt tokens, and token-steps that its KV memory is held."""
    found = np.zeros(3 * len(places))
    for stage in job.stages:
        if stage.kind == "llm":
            at, prompt, output = 3 * places[stage.name, stage.model or ""], stage.prompt_tokens, stage.output_tokens
            found[at : at + 3] += 1.0, prompt, output * (prompt + output / 2)
    return found


def _work(job: Job) -> float:
    """Tokens, those of answers weighed in; what jobs are ranked by."""
    return sum(stage.prompt_tokens + 20.0 * stage.output_tokens for stage in job.stages)


class _Group:
    """Parallel calls of one stage, or one tool stage's parallel runs."""

    def __init__(self, job: int, app: int, role: int, needs: tuple[int, ...], level: int) -> None:
        self.job, self.app, self.role, self.needs, self.level = job, app, role, needs, level
        self.stages: list[Stage] = []

    def row(self) -> list[float]:
        """Calls, together, prompt, squared prompt, steps, most steps, held, seconds of a tool."""
        if self.role < 0:
            return [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, max(stage.duration_s or 0.0 for stage in self.stages)]
        prompt = np.array([stage.prompt_tokens for stage in self.stages], dtype=float)
        steps = np.array([max(stage.output_tokens, 1) - 1 for stage in self.stages], dtype=float)
        held = float((steps * (prompt + 1 + steps / 2)).sum())
        squared = float((prompt**2).mean())
        together = len(prompt) / len({tuple(sorted(stage.needs)) for stage in self.stages})
        sizes = [float(prompt.mean()), squared, float(steps.mean()), float(steps.max())]
        return [len(prompt), together, *sizes, held, 0.0]


def _groups(jobs: Sequence[tuple[int, Job]], roles: dict[tuple[str, str, str], int]) -> Groups:
    found: list[_Group] = []
    for number, (app, job) in enumerate(jobs):
        found += _job_groups(number, app, job, roles, len(found))
    order = sorted(range(len(found)), key=lambda i: (found[i].level, found[i].job, i))
    place = {old: new for new, old in enumerate(order)}
    ranked = [found[i] for i in order]
    most = max(1, *(len(group.needs) for group in ranked))
    needs = np.full((len(ranked), most), len(ranked), dtype=np.int64)
    for i, group in enumerate(ranked):
        needs[i, : len(group.needs)] = [place[need] for need in group.needs]
    levels = np.array([group.level for group in ranked])
    bounds = np.searchsorted(levels, np.arange(levels[-1] + 2))
    calls, together, prompt, prompt2, steps, most_steps, held, tool_s = np.array([group.row() for group in ranked]).T
    return Groups(
        np.array([group.job for group in ranked]),
        np.array([group.app for group in ranked]),
        np.array([group.role for group in ranked]),
        *(calls, together, prompt, prompt2, steps, most_steps, held, tool_s, needs),
        [slice(int(a), int(b)) for a, b in pairwise(bounds)],
    )


def _job_groups(
    number: int, app: int, job: Job, roles: dict[tuple[str, str, str], int], first: int
) -> Iterable[_Group]:
    """The groups of one job, each behind what it waits for. `first`: the index of the first of them."""
    of: dict[str, int] = {}
    keyed: dict[tuple[int, str, tuple[int, ...]], int] = {}
    made: list[_Group] = []
    for stage in graph_of(job).order:
        needs = tuple(sorted({of[need] for need in stage.needs}))
        role = roles[job.app, stage.name, stage.model or ""] if stage.kind == "llm" else -1
        key = role, stage.name, needs
        if key not in keyed:
            keyed[key] = first + len(made)
            level = 1 + max((made[need - first].level for need in needs), default=-1)
            made.append(_Group(number, app, role, needs, level))
        of[stage.id] = keyed[key]
        made[keyed[key] - first].stages.append(stage)
    return made
