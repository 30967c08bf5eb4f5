"""Rounds: which pass of its stage each step of a job belongs to. Networks have their variables by round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from hocket.beliefs.record import Step

PROMPT = "prompt_tokens"
"a fact of the request; where nobody reports it, the prompt tokens of its first call stand for it"
REST = "*"
"the stage that stands for all calls of stages without variables of their own"


class Round(NamedTuple):
    """One pass of a stage, or, the last one told apart, all further ones too."""

    stage: str
    turn: int


class Rounds:
    """Which round of its stage each step of a job is. Takes the steps as they come."""

    def __init__(self) -> None:
        self.turns: list[int] = []
        self._stages: list[str] = []
        self.ancestors: list[int] = []
        "of each step, all that had ended before it began: bit i is step i"
        self._rounds: dict[str, list[int]] = {}

    def add(self, step: Step) -> int:
        """The round of one more step: 1 more than the last one that has a task before it."""
        bits = 0
        for before in step.after:
            bits |= self.ancestors[before] | 1 << before
        rounds = self._rounds.setdefault(step.stage, [])
        turn = next((n + 1 for n in range(len(rounds) - 1, -1, -1) if rounds[n] & bits), 0)
        if turn == len(rounds):
            rounds.append(0)
        rounds[turn] |= 1 << len(self.turns)
        self.turns.append(turn)
        self.ancestors.append(bits)
        return turn


def place_of(places: Mapping[Round, int], stage: str, turn: int, *, llm: bool) -> int | None:
    """The place of the round that a step belongs to: its own, the last of its stage, or that of all other calls."""
    turn = min(turn, len(places))  # rounds are told apart from the first on: there are no more than places
    while turn >= 0:
        place = places.get(Round(stage, turn))
        if place is not None:
            return place
        turn -= 1
    return places.get(Round(REST, 0)) if llm else None


def first_prompt(steps: Sequence[Step]) -> float | None:
    """Prompt tokens of the first call of a job."""
    return next((float(step.prompt_tokens) for step in steps if step.model is not None), None)


def size_of(step: Step) -> float:
    """Tokens of a call's answer, or seconds of a tool run."""
    return step.duration_s if step.model is None else float(step.output_tokens)
