"""The seeded data looks like that of a service with salted conversations."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from saltctl.local.environment import LocalEnvironment
from saltctl.local.seed import HEAT_REPORTS, HOT
from saltctl.registry.registry import Registry
from saltctl.salting import split_partition_key
from saltctl.stores.aws.client import create_client
from saltctl.stores.aws.messages_table import MessagesTable
from saltctl.stores.heat.stream import HeatStream
from saltctl.stores.redis.connections import Connections
from saltctl.testing import local_environment


@pytest.fixture(scope="module")
def environment() -> Iterator[LocalEnvironment]:
    """A seeded environment that tests only read."""
    with local_environment(seed=True) as seeded:
        yield seeded


@pytest.mark.slow
def test_salted_conversations_have_history_on_every_side(environment: LocalEnvironment) -> None:
    """A salted conversation has messages from before it was salted, and from under each N on the way."""
    table = MessagesTable(environment.settings)
    with Registry.open(environment.settings) as registry:
        found = registry.lookup(f"conv_hot_{len(HOT):02d}")
    assert found.max_n == 16
    rows = {key: list(table.rows(key)) for key in found.read_set()}
    assert rows[found.conversation_id], "the base partition has the messages from before"
    assert sum(bool(rows[key]) for key in found.read_set()[1:]) >= 12
    newest_base = max(row["sort_key"]["S"] for row in rows[found.conversation_id])
    newest_salted = max(row["sort_key"]["S"] for key in found.read_set()[1:] for row in rows[key])
    assert newest_base < newest_salted
    for key, held in rows.items():
        assert split_partition_key(key)[0] == found.conversation_id
        assert all(row["sort_key"]["S"].endswith("#" + row["message_id"]["S"]) for row in held)


@pytest.mark.slow
def test_heat_reports_are_on_the_stream(environment: LocalEnvironment) -> None:
    """The stream has reports, and the consumer group that will read them."""
    stream = HeatStream(environment.settings)
    connections = Connections(environment.settings, timeout=5, retries=0)
    client = connections.client(connections.primaries()[0])
    assert client.execute_command("XLEN", stream.key) == HEAT_REPORTS
    assert stream.group_exists()
    connections.close()


def test_metrics_show_throttling(environment: LocalEnvironment) -> None:
    """CloudWatch shows write throttling by key range within the last hour."""
    now = datetime.now(UTC)
    cloudwatch = create_client(environment.settings, "cloudwatch")
    answer = cloudwatch.get_metric_statistics(
        Namespace="AWS/DynamoDB",
        MetricName="WriteKeyRangeThroughputThrottleEvents",
        Dimensions=[{"Name": "TableName", "Value": environment.settings.messages_table}],
        StartTime=now - timedelta(hours=1),
        EndTime=now,
        Period=60,
        Statistics=["Sum"],
    )
    assert sum(point["Sum"] for point in answer["Datapoints"]) > 0
