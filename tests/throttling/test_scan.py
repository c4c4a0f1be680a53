"""Tests of the throttle scan: sources that fail, and hot keys with their max_n."""

from __future__ import annotations

import re
from typing import Any

import pytest

from saltctl.errors import AccessDeniedError, ConfigurationError
from saltctl.stores.contracts.metrics import Contributors
from saltctl.throttling.diagnosis import ServiceStatus
from saltctl.throttling.scan import ScanOptions, as_record, scan_recent, scan_table
from tests.throttling.fake_store import FakeMetricsStore
from tests.throttling.series import NOW, OVER, events

OPTIONS = ScanOptions("t", OVER)
ALIVE = ServiceStatus("ok", 0, 2)
DENIED = AccessDeniedError("not permitted")
THROTTLED = events("WriteKeyRangeThroughputThrottleEvents", 70)


def test_without_metrics_the_state_of_the_service_remains() -> None:
    """If CloudWatch cannot be read the verdict is no-data, and the error is kept."""
    result = scan_table(FakeMetricsStore(errors={"read": DENIED}), OPTIONS, ALIVE, lambda _: {})
    record = as_record(result)
    assert result.failure is DENIED
    assert (record["verdict"], record["throttled"], record["total"], record["series"]) == ("no-data", None, None, [])
    assert any("2 instances alive" in reason for reason in record["reasons"])


def test_unknown_indexes_are_a_note() -> None:
    """If the indexes cannot be read the table is scanned, and a note says so."""
    result = scan_table(FakeMetricsStore(THROTTLED, errors={"describe": DENIED}), OPTIONS, ALIVE, lambda _: {})
    assert result.diagnosis.verdict == "hot-partition"
    assert any("indexes are unknown" in note for note in result.notes)


@pytest.mark.parametrize("method", ["describe", "read"])
def test_a_missing_table_is_an_error(method: str) -> None:
    """A ConfigurationError of any source is raised."""
    store = FakeMetricsStore(errors={method: ConfigurationError("no such table")})
    with pytest.raises(ConfigurationError):
        scan_table(store, OPTIONS, ALIVE, lambda _: {})


def test_hot_keys_have_their_max_n() -> None:
    """Hot keys are grouped by conversation, and an unknown max_n is null."""
    insights = Contributors("enabled", (("a#1", 50.0), ("b", 20.0)))
    store = FakeMetricsStore(THROTTLED, contributors=insights)
    result = scan_table(store, OPTIONS, ALIVE, lambda ids: {"a": 4})
    assert [(key["conversation_id"], key["max_n"]) for key in as_record(result)["keys"]] == [("a", 4), ("b", None)]


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("enabling", "is being switched on, so the hot keys are unknown: scan again"),
        ("disabled", "is off, so the hot keys are unknown; to switch it on: aws dynamodb update-contributor-insights"),
        ("disabling", "is being switched off, .* once it is off: aws .* ENABLE$"),
        ("failed", "Insights failed, so the hot keys are unknown: the reason; once that is mended: aws .* ENABLE$"),
        ("unsupported", "has no Contributor Insights"),
        ("unreadable", "cannot read Contributor Insights: the reason"),
    ],
)
def test_unknown_hot_keys_have_their_cause(status: Any, words: str) -> None:
    """And the command that helps. Only Contributor Insights that are off are called off."""
    store = FakeMetricsStore(THROTTLED, contributors=Contributors(status, (), "the reason"))
    result = scan_table(store, OPTIONS, ALIVE, lambda ids: {})
    assert as_record(result)["insights"] == status
    (note,) = result.notes
    assert re.search(words, note)
    assert ("is off, " in note) == (status == "disabled")


def test_the_last_minutes() -> None:
    """A recent scan has one value for each minute, and the events of the last 15 minutes only."""
    old = events("ReadThrottleEvents", 9, *[0] * 30)
    found = scan_recent(FakeMetricsStore(THROTTLED, old), "t", NOW)
    assert (found.total, found.throttled, found.has_data) == (70.0, True, True)
    assert found.events_per_period() == [0.0] * 14 + [70.0]
