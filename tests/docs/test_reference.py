"""What is in the code is in the reference, and the other way round."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from hocket.assembly import build
from hocket.beliefs.profile import Choice, Edge, Node, Profile, Variable
from hocket.beliefs.record import Step
from hocket.cli import COMMANDS, module_of
from hocket.core.spec import EngineSpec, SchedulerSpec
from hocket.gateway.drift import Drift
from hocket.history.recorder import HistoryMetrics, HistoryRecorder
from hocket.history.store import Store
from hocket.metrics import Metrics
from hocket.policies import ORDERINGS, RECIPES, ROUTINGS
from hocket.settings import Settings
from tests.docs.pages import ROOT, named_rows

REFERENCE = ROOT / "docs" / "reference"


def names(page: str, heading: str | None = None) -> list[str]:
    return [name for name, _ in named_rows(REFERENCE / page, heading)]


# ---------------------------------------------------------------- policies


def test_policies_are_listed() -> None:
    assert sorted(names("policies.md", "Orderings")) == sorted([*ORDERINGS, *RECIPES])
    assert sorted(names("policies.md", "Routings")) == sorted(ROUTINGS)


def test_each_policy_has_a_page_and_each_page_a_policy() -> None:
    pages = {file.stem for file in (REFERENCE / "policies").glob("*.md")}
    assert pages == {*ORDERINGS, *RECIPES}


@pytest.mark.parametrize("name", ORDERINGS)
def test_a_policy_page_is_complete_and_tells_the_scope_and_the_facts(name: str) -> None:
    text = (REFERENCE / "policies" / f"{name}.md").read_text()
    assert text.startswith(f"# {name}\n")
    for part in ("**Question.**", "**Rule.**", "**Trade-off.**", "**Paper.**"):
        assert part in text, f"{name}.md: no {part}"
    assert "starve" in text, f"{name}.md: who can starve?"
    ordering = ORDERINGS[name]()
    facts = ", ".join(sorted(fact.value for fact in ordering.reads)) or "nothing that moves"
    assert f"\n| {ordering.scope.name.lower()} | {facts} |\n" in text


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_page_tells_what_it_stands_for(name: str) -> None:
    stands_for = " > ".join(f"`{part}`" for part in RECIPES[name])
    assert f"| `{name}` | {stands_for} |" in (REFERENCE / "policies" / f"{name}.md").read_text()


# ---------------------------------------------------------------- commands


def options(command: str) -> set[str]:
    """Every long option of a command and of its actions."""
    parser = argparse.ArgumentParser()
    module_of(command).configure(parser)
    return {option for p in parsers(parser) for action in p._actions for option in action.option_strings} - {"-h", "-o"}


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in {id(p): p for p in action.choices.values()}.values():
                yield from parsers(child)


def section(command: str) -> str:
    text = (REFERENCE / "cli.md").read_text()
    (found,) = re.findall(rf"^## {command}$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return str(found)


def test_commands_are_listed() -> None:
    assert names("cli.md", "Commands") == list(COMMANDS)
    headings = re.findall(r"^## (\w+)$", (REFERENCE / "cli.md").read_text(), re.MULTILINE)
    assert [h for h in headings if h.islower()] == list(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_options_are_listed(command: str) -> None:
    told = set(re.findall(r"`(--[a-z][a-z-]*)", section(command)))
    real = {option for option in options(command) if option.startswith("--")} - {"--help"}
    assert told == real


# ---------------------------------------------------------------- settings


def settings(kind: type[msgspec.Struct], path: str = "") -> Iterator[str]:
    """Keys as the reference writes them: `engines[].name`, `timeouts.connect`."""
    for info in msgspec.structs.fields(kind):
        key = path + info.encode_name
        yield key
        yield from below(msgspec.inspect.type_info(info.type), key)


def below(info: Any, key: str) -> Iterator[str]:
    if isinstance(info, msgspec.inspect.StructType):
        yield from settings(info.cls, f"{key}.")
    elif isinstance(info, msgspec.inspect.ListType):
        yield from below(info.item_type, f"{key}[]")
    elif isinstance(info, msgspec.inspect.DictType):
        yield from below(info.value_type, f"{key}.*")
    elif isinstance(info, msgspec.inspect.UnionType):
        for part in info.types:
            yield from below(part, key)


def test_settings_are_listed() -> None:
    assert sorted(names("settings.md")) == sorted(settings(Settings))


# ---------------------------------------------------------------- profiles


@pytest.mark.parametrize(
    ("heading", "kind"), [("Of the application", Profile), ("Of a node", Node), ("Of the network", Variable)]
)
def test_fields_of_a_profile_are_listed(heading: str, kind: type[msgspec.Struct]) -> None:
    assert sorted(names("profile.md", heading)) == sorted(kind.__struct_fields__)


def test_fields_of_a_profile_that_are_told_in_prose() -> None:
    text = (REFERENCE / "profile.md").read_text()
    assert "`[before, after, share, again]`" in text
    assert Edge.__struct_fields__ == ("before", "after", "share", "again")
    assert "`[stages, share]`" in text
    assert Choice.__struct_fields__ == ("stages", "share")
    assert len(re.findall(r"^\| \d \| ", text, re.MULTILINE)) == len(Step.__struct_fields__)


# ---------------------------------------------------------------- metrics


def test_metrics_are_listed() -> None:
    scheduler = build(SchedulerSpec([EngineSpec("small", ["small"])]))
    metrics = Metrics(scheduler)
    metrics.registry.register(HistoryMetrics(HistoryRecorder(Store("history.db")).writer))
    metrics.registry.register(Drift())
    text = metrics.render().decode()
    exposed = set(re.findall(r"^# TYPE (hocket_\w+) ", text, re.MULTILINE))
    exposed = {name for name in exposed if not name.endswith("_created")}
    assert exposed, "no metric is exposed"
    assert sorted(names("metrics.md")) == sorted(exposed)


# ---------------------------------------------------------------- the map


def test_the_map_has_every_part() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text().partition("## Map")[2]
    source = ROOT / "src" / "hocket"
    parts = [*(f"{p.parent.name}/" for p in source.glob("*/__init__.py")), *(p.name for p in source.glob("[!_]*.py"))]
    assert [part for part in parts if f"`src/hocket/{part}`" not in text] == []
