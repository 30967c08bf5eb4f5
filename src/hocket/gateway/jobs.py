"""`/v1/jobs`: jobs that clients open, report the tools of, and close."""

from __future__ import annotations

from typing import Any

import msgspec

from hocket.core import events as ev
from hocket.core.state import Job
from hocket.gateway.driver import Driver
from hocket.gateway.identity import Tenants, check_deadline, check_name, check_urgency
from hocket.gateway.openai import ApiError, decode, refusal
from hocket.gateway.places import Places
from hocket.settings import TenantSettings

OPEN_TOOLS = 1024
"tool runs of a job that may be open at once: they are kept in memory until they end"


class NewJob(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /v1/jobs`. JSON Schema takes 1.0 for an integer, so 1.0 is taken for 1."""

    app: str
    job: str | None = None
    urgency: float | None = None
    deadline_ms: float | None = None


class ToolRun(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /v1/jobs/{id}/tools/{name}:start` and `:end`; it may be empty."""

    run: str | None = None
    parent: str | None = None


_new_job = msgspec.json.Decoder(NewJob)
_tool_run = msgspec.json.Decoder(ToolRun)


class Jobs:
    """Opens and closes jobs for their tenants."""

    def __init__(self, driver: Driver, tenants: Tenants, places: Places) -> None:
        self._driver = driver
        self._tenants = tenants
        self._places = places

    def open(self, tenant: TenantSettings, body: bytes) -> dict[str, Any]:
        """`POST /v1/jobs`. Opening a job that is open already, of the same application, changes nothing."""
        asked = decode(body, _new_job)
        check_name("app", asked.app)
        job_id = self._driver.new_id("job") if asked.job is None else check_name("job", asked.job)
        urgency = None if asked.urgency is None else check_urgency(_whole("urgency", asked.urgency))
        deadline_s = None if asked.deadline_ms is None else check_deadline(_whole("deadline_ms", asked.deadline_ms))
        key = self._key(tenant, job_id)
        if self._places.open_job(key, job_id, asked.app) is None:
            urgency = self._places.urgency.opened(key, tenant, asked.app, urgency, deadline_s)
            refused = self._driver.open_job(key, asked.app, tenant.name, urgency, deadline_s)
            if refused is not None:
                raise refusal(refused)
        return {"id": job_id, "object": "job", "app": asked.app}

    def close(self, tenant: TenantSettings, job_id: str, abort: bool) -> dict[str, Any]:
        """`DELETE /v1/jobs/{id}`. Closing twice is no error."""
        key = self._key(tenant, job_id)
        if key not in self._driver.scheduler.jobs and not self._driver.is_closed(key):
            raise _unknown(job_id)
        self._driver.close_job(key, abort)
        return {"id": job_id, "object": "job", "state": "closed"}

    def describe(self, tenant: TenantSettings, job_id: str) -> dict[str, Any]:
        """`GET /v1/jobs/{id}`."""
        key = self._key(tenant, job_id)
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
        if len(job.tools) >= OPEN_TOOLS:
            message = f"job '{job_id}' has {OPEN_TOOLS} open tool runs, which is the most; end some first"
            raise ApiError(429, message, code="too_many_tool_runs")
        parent = None if asked.parent is None else check_name("parent", asked.parent)
        self._driver.tell(ev.ToolStarted(self._driver.clock(), key, run, name, parent))
        return {"run": run, "object": "tool_run", "job": job_id, "name": name}

    def end_tool(self, tenant: TenantSettings, job_id: str, name: str, body: bytes) -> dict[str, Any]:
        """`POST /v1/jobs/{id}/tools/{name}:end`: the run that the body names, else the latest of this name."""
        asked = decode(body or b"{}", _tool_run)
        key, job = self._known(tenant, job_id)
        run = asked.run
        if run is None:
            run = next((run for run, tool in reversed(job.tools.items()) if tool == name), None)
        if run is None or job.tools.get(run) != name:
            which = f"run '{run}'" if run is not None else "run"
            message = f"job '{job_id}' has no open {which} of tool '{name}'"
            raise ApiError(404, message, code="unknown_tool_run", param="run")
        self._driver.tell(ev.ToolFinished(self._driver.clock(), key, run))
        return {"run": run, "object": "tool_run", "job": job_id, "name": name}

    def _key(self, tenant: TenantSettings, job_id: str) -> str:
        """The job's id in the core, where it goes on if an earlier process left it open."""
        key = self._tenants.job_key(tenant, job_id)
        if self._places.unfinished:
            self._places.resume(key, tenant)
        return key

    def _known(self, tenant: TenantSettings, job_id: str) -> tuple[str, Job]:
        key = self._key(tenant, job_id)
        job = self._places.open_job(key, job_id, None)
        if job is None:
            raise _unknown(job_id)
        return key, job


def _whole(name: str, number: float) -> int:
    if not number.is_integer():
        raise ApiError(400, f"'{name}' must be a whole number, got {number}", code="invalid_identity", param=name)
    return int(number)


def _unknown(job_id: str) -> ApiError:
    return ApiError(404, f"there is no open job '{job_id}'; open it with POST /v1/jobs", code="unknown_job")
