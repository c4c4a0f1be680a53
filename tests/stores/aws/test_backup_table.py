"""The backup table: conditional updates, reads, scans, the layout and the table itself."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from saltctl.commands import commands_in
from saltctl.errors import ConfigurationError, DamagedEntryError, ThrottledError
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.contracts.entries import CooledEntry
from saltctl.stores.contracts.registry import BackupEntry, BackupPage, Raise, RaiseOutcome
from saltctl.stores.parallel_scan import IDLE_SECONDS
from tests.stores.aws.backup_helpers import THROTTLED, make_item, make_raise, put_items
from tests.support.aws_stub import AwsStub, refusal

# Conditional updates.


@pytest.mark.slow
def test_the_first_raise_creates_the_item(backup: BackupTable) -> None:
    """write_n comes with the commit: until then writers that read the backup do not spread."""
    assert backup.get("conv") is None
    assert backup.raise_max_n("conv", make_raise(4, "launch")) == RaiseOutcome(1, True, 4)
    assert backup.get("conv") == BackupEntry("conv", 4, 1, (make_raise(4, "launch"),))


@pytest.mark.slow
def test_a_larger_raise_is_appended_to_the_history(backup: BackupTable) -> None:
    """``raises`` is the history of the conversation, strictly increasing."""
    backup.raise_max_n("conv", make_raise(2))
    assert backup.raise_max_n("conv", make_raise(8, "more")) == RaiseOutcome(2, True, 8)
    assert backup.get("conv") == BackupEntry("conv", 8, 1, (make_raise(2), make_raise(8, "more")))


@pytest.mark.parametrize("n", [1, 2, 4, 8])
def test_a_failed_condition_changes_nothing_and_returns_the_current_max_n(backup: BackupTable, n: int) -> None:
    """The same or a smaller N: neither max_n nor the history changes."""
    backup.raise_max_n("conv", make_raise(8))
    before = backup.get("conv")
    assert backup.raise_max_n("conv", make_raise(n)) == RaiseOutcome(8, False, 8)
    assert backup.get("conv") == before


@pytest.mark.parametrize("commit", [True, False])
def test_a_restored_entry_only_rises(backup: BackupTable, commit: bool) -> None:
    """It says whether it rose, and is committed if that is wanted."""
    outcomes = [backup.restore("conv", n, make_raise(n), commit=commit) for n in (4, 4, 2, 8)]
    assert outcomes == [True, False, False, True]
    entry = backup.get("conv")
    assert entry is not None
    assert (entry.max_n, entry.write_n) == (8, 8 if commit else 1)
    assert [past.n for past in entry.raises] == [4, 8]


def test_write_n_never_exceeds_max_n(backup: BackupTable) -> None:
    """A commit raises write_n up to max_n, never lowers it, and creates no item."""
    assert backup.commit_write_n("conv", 2) is False
    assert backup.get("conv") is None
    backup.raise_max_n("conv", make_raise(8))
    assert backup.commit_write_n("conv", 16) is False
    assert backup.commit_write_n("conv", 4) is True
    assert backup.commit_write_n("conv", 4) is False
    assert backup.commit_write_n("conv", 2) is False
    assert backup.commit_write_n("conv", 8) is True
    held = backup.get("conv")
    assert held is not None
    assert (held.max_n, held.write_n) == (8, 8)


@pytest.mark.slow
@given(st.lists(st.tuples(st.booleans(), st.sampled_from([1, 2, 4, 8, 16])), max_size=8))
@hypothesis_settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_order_of_raises_and_commits_keeps_the_invariants(
    backup: BackupTable, steps: list[tuple[bool, int]]
) -> None:
    """max_n is the largest raise, write_n is never above it, the history is strictly increasing."""
    conversation_id = uuid.uuid4().hex
    largest, committed = 0, 1
    for is_raise, n in steps:
        if is_raise:
            outcome = backup.raise_max_n(conversation_id, make_raise(n))
            assert outcome == RaiseOutcome(max(largest, 1), n > largest, max(largest, n))
            largest = max(largest, n)
        else:
            backup.commit_write_n(conversation_id, n)
            committed = max(committed, n) if n <= largest else committed
    held = backup.get(conversation_id)
    assert (held is None) == (largest == 0)
    if held is not None:
        history = [made.n for made in held.raises]
        assert (held.max_n, held.write_n) == (largest, committed)
        assert history == sorted(set(history))
        assert history[-1] == largest


@pytest.mark.slow
@pytest.mark.usefixtures("atomic")
def test_concurrent_raises_are_recorded_once(backup: BackupTable) -> None:
    """Eight service instances raise to 2, 4, 8, 16: each N is recorded at most once, and the largest stays."""
    _ = backup.client
    barrier = threading.Barrier(8)

    def raise_all(_: int) -> list[int]:
        barrier.wait()
        return [n for n in (2, 4, 8, 16) if backup.raise_max_n("conv", make_raise(n)).changed]

    with ThreadPoolExecutor(8) as pool:
        changed = sorted(n for changes in pool.map(raise_all, range(8)) for n in changes)
    held = backup.get("conv")
    assert held is not None
    assert changed == sorted(set(changed)) == [made.n for made in held.raises]
    assert held.max_n == 16


# Reads.


@pytest.mark.slow
def test_many_ids_are_read_in_batches(backup: BackupTable) -> None:
    """One request takes 100 ids. An id without an item is omitted, and a repeated id is read once."""
    put_items(backup, *(make_item(f"conv_{number}", number + 1, 1) for number in range(0, 250, 2)))
    ids = [f"conv_{number}" for number in range(250)]
    found = backup.get_many([*ids, *ids[:10]])
    assert {i: held.max_n for i, held in found.items()} == {f"conv_{n}": n + 1 for n in range(0, 250, 2)}
    assert backup.get_many([]) == {}


@pytest.mark.slow
def test_unprocessed_keys_are_requested_again(stubbed_backup: BackupTable, aws_stub: AwsStub) -> None:
    """A throttled table may answer a part of a batch: the rest must not be taken for missing items."""
    put_items(stubbed_backup, *(make_item(f"conv_{number}", 2, 2) for number in range(5)))
    table = stubbed_backup.name

    def first_key_only(operation: str, request: dict[str, Any]) -> Any:
        keys = request.get("RequestItems", {}).get(table, {}).get("Keys", [])
        if operation != "BatchGetItem" or len(keys) < 2:
            return None
        left = {table: {"Keys": keys[1:], "ConsistentRead": True}}
        return 200, {"Responses": {table: [items[keys[0]["conversation_id"]["S"]]]}, "UnprocessedKeys": left}

    items = {item["conversation_id"]["S"]: item for item in stubbed_backup.client.scan(TableName=table)["Items"]}
    aws_stub.rule = first_key_only
    assert len(stubbed_backup.get_many([f"conv_{number}" for number in range(5)])) == 5
    assert aws_stub.seen.count("BatchGetItem") == 6  # the identity of the registry is a key, too


@pytest.mark.slow
def test_keys_that_stay_unprocessed_raise_throttled_error(
    aws_settings: Settings, moto_backup: BackupTable, aws_stub: AwsStub
) -> None:
    """Some keys are never served: an error after growing pauses, and no partial result."""
    pauses: list[float] = []
    stubbed_backup = BackupTable(aws_stub.settings(aws_settings), sleep=pauses.append)
    table = stubbed_backup.name
    aws_stub.rule = lambda operation, request: (
        (200, {"Responses": {}, "UnprocessedKeys": {table: request["RequestItems"][table]}})
        if operation == "BatchGetItem"
        else None
    )
    with pytest.raises(ThrottledError, match="unprocessed"):
        stubbed_backup.get_many(["a", "b"])
    assert len(pauses) == 8
    assert sum(pauses) < 0.05 * 2**8


@pytest.mark.slow
def test_a_lookup_of_unprocessed_keys_ends_within_its_time(aws_settings: Settings, aws_stub: AwsStub) -> None:
    """The requests for the keys that are left, and the pauses, have one budget together."""
    settings = replace(aws_stub.settings(aws_settings), aws_timeout=1.5)
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        time.sleep(0.6)

    stubbed_backup = BackupTable(settings, sleep=sleep)
    aws_stub.rule = lambda operation, request: (
        (200, {"Responses": {}, "UnprocessedKeys": request["RequestItems"]}) if operation == "BatchGetItem" else None
    )
    with pytest.raises(ThrottledError, match="unprocessed"):
        stubbed_backup.get("a")
    assert len(pauses) < 5


DAMAGED = {
    "no max_n": ({}, "it has no max_n"),
    "text": ({"max_n": {"S": "4"}}, "its max_n is not a number"),
    "null": ({"max_n": {"NULL": True}}, "its max_n is not a number"),
    "zero": ({"max_n": {"N": "0"}}, "its max_n is 0, not a positive whole number"),
    "negative": ({"max_n": {"N": "-4"}}, "its max_n is -4, not a positive whole number"),
    "fraction": ({"max_n": {"N": "2.5"}}, "its max_n is 2.5, not a positive whole number"),
    "write_n": ({"max_n": {"N": "4"}, "write_n": {"N": "0"}}, "its write_n is 0, not a positive whole number"),
    "write_n text": ({"max_n": {"N": "4"}, "write_n": {"S": "4"}}, "its write_n is not a number"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("attributes", "problem"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_item_raises_an_error(backup: BackupTable, attributes: dict[str, Any], problem: str) -> None:
    """A read names the item and its damage, and a scan reports it with the sound entries."""
    put_items(backup, {"conversation_id": {"S": "bad"}, **attributes}, make_item("good", 4, 4))
    with pytest.raises(DamagedEntryError, match="'bad'") as refused:
        backup.get("bad")
    assert problem in refused.value.message
    assert refused.value.exit_code == 78
    with pytest.raises(DamagedEntryError, match=problem):
        backup.get_many(["good", "bad"])
    pages = list(backup.scan(1))
    assert [(found.conversation_id, found.problem) for page in pages for found in page.damaged] == [("bad", problem)]
    assert [found for page in pages for found in page.entries] == [("good", 4, 4)]


@pytest.mark.parametrize("attributes", [{}, {"max_n": {"N": "0"}}], ids=["missing", "zero"])
def test_a_raise_does_not_hide_damage(backup: BackupTable, attributes: dict[str, Any]) -> None:
    """An item once had a max_n: a raise to less would hide the messages on its upper salts."""
    put_items(backup, {"conversation_id": {"S": "bad"}, **attributes})
    with pytest.raises(DamagedEntryError, match="'bad'") as refused:
        backup.raise_max_n("bad", make_raise(4))
    assert refused.value.hint.endswith("saltctl history audit bad --repair --yes")
    assert not backup.restore("bad", 4, make_raise(4), commit=True)


@pytest.mark.slow
def test_a_raise_of_a_damaged_item_is_refused(stubbed_backup: BackupTable, aws_stub: AwsStub) -> None:
    """DynamoDB orders no string against a number (moto fails there): a person must repair the item."""
    put_items(stubbed_backup, {"conversation_id": {"S": "text"}, "max_n": {"S": "4"}})
    aws_stub.answer_always("UpdateItem", refusal("ConditionalCheckFailedException"))
    with pytest.raises(DamagedEntryError, match="not a number"):
        stubbed_backup.raise_max_n("text", make_raise(4))


@pytest.mark.slow
def test_an_item_deleted_during_a_raise_raises_an_error(stubbed_backup: BackupTable, aws_stub: AwsStub) -> None:
    """Another client deletes from the table: the raise is not acknowledged."""
    aws_stub.answer_always("UpdateItem", refusal("ConditionalCheckFailedException"))
    with pytest.raises(DamagedEntryError, match="vanished"):
        stubbed_backup.raise_max_n("conv", make_raise(4))


def test_foreign_attributes_are_ignored(backup: BackupTable) -> None:
    """A TTL, a comment, or an unknown element of ``raises`` does not prevent reading a sound max_n."""
    raises = {"L": [{"S": "?"}, {"M": {"n": {"S": "4"}}}, {"M": {"n": {"N": "2.5"}}}, {"M": {"n": {"N": "4"}}}]}
    put_items(backup, make_item("conv", 4, 4) | {"raises": raises, "ttl": {"N": "1"}, "comment": {"S": "mine"}})
    assert backup.get("conv") == BackupEntry("conv", 4, 4, (Raise(4, "", "", ""),))


# Scans.


@pytest.mark.slow
@pytest.mark.parametrize("segments", [1, 2, 7])
@pytest.mark.parametrize("limit", [None, 1, 10])
def test_a_scan_yields_every_entry_once(backup: BackupTable, segments: int, limit: int | None) -> None:
    """For any number of segments and any page size; saltctl's own items are not entries."""
    backup.lease.acquire("owner", 1000.0, host="here", pid=1, expiry=30.0)
    backup.checkpoint.save("of a rebuild")
    wanted = {f"conv_{number}": (number + 1, max(number, 1)) for number in range(45)}
    put_items(
        backup,
        *(make_item(i, max_n, write_n) for i, (max_n, write_n) in wanted.items()),
        {"conversation_id": {"S": "#x"}},
    )
    pages = list(backup.scan(segments, limit=limit))
    found = [item for page in pages for item in page.entries]
    assert len(found) == len(wanted)
    assert {i: (max_n, write_n) for i, max_n, write_n in found} == wanted
    assert not any(page.damaged for page in pages)
    assert {page.segment for page in pages} - {-1} == set(range(segments))
    if limit is not None:
        assert max(len(page.entries) for page in pages) <= limit


