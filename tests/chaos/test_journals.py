"""Journals of failures, each a test: the core follows it as it did, and its invariants hold after each event.

A journal that fails, of a gateway or of a run of `test_virtual.py`, is copied here. When a later version decides in
another way for good, its journal says so, and is made anew or deleted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hocket.assembly import replay_journal
from hocket.core.invariants import check
from tests.chaos.world import World

JOURNALS = Path(__file__).with_name("journals")


def replays(path: Path) -> None:
    """Raise AssertionError where the core does not go the way that the journal went, or is broken by it."""
    difference = replay_journal(path, each=check)
    assert difference is None, f"{path}: {difference}"


def test_what_failed_once() -> None:
    for path in sorted(JOURNALS.glob("*.jsonl*")):
        replays(path)


def test_the_journal_of_a_failure_fails_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a bug put into the core: the run finds it, and so does the journal that it leaves; without it, neither."""
    from hocket.core.scheduler import Scheduler

    def forgetful(self: Scheduler, event: Any, out: list[Any]) -> None:
        call = self.calls.get(event.call)
        if call is not None:
            self._end(call, out)  # and fills no slot

    with monkeypatch.context() as bug:
        bug.setattr(Scheduler, "_call_cancelled", forgetful)
        world = World(2, tmp_path, check)
        with pytest.raises(AssertionError, match="waits beside a free slot"):
            world.run(300.0)
        world.journal.close()
        with pytest.raises(AssertionError, match="waits beside a free slot"):
            replays(world.journals[-1])
    difference = replay_journal(world.journals[-1], each=check)
    assert difference is not None and "CallCancelled" in difference.event, "without the bug the slot is filled"
