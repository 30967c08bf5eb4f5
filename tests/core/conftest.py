"""The bare scheduler of the core's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.core.bare import Bare


@pytest.fixture
def core() -> Iterator[Callable[..., Bare]]:
    """Makes schedulers; in the end the invariants of each must hold, and no policy may have failed unasked."""
    made: list[Bare] = []

    def make(*policy: str, **settings: Any) -> Bare:
        made.append(Bare(*policy, **settings))
        return made[-1]

    yield make
    for bare in made:
        bare.scheduler.check()
        assert bare.scheduler.policy_error is None or bare.scheduler.policy_error.startswith("Asked")