def test_a_scan_reports_consumed_capacity(backup: BackupTable) -> None:
    """Read capacity units as DynamoDB reports them."""
    put_items(backup, *(make_item(f"conv_{number}", 2, 2) for number in range(10)))
    assert sum(page.consumed_rcu for page in backup.scan(2)) > 0


@pytest.mark.slow
def test_an_empty_page_is_not_the_end(stubbed_backup: BackupTable, aws_stub: AwsStub) -> None:
    """A page with a LastEvaluatedKey and without items is followed by the next page."""
    put_items(stubbed_backup, *(make_item(f"conv_{number}", 2, 2) for number in range(4)))

    def nothing_yet(operation: str, request: dict[str, Any]) -> Any:
        if operation != "Scan" or "ExclusiveStartKey" in request or aws_stub.seen.count("Scan") > 3:
            return None
        page = {"Items": [], "Count": 0, "LastEvaluatedKey": {"conversation_id": {"S": "somewhere"}}}
        return 200, page | {"ConsumedCapacity": {"TableName": request["TableName"], "CapacityUnits": 1.0}}

    aws_stub.rule = nothing_yet
    pages = list(stubbed_backup.scan(1))
    assert aws_stub.seen.count("Scan") == 2
    assert pages[0].entries == []


@pytest.mark.slow
def test_closing_a_scan_stops_its_segments(backup: BackupTable) -> None:
    """No thread continues to read the table, and to cost capacity, after its caller stopped."""
    put_items(backup, *(make_item(f"conv_{number}", 2, 2) for number in range(50)))
    scan = backup.scan(3, limit=1)
    next(scan)
    assert isinstance(scan, Iterator)
    scan.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("scan-")]


