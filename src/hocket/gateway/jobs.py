"""Jobs as clients name them: where a call belongs, and `/v1/jobs`."""

from __future__ import annotations

from typing import Any

import msgspec

from hocket.core import events as ev
from hocket.core.state import Job
from hocket.gateway.driver import Driver
from hocket.gateway.identity import (
    DEFAULT_APP,
    DEFAULT_STAGE,
    Identity,
    Tenants,
    check_deadline,
    check_name,
    check_urgency,
)
from hocket.gateway.openai import ApiError, decode
from hocket.settings import TenantSettings

DEFAULT_URGENCY = 2


class Place(msgspec.Struct, frozen=True):
    """Where a call belongs."""

    key: str
    "the job's id in the core"
    job: str
    "the job's id as its client knows it"
    app: str
    stage: str
    fresh: bool
    "the job is not open yet"
    alone: bool
    "a job of this one call"
    urgency: int | None
    "of the job if it is fresh, else of the call; None = the job's"


class NewJob(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /v1/jobs`."""

    app: str
    job: str | None = None
    urgency: int | None = None
    deadline_ms: int | None = None


class ToolRun(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /v1/jobs/{id}/tools/{name}:start` and `:end`; it may be empty."""

    run: str | None = None
    parent: str | None = None


_new_job = msgspec.json.Decoder(NewJob)
_tool_run = msgspec.json.Decoder(ToolRun)


class Jobs:
    """Finds, opens and closes jobs for their tenants."""

    def __init__(self, driver: Driver, tenants: Tenants) -> None:
        self._driver = driver
        self._tenants = tenants

    # ---------------------------------------------------------------- for calls

    def place(self, tenant: TenantSettings, who: Identity) -> Place:
        """Where a call of this identity belongs. Opens nothing. Raises ApiError 409 where that cannot be."""
        stage = who.stage or DEFAULT_STAGE
        if who.job is None:
            job_id = self._driver.new_id("job")
            key = self._tenants.job_key(tenant, job_id)
            return Place(key, job_id, who.app or DEFAULT_APP, stage, True, True, _urgency(tenant, who.urgency))
        key = self._tenants.job_key(tenant, who.job)
        job = self._open_job(key, who.job, who.app)
        if job is None:
            return Place(key, who.job, who.app or DEFAULT_APP, stage, True, False, _urgency(tenant, who.urgency))
        urgency = None if who.urgency is None else _urgency(tenant, who.urgency)
        return Place(key, who.job, job.app.name, stage, False, False, urgency)

    def open_for(self, place: Place, tenant: TenantSettings, deadline_s: float | None) -> None:
        """Open the job of a call that is the first to name it."""
        if place.fresh:
            urgency = DEFAULT_URGENCY if place.urgency is None else place.urgency
            self._driver.open_job(place.key, place.app, tenant.name, urgency, deadline_s)

    def _open_job(self, key: str, job_id: str, app: str | None) -> Job | None:
        """The job if it is open; None if nobody has opened it. Raises ApiError 409."""
        job = self._driver.scheduler.jobs.get(key)
        if self._driver.is_closed(key) or (job is not None and job.closed):
            raise ApiError(409, f"job '{job_id}' was closed; open another", code="job_closed", param="x-hocket-job")
        if job is not None and app is not None and app != job.app.name:
            message = f"job '{job_id}' is of application '{job.app.name}', not of '{app}'; a job has one application"
            raise ApiError(409, message, code="job_of_another_app", param="x-hocket-app")
        return job

    # ---------------------------------------------------------------- for /v1/jobs

    def open(self, tenant: TenantSettings, body: bytes) -> dict[str, Any]:
        """`POST /v1/jobs`. Opening a job that is open already, of the same application, changes nothing."""
        asked = decode(body, _new_job)
        check_name("app", asked.app)
        job_id = self._driver.new_id("job") if asked.job is None else check_name("job", asked.job)
        urgency = None if asked.urgency is None else check_urgency(asked.urgency)
        deadline_s = None if asked.deadline_ms is None else check_deadline(asked.deadline_ms)
        key = self._tenants.job_key(tenant, job_id)
        if self._open_job(key, job_id, asked.app) is None:
            self._driver.open_job(key, asked.app, tenant.name, _urgency(tenant, urgency), deadline_s)
        return {"id": job_id, "object": "job", "app": asked.app}

    def close(self, tenant: TenantSettings, job_id: str, abort: bool) -> dict[str, Any]:
        """`DELETE /v1/jobs/{id}`. Closing twice is no error."""
        key = self._tenants.job_key(tenant, job_id)
        if key not in self._driver.scheduler.jobs and not self._driver.is_closed(key):
            raise _unknown(job_id)
        self._driver.close_job(key, abort)
        return {"id": job_id, "object": "job", "state": "closed"}

    def describe(self, tenant: TenantSettings, job_id: str) -> dict[str, Any]:
        """`GET /v1/jobs/{id}`."""
        key = self._tenants.job_key(tenant, job_id)
        closed = self._driver.is_closed(key)
        job = self._driver.scheduler.jobs.get(key)
        if job is None:
            if closed:
                return {"id": job_id, "object": "job", "state": "closed"}
            raise _unknown(job_id)
        return {
            "id": job_id,
            "object": "job",
            "state": "closing" if job.closed else "open",
            "app": job.app.name,
            "tenant": job.tenant.name,
            "urgency": job.urgency,
            "age_s": self._driver.clock() - job.arrived_at,
            "service_s": job.service_s,
            "open_calls": job.open_calls,
            "open_tools": job.open_tools,
        }

    def start_tool(self, tenant: TenantSettings, job_id: str, name: str, body: bytes) -> dict[str, Any]:
        """`POST /v1/jobs/{id}/tools/{name}:start`."""
        asked = decode(body or b"{}", _tool_run)
        key, job = self._known(tenant, job_id)
        check_name("tool", name)
        run = self._driver.new_id("run") if asked.run is None else check_name("run", asked.run)
        if run in job.tools:
            message = f"tool run '{run}' of job '{job_id}' has begun already; its id must be new"
            raise ApiError(409, message, code="tool_run_exists", param="run")
        parent = None if asked.parent is None else check_name("parent", asked.parent)
        self._driver.tell(ev.ToolStarted(self._driver.clock(), key, run, name, parent))
        return {"run": run, "object": "tool_run", "job": job_id, "name": name}

    def end_tool(self, tenant: TenantSettings, job_id: str, name: str, body: bytes) -> dict[str, Any]:
        """`POST /v1/jobs/{id}/tools/{name}:end`: the run that the body names, else the latest of this name."""
        asked = decode(body or b"{}", _tool_run)
        key, job = self._known(tenant, job_id)
        runs = [run for run, tool in job.tools.items() if tool == name]
        run = asked.run if asked.run is not None else (runs[-1] if runs else None)
        if run not in runs:
            which = f"run '{run}'" if run is not None else "run"
            message = f"job '{job_id}' has no open {which} of tool '{name}'"
            raise ApiError(404, message, code="unknown_tool_run", param="run")
        self._driver.tell(ev.ToolFinished(self._driver.clock(), key, run))
        return {"run": run, "object": "tool_run", "job": job_id, "name": name}

    def _known(self, tenant: TenantSettings, job_id: str) -> tuple[str, Job]:
        key = self._tenants.job_key(tenant, job_id)
        job = self._open_job(key, job_id, None)
        if job is None:
            raise _unknown(job_id)
        return key, job


def _urgency(tenant: TenantSettings, asked: int | None) -> int:
    """What was asked for, as far as the tenant may."""
    return max(DEFAULT_URGENCY if asked is None else asked, tenant.most_urgent)


def _unknown(job_id: str) -> ApiError:
    return ApiError(404, f"there is no open job '{job_id}'; open it with POST /v1/jobs", code="unknown_job")
