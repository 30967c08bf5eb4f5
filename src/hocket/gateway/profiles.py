"""Learned profiles on their way into the core: read when the gateway starts, and again at each reload.

A profile that cannot be used costs nothing but itself: the gateway serves on without it, says so once and counts it.
"""

from __future__ import annotations

import logging
from hashlib import blake2b
from typing import NamedTuple

from hocket.core.events import ProfileReplaced
from hocket.gateway.driver import Driver
from hocket.metrics import Metrics
from hocket.profiles import read_usable_profiles

log = logging.getLogger("hocket.gateway")


class Found(NamedTuple):
    """What a folder held."""

    profiles: dict[str, str]
    "application -> text of its profile"
    problems: list[str]
    "what is wrong with the other files"


def find(folder: str | None) -> Found:
    """Read a folder of profiles; None holds none."""
    return Found({}, []) if folder is None else Found(*read_usable_profiles(folder))


class Profiles:
    """Hands profiles to the core: each once, so that a reload does not undo what was learned since from live jobs."""

    def __init__(self, driver: Driver, metrics: Metrics) -> None:
        self._driver, self._metrics = driver, metrics
        self._told: set[str] = set()
        self._held: dict[str, bytes] = {}
        "application -> digest of the profile that the core has"
        self._by: object = None
        "the beliefs that have them; another policy may have begun to believe anew"

    def hand_over(self, found: Found) -> None:
        """Let the core have what it does not have. Where no ordering reads beliefs it wants none."""
        for problem in found.problems:
            self._refuse(problem)
        beliefs = self._driver.scheduler.beliefs
        if beliefs is not self._by:
            self._by, self._held = beliefs, {}
        if beliefs is None:
            return
        for app, text in found.profiles.items():
            digest = blake2b(text.encode(), digest_size=16).digest()
            if self._held.get(app) != digest:
                try:
                    self._driver.tell(ProfileReplaced(self._driver.clock(), app, text))
                except ValueError as error:
                    self._refuse(f"the profile of {app!r}: {error}")
                else:
                    self._held[app] = digest

    def _refuse(self, problem: str) -> None:
        self._metrics.refuse_profile()
        if problem not in self._told:
            self._told.add(problem)
            log.error("profile refused, the gateway goes on without it: %s", problem)