@pytest.mark.slow
def test_a_slow_scan_yields_empty_pages(stubbed_backup: BackupTable, aws_stub: AwsStub) -> None:
    """While no page arrives the scan yields empty ones, so that a rebuild can renew its lease."""
    put_items(stubbed_backup, make_item("conv", 2, 2))
    go_on = threading.Event()

    def wait(operation: str, request: dict[str, Any]) -> None:
        if operation == "Scan":
            assert go_on.wait(10 * IDLE_SECONDS)

    aws_stub.rule = wait
    scan = stubbed_backup.scan(1)
    assert next(scan) == BackupPage([], [], 0.0, -1)
    go_on.set()
    assert [item for page in scan for item in page.entries] == [("conv", 2, 2)]


@pytest.mark.slow
def test_a_throttled_scan_completes(stubbed_backup: BackupTable, aws_stub: AwsStub) -> None:
    """Throttling delays a scan and does not end it; no entry is missing."""
    put_items(stubbed_backup, *(make_item(f"conv_{number}", 2, 2) for number in range(20)))
    aws_stub.answer_first(4, "Scan", THROTTLED)
    assert sum(len(page.entries) for page in stubbed_backup.scan(2, limit=5)) == 20
    assert aws_stub.seen.count("Scan") >= 4 + 4


