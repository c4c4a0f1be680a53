"""The identity of registry and table: which tables are accepted, how often they are asked for it, and who may note."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from saltctl.errors import (
    AwsUnavailableError,
    BackupLostError,
    ConfigurationError,
    RebuildBrokenError,
    SaltctlError,
)
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.registry_item import COOLED_FORMAT, REGISTRY_ITEM_ID, TABLE_CHECK_SECONDS, RegistryItem
from saltctl.stores.contracts.registry import RegistryIdentity
from saltctl.values import NEW_ID_DIGITS
from tests.stores.aws.backup_helpers import make_item, put_items
from tests.support.aws_stub import AwsStub, refusal

OTHER_ID = "0123456789abcdef"


def change(backup: BackupTable, **attributes: dict[str, Any]) -> None:
    """Overwrite attributes of the item."""
    item = backup.read_item(REGISTRY_ITEM_ID)
    assert item is not None
    put_items(backup, item | attributes)


def reads(backup: BackupTable) -> list[Callable[[], object]]:
    """Return every way to read that must check the identity."""
    return [
        backup.check_registry,
        lambda: backup.get("conv"),
        lambda: backup.get_many(["conv", "other"]),
        lambda: backup.registry.read(recheck=True),
    ]


def test_a_new_table_has_an_identity(backup: BackupTable) -> None:
    """It is random; a second create changes nothing, and a client without the setting learns the id."""
    identity = backup.check_registry()
    assert identity == RegistryIdentity(identity.registry_id)
    assert len(identity.registry_id) == NEW_ID_DIGITS
    backup.registry.create()
    assert BackupTable(backup.settings, client=backup.client).registry.id() == identity.registry_id


def test_the_id_is_read_once(backup: BackupTable) -> None:
    """A setting spares even that: such a client needs no AWS to know it."""
    requests: list[str] = []
    backup.client.meta.events.register("before-call.dynamodb", lambda model, **_: requests.append(model.name))
    known = backup.registry.id()
    before = len(requests)
    assert backup.registry.id() == known
    assert len(requests) == before
    assert BackupTable(replace(backup.settings, registry_id=OTHER_ID), client=backup.client).registry.id() == OTHER_ID
    assert len(requests) == before


@pytest.mark.parametrize(
    ("attributes", "error", "says"),
    [
        ({"registry_format": {"N": str(COOLED_FORMAT + 1)}}, ConfigurationError, "upgrade|format"),
        ({"registry_id": {"S": "short"}}, BackupLostError, "is damaged"),
        ({"claimed_tables": {"M": {}}}, BackupLostError, "restored or copied"),
        ({"claimed_tables": {"S": "x"}}, BackupLostError, "restored or copied"),
        ({"claimed_tables": {"M": {"us-east-1": {"S": "another table"}}}}, BackupLostError, "restored or copied"),
    ],
)
def test_an_item_that_is_not_this_registrys_is_refused(
    moto_backup: BackupTable, attributes: dict[str, Any], error: type[SaltctlError], says: str
) -> None:
    """By every read, before an entry is returned."""
    put_items(moto_backup, make_item("conv", 4, 4))
    change(moto_backup, **attributes)
    moto_backup.registry.forget_check()
    for read in reads(moto_backup):
        with pytest.raises(error, match=says):
            read()


@pytest.mark.parametrize(
    ("attributes", "says"),
    [
        ({"layout": {"S": "v2:64"}}, "laid out as v2:64"),
        ({"key_prefix": {"S": "pepper"}}, "under the prefix 'pepper'"),
        ({"key_prefix": {"N": "1"}}, "is damaged"),
        ({"layout": {"S": ""}}, "is damaged"),
    ],
)
def test_another_layout_stops_writers_alone(moto_backup: BackupTable, attributes: dict[str, Any], says: str) -> None:
    """A lookup reads the same items under any layout; a raise and a rebuild would use the wrong buckets."""
    change(moto_backup, **attributes)
    assert moto_backup.get("conv") is None
    with pytest.raises(ConfigurationError, match=says):
        moto_backup.check_registry()


def test_the_layout_of_the_table_is_the_hint(moto_backup: BackupTable) -> None:
    """A client with other settings is told the right ones."""
    stranger = BackupTable(replace(moto_backup.settings, buckets=64, key_prefix="x"), client=moto_backup.client)
    with pytest.raises(ConfigurationError, match="laid out as v2:16384") as refused:
        stranger.check_registry()
    assert refused.value.hint == "export SALTCTL_BUCKETS=16384 SALTCTL_KEY_PREFIX=salt"


def test_what_the_item_records_is_read_unchecked(moto_backup: BackupTable) -> None:
    """For people, and for a recovery: the ids of the registry and of the one that it replaced, if the item has them."""
    assert moto_backup.registry.layout() == ("v2:16384", "salt", moto_backup.registry.id())
    assert moto_backup.registry.recorded_ids() == {moto_backup.registry.id()}
    new = moto_backup.registry.claim(moto_backup.registry.table_identity(), replaces=OTHER_ID)
    assert moto_backup.registry.recorded_ids() == {new, OTHER_ID}
    new = moto_backup.registry.claim(moto_backup.registry.table_identity(), replaces="")
    assert moto_backup.registry.recorded_ids() == {new}
    moto_backup.client.delete_item(TableName=moto_backup.name, Key={"conversation_id": {"S": REGISTRY_ITEM_ID}})
    assert moto_backup.registry.layout() == ("", "", "")
    assert moto_backup.registry.recorded_ids() == set()
    moto_backup.registry.admit_replica()
    assert not moto_backup.registry.exists()


def test_a_client_of_another_registry_is_refused(moto_backup: BackupTable) -> None:
    """Its setting names another id."""
    stranger = BackupTable(replace(moto_backup.settings, registry_id=OTHER_ID), client=moto_backup.client)
    for read in reads(stranger):
        with pytest.raises(ConfigurationError, match=f"set to {OTHER_ID}"):
            read()


def test_a_missing_item_is_a_lost_backup(moto_backup: BackupTable) -> None:
    """Never an empty table: a lookup would return a default."""
    moto_backup.client.delete_item(TableName=moto_backup.name, Key={"conversation_id": {"S": REGISTRY_ITEM_ID}})
    for read in reads(moto_backup):
        with pytest.raises(BackupLostError, match="has no item '#registry'"):
            read()


def test_a_table_without_a_table_id_is_known_by_its_creation(moto_backup: BackupTable) -> None:
    """An older endpoint shows no TableId: a table that was created again is noticed all the same."""
    real = moto_backup.client.describe_table

    class WithoutId:
        """The client, whose tables have no id and were created ``later`` seconds later."""

        later = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(moto_backup.client, name)

        def describe_table(self, **request: Any) -> Any:
            """Remove the id."""
            from datetime import timedelta

            table = dict(real(**request)["Table"])
            table.pop("TableId", None)
            table["CreationDateTime"] += timedelta(seconds=self.later)
            return {"Table": table}

    client = WithoutId()
    backup = BackupTable(moto_backup.settings, client=client)
    backup.registry.claim(backup.registry.table_identity(), replaces="")
    assert backup.registry.table_identity().startswith("created ")
    backup.registry.read(recheck=True)
    client.later = 1
    with pytest.raises(BackupLostError):
        backup.registry.read(recheck=True)


# How often the table is asked for its identity.


@pytest.fixture
def clocked(stubbed_backup: BackupTable) -> tuple[BackupTable, list[float]]:
    """The table through a stub, and the time of its clock."""
    now = [0.0]
    stubbed_backup.registry = RegistryItem(stubbed_backup, clock=lambda: now[0])
    return stubbed_backup, now


def test_the_identity_is_asked_for_once_a_minute(clocked: tuple[BackupTable, list[float]], aws_stub: AwsStub) -> None:
    """And again after a request that failed: the table may have been replaced in between."""
    backup, now = clocked
    for _ in range(5):
        backup.get("conv")
    assert aws_stub.seen.count("DescribeTable") == 1
    now[0] += TABLE_CHECK_SECONDS
    backup.get("conv")
    assert aws_stub.seen.count("DescribeTable") == 2
    aws_stub.answer_first(1, "BatchGetItem", refusal("ResourceNotFoundException"))
    with pytest.raises(SaltctlError):
        backup.get("conv")
    backup.get("conv")
    assert aws_stub.seen.count("DescribeTable") == 3


def test_without_the_permission_the_check_is_skipped(
    clocked: tuple[BackupTable, list[float]], aws_stub: AwsStub
) -> None:
    """Lookups work, and doctor can say that a restored table would not be noticed."""
    backup, _ = clocked
    aws_stub.answer_always("DescribeTable", refusal("AccessDeniedException"))
    assert backup.get("conv") is None
    assert "AccessDenied" in backup.registry.table_unchecked


def test_an_outage_of_describe_table(clocked: tuple[BackupTable, list[float]], aws_stub: AwsStub) -> None:
    """A table that was right a minute ago is used; one that was never compared is an error."""
    backup, now = clocked
    backup.get("conv")
    aws_stub.answer_always("DescribeTable", refusal("InternalServerError", 500))
    now[0] += TABLE_CHECK_SECONDS
    assert backup.get("conv") is None
    backup.registry.forget_check()
    with pytest.raises(AwsUnavailableError):
        backup.get("conv")


# The note of rebuilds.


def test_the_note_is_written_by_one_rebuild_after_another(backup: BackupTable) -> None:
    """A rebuild that read the note before another one wrote its own is refused."""
    first = backup.check_registry()
    noted = backup.registry.note_rebuild(first, "token 1", {"a", "b"})
    assert backup.check_registry() == noted == RegistryIdentity(first.registry_id, frozenset({"a", "b"}), "token 1")
    with pytest.raises(RebuildBrokenError):
        backup.registry.note_rebuild(first, "token 2", {"c"})
    again = backup.registry.note_rebuild(noted, "token 3", {"c"})
    with pytest.raises(RebuildBrokenError):
        backup.registry.note_rebuild(noted, "token 4", {"d"})
    assert backup.check_registry() == again


def test_a_recovery_ends_the_note(backup: BackupTable) -> None:
    """The registry has a new id, and a rebuild of the old one cannot note its primaries any more."""
    noted = backup.registry.note_rebuild(backup.check_registry(), "token", {"a"})
    registry_id = backup.registry.claim(backup.registry.table_identity(), replaces="")
    assert backup.check_registry() == RegistryIdentity(registry_id)
    assert registry_id != noted.registry_id
    with pytest.raises(RebuildBrokenError):
        backup.registry.note_rebuild(noted, "token 2", {"a"})


def test_a_replica_of_a_global_table_is_admitted(moto_backup: BackupTable, aws_settings: Settings) -> None:
    """Only if DynamoDB says that it is one: a copy in another Region is a copy."""
    change(moto_backup, claimed_tables={"M": {"eu-west-1": {"S": "theirs"}}})
    moto_backup.registry.admit_replica()
    with pytest.raises(BackupLostError):
        moto_backup.registry.read(recheck=True)
    require = moto_backup.require

    def replicated(*members: str) -> dict[str, Any]:
        return require(*members) | {"Replicas": [{"RegionName": "eu-west-1"}]}

    moto_backup.require = replicated  # type: ignore[method-assign]
    moto_backup.registry.admit_replica()
    moto_backup.registry.read(recheck=True)
