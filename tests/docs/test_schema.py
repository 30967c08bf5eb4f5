"""The JSON schema of the settings file is the one that the code has."""

from __future__ import annotations

import msgspec

from hocket.settings import Settings
from tests.docs.pages import ROOT


def test_the_schema_is_what_config_schema_prints() -> None:
    shipped = msgspec.json.decode((ROOT / "docs/reference/hocket.schema.json").read_bytes())
    assert shipped == msgspec.json.schema(Settings), "run: hocket config schema > docs/reference/hocket.schema.json"