# The table.


def test_a_missing_table_is_a_configuration_error(aws_settings: Settings) -> None:
    """Every operation names the table and the command that creates it; none takes it for an empty table."""
    backup = BackupTable(aws_settings)
    for call in (
        lambda: backup.get("conv"),
        lambda: backup.get_many(["a", "b"]),
        lambda: backup.raise_max_n("conv", make_raise(2)),
        lambda: backup.commit_write_n("conv", 2),
        backup.check_registry,
        lambda: list(backup.scan(2)),
        lambda: backup.lease.acquire("me", 1000.0, host="host", pid=2, expiry=30.0),
        backup.lease.holder,
        backup.checkpoint.load,
        lambda: backup.checkpoint.save("of a rebuild"),
        backup.checkpoint.delete,
        backup.check_table,
    ):
        named = f"no DynamoDB table '{aws_settings.backup_table}' in Region 'us-east-1'"
        with pytest.raises(ConfigurationError, match=named) as refused:
            call()
        assert refused.value.exit_code == 78
        assert "AWS_REGION (us-east-1)" in refused.value.hint
        assert commands_in(refused.value.hint) == ["saltctl recover --dry-run", "saltctl setup"]
    assert backup.describe() is None


def test_a_table_with_other_keys_is_refused(aws_settings: Settings) -> None:
    """The names of the two tables were swapped: the message shows the keys, the hint asks about it."""
    backup = BackupTable(aws_settings)
    backup.client.create_table(
        TableName=aws_settings.backup_table,
        AttributeDefinitions=[
            {"AttributeName": "conversation_id", "AttributeType": "S"},
            {"AttributeName": "timestamp#message_id", "AttributeType": "S"},
        ],
        KeySchema=[
            {"AttributeName": "conversation_id", "KeyType": "HASH"},
            {"AttributeName": "timestamp#message_id", "KeyType": "RANGE"},
        ],
        BillingMode="PAY_PER_REQUEST",
    )
    with pytest.raises(ConfigurationError, match=r"timestamp#message_id \(S, RANGE\)") as refused:
        backup.check_table()
    assert "SALTCTL_BACKUP_TABLE" in refused.value.hint
    with pytest.raises(ConfigurationError):
        backup.get("conv")
    with pytest.raises(ConfigurationError):
        backup.raise_max_n("conv", make_raise(2))


