"""The gateway and the scripted engines of tests/gateway, attacked."""

from __future__ import annotations

from tests.gateway.conftest import engine, engine2, start

__all__ = ["engine", "engine2", "start"]
