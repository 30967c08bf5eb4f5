"""Engines at work, compiled: what the rehearsal of a plan runs, a hundred times as fast as the simulator.

The engine model of `sim/engine.py` and the laws of `sim/sharing.py`, in numbers alone: calls wait for their engine in
the order of their jobs' arrival, the least loaded replica takes the next. There is no policy in it, no tenant and no
window but the engine's own, for nothing decides here that a gateway would decide: it says how fast the hardware of a
plan is. Time is counted in ticks, as there, and events of one moment are taken in the same order: so it comes to the
same, to the tick (tests/planner/test_rehearsal.py) but for one case (docs/decisions/planner.md). Without numba (the
extra `plan`) it is the same and slow.

What is compiled is kept until this file changes. What it takes from others (`compiled.py`; LOST, NEVER, TICKS_A_SECOND,
CONSTANTS) is compiled in: whoever changes that touches this file.
"""

from __future__ import annotations

import numpy as np

from hocket.planner.arrays import NEVER, Book, Fleet
from hocket.planner.compiled import compiled, length, numbered, pop, push, steps
from hocket.planner.demand import Ints
from hocket.planner.estimate import CONSTANTS
from hocket.sim.engine import TICKS_A_SECOND
from hocket.sim.sharing import LOST

Q0, Q1, Q2, D0, D1, D2 = range(len(CONSTANTS))
"columns of `Fleet.constants`"
SENT, ARRIVED, DONE, BEGUN, TOOLS, READY = range(6)
"""counts of a run: calls dispatched; jobs that arrived, are done; tools that began, that run; stages that wait for
nothing more"""


