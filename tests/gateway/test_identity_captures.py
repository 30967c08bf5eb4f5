"""Recorded requests of real clients, replayed: the right jobs, stages and edges; see tests/captures/README.md."""

from __future__ import annotations

import heapq
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.gateway.identity_world import Turn, World

FOLDER = Path(__file__).parent.parent / "captures"
FILES = sorted(FOLDER.glob("*.jsonl"))
SAYS_WHO = {"session_id", "litellm_session_id", "conversation", "metadata", "vllm_xargs", "nvext", "priority", "user"}
"fields of a body that name something"


class Capture(msgspec.Struct, forbid_unknown_fields=True):
    """One line."""

    client: str
    case: str
    turn: int
    headers: dict[str, str]
    path: str
    body: dict[str, Any]
    answer: dict[str, Any] | None
    expect: dict[str, Any]
    at: float | None = None
    took: float | None = None
    inferred: dict[str, Any] = {}
    note: str | None = None

    @property
    def bare(self) -> Capture:
        """Nothing in it names anything."""
        body = {key: value for key, value in self.body.items() if key not in SAYS_WHO}
        return msgspec.structs.replace(self, headers={}, body=body, expect=self.expect | self.inferred)


def captures(path: Path) -> list[Capture]:
    decoder = msgspec.json.Decoder(Capture)
    return [decoder.decode(line) for line in path.read_bytes().splitlines() if line.strip()]


def moments(case: list[Capture]) -> Iterator[tuple[Capture, bool]]:
    """Arrivals (True) and answers (False) in the order in which they came."""
    heap: list[tuple[float, int, Capture, bool]] = []
    number = itertools.count()
    now = 0.0
    for capture in case:
        at = now + 1.0 if capture.at is None else capture.at
        now = at + (0.5 if capture.took is None else capture.took)
        heapq.heappush(heap, (at, next(number), capture, True))
        heapq.heappush(heap, (now, next(number), capture, False))
    while heap:
        _, _, capture, arrives = heapq.heappop(heap)
        yield capture, arrives


def replay(case: list[Capture]) -> list[str]:
    """What came out wrong, a line for each turn."""
    world = World()
    turns: dict[int, Turn] = {}
    for capture, arrives in moments(case):
        if arrives:
            turns[id(capture)] = world.ask(capture.body, capture.headers, capture.path)
        else:
            turns[id(capture)].end(capture.answer)
    world.places.stop()
    jobs: dict[str, str] = {}
    stages: dict[tuple[str, str], str] = {}
    wrong = []
    for capture in case:
        turn, expect = turns[id(capture)], capture.expect
        job, stage = expect["job"], (expect["job"], expect["stage"])
        problems = []
        if jobs.setdefault(job, turn.job) != turn.job or list(jobs.values()).count(turn.job) > 1:
            problems.append(f"job {turn.job}, not {job}={jobs[job]}")
        if stages.setdefault(stage, turn.stage) != turn.stage:
            problems.append(f"stage {turn.stage}, not {stages[stage]}")
        parent = None if expect["parent"] is None else stages.get((job, expect["parent"]), "?")
        if turn.parent != parent:
            problems.append(f"parent {turn.parent}, not {parent}")
        if (turn.arrived.retry > 0) != expect.get("retry", False) and capture.headers:
            problems.append(f"retry {turn.arrived.retry}")
        if problems:
            wrong.append(f"{capture.client}, {capture.case}, turn {capture.turn}: {'; '.join(problems)}")
    return wrong


def replay_all(path: Path, change: Callable[[Capture], Capture]) -> tuple[int, list[str]]:
    """How many turns there are, and what came out wrong."""
    cases: dict[str, list[Capture]] = defaultdict(list)
    for capture in captures(path):
        cases[capture.case].append(change(capture))
    return sum(map(len, cases.values())), [line for case in cases.values() for line in replay(case)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
async def test_with_what_clients_send_every_turn_is_right(path: Path) -> None:
    turns, wrong = replay_all(path, lambda capture: capture)
    assert turns and not wrong, "\n".join(wrong)


async def test_of_turns_that_name_nothing_98_of_100_are_right() -> None:
    turns, wrong = 0, []
    for path in FILES:
        more, bad = replay_all(path, lambda capture: capture.bare)
        turns, wrong = turns + more, wrong + bad
    assert turns >= 100, "too few to tell"
    assert len(wrong) <= 0.02 * turns, f"{len(wrong)} of {turns}:\n" + "\n".join(wrong)
