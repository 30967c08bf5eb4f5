"""What several tests of the simulator need."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def recorded() -> ModuleType:
    """benchmarks/_recorded.py, which is in no package."""
    spec = importlib.util.spec_from_file_location("_recorded", ROOT / "benchmarks" / "_recorded.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
