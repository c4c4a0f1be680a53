"""Structured log events of the service and of replay, through the standard logging module.

A record's message is the name of the event, such as ``raised``. Its attribute ``fields`` is a dict of plain values,
which may contain hostile strings.
"""

from __future__ import annotations

import logging

logger = logging.getLogger("saltctl.detection")
logger.addHandler(logging.NullHandler())


def log_event(level: int, event: str, **fields: object) -> None:
    """Log an event with its fields."""
    logger.log(level, event, extra={"fields": fields})
