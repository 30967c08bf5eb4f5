"""A graph that an application's author declares, in YAML, instead of having it found in recorded jobs.

The structure is declared, the numbers (shares, rounds, fan-out) still come from the records.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from hocket.beliefs.choices import declared
from hocket.beliefs.graph import Graph, Pairs, describe, models_of, shapes_of
from hocket.beliefs.profile import Edge
from hocket.beliefs.record import Record
from hocket.errors import InputError


class Stage(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A stage of a declared graph."""

    name: str
    kind: Literal["llm", "tool"] = "llm"
    needs: list[str] = []
    "stages that end before it begins"
    again_after: list[str] = []
    "stages of one round after which its next round begins: a loop"
    revealed_by: str | None = None
    "the stage whose answer decides whether it runs"


class Declared(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The file of `hocket learn --graph`."""

    app: str
    stages: list[Stage]

    def __post_init__(self) -> None:
        """Check what types cannot say. An error begins with its key, which the loader turns into a line."""
        if not self.app:
            raise ValueError("`app`: empty; name the application")
        if not self.stages:
            raise ValueError("`stages`: empty; list at least one")
        names = [stage.name for stage in self.stages]
        for index, stage in enumerate(self.stages):
            where = f"stages[{index}]"
            if not stage.name:
                raise ValueError(f"`{where}.name`: empty; name the stage")
            if stage.name in names[:index]:
                raise ValueError(f"`{where}.name`: {stage.name!r} is there twice; parallel tasks are one stage")
            for field, listed in (("needs", stage.needs), ("again_after", stage.again_after)):
                for number, name in enumerate(listed):
                    if name not in names:
                        raise ValueError(f"`{where}.{field}[{number}]`: no stage {name!r}; there is {', '.join(names)}")
            if stage.name in stage.needs:
                raise ValueError(f"`{where}.needs`: itself; a loop is `again_after`")
            if stage.revealed_by is not None and (stage.revealed_by not in names or stage.revealed_by == stage.name):
                raise ValueError(f"`{where}.revealed_by`: no other stage {stage.revealed_by!r}; name its planner")
        self._refuse_cycle()

    def _refuse_cycle(self) -> None:
        needs = {stage.name: set(stage.needs) for stage in self.stages}
        while ready := [name for name, before in needs.items() if not before]:
            for name in ready:
                del needs[name]
            for before in needs.values():
                before.difference_update(ready)
        if needs:
            index = next(i for i, stage in enumerate(self.stages) if stage.name in needs)
            raise ValueError(f"`stages[{index}].needs`: a cycle among {', '.join(needs)}; a loop is `again_after`")

    def graph(self, records: Sequence[Record]) -> Graph:
        """The declared graph, with what the records say of it. Raises InputError where they are of another one."""
        models = models_of(records)
        kinds = {stage.name: stage.kind for stage in self.stages}
        for name, used in models.items():
            if name not in kinds:
                raise InputError(f"graph of {self.app!r}: the jobs have a stage {name!r}, which it lacks; declare it")
            if bool(used) != (kinds[name] == "llm"):
                kind = "llm" if used else "tool"
                raise InputError(f"graph of {self.app!r}: stage {name!r} is {kind} in the jobs; declare it as that")
        shapes = shapes_of(records, kinds)
        planners = {stage.name: stage.revealed_by for stage in self.stages if stage.revealed_by is not None}
        never = {name: Counter[str]() for name in kinds if name not in models}
        found = describe(models | never, shapes, self._edges(Pairs(shapes)), declared(shapes, planners))
        for node in found.nodes:
            node.kind = kinds.get(node.name, node.kind)
        return found

    def _edges(self, pairs: Pairs) -> Iterator[Edge]:
        for stage in self.stages:
            for again, listed in ((False, stage.needs), (True, stage.again_after)):
                for before in listed:
                    edge = pairs.edge((before, stage.name))
                    edge.again = again
                    yield edge
