"""Fixtures of the tests of saltctl.aio."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.on_loop import LoopThread, on_a_loop
from tests.support.redis_servers import quick_starts

__all__ = ["quick_starts"]


@pytest.fixture
def on_loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopThread]:
    """Registries, their stores and histories do their work by saltctl.aio."""
    with on_a_loop(monkeypatch) as loop:
        yield loop
