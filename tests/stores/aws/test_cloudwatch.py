"""CloudWatch as a store: the limits of GetMetricData, Contributor Insights, and alarms with their tags."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest

from saltctl.errors import AccessDeniedError, AwsUnavailableError
from saltctl.local.servers import LocalMoto
from saltctl.settings import Settings
from saltctl.stores.aws.cloudwatch import MAX_POINTS, MAX_QUERIES, CloudWatchMetrics
from saltctl.stores.contracts.metrics import AlarmSpec, MetricKey
from tests.support.aws_stub import AwsStub, refusal

START = 1_800_000_000


@pytest.fixture
def stub(moto: LocalMoto) -> Iterator[AwsStub]:
    """CloudWatch and DynamoDB through the stub; no Redis is needed."""
    with AwsStub(moto.url) as server:
        yield server


@pytest.fixture
def metrics(stub: AwsStub, moto: LocalMoto) -> CloudWatchMetrics:
    """The store."""
    return CloudWatchMetrics(stub.settings(Settings(aws_region="us-east-1", aws_endpoint_url=moto.url)))


def _answer(results: list[dict[str, Any]], token: str | None = None) -> tuple[int, dict[str, Any]]:
    return 200, {"MetricDataResults": results, **({"NextToken": token} if token else {})}


def _keys(count: int) -> list[MetricKey]:
    return [MetricKey("WriteThrottleEvents", "t", f"index-{number}") for number in range(count)]


@pytest.mark.parametrize(("count", "points"), [(1201, 60), (242, 1440), (3, 30 * 1440), (1, 2 * MAX_POINTS)])
def test_requests_stay_within_the_limits(metrics: CloudWatchMetrics, stub: AwsStub, count: int, points: int) -> None:
    """At most 500 queries and 100,800 points a request; every key and every minute is asked for exactly once."""
    asked: dict[str, int] = {}

    def rule(operation: str, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        queries = request["MetricDataQueries"]
        span = (request["EndTime"] - request["StartTime"]) // 60
        assert len(queries) <= MAX_QUERIES
        assert len(queries) * span <= MAX_POINTS
        for query in queries:
            index = query["MetricStat"]["Metric"]["Dimensions"][1]["Value"]
            asked[index] = asked.get(index, 0) + span
        return _answer([{"Id": query["Id"], "Timestamps": [], "Values": []} for query in queries])

    stub.rule = rule
    found = metrics.read(_keys(count), START, START + 60 * points, 60)
    assert [one.key for one in found] == _keys(count)
    assert asked == {f"index-{number}": points for number in range(count)}
    assert len(stub.seen) >= math.ceil(count * points / MAX_POINTS)


def test_a_series_is_collected_from_several_pages(metrics: CloudWatchMetrics, stub: AwsStub) -> None:
    """A series arrives in parts over several pages, one of them empty: all of it is returned in order."""

    def piece(minute: int, status: str = "PartialData") -> dict[str, Any]:
        return {"Id": "q0", "Timestamps": [START + 60 * minute], "Values": [minute], "StatusCode": status}

    pages = {None: _answer([piece(2)], "a"), "a": _answer([], "b"), "b": _answer([piece(0), piece(1, "Complete")])}
    stub.rule = lambda operation, request: pages[request.get("NextToken")]
    (series,) = metrics.read(_keys(1), START, START + 600, 60)
    assert series.points == ((START, 0.0), (START + 60, 1.0), (START + 120, 2.0))


@pytest.mark.parametrize(
    ("status", "error"),
    [
        ("Forbidden", AccessDeniedError),
        ("InternalError", AwsUnavailableError),
        ("PartialData", AwsUnavailableError),
        ("", AwsUnavailableError),
    ],
)
def test_a_failed_series_raises_an_error(
    metrics: CloudWatchMetrics, stub: AwsStub, status: str, error: type[Exception]
) -> None:
    """CloudWatch may answer 200 with one series that failed, or is incomplete, or is missing (no status here)."""
    whole, failed = ({"Id": f"q{number}", "Timestamps": [], "Values": []} for number in range(2))
    failed["StatusCode"] = status
    stub.rule = lambda operation, request: _answer([whole, failed] if status else [whole])
    with pytest.raises(error):
        metrics.read(_keys(2), START, START + 600, 60)


def test_throttled_keys_are_read_from_pkt_rules(metrics: CloudWatchMetrics, stub: AwsStub) -> None:
    """Only the table's rules named PKT are read; the sums of a key over several rules are added."""
    rules = ["DynamoDBContributorInsights-PKC-t-1", "DynamoDBContributorInsights-PKT-t-1"]

    def rule(operation: str, request: dict[str, Any]) -> Any:
        if operation == "DescribeContributorInsights":
            return 200, {"ContributorInsightsStatus": "ENABLED", "ContributorInsightsRuleList": rules}
        assert request["RuleName"] == rules[1]
        keys = [("a#1", 7.0), ("a#0", 9.0)]
        return 200, {
            "Contributors": [{"Keys": [key], "ApproximateAggregateValue": n, "Datapoints": []} for key, n in keys]
        }

    stub.rule = rule
    assert metrics.contributors("t", START, START + 600).keys == (("a#0", 9.0), ("a#1", 7.0))


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ((200, {"ContributorInsightsStatus": "DISABLED"}), "disabled"),
        ((200, {"ContributorInsightsStatus": "DISABLING"}), "disabling"),
        ((200, {"ContributorInsightsStatus": "ENABLING"}), "enabling"),
        ((200, {"ContributorInsightsStatus": "FAILED"}), "failed"),
        ((200, {"ContributorInsightsStatus": "PAUSED"}), "unreadable"),
        ((200, {"ContributorInsightsStatus": "ENABLED", "ContributorInsightsRuleList": ["x-PKC-t"]}), "unreadable"),
        (refusal("AccessDeniedException"), "unreadable"),
        (refusal("ResourceNotFoundException"), "unreadable"),
        (refusal("UnknownOperationException"), "unsupported"),
    ],
)
def test_missing_contributor_insights_raise_no_error(
    metrics: CloudWatchMetrics, stub: AwsStub, answer: Any, status: str
) -> None:
    """Disabled, forbidden and unsupported are statuses."""
    stub.rule = lambda operation, request: answer
    found = metrics.contributors("t", START, START + 600)
    assert (found.status, found.keys) == (status, ())
    assert bool(found.why) == (status in ("failed", "unreadable"))


