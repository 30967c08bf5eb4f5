"""Twenty seeds of five minutes in which everything goes wrong (`tests/chaos/world.py`), in virtual time.

After each event the core's invariants hold; each call ends once, for its client and in the history; in the end no slot
is held; and every journal, with its rotations, replays byte for byte. What fails leaves its journals behind:
CONTRIBUTING.md says how one becomes a test.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hocket.assembly import replay_journal
from hocket.core.invariants import check
from tests.chaos.world import World

SEEDS = int(os.environ.get("HOCKET_CHAOS_SEEDS", "20"))
FIRST = int(os.environ.get("HOCKET_CHAOS_SEED", "1"))
SECONDS = float(os.environ.get("HOCKET_CHAOS_SECONDS", "300"))


@pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS))
def test_five_minutes_of_everything(seed: int, tmp_path: Path) -> None:
    world = World(seed, tmp_path, check)
    try:
        world.run(SECONDS)
    except BaseException as error:
        world.journal.close()
        error.add_note(f"HOCKET_CHAOS_SEED={seed}; the journal is {world.journals[-1]} (see CONTRIBUTING.md)")
        raise
    for path in sorted(tmp_path.glob("journal-*.jsonl*")):
        difference = replay_journal(path)
        assert difference is None, f"HOCKET_CHAOS_SEED={seed}: {path}: {difference}"
    print(f"{world.events} events, {len(world.calls)} calls, {world.lives} lives, {dict(world.troubles)}")
