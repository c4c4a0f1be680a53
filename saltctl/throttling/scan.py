"""One scan: throttle metrics, hottest keys, registry and service, joined into one verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from saltctl.errors import ConfigurationError, SaltctlError
from saltctl.stores.contracts import Contributors, MetricsStore
from saltctl.throttling.analysis import (
    CAUSES,
    Diagnosis,
    HotKey,
    ServiceStatus,
    ThrottleAnalysis,
    TimeRange,
    analyse,
    diagnose,
    group_by_conversation,
    metric_keys,
)
from saltctl.times import iso_utc

SERVICE_WINDOW = 0.3
"""Seconds between two looks at the stream: instances that live answer within milliseconds."""
NO_INSIGHTS = Contributors("disabled", ())


@dataclass(frozen=True, slots=True)
class ScanOptions:
    """What is scanned; ``threshold`` is events in one period from which on it counts as throttled."""

    table: str
    window: TimeRange
    threshold: float = 1.0


@dataclass(frozen=True, slots=True)
class Scan:
    """What a scan found. ``failure`` is why CloudWatch could not be read; then ``found`` is None."""

    options: ScanOptions
    found: ThrottleAnalysis | None
    keys: tuple[HotKey, ...]
    insights: Contributors
    service: ServiceStatus
    diagnosis: Diagnosis
    notes: tuple[str, ...]
    failure: SaltctlError | None


MaxN = Callable[[Sequence[str]], Mapping[str, int | None]]


def scan(store: MetricsStore, options: ScanOptions, service: Callable[[], ServiceStatus], max_n: MaxN) -> Scan:
    """Look at everything that can be looked at; what cannot becomes a note, a reason or the failure.

    Args:
        store: CloudWatch.
        options: table, range and threshold.
        service: looks at the hot partition service; does not raise.
        max_n: of conversations, None where it is unknown; does not raise.

    Raises:
        ConfigurationError: there is no such table.
    """
    notes: list[str] = []
    over = options.window
    state = service()
    try:
        indexes = _indexes(store, options.table, notes)
        series = store.read(metric_keys(options.table, indexes), over.baseline_start, over.end, over.period_s)
    except ConfigurationError:
        raise
    except SaltctlError as exc:
        return Scan(options, None, (), NO_INSIGHTS, state, _what_is_left(exc, state), tuple(notes), exc)
    found = analyse(series, over, options.threshold)
    insights = store.contributors(options.table, over.start, over.end) if found.throttled else NO_INSIGHTS
    if found.throttled and (about := _about(insights, options.table)):
        notes.append(about)
    keys = _joined(insights, max_n)
    return Scan(options, found, keys, insights, state, diagnose(found, state, keys, options.table), tuple(notes), None)


def _indexes(store: MetricsStore, table: str, notes: list[str]) -> tuple[str, ...]:
    try:
        return store.describe(table).indexes
    except ConfigurationError:
        raise
    except SaltctlError as exc:
        notes.append(f"the table's indexes are unknown, and were not looked at: {exc.message}")
        return ()


def _what_is_left(exc: SaltctlError, state: ServiceStatus) -> Diagnosis:
    reasons = [f"CloudWatch cannot be read, so nobody knows whether the table is throttled: {exc.message}"]
    advice = ["aws sts get-caller-identity", "saltctl service status"]
    if state.silent:
        reasons.append(f"the hot partition service is {state.verdict}: a throttled conversation would not be raised")
        advice.append("saltctl stream replay --dry-run")
    elif state.verdict is None:
        reasons.append(f"the service's state is unknown, too: {state.why}")
    else:
        reasons.append(f"the hot partition service is {state.verdict}, with {state.alive} instances alive")
    return Diagnosis("no-data", tuple(reasons), tuple(advice))


def _about(insights: Contributors, table: str) -> str:
    if insights.status == "disabled":
        return (
            "Contributor Insights is off, so the hot keys are unknown; to switch it on: "
            f"aws dynamodb update-contributor-insights --table-name {table} "
            "--contributor-insights-action ENABLE"
        )
    if insights.status == "unsupported":
        return "this endpoint knows no Contributor Insights, so the hot keys are unknown"
    return f"Contributor Insights cannot be read: {insights.why}" if insights.status == "failed" else ""


def _joined(insights: Contributors, max_n: MaxN) -> tuple[HotKey, ...]:
    rolled = group_by_conversation(insights)
    known = max_n([conversation_id for conversation_id, *_ in rolled]) if rolled else {}
    return tuple(HotKey(c, key, events, parts, known.get(c)) for c, key, events, parts in rolled)


def as_record(scan: Scan) -> dict[str, Any]:
    """The scan with the keys of the command line's contract; null where CloudWatch could not be read."""
    found, over = scan.found, scan.options.window
    return {
        "table": scan.options.table,
        "start": iso_utc(over.start, "seconds"),
        "end": iso_utc(over.end, "seconds"),
        "period_s": over.period_s,
        "throttled": None if found is None else found.throttled,
        "total": None if found is None else found.total,
        "causes": dict.fromkeys(CAUSES) if found is None else dict(found.causes),
        "indexes": {} if found is None else dict(found.index_events),
        "series": [] if found is None else _series_records(found),
        "spikes": [] if found is None else _spike_records(found),
        "keys": [asdict(key) for key in scan.keys],
        "insights": scan.insights.status,
        "service": {"verdict": scan.service.verdict, "lag": scan.service.lag, "alive": scan.service.alive},
        "verdict": scan.diagnosis.verdict,
        "reasons": list(scan.diagnosis.reasons),
        "advice": list(scan.diagnosis.advice),
    }


def _series_records(found: ThrottleAnalysis) -> list[dict[str, Any]]:
    records = []
    for one in found.series:
        if not one.points:
            continue
        at, peak = max(one.points, key=lambda point: point[1])
        records.append(
            {
                "metric": one.key.metric,
                "index": one.key.index,
                "operation": one.key.operation,
                "sum": sum(value for _, value in one.points),
                "peak": peak,
                "peak_at": iso_utc(at, "seconds"),
                "points": [[iso_utc(at, "seconds"), value] for at, value in one.points],
            }
        )
    return records


def _spike_records(found: ThrottleAnalysis) -> list[dict[str, Any]]:
    return [
        {
            "metric": spike.key.metric,
            "index": spike.key.index,
            "operation": spike.key.operation,
            "at": iso_utc(spike.at, "seconds"),
            "events": spike.events,
            "usual": spike.usual,
        }
        for spike in found.spikes
    ]
