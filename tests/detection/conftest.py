"""The log events of detection, for tests."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from saltctl.detection.events import logger
from tests.support.redis_servers import quick_starts

__all__ = ["quick_starts"]


class EventLog(logging.Handler):
    """Keeps all events with their level and fields."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[tuple[str, str, dict[str, Any]]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one event."""
        self.events.append((record.levelname, record.getMessage(), getattr(record, "fields", {})))

    @property
    def names(self) -> list[str]:
        """The names of all events, in order."""
        return [name for _, name, _ in self.events]

    def fields_of(self, name: str) -> list[dict[str, Any]]:
        """The fields of all events of one name."""
        return [fields for _, event, fields in self.events if event == name]


@pytest.fixture
def event_log() -> Iterator[EventLog]:
    """Records the events of the test."""
    handler, level = EventLog(), logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)
