"""The plan that a gateway's engines come from, and what it was made for: to tell when something else comes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from hocket.errors import InputError


class PlanSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Which plan, and when it counts as stale."""

    file: str
    "plan.json, as `hocket plan` wrote it; beside the settings file, if relative"
    window_s: Annotated[float, Meta(ge=60, le=1e7)] = 3600.0
    "how far back live demand is looked at: what came so long ago counts 1/e"
    threshold: Annotated[float, Meta(gt=0, le=100)] = 0.25
    "of the planned work: if so much of it is missing or new, the plan is stale"


class PlannedApp(Struct, frozen=True):
    """An application, as it was planned for."""

    per_s: float
    "jobs that arrive a second"
    prompt_tokens: float
    "a job"
    output_tokens: float


class PlannedRole(Struct, frozen=True):
    """A stage of an application that asks a model, as it was planned for."""

    name: str
    "application/stage"
    model: str
    calls: float
    "a job"
    prompt_tokens: float
    "a call"
    output_tokens: float


class PlannedFor(Struct, frozen=True):
    """What a plan was made for: `demand` of plan.json."""

    apps: dict[str, PlannedApp]
    roles: list[PlannedRole] = []


class _File(Struct):
    """What the gateway reads of plan.json."""

    demand: PlannedFor | None = None


def planned_for(plan: PlanSettings | None) -> PlannedFor | None:
    """What the plan was made for, if there is one. Raises InputError."""
    if plan is None:
        return None
    file = Path(plan.file)
    try:
        demand = msgspec.json.decode(file.read_bytes(), type=_File).demand
    except OSError as error:
        raise InputError(
            f"plan.file: {file} cannot be read ({error.strerror}); put plan.json there, or remove `plan`"
        ) from None
    except msgspec.MsgspecError as error:
        raise InputError(f"plan.file: {file} is not a plan ({error}); make one with `hocket plan`") from None
    if demand is None or not demand.apps:
        raise InputError(
            f"plan.file: {file} does not say what was planned for (`demand`); plan again, or remove `plan`"
        )
    return demand
