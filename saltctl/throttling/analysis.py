"""Analysis of throttle metrics: events by cause, and spikes. Pure functions of the series that CloudWatch returned.

AWS documents the metrics:

- The metrics of a table do not include its indexes, so their events are added.
- ReadThrottleEvents and WriteThrottleEvents count the same events as the metrics of the causes.
- ThrottledRequests counts requests, and a batch only if all of it was throttled. It is shown and never added.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from saltctl.stores.contracts import MetricKey, MetricSeries
from saltctl.throttling.time_range import TimeRange

CAUSES: Mapping[str, str] = {
    "key_range": "KeyRangeThroughput",
    "provisioned": "ProvisionedThroughput",
    "account": "AccountLimit",
    "on_demand_max": "MaxOnDemandThroughput",
}
"""saltctl's names of the causes, with their names in the metrics."""
CAUSE_OF: Mapping[str, str] = {
    f"{direction}{name}ThrottleEvents": cause for cause, name in CAUSES.items() for direction in ("Read", "Write")
}
"""The cause that each metric counts."""
TOTALS = ("ReadThrottleEvents", "WriteThrottleEvents")
TRAFFIC = ("ConsumedReadCapacityUnits", "ConsumedWriteCapacityUnits")
"""Metrics of every table in use, throttled or not. If they are missing too, there is no data at all."""
OPERATIONS = (
    "GetItem",
    "BatchGetItem",
    "Query",
    "Scan",
    "PutItem",
    "UpdateItem",
    "DeleteItem",
    "BatchWriteItem",
    "TransactGetItems",
    "TransactWriteItems",
)
SPIKE_FACTOR = 3.0
"""A spike is above this multiple of the median of its baseline."""
SPIKE_BASELINE = 30
"""Number of periods before a point that are its baseline."""


def metric_keys(table: str, indexes: Sequence[str]) -> list[MetricKey]:
    """List every metric that an analysis needs."""
    keys = [MetricKey(metric, table) for metric in TRAFFIC]
    keys += [MetricKey(metric, table, index) for index in (None, *indexes) for metric in (*TOTALS, *CAUSE_OF)]
    keys += [MetricKey("ThrottledRequests", table, operation=operation) for operation in OPERATIONS]
    return keys


@dataclass(frozen=True, slots=True)
class Spike:
    """A period far above the periods before it; ``typical`` is their median."""

    key: MetricKey
    at: int
    events: float
    typical: float


@dataclass(frozen=True, slots=True)
class ThrottleAnalysis:
    """Throttle events of a table and its indexes in a range.

    ``causes`` counts the events of table and indexes, ``table_causes`` those of the table, ``index_events`` those
    of each throttled index. ``throttled``: a period reached the threshold. ``has_data`` is False if CloudWatch has
    no metrics at all.
    """

    time_range: TimeRange
    series: tuple[MetricSeries, ...]
    total: float
    causes: Mapping[str, float]
    table_causes: Mapping[str, float]
    index_events: Mapping[str, float]
    spikes: tuple[Spike, ...]
    throttled: bool
    has_data: bool

    def events_per_period(self, cause: str | None = None) -> list[float]:
        """Count the events in each period, of one cause or of all. A period without data counts as 0."""
        by_cause: Counter[int] = Counter()
        totals: Counter[int] = Counter()
        for series in self.series:
            if series.key.metric in TOTALS and cause is None:
                totals.update(dict(series.points))
            elif (counted := CAUSE_OF.get(series.key.metric)) and cause in (None, counted):
                by_cause.update(dict(series.points))
        over = self.time_range
        return [float(max(by_cause[at], totals[at])) for at in range(over.start, over.end, over.period_s)]


def analyse(series: Sequence[MetricSeries], over: TimeRange, threshold: float) -> ThrottleAnalysis:
    """Add up the events of a range by cause, and find spikes.

    The series begin at ``over.baseline_start``. A period with ``threshold`` events or more counts as throttled.
    """
    events = [one for one in series if one.key.metric not in TRAFFIC]
    inside = tuple(MetricSeries(one.key, tuple(p for p in one.points if p[0] >= over.start)) for one in events)
    whole: defaultdict[str | None, float] = defaultdict(int)
    by_cause: defaultdict[tuple[str | None, str], float] = defaultdict(int)
    for one in inside:
        count = sum(value for _, value in one.points)
        if cause := CAUSE_OF.get(one.key.metric):
            by_cause[one.key.index, cause] += count
        elif one.key.metric in TOTALS:
            whole[one.key.index] += count
    # Both sums count the same events. If one metric is late, the larger sum is closer to the truth.
    indexes = dict.fromkeys(one.key.index for one in inside)
    totals = {index: max(whole[index], sum(by_cause[index, cause] for cause in CAUSES)) for index in indexes}
    return ThrottleAnalysis(
        over,
        inside,
        sum(totals.values()),
        {cause: float(sum(by_cause[index, cause] for index in indexes)) for cause in CAUSES},
        {cause: float(by_cause[None, cause]) for cause in CAUSES},
        {index: total for index, total in totals.items() if index is not None and total},
        tuple(spike for one in events for spike in _spikes(one, over, threshold)),
        any(value >= threshold for one in inside for _, value in one.points if value > 0),
        any(one.points for one in series),
    )


def _spikes(series: MetricSeries, over: TimeRange, threshold: float) -> list[Spike]:
    counts = dict(series.points)
    spikes = []
    for at, events in series.points:
        if at < over.start or events < threshold:
            continue
        # DynamoDB sends throttle metrics only while it throttles: a missing period counts as 0.
        first = max(at - SPIKE_BASELINE * over.period_s, over.baseline_start)
        typical = median([counts.get(before, 0.0) for before in range(first, at, over.period_s)])
        if events > SPIKE_FACTOR * typical:
            spikes.append(Spike(series.key, at, events, typical))
    return spikes
