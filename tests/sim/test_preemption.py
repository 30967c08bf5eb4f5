"""Calls that are displaced in the simulator: what it costs, that no token is lost, and that it is what it should be."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hocket.assembly import build, replay_journal
from hocket.cli import main
from hocket.core import events as ev
from hocket.core.commands import Command, Preempt
from hocket.journal import JournalWriter
from hocket.sim.driver import Outcome, Simulation
from hocket.sim.experiment import Setup, scheduler_spec, simulate
from hocket.sim.gantt import phases
from hocket.sim.oracle import Oracle
from tests.sim.worlds import as_jobs, random_engines, random_jobs

PACE = {"q0": 0.5, "q1": 0.01, "q2": 0.1, "d0": 1.0, "d1": 0.25, "d2": 0.125}


def setup(*engines: dict[str, Any], across: str | None = "class", at_most: int = 2) -> Setup:
    preemption = None if across is None else {"across": across, "at_most": at_most}
    return msgspec.convert({"engines": list(engines), "preemption": preemption}, Setup)


def engine(**more: Any) -> dict[str, Any]:
    return {"name": "e", "models": ["m"], "max_concurrency": 1, "latency": PACE, **more}


def lone(at: float, urgency: int, prompt: int, output: int) -> dict[str, Any]:
    stage = {
        "id": "s", "name": "s", "kind": "llm", "model": "m", "prompt_tokens": prompt, "output_tokens": output,
    }  # fmt: skip
    return {"job": f"j{at}", "app": "a", "arrival_s": at, "urgency": urgency, "stages": [stage]}


def outcome(jobs: list[dict[str, Any]], on: Setup, policy: str = "urgency>fcfs") -> Outcome:
    return simulate(as_jobs(jobs), on, policy, frozenset(job["job"] for job in jobs))


def prefill(p: int) -> float:
    return 0.01 * p * p + 0.1 * p


# ---------------------------------------------------------------- by hand
#
# a (class 4): 2 prompt tokens, 4 to make; b (class 0) comes at 1.0 with 3 and 1. Alone, a's boundaries are at 0.74,
# 2.365, 4.115, 5.99. So b takes its slot at 2.365, when a has made 2 tokens, and a goes on when b has ended.

JOBS = [lone(0.0, 4, 2, 4), lone(1.0, 0, 3, 1)]
OFF = 0.5 + prefill(2) + 1.25 + 0.125 * 3
B = 0.5 + prefill(3)
"an iteration that prefills b alone"


def ends(**more: Any) -> dict[str, float]:
    found = outcome(JOBS, setup(engine(**more)))
    assert found.preemptions == 1
    return {span.job: span.ended for span in found.spans}


def test_what_was_displaced_is_computed_again() -> None:
    last = 1.25 + 0.125 * 5  # a's fourth token; the third comes with the prefill of its 4
    assert ends() == {"j1.0": pytest.approx(OFF + B), "j0.0": pytest.approx(OFF + B + 0.5 + prefill(4) + last)}


def test_or_saved_and_loaded_where_that_is_faster() -> None:
    """0.01 s a token, 4 of them: a pause of 0.04 s to save them, and as long to load them."""
    rest = (1.25 + 0.125 * 4) + (1.25 + 0.125 * 5)
    expected = {"j1.0": pytest.approx(OFF + 0.04 + B), "j0.0": pytest.approx(OFF + 0.04 + B + 0.04 + rest)}
    assert ends(swap_s_per_token=0.01) == expected


def test_a_free_swap_costs_nothing() -> None:
    rest = (1.25 + 0.125 * 4) + (1.25 + 0.125 * 5)
    expected = {"j1.0": pytest.approx(OFF + B), "j0.0": pytest.approx(OFF + B + rest)}
    assert ends(swap_s_per_token=0.0) == ends(swap_s_per_token=0.0, decode="slowest") | expected


def test_to_load_more_slowly_than_to_compute_is_not_done() -> None:
    """Prefilling 4 tokens takes 0.56 s, loading them at 0.15 s each 0.6."""
    assert ends(swap_s_per_token=0.15) == ends()
    assert ends(swap_s_per_token=0.13) != ends()


def test_a_prefix_cache_still_has_it() -> None:
    """All of a's 4 tokens are there: the prefill takes the pass over the weights alone."""
    last = 1.25 + 0.125 * 5
    for cache in (True, "slots"):
        if cache == "slots":  # one slot, in which b was since
            assert ends(prefix_cache=cache) == ends()
        else:
            assert ends(prefix_cache=cache)["j0.0"] == pytest.approx(OFF + B + 0.5 + last)


