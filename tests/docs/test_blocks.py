"""What a reader may copy is right: YAML is read by the loader it is for, commands exist, Python compiles."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from hocket.beliefs.declared import Declared
from hocket.cli import COMMANDS
from hocket.planner.demand import Rates
from hocket.planner.inputs import Cluster, Models
from hocket.settings import Settings
from hocket.sim.experiment import load_setup
from hocket.yamlfile import parse_yaml
from tests.docs.pages import PAGES, ROOT, Block, blocks, label

BLOCKS = [(page, block) for page in PAGES for block in blocks(page)]


def of(language: str) -> pytest.MarkDecorator:
    chosen = [(page, block) for page, block in BLOCKS if block.language == language]
    assert chosen, f"no {language} block is left to check"
    return pytest.mark.parametrize(("page", "block"), chosen, ids=[f"{label(p)}:{b.line}" for p, b in chosen])


READ_AS = {"graph.yaml": Declared, "cluster.yaml": Cluster, "models.yaml": Models, "apps.yaml": Rates}


@of("yaml")
def test_yaml_is_read_by_its_loader(page: Path, block: Block, tmp_path: Path) -> None:
    """A block is `hocket.yaml`, unless the comment above names another file, or says `part` (of one)."""
    source = f"{label(page)}:{block.line}"
    if block.name == "engines.yaml":
        file = tmp_path / "engines.yaml"
        file.write_text(block.text)
        load_setup(str(file))
    elif block.name in READ_AS:
        parse_yaml(block.text, READ_AS[block.name], source)
    elif block.name == "part":
        yaml.safe_load(block.text)
    else:
        parse_yaml(block.text, Settings, source)


@of("sh")
def test_commands_exist(page: Path, block: Block) -> None:
    text = block.text.replace("\\\n", " ")
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        for before, after in pairwise(words):
            if re.fullmatch(r"(.*/)?hocket", before) and not after.startswith("-"):
                assert after in COMMANDS, f"{label(page)}: hocket {after}: no such command"
            if re.fullmatch(r"(.*/)?python3?", before) and after.endswith(".py"):
                assert (ROOT / after).exists(), f"{label(page)}: {after} does not exist"


@of("python")
def test_python_compiles(page: Path, block: Block) -> None:
    text = block.text if not block.text.startswith(" ") else f"{{\n{block.text}}}"
    compile(text, f"{label(page)}:{block.line}", "exec")
