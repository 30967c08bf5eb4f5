"""A job as it is being made."""

from __future__ import annotations

from collections.abc import Sequence

from hocket.sim.workloads.draws import Draws
from hocket.trace import CommonPrefix, Prefix, Stage

TOOL_SECONDS = (0.008, 0.015, 0.02, 0.025, 0.03, 0.13, 2.5, 7.0, 19.0, 22.0)
"a tool run: median 0.03 s, 1 in 100 above 19 s. TraceLab (uw-syfi/TraceLab), its quantiles and example rounds"
SEARCH_SECONDS = (0.1, 0.2, 0.25, 0.4, 0.6, 0.9, 1.5, 2.3, 4.0, 10.0)
"no source (none of the recorded searches has times): a request to a search service"
KEEP_SECONDS = 0.001
"no source: the application compares what it has got"


class Draft:
    """The stages of one job, and what its first request shows."""

    def __init__(self, app: str, draws: Draws) -> None:
        self.app = app
        self.draws = draws
        self.stages: list[Stage] = []
        self.limit: int | None = None
        "`max_tokens` of the calls that are added from here on"
        self.tools: int | None = None
        "how many tools the first request offers"

    @property
    def features(self) -> dict[str, float]:
        """What a gateway knows of the job when its first request is there."""
        first = self.stages[0]
        known = {"prompt_tokens": first.prompt_tokens, "max_tokens": first.max_tokens, "tools": self.tools}
        return {name: value for name, value in known.items() if value is not None}

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
        common: int = 0,
        shares: tuple[Stage, int] | None = None,
    ) -> Stage:
        """Add a call. `common`: its first tokens are those of all such calls; `shares`: and those of one other."""
        stage = Stage(id=id_, name=name or id_, kind="llm", model=model, needs=[need.id for need in needs])
        stage.prompt_tokens, stage.max_tokens = prompt, self.limit
        stage.output_tokens = max(1, output if self.limit is None else min(output, self.limit))
        stage.revealed_by = revealed_by.id if revealed_by else None
        if common:
            stage.common_prefix = CommonPrefix(f"{self.app} {stage.name} {common}", common)
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
