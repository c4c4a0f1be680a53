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
from saltctl.metrics import (
    BACK_OFF,
    PART_LATE,
    REGISTRY_VERIFIED,
    SERVICE_COUNTERS,
    STREAM_LAG,
    STREAM_PENDING,
    THROTTLED_RESPONSES,
    Metric,
)
from saltctl.stores.throttle_notes import throttles
from saltctl.times import iso_utc

if TYPE_CHECKING:
    from prometheus_client import Metric as Family

    from saltctl.detection.service import Service


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
    registry.register(_Collector(service, service.settings.backup_table))
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
    table: str

    def collect(self) -> Iterator[Family]:
        """Yield all metrics. Those of the stream are left out if Redis cannot be read."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        def family(metric: Metric, *samples: tuple[float, *tuple[str, ...]]) -> Family:
            """Return a metric with its samples: a value, and the labels besides the table."""
            kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            made = kind(metric.name, metric.about, labels=metric.labels)
            for value, *more in samples:
                made.add_metric([self.table, *more], value)
            return made

        service, stream, watcher = self.service, self.service.stream, self.service.fence_watcher
        for field, metric in SERVICE_COUNTERS.items():
            yield family(metric, (getattr(service.counters, field),))
        yield family(THROTTLED_RESPONSES, (throttles(),))
        yield family(BACK_OFF, (service.back_off,))
        yield family(REGISTRY_VERIFIED, (watcher is not None and bool(watcher.verified),))
        late = service.parts.late()
        yield family(PART_LATE, *((part in late, part) for part in service.parts.names()))
        try:
            group = stream.info().group(stream.group)
        except Exception:  # the other metrics are needed most when something fails
            return
        if group is not None:
            yield family(STREAM_PENDING, (group.pending,))
            if group.lag is not None:
                yield family(STREAM_LAG, (group.lag,))