@pytest.mark.parametrize(
    ("failure", "why"),
    [
        (
            {"ExceptionName": "AccessDeniedException", "ExceptionDescription": "no\nrule"},
            "AccessDeniedException: no rule",
        ),
        ({"ExceptionName": "LimitExceededException"}, "LimitExceededException"),
        ({"ExceptionDescription": "x" * 999}, "x" * 300),
        ({}, "DynamoDB does not say why"),
    ],
)
def test_contributor_insights_that_failed_say_why(
    metrics: CloudWatchMetrics, stub: AwsStub, failure: dict[str, str], why: str
) -> None:
    """In one line of a bounded length."""
    answer = {"ContributorInsightsStatus": "FAILED", "FailureException": failure}
    stub.rule = lambda operation, request: (200, answer)
    assert metrics.contributors("t", START, START + 600).why == why


def test_contributor_insights_of_a_missing_table_name_the_region(metrics: CloudWatchMetrics, stub: AwsStub) -> None:
    """As every other request about a table."""
    stub.rule = lambda operation, request: refusal("ResourceNotFoundException")
    assert "table 't' in Region 'us-east-1'" in metrics.contributors("t", START, START + 600).why


def test_a_missing_rule_is_no_missing_table(metrics: CloudWatchMetrics, stub: AwsStub) -> None:
    """CloudWatch has resources of its own."""
    enabled = {"ContributorInsightsStatus": "ENABLED", "ContributorInsightsRuleList": ["x-PKT-t"]}
    stub.rule = lambda operation, request: (
        (200, enabled) if operation == "DescribeContributorInsights" else refusal("ResourceNotFoundException")
    )
    why = metrics.contributors("t", START, START + 600).why
    assert "CloudWatch (ResourceNotFoundException)" in why
    assert "table" not in why


@pytest.mark.slow
def test_alarms_are_recognised_by_their_tag(metrics: CloudWatchMetrics) -> None:
    """An alarm is listed as it was put, and as owned; an alarm without the tag is not owned."""
    spec = AlarmSpec("own/x", MetricKey("WriteThrottleEvents", "t"), 10.0, 2, ("arn:aws:sns:x:1:t",), "about")
    metrics.put_alarm(spec)
    metrics.put_alarm(spec)
    metrics.client.put_metric_alarm(
        AlarmName="own/y",
        MetricName="m",
        Namespace="n",
        Period=60,
        EvaluationPeriods=1,
        Threshold=1.0,
        Statistic="Sum",
        ComparisonOperator="GreaterThanThreshold",
    )
    own, other = metrics.alarms("own/")
    assert (own.owned, other.owned) == (True, False)
    assert (own.key, own.threshold, own.periods, own.actions, own.description) == (
        spec.key,
        spec.threshold,
        spec.periods,
        spec.actions,
        spec.description,
    )
    metrics.delete_alarms(["own/x", "own/y"])
    assert metrics.alarms("own/") == []


@pytest.mark.slow
def test_an_alarm_that_is_deleted_meanwhile_is_no_error(metrics: CloudWatchMetrics, stub: AwsStub) -> None:
    """It is not listed, and the others are deleted: CloudWatch deletes none of a request that has a missing one."""
    for name in ("gone/x", "gone/y"):
        metrics.put_alarm(AlarmSpec(name, MetricKey("WriteThrottleEvents", "t"), 10.0, 2, (), "about"))
    stub.answer_first(1, "ListTagsForResource", refusal("ResourceNotFoundException"))
    assert len(metrics.alarms("gone/")) == 1
    stub.answer_first(2, "DeleteAlarms", refusal("ResourceNotFound"))
    metrics.delete_alarms(["gone/x", "gone/y"])
    assert [alarm.name for alarm in metrics.alarms("gone/")] == ["gone/x"]
