"""Tests of the diagnosis: which verdict, reasons and commands follow from which metrics (as AWS documents them)."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from saltctl.stores.contracts.metrics import Contributors, MetricSeries
from saltctl.throttling.analysis import analyse
from saltctl.throttling.diagnosis import Diagnosis, HotKey, ServiceStatus, diagnose, hot_keys
from tests.throttling.series import OVER, TRAFFIC, events

ALIVE = ServiceStatus("ok", 0, 2)
STOPPED = ServiceStatus("stopped", 500, 0)
UNKNOWN = ServiceStatus(None, None, None, "Redis at cache:6379 cannot be reached")


def verdict(
    *series: MetricSeries, service: ServiceStatus = ALIVE, keys: Sequence[HotKey] = (), threshold: float = 1.0
) -> Diagnosis:
    """Diagnose a table that has traffic and these series."""
    return diagnose(analyse([TRAFFIC, *series], OVER, threshold), service, keys, "t")


@pytest.mark.parametrize("way", ["Read", "Write"])
@pytest.mark.parametrize(
    ("stem", "cause", "expected"),
    [
        ("KeyRangeThroughput", "key_range", "hot-partition"),
        ("ProvisionedThroughput", "provisioned", "capacity"),
        ("AccountLimit", "account", "capacity"),
        ("MaxOnDemandThroughput", "on_demand_max", "capacity"),
    ],
)
def test_each_published_cause_has_its_verdict(way: str, stem: str, cause: str, expected: str) -> None:
    """Only a key range is a hot partition. The other causes are limits of capacity: salting does not help."""
    found = analyse([TRAFFIC, events(f"{way}{stem}ThrottleEvents", 30, 40)], OVER, 1.0)
    assert {name: value for name, value in found.causes.items() if value} == {cause: 70.0}
    diagnosis = diagnose(found, ALIVE, (), "t")
    assert diagnosis.verdict == expected
    if expected == "capacity":
        assert any("raising N does not help" in reason for reason in diagnosis.reasons)
        assert not any("registry set" in command for command in diagnosis.advice)


@pytest.mark.parametrize("stem", ["KeyRangeThroughput", "ProvisionedThroughput"])
def test_a_hot_index_does_not_suggest_a_raise(stem: str) -> None:
    """For any cause on an index the verdict is index, and no command raises N."""
    diagnosis = verdict(events(f"Write{stem}ThrottleEvents", 90, index="by_user"), service=STOPPED)
    assert diagnosis.verdict == "index"
    assert any("'by_user'" in reason for reason in diagnosis.reasons)
    assert any("do not raise N" in reason for reason in diagnosis.reasons)
    assert not any("registry set" in command for command in diagnosis.advice)


def test_unsalted_hot_key_and_stopped_service_is_service_down() -> None:
    """The reasons name the conversation and the service; the first commands start it, and work off its backlog."""
    keys = [HotKey("conv_1", "conv_1", 80.0, 1, 1)]
    diagnosis = verdict(events("WriteKeyRangeThroughputThrottleEvents", 80), service=STOPPED, keys=keys)
    assert diagnosis.verdict == "hot-partition-service-down"
    assert any("unsalted" in reason and "conv_1" in reason for reason in diagnosis.reasons)
    by_hand = "saltctl registry set conv_1 2 --dry-run"
    backlog = ("saltctl stream replay --dry-run", "saltctl stream replay")
    assert diagnosis.advice == ("saltctl service run", *backlog, by_hand)
    for lag, replay in ((0, ()), (None, backlog)):
        service = ServiceStatus("stopped", lag, 0)
        diagnosis = verdict(events("WriteKeyRangeThroughputThrottleEvents", 80), service=service, keys=keys)
        assert diagnosis.advice == ("saltctl service run", *replay, by_hand)


def test_salted_hot_key_suggests_double_n() -> None:
    """With eight salts the reason is that N is too low, and the command doubles N."""
    keys = [HotKey("conv_1", "conv_1#3", 80.0, 4, 8)]
    diagnosis = verdict(events("WriteKeyRangeThroughputThrottleEvents", 80), keys=keys)
    assert diagnosis.verdict == "hot-partition"
    assert any("max_n 8: N is too low" in reason for reason in diagnosis.reasons)
    assert "saltctl registry set conv_1 16 --dry-run" in diagnosis.advice


def test_an_unknown_service_is_not_called_down() -> None:
    """With Redis down the verdict is hot-partition, and a reason says why the service is unknown."""
    diagnosis = verdict(events("WriteKeyRangeThroughputThrottleEvents", 80), service=UNKNOWN)
    assert diagnosis.verdict == "hot-partition"
    assert any("unknown: Redis at cache:6379" in reason for reason in diagnosis.reasons)


def test_a_stalled_service_counts_as_down() -> None:
    """Instances that are alive and process nothing do not raise N."""
    stalled = ServiceStatus("stalled", 500, 2)
    diagnosis = verdict(events("WriteKeyRangeThroughputThrottleEvents", 80), service=stalled)
    assert diagnosis.verdict == "hot-partition-service-down"


def test_the_largest_cause_gives_the_verdict_and_the_others_add_reasons() -> None:
    """With several causes the one with the most events gives the verdict; every cause has a reason."""
    series = (
        events("WriteProvisionedThroughputThrottleEvents", 500),
        events("WriteKeyRangeThroughputThrottleEvents", 40),
        events("WriteKeyRangeThroughputThrottleEvents", 60, index="by_user"),
    )
    diagnosis = verdict(*series)
    assert diagnosis.verdict == "capacity"
    text = " ".join(diagnosis.reasons)
    assert "provisioned" in text
    assert "by_user" in text
    assert "single partition keys" in text


def test_no_metrics_is_no_data() -> None:
    """Without traffic and throttle metrics the verdict is no-data, not quiet."""
    diagnosis = diagnose(analyse([], OVER, 1.0), ALIVE, (), "t")
    assert diagnosis.verdict == "no-data"
    assert diagnosis.advice


def test_traffic_without_throttle_metrics_is_quiet() -> None:
    """DynamoDB sends throttle metrics only while it throttles; consumed capacity shows that there is data."""
    assert verdict().verdict == "quiet"


def test_an_unpublished_cause_is_reported_as_unknown() -> None:
    """Throttle events without a cause are capacity, unless single keys stand out."""
    diagnosis = verdict(events("WriteThrottleEvents", 50))
    assert diagnosis.verdict == "capacity"
    assert any("not published" in reason for reason in diagnosis.reasons)
    assert verdict(events("WriteThrottleEvents", 50), keys=[HotKey("c", "c", 50, 1, 1)]).verdict == "hot-partition"


def test_below_the_threshold_is_quiet_with_the_count() -> None:
    """If no period reaches the threshold, the verdict is quiet, and the reason counts the events."""
    diagnosis = verdict(events("WriteKeyRangeThroughputThrottleEvents", 3, 4), threshold=10)
    assert diagnosis.verdict == "quiet"
    assert "7 events" in diagnosis.reasons[0]


def test_salted_keys_are_grouped_by_conversation() -> None:
    """Salts and base partition are one conversation; a '#' not followed by a number is part of the id."""
    insights = Contributors("enabled", (("a#1", 10.0), ("b", 15.0), ("a", 2.0), ("a#0", 8.0), ("odd#x", 1.0)))
    assert hot_keys(insights, lambda _: {"b": 4}) == (
        HotKey("a", "a#1", 20.0, 3),
        HotKey("b", "b", 15.0, 1, 4),
        HotKey("odd#x", "odd#x", 1.0, 1),
    )


def test_a_key_that_is_not_a_salt_in_the_registry_is_no_reason_for_a_raise() -> None:
    """``CONV#77`` may be a conversation of its own: a raise of ``CONV`` would merge others with it."""
    insights = Contributors("enabled", (("CONV#77", 60.0), ("CONV#78", 30.0), ("CONV", 20.0), ("CONV#1", 10.0)))
    keys = hot_keys(insights, lambda _: {"CONV": 4})
    assert [(key.conversation_id, key.throttles, key.max_n) for key in keys] == [
        ("CONV#77", 60.0, None),
        ("CONV", 30.0, 4),
        ("CONV#78", 30.0, None),
    ]
    diagnosis = verdict(events("WriteKeyRangeThroughputThrottleEvents", 80), keys=keys)
    assert any("'CONV#77'" in reason and "not know it as a salt of 'CONV'" in reason for reason in diagnosis.reasons)
    assert "saltctl history audit CONV" in diagnosis.advice
    assert [command for command in diagnosis.advice if "registry set" in command] == [
        "saltctl registry set CONV 8 --dry-run"
    ]
    unsalted = hot_keys(insights, lambda _: {"CONV": 1})
    assert {key.conversation_id for key in unsalted} == {"CONV#77", "CONV#78", "CONV", "CONV#1"}


def test_salts_of_an_unknown_n_suggest_no_raise() -> None:
    """While the registry cannot be read, a key may be a salt or not."""
    keys = hot_keys(Contributors("enabled", (("CONV#77", 60.0), ("odd#x", 5.0))), lambda _: {})
    diagnosis = verdict(events("WriteKeyRangeThroughputThrottleEvents", 80), keys=keys)
    assert "saltctl registry get CONV" in diagnosis.advice
    assert any("'odd#x' is throttled; an id with a '#' cannot be salted" in reason for reason in diagnosis.reasons)
    assert not any("registry set" in command for command in diagnosis.advice)


def test_a_hostile_key_is_quoted_in_commands() -> None:
    """A command to paste has a hostile id as one quoted word."""
    keys = [HotKey("x; rm -rf ~", "x; rm -rf ~", 80.0, 1, 1)]
    diagnosis = verdict(events("WriteKeyRangeThroughputThrottleEvents", 80), keys=keys)
    assert "saltctl registry set 'x; rm -rf ~' 2 --dry-run" in diagnosis.advice
