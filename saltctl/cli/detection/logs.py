"""Handlers for the log events of detection: JSON lines for the service, warnings for replay."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from saltctl.cli.output import warn, write_json_line
from saltctl.detection.detector import logger
from saltctl.times import iso_utc


class JsonLines(logging.Handler):
    """Writes each event as one JSON line to stderr. Hostile strings in fields are escaped."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line. The handler's lock keeps lines of several threads apart."""
        head = {"at": iso_utc(record.created), "level": record.levelname.lower(), "event": record.getMessage()}
        write_json_line(head | getattr(record, "fields", {}), sys.stderr)
        sys.stderr.flush()


class Warnings(logging.Handler):
    """Prints the events of a replay that its user must know about as warnings on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a warning for a dead letter or a clamped conversation; ignore other events."""
        fields = getattr(record, "fields", {})
        if record.getMessage() == "clamped":
            warn(f"{fields['conversation_id']}: {fields['why']}. {fields['hint']}")
        elif record.getMessage() == "dead_letter":
            warn(f"entry {fields['id']} is not a valid report: {fields['reason']}")


@contextmanager
def handle_events(handler: logging.Handler) -> Iterator[None]:
    """Pass the events of detection to a handler during the block."""
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
