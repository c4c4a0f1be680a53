"""Throttling: series in, verdict out. What each metric means is documented by AWS; nothing here talks to anybody.

A table's own metrics leave its indexes out, so the causes of table and indexes add up. ReadThrottleEvents and
WriteThrottleEvents count the same events as the metrics of the causes; ThrottledRequests counts requests,
and a batch only where all of it was throttled, so it is shown and never added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from saltctl.errors import UsageError
from saltctl.stores.contracts import Contributors, MetricKey, MetricSeries, MetricsStore

Verdict = Literal["quiet", "hot-partition", "hot-partition-service-down", "capacity", "index", "no-data"]
CAUSES: Mapping[str, str] = {
    "key_range": "KeyRangeThroughput",
    "provisioned": "ProvisionedThroughput",
    "account": "AccountLimit",
    "on_demand_max": "MaxOnDemandThroughput",
}
"""Our names of the causes, and how they stand in the names of the metrics."""
METRICS: Mapping[str, str] = {
    f"{way}{stem}ThrottleEvents": cause for cause, stem in CAUSES.items() for way in ("Read", "Write")
}
TOTALS = ("ReadThrottleEvents", "WriteThrottleEvents")
TRAFFIC = ("ConsumedReadCapacityUnits", "ConsumedWriteCapacityUnits")
"""Sent while a table is used, throttled or not: without them, no throttle events mean nothing."""
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
DAY = 86_400
RETENTION = ((15 * DAY, 60), (63 * DAY, 300), (455 * DAY, 3600))
"""For how long CloudWatch keeps points of which period, in seconds (documented)."""
PERIODS = (60, 300, 900, 3600, 21_600, DAY)
MOST_POINTS = 1440
"""Points of a series in the default period: a day by the minute."""
LOOK_BACK = 3600
"""Seconds before a range, at least, that are its series' own recent past."""
SPIKE_FACTOR = 3.0
"""A spike is so many times the median of the periods before it."""
SPIKE_PAST = 30
"""Periods before a point that it is compared with."""


@dataclass(frozen=True, slots=True)
class TimeRange:
    """A range of whole periods. Times are seconds since the epoch; ``end`` is excluded."""

    start: int
    end: int
    period_s: int

    @property
    def baseline_start(self) -> int:
        """Where the recent past begins that spikes are measured against: about as much again, at most a day."""
        past = min(max(self.end - self.start, LOOK_BACK), DAY)
        return self.start - (past + self.period_s - 1) // self.period_s * self.period_s


