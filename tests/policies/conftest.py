"""The bare scheduler of the core's tests, here too."""

from tests.core.conftest import core

__all__ = ["core"]
