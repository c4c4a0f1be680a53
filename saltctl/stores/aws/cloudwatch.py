"""CloudWatch: metrics of DynamoDB tables, alarms on them, and Contributor Insights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from saltctl.errors import AccessDeniedError, AwsUnavailableError, SaltctlError
from saltctl.settings import Settings
from saltctl.stores.aws.client import ClientOfProcess, create_client
from saltctl.stores.aws.failures.errors import aws_errors, error_code, none_if_missing
from saltctl.stores.aws.failures.responses import Progress
from saltctl.stores.aws.table import Table
from saltctl.stores.bounded.errors import UnreadableResponseError
from saltctl.stores.contracts.metrics import Alarm, AlarmSpec, Contributors, MetricKey, MetricSeries, TableDescription

NAMESPACE = "AWS/DynamoDB"
MAX_QUERIES = 500
"""Queries in one GetMetricData (documented)."""
MAX_POINTS = 100_800
"""Data points in the response to one GetMetricData (documented)."""
MAX_CONTRIBUTORS = 25
OWNER_TAG = {"Key": "saltctl", "Value": "throttle-alarm"}
_SERVICE = "CloudWatch"
_LONGEST_REASON = 300


class CloudWatchMetrics:
    """The metrics store on CloudWatch. Thread-safe. See ``contracts.MetricsStore`` for the semantics.

    An application's own ``client`` and ``dynamodb`` renew their credentials themselves.
    """

    def __init__(self, settings: Settings, *, client: Any = None, dynamodb: Any = None) -> None:
        self._settings = settings
        self._client = ClientOfProcess(lambda: create_client(settings, "cloudwatch"), client)
        self._given_dynamodb = dynamodb
        self._dynamodb = ClientOfProcess(lambda: create_client(settings, "dynamodb"), dynamodb)

    @property
    def client(self) -> Any:
        """The boto3 client of CloudWatch, created at first use."""
        return self._client.get()

    def describe(self, table: str) -> TableDescription:
        """Read the table's indexes and billing mode."""
        found = self._table(table).require()
        mode = found.get("BillingModeSummary", {}).get("BillingMode", "PROVISIONED")
        indexes = tuple(index["IndexName"] for index in found.get("GlobalSecondaryIndexes", ()))
        return TableDescription(table, indexes, mode == "PAY_PER_REQUEST")

    def _table(self, name: str) -> Table:
        return Table(self._settings, name, client=self._dynamodb.get())

    # Metrics.

    def read(self, keys: Sequence[MetricKey], start: int, end: int, period_s: int) -> list[MetricSeries]:
        """Read the sums of each metric, in as many requests as the limits of GetMetricData require."""
        points: list[dict[int, float]] = [{} for _ in keys]
        longest = MAX_POINTS * period_s  # so that one series has at most MAX_POINTS in a request
        for first in range(start, end, longest):
            last = min(first + longest, end)
            size = min(MAX_QUERIES, max(MAX_POINTS // max((last - first) // period_s, 1), 1))
            for offset in range(0, len(keys), size):
                self._read_batch(keys[offset : offset + size], points[offset : offset + size], first, last, period_s)
        return [MetricSeries(key, tuple(sorted(found.items()))) for key, found in zip(keys, points, strict=True)]

    def _read_batch(
        self, keys: Sequence[MetricKey], points: Sequence[dict[int, float]], start: int, end: int, period_s: int
    ) -> None:
        request: dict[str, Any] = {
            "MetricDataQueries": [_query(f"q{number}", key, period_s) for number, key in enumerate(keys)],
            "StartTime": datetime.fromtimestamp(start, UTC),
            "EndTime": datetime.fromtimestamp(end, UTC),
            "ScanBy": "TimestampAscending",
            "MaxDatapoints": MAX_POINTS,
        }
        series_by_id = {f"q{number}": series for number, series in enumerate(points)}
        statuses: dict[str, str] = {}
        with aws_errors(_SERVICE):
            for page in self._pages("get_metric_data", **request):
                for result in page["MetricDataResults"]:
                    if (series := series_by_id.get(result["Id"])) is None:
                        raise UnreadableResponseError("it has a metric that was not requested")
                    statuses[result["Id"]] = result.get("StatusCode", "Complete")
                    # The points of a series may arrive in several pages: each page adds to them.
                    times = [int(at.timestamp()) for at in result["Timestamps"]]
                    values = [float(value) for value in result["Values"]]
                    if not all(start <= at < end for at in times) or min(values, default=0.0) < 0:
                        raise UnreadableResponseError("it has a time that was not requested, or a negative sum")
                    series.update(zip(times, values, strict=True))
            if len(statuses) < len(keys):  # one without data is empty
                raise UnreadableResponseError("a metric that was requested is missing")
        _check_statuses(set(statuses.values()))

    def _pages(self, operation: str, **request: Any) -> Iterator[dict[str, Any]]:
        """Yield the pages of a list; raises UnreadableResponseError if they repeat."""
        progress = Progress()
        for page in self.client.get_paginator(operation).paginate(**request):
            progress.check(page.get("NextToken"))
            yield page

    # Contributor Insights.

    def contributors(self, table: str, start: int, end: int) -> Contributors:
        """Read the most throttled partition keys."""
        try:
            insights = self._insights(table)
            if insights is None:
                return Contributors("unsupported", ())
            if (status := insights["ContributorInsightsStatus"]) != "ENABLED":
                return _without_contributors(str(status), insights.get("FailureException", {}))
            throttled: dict[str, float] = {}
            # The throttled partition keys; PKC are the most accessed ones.
            rules = [rule for rule in insights.get("ContributorInsightsRuleList", ()) if "-PKT-" in rule]
            if not rules:
                raise AwsUnavailableError("DynamoDB names no rule for throttled keys")
            for rule in rules:
                for key, count in self._report(rule, start, end):
                    throttled[key] = throttled.get(key, 0.0) + count
        except SaltctlError as exc:
            return Contributors("unreadable", (), exc.message)
        return Contributors("enabled", tuple(sorted(throttled.items(), key=lambda item: (-item[1], item[0]))))

    def _insights(self, table: str) -> dict[str, Any] | None:
        """Describe Contributor Insights; None if the endpoint does not support them."""
        import botocore.exceptions as driver

        with self._table(table).errors():
            try:
                # One attempt: a scan can do without it, and an emulator that lacks it answers 500.
                dynamodb = self._given_dynamodb or create_client(self._settings, "dynamodb", attempts=1)
                found: dict[str, Any] = dynamodb.describe_contributor_insights(TableName=table)
            except (driver.ClientError, driver.ParamValidationError) as exc:
                if error_code(exc) in ("UnknownOperationException", "500", "501"):
                    return None
                raise
        return found

    def _report(self, rule: str, start: int, end: int) -> Iterator[tuple[str, float]]:
        with aws_errors(_SERVICE):
            response = self.client.get_insight_rule_report(
                RuleName=rule,
                StartTime=datetime.fromtimestamp(start, UTC),
                EndTime=datetime.fromtimestamp(end, UTC),
                Period=max((end - start + 59) // 60 * 60, 60),
                MaxContributorCount=MAX_CONTRIBUTORS,
                OrderBy="Sum",
            )
            for contributor in response["Contributors"]:
                if not contributor["Keys"]:
                    raise UnreadableResponseError("a contributor has no key")
                yield str(contributor["Keys"][0]), float(contributor["ApproximateAggregateValue"])

    # Alarms.

    def alarms(self, prefix: str) -> list[Alarm]:
        """List the alarms whose name begins with the prefix; ``owned`` means that they have saltctl's tag."""
        found = []
        with aws_errors(_SERVICE):
            for page in self._pages("describe_alarms", AlarmNamePrefix=prefix, AlarmTypes=["MetricAlarm"]):
                for alarm in page["MetricAlarms"]:
                    if not alarm["AlarmName"].startswith(prefix):
                        raise UnreadableResponseError("it has an alarm that was not requested")
                    if (tags := self._tags(alarm["AlarmArn"])) is not None:
                        found.append(_alarm(alarm, owned=OWNER_TAG in tags))
        return sorted(found, key=lambda alarm: alarm.name)

    def _tags(self, arn: str) -> list[dict[str, Any]] | None:
        """Return the tags of an alarm; None if it was deleted meanwhile."""
        response = none_if_missing(lambda: self.client.list_tags_for_resource(ResourceARN=arn))
        return None if response is None else response["Tags"]

    def put_alarm(self, spec: AlarmSpec) -> None:
        """Create an alarm, or overwrite the one of this name."""
        with aws_errors(_SERVICE):
            self.client.put_metric_alarm(
                AlarmName=spec.name,
                AlarmDescription=spec.description,
                ActionsEnabled=True,
                AlarmActions=list(spec.actions),
                OKActions=list(spec.actions),
                Namespace=NAMESPACE,
                MetricName=spec.key.metric,
                Dimensions=_dimensions(spec.key),
                Statistic="Sum",
                Period=60,
                EvaluationPeriods=spec.periods,
                DatapointsToAlarm=spec.periods,
                Threshold=spec.threshold,
                ComparisonOperator="GreaterThanOrEqualToThreshold",
                # DynamoDB sends these metrics only while it throttles.
                TreatMissingData="notBreaching",
                Tags=[OWNER_TAG],
            )

    def delete_alarms(self, names: Sequence[str]) -> None:
        """Delete alarms, at most 100 in a request, which deletes none of them if one does not exist (documented)."""
        with aws_errors(_SERVICE):
            for offset in range(0, len(names), 100):
                self._delete_existing(list(names[offset : offset + 100]))

    def _delete_existing(self, names: list[str]) -> None:
        if none_if_missing(lambda: self.client.delete_alarms(AlarmNames=names)) is None and len(names) > 1:
            for name in names:
                self._delete_existing([name])


def _without_contributors(status: str, failure: dict[str, Any]) -> Contributors:
    """Return why Contributor Insights that are not enabled have no keys. ``failure`` is DynamoDB's exception."""
    known: dict[str, Literal["enabling", "disabling", "disabled"]] = {
        "ENABLING": "enabling",
        "DISABLING": "disabling",
        "DISABLED": "disabled",
    }
    if status in known:
        return Contributors(known[status], ())
    if status != "FAILED":
        return Contributors("unreadable", (), f"DynamoDB reports a status that is not known: {status[:60]!r}")
    words = [str(failure.get(name, "")) for name in ("ExceptionName", "ExceptionDescription")]
    reason = ": ".join(filter(None, words)) or "DynamoDB does not say why"
    return Contributors("failed", (), " ".join(reason.split())[:_LONGEST_REASON])


def _query(query_id: str, key: MetricKey, period_s: int) -> dict[str, Any]:
    metric = {"Namespace": NAMESPACE, "MetricName": key.metric, "Dimensions": _dimensions(key)}
    return {"Id": query_id, "MetricStat": {"Metric": metric, "Period": period_s, "Stat": "Sum"}}


def _dimensions(key: MetricKey) -> list[dict[str, str]]:
    named = (("TableName", key.table), ("GlobalSecondaryIndexName", key.index), ("Operation", key.operation))
    return [{"Name": name, "Value": value} for name, value in named if value is not None]


def _check_statuses(last: set[str]) -> None:
    """Check the status of each metric on the last page that has it: earlier ones are PartialData (documented)."""
    if "Forbidden" in last:
        raise AccessDeniedError("CloudWatch does not permit reading this metric", hint="aws sts get-caller-identity")
    if failed := last - {"Complete"}:
        raise AwsUnavailableError(f"CloudWatch answered with {min(failed)} for a metric", hint="try again")


def _alarm(alarm: dict[str, Any], *, owned: bool) -> Alarm:
    dimensions = {d["Name"]: d["Value"] for d in alarm.get("Dimensions", ())}
    return Alarm(
        alarm["AlarmName"],
        MetricKey(
            str(alarm.get("MetricName", "")),
            dimensions.get("TableName", ""),
            dimensions.get("GlobalSecondaryIndexName"),
            dimensions.get("Operation"),
        ),
        float(alarm.get("Threshold", 0.0)),
        int(alarm.get("EvaluationPeriods", 1)),
        tuple(alarm.get("AlarmActions", ())),
        str(alarm.get("AlarmDescription", "")),
        str(alarm.get("StateValue", "INSUFFICIENT_DATA")),
        owned,
    )
