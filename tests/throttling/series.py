"""Builder of metric series for the tests of this folder."""

from __future__ import annotations

from saltctl.stores.contracts.metrics import MetricKey, MetricSeries
from saltctl.throttling.analysis import TimeRange

NOW = 1_800_000_000
OVER = TimeRange(NOW - 3600, NOW, 60)
TRAFFIC = MetricSeries(MetricKey("ConsumedWriteCapacityUnits", "t"), ((NOW - 600, 5000.0),))


def events(metric: str, *values: float, index: str | None = None, operation: str | None = None) -> MetricSeries:
    """Build a series of the last minutes, one value a minute; a zero is a missing point, as in CloudWatch."""
    first = NOW - 60 * len(values)
    points = tuple((first + 60 * i, float(value)) for i, value in enumerate(values) if value)
    return MetricSeries(MetricKey(metric, "t", index, operation), points)
