"""A job as it is being made."""

from __future__ import annotations

from collections.abc import Sequence

from hocket.sim.workloads.draws import Draws
from hocket.trace import CommonPrefix, Prefix, Stage

TOOL_SECONDS = (0.008, 0.02, 0.025, 0.03, 0.13, 2.5, 7.0, 19.0, 22.0)
"a tool run: median 0.03 s, 1 in 100 above 19 s. TraceLab (uw-syfi/TraceLab), its quantiles and example rounds"
SEARCH_SECONDS = (0.1, 0.25, 0.4, 0.6, 0.9, 1.5, 2.3, 4.0, 10.0)
"no source (none of the recorded searches has times): a request to a search service"
KEEP_SECONDS = 0.001
"no source: the application compares what it has got"


class Draft:
    """The stages of one job, and what its first request shows."""

    def __init__(self, draws: Draws) -> None:
        self.draws = draws
        self.stages: list[Stage] = []
        self.features: dict[str, float] = {}

    def llm(
        self,
        id_: str,
        model: str,
        needs: Sequence[Stage],
        prompt: int,
        output: int,
        *,
        name: str | None = None,
        revealed_by: Stage | None = None,
        max_tokens: int | None = None,
        common: int = 0,
        shares: tuple[Stage, int] | None = None,
    ) -> Stage:
        """Add a call. `common`: its first tokens are the same in every job; `shares`: as those of another call."""
        stage = Stage(id=id_, name=name or id_, kind="llm", model=model, needs=[need.id for need in needs])
        stage.prompt_tokens, stage.output_tokens = prompt, max(1, output)
        stage.max_tokens = max_tokens
        stage.revealed_by = revealed_by.id if revealed_by else None
        if common:
            stage.common_prefix = CommonPrefix(stage.name, common)
        if shares:
            stage.shares_prefix = Prefix(shares[0].id, min(shares[1], prompt))
        self.stages.append(stage)
        return stage

    def tool(
        self,
        id_: str,
        needs: Sequence[Stage],
        seconds: Sequence[float] | float = TOOL_SECONDS,
        *,
        name: str | None = None,
        revealed_by: Stage | None = None,
    ) -> Stage:
        """Add a tool run; `seconds`: how long, or a table to draw it from."""
        took = seconds if isinstance(seconds, float) else round(self.draws.value(seconds), 6)
        stage = Stage(id=id_, name=name or id_, kind="tool", needs=[need.id for need in needs], duration_s=took)
        stage.revealed_by = revealed_by.id if revealed_by else None
        self.stages.append(stage)
        return stage

    def samples(
        self,
        id_: str,
        model: str,
        needs: Sequence[Stage],
        prompt: int,
        outputs: Sequence[int],
        *,
        name: str,
        common: int = 0,
    ) -> list[Stage]:
        """Several answers to one prompt: parallel calls of one stage."""
        made: list[Stage] = []
        for number, output in enumerate(outputs):
            shares = (made[0], prompt) if made else None
            call = f"{id_}.{number}"
            made.append(self.llm(call, model, needs, prompt, output, name=name, common=common, shares=shares))
        return made
