"""How urgent a call is, where it does not say so itself: what its deadline means, and who reads its words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from hocket.settings.checks import Seconds, check_name, refuse, unique

Class = Annotated[int, Meta(ge=0, le=4)]
"0 (emergency) ... 4 (background)"

JUDGE = "hocket-judge"
"the tenant and the application of the judge's own calls"
MAX_EXAMPLE = 2_000
"characters of one example, and of one description"
_DOTTED = re.compile(r"[^.\s]+(\.[^.\s]+)*")


class ClassSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """One class of a domain in plain words."""

    means: str = ""
    'what its texts have in common: "a life is in danger now"'
    examples: list[str] = []
    "texts as they come; a handful from real work says more than any description"


class ReaderSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Reads the words of one domain: the kind of text that some applications or tenants send."""

    name: str
    apps: list[str] = []
    "applications whose jobs it reads; empty = all"
    tenants: list[str] = []
    "tenants whose jobs it reads; empty = all"
    urgency: Class | None = None
    "the class of its jobs before they are read, and of those that cannot be; None = the tenant's"
    encoder: Literal["static", "minilm"] | None = None
    "what makes vectors of texts; None = what the head was trained on, else static"
    head: str | None = None
    "a file that `hocket urgency train` wrote"
    classes: dict[int, ClassSettings] = {}
    "class -> what it means; without a head they are what is read by, and the judge is told them"
    moves_at_most: Annotated[int, Meta(ge=1, le=4)] = 1
    "classes that words may move a job, either way"
    features: dict[str, str] = {}
    "feature of the head -> where it stands in the request's JSON: patient.vitals.hr"

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        check_name(self.name)
        for key in ("apps", "tenants"):
            unique(key, getattr(self, key))
        if self.head is None and not self.classes:
            refuse("name", f"'{self.name}' has nothing to read by; give it a `head`, or describe its `classes`")
        if self.head is not None and not self.head.strip():
            refuse("head", "is empty; name a file that `hocket urgency train` wrote, or describe `classes` instead")
        self._check_classes()
        if self.features and self.head is None:
            refuse("features", "need a `head` that was trained with them: hocket urgency train --features ...")
        for name, path in self.features.items():
            if not _DOTTED.fullmatch(path):
                refuse(f"features.{name}", f"must be a path of keys joined by dots, like patient.hr, got '{path}'")

    def _check_classes(self) -> None:
        for number, described in self.classes.items():
            key = f"classes.{number}"
            if not 0 <= number <= 4:
                refuse(key, "is no class; there are 0 (emergency) to 4 (background)")
            texts = [described.means, *described.examples]
            if not any(text.strip() for text in texts):
                refuse(key, "says nothing; give it `means: ...`, or `examples: [...]`")
            if any(len(text) > MAX_EXAMPLE for text in texts):
                refuse(key, f"holds a text of more than {MAX_EXAMPLE:,} characters; shorten it")
        if len(self.classes) == 1:
            refuse("classes", "holds one class alone: there is nothing to tell it from; describe another")

    def reads(self, app: str, tenant: str) -> bool:
        """Whether jobs of this application and tenant are its own."""
        return (not self.apps or app in self.apps) and (not self.tenants or tenant in self.tenants)


class JudgeSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """A language model that is asked about texts which a reader cannot place. No call ever waits for its answer."""

    engine: str
    "the name of one of `engines`"
    model: str | None = None
    "one of the engine's models; None = its first"
    max_calls_in_flight: Annotated[int, Meta(ge=1, le=64)] = 2
    "waiting ones count; further texts stay with the class that they have"
    per_minute: Annotated[float, Meta(gt=0, le=1e6)] = 60.0
    "judgements, on average; a minute's worth may be saved up"
    timeout_s: Seconds = 10.0
    "an answer that takes longer is not waited for"


class UrgencySettings(Struct, frozen=True, forbid_unknown_fields=True):
    """What decides a job's class where its request does not name one."""

    default: Class = 2
    "of calls of which nothing else is known; a tenant may have its own"
    deadlines_s: list[Seconds] = field(default_factory=lambda: [10.0, 60.0, 600.0, 3600.0])
    "a deadline within the first is class 0, within the second class 1 ...; a later one is class 4"
    readers: list[ReaderSettings] = []
    "the first one that is for a job's application and tenant reads it"
    judge: JudgeSettings | None = None
    if_unreadable: Literal["refuse", "serve"] = "refuse"
    "where a reader's model is missing or broken: do not start, or serve without that reader"

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        if len(self.deadlines_s) != 4 or sorted(set(self.deadlines_s)) != self.deadlines_s:
            refuse("deadlines_s", f"must be four rising numbers of seconds, for classes 0 to 3, got {self.deadlines_s}")
        unique("readers", [reader.name for reader in self.readers], "name")
        for i, reader in enumerate(self.readers[:-1]):
            if not reader.apps and not reader.tenants:
                problem = f"is never asked: '{reader.name}' before it reads every job; give that one apps or tenants"
                refuse(f"readers[{i + 1}]", problem)
        if self.judge is not None and not self.readers:
            refuse("judge", "has nothing to judge without `readers`; describe a domain, or remove it")

    def check(self, engines: dict[str, Sequence[str]], tenants: Sequence[str]) -> None:
        """Check what is said of others: engines (name -> models) and tenants. Raises ValueError as `refuse` does."""
        for i, reader in enumerate(self.readers):
            for k, name in enumerate(reader.tenants):
                if name not in tenants and (tenants or name != "default"):
                    known = ", ".join(tenants) or "none are set: all calls are of 'default'"
                    refuse(f"urgency.readers[{i}].tenants[{k}]", f"there is no tenant '{name}'; there is {known}")
        judge = self.judge
        if judge is None:
            return
        if judge.engine not in engines:
            problem = f"there is no engine '{judge.engine}'; there is {', '.join(engines)}"
            refuse("urgency.judge.engine", problem)
        if judge.model is not None and judge.model not in engines[judge.engine]:
            models = ", ".join(engines[judge.engine])
            refuse("urgency.judge.model", f"engine '{judge.engine}' has no model '{judge.model}'; it has {models}")
        if JUDGE in tenants:
            refuse("tenants", f"'{JUDGE}' is the judge's own name; call that tenant something else")
