"""The whole state of a scheduler as plain data, and back.

A journal that grows too long starts anew with a snapshot: `restore` gives a scheduler that answers every further event
with the same commands, byte for byte, as the one that was saved.
"""

from __future__ import annotations

from heapq import heapify
from typing import Any

from hocket.core.scheduler import Scheduler
from hocket.core.state import Application, Call, CallState, Engine, Job, Replica, Tenant

Plain = dict[str, Any]

_TENANT = ("name", "number", "weight", "running", "last_served")
_APP = ("name", "number", "jobs_closed", "mean_service_s")
_REPLICA = ("id", "index", "window", "inflight", "free", "rests_until", "present")
_JOB = ("id", "number", "urgency", "arrived_at", "deadline_at", "features", "service_s", "closed", "heard_at", "tools")
_CALL = (
    *("id", "number", "stage", "urgency", "arrived_at", "prompt_tokens", "max_tokens", "state"),
    *("attempts", "delays", "charged_at"),
)


def save(scheduler: Scheduler) -> Plain:
    """Everything that later decisions depend on, as JSON-able data. O(open jobs and calls)."""
    s = scheduler
    resting = [(engine, replica) for _, _, (engine, replica) in s._timers.heap]
    held = [(call.engine, call.replica) for call in s.calls.values() if call.replica is not None]
    listed = [(engine, replica) for engine in s.engines.values() for replica in engine.replicas.values()]
    # one place for each replica, also for those that were removed while they hold calls
    places = {id(replica): (engine, replica) for engine, replica in [*listed, *held, *resting]}
    place = {key: number for number, key in enumerate(places)}
    return {
        "now": s.now,
        "seen": [s._jobs_seen, s._calls_seen, s._dispatches, s._timers.count],
        "policy_error": s.policy_error,
        "tenants": [_plain(tenant, _TENANT) for tenant in s.tenants.values()],
        "apps": [_plain(app, _APP) for app in s.apps.values()],
        "listed": {engine.name: engine.listed for engine in s.engines.values()},
        "replicas": [_plain(replica, _REPLICA) | {"engine": engine.name} for engine, replica in places.values()],
        "jobs": [_plain(job, _JOB) | {"app": job.app.name, "tenant": job.tenant.name} for job in s.jobs.values()],
        "calls": [
            _plain(call, _CALL)
            | {"job": call.job.id, "engine": call.engine.name}
            | {"replica": None if call.replica is None else place[id(call.replica)]}
            for call in s.calls.values()
        ],
        "resting": [[at, count, place[id(replica)]] for at, count, (_, replica) in s._timers.heap],
        "asked": s._timers.asked,
        "idle": [[at, number, None if job.gone else job.id] for at, number, job in s._idle.entries],
    }


def restore(scheduler: Scheduler, state: Plain) -> None:
    """Give a fresh scheduler, built from the same spec, the state that `save` returned."""
    s = scheduler
    s.now = state["now"]
    s._jobs_seen, s._calls_seen, s._dispatches, s._timers.count = state["seen"]
    if state["policy_error"] is not None:
        s._fall_back(RuntimeError())
        s.policy_error = state["policy_error"]
    s.tenants.update((t["name"], Tenant(**t)) for t in state["tenants"])
    s.apps.update((a["name"], Application(**a)) for a in state["apps"])
    places = [_replica(s, fields) for fields in state["replicas"]]
    for engine in s.engines.values():
        engine.listed.update(state["listed"][engine.name])
        s._relist(engine)
    for fields in state["jobs"]:
        app, tenant = s.apps[fields.pop("app")], s.tenants[fields.pop("tenant")]
        s.jobs[fields["id"]] = Job(app=app, tenant=tenant, **fields)
    for fields in state["calls"]:
        _call(s, fields, places)
    for call in sorted(s.calls.values(), key=lambda call: call.number):
        if call.state is CallState.QUEUED:
            s._enqueue(call)
    s._timers.heap = [(at, count, places[number]) for at, count, number in state["resting"]]
    s._timers.asked = list(state["asked"])
    s._idle.entries = [(at, number, s.jobs[job] if job else _gone(s, number)) for at, number, job in state["idle"]]
    heapify(s._idle.entries)


def _plain(record: object, fields: tuple[str, ...]) -> Plain:
    return {field: getattr(record, field) for field in fields}


def _replica(s: Scheduler, fields: Plain) -> tuple[Engine, Replica]:
    engine = s.engines[fields.pop("engine")]
    replica = Replica(**fields)
    engine.room += replica.free
    if replica.present:
        engine.replicas[replica.id] = replica
    return engine, replica


def _call(s: Scheduler, fields: Plain, places: list[tuple[Engine, Replica]]) -> None:
    job, engine, number = s.jobs[fields.pop("job")], s.engines[fields.pop("engine")], fields.pop("replica")
    replica = None if number is None else places[number][1]
    call = Call(job=job, engine=engine, replica=replica, **fields | {"state": CallState(fields["state"])})
    s.calls[call.id] = job.calls[call.id] = call


def _gone(s: Scheduler, number: int) -> Job:
    """A closed job that still has an entry among the idle ones: nothing of it matters but that it is gone."""
    return Job("", number, Application("", 0), Tenant("", 0), 0, 0.0, None, {}, gone=True)
