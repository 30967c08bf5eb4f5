"""What was told of one open job, in order, and the record that it makes.

Most jobs of a gateway with room to spare are never asked about: to note a fact costs them one tuple. The record is
made of the facts when somebody reads it.
"""

from __future__ import annotations

from typing import Any

from hocket.beliefs.record import Record, Step

BEGAN, LOST = 6, 1
"items of the facts that a step began, and that it will never end; that it ended has 4"


class Facts:
    """All that one job has shown."""

    __slots__ = (
        *("_ended", "_frontier", "_noted", "_record", "_turn_of", "_turns"),
        *("answered", "begun", "features", "moves", "over", "told"),
    )

    def __init__(self, features: dict[str, float]) -> None:
        self.features = features
        "facts of its first request. Not to be written"
        self.told: list[tuple[Any, ...]] = []
        "(step, stage, model, prompt, most, hint); (step, prompt, output, seconds) at its end; (step,) if it was lost"
        self.begun = self.over = 0
        "steps that became visible, and those of them that have ended or were lost"
        self.answered = False
        "whether one of them has ended"
        self.moves = 0
        "how often what is known of it has changed"
        self._record: Record | None = None

    def began(self, stage: str, model: str | None, prompt_tokens: int, most: int | None, hint: int | None) -> int:
        """A step became visible: a call, or (without a model) a tool run. Returns its index in the record."""
        index = self.begun
        self.begun = index + 1
        self.moves += 1
        self.told.append((index, stage, model, prompt_tokens, most, hint))
        return index

    def finished(self, index: int, prompt_tokens: int, output_tokens: int, duration_s: float = 0.0) -> None:
        """A step ended, with these sizes."""
        self.over += 1
        self.answered = True
        self.moves += 1
        self.told.append((index, prompt_tokens, output_tokens, duration_s))

    def lost(self, index: int) -> None:
        """A step will never end: nothing is learned from it, and it is no longer to be done."""
        self.over += 1
        self.moves += 1
        self.told.append((index,))

    # ---------------------------------------------------------------- what they make

    @property
    def record(self) -> Record:
        """What it has shown so far; sizes of steps that have not ended are 0. Grows as facts are told."""
        return self._noted_record()

    @property
    def ended(self) -> list[int]:
        """Indexes of the steps that have ended, or were lost, in that order. Grows with the record."""
        self._noted_record()
        return self._ended

    def _noted_record(self) -> Record:
        """The record, with all that was told."""
        record = self._record
        if record is None:
            record = self._record = Record([], self.features)
            self._noted = 0  # facts that it holds
            self._ended: list[int] = []
            self._frontier: list[int] = []  # steps that have ended, and that no other step was seen to wait for
            self._turns: dict[str, int] = {}  # stage -> its latest turn
            self._turn_of: list[int] = []  # of each step
        if self._noted < len(self.told):
            steps = record.steps
            for fact in self.told[self._noted :]:
                if len(fact) == BEGAN:
                    _, stage, model, prompt_tokens, _, _ = fact
                    steps.append(Step(stage, model, prompt_tokens, 0, 0.0, list(self._frontier)))
                    turn = self._turns[stage] = self._turns.get(stage, -1) + 1
                    self._turn_of.append(turn)
                else:
                    self._note_end(steps[fact[0]], fact)
            self._noted = len(self.told)
        return record

    def _note_end(self, step: Step, fact: tuple[Any, ...]) -> None:
        if len(fact) != LOST:
            index, prompt_tokens, step.output_tokens, step.duration_s = fact
            if prompt_tokens:
                step.prompt_tokens = prompt_tokens
        else:
            (index,) = fact
        if step.after:
            after = set(step.after)
            self._frontier = [before for before in self._frontier if before not in after]
        self._frontier.append(index)
        self._ended.append(index)

    def _forget(self) -> list[tuple[Any, ...]]:
        """As if nothing had been told; `moves` goes on. Returns what was."""
        told, self.told, self._record = self.told, [], None
        self.begun = self.over = 0
        self.answered = False
        return told
