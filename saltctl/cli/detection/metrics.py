"""Prometheus metrics of a running service, read from its counters when they are scraped."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any

from saltctl.detection.fence_watcher import FenceWatcher
from saltctl.detection.service import Service
from saltctl.errors import ConfigurationError, SaltctlError
from saltctl.stores.heat.stream import HeatStream

_ABOUT = {
    "reports": "Entries of the heat stream that were handled.",
    "acknowledged": "Entries that were acknowledged.",
    "stale": "Reports of windows that are long past.",
    "dead": "Entries that became dead letters.",
    "lost": "Entries that were trimmed before they were handled.",
    "claimed": "Entries that were taken over from others.",
    "redelivered": "Entries that this consumer read again.",
    "raised": "Raises that increased max_n.",
    "unchanged": "Raises that found as much held already.",
    "clamped": "Conversations that need more than the cap.",
    "failures": "Rounds and raises that failed.",
    "rebuilds": "Rebuilds of Redis.",
}
_NAMES = {"dead": "dead_letters", "raised": "raises", "unchanged": "raises_unchanged"}


def serve(
    port: int, address: str, service: Service, fence_watcher: FenceWatcher, stream: HeatStream
) -> tuple[int, Callable[[], None]]:
    """Serve metrics from a thread; the port, and what ends it.

    Raises:
        ConfigurationError: the extra is not installed, or the port cannot be had.
    """
    try:
        from prometheus_client import start_http_server
        from prometheus_client.registry import CollectorRegistry
    except ImportError:
        raise ConfigurationError(
            "metrics need the extra 'metrics'", hint="python3 -m pip install 'saltctl[metrics]'"
        ) from None
    registry = CollectorRegistry()
    registry.register(_Collector(service, fence_watcher, stream))
    try:
        server, thread = start_http_server(port, addr=address, registry=registry)
    except OSError as exc:
        raise ConfigurationError(
            f"metrics cannot be served on {address}:{port}: {exc.strerror}", hint="choose another --metrics-port"
        ) from exc

    def end() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return int(server.server_port), end


class _Collector:
    def __init__(self, service: Service, fence_watcher: FenceWatcher, stream: HeatStream) -> None:
        self._service = service
        self._fence_watcher = fence_watcher
        self._stream = stream

    def describe(self) -> Iterable[Any]:
        """Nothing beforehand: what there is shows when it is scraped."""
        return ()

    def collect(self) -> Iterable[Any]:
        """Everything now. What Redis does not tell is left out."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        counters = self._service.counters
        for field in fields(counters):
            name = f"saltctl_{_NAMES.get(field.name, field.name)}"
            yield CounterMetricFamily(name, _ABOUT[field.name], value=getattr(counters, field.name))
        yield GaugeMetricFamily(
            "saltctl_back_off_seconds", "Seconds that the next round waits.", value=self._service.back_off
        )
        yield GaugeMetricFamily(
            "saltctl_registry_verified", "Whether Redis is verified.", value=float(bool(self._fence_watcher.verified))
        )
        try:
            group = self._stream.info().group(self._stream.group)
        except SaltctlError:
            return
        if group is None:
            return
        yield GaugeMetricFamily("saltctl_stream_pending", "Entries in hand.", value=group.pending)
        if group.lag is not None:
            yield GaugeMetricFamily("saltctl_stream_lag", "Entries that nobody has read.", value=group.lag)
