"""The heat stream and the dead letters of a test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from saltctl.settings import Settings
from saltctl.stores.heat.dead_letters import DeadLetters
from saltctl.stores.heat.stream import HeatStream


@pytest.fixture
def stream(configured: Settings) -> Iterator[HeatStream]:
    """The heat stream with its group, empty."""
    opened = HeatStream(configured)
    opened.create_group()
    yield opened
    opened.close()


@pytest.fixture
def letters(configured: Settings) -> Iterator[DeadLetters]:
    """The dead letters, none yet."""
    opened = DeadLetters(configured)
    yield opened
    opened.close()


@pytest.fixture
def admin(configured: Settings) -> Iterator[Any]:
    """A plain client, for changes by hand."""
    import redis

    client = redis.Redis.from_url(configured.require_redis_url())
    yield client
    client.close()
