"""The last source: which earlier call a request goes on from, by what its messages show.

A tool call's id that an answer gave out and that comes back is the surest sign; then the messages of an earlier call,
with its answer or without, at the beginning of this one's. Where two jobs match equally well, neither is taken: a
wrong job is worse than a new one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from hocket.gateway.identity.conversation import Chain, Reader
from hocket.gateway.identity.memory import Memory, Turn, only


class Past:
    """The earlier calls of one tenant. `live` says whether a job is open now."""

    def __init__(self, reader: Reader, memory: Memory, live: Callable[[str], bool]) -> None:
        self.reader, self.memory, self._live = reader, memory, live

    def same(self, chain: Chain, job: str | None) -> Turn | None:
        """The call that a client's retry repeats. `job`: the one that it must be of, None = any."""
        return self._one(_of(self.memory.at(chain.end), job))

    def answered(self, response: object, job: str | None) -> Turn | None:
        """The call that a response of this id was given to."""
        return self._of_id("response", response, job) if isinstance(response, str) else None

    def before(self, chain: Chain, fingerprint: str | None, job: str | None) -> Turn | None:
        """The call that this one goes on from."""
        if len(chain.hashes) == 1 and not chain.text and not chain.echoes:
            return None
        for echo in chain.echoes:
            turn = self._of_id("tool call", echo, job)
            if turn is not None:
                return turn
        for twins in self.memory.before(chain):
            turns = _of((twin for twin in twins if not twin.heard or twin.fingerprint == fingerprint), job)
            if turns:
                # the nearest decides, be it that nobody can tell
                return self._nearest(turns, fingerprint)
        return None

    def _of_id(self, kind: str, value: str, job: str | None) -> Turn | None:
        return self._one(_of(self.memory.at(self.reader.hash(kind, value)), job))

    def _one(self, turns: list[Turn]) -> Turn | None:
        """The one job that it can be: of two, the one that still lives."""
        return only(turns) or (only(turn for turn in turns if self._live(turn.job)) if turns else None)

    def _nearest(self, turns: list[Turn], fingerprint: str | None) -> Turn | None:
        if len(turns) == 1:
            return turns[0]
        turns = [turn for turn in turns if not turn.open] or turns
        return (
            only(turns)
            # an answer that was heard would have been found by itself
            or only(turn for turn in turns if not turn.heard)
            or self._one(turns)
            or self._one([turn for turn in turns if turn.fingerprint == fingerprint])
        )


def _of(turns: Iterable[Turn], job: str | None) -> list[Turn]:
    return [turn for turn in turns if job is None or turn.job == job]
