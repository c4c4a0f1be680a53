"""Inspection of DynamoDB for ``saltctl doctor``."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from email.utils import formatdate
from typing import Any

import pytest

from saltctl.errors import AccessDeniedError, AwsUnavailableError, ConfigurationError
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.inspection import PROBE_ID, AwsInspection
from saltctl.stores.aws.messages_table import MessagesTable
from saltctl.stores.aws.registry_item import REGISTRY_ITEM_ID
from tests.support.aws_stub import HANG_UP, AwsStub, refusal


@pytest.fixture
def inspection(aws_settings: Settings, aws_stub: AwsStub) -> AwsInspection:
    """The inspection of moto through the stub."""
    return AwsInspection(aws_stub.settings(aws_settings))


@pytest.mark.slow
def test_permitted_requests_change_nothing(
    inspection: AwsInspection, moto_backup: BackupTable, aws_settings: Settings
) -> None:
    """Every request to the backup table is permitted, and no item is written."""
    found = inspection.permitted(BackupTable(aws_settings))
    assert found == dict.fromkeys(("DescribeTable", "GetItem", "BatchGetItem", "Scan", "UpdateItem"), True)
    items = moto_backup.client.scan(TableName=aws_settings.backup_table)["Items"]
    assert [item["conversation_id"]["S"] for item in items] == [REGISTRY_ITEM_ID]


@pytest.mark.slow
def test_denied_requests_are_told_apart(
    inspection: AwsInspection, moto_backup: BackupTable, aws_stub: AwsStub, aws_settings: Settings
) -> None:
    """A denied request does not hide the others."""
    aws_stub.answer_always("UpdateItem", refusal("AccessDeniedException"))
    found = inspection.permitted(BackupTable(aws_settings))
    assert [action for action, permitted in found.items() if not permitted] == ["UpdateItem"]


@pytest.mark.slow
def test_messages_need_other_permissions(inspection: AwsInspection, aws_settings: Settings) -> None:
    """Query and PutItem, with the table's own key names."""
    table = MessagesTable(aws_settings)
    table.create()
    found = inspection.permitted(table, table.keys)
    assert found == dict.fromkeys(("DescribeTable", "GetItem", "Query", "PutItem"), True)
    assert table.get(PROBE_ID, "0") is None


@pytest.mark.parametrize("probe", [AwsInspection.permitted, AwsInspection.point_in_time_recovery])
@pytest.mark.parametrize("kind", [BackupTable, MessagesTable])
def test_a_missing_table_is_not_a_denied_request(
    probe: Callable[[AwsInspection, Any], object],
    kind: type[BackupTable | MessagesTable],
    inspection: AwsInspection,
    aws_settings: Settings,
) -> None:
    """A probe raises the error of every other request, with the Region and the setting that names the table."""
    table = kind(replace(aws_settings, messages_table="no-messages", backup_table="no-backup"))
    with pytest.raises(ConfigurationError) as caught:
        probe(inspection, table)
    assert f"no DynamoDB table '{table.name}' in Region '{aws_settings.aws_region}'" in caught.value.message
    assert caught.value.hint == table.missing_hint.format(region=aws_settings.aws_region)


def test_missing_credentials_are_not_a_denied_request(
    inspection: AwsInspection, aws_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without credentials nothing is known about permissions."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(AccessDeniedError, match="no usable AWS credentials"):
        inspection.permitted(BackupTable(aws_settings))


@pytest.mark.parametrize("answer", [None, refusal("InvalidSignatureException")], ids=["accepted", "refused"])
def test_the_clock_skew_is_read_from_any_response(inspection: AwsInspection, aws_stub: AwsStub, answer: Any) -> None:
    """A refusal because of the skew has a date, too."""
    aws_stub.date = formatdate(time.time() + 600, usegmt=True)
    aws_stub.answer_always("ListTables", answer)
    assert inspection.skew() == pytest.approx(600, abs=5)


def test_a_response_without_a_date_has_no_clock_skew(inspection: AwsInspection, aws_stub: AwsStub) -> None:
    """A proxy may replace the date."""
    aws_stub.date = "no date"
    assert inspection.skew() is None


def test_an_unreachable_aws_has_no_clock_skew(inspection: AwsInspection, aws_stub: AwsStub) -> None:
    """The outage is an error."""
    aws_stub.answer_always("ListTables", HANG_UP)
    with pytest.raises(AwsUnavailableError):
        inspection.skew()
