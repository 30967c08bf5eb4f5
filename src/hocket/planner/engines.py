"""Engines at work, compiled: what the rehearsal of a plan runs, a hundred times as fast as the simulator.

The engine model of `sim/engine.py` and the laws of `sim/sharing.py`, in numbers alone: calls wait for their engine in
the order of their jobs' arrival, the least loaded replica takes the next. There is no policy in it, no tenant and no
window but the engine's own, for nothing decides here that a gateway would decide: it says how fast the hardware of a
plan is. Time is counted in ticks, as there, and events of one moment are taken in the same order: so it comes to the
same, to the tick (tests/planner/test_rehearsal.py). Without numba (the extra `plan`) it is the same and slow.

What is compiled is kept until this file changes. Constants of others (LOST, NEVER, TICKS_A_SECOND, CONSTANTS) are
compiled in: whoever changes one of them touches this file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np

from hocket.planner.arrays import NEVER, Book, Fleet
from hocket.planner.demand import Ints
from hocket.planner.estimate import CONSTANTS
from hocket.sim.engine import TICKS_A_SECOND
from hocket.sim.sharing import LOST

F = TypeVar("F", bound=Callable[..., Any])

try:
    from numba import njit
except ImportError:  # the extra `plan` is not installed
    COMPILED = False

    def compiled(function: F) -> F:
        """As it is."""
        return function
else:
    COMPILED = True

    def compiled(function: F) -> F:
        """To machine code, kept on the disk from the first time on; it runs beside other threads."""
        try:
            return cast("F", njit(cache=True, nogil=True)(function))
        except RuntimeError:  # there is no folder to keep it in
            return cast("F", njit(nogil=True)(function))


Q0, Q1, Q2, D0, D1, D2 = range(len(CONSTANTS))
"columns of `Fleet.constants`"
COME, SENT, DONE, BEGUN, TOOLS, READY = range(6)
"counts of a run: calls that came, dispatched; jobs done; tools that began, that run; stages that wait for nothing more"
MOST_QUEUED = 1 << 36
"calls that come in a run, at most: earlier jobs first, of a job what came first"


@compiled
def _push(keys: Ints, items: Ints, count: int, key: int, item: int) -> None:
    """Into a heap of `count` items; of equal keys the lowest item comes first."""
    i = count
    while i > 0:
        parent = (i - 1) >> 1
        if keys[parent] < key or (keys[parent] == key and items[parent] < item):
            break
        keys[i], items[i] = keys[parent], items[parent]
        i = parent
    keys[i], items[i] = key, item


@compiled
def _pop(keys: Ints, items: Ints, count: int) -> int:
    """The first of a heap of `count` items."""
    found, last = items[0], count - 1
    key, item = keys[last], items[last]
    i = 0
    while True:
        child = 2 * i + 1
        if child >= last:
            break
        other = child + 1
        if other < last and (keys[other] < keys[child] or (keys[other] == keys[child] and items[other] < items[child])):
            child = other
        if keys[child] > key or (keys[child] == key and items[child] > item):
            break
        keys[i], items[i] = keys[child], items[child]
        i = child
    keys[i], items[i] = key, item
    return int(found)


@compiled
def _length(n: int, first: int, slope: int) -> int:
    """See `sim/closed_form.py`."""
    return n * first + slope * (n * (n - 1) // 2)


@compiled
def _steps(span: int, first: int, slope: int, most: int) -> int:
    """See `sim/closed_form.py`."""
    if span <= 0:
        return 0
    c = first - slope * 0.5
    divisor = c + np.sqrt(c * c + 2.0 * slope * span)
    n = min(int(np.ceil(2.0 * span / divisor)), most)
    while n < most and _length(n, first, slope) < span:
        n += 1
    while n > 0 and _length(n - 1, first, slope) >= span:
        n -= 1
    return n


@compiled
def play(  # noqa: C901, PLR0912, PLR0915
    book: Book, fleet: Fleet, arrivals: Ints, drawn: Ints, within: Ints, most: Ints
) -> tuple[Ints, bool]:
    """Run jobs to their end: how long each took (NEVER: it has not ended), and whether the run was given up.

    `arrivals`: in order; `drawn`: the recorded job that each is a copy of. It is given up as soon as `most` jobs of an
    application have taken longer than its `within`: then its 95th percentile must. All times are ticks. One function
    with others inside, for arrays that are handed from one to another would be counted each time.
    """
    job_first, job_app, role, prompt, output, lasts, needs, after_first, after = book
    serving, first, engine, window, kv_tokens, constants, share = fleet[:7]
    devices_first, devices, on_first, on, near_first, near, capped = fleet[7:]
    jobs, engines, replicas = len(drawn), len(first) - 1, len(engine)
    # calls, numbered job by job
    start = np.zeros(jobs + 1, np.int64)
    for j in range(jobs):
        start[j + 1] = start[j] + job_first[drawn[j] + 1] - job_first[drawn[j]]
    calls = start[jobs]
    job_of, stage_of, left = np.empty(calls, np.int64), np.empty(calls, np.int64), np.empty(calls, np.int64)
    for j in range(jobs):
        for call in range(start[j], start[j + 1]):
            job_of[call], stage_of[call] = j, job_first[drawn[j]] + call - start[j]
            left[call] = needs[stage_of[call]]
    made = np.zeros(calls, np.int64)  # tokens before it was thrown off
    admitted, base, order = np.zeros(calls, np.int64), np.zeros(calls, np.int64), np.zeros(calls, np.int64)
    count, opened, jct = np.zeros(6, np.int64), start[1:] - start[:-1], np.full(jobs, NEVER)
    ready = np.empty(calls, np.int64)
    tool_ends, tool, tool_calls = np.empty(calls, np.int64), np.empty(calls, np.int64), np.empty(calls, np.int64)
    queue_at, queue = np.empty((engines, calls), np.int64), np.empty((engines, calls), np.int64)
    queued = np.zeros(engines, np.int64)
    # replicas: who runs, when each is complete (in steps), who has no room yet
    places = window.max() + 2
    running, ends_at = np.empty((replicas, places), np.int64), np.empty((replicas, places), np.int64)
    waiting, finished = np.empty((replicas, places), np.int64), np.empty(places, np.int64)
    run, waits, inflight = np.zeros(replicas, np.int64), np.zeros(replicas, np.int64), np.zeros(replicas, np.int64)
    step, kv = np.zeros(replicas, np.int64), np.zeros(replicas, np.int64)
    # the run under way: so many iterations; ticks of it, by the replica's own clock, that were over at `at`
    n, head, slope = np.zeros(replicas, np.int64), np.zeros(replicas, np.int64), np.zeros(replicas, np.int64)
    own, at, ends = np.zeros(replicas, np.int64), np.zeros(replicas, np.int64), np.full(replicas, NEVER)
    speed, mixed, works = np.ones(replicas), np.zeros(replicas, np.bool_), np.zeros(replicas, np.bool_)
    begins = np.zeros(replicas, np.bool_)  # where the run is over, and the next waits for what else is to happen now

    def speed_of(r: int) -> float:
        """Of a replica that works, as a share of one that has its devices to itself."""
        if capped:
            return float(share[r])
        slowest = 1.0
        for place in range(devices_first[r], devices_first[r + 1]):
            device, taken, rivals = devices[place], 0.0, 0
            for there in range(on_first[device], on_first[device + 1]):
                other = on[there]
                if other == r or works[other]:
                    taken += share[other]
                    rivals += 1
            if rivals > 1:
                slowest = min(slowest, (1.0 - LOST) * share[r] / taken)
        return slowest

    def clock(r: int, now: int) -> int:
        """Ticks of the run under way that are over, by the replica's own clock; see `sim/sharing.py`."""
        if now == at[r]:
            return int(own[r])
        whole = _length(n[r], head[r], slope[r])
        if now >= ends[r]:
            return whole
        return int(min(own[r] + int(np.ceil((now - at[r]) * speed[r])), whole - 1))

    def timed(r: int) -> None:
        """Say when the run under way ends."""
        ends[r] = at[r] + int(np.ceil((_length(n[r], head[r], slope[r]) - own[r]) / speed[r]))

    def worked(r: int, now: int) -> None:
        """A replica has begun to work, or has nothing more to do: that moves its neighbours."""
        for place in range(near_first[r], near_first[r + 1]):
            other = near[place]
            if works[other]:
                faster = speed_of(other)
                if faster != speed[other]:
                    if ends[other] != NEVER:
                        own[other] = clock(other, now)
                        at[other], speed[other] = now, faster
                        timed(other)
                    at[other], speed[other] = now, faster

    def send(r: int, call: int, now: int) -> None:
        """A replica takes a call: where there is room, its run ends at the next boundary."""
        inflight[r] += 1
        order[call] = count[SENT]
        count[SENT] += 1
        waiting[r, waits[r]] = call
        waits[r] += 1
        if not works[r]:
            works[r] = True
            at[r], own[r], ends[r], n[r] = now, 0, now, 0
            speed[r] = speed_of(r)
            worked(r, now)
            return
        if waits[r] > 1 or run[r] >= window[r] or ends[r] == NEVER or ends[r] <= now or mixed[r]:
            return
        whole = _steps(clock(r, now), head[r], slope[r], n[r])
        if whole < n[r] and kv[r] + whole * run[r] + prompt[stage_of[call]] + made[call] <= kv_tokens[r]:
            n[r] = whole
            timed(r)

    def dispatch(e: int, now: int) -> None:
        """While calls wait and a replica has room: the first goes to the least loaded."""
        while queued[e] > 0:
            found, least = -1, 1.0
            for r in range(first[e], first[e + 1]):
                if inflight[r] / window[r] < least:
                    found, least = r, inflight[r] / window[r]
            if found < 0:
                return
            call = _pop(queue_at[e], queue[e], queued[e])
            queued[e] -= 1
            send(found, call, now)

    def reveal(call: int, now: int) -> int:
        """All that it needs has ended. The engine that it waits for from now on; -1: it is a tool's."""
        e = int(serving[role[stage_of[call]]])
        if e < 0:
            _push(tool_ends, tool, count[TOOLS], now + lasts[stage_of[call]], count[BEGUN])
            tool_calls[count[BEGUN]] = call
            count[TOOLS] += 1
            count[BEGUN] += 1
        else:
            _push(queue_at[e], queue[e], queued[e], job_of[call] * MOST_QUEUED + count[COME], call)
            queued[e] += 1
            count[COME] += 1
        return e

    def complete(call: int, now: int) -> None:
        """A stage has ended; and with the last one, its job."""
        j = job_of[call]
        for place in range(after_first[stage_of[call]], after_first[stage_of[call] + 1]):
            other = start[j] + after[place]
            left[other] -= 1
            if left[other] == 0:
                ready[count[READY]] = other
                count[READY] += 1
        opened[j] -= 1
        if opened[j] == 0:
            jct[j] = now - arrivals[j]
            count[DONE] += 1

    def leave(r: int, i: int) -> None:
        """The i-th that runs goes."""
        kv[r] -= base[running[r, i]] + step[r]
        run[r] -= 1
        running[r, i], ends_at[r, i] = running[r, run[r]], ends_at[r, run[r]]

    def credit(r: int) -> int:
        """A run is over: what is complete leaves, in the order of dispatch. How many."""
        ends[r] = NEVER
        step[r] += n[r]
        kv[r] += n[r] * run[r]
        n[r] = 0
        done, i = 0, 0
        while i < run[r]:
            if ends_at[r, i] > step[r]:
                i += 1
                continue
            place = done
            while place > 0 and order[finished[place - 1]] > order[running[r, i]]:
                finished[place] = finished[place - 1]
                place -= 1
            finished[place] = running[r, i]
            done += 1
            leave(r, i)
        inflight[r] -= done
        return done

    def evict(r: int) -> None:
        """The latest dispatched goes back to the head of those that wait."""
        latest = 0
        for i in range(1, run[r]):
            if order[running[r, i]] > order[running[r, latest]]:
                latest = i
        call = running[r, latest]
        made[call] += step[r] - admitted[call]
        leave(r, latest)
        for i in range(waits[r], 0, -1):
            waiting[r, i] = waiting[r, i - 1]
        waiting[r, 0] = call
        waits[r] += 1

    def admit(r: int) -> bool:
        """Start the mixed iteration that takes in who fits, if anyone does."""
        decoding, held, extra_s, taken = run[r], kv[r], 0.0, 0
        while taken < waits[r]:
            call = waiting[r, taken]
            tokens = prompt[stage_of[call]] + made[call]
            if run[r] > 0 and (run[r] >= window[r] or kv[r] + tokens > kv_tokens[r]):
                break
            extra_s += (constants[r, Q1] * tokens + constants[r, Q2]) * tokens
            kv[r] += tokens
            admitted[call], base[call] = step[r], tokens - step[r]
            running[r, run[r]], ends_at[r, run[r]] = call, step[r] + output[stage_of[call]] - made[call]
            run[r] += 1
            taken += 1
        if taken == 0:
            return False
        waits[r] -= taken
        for i in range(waits[r]):
            waiting[r, i] = waiting[r, i + taken]
        floor_s = max(constants[r, Q0], constants[r, D0]) if decoding > 0 else constants[r, Q0]
        lasts_s = floor_s + extra_s + constants[r, D1] * decoding + constants[r, D2] * held
        n[r], head[r], slope[r], mixed[r] = 1, round(lasts_s * TICKS_A_SECOND), 0, True
        return True

    def begin(r: int, now: int) -> None:
        """Evict, admit, start the next run, or rest."""
        while kv[r] > kv_tokens[r] and run[r] > 1:
            evict(r)
        if waits[r] == 0 or not admit(r):
            mixed[r] = False
            if run[r] == 0:
                works[r], ends[r] = False, NEVER
                worked(r, now)
                return
            soonest = ends_at[r, 0]
            for i in range(1, run[r]):
                soonest = min(soonest, ends_at[r, i])
            n[r] = soonest - step[r]
            if run[r] > 1 and kv[r] + n[r] * run[r] > kv_tokens[r]:
                n[r] = min(n[r], (kv_tokens[r] - kv[r]) // run[r] + 1)
            lasts_s = constants[r, D0] + constants[r, D1] * run[r] + constants[r, D2] * kv[r]
            head[r], slope[r] = round(lasts_s * TICKS_A_SECOND), round(constants[r, D2] * run[r] * TICKS_A_SECOND)
        own[r], at[r] = 0, now
        timed(r)

    due, late = np.zeros(len(within), np.int64), np.zeros(len(within), np.int64)

    def hopeless(now: int) -> bool:
        """Whether enough jobs of an application are late."""
        for app in range(len(within)):
            while due[app] < jobs:
                j = due[app]
                if job_app[drawn[j]] == app:
                    if arrivals[j] + within[app] >= now:
                        break
                    late[app] += jct[j] > within[app]
                due[app] += 1
            if late[app] >= most[app]:
                return True
        return False

    arrived, now = 0, 0
    while count[DONE] < jobs:
        r, begun = 0, -1
        for other in range(replicas):
            if ends[other] < ends[r]:
                r = other
            if begins[other] and begun < 0:
                begun = other
        tool_at = tool_ends[0] if count[TOOLS] > 0 else NEVER
        job_at = arrivals[arrived] if arrived < jobs else NEVER
        soonest = min(ends[r], tool_at, job_at)
        if begun >= 0 and soonest > now:  # all is quiet
            begins[begun] = False
            begin(begun, now)
            continue
        if soonest == NEVER:
            break  # nothing more can happen
        now = soonest
        done, count[READY], freed = 0, 0, -1
        if job_at == now:
            for call in range(start[arrived], start[arrived + 1]):
                if left[call] == 0:
                    ready[count[READY]] = call
                    count[READY] += 1
            arrived += 1
        elif tool_at == now:
            finished[0], done = tool_calls[_pop(tool_ends, tool, count[TOOLS])], 1
            count[TOOLS] -= 1
        else:
            done = credit(r)
            freed = engine[r] if done > 0 else -1
            begins[r] = True
        for i in range(done):
            complete(finished[i], now)
        # who has waited is served before who is new
        for i in range(-1, count[READY]):
            e = freed if i < 0 else reveal(ready[i], now)
            if e >= 0:
                dispatch(e, now)
        if hopeless(now):
            return jct, True
    return jct, False
