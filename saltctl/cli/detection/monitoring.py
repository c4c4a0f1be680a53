"""Monitoring of the service and of replay: log events on stderr, and Prometheus metrics."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from saltctl.cli.output import warn, write_json_line
from saltctl.detection.events import METRICS, logger
from saltctl.errors import ConfigurationError
from saltctl.times import iso_utc

if TYPE_CHECKING:
    from prometheus_client import Metric

    from saltctl.detection.service import Service

COUNTERS = {
    "reports": ("saltctl_reports", "Entries of the heat stream that were handled."),
    "acknowledged": ("saltctl_acknowledged", "Entries that were acknowledged."),
    "stale": ("saltctl_stale", "Reports that were too old to raise."),
    "dead": ("saltctl_dead_letters", "Entries that became dead letters."),
    "lost": ("saltctl_lost", "Entries that were trimmed before they were handled."),
    "claimed": ("saltctl_claimed", "Entries that were claimed from other consumers."),
    "redelivered": ("saltctl_redelivered", "Entries that this consumer read again."),
    "raised": ("saltctl_raises", "Raises that increased max_n."),
    "unchanged": ("saltctl_raises_unchanged", "Raises that found max_n as high already."),
    "clamped": ("saltctl_clamped", "Conversations that need more than the cap."),
    "failures": ("saltctl_failures", "Batches and raises that failed."),
    "rebuilds": ("saltctl_rebuilds", "Rebuilds of Redis."),
    "unexpected": ("saltctl_unexpected_errors", "Exceptions that saltctl does not know; the log has their types."),
}
"""Name and help of the metric of each counter; Prometheus appends ``_total`` to the name."""


class JsonLines(logging.Handler):
    """Writes each event as one JSON line to stderr. Hostile strings in fields are escaped."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line. The handler's lock keeps lines of several threads apart."""
        head = {"at": iso_utc(record.created), "level": record.levelname.lower(), "event": record.getMessage()}
        with suppress(OSError, ValueError):  # a log that cannot be written must not stop the service
            write_json_line(head | getattr(record, "fields", {}), sys.stderr)
            sys.stderr.flush()


class Warnings(logging.Handler):
    """Prints the events of a replay that its user must know about as warnings on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a warning for a dead letter, a failed raise or a clamped conversation; ignore other events."""
        fields = getattr(record, "fields", {})
        if record.getMessage() == "clamped":
            warn(f"{fields['conversation_id']}: {fields['why']}", str(fields["hint"]))
        elif record.getMessage() == "dead_letter":
            warn(f"entry {fields['id']} is not a valid report: {fields['reason']}")
        elif record.getMessage() == "raise_failed":
            warn(f"{fields['conversation_id']}: the raise failed: {fields['why']}")


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


@contextmanager
def serve_metrics(port: int, address: str, service: Service) -> Iterator[int]:
    """Serve metrics from a thread during the block. Yields the port, which the system chooses for port 0.

    Raises:
        ConfigurationError: the port cannot be used.
    """
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry()
    registry.register(_Collector(service))
    try:
        server, thread = start_http_server(port, addr=address, registry=registry)
    except OSError as exc:
        raise ConfigurationError(
            f"cannot serve metrics on {address}:{port}: {exc.strerror}", hint="choose another --metrics-port"
        ) from exc
    service.parts.watch(METRICS, thread.is_alive)
    try:
        yield int(server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass(frozen=True)
class _Collector:
    service: Service

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics. Those of the stream are left out if Redis cannot be read."""
        from prometheus_client.core import CounterMetricFamily as Counter
        from prometheus_client.core import GaugeMetricFamily as Gauge

        service, stream, watcher = self.service, self.service.stream, self.service.fence_watcher
        for field, (name, about) in COUNTERS.items():
            yield Counter(name, about, value=getattr(service.counters, field))
        yield Gauge("saltctl_back_off_seconds", "Seconds until the next batch.", service.back_off)
        verified = watcher is not None and bool(watcher.verified)
        yield Gauge("saltctl_registry_verified", "Whether Redis is verified.", verified)
        late = service.parts.late()
        parts = Gauge("saltctl_part_late", "Whether a part has not done its work for a while.", labels=["part"])
        for part in service.parts.names():
            parts.add_metric([part], part in late)
        yield parts
        try:
            group = stream.info().group(stream.group)
        except Exception:  # the other metrics are needed most when something fails
            return
        if group is not None:
            yield Gauge("saltctl_stream_pending", "Entries that are delivered and not acknowledged.", group.pending)
            if group.lag is not None:
                yield Gauge("saltctl_stream_lag", "Entries that no instance has read.", group.lag)
