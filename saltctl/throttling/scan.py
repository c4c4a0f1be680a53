"""Throttle scan: throttle metrics, hot keys, registry and service, combined into one diagnosis."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from saltctl.errors import ConfigurationError, SaltctlError
from saltctl.stores.contracts.metrics import Contributors, MetricKey, MetricSeries, MetricsStore
from saltctl.throttling.analysis import CAUSES, ThrottleAnalysis, TimeRange, analyse, metric_keys, time_range
from saltctl.throttling.diagnosis import Diagnosis, HotKey, MaxNLookup, ServiceStatus, diagnose, hot_keys
from saltctl.times import iso_utc
from saltctl.values import check_number


@dataclass(frozen=True, slots=True)
class ScanOptions:
    """Table and range of a scan; a period with ``threshold`` events or more counts as throttled."""

    table: str
    time_range: TimeRange
    threshold: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a threshold that nothing or everything reaches; raises UsageError."""
        check_number("threshold", self.threshold, 1, hint="such as --threshold 1")


@dataclass(frozen=True, slots=True)
class ScanResult:
    """Result of a scan. ``analysis`` is None if CloudWatch cannot be read, then ``failure`` says why."""

    options: ScanOptions
    analysis: ThrottleAnalysis | None
    keys: tuple[HotKey, ...]
    insights: Contributors
    service: ServiceStatus
    diagnosis: Diagnosis
    notes: tuple[str, ...]
    failure: SaltctlError | None


def scan_table(store: MetricsStore, options: ScanOptions, service: ServiceStatus, max_n: MaxNLookup) -> ScanResult:
    """Scan a table. A source that fails becomes a note, a reason or the failure.

    ``max_n`` returns the max_n of conversations, None if it is unknown; it must not raise.

    Raises:
        ConfigurationError: the table does not exist.
    """
    notes: list[str] = []
    table, over = options.table, options.time_range
    insights = Contributors("disabled", ())
    indexes: tuple[str, ...] = ()
    try:
        indexes = store.describe(table).indexes
    except ConfigurationError:
        raise
    except SaltctlError as exc:
        notes.append(f"the table's indexes are unknown and were not scanned: {exc.message}")
    try:
        found = _analyse(store, table, indexes, over, options.threshold)
    except ConfigurationError:
        raise
    except SaltctlError as exc:
        diagnosis = _diagnose_without_metrics(exc, service)
        return ScanResult(options, None, (), insights, service, diagnosis, tuple(notes), exc)
    if found.throttled:
        insights = store.contributors(table, over.start, over.end)
        if note := _insights_note(insights, table):
            notes.append(note)
    keys = hot_keys(insights, max_n)
    diagnosis = diagnose(found, service, keys, table)
    return ScanResult(options, found, keys, insights, service, diagnosis, tuple(notes), None)


def scan_recent(store: MetricsStore, table: str, now: float, minutes: int = 15) -> ThrottleAnalysis:
    """Analyse the last minutes of a table and its indexes, minute by minute.

    Raises:
        ConfigurationError: the table does not exist.
        AccessDeniedError, AwsUnavailableError: CloudWatch cannot be read.
    """
    over = time_range(now - 60 * minutes, now, 60, now)
    return _analyse(store, table, store.describe(table).indexes, over, 1.0)


def _analyse(
    store: MetricsStore, table: str, indexes: Sequence[str], over: TimeRange, threshold: float
) -> ThrottleAnalysis:
    series = store.read(metric_keys(table, indexes), over.baseline_start, over.end, over.period_s)
    return analyse(series, over, threshold)


def _diagnose_without_metrics(exc: SaltctlError, service: ServiceStatus) -> Diagnosis:
    reasons = [f"cannot read CloudWatch, so throttling is unknown: {exc.message}"]
    advice = ["aws sts get-caller-identity", "saltctl service status"]
    if service.is_down:
        reasons.append(f"the hot partition service is {service.verdict}: it does not raise hot conversations")
        advice.append("saltctl stream replay --dry-run")
    elif service.verdict is None:
        reasons.append(f"the state of the hot partition service is unknown, too: {service.reason}")
    else:
        reasons.append(f"the hot partition service is {service.verdict}, with {service.alive} instances alive")
    return Diagnosis("no-data", tuple(reasons), tuple(advice))


def _insights_note(insights: Contributors, table: str) -> str:
    """Say why the hot keys are unknown, and what to do; empty if they are known."""
    update = f"aws dynamodb update-contributor-insights --table-name {shlex.quote(table)} --contributor-insights-action"
    unknown = "so the hot keys are unknown"
    return {
        "enabled": "",
        "enabling": f"Contributor Insights is being switched on, {unknown}: scan again in some minutes",
        "disabled": f"Contributor Insights is off, {unknown}; to switch it on: {update} ENABLE",
        "disabling": f"Contributor Insights is being switched off, {unknown}; once it is off: {update} ENABLE",
        "failed": f"Contributor Insights failed, {unknown}: {insights.why}; once that is mended: {update} ENABLE",
        "unsupported": f"this endpoint has no Contributor Insights, {unknown}",
        "unreadable": f"cannot read Contributor Insights: {insights.why}",
    }[insights.status]


def as_record(result: ScanResult) -> dict[str, Any]:
    """Convert a scan to the keys of the command line's contract; null if CloudWatch could not be read."""
    found, over = result.analysis, result.options.time_range
    return {
        "table": result.options.table,
        "start": _iso(over.start),
        "end": _iso(over.end),
        "period_s": over.period_s,
        "throttled": None if found is None else found.throttled,
        "total": None if found is None else found.total,
        "causes": dict.fromkeys(CAUSES) if found is None else dict(found.causes),
        "indexes": {} if found is None else dict(found.index_events),
        "series": [] if found is None else [_series_record(one) for one in found.series if one.points],
        "spikes": [
            {**_key_record(spike.key), "at": _iso(spike.at), "events": spike.events, "usual": spike.typical}
            for spike in (() if found is None else found.spikes)
        ],
        "keys": [asdict(key) for key in result.keys],
        "insights": result.insights.status,
        "service": {"verdict": result.service.verdict, "lag": result.service.lag, "alive": result.service.alive},
        "verdict": result.diagnosis.verdict,
        "reasons": list(result.diagnosis.reasons),
        "advice": list(result.diagnosis.advice),
    }


def _series_record(series: MetricSeries) -> dict[str, Any]:
    at, peak = max(series.points, key=lambda point: point[1])
    return {
        **_key_record(series.key),
        "sum": sum(value for _, value in series.points),
        "peak": peak,
        "peak_at": _iso(at),
        "points": [[_iso(at), value] for at, value in series.points],
    }


def _key_record(key: MetricKey) -> dict[str, str | None]:
    return {"metric": key.metric, "index": key.index, "operation": key.operation}


def _iso(seconds: float) -> str:
    return iso_utc(seconds, "seconds")