def test_one_that_only_waits_in_its_replica_leaves_at_once() -> None:
    """The window is larger than what runs at once; b's turn comes at a boundary all the same."""
    jobs = [lone(0.0, 4, 2, 4), lone(0.1, 4, 2, 4), lone(0.2, 0, 3, 1)]
    found = outcome(jobs, setup(engine(window=2)))
    displaced = next(span for span in found.spans if span.job == "j0.1")
    assert displaced.away[0][0] == 0.2 and found.preemptions == 1


def test_the_wait_counts_what_it_waited_again() -> None:
    found = outcome(JOBS, setup(engine()))
    span = next(span for span in found.spans if span.job == "j0.0")
    assert span.away == ((pytest.approx(OFF), pytest.approx(OFF + B)),)
    assert found.waits_s == {"j1.0": [pytest.approx(OFF - 1.0)], "j0.0": [pytest.approx(B)]}
    names = [(name, round(end - start, 6)) for name, start, end in phases(span)]
    assert [name for name, _ in names] == ["prefill", "decode", "queued", "decode"]
    assert names[2][1] == pytest.approx(B) and sum(took for _, took in names) == pytest.approx(span.ended, abs=1e-5)


# ---------------------------------------------------------------- against a reference


def srpt(calls: list[tuple[float, int, int]], slots: int, pace: dict[str, float]) -> list[float]:
    """At each boundary the `slots` calls with the least time left run, at no price: when does each end?

    `calls`: (arrival, prompt, output). Time left is that of the call alone, its prefill included until it has begun.
    """

    def alone(p: int, n: int) -> float:
        steps = [pace["d0"] + pace["d1"] + pace["d2"] * (p + i) for i in range(1, n)]
        return pace["q0"] + pace["q1"] * p * p + pace["q2"] * p + sum(steps) if n else 0.0

    made, done, now = [0] * len(calls), [0.0] * len(calls), 0.0
    while not all(done):
        here = [i for i, (arrival, _, _) in enumerate(calls) if arrival <= now and not done[i]]
        if not here:
            now = min(arrival for i, (arrival, _, _) in enumerate(calls) if not done[i])
            continue
        here.sort(key=lambda i: (alone(*calls[i][1:]) - alone(calls[i][1], made[i]), calls[i][0]))
        chosen = here[:slots]
        new, on = [i for i in chosen if not made[i]], [i for i in chosen if made[i]]
        floor = max(pace["q0"] if new else 0.0, pace["d0"] if on else 0.0)
        fresh = sum(pace["q1"] * calls[i][1] ** 2 + pace["q2"] * calls[i][1] for i in new)
        now += floor + fresh + pace["d1"] * len(on) + pace["d2"] * sum(calls[i][1] + made[i] for i in on)
        for i in chosen:
            made[i] += 1
            if made[i] == calls[i][2]:
                done[i] = now
    return done


@pytest.mark.parametrize("seed", range(12))
def test_free_swaps_across_keys_are_shortest_remaining_time_first(seed: int) -> None:
    rng = random.Random(seed)
    pace = {"q0": 0.01, "q1": 1e-7, "q2": 1e-4, "d0": 0.012, "d1": 2e-4, "d2": 1e-6}
    slots, at, calls = rng.randint(1, 4), 0.0, []
    for _ in range(60):
        at += rng.expovariate(1.2 * slots)
        calls.append((round(at, 6), rng.randint(1, 400), rng.randint(1, 200)))
    jobs = [lone(at, 2, prompt, output) for at, prompt, output in calls]
    where = setup(engine(latency=pace, max_concurrency=slots, swap_s_per_token=0.0), across="key", at_most=1000)
    found = outcome(jobs, where, "oracle")
    assert found.preemptions > 5
    ended = {span.job: span.ended for span in found.spans}
    assert [ended[job["job"]] for job in jobs] == pytest.approx(srpt(calls, slots, pace), abs=1e-9)