@pytest.mark.slow
def test_a_key_of_another_type_is_refused(aws_settings: Settings) -> None:
    """A number or binary as partition key."""
    backup = BackupTable(aws_settings)
    backup.client.create_table(
        TableName=aws_settings.backup_table,
        AttributeDefinitions=[{"AttributeName": "conversation_id", "AttributeType": "N"}],
        KeySchema=[{"AttributeName": "conversation_id", "KeyType": "HASH"}],
        BillingMode="PAY_PER_REQUEST",
    )
    with pytest.raises(ConfigurationError, match=r"conversation_id \(N, HASH\)"):
        backup.check_table()


@pytest.mark.slow
def test_the_created_table_passes_the_check(moto_backup: BackupTable, aws_settings: Settings) -> None:
    """On demand, protected against deletion, restorable to a point in time."""
    moto_backup.check_table()
    table = moto_backup.describe()
    assert table is not None
    assert table["DeletionProtectionEnabled"] is True
    assert table["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
    recovery = moto_backup.client.describe_continuous_backups(TableName=aws_settings.backup_table)
    assert (
        recovery["ContinuousBackupsDescription"]["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"]
        == "ENABLED"
    )


# Cooled entries.


@pytest.mark.slow
def test_an_item_is_replaced_unless_it_has_changed(backup: BackupTable) -> None:
    """Both phases of a cool-down, a raise after it, and what a recovery adds; nothing of an item is lost."""
    backup.raise_max_n("conv", make_raise(8))
    assert backup.commit_write_n("conv", 8)
    plain = backup.get("conv")
    assert plain is not None
    narrowed = plain.narrowed(replace(make_raise(1), cooled=True))
    assert backup.replace(plain, narrowed)
    assert not backup.replace(plain, narrowed)
    assert backup.get("conv") == narrowed
    assert narrowed.cooling is not None
    began = replace(narrowed, cooling=replace(narrowed.cooling, narrowed_at="2026-11-27T08:00:00.000Z"))
    assert backup.replace(narrowed, began)
    assert not backup.replace(narrowed, narrowed.sealed("m"))
    for boundary in ("m", Decimal("1790000000000.5")):
        sealed = began.sealed(boundary)
        assert backup.replace(began, sealed)
        assert backup.get("conv") == sealed
        assert backup.replace(sealed, began)
    sealed = began.sealed("m")
    assert backup.replace(began, sealed)
    assert backup.raise_max_n("conv", make_raise(4)) == RaiseOutcome(1, True, CooledEntry(8, 4, 1, 1, 4, "m"))
    assert backup.raise_max_n("conv", make_raise(2)) == RaiseOutcome(4, False, CooledEntry(8, 4, 1, 1, 4, "m"))
    assert not backup.commit_write_n("conv", CooledEntry(8, 4, 2))
    assert backup.commit_write_n("conv", CooledEntry(8, 4, 1, 1, 4, "m"))
    found = backup.get("conv")
    assert found is not None
    assert [(past.n, past.cooled) for past in found.raises] == [(8, False), (1, True), (4, False)]
    assert backup.restore("conv", CooledEntry(16, 2, 2, 2, 2, "n"), make_raise(1), commit=True)
    restored = backup.get("conv")
    assert restored is not None
    assert (restored.entry, restored.write_n) == (CooledEntry(16, 2, 2, 2, 2, "n"), 2)
    assert backup.restore("new", CooledEntry(16, 2, 2, 2, 2, "n"), make_raise(1), commit=False)
    assert backup.restore("conv", 32, make_raise(1), commit=True)
    assert (backup.get("conv") or restored).max_n == 32
    assert not backup.replace(None, narrowed)
    (page,) = [page for page in backup.scan(1) if page.entries]
    assert {i: e for i, e, _ in page.entries} == {
        "conv": CooledEntry(32, 2, 2, 2, 2, "n"),
        "new": CooledEntry(16, 2, 2, 2, 2, "n"),
    }
