"""The whole state of a scheduler as plain data, and back.

A journal that grows too long starts anew with a snapshot: `restore` gives a scheduler that answers every further event
with the same commands, byte for byte, as the one that was saved.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import asdict
from heapq import heapify
from typing import Any

import msgspec

from hocket.core.accounts import Account, Bucket, Load
from hocket.core.budget import Budget
from hocket.core.ordering import Chooser
from hocket.core.queue import ReadyQueue, chooser_of
from hocket.core.scheduler import Scheduler
from hocket.core.shares import path_of
from hocket.core.state import Application, Call, CallState, Engine, Job, Replica, Tenant
from hocket.core.windows import WindowSearch

Plain = dict[str, Any]

_TENANT = ("name", "number", "weight", "running", "last_served")
_APP = ("name", "number", "jobs_closed", "mean_service_s", "mean_calls")
_REPLICA = (
    *("id", "index", "window", "inflight", "limit", "free", "present"),
    *("rests_until", "failures", "rests", "misses"),
)
_JOB = (
    *("id", "number", "urgency", "claimed", "arrived_at", "deadline_at", "features"),
    *("service_s", "path_s", "last_served", "fair_finish", "closed", "aborted", "heard_at", "tools"),
    *("admitted", "started", "late", "seen", "expected"),
)
_CALL = (
    *("id", "number", "stage", "model", "urgency", "arrived_at", "prompt_tokens", "max_tokens"),
    *("parent", "hint_output_tokens", "prefix", "state"),
    *("path_s", "own_class", "attempts", "delays", "sent_at", "charged_at"),
    *("resumable", "tokens", "kept_tokens", "preempted", "passed", "leaving", "size", "queued_at"),
)


def save(scheduler: Scheduler) -> Plain:
    """Everything that later decisions depend on, as JSON-able data. O(open jobs and calls)."""
    s = scheduler
    return {
        "now": s.now,
        "seen": [s._jobs_seen, s._calls_seen, s._dispatches, s._timers.count],
        "policy_error": s.policy_error,
        "rng": s.rng.state,
        "fair": s.fair.save(),
        "shares": s.shares.save(),
        "choosers": [chooser.save() for chooser in _choosers(s)],
        "tenants": [
            _plain(tenant, _TENANT) | {"budget": tenant.budget and asdict(tenant.budget)}
            for tenant in s.tenants.values()
        ],
        "turns": {e.name: e.queue.patience and e.queue.patience.since_turn for e in s.engines.values()},
        "apps": [_plain(app, _APP) for app in s.apps.values()],
        "replicas": {e.name: [_replica(replica) for replica in e.listed.values()] for e in _engines(s)},
        "paces": {e.name: None if e.holders is None else [e.holders.held_s, e.holders.ends] for e in _engines(s)},
        "loads": {e.name: _load(e.load) for e in _engines(s)},
        "accounts": {name: _account(account) for name, account in _accounts(s).items()},
        "batches": {e.name: e.batch for e in _engines(s)},
        "routings": {e.name: e.routing.save() for e in s.engines.values()},
        "jobs": [_job(s, job) for job in s.jobs.values()],
        "calls": [
            _plain(call, _CALL)
            | {"job": call.job.id, "engine": call.engine.name}
            | {"replica": call.replica and call.replica.id, "failed_on": call.failed_on and call.failed_on.id}
            for call in s.calls.values()
        ],
        "resting": [[at, count, engine.name, replica.id] for at, count, (engine, replica) in s._timers.heap],
        "asked": s._timers.asked,
        "waits": [[at, call.id] for call, at in s._waits.entries.items()],
        "beliefs": None if s.beliefs is None else s.beliefs.save(),
        "idle": [[at, number, job and job.id] for at, number, job in s._timers.idle.entries],
    }


def restore(scheduler: Scheduler, state: Plain) -> None:
    """Give a fresh scheduler, built from the same spec, the state that `save` returned."""
    s = scheduler
    s.now = state["now"]
    s._jobs_seen, s._calls_seen, s._dispatches, s._timers.count = state["seen"]
    if state["policy_error"] is not None:
        s._fall_back(RuntimeError())
        s.policy_error = state["policy_error"]
    s.rng.state = state["rng"]
    s.fair.restore(state["fair"])
    for chooser, saved in zip(_choosers(s), state["choosers"], strict=True):
        chooser.restore(saved)
    for fields in state["tenants"]:
        fields["budget"] = fields["budget"] and Budget(**fields["budget"])
        s.tenants[fields["name"]] = Tenant(**fields)
    s.apps.update((a["name"], Application(**a)) for a in state["apps"])
    _engines_again(s, state)
    s.shares.restore(state["shares"], s.tenants, {engine.name: engine for engine in _engines(s)})
    for fields in state["jobs"]:
        app, tenant = s.apps[fields.pop("app")], s.tenants[fields.pop("tenant")]
        fields["share"] = fields["share"] and s.shares.at(fields["share"])
        fields["places"] = {name: _engine(s, name).listed[place] for name, place in fields["places"].items()}
        s.jobs[fields["id"]] = Job(app=app, tenant=tenant, **fields)
    for fields in state["calls"]:
        _call(s, fields)
    if state["beliefs"] is None:
        s.beliefs = None
    elif s.beliefs is not None:
        s.beliefs.restore(state["beliefs"], s.jobs)
    _wait_again(s, state)
    _limit_again(s, state)


def _engines_again(s: Scheduler, state: Plain) -> None:
    """Engines and their replicas, also of engines that the settings no longer name."""
    for name, turn in state["turns"].items():
        patience = s.engines[name].queue.patience
        if patience is not None:
            patience.since_turn = turn
    for name in state["replicas"].keys() - s.engines.keys():
        s.gone[name] = Engine(name, [], ReadyQueue((), s), s.policy_of(s.spec).routing())
    for engine in _engines(s):
        for fields in state["replicas"][engine.name]:
            fields["search"] = msgspec.convert(fields["search"], WindowSearch | None)
            replica = Replica(**fields)
            engine.listed[replica.id] = replica
            engine.room += replica.free
            engine.slots += replica.limit
            if replica.present:
                engine.replicas[replica.id] = replica
        engine.batch = state["batches"][engine.name]
        s._relist(engine)
    for name, routing in state["routings"].items():
        s.engines[name].routing.restore(routing, s.engines[name].listed)


def _wait_again(s: Scheduler, state: Plain) -> None:
    """Queues and timers, once all that they hold is there."""
    s._limit()
    for call in sorted(s.calls.values(), key=lambda call: call.number):
        if call.state is CallState.QUEUED:
            since = call.queued_at
            s._enqueue(call, [])
            call.queued_at = since
    s._hold(s.spec)
    for engine in s.engines.values():
        if engine.holders is not None:
            engine.holders.held_s, engine.holders.ends = state["paces"][engine.name]
    s._waits.entries = OrderedDict((s.calls[call], at) for at, call in state["waits"])
    for at, count, name, replica_id in state["resting"]:
        engine = _engine(s, name)
        s._timers.heap.append((at, count, (engine, engine.listed[replica_id])))
    s._timers.asked = list(state["asked"])
    s._timers.idle.entries = [
        s._timers.idle.entry(at, s.jobs[job]) if job else [at, number, None] for at, number, job in state["idle"]
    ]
    heapify(s._timers.idle.entries)


def _limit_again(s: Scheduler, state: Plain) -> None:
    """What is counted is counted anew; what was measured, and sums whose last digit depends on their order, is kept."""
    s._limit()
    for engine in _engines(s):
        load, saved = engine.load, state["loads"][engine.name]
        load.ahead, load.held_s, load.ends, load.moved_at, load.weights = saved[:5]
        for tenant, ahead in saved[5].items():
            load.count(s.tenants[tenant], 0, 0.0)  # nothing may be left of its line but rounding
            load.lines[tenant].ahead = ahead
    for name, account in _accounts(s).items():
        account.call_s, account.job_s, bucket = state["accounts"][name]
        account.bucket = bucket and Bucket(**bucket)


def _accounts(s: Scheduler) -> dict[str, Account]:
    """All of them; that of the whole has no name."""
    own = {tenant.name: tenant.account for tenant in s.tenants.values() if tenant.account is not None}
    return {"": s.whole, **own}


def _load(load: Load) -> list[Any]:
    lines = {tenant: list(line.ahead) for tenant, line in load.lines.items()}
    return [list(load.ahead), load.held_s, load.ends, load.moved_at, load.weights, lines]


def _account(account: Account) -> list[Any]:
    return [account.call_s, account.job_s, account.bucket and asdict(account.bucket)]


def _choosers(s: Scheduler) -> list[Chooser]:
    chooser = chooser_of(s._orderings)
    return [] if chooser is None else [chooser]


def _engines(s: Scheduler) -> list[Engine]:
    return [*s.engines.values(), *s.gone.values()]


def _engine(s: Scheduler, name: str) -> Engine:
    return s.engines.get(name) or s.gone[name]


def _plain(record: object, fields: tuple[str, ...]) -> Plain:
    return {field: getattr(record, field) for field in fields}


def _replica(replica: Replica) -> Plain:
    return _plain(replica, _REPLICA) | {"search": msgspec.to_builtins(replica.search)}


def _job(s: Scheduler, job: Job) -> Plain:
    known = {engine.name: engine.listed for engine in _engines(s)}
    places = {e: replica.id for e, replica in job.places.items() if known.get(e, {}).get(replica.id) is replica}
    share = job.share and path_of(job.share)
    return _plain(job, _JOB) | {"app": job.app.name, "tenant": job.tenant.name, "places": places, "share": share}


def _call(s: Scheduler, fields: Plain) -> None:
    job, engine = s.jobs[fields.pop("job")], _engine(s, fields.pop("engine"))
    for field in ("replica", "failed_on"):
        fields[field] = None if fields[field] is None else engine.listed[fields[field]]
    call = Call(job=job, engine=engine, **fields | {"state": CallState(fields["state"])})
    s.calls[call.id] = job.calls[call.id] = call
    if call.state is not CallState.QUEUED:
        job.running += 1
