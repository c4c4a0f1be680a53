"""Prometheus metrics of a running service, read from its counters at each scrape."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from saltctl.detection.service import Service
from saltctl.errors import ConfigurationError, SaltctlError

if TYPE_CHECKING:
    from prometheus_client import Metric

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
}
"""Name and help of the metric of each counter; Prometheus appends ``_total`` to the name."""


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
        try:
            group = stream.info().group(stream.group)
        except SaltctlError:
            return
        if group is not None:
            yield Gauge("saltctl_stream_pending", "Entries that are delivered and not acknowledged.", group.pending)
            if group.lag is not None:
                yield Gauge("saltctl_stream_lag", "Entries that no instance has read.", group.lag)
