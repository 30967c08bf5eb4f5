"""What is remembered of the calls of one tenant, so that a later one is known to go on from them.

Everything is a hash of fixed size, in one dictionary with an upper bound: the least recently used goes first. An entry
says which turn a hash belongs to: the end of its request, the end of its answer, an id that its answer gave out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator

import msgspec

from hocket.gateway.identity.conversation import BLOCK, Chain, tail_hash

MAX_TWINS = 8
"turns remembered with one hash: more than one in use says nothing, so that more are not worth keeping"


class Turn(msgspec.Struct, gc=False, eq=False):
    """One call, as far as a later one needs to know it."""

    job: str
    "the job's id, as its client knows it"
    app: str
    stage: str
    parent: str | None = None
    fingerprint: str | None = None
    open: bool = True
    "its answer is not complete: nobody can have gone on from it"
    heard: bool = False
    "its answer is remembered too, at an end of its own: whoever goes on from here had another, or has changed it"


class Session(msgspec.Struct, gc=False, eq=False):
    """A conversation that a client named."""

    job: str
    stage: str
    "of its latest call"


class Memory:
    """Of one tenant. At most `limit` hashes and as many sessions."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._turns: OrderedDict[bytes, tuple[Turn, ...]] = OrderedDict()
        self._tails: OrderedDict[bytes, int] = OrderedDict()
        self._sessions: OrderedDict[str, Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._turns)

    # ---------------------------------------------------------------- turns

    def add(self, key: bytes, turn: Turn) -> int:
        """`key` belongs to `turn`: of how many jobs is it now? An earlier turn of the same job is forgotten."""
        turns = self._turns
        twins = turns.get(key)
        if twins is None:
            turns[key] = (turn,)
            if len(turns) > self._limit:
                turns.popitem(last=False)
            return 1
        twins = (*[twin for twin in twins if twin.job != turn.job], turn)[-MAX_TWINS:]
        turns[key] = twins
        turns.move_to_end(key)
        return len(twins)

    def add_end(self, chain: Chain, turn: Turn) -> int:
        """The end of a request belongs to `turn`: of how many jobs is it now?"""
        if chain.text:
            block = chain.hashes[-1]
            self._tails[block] = self._tails.get(block, 0) | 1 << len(chain.text) % BLOCK
            self._tails.move_to_end(block)
            if len(self._tails) > self._limit:
                self._tails.popitem(last=False)
        return self.add(chain.end, turn)

    def at(self, key: bytes) -> tuple[Turn, ...]:
        """The turns that `key` belongs to."""
        twins = self._turns.get(key)
        if twins is None:
            return ()
        self._turns.move_to_end(key)
        return twins

    def before(self, chain: Chain) -> Iterator[tuple[Turn, ...]]:
        """The turns that `chain` extends, the longest first."""
        if chain.text:
            yield from self._before_text(chain)
        elif len(chain.hashes) > 1:
            turns = self._turns
            for key in reversed(chain.hashes[:-1]):
                if key in turns:
                    yield self.at(key)

    def _before_text(self, chain: Chain) -> Iterator[tuple[Turn, ...]]:
        text = chain.text
        for i in range(len(chain.hashes) - 1, -1, -1):
            lengths = self._tails.get(chain.hashes[i], 0)
            rest = text[i * BLOCK : (i + 1) * BLOCK]
            lengths &= (1 << min(len(rest), BLOCK)) - 1 if i == len(chain.hashes) - 1 else -1
            while lengths:
                length = lengths.bit_length() - 1
                lengths ^= 1 << length
                if twins := self.at(tail_hash(chain.hashes[i], rest[:length])):
                    yield twins

    # ---------------------------------------------------------------- sessions

    def session(self, name: str) -> Session | None:
        """What is known of a session."""
        session = self._sessions.get(name)
        if session is not None:
            self._sessions.move_to_end(name)
        return session

    def note(self, name: str, job: str, stage: str) -> None:
        """A session of this job is at this stage."""
        self._sessions[name] = Session(job, stage)
        self._sessions.move_to_end(name)
        if len(self._sessions) > self._limit:
            self._sessions.popitem(last=False)


def only(turns: Iterable[Turn]) -> Turn | None:
    """The latest of them, if all are of one job."""
    found = None
    for turn in turns:
        if found is not None and found.job != turn.job:
            return None
        found = turn
    return found