# ---------------------------------------------------------------- whatever happens


def random_world(seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Jobs of all classes on engines of all kinds."""
    rng = random.Random(seed)
    engines = random_engines(rng)
    for one in engines:
        one |= {
            "swap_s_per_token": rng.choice([None, 0.0, 1e-5, 1e-3]),
            "prefix_cache": rng.choice([False, True, "slots"]),
        }
        if one["prefix_cache"] == "slots":
            one["kv_tokens"] = None
        one |= {"max_concurrency": rng.randint(1, 4), "replicas": rng.randint(1, 2)}
    jobs = random_jobs(rng, 40, len(engines), 4.0)
    return [job | {"urgency": rng.randrange(5)} for job in jobs], engines


class Watch:
    """Of each call: the tokens it had, whenever that was told."""

    def __init__(self) -> None:
        self.tokens: dict[str, int] = {}
        self.preempted = self.ended = 0
        self.commands: list[Command] = []

    def __call__(self, event: ev.Event, commands: list[Command]) -> None:
        self.commands += commands
        if isinstance(event, ev.CallStreamed | ev.CallPreempted | ev.CallFinished):
            tokens = {ev.CallStreamed: "tokens", ev.CallPreempted: "tokens_kept", ev.CallFinished: "output_tokens"}
            made = max(getattr(event, tokens[type(event)]), 0)
            assert made >= self.tokens.get(event.call, 0) or isinstance(event, ev.CallFinished), "tokens were lost"
            self.tokens[event.call] = made
            self.preempted += isinstance(event, ev.CallPreempted)
            self.ended += isinstance(event, ev.CallFinished)


@pytest.mark.parametrize("across", ["class", "key"])
@pytest.mark.parametrize("seed", range(6))
def test_every_call_is_answered_whole_and_nothing_is_left(seed: int, across: str) -> None:
    jobs, engines = random_world(seed)
    where, oracle, watch = setup(*engines, across=across), Oracle(), Watch()
    policy = "urgency>oracle"
    scheduler = build(scheduler_spec(where, policy), {"oracle": oracle})
    simulation = Simulation(as_jobs(jobs), where.engines, scheduler, oracle, observe=watch)
    found = simulation.run()
    scheduler.check()
    calls = sum(stage["kind"] == "llm" for job in jobs for stage in job["stages"] if job["job"] in found.jct_s)
    assert found.policy_error is None and len(found.jct_s) + len(found.rejected) == len(jobs)
    assert watch.ended >= calls and found.preemptions == watch.preempted
    assert sum(isinstance(command, Preempt) for command in watch.commands) >= watch.preempted > 0
    for replica in simulation._replicas:
        left = [*replica.running.values(), *replica.waiting, *replica._leaving, *replica.displaced]
        assert all(call.run.failed for call in left) and (left or not replica.kv)


def test_a_job_that_is_refused_takes_its_displaced_calls_along() -> None:
    """Of one job a call is displaced, another asks for a model that nobody serves."""
    stages = [
        {"id": "s0", "name": "s0", "kind": "llm", "model": "m", "prompt_tokens": 5, "output_tokens": 50},
        {"id": "t", "name": "t", "kind": "tool", "duration_s": 4.0},
        {
            "id": "s1",
            "name": "s1",
            "kind": "llm",
            "model": "none",
            "needs": ["t"],
            "prompt_tokens": 5,
            "output_tokens": 5,
        },
    ]
    for urgent in (1.0, 3.9, 4.0, 4.5):  # waits by then, is leaving, and so on
        jobs = [{"job": "j", "app": "a", "arrival_s": 0.0, "urgency": 4, "stages": stages}, lone(urgent, 0, 9, 9)]
        found = outcome(jobs, setup(engine()))
        assert found.rejected == {"j": "stage s1: 404 unknown_model"} and list(found.jct_s) == [f"j{urgent}"]


@pytest.mark.parametrize("seed", range(4))
def test_where_nobody_may_be_displaced_all_is_as_without(seed: int) -> None:
    """Preemption across classes, and one class: the same commands as without, byte for byte, at the same times."""
    jobs, engines = random_world(seed)
    jobs = [job | {"urgency": 2} for job in jobs]
    seen = []
    for across in (None, "class"):
        watch = Watch()
        where = setup(*engines, across=across)
        found = Simulation(as_jobs(jobs), where.engines, build(scheduler_spec(where, "fcfs")), observe=watch).run()
        # where progress is told, runs are cut at other iterations, and lengths rounded to a picosecond there
        seen.append((msgspec.json.encode(watch.commands), found.jct_s))
    assert seen[0] == (seen[1][0], pytest.approx(seen[1][1], abs=1e-7))


ENGINES = """\
engines:
  - name: e
    models: [small, large]
    max_concurrency: 4
    latency: {q2: 1.0e-4, d0: 0.01, d1: 1.0e-3}
"""


def test_the_command_line_and_the_file_say_whether(tmp_path: Path) -> None:
    """By the file, by an option that goes before it; counted in what is written."""
    jobs, plain, told = tmp_path / "jobs.jsonl", tmp_path / "plain.yaml", tmp_path / "told.yaml"
    drawn, _ = random_world(5)
    jobs.write_bytes(b"\n".join(msgspec.json.encode(job) for job in drawn))
    text = ENGINES.replace("small, large", "m0, m1, m2")
    plain.write_text(text)
    told.write_text(text + "preemption: {across: key}\n")

    def count(engines: Path, *more: str) -> int:
        out = tmp_path / "out.json"
        args = ["simulate", str(jobs), "--engines", str(engines), "--policy", "urgency>fcfs", "--json", str(out), *more]
        assert main(args) == 0
        result: int = msgspec.json.decode(out.read_bytes())["policies"]["urgency>fcfs"]["preemptions"]
        return result

    by_class, by_key = count(plain, "--preempt", "class"), count(told)
    assert by_key == count(plain, "--preempt", "key") > by_class == count(told, "--preempt", "class") > 0
    assert count(plain) == count(told, "--preempt", "never") < by_class


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("preemption: {at_most: 0}", "`at_most`: 0; use 1 or more"),
        ("preemption: {across: all}", "Invalid enum value 'all'"),
        ("preemption: {often: 3}", "often"),
        ("preemption: {across: key}", "'fair' gives turns"),
    ],
)
def test_bad_input_is_told(line: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engines, jobs = tmp_path / "engines.yaml", tmp_path / "jobs.jsonl"
    engines.write_text(ENGINES + line + "\n")
    jobs.write_bytes(msgspec.json.encode(lone(0.0, 0, 1, 1)))
    assert main(["simulate", str(jobs), "--engines", str(engines), "--policy", "urgency>fair>fcfs"]) == 2
    assert says in capsys.readouterr().err
    engines.write_text(ENGINES + "    swap_s_per_token: -1\n")
    assert main(["simulate", str(jobs), "--engines", str(engines)]) == 2
    assert "`swap_s_per_token`: -1.0; use seconds, 0 (free) or more" in capsys.readouterr().err.replace("-1;", "-1.0;")


def test_its_journal_replays(tmp_path: Path) -> None:
    jobs, engines = random_world(3)
    where = setup(*engines)
    spec = scheduler_spec(where, "urgency:strict=0>hocket")
    journal = JournalWriter(tmp_path / "j", spec, max_bytes=1 << 30, keep=1)
    found = Simulation(as_jobs(jobs), where.engines, build(spec), observe=journal.write).run()
    journal.close()
    assert found.preemptions > 0
    assert replay_journal(tmp_path / "j") is None