def time_range(since: float, until: float, period_s: int | None, now: float) -> TimeRange:
    """The range, widened to whole periods; without a period the finest that is kept and legible.

    Raises:
        UsageError: nothing of it is past, its end is not after its start, no such period, or not kept any more.
    """
    if since >= now:
        raise UsageError(
            "the range lies in the future, where there is no data", hint="saltctl throttle scan --since 1h"
        )
    if until > now + 60:
        raise UsageError("the end of the range lies in the future", hint="leave --until out: it is now")
    if until <= since:
        raise UsageError("the range ends before it begins", hint="saltctl throttle scan --since 2h --until 1h")
    finest = next((period for age, period in RETENTION if now - since <= age), None)
    if finest is None:
        raise UsageError("CloudWatch keeps metrics for 455 days", hint="saltctl throttle scan --since 455d --period 1d")
    if period_s is None:
        wanted = (until - since) / MOST_POINTS
        period_s = next((p for p in PERIODS if p >= max(wanted, finest)), DAY)
    if period_s < 60 or period_s % 60:
        raise UsageError(f"a period of {period_s} s is no multiple of a minute", hint="write 1m, 5m, 15m or 1h")
    if period_s % finest:
        raise UsageError(
            f"of metrics so old CloudWatch keeps periods of {finest} s, not of {period_s} s",
            hint=f"saltctl throttle scan --period {finest}s",
        )
    start = int(since // period_s) * period_s
    return TimeRange(start, start + -int((start - until) // period_s) * period_s, period_s)


def metric_keys(table: str, indexes: Sequence[str]) -> list[MetricKey]:
    """Every metric that a verdict on a table is made of."""
    keys = [MetricKey(metric, table) for metric in TRAFFIC]
    keys += [MetricKey(metric, table, index) for index in (None, *indexes) for metric in (*TOTALS, *METRICS)]
    keys += [MetricKey("ThrottledRequests", table, operation=operation) for operation in OPERATIONS]
    return keys


@dataclass(frozen=True, slots=True)
class Spike:
    """A period far above the periods before it; ``usual`` is their median."""

    key: MetricKey
    at: int
    events: float
    usual: float


@dataclass(frozen=True, slots=True)
class HotKey:
    """A conversation whose partition keys were throttled, all together; ``partition_key`` is the worst of them."""

    conversation_id: str
    partition_key: str
    throttles: float
    partitions: int
    max_n: int | None


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """What is known of the hot partition service; None where Redis does not say."""

    verdict: str | None
    lag: int | None
    alive: int | None
    why: str = ""

    @property
    def silent(self) -> bool:
        """Whether nobody does the service's work."""
        return self.verdict in ("stopped", "stalled") or self.alive == 0


@dataclass(frozen=True, slots=True)
class ThrottleAnalysis:
    """What the series of a range say. ``causes`` are events of table and indexes by cause."""

    window: TimeRange
    series: tuple[MetricSeries, ...]
    total: float
    causes: Mapping[str, float]
    table_causes: Mapping[str, float]
    index_events: Mapping[str, float]
    spikes: tuple[Spike, ...]
    throttled: bool
    seen: bool

    def events_per_period(self, cause: str | None = None) -> list[float]:
        """Events in each period of the range, of one cause or of all; a period without data counts as 0."""
        sums: dict[int, float] = {}
        totals: dict[int, float] = {}
        for one in self.series:
            if cause is None and one.key.metric in TOTALS:
                into = totals
            elif METRICS.get(one.key.metric) in ((cause,) if cause else CAUSES):
                into = sums
            else:
                continue
            for at, value in one.points:
                into[at] = into.get(at, 0.0) + value
        steps = range(self.window.start, self.window.end, self.window.period_s)
        return [max(sums.get(at, 0.0), totals.get(at, 0.0)) for at in steps]


def analyse(series: Sequence[MetricSeries], over: TimeRange, threshold: float) -> ThrottleAnalysis:
    """Add the series of a range and its recent past up by cause, and find spikes.

    Args:
        series: from ``over.baseline_start`` to ``over.end``.
        over: the range.
        threshold: events in one period from which on it counts as throttled.
    """
    events = [one for one in series if one.key.metric not in TRAFFIC]
    inside = tuple(MetricSeries(one.key, tuple(p for p in one.points if p[0] >= over.start)) for one in events)
    sums = {one.key: sum(value for _, value in one.points) for one in inside}
    table_causes, causes = dict.fromkeys(CAUSES, 0.0), dict.fromkeys(CAUSES, 0.0)
    index_events: dict[str, float] = {}
    for key, events_sum in sums.items():
        cause = METRICS.get(key.metric)
        if cause is None:
            continue
        causes[cause] += events_sum
        if key.index is None:
            table_causes[cause] += events_sum
    for index in {key.index for key in sums if key.index is not None}:
        of_index = {key: value for key, value in sums.items() if key.index == index}
        found = _total(of_index)
        if found:
            index_events[index] = found
    return ThrottleAnalysis(
        over,
        inside,
        _total({key: value for key, value in sums.items() if key.index is None}) + sum(index_events.values()),
        causes,
        table_causes,
        index_events,
        tuple(spike for one in events for spike in _spikes(one, over, threshold)),
        any(value >= threshold for one in inside for _, value in one.points if value > 0),
        any(one.points for one in series),
    )


def _total(sums: Mapping[MetricKey, float]) -> float:
    # The same events, counted as a whole and by cause: the larger is nearer to the truth where one is late.
    whole = sum(value for key, value in sums.items() if key.metric in TOTALS)
    return max(whole, sum(value for key, value in sums.items() if key.metric in METRICS))


def _spikes(series: MetricSeries, over: TimeRange, threshold: float) -> list[Spike]:
    held = dict(series.points)
    found = []
    for at, value in series.points:
        if at < over.start or value < threshold:
            continue
        # DynamoDB sends throttle metrics only while it throttles, so a missing period is a usual 0 here.
        first = max(at - SPIKE_PAST * over.period_s, over.baseline_start)
        usual = median([held.get(past, 0.0) for past in range(first, at, over.period_s)])
        if value > SPIKE_FACTOR * usual:
            found.append(Spike(series.key, at, value, usual))
    return found


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One verdict, why, and what to type next."""

    verdict: Verdict
    reasons: tuple[str, ...]
    advice: tuple[str, ...]


def diagnose(found: ThrottleAnalysis, service: ServiceStatus, keys: Sequence[HotKey], table: str) -> Diagnosis:
    """Join throttling with what the service does and how far conversations are salted."""
    if not found.seen:
        return Diagnosis(
            "no-data",
            ("CloudWatch has no metrics of this table in the range: that is no sign of health",),
            ("saltctl config show", "saltctl throttle scan --since 24h"),
        )
    if not found.throttled:
        few = f": {found.total:,.0f} events, below the threshold" if found.total else ""
        return Diagnosis("quiet", (f"the table is used, and nothing was throttled{few}",), ())
    key_range = found.table_causes["key_range"]
    capacity = sum(found.table_causes[cause] for cause in ("provisioned", "account", "on_demand_max"))
    indexes = sum(found.index_events.values())
    if not (key_range or capacity or indexes) and keys:
        key_range = found.total  # the cause is late or not published, but single keys stand out
    reasons, advice = _of_capacity(found, table) if capacity or not (key_range or indexes) else ([], [])
    more, then = _of_indexes(found, table) if indexes else ([], [])
    if key_range >= max(capacity, indexes) and key_range:
        why, first = _of_key_range(key_range, service, keys)
        verdict: Verdict = "hot-partition-service-down" if service.silent else "hot-partition"
        return Diagnosis(verdict, (*why, *reasons, *more), (*first, *advice, *then))
    small, last = _of_key_range(key_range, service, keys) if key_range else ([], [])
    if indexes > capacity:
        return Diagnosis("index", (*more, *reasons, *small), (*then, *advice, *last))
    return Diagnosis("capacity", (*reasons, *more, *small), (*advice, *then, *last))


def _of_key_range(events: float, service: ServiceStatus, keys: Sequence[HotKey]) -> tuple[list[str], list[str]]:
    reasons = [f"{events:,.0f} events: single partition keys are at their limit"]
    advice = []
    if service.silent:
        alive = "no instance is alive" if not service.alive else "instances live, and none works"
        reasons.append(f"the hot partition service is {service.verdict or 'silent'}: {alive}, so nobody raises N")
        advice += ["saltctl stream replay --dry-run", "saltctl stream replay", "saltctl service run"]
    elif service.verdict is None:
        reasons.append(f"whether the service is alive is unknown: {service.why or 'Redis does not say'}")
        advice.append("saltctl service status")
    for key in keys[:3]:
        n = key.max_n
        if n is None:
            reasons.append(f"{key.conversation_id!r} is throttled; its max_n is unknown")
        elif n <= 1:
            reasons.append(f"{key.conversation_id!r} is throttled and unsalted")
        else:
            reasons.append(f"{key.conversation_id!r} is throttled with max_n {n}: N is too low")
        if "#" not in key.conversation_id:
            advice.append(f"saltctl registry set {_quoted(key.conversation_id)} {2 * max(n or 1, 1)} --dry-run")
    if not keys:
        reasons.append("which keys are hot is unknown: Contributor Insights does not say")
        advice.append("saltctl registry list --sort n --limit 10")
    return reasons, advice


def _quoted(text: str) -> str:
    import shlex

    return shlex.quote(text)


def _of_capacity(found: ThrottleAnalysis, table: str) -> tuple[list[str], list[str]]:
    about = {
        "provisioned": "the provisioned capacity is used up",
        "account": "the account's limit for tables is reached",
        "on_demand_max": "the table's on-demand maximum is reached",
    }
    reasons = [
        f"{found.table_causes[cause]:,.0f} events: {text}" for cause, text in about.items() if found.table_causes[cause]
    ]
    if not reasons:
        reasons.append("the cause is not published: requests were throttled, and no metric says of what")
    reasons.append("raising N does not help against this")
    return reasons, [f"aws dynamodb describe-table --table-name {_quoted(table)}", "aws dynamodb describe-limits"]


def _of_indexes(found: ThrottleAnalysis, table: str) -> tuple[list[str], list[str]]:
    reasons = [f"{events:,.0f} events: index {name!r} is throttled" for name, events in found.index_events.items()]
    reasons.append("do not raise N for this: an index has partition keys of its own")
    return reasons, [f"aws dynamodb describe-table --table-name {_quoted(table)}"]


def group_by_conversation(insights: Contributors) -> list[tuple[str, str, float, int]]:
    """(conversation, its most throttled partition key, events, partition keys) of salted keys, most events first."""
    from saltctl.salting import split_partition_key

    of: dict[str, list[tuple[float, str]]] = {}
    for key, events in insights.keys:
        of.setdefault(split_partition_key(key)[0], []).append((events, key))
    rolled = [(one, max(parts)[1], sum(events for events, _ in parts), len(parts)) for one, parts in of.items()]
    return sorted(rolled, key=lambda item: (-item[2], item[0]))


@dataclass(frozen=True, slots=True)
class RecentThrottling:
    """The last minutes of a table: ``per_minute`` events, oldest first, and a verdict without the service."""

    throttled: bool
    total: float
    causes: Mapping[str, float]
    per_minute: tuple[float, ...]
    seen: bool


def read_recent(store: MetricsStore, table: str, now: float, minutes: int = 15) -> RecentThrottling:
    """The throttling of a table and its indexes in the last minutes. ``seen`` is False where there is no data at all.

    Raises:
        ConfigurationError: there is no such table. AccessDeniedError, AwsUnavailableError: it cannot be told.
    """
    over = time_range(now - 60 * minutes, now, 60, now)
    series = store.read(metric_keys(table, store.describe(table).indexes), over.baseline_start, over.end, over.period_s)
    found = analyse(series, over, 1.0)
    return RecentThrottling(found.throttled, found.total, found.causes, tuple(found.events_per_period()), found.seen)
