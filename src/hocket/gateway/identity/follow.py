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
        return self._choose(_of(self.memory.at(chain.end), job))

    def before(self, chain: Chain, fingerprint: str | None, job: str | None) -> Turn | None:
        """The call that this one goes on from."""
        for echo in chain.echoes:
            turn = self._choose(_of(self.memory.at(self.reader.hash("tool call", echo)), job))
            if turn is not None:
                return turn
        for twins in self.memory.before(chain):
            turns = _of((twin for twin in twins if not twin.answered or twin.fingerprint == fingerprint), job)
            if turns:
                # the nearest decides, be it that nobody can tell
                return self._choose(turns) or self._choose([turn for turn in turns if turn.fingerprint == fingerprint])
        return None

    def _choose(self, turns: list[Turn]) -> Turn | None:
        if len(turns) < 2:
            return turns[0] if turns else None
        unheard = [turn for turn in turns if not turn.answered]
        return only(turns) or only(unheard) or only(turn for turn in turns if self._live(turn.job))

    def answered(self, response: object, job: str | None) -> Turn | None:
        """The call that a response of this id was given to."""
        if not isinstance(response, str):
            return None
        return self._choose(_of(self.memory.at(self.reader.hash("response", response)), job))


def _of(turns: Iterable[Turn], job: str | None) -> list[Turn]:
    return [turn for turn in turns if job is None or turn.job == job]
