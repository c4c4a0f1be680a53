"""Analysis of throttle metrics: time ranges, events by cause, and spikes. Pure functions of CloudWatch's series.

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

from saltctl.errors import UsageError
from saltctl.stores.contracts.metrics import MetricKey, MetricSeries

DAY = 86_400
ONGOING_MINUTES = 5
"""CloudWatch may lack the newest two or three minutes; an event in the newest five has not ended for certain."""
RETENTION = ((15 * DAY, 60), (63 * DAY, 300), (455 * DAY, 3600))
"""(age of the data, its finest period), in seconds, as CloudWatch documents its retention."""
PERIODS = (60, 300, 900, 3600, 21_600, DAY)
"""Default periods to choose from, in seconds."""
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


@dataclass(frozen=True, slots=True)
class TimeRange:
    """A range of whole periods. Times are seconds since the epoch; ``end`` is excluded."""

    start: int
    end: int
    period_s: int

    @property
    def baseline_start(self) -> int:
        """Start of the data that spikes are compared with: the range's length before it, an hour to a day."""
        baseline = min(max(self.end - self.start, 3600), DAY)
        return self.start - -(-baseline // self.period_s) * self.period_s


def time_range(since: float, until: float, period_s: int | None, now: float) -> TimeRange:
    """Widen a range to whole periods. Times are in seconds since the epoch.

    A ``period_s`` of None chooses the finest period that CloudWatch keeps, at most 1,440 points in the range.

    Raises:
        UsageError: the range is in the future, empty or too old, or CloudWatch has no data of this period.
    """
    if since > now:
        raise UsageError("the range is in the future: no data yet", hint="saltctl throttle scan --since 1h")
    if until > now + 60:
        raise UsageError("the end of the range is in the future", hint="omit --until: the default is now")
    if until == since:
        raise UsageError("the range is empty: it ends when it begins", hint="saltctl throttle scan --since 1h")
    if until < since:
        raise UsageError("the range ends before it begins", hint="saltctl throttle scan --since 2h --until 1h")
    period_s = _period(since, until, period_s, now)
    start = int(since // period_s) * period_s
    return TimeRange(start, start + -int((start - until) // period_s) * period_s, period_s)


def _period(since: float, until: float, period_s: int | None, now: float) -> int:
    finest = next((period for age, period in RETENTION if now - since <= age), None)
    if finest is None:
        raise UsageError("CloudWatch keeps metrics for 455 days", hint="saltctl throttle scan --since 455d --period 1d")
    if period_s is None:
        least = max((until - since) / 1440, finest)
        return next((period for period in PERIODS if period >= least), DAY)
    if period_s < 60 or period_s % 60:
        raise UsageError(f"the period must be a multiple of a minute, not {period_s} s", hint="write 1m, 5m, 15m or 1h")
    if period_s % finest:
        kept = f"CloudWatch keeps data of this age in periods of {finest} s, not of {period_s} s"
        raise UsageError(kept, hint=f"saltctl throttle scan --period {finest}s")
    return period_s


def metric_keys(table: str, indexes: Sequence[str]) -> list[MetricKey]:
    """List every metric that an analysis needs."""
    keys = [MetricKey(metric, table) for metric in TRAFFIC]
    keys += [MetricKey(metric, table, index) for index in (None, *indexes) for metric in (*TOTALS, *CAUSE_OF)]
    keys += [MetricKey("ThrottledRequests", table, operation=operation) for operation in OPERATIONS]
    return keys


@dataclass(frozen=True, slots=True)
class Spike:
    """A period above three times the median of the 30 periods before it, which is ``typical``."""

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
        first = max(at - 30 * over.period_s, over.baseline_start)
        typical = median([counts.get(before, 0.0) for before in range(first, at, over.period_s)])
        if events > 3 * typical:
            spikes.append(Spike(series.key, at, events, typical))
    return spikes