@compiled
def play(  # noqa: C901, PLR0915
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
    start, job_of, stage_of = numbered(job_first, drawn)
    calls, left = len(job_of), needs[stage_of]
    of_call = np.zeros((8, calls), np.int64)
    made, admitted, base, order = of_call[0], of_call[1], of_call[2], of_call[3]  # made: before it was thrown off
    ready, tool_ends, tool, tool_calls = of_call[4], of_call[5], of_call[6], of_call[7]
    count, opened, jct = np.zeros(6, np.int64), start[1:] - start[:-1], np.full(jobs, NEVER)
    # engines: jobs of which calls wait; of each, the first and the last of these; behind each call, the next (-1: none)
    queue_at, queue = np.empty((engines, jobs), np.int64), np.empty((engines, jobs), np.int64)
    first_of, last_of = np.full((engines, jobs), -1), np.empty((engines, jobs), np.int64)
    behind = np.empty(calls, np.int64)
    queued, due, late = np.zeros(engines, np.int64), np.zeros(len(within), np.int64), np.zeros(len(within), np.int64)
    # replicas: who runs, the step at which each is complete, the soonest last; who has no room yet
    places = window.max() + 2
    running, ends_at = np.empty((replicas, places), np.int64), np.empty((replicas, places), np.int64)
    waiting, finished = np.empty((replicas, places), np.int64), np.empty(places, np.int64)
    of_replica = np.zeros((5, replicas), np.int64)
    run, waits, inflight, step, kv = of_replica[0], of_replica[1], of_replica[2], of_replica[3], of_replica[4]
    # the run under way: so many iterations; ticks of it, by the replica's own clock, that were over at `at`
    of_run = np.zeros((5, replicas), np.int64)
    n, head, slope, own, at = of_run[0], of_run[1], of_run[2], of_run[3], of_run[4]
    ends, speed, mixed, works = np.full(replicas, NEVER), np.ones(replicas), of_replica[0] > 0, of_replica[0] > 0
    load = np.zeros(replicas)  # calls in flight, as a share of the window
    begins = of_replica[0] > 0  # where the run is over, and the next waits for what else is to happen now

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
        whole = length(n[r], head[r], slope[r])
        if now >= ends[r]:
            return whole
        return int(min(own[r] + int(np.ceil((now - at[r]) * speed[r])), whole - 1))

    def timed(r: int) -> None:
        """Say when the run under way ends."""
        ends[r] = at[r] + int(np.ceil((length(n[r], head[r], slope[r]) - own[r]) / speed[r]))

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
        load[r] = inflight[r] / window[r]
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
        whole = steps(clock(r, now), head[r], slope[r], n[r])
        if whole < n[r] and kv[r] + whole * run[r] + prompt[stage_of[call]] + made[call] <= kv_tokens[r]:
            n[r] = whole
            timed(r)

    def dispatch(e: int, now: int) -> None:
        """While calls wait and a replica has room: the first, of the earliest job, goes to the least loaded."""
        while queued[e] > 0:
            found, least = -1, 1.0
            for r in range(first[e], first[e + 1]):
                if load[r] < least:
                    found, least = r, load[r]
            if found < 0:
                return
            j = queue[e, 0]
            call = first_of[e, j]
            first_of[e, j] = behind[call]
            if behind[call] < 0:
                pop(queue_at[e], queue[e], queued[e])
                queued[e] -= 1
            send(found, call, now)

    def reveal(call: int, now: int) -> int:
        """All that it needs has ended. The engine that it waits for from now on; -1: it is a tool's."""
        e = int(serving[role[stage_of[call]]])
        if e < 0:
            push(tool_ends, tool, count[TOOLS], now + lasts[stage_of[call]], count[BEGUN])
            tool_calls[count[BEGUN]] = call
            count[TOOLS] += 1
            count[BEGUN] += 1
        else:
            j, behind[call] = job_of[call], -1
            if first_of[e, j] < 0:
                first_of[e, j] = call
                push(queue_at[e], queue[e], queued[e], j, j)
                queued[e] += 1
            else:
                behind[last_of[e, j]] = call
            last_of[e, j] = call
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

    def credit(r: int) -> int:
        """A run is over: what is complete leaves, in the order of dispatch. How many."""
        ends[r] = NEVER
        step[r] += n[r]
        kv[r] += n[r] * run[r]
        n[r] = 0
        still = run[r]
        while still > 0 and ends_at[r, still - 1] <= step[r]:
            still -= 1
        done, run[r] = run[r] - still, still
        for i in range(done):
            call, place = running[r, still + i], i
            while place > 0 and order[finished[place - 1]] > order[call]:
                finished[place] = finished[place - 1]
                place -= 1
            finished[place] = call
            kv[r] -= base[call] + step[r]
        inflight[r] -= done
        load[r] = inflight[r] / window[r]
        return int(done)

    def evict(r: int) -> None:
        """The latest dispatched goes back to the head of those that wait."""
        latest = 0
        for i in range(1, run[r]):
            if order[running[r, i]] > order[running[r, latest]]:
                latest = i
        call = running[r, latest]
        made[call] += step[r] - admitted[call]
        kv[r] -= base[call] + step[r]
        run[r] -= 1
        for i in range(latest, run[r]):
            running[r, i], ends_at[r, i] = running[r, i + 1], ends_at[r, i + 1]
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
            i, end = run[r], step[r] + output[stage_of[call]] - made[call]
            while i > 0 and ends_at[r, i - 1] < end:
                running[r, i], ends_at[r, i] = running[r, i - 1], ends_at[r, i - 1]
                i -= 1
            running[r, i], ends_at[r, i] = call, end
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
            n[r] = ends_at[r, run[r] - 1] - step[r]
            if run[r] > 1 and kv[r] + n[r] * run[r] > kv_tokens[r]:
                n[r] = min(n[r], (kv_tokens[r] - kv[r]) // run[r] + 1)
            lasts_s = constants[r, D0] + constants[r, D1] * run[r] + constants[r, D2] * kv[r]
            head[r], slope[r] = round(lasts_s * TICKS_A_SECOND), round(constants[r, D2] * run[r] * TICKS_A_SECOND)
        own[r], at[r] = 0, now
        timed(r)

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

    def soonest() -> int:
        """The replica whose run ends first."""
        found = 0
        for r in range(1, replicas):
            if ends[r] < ends[found]:
                found = r
        return found

    def quiet() -> int:
        """The first replica that may begin when nothing else happens; -1: none."""
        for r in range(replicas):
            if begins[r]:
                return r
        return -1

    def happen(now: int, r: int, job_at: int, tool_at: int) -> int:
        """A job comes, a tool ends, or else the run of replica `r`. An engine that has room since; -1: none."""
        done, freed = 0, -1
        if job_at == now:
            for call in range(start[count[ARRIVED]], start[count[ARRIVED] + 1]):
                if left[call] == 0:
                    ready[count[READY]] = call
                    count[READY] += 1
            count[ARRIVED] += 1
        elif tool_at == now:
            finished[0], done = tool_calls[pop(tool_ends, tool, count[TOOLS])], 1
            count[TOOLS] -= 1
        else:
            done = credit(r)
            freed = int(engine[r]) if done > 0 else -1
            begins[r] = True
        for i in range(done):
            complete(finished[i], now)
        return freed

    now = 0
    while count[DONE] < jobs:
        r, begun = soonest(), quiet()
        tool_at = tool_ends[0] if count[TOOLS] > 0 else NEVER
        job_at = arrivals[count[ARRIVED]] if count[ARRIVED] < jobs else NEVER
        coming = min(ends[r], tool_at, job_at)
        if begun >= 0 and coming > now:
            begins[begun] = False
            begin(begun, now)
            continue
        if coming == NEVER:
            break  # nothing more can happen
        now, count[READY] = coming, 0
        freed = happen(now, r, job_at, tool_at)
        for i in range(-1, count[READY]):  # who has waited is served before who is new
            e = freed if i < 0 else reveal(ready[i], now)
            if e >= 0:
                dispatch(e, now)
        if hopeless(now):
            return jct, True
    return jct, False
